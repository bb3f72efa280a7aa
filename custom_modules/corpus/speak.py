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

SYNCHRONOUS = 2  # the retrieval mode (1) deadlocks in forked processes
UTF8 = 1
CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


class Speaker:
    """One espeak-ng voice, seeded once."""

    def __init__(self, job):
        self.library = ctypes.CDLL(job["library"])
        data = job["data"].encode()
        self.rate = self.library.espeak_Initialize(SYNCHRONOUS, 0, data, 0)
        if self.rate <= 0:
            sys.exit(f"espeak-ng cannot read its data at {job['data']}")
        self.library.espeak_ng_SetRandSeed(ctypes.c_long(job["seed"]))
        if self.library.espeak_SetVoiceByName(job["voice"].encode()) != 0:
            sys.exit(f"espeak-ng knows no voice {job['voice']}")
        for parameter, value in job["parameters"].items():
            self.library.espeak_SetParameter(int(parameter), int(value), 0)
        self.pieces = []
        # ctypes keeps no reference to a callback; without one it is collected.
        self.callback = CALLBACK(self._collect)
        self.library.espeak_SetSynthCallback(self.callback)

    def _collect(self, samples, count, _events):
        if samples and count > 0:
            self.pieces.append(ctypes.string_at(samples, 2 * count))
        return 0

    def say(self, text):
        """Returns the int16 samples of a text, as bytes."""
        self.pieces.clear()
        encoded = text.encode()
        size = ctypes.c_size_t(len(encoded) + 1)
        if self.library.espeak_Synth(encoded, size, 0, 0, 0, UTF8, None, None) != 0:
            sys.exit(f"espeak-ng cannot say: {text}")
        return b"".join(self.pieces)


def main():
    """Speaks what standard input asks for."""
    # Ctrl-C reaches the whole process group; the parent does the talking.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    job = json.load(sys.stdin)
    speaker = Speaker(job)
    sys.stdout.buffer.write(struct.pack("<i", speaker.rate))
    for text in job["texts"]:
        samples = speaker.say(text)
        sys.stdout.buffer.write(struct.pack("<i", len(samples) // 2) + samples)


if __name__ == "__main__":
    main()
