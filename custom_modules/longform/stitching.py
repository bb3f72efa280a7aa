"""Long signals through a model, a chunk at a time, in memory that stays the same.

Start reading at :meth:`LongForm.stream`.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from custom_modules.errors import InputError
from custom_modules.longform.polarity import Polarity, upright
from custom_modules.longform.speakers import SILENCE_RATIO, SpeakerTracker

#: Longer chunks agree better with one pass over a recording and bridge longer pauses,
#: shorter ones take less memory.
CHUNK_SECONDS = 32.0
#: Speech that an overlap should hold, for speakers to be recognised in it, s.
SPEECH_SECONDS = 0.5
#: Overlaps grow by this much, s. Dual-path models cut their frames into pieces: moved
#: by whole seconds, a chunk is cut where the whole recording would be, and agrees
#: better with one pass over it (30 dB instead of 25 with a DPRNN).
_STEP_SECONDS = 1.0
_FRAME_SECONDS = 0.02

_LEVEL_FRAME_SECONDS = 0.05
#: How far the sum may stay below the mixture (-3 dB).
_LEAST_SHARE = 0.5**0.5

#: A chunk's first sample, and its samples ``[batch, time]``.
Chunk = tuple[int, Tensor]


class Chunker:
    """Cuts a stream of blocks into overlapping chunks of ``length`` samples.

    Neighbours overlap by ``overlap`` samples, at most half of a chunk. Where that would
    hold too little speech to recognise the speakers by, it is widened, up to two thirds
    of a chunk: speech before a pause then shares a chunk with speech after it. Without
    speakers to tell apart, ``widen`` is of no use.
    """

    def __init__(self, length: int, overlap: int, sample_rate: int, widen: bool = True) -> None:
        if not 0 <= 2 * overlap <= length or length < 1:
            raise InputError(
                f"chunks of {length / sample_rate:g} s cannot overlap by "
                f"{overlap / sample_rate:g} s; half is the most, 0 the least"
            )
        self.length, self.overlap = length, overlap
        self.widest = 2 * length // 3 if widen and overlap else overlap
        self.step = max(1, round(_STEP_SECONDS * sample_rate))
        self.frame = max(1, round(_FRAME_SECONDS * sample_rate))
        self.wanted_frames = round(SPEECH_SECONDS * sample_rate / self.frame)

    def __call__(self, blocks: Iterable[Tensor]) -> Iterator[Chunk]:
        """Chunks of a stream of ``[batch, time]``.

        The last one is what is left, but, if there are others, at least a quarter of
        their length.
        """
        level: Tensor | None = None  # of loud frames, falling slowly, [batch]
        held: Tensor | None = None
        start, held_from = 0, 0
        end = 0  # of the last chunk
        for block in blocks:
            held = block if held is None else torch.cat([held, block], dim=1)
            while held_from + held.shape[1] >= start + self.length:
                chunk = held[:, start - held_from :][:, : self.length]
                yield start, chunk
                # The last chunk may have to begin right after this one's start.
                held, held_from = held[:, start - held_from :], start
                end = start + self.length
                missing = -self.length % self.frame
                frames = F.pad(chunk, (missing, 0)).unflatten(1, (-1, self.frame))
                power = frames.square().mean(2).flip(1)  # counted from the end
                loud = power.quantile(0.95, dim=1)
                level = loud if level is None else torch.maximum(loud, level / 2)
                speech = power > SILENCE_RATIO * level.unsqueeze(1)
                start = end - self._next_overlap(speech)
        if held is not None and held_from + held.shape[1] > end:
            # A short rest is given some of what lies before it as context.
            total = held_from + held.shape[1]
            start = max(held_from, min(start, total - self.length // 4))
            yield start, held[:, start - held_from :]

    def _next_overlap(self, speech: Tensor) -> int:
        """The narrowest overlap with enough speech in every signal of the batch."""
        frames = speech[:, : self.widest // self.frame]
        if not frames.any():
            return self.overlap
        heard = frames.cumsum(1)
        wanted = heard[:, -1:].clamp(max=self.wanted_frames)
        needed = int((heard < wanted).sum(1).max() + 1) * self.frame
        steps = max(0, -((self.overlap - needed) // self.step))
        return min(self.overlap + steps * self.step, self.widest)


class MixtureLevel:
    """The gain with which the sources sum to about the mixture's level.

    It is the least-squares one, which keeps speech at the level that it has within
    noise, of all that was heard so far: a pause does not change it.
    """

    def __init__(self, sample_rate: int) -> None:
        self.frame = max(1, round(_LEVEL_FRAME_SECONDS * sample_rate))
        self.sums = torch.zeros(4, dtype=torch.float64)

    def gain(self, mixture: Tensor, total: Tensor) -> float:
        """Takes in a chunk's mixture and the sum of its sources, ``[time]`` each."""
        both = torch.stack([mixture, total]).double()
        padded = F.pad(both, (0, -len(mixture) % self.frame))
        mixture, total = padded.unflatten(1, (-1, self.frame))
        power, mixture_power = total.square().sum(1), mixture.square().sum(1)
        self.sums += torch.stack(
            [
                (mixture * total).sum(),
                power.sum(),
                # Frames count by the power of the sources: where there is noise
                # alone, the mixture's level says nothing about theirs.
                (mixture_power * power).sum(),
                power.square().sum(),
            ]
        )
        product, energy, joint, squares = self.sums.tolist()
        if not (energy > 0 and squares > 0):
            return 1.0
        return max(product / energy, _LEAST_SHARE * (joint / squares) ** 0.5)


class LongForm:
    """Separates streams of any length chunk by chunk.

    Chunks overlap; each is put into the order of the sources written before it, and
    faded in over what was written, around the middle of the overlap: what a model
    makes of the edges of a chunk, where it lacks context, is left out.

    >>> model = lambda mixture: torch.stack([mixture / 2, mixture / 4], dim=2)
    >>> longform = LongForm(model, sample_rate=8000, chunk_seconds=1)
    >>> mixture = torch.randn(1, 20001)
    >>> parts = list(longform.stream(mixture.split(3000, dim=1)))
    >>> torch.allclose(torch.cat(parts, dim=1), model(mixture), atol=1e-6)
    True
    """

    def __init__(
        self,
        estimate: Callable[[Tensor], Tensor],  # [batch, time] → [batch, time, sources]
        sample_rate: int,
        chunk_seconds: float = CHUNK_SECONDS,
        overlap_seconds: float | None = None,  # the least; by default a 16th
        batch_size: int = 1,  # chunks for the model to process together
        widen: bool = True,
        match_level: bool = False,  # sources sum to about the mixture's level
        match_sign: bool = False,  # none is against the mixture; else as the first chunk
        remedy: str = "check the model's weights",  # against values that are no numbers
    ) -> None:
        self.estimate, self.sample_rate = estimate, sample_rate
        self.batch_size, self.match_level = batch_size, match_level
        self.match_sign, self.remedy = match_sign or match_level, remedy
        if overlap_seconds is None:
            overlap_seconds = chunk_seconds / 16
        self.chunker = Chunker(
            length=max(1, round(chunk_seconds * sample_rate)),
            overlap=round(overlap_seconds * sample_rate),
            sample_rate=sample_rate,
            widen=widen,
        )
        # With overlaps of up to two thirds, fades of a sixth never meet.
        self.fade = min(self.chunker.overlap // 2, self.chunker.length // 6)

    @torch.no_grad()
    def stream(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        """The sources of a stream of ``[batch, time]``, in parts of any length.

        ``[batch, time, sources]``, float32 on the CPU; together as long as the signal.
        Raises InputError if the model returns a value that is no number, which would
        spoil the level of all that comes after it.
        """
        stitcher: _Stitcher | None = None
        for group in _groups(self.chunker(blocks), self.batch_size):
            mixtures = torch.stack([chunk for _, chunk in group])
            estimates = self.estimate(mixtures.flatten(0, 1)).float().cpu()
            estimates = estimates.unflatten(0, mixtures.shape[:2])
            for (start, mixture), chunk in zip(group, estimates, strict=True):
                self._check_finite(start, chunk)
                stitcher = stitcher or _Stitcher(self, len(mixture))
                yield from stitcher.add(start, mixture, chunk)
        if stitcher and stitcher.held is not None:
            yield stitcher.held

    def _check_finite(self, start: int, estimates: Tensor) -> None:
        bad = ~torch.isfinite(estimates).all(2).all(0)
        if bad.any():
            second = (start + int(bad.nonzero()[0])) / self.sample_rate
            raise InputError(
                f"the model returns a value that is no number at {second:.3f} s; {self.remedy}"
            )


def _groups(chunks: Iterable[Chunk], size: int) -> Iterator[list[Chunk]]:
    """Chunks that the model can take together: the last one may be shorter."""
    for _, alike in itertools.groupby(chunks, key=lambda chunk: chunk[1].shape):
        while group := list(itertools.islice(alike, size)):
            yield group


class _Stitcher:
    """Joins the chunks of a batch of signals; holds what may still be faded."""

    def __init__(self, longform: LongForm, batch: int) -> None:
        rate, self.fade = longform.sample_rate, longform.fade
        self.trackers = [SpeakerTracker(rate) for _ in range(batch)]
        self.levels = [MixtureLevel(rate) for _ in range(batch * longform.match_level)]
        self.polarities = [Polarity(longform.match_sign) for _ in range(batch)]
        self.held: Tensor | None = None
        self.held_from = 0

    def add(self, start: int, mixture: Tensor, estimates: Tensor) -> Iterator[Tensor]:
        """Takes the next chunk, from sample ``start`` on, and yields what is final."""
        # A wide overlap may begin before what is still held.
        skipped = max(0, self.held_from - start)
        estimates, mixture = estimates[:, skipped:], mixture[:, skipped:]
        start += skipped
        if self.held is None:
            self.held = self._put_in_order(estimates, mixture, estimates[:, :0])
            return
        written = self.held[:, start - self.held_from :]
        estimates = self._put_in_order(estimates, mixture, written)
        before = (written.shape[1] - self.fade) // 2
        ramp = torch.linspace(0, 1, self.fade + 2)[1:-1, None]
        faded = slice(before, before + self.fade)
        yield self.held[:, : start - self.held_from + before]
        yield torch.lerp(written[:, faded], estimates[:, faded], ramp)
        self.held = estimates[:, before + self.fade :]
        self.held_from = start + before + self.fade

    def _put_in_order(self, estimates: Tensor, mixture: Tensor, written: Tensor) -> Tensor:
        """Each signal's estimates in the order, and at the level and sign, of before."""
        ordered = []
        for i, tracker in enumerate(self.trackers):
            scaled, heard = estimates[i], mixture[i]
            if self.levels:
                scaled = scaled * self.levels[i].gain(heard, upright(scaled, heard).sum(1))
            scaled = scaled[:, tracker.follow(scaled, written[i], heard)]
            ordered.append(scaled * self.polarities[i].signs(heard, scaled, written[i]))
        return torch.stack(ordered)
