"""Separates recordings of any length with model.onnx beside this file, without PyTorch.

    pip install onnxruntime soundfile numpy
    python separate_onnx.py talk.wav meeting.flac --output_folder separated/

Each becomes <name>_s1.wav and so on, as long as it is, at its rate and level; channels are
averaged. Speakers keep their places, but perhaps not after pauses of 20 s and more.
"""

import argparse
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, permutations
from pathlib import Path

import numpy as np
import onnxruntime
import soundfile as sf
from numpy import ndarray as Array


def resample(blocks: Iterable[Array], channels: int, old: int, new: int) -> Iterator[Array]:
    """A stream at another rate, by a windowed sinc."""
    up, down = new // np.gcd(old, new), old // np.gcd(old, new)
    half = 48 * max(up, down)
    taps = np.sinc(np.arange(-half, half + 1) * 0.95 / max(up, down)) * np.kaiser(2 * half + 1, 9)
    width = -(-half // up)  # samples on each side that one is made of
    places = np.arange(up) * down - np.arange(-width, down + width)[:, None] * up + half
    filters = taps[places.clip(0, 2 * half)] * (up / taps.sum()) * (abs(places - half) <= half)
    held, left, end = np.zeros((channels, width), "f4"), 0, np.zeros((channels, width + down), "f4")
    for block in chain(blocks, [end]):
        held = np.concatenate([held, block], axis=1)
        left += block.shape[1] * up * (block is not end)
        if (count := (held.shape[1] - 2 * width) // down) > 0:
            windows = np.lib.stride_tricks.sliding_window_view(held, down + 2 * width, axis=1)
            part = (windows[:, ::down][:, :count] @ filters.astype("f4")).reshape(channels, -1)
            part = part[:, : -(-left // down)]
            left, held = left - part.shape[1] * down, held[:, count * down :]
            yield part


def cut(blocks: Iterable[Array], rate: int, length: int, least: int) -> Iterator[tuple]:
    """Starts and samples of chunks; overlaps are widened until half a second is speech."""
    frame, held, origin, start, end, level = round(0.02 * rate), np.zeros(0, "f4"), 0, 0, 0, 0.0
    for block in blocks:
        held = np.concatenate([held, block[0]])
        while origin + len(held) >= start + length:
            held, origin, end = held[start - origin :], start, start + length
            yield start, held[:length]
            power = np.square(np.pad(held[:length], (-length % frame, 0))).reshape(-1, frame)
            power = power.mean(1)[::-1]
            level = max(np.quantile(power, 0.95), level / 2)
            heard = np.cumsum((power > 1e-3 * level)[: (2 * length // 3 if least else 0) // frame])
            wanted = min(heard[-1:].sum(), round(0.5 * rate / frame))
            needed = (int((heard < wanted).sum()) + 1) * frame if wanted else 0
            start = end - min(least + max(0, -((least - needed) // rate)) * rate, 2 * length // 3)
    if origin + len(held) > end:
        start = max(origin, min(start, origin + len(held) - length // 4))
        yield start, held[start - origin :]


def find_gain(sums: Array, mixture: Array, total: Array, frame: int) -> float:
    """With which the sources sum to the mixture's level, of all that was heard so far."""
    both = np.pad(np.stack([mixture, total]).astype("f8"), ((0, 0), (0, -len(total) % frame)))
    loud, power = np.square(both).reshape(2, -1, frame).sum(2)
    sums += [np.prod(both, axis=0).sum(), power.sum(), (loud * power).sum(), (power**2).sum()]
    return max(sums[0] / sums[1], (sums[2] / sums[3] / 2) ** 0.5) if min(sums[1:4:2]) else 1.0


def upright(signals: Array, mixture: Array) -> Array:
    return np.where(mixture @ signals < 0, -signals, signals)


def find_order(old: Array, new: Array, mixture: Array, loudest: float) -> list[int]:
    """In which estimates agree most with what was written of them, where that is clear."""
    old, new = (upright(x, mixture).astype("f8") for x in (old, new))
    products, rows = old.T @ new, range(new.shape[1])
    score = {order: float(products[rows, order].sum()) for order in permutations(rows)}
    best, second = (sorted(score, key=lambda order: -score[order]) * 2)[:2]
    is_loud = min(np.square(x).sum() for x in (old, new)) > 1e-3 * loudest * max(1, old.size)
    is_clear = score[best] - score[second] > 0.05 * np.linalg.norm(old) * np.linalg.norm(new)
    return list(best) if is_loud and is_clear else list(rows)


def separate(chunks: Iterable[tuple], run: Callable, rate: int, fade: int) -> Iterator[Array]:
    """Sources, each chunk's faded in over what was written before."""
    held, held_from, loudest, products, sums = None, 0, 0.0, 0.0, np.zeros(4)
    for start, mixture in chunks:
        new = run(None, {"mixture": mixture[None]})[0][0]
        if not np.isfinite(new).all():
            raise ValueError(f"the model returns no numbers at {start / rate:.1f} s")
        skipped = max(0, held_from - start)
        new, mixture, start = new[skipped:], mixture[skipped:], start + skipped
        new = new * np.float32(find_gain(sums, mixture, upright(new, mixture).sum(1), rate // 20))
        loudest = max(loudest, float(np.square(new).mean()))
        written = new[:0] if held is None else held[start - held_from :]
        overlap = len(written)
        new = new[:, find_order(written, new[:overlap], mixture[:overlap], loudest)]
        norms = np.linalg.norm(written, axis=0) * np.linalg.norm(new[:overlap], axis=0)
        agreement = (written * new[:overlap]).sum(0) / np.maximum(norms, 1e-8)
        heard = mixture[overlap:] @ new[overlap:]
        goes_on = (abs(agreement) > 0.5) & (products + np.sign(agreement) * heard >= 0)
        signs = np.where(goes_on, np.sign(agreement), np.where(heard < 0, -1, 1)).astype("f4")
        products, new, before = products + signs * heard, new * signs, (overlap - fade) // 2
        if held is not None:
            yield held[: start - held_from + before].T
            old, now = (x[before : before + fade] for x in (written, new))
            yield (old + np.linspace(0, 1, fade + 2, dtype="f4")[1:-1, None] * (now - old)).T
            new, held_from = new[before + fade :], start + before + fade
        held = new
    yield from [] if held is None else [held.T]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("recordings", nargs="+", type=Path)
    parser.add_argument("--output_folder", type=Path, required=True)
    parser.add_argument("--graph", default="model.onnx", help="a file beside this one")
    parser.add_argument("--chunk_seconds", type=float, default=32.0)
    options = parser.parse_args()
    graph = Path(__file__).resolve().parent / options.graph
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    rate, sources = int(facts["sample_rate"]), int(facts["num_spks"])
    length = round(options.chunk_seconds * rate)
    least = round(options.chunk_seconds / 16 * rate) if sources > 1 else 0
    options.output_folder.mkdir(parents=True, exist_ok=True)
    for path in options.recordings:
        names = [options.output_folder / f"{path.stem}_s{i + 1}.wav" for i in range(sources)]
        with sf.SoundFile(path) as audio:
            own, known = audio.samplerate, sf.check_format("WAV", audio.subtype)
            form = (own, 1, audio.subtype if known else "PCM_16", None, "WAV")
            files = [sf.SoundFile(f"{name}.partial", "w", *form) for name in names]
            blocks = (x.mean(1)[None] for x in audio.blocks(own, dtype="float32", always_2d=True))
            mixture = blocks if own == rate else resample(blocks, 1, own, rate)
            chunks, fade = cut(mixture, rate, length, least), min(least // 2, length // 6)
            waves = separate(chunks, session.run, rate, fade)
            for part in waves if own == rate else resample(waves, sources, rate, own):
                for file, samples in zip(files, part, strict=True):
                    file.write(samples[: audio.tell() - file.tell()])
        for file, name in zip(files, names, strict=True):
            file.close()
            Path(f"{name}.partial").replace(name)


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, sf.SoundFileError) as error:
        raise SystemExit(f"error: {error}") from None
