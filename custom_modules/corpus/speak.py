"""Speaks texts with one espeak-ng voice; a process of its own, used once.

Not to be imported: :mod:`custom_modules.corpus.espeak` runs this file. A process
per voice is what makes the speech repeatable, since espeak-ng's output depends
on whatever the same process said before, even when it is seeded. For the same
reason nothing but the standard library is imported: starting must be cheap.

Standard input: a JSON object (``library``, ``data``, ``voice``, ``seed``,
``parameters``, ``texts``). Standard output: the sampling rate, then per text the
number of samples and the samples; every number is a little-endian int32, samples
are int16.
"""

import ctypes
import json
import signal
import struct
import sys
from collections.abc import Iterator

SYNCHRONOUS = 2  # the retrieval mode (1) deadlocks in forked processes
UTF8 = 1
CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


def speak(job: dict) -> Iterator[bytes]:
    """Yields what goes to standard output."""
    library = ctypes.CDLL(job["library"])
    rate = library.espeak_Initialize(SYNCHRONOUS, 0, job["data"].encode(), 0)
    if rate <= 0:
        sys.exit(f"espeak-ng cannot read its data at {job['data']}")
    library.espeak_ng_SetRandSeed(ctypes.c_long(job["seed"]))
    if library.espeak_SetVoiceByName(job["voice"].encode()) != 0:
        sys.exit(f"espeak-ng knows no voice {job['voice']}")
    for parameter, value in job["parameters"].items():
        library.espeak_SetParameter(int(parameter), int(value), 0)
    yield struct.pack("<i", rate)
    pieces: list[bytes] = []

    # ctypes keeps no reference to a callback; this function's frame does.
    @CALLBACK
    def collect(samples: "ctypes._Pointer", count: int, _events: int) -> int:
        if samples and count > 0:
            pieces.append(ctypes.string_at(samples, 2 * count))
        return 0

    library.espeak_SetSynthCallback(collect)
    for text in job["texts"]:
        pieces.clear()
        encoded = text.encode()
        size = ctypes.c_size_t(len(encoded) + 1)
        if library.espeak_Synth(encoded, size, 0, 0, 0, UTF8, None, None) != 0:
            sys.exit(f"espeak-ng cannot say: {text}")
        samples = b"".join(pieces)
        yield struct.pack("<i", len(samples) // 2) + samples


if __name__ == "__main__":
    # Ctrl-C reaches the whole process group; the parent reports it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.stdout.buffer.writelines(speak(json.load(sys.stdin)))
