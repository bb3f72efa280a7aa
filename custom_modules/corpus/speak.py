"""Speaks texts with one espeak-ng voice; a process of its own, used once.

:mod:`custom_modules.corpus.espeak` runs this file. What espeak-ng says depends on
whatever the same process said before, even when it is seeded. As there is a process
per voice, nothing but the standard library is imported: starting must be cheap.

Standard input: a job as JSON. Standard output: what `speak` returns, pickled.
"""

import ctypes
import json
import pickle
import signal
import sys

SYNCHRONOUS = 2  # the retrieval mode (1) deadlocks in forked processes
UTF8 = 1
CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


def speak(job: dict) -> tuple[int, list[bytes]]:
    """The sampling rate in Hz, and the samples of each text, little-endian int16."""
    library = ctypes.CDLL(job["library"])
    rate = library.espeak_Initialize(SYNCHRONOUS, 0, job["data"].encode(), 0)
    if rate <= 0:
        sys.exit(f"espeak-ng cannot read its data at {job['data']}")
    library.espeak_ng_SetRandSeed(ctypes.c_long(job["seed"]))
    if library.espeak_SetVoiceByName(job["voice"].encode()) != 0:
        sys.exit(f"espeak-ng knows no voice {job['voice']}")
    for parameter, value in job["parameters"].items():
        library.espeak_SetParameter(int(parameter), int(value), 0)
    spoken: list[bytes] = []

    # ctypes keeps no reference to a callback; this function's frame does.
    @CALLBACK
    def collect(samples: "ctypes._Pointer", count: int, _events: int) -> int:
        if samples and count > 0:
            spoken[-1] += ctypes.string_at(samples, 2 * count)
        return 0

    library.espeak_SetSynthCallback(collect)
    for text in job["texts"]:
        spoken.append(b"")
        encoded = text.encode()
        size = ctypes.c_size_t(len(encoded) + 1)
        if library.espeak_Synth(encoded, size, 0, 0, 0, UTF8, None, None) != 0:
            sys.exit(f"espeak-ng cannot say: {text}")
    return rate, spoken


if __name__ == "__main__":
    # Ctrl-C reaches the whole process group; the parent reports it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    pickle.dump(speak(json.load(sys.stdin)), sys.stdout.buffer)
