"""What Mini-PolSESS's voices say in conversations: single sentences, and back-channels."""

from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from custom_modules import layout
from custom_modules.corpus import sources
from custom_modules.corpus.espeak import EspeakSpeech, Voice
from custom_modules.corpus.sources import Listing, Setup
from custom_modules.mmipc import shuffled

#: Each below a second when spoken.
BACK_CHANNELS = ("aha", "tak", "no tak", "jasne", "dobrze", "rozumiem", "naprawdę", "no właśnie")


@dataclass
class EspeakTalk(EspeakSpeech):
    """A sentence a recording, with its text."""

    def prepare(self, setup: Setup) -> Listing:
        texts = {v["speaker"]: self._texts(v, setup.seed) for v in self.voices}
        return {
            subset: [
                replace(r, text=texts[r.group][int(PurePosixPath(r.path).stem)]) for r in listed
            ]
            for subset, listed in super().prepare(setup).items()
        }

    def _texts(self, voice: Voice, seed: int) -> list[str]:
        rows = layout.read_rows(sources.DATA / "sentences.csv")
        own = [row["sentence"] for row in rows if row["subset"] == voice["subset"]]
        own = shuffled(own, "sentences", seed, voice["speaker"])
        letters = 0.09 * float(voice["rate"]) * self.seconds_per_voice
        while len(own) > 1 and sum(map(len, own[:-1])) >= letters:
            own.pop()
        return [*own, *BACK_CHANNELS]
