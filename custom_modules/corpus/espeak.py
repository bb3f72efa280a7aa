"""Polish speech from espeak-ng: the speech of Mini-PolSESS.

The voices of the package ``espeakng-loader`` speak Polish sentences, and the
recordings are kept in the corpus, so that one can listen to where a segment comes
from. Base voices and sentences are divided over train, validation and test; voices
that sound alike are on the same side.
"""

import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from tqdm.contrib.concurrent import thread_map

from custom_modules import audio, layout
from custom_modules.corpus import matrix, sources
from custom_modules.corpus.sources import Listing, Recording, Samples, Setup
from custom_modules.errors import InputError
from custom_modules.mmipc import generator, shuffled

FOLDER = Path("sources", "speech")
SCRIPT = Path(__file__).with_name("speak.py")
# espeak-ng's own numbers for the parameters of a voice.
RATE, VOLUME, PITCH = 1, 2, 3
#: At 100, four voices in ten reach full scale.
QUIET_VOLUME = 60
#: espeak-ng fails to start when the path of its data is longer than about 160.
LONGEST_PATH = 120
SENTENCES_PER_RECORDING = 3
#: A sentence that is too long is said once more, so much faster that it takes this share.
FASTER_SHARE = 0.95
FASTEST = 300  # words per minute, about twice the usual

#: Keys ``speaker, subset, gender, variant, pitch`` (0 to 99), ``rate`` (words/minute).
Voice = dict[str, str]


@dataclass
class EspeakSpeech(sources.Source):
    """Spoken Polish sentences: of texts, to be cut, or whole ones of a matrix.

    A matrix sentence that takes longer than a mixture is said faster.
    """

    seconds_per_voice: float = 60.0  # at least
    voices: list[Voice] = field(default_factory=list)  # empty: those of `data/voices.csv`
    level: float = -26.0  # RMS of a recording in dB relative to full scale
    sentences: str = "text"  # or matrix
    test_voices: int = 8  # of the table: the first so many
    folder: Path = field(default=Path(), init=False)  # the corpus's, once it is known

    def __post_init__(self) -> None:
        if self.sentences not in ("text", "matrix"):
            raise InputError(f"sentences is {self.sentences!r}; set it to text or to matrix")
        self.whole = self.sentences == "matrix"
        self.voices = self.voices or _voices_of_table(self.test_voices)

    def check(self, setup: Setup) -> None:
        """An unknown variant would silently be spoken by the plain voice."""
        with _espeak() as (_, data):
            known = set(os.listdir(os.path.join(data, "voices", "!v")))
        for voice in self.voices:
            if voice["variant"] not in known:
                raise InputError(
                    f"voice {voice['speaker']}: espeak-ng has no variant "
                    f"{voice['variant']!r}; it has {', '.join(sorted(known))}"
                )

    def prepare(self, setup: Setup) -> Listing:
        self.folder = setup.output_folder
        voices = [v for v in self.voices if v["subset"] in setup.subsets]
        result: Listing = {subset: [] for subset in setup.subsets}
        bar = {"desc": "voices", "dynamic_ncols": True, "leave": False}
        with _espeak() as espeak:
            speak = partial(self._speak, setup, *espeak)
            spoken = thread_map(speak, voices, max_workers=setup.workers, **bar)
        for voice, recordings in zip(voices, spoken, strict=True):
            result[voice["subset"]] += recordings
        return result

    def read(self, recording: Recording, start: int, length: int, rate: int) -> Samples:
        return audio.read_span(Path(self.folder, recording.path), start, length, rate)

    def _speak(self, setup: Setup, library: str, data: str, voice: Voice) -> list[Recording]:
        """The recordings of one voice; those of an earlier run are kept."""
        texts, speaker = self._texts(voice, setup.seed), voice["speaker"]
        paths = [FOLDER / speaker / f"{i:03d}.wav" for i in range(len(texts))]
        files = [setup.output_folder / path for path in paths]
        if not all(file.is_file() for file in files):
            job = {
                "library": library,
                "data": data,
                "voice": f"pl+{voice['variant']}",
                "seed": int(generator(setup.seed, speaker).integers(2**31)),
                "parameters": {RATE: voice["rate"], VOLUME: QUIET_VOLUME, PITCH: voice["pitch"]},
                "texts": texts,
            }
            spoken = _say(job, setup.rate)
            if self.whole:
                _say_faster(spoken, job, setup)
            for file, samples in zip(files, spoken, strict=True):
                gain = audio.from_db(self.level) / max(audio.rms(samples), 1e-9)
                samples = audio.quantise(audio.limit(samples * gain))
                audio.write_pcm16(file, samples, setup.rate)
        lengths = [round(audio.read_header(file)[0] * setup.rate) for file in files]
        return [
            Recording(path.as_posix(), speaker, length, voice["gender"], text=text)
            for path, length, text in zip(
                paths, lengths, texts if self.whole else [""] * len(texts), strict=True
            )
        ]

    def _texts(self, voice: Voice, seed: int) -> list[str]:
        """What a voice says: texts of a few sentences each, or whole sentences."""
        texts = self._matrix(voice, seed) if self.whole else self._stories(voice, seed)
        letters_per_second = 0.09 * float(voice["rate"])
        needed = self.seconds_per_voice * letters_per_second
        sums = np.cumsum([len(text) for text in texts])
        return texts[: int(np.searchsorted(sums, needed)) + 1]

    def _matrix(self, voice: Voice, seed: int) -> list[str]:
        """Sentences that no other voice says."""
        subset = voice["subset"]
        alike = [other["speaker"] for other in self.voices if other["subset"] == subset]
        return matrix.sentences(subset, len(alike), alike.index(voice["speaker"]), seed)

    def _stories(self, voice: Voice, seed: int) -> list[str]:
        """Texts of a few sentences each, in an order of the voice's own."""
        rows = layout.read_rows(sources.DATA / "sentences.csv")
        own = [row["sentence"] for row in rows if row["subset"] == voice["subset"]]
        own = shuffled(own, "sentences", seed, voice["speaker"])
        step = SENTENCES_PER_RECORDING
        starts = range(0, len(own) - step + 1, step)
        return [" ".join(own[i : i + step]) for i in starts]


def _voices_of_table(test_voices: int) -> list[Voice]:
    """Those of training and validation, and so many to test with."""
    voices = layout.read_rows(sources.DATA / "voices.csv")
    test = [voice for voice in voices if voice["subset"] == "test"]
    if not 2 <= test_voices <= len(test):
        raise InputError(f"--test_voices={test_voices}: must be from 2 to {len(test)}")
    return [voice for voice in voices if voice not in test[test_voices:]]


@contextmanager
def _espeak() -> Iterator[tuple[str, str]]:
    """Where espeak-ng's library and its data are, under a path short enough."""
    try:
        import espeakng_loader
    except ImportError as error:
        raise InputError(
            "espeakng-loader, which speaks Mini-PolSESS, is not installed; "
            "pip install espeakng-loader==0.2.4"
        ) from error
    data = espeakng_loader.get_data_path()
    with tempfile.TemporaryDirectory(prefix="espeak") as folder:
        if len(data) > LONGEST_PATH:
            short = os.path.join(folder, "data")
            os.symlink(data, short)
            data = short
        yield espeakng_loader.get_library_path(), data


def _say(job: dict, rate: int) -> list[Samples]:
    """What a voice says, at a rate in Hz."""
    own_rate, spoken = _run(job)
    signals = (np.frombuffer(said, "<i2") / audio.FULL_SCALE for said in spoken)
    return [audio.resample(signal, own_rate, rate) for signal in signals]


def _say_faster(spoken: list[Samples], job: dict, setup: Setup) -> None:
    """Replaces what is longer than a mixture, all of it at the speed that the longest needs."""
    long = [place for place, samples in enumerate(spoken) if len(samples) > setup.length]
    if not long:
        return
    longest = max(len(spoken[place]) for place in long)
    words_per_minute = float(job["parameters"][RATE])
    faster = round(words_per_minute * longest / setup.length / FASTER_SHARE)
    parameters, texts = job["parameters"] | {RATE: faster}, [job["texts"][n] for n in long]
    again = _say(job | {"parameters": parameters, "texts": texts}, setup.rate)
    if faster > FASTEST or max(map(len, again)) > setup.length:
        raise InputError(
            f"--duration={setup.duration:g}: {job['voice']} needs {longest / setup.rate:.1f} s "
            "for a sentence, too many to say it faster; raise it"
        )
    for place, samples in zip(long, again, strict=True):
        spoken[place] = samples


def _run(job: dict) -> tuple[int, list[bytes]]:
    """Rate in Hz and 16-bit samples of each text, from a process of its own."""
    command = [sys.executable, str(SCRIPT)]
    done = subprocess.run(command, input=json.dumps(job).encode(), capture_output=True)
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().rsplit("\n", 1)[-1]
        raise InputError(
            f"espeak-ng's voice {job['voice']} failed with status {done.returncode} "
            f"({reason}); reinstall espeakng-loader==0.2.4"
        )
    return pickle.loads(done.stdout)
