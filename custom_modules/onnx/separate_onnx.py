"""Separates recordings of any length with model.onnx beside this file, without PyTorch.

    pip install onnxruntime soundfile numpy
    python separate_onnx.py talk.wav meeting.flac --output_folder separated/

Each becomes <name>_s1.wav and so on, as long, at its rate and level; channels are averaged.
"""

import argparse
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, permutations
from pathlib import Path
from tempfile import TemporaryDirectory

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
    bank = taps[places.clip(0, 2 * half)] * (up / taps.sum()) * (abs(places - half) <= half)
    held, left, end = np.zeros((channels, width), "f4"), 0, np.zeros((channels, width + down), "f4")
    for block in chain(blocks, [end]):
        held = np.concatenate([held, block], axis=1)
        left += block.shape[1] * up * (block is not end)
        if (count := (held.shape[1] - 2 * width) // down) > 0:
            seen = np.lib.stride_tricks.sliding_window_view(held, down + 2 * width, axis=1)
            part = (seen[:, ::down][:, :count] @ bank).reshape(channels, -1)[:, : -(-left // down)]
            left, held = left - part.shape[1] * down, held[:, count * down :]
            yield part.astype("f4")


def cut(blocks: Iterable[Array], rate: int, length: int, least: int) -> Iterator[tuple]:
    """Starts and samples of chunks; overlaps are widened until half a second is speech."""
    frame, held, origin, start, end, level = round(0.02 * rate), np.zeros(0, "f4"), 0, 0, 0, 0.0
    for block in blocks:
        held = np.concatenate([held, block[0]])
        while origin + len(held) >= start + length:
            held, origin, end = held[start - origin :], start, start + length
            yield start, held[:length]
            power = np.add.reduceat(held[:length][::-1] ** 2, np.arange(0, length, frame))
            level = max(np.quantile(power, 0.95), level / 2)
            heard = np.cumsum((power > 1e-3 * level)[: (2 * length // 3 if least else 0) // frame])
            wanted = min(heard[-1:].sum(), round(0.5 * rate / frame))
            needed = (int((heard < wanted).sum()) + 1) * frame if wanted else 0
            start = end - min(least + max(0, -((least - needed) // rate)) * rate, 2 * length // 3)
    if origin + len(held) > end:
        start = max(origin, min(start, origin + len(held) - length // 4))
        yield start, held[start - origin :]


def find_order(old: Array, new: Array, mixture: Array, loudest: float) -> list[int]:
    """In which estimates agree most with what was written of them, where that is clear."""
    old, new = (np.where(mixture @ x < 0, -x, x).astype("f8") for x in (old, new))
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
            raise ValueError(f"of no numbers, it or the model's, after {start / rate:.1f} s")
        skipped = max(0, held_from - start)
        new, mixture, start = new[skipped:], mixture[skipped:], start + skipped
        both = np.stack([mixture, np.where(mixture @ new < 0, -new, new).sum(1)]).astype("f8")
        loud, power = np.add.reduceat(both**2, np.arange(0, len(new), rate // 20), axis=1)
        sums += [np.prod(both, axis=0).sum(), power.sum(), (loud * power).sum(), (power**2).sum()]
        gain = max(sums[0] / sums[1], (sums[2] / sums[3] / 2) ** 0.5) if min(sums[1:4:2]) else 1.0
        new = new * np.float32(gain)  # they sum to the mixture's level, by all that was heard
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


def convert(path: Path, names: list[Path], run: Callable, rate: int, seconds: float) -> None:
    """Writes the sources of a recording under new names."""
    if not path.is_file() or names[0].exists() or not sf.info(path).frames:
        raise ValueError(f"has no samples, or {names[0]} exists, which is not replaced")
    names[0].parent.mkdir(parents=True, exist_ok=True)
    length, least = (round(x * rate) for x in (seconds, seconds / 16 * (len(names) > 1)))
    with sf.SoundFile(path) as audio, TemporaryDirectory(dir=names[0].parent) as place:
        own, known = audio.samplerate, sf.check_format("WAV", audio.subtype)
        form = (own, 1, audio.subtype if known else "PCM_16", None, "WAV")
        files = [sf.SoundFile(Path(place, name.name), "w", *form) for name in names]
        blocks = (x.mean(1)[None] for x in audio.blocks(own, dtype="float32", always_2d=True))
        mixture = blocks if own == rate else resample(blocks, 1, own, rate)
        chunks, fade = cut(mixture, rate, length, least), min(least // 2, length // 6)
        waves = separate(chunks, run, rate, fade)
        for part in waves if own == rate else resample(waves, len(names), rate, own):
            for file, samples in zip(files, part, strict=True):
                file.write(samples[: audio.tell() - file.tell()])
        for file, name in zip(files, names, strict=True):
            file.close()
            Path(place, name.name).replace(name)


def main() -> str | None:
    parser = argparse.ArgumentParser()
    parser.add_argument("recordings", nargs="+", type=Path)
    parser.add_argument("--output_folder", type=Path, required=True)
    parser.add_argument("--graph", default="model.onnx", help="a file beside this one")
    parser.add_argument("--chunk_seconds", type=float, default=32.0, help="0.1 to 3600")
    options, failed = parser.parse_args(), ""
    graph, seconds = Path(__file__).resolve().parent / options.graph, options.chunk_seconds
    if not graph.is_file() or not 0.1 <= seconds <= 3600:
        parser.error(f"no {graph}, which export.py --onnx writes, or --chunk_seconds={seconds}")
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    rate, sources = int(facts["sample_rate"]), int(facts["num_spks"])
    for path in options.recordings:
        names = [options.output_folder / f"{path.stem}_s{i + 1}.wav" for i in range(sources)]
        try:
            convert(path, names, session.run, rate, seconds)
            print(*names)
        except (OSError, ValueError, sf.SoundFileError) as error:
            failed += f"error: {path}: {error}\n"
    return failed.strip() or None


if __name__ == "__main__":
    raise SystemExit(main())
