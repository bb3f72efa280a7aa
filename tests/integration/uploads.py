"""Recordings for the page in a browser, good ones and bad ones."""

import struct

import numpy as np
import soundfile as sf

RATE = 8000


def noise(path, seconds=5.0, rate=RATE, channels=1, **options):
    signal = 0.1 * np.random.default_rng(0).normal(size=(round(seconds * rate), channels))
    sf.write(path, signal, rate, **options)
    return path


def header(rate=8000, channels=1, frames=0):
    form = struct.pack("<IHHIIHH", 16, 1, channels, rate, 2 * rate % 2**32, 2, 16)
    size = 2 * frames
    return (
        b"RIFF"
        + struct.pack("<I", 36 + size)
        + b"WAVEfmt "
        + form
        + struct.pack("<4sI", b"data", size)
    )


def wav(tmp_path, samples=None, **options):
    path = tmp_path / "made.wav"
    samples = 0.1 * np.ones(800) if samples is None else samples
    sf.write(path, samples, RATE, **({"subtype": "FLOAT"} | options))
    return path.read_bytes()


def bad_uploads(tmp_path):
    """Name, content, and what the page must say."""
    good = wav(tmp_path)
    nan = wav(tmp_path, np.r_[np.zeros(99), np.nan])
    hours = tmp_path / "hours.flac"
    with sf.SoundFile(hours, "w", 1000, 1, format="FLAC") as file:
        for _ in range(180):
            file.write(np.zeros(60_000))
    noise(tmp_path / "a.ogg")
    noise(tmp_path / "a.flac")
    ogg, flac = (tmp_path / "a.ogg").read_bytes(), (tmp_path / "a.flac").read_bytes()
    unreadable = "cannot be read as audio"
    return [
        ("empty.wav", b"", "empty.wav is empty"),
        ("text.wav", b"this is no audio\n", unreadable),
        ("zero_rate.wav", header(rate=0) + bytes(800), unreadable),
        ("no_channels.wav", header(channels=0) + bytes(800), unreadable),
        ("fast.wav", header(rate=2**32 - 1, frames=400) + bytes(800), unreadable),
        ("zeros.wav", bytes(10_000), unreadable),
        ("cut_header.wav", good[:30], unreadable),
        ("no_samples.wav", header(), "no_samples.wav holds no samples"),
        ("page.wav", b"<html><script>alert(1)</script></html>", unreadable),
        ("picture.wav", b"\x89PNG\r\n\x1a\n" + bytes(99), unreadable),
        ("archive.wav", b"PK\x03\x04" + bytes(99), unreadable),
        ("cut.ogg", ogg[:40], unreadable),
        ("cut.flac", flac[:30], unreadable),
        ("numbers.wav", nan, "numbers.wav: 0:00, 8000 Hz|holds values that are no numbers"),
        ("first.wav", wav(tmp_path, np.r_[np.inf, np.zeros(9)]), "values that are no numbers"),
        ("hours.flac", hours.read_bytes(), "lasts 3:00:00; at most 0.5 min"),
        ("n" * 300 + ".wav", good, "nnn…nnnnn.wav: 0:00"),
        ("../../x.wav", good, "^x.wav: 0:00"),
        ("..\\..\\y.wav", good, r"y.wav: 0:00"),
        ("<img src=x onerror=alert(1)>.wav", good, r"img src=x onerror=alert\(1\).*: 0:00"),
        ("<script>alert(1)<script>.wav", good, r"alert\(1\).*: 0:00"),
        ("'; rm -rf ~; $(reboot).wav", good, "reboot.*: 0:00"),
        ("\u202egpj.wav", good, "gpj.wav: 0:00"),
        (".wav", good, r"^\.wav: 0:00"),
    ]
