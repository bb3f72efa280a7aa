"""Long signals through a model, a chunk at a time, in memory that stays the same.

Start reading at :meth:`LongForm.stream`.
"""

import torch

from custom_modules.errors import InputError
from custom_modules.longform.chunks import Chunker
from custom_modules.longform.levels import MixtureLevel
from custom_modules.longform.speakers import SpeakerTracker

#: Longer chunks agree better with one pass over a recording and bridge longer pauses,
#: shorter ones take less memory.
CHUNK_SECONDS = 32.0


class LongForm:
    """Separates streams of any length chunk by chunk.

    Chunks overlap; each is put into the order of the sources written before it, and
    faded in over what was written, around the middle of the overlap: what a model
    makes of the edges of a chunk, where it lacks context, is left out.

    Arguments
    ---------
    estimate : callable
        The model, ``[batch, time] → [batch, time, sources]``.
    sample_rate : int
        Of the model, Hz.
    chunk_seconds : float
        What the model sees at once.
    overlap_seconds : float
        Least overlap of two chunks, at most half of one, by default a 16th; see
        :class:`custom_modules.longform.chunks.Chunker`.
    batch_size : int
        Chunks for the model to process together.
    widen : bool
        Whether overlaps without speech are widened.
    match_level : bool
        Whether the sources are scaled to sum to about the mixture's level.
    remedy : str
        What to do if the model returns values that are no numbers.

    Example
    -------
    >>> model = lambda mixture: torch.stack([mixture / 2, mixture / 4], dim=2)
    >>> longform = LongForm(model, sample_rate=8000, chunk_seconds=1)
    >>> mixture = torch.randn(1, 20001)
    >>> parts = list(longform.stream(mixture.split(3000, dim=1)))
    >>> torch.allclose(torch.cat(parts, dim=1), model(mixture), atol=1e-6)
    True
    """

    def __init__(
        self,
        estimate,
        sample_rate,
        chunk_seconds=CHUNK_SECONDS,
        overlap_seconds=None,
        batch_size=1,
        widen=True,
        match_level=False,
        remedy="check the model's weights",
    ):
        self.estimate, self.sample_rate = estimate, sample_rate
        self.remedy = remedy
        self.batch_size, self.match_level = batch_size, match_level
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
    def stream(self, blocks):
        """Separates a stream.

        Arguments
        ---------
        blocks : iterable of torch.Tensor
            Parts of one or more equally long signals, one after the other,
            ``[batch, time]``.

        Yields
        ------
        torch.Tensor
            The sources, in parts of any length, ``[batch, time, sources]``,
            float32 on the CPU; together as long as the signal.

        Raises
        ------
        InputError
            If the model returns a value that is no number, which would spoil the
            level of all that comes after it.
        """
        stitcher = None
        for group in _groups(self.chunker(blocks), self.batch_size):
            mixtures = torch.stack([chunk for _, chunk in group])
            estimates = self.estimate(mixtures.flatten(0, 1)).float().cpu()
            estimates = estimates.unflatten(0, mixtures.shape[:2])
            for (start, _), mixture, chunk in zip(
                group, mixtures, estimates, strict=True
            ):
                self._check_finite(start, chunk)
                if stitcher is None:
                    stitcher = self._stitcher(len(mixture))
                yield from stitcher.add(start, mixture, chunk)
        if stitcher is not None:
            yield stitcher.held

    def _check_finite(self, start, estimates):
        bad = ~torch.isfinite(estimates).all(2).all(0)
        if bad.any():
            second = (start + int(bad.nonzero()[0])) / self.sample_rate
            raise InputError(
                f"the model returns a value that is no number at {second:.3f} s; "
                f"{self.remedy}"
            )

    def _stitcher(self, batch):
        trackers = [SpeakerTracker(self.sample_rate) for _ in range(batch)]
        levels = [MixtureLevel(self.sample_rate) for _ in range(batch)]
        return _Stitcher(trackers, levels if self.match_level else None, self.fade)


def _groups(chunks, size):
    """Chunks that the model can take together: the last one may be shorter."""
    group = []
    for start, chunk in chunks:
        if group and chunk.shape != group[0][1].shape:
            yield group
            group = []
        group.append((start, chunk))
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


class _Stitcher:
    """Joins the chunks of a batch of signals; holds what may still be faded."""

    def __init__(self, trackers, levels, fade):
        self.trackers, self.levels, self.fade = trackers, levels, fade
        self.held, self.held_from = None, 0

    def add(self, start, mixture, estimates):
        """Takes the next chunk and yields what is final.

        Arguments
        ---------
        start : int
            The chunk's first sample.
        mixture : torch.Tensor
            ``[batch, time]``.
        estimates : torch.Tensor
            ``[batch, time, sources]``.
        """
        # A wide overlap may begin before what is still held.
        skipped = max(0, self.held_from - start)
        estimates, mixture = estimates[:, skipped:], mixture[:, skipped:]
        start += skipped
        written = None if self.held is None else self.held[:, start - self.held_from :]
        estimates = self._put_in_order(estimates, mixture, written)
        if written is None:
            self.held = estimates
            return
        overlap = written.shape[1]
        before = (overlap - self.fade) // 2
        ramp = torch.linspace(0, 1, self.fade + 2)[1:-1, None]
        faded = slice(before, before + self.fade)
        yield self.held[:, : start - self.held_from + before]
        yield torch.lerp(written[:, faded], estimates[:, faded], ramp)
        self.held = estimates[:, before + self.fade :]
        self.held_from = start + before + self.fade

    def _put_in_order(self, estimates, mixture, written):
        """Each signal's estimates in the order, and at the level, of before."""
        ordered = []
        for i, tracker in enumerate(self.trackers):
            before = None if written is None else written[i]
            gain = 1.0
            if self.levels is not None:
                gain = self.levels[i].gain(mixture[i], estimates[i].sum(1))
            scaled = estimates[i] * gain
            ordered.append(scaled[:, tracker.follow(scaled, before)])
        return torch.stack(ordered)
