"""What Mini-PolSESS's voices say in conversations: single sentences, and back-channels."""

from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from custom_modules import layout
from custom_modules.corpus import matrix, sources
from custom_modules.corpus.espeak import EspeakSpeech, Voice
from custom_modules.corpus.sources import Listing, Setup
from custom_modules.mmipc import shuffled

#: Each below a second when spoken.
BACK_CHANNELS = ("aha", "tak", "no tak", "jasne", "dobrze", "rozumiem", "naprawdę", "no właśnie")


@dataclass
class EspeakTalk(EspeakSpeech):
    """A sentence a recording, with its text; some words alone, which are back-channels.

    Those of matrix sentences are their nouns, echoed, as a recogniser of their words knows them.
    """

    def prepare(self, setup: Setup) -> Listing:
        texts = {voice["speaker"]: self._texts(voice, setup.seed) for voice in self.voices}
        return {
            subset: [
                replace(r, text=texts[r.group][int(PurePosixPath(r.path).stem)]) for r in listed
            ]
            for subset, listed in super().prepare(setup).items()
        }

    def _texts(self, voice: Voice, seed: int) -> list[str]:
        words = matrix.slots()[matrix.SLOTS.index("noun")] if self.whole else BACK_CHANNELS
        return [*super()._texts(voice, seed), *words]

    def _stories(self, voice: Voice, seed: int) -> list[str]:
        rows = layout.read_rows(sources.DATA / "sentences.csv")
        own = [row["sentence"] for row in rows if row["subset"] == voice["subset"]]
        return shuffled(own, "sentences", seed, voice["speaker"])
