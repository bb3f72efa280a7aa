#!/usr/bin/env python3
"""Separates recordings of any length with model.onnx beside this file, without PyTorch.

    pip install onnxruntime soundfile numpy
    python separate_onnx.py talk.wav meeting.flac --output_folder separated/

Each recording becomes <name>_s1.wav and so on, as long as it is, at its rate and about its
level; channels are averaged. Speakers keep their places from chunk to chunk where chunks
overlap in speech; after pauses longer than two thirds of a chunk they may change.
"""

import argparse
import itertools
import math
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import soundfile as sf

Array = np.ndarray


def resample(blocks: Iterable[Array], old: int, new: int) -> Iterator[Array]:
    """A stream ``[channels, time]`` at another rate, by a windowed sinc of 48 zero crossings."""
    if old == new:
        yield from blocks
        return
    up, down = new // math.gcd(old, new), old // math.gcd(old, new)
    half = 48 * max(up, down)
    taps = np.sinc(np.arange(-half, half + 1) * 0.95 / max(up, down)) * np.kaiser(2 * half + 1, 9.0)
    width = half // up + 1  # samples on each side that one is made of
    places = np.arange(up)[:, None] - np.arange(-width, width + 1) * up + half
    inside = (places >= 0) & (places <= 2 * half)
    filters = np.where(inside, taps[places.clip(0, 2 * half)] * up / taps.sum(), 0).astype("f4")
    held, first, read, made = None, -width, 0, 0
    for block in itertools.chain(blocks, [None]):
        if block is None and held is None:
            return
        read += 0 if block is None else block.shape[1]
        edge = np.zeros((len(held if block is None else block), width), "float32")
        held = np.concatenate([edge if held is None else held, edge if block is None else block], 1)
        end = -(-read * up // down) if block is None else max(made, (read - width) * up // down)
        for begin in range(made, end, 4096):
            centres, phases = np.divmod(np.arange(begin, min(end, begin + 4096)) * down, up)
            windows = held[:, centres[:, None] + np.arange(-width, width + 1) - first]
            yield np.einsum("cmw,mw->cm", windows, filters[phases])
        made, kept = end, max(0, made * down // up - width - first)
        held, first = held[:, kept:], first + kept


def chunks(blocks: Iterable[Array], rate: int, length: int, least: int) -> Iterator[tuple]:
    """Starts and samples of chunks; overlaps are widened until half a second is speech."""
    frame, held, origin, start, end, level = round(0.02 * rate), np.zeros(0, "f4"), 0, 0, 0, 0.0
    for block in blocks:
        held = np.concatenate([held, block[0]])
        while origin + len(held) >= start + length:
            held, origin = held[start - origin :], start
            chunk, end = held[:length], start + length
            yield start, chunk
            power = np.square(np.pad(chunk, (-length % frame, 0))).reshape(-1, frame).mean(1)[::-1]
            level = max(np.quantile(power, 0.95), level / 2)
            heard = np.cumsum(power > 1e-3 * level)[: (2 * length // 3 if least else 0) // frame]
            overlap = least
            if len(heard) and heard[-1]:
                wanted = min(heard[-1], round(0.5 * rate / frame))
                more = -((least - (int((heard < wanted).sum()) + 1) * frame) // rate)
                overlap = min(least + max(0, more) * rate, 2 * length // 3)
            start = end - overlap
    if origin + len(held) > end:
        start = max(origin, min(start, origin + len(held) - length // 4))
        yield start, held[start - origin :]


def gain(sums: Array, mixture: Array, total: Array, rate: int) -> float:
    """With which the sources sum to the mixture's level, of all that was heard so far."""
    frame = round(0.05 * rate)
    pair = [
        np.pad(x.astype("f8"), (0, -len(x) % frame)).reshape(-1, frame) for x in (mixture, total)
    ]
    (power_m, power), product = (np.square(x).sum(1) for x in pair), (pair[0] * pair[1]).sum()
    sums += [product, power.sum(), (power_m * power).sum(), np.square(power).sum()]
    return max(sums[0] / sums[1], (sums[2] / sums[3] / 2) ** 0.5) if min(sums[1], sums[3]) else 1.0


def upright(signals: Array, mixture: Array) -> Array:
    return np.where(mixture @ signals < 0, -signals, signals)


def find_order(old: Array, new: Array, mixture: Array, loudest: float) -> list[int]:
    """In which estimates agree most with what was written of them, ``[time, sources]``."""
    old, new = (upright(x, mixture).astype("f8") for x in (old, new))
    orders = [list(order) for order in itertools.permutations(range(new.shape[1]))]
    agreement = old.T @ new
    scores = [agreement[range(len(order)), order].sum() for order in orders]
    best, *others = sorted(range(len(orders)), key=lambda i: -scores[i])
    energy = max(np.linalg.norm(old) * np.linalg.norm(new), 1e-30)
    is_clear = bool(others) and scores[best] - scores[others[0]] > 0.05 * energy
    quiet = min((np.square(x).mean() if x.size else 0.0) for x in (old, new))
    return orders[best] if is_clear and quiet > 1e-3 * loudest else orders[0]


def separate(parts: Iterable[tuple], run: Any, rate: int, fade: int) -> Iterator[Array]:
    """Sources ``[sources, time]`` of chunks, each faded in over what was written before."""
    held, held_from, loudest, products, sums = None, 0, 0.0, 0.0, np.zeros(4)
    for start, mixture in parts:
        new = run(None, {"mixture": mixture[None]})[0][0]
        if not np.isfinite(new).all():
            raise ValueError(f"the model returns no numbers at {start / rate:.1f} s")
        skipped = max(0, held_from - start)
        new, mixture, start = new[skipped:], mixture[skipped:], start + skipped
        written = new[:0] if held is None else held[start - held_from :]
        new = new * np.float32(gain(sums, mixture, upright(new, mixture).sum(1), rate))
        loudest, overlap = max(loudest, float(np.square(new).mean())), len(written)
        if held is not None:
            new = new[:, find_order(written, new[:overlap], mixture[:overlap], loudest)]
        norms = np.linalg.norm(written, axis=0) * np.linalg.norm(new[:overlap], axis=0)
        agreement = (written * new[:overlap]).sum(0) / np.maximum(norms, 1e-8)
        heard = mixture[overlap:] @ new[overlap:]
        goes_on = (abs(agreement) > 0.5) & (products + np.sign(agreement) * heard >= 0)
        signs = np.where(goes_on, np.sign(agreement), np.where(heard < 0, -1, 1)).astype("f4")
        products, new = products + signs * heard, new * signs
        if held is None:
            held = new
            continue
        before = (overlap - fade) // 2
        ramp = np.linspace(0, 1, fade + 2, dtype="f4")[1:-1, None]
        faded = slice(before, before + fade)
        yield held[: start - held_from + before].T
        yield (written[faded] + ramp * (new[faded] - written[faded])).T
        held, held_from = new[before + fade :], start + before + fade
    yield from [] if held is None else [held.T]


def main() -> None:
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("recordings", nargs="+", type=Path)
    parser.add_argument("--output_folder", type=Path, required=True)
    parser.add_argument("--graph", type=Path, default=here / "model.onnx")
    parser.add_argument("--chunk_seconds", type=float, default=32.0)
    options = parser.parse_args()
    graph = options.graph if options.graph.exists() else here / options.graph
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    rate, sources = int(facts["sample_rate"]), int(facts["num_spks"])
    length = round(options.chunk_seconds * rate)
    overlap = round(options.chunk_seconds / 16 * rate)
    options.output_folder.mkdir(parents=True, exist_ok=True)
    for path in options.recordings:
        outputs = [options.output_folder / f"{path.stem}_s{i + 1}.wav" for i in range(sources)]
        with sf.SoundFile(path) as audio:
            subtype = audio.subtype if sf.check_format("WAV", audio.subtype) else "PCM_16"
            form = {"samplerate": audio.samplerate, "channels": 1, "subtype": subtype}
            blocks = audio.blocks(audio.samplerate, dtype="float32", always_2d=True)
            mixture = resample((block.mean(1)[None] for block in blocks), audio.samplerate, rate)
            parts = chunks(mixture, rate, length, overlap)
            waves = separate(parts, session.run, rate, min(overlap // 2, length // 6))
            partial = [f"{output}.partial" for output in outputs]
            files = [sf.SoundFile(name, "w", format="WAV", **form) for name in partial]
            for part in resample(waves, rate, audio.samplerate):
                for file, samples in zip(files, part, strict=True):
                    file.write(samples[: audio.tell() - file.tell()])
        for file, name, output in zip(files, partial, outputs, strict=True):
            file.close()
            os.replace(name, output)
        print(*outputs)


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, sf.SoundFileError) as error:
        sys.exit(f"error: {error}")
