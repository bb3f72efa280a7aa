"""Polish speech from espeak-ng: the speech of Mini-PolSESS.

The voices of the pip package ``espeakng-loader`` speak Polish sentences, a
process per voice (see :mod:`custom_modules.corpus.speak`), and the recordings
are kept in the corpus, so that one can listen to where a segment comes from.
Base voices and sentences are divided over train, validation and test; voices
that sound alike are on the same side.
"""

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from custom_modules import audio
from custom_modules.corpus.sources import Recording, SpeechSource, packaged_rows
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


class EspeakSpeech(SpeechSource):
    """Spoken Polish sentences.

    Arguments
    ---------
    seconds_per_voice : float
        How much each voice speaks at least, in s.
    voices : list of dict
        With the keys ``speaker, subset, gender, variant, pitch`` (0 to 99) and
        ``rate`` (words per minute). None: the table ``data/voices.csv``.
    level : float
        RMS of a recording in dB relative to full scale.
    """

    def __init__(self, seconds_per_voice=60.0, voices=None, level=-26.0):
        self.seconds_per_voice = seconds_per_voice
        self.voices = voices or packaged_rows("voices.csv")
        self.level = level

    def check(self, setup):
        """See :meth:`custom_modules.corpus.sources.Source.check`."""
        with _espeak() as (_, data):
            _check_variants(self.voices, data)

    def prepare(self, setup):
        """See :meth:`custom_modules.corpus.sources.Source.prepare`."""
        voices = [v for v in self.voices if v["subset"] in setup.subsets]
        with _espeak() as (library, data):

            def speak(voice):
                return self._speak(voice, setup, library, data)

            with ThreadPoolExecutor(max(1, setup.workers)) as pool:
                spoken = pool.map(speak, voices)
                bar = setup.progress(spoken, desc="voices", total=len(voices))
                by_voice = list(bar)
        self.folder = str(setup.output_folder)
        result = {subset: [] for subset in setup.subsets}
        for voice, recordings in zip(voices, by_voice, strict=True):
            result[voice["subset"]] += recordings
        return result

    def read(self, recording, start, length, rate):
        """See :meth:`custom_modules.corpus.sources.Source.read`."""
        return audio.read_span(Path(self.folder, recording.path), start, length, rate)

    def _speak(self, voice, setup, library, data):
        """The recordings of one voice; those of an earlier run are kept."""
        texts = self._texts(voice, setup.seed)
        folder = FOLDER / voice["speaker"]
        paths = [folder / f"{number:03d}.wav" for number in range(len(texts))]
        whole = [setup.output_folder / path for path in paths]
        if not all(path.is_file() for path in whole):
            job = _job(voice, texts, setup.seed, library, data)
            for path, (samples, rate) in zip(whole, _run(job), strict=True):
                samples = audio.resample(samples, rate, setup.rate)
                audio.write_pcm16(path, self._levelled(samples), setup.rate)
        return [
            Recording(
                path.as_posix(),
                voice["speaker"],
                round(audio.read_header(setup.output_folder / path)[0] * setup.rate),
                voice["gender"],
            )
            for path in paths
        ]

    def _texts(self, voice, seed):
        """Texts of a few sentences each, in an order of the voice's own."""
        rows = packaged_rows("sentences.csv")
        own = [row["sentence"] for row in rows if row["subset"] == voice["subset"]]
        own = shuffled(own, "sentences", seed, voice["speaker"])
        step = SENTENCES_PER_RECORDING
        texts = [
            " ".join(own[i : i + step]) for i in range(0, len(own) - step + 1, step)
        ]
        letters_per_second = 0.09 * float(voice["rate"])
        needed = self.seconds_per_voice * letters_per_second
        sums = np.cumsum([len(text) for text in texts])
        return texts[: int(np.searchsorted(sums, needed)) + 1]

    def _levelled(self, samples):
        gain = audio.from_db(self.level) / max(audio.rms(samples), 1e-9)
        return audio.quantise(audio.limit(samples * gain))


@contextmanager
def _espeak():
    """Where espeak-ng's library and its data are, under a path short enough."""
    try:
        import espeakng_loader
    except ImportError as error:
        raise InputError(
            "espeakng-loader, which speaks Mini-PolSESS, is not installed; "
            'pip install "polsess-recipes[demo]" or espeakng-loader==0.2.4'
        ) from error
    data = espeakng_loader.get_data_path()
    with tempfile.TemporaryDirectory(prefix="espeak") as folder:
        if len(data) > LONGEST_PATH:
            short = os.path.join(folder, "data")
            os.symlink(data, short)
            data = short
        yield espeakng_loader.get_library_path(), data


def _check_variants(voices, data):
    """An unknown variant would silently be spoken by the plain voice."""
    known = set(os.listdir(os.path.join(data, "voices", "!v")))
    for voice in voices:
        if voice["variant"] not in known:
            raise InputError(
                f"voice {voice['speaker']}: espeak-ng has no variant "
                f"{voice['variant']!r}; it has {', '.join(sorted(known))}"
            )


def _job(voice, texts, seed, library, data):
    parameters = {RATE: voice["rate"], VOLUME: QUIET_VOLUME, PITCH: voice["pitch"]}
    return {
        "library": library,
        "data": data,
        "voice": f"pl+{voice['variant']}",
        "seed": int(generator(seed, voice["speaker"]).integers(2**31)),
        "parameters": parameters,
        "texts": texts,
    }


def _run(job):
    """Samples in full scale ±1 and rate of each text, from a process of its own."""
    command = [sys.executable, str(SCRIPT)]
    done = subprocess.run(command, input=json.dumps(job).encode(), capture_output=True)
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().rsplit("\n", 1)[-1]
        raise InputError(
            f"espeak-ng's voice {job['voice']} failed with status {done.returncode} "
            f"({reason}); reinstall espeakng-loader==0.2.4"
        )
    rate = int.from_bytes(done.stdout[:4], "little")
    position, pieces = 4, []
    while position < len(done.stdout):
        count = int.from_bytes(done.stdout[position : position + 4], "little")
        samples = np.frombuffer(done.stdout, "<i2", count, position + 4)
        pieces.append((samples / audio.FULL_SCALE, rate))
        position += 4 + 2 * count
    return pieces
