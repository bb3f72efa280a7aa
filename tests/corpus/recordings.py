"""Small recordings for the tests: talkers, scenes and events from noise."""

import numpy as np
import soundfile

SPEAKERS = ("ada", "bea", "cyd", "dan", "ewa", "fil")
GENDERS = dict(zip(SPEAKERS, ["female", "male"] * 3, strict=True))


def talker(seed, seconds, rate, level=0.05):
    """Noise with pauses, as loud as speech usually is, ``[time]``."""
    rng = np.random.default_rng(seed)
    syllables = np.repeat(rng.random(int(seconds * 5) + 1) > 0.2, -(-rate // 5))
    length = round(seconds * rate)
    return level * rng.standard_normal(length) * syllables[:length]


def write(path, samples, rate=8000, **options):
    """Writes a recording and makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **options)
    return path


def speech_folder(root, speakers=SPEAKERS, recordings=3, seconds=2.5, rate=8000):
    """A folder of talkers, one subfolder each, and its table."""
    lines = ["file,speaker,gender"]
    for number, speaker in enumerate(speakers):
        for take in range(recordings):
            name = f"{speaker}/{take}.wav"
            write(root / name, talker(10 * number + take, seconds, rate), rate)
            lines.append(f"{name},{speaker},{GENDERS.get(speaker, '')}")
    (root / "table.csv").write_text("\n".join(lines), encoding="utf-8")
    return root


def class_folder(root, classes, recordings=4, seconds=2.0, rate=8000, level=0.05):
    """A folder of noises, one subfolder for each class."""
    for number, name in enumerate(classes):
        for take in range(recordings):
            rng = np.random.default_rng(100 * number + take)
            samples = level * rng.standard_normal(round(seconds * rate))
            write(root / name / f"{take}.wav", samples, rate)
    return root
