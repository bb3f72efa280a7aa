"""Where a stream is cut: overlapping chunks, the overlaps of which hold speech."""

import torch
import torch.nn.functional as F

from custom_modules.errors import InputError

#: A frame this much below the loud ones holds no speech (30 dB).
SILENCE_RATIO = 1e-3
#: Speech that an overlap should hold, for speakers to be recognised in it, s.
SPEECH_SECONDS = 0.5
#: Overlaps grow by this much, s. Dual-path models cut their frames into pieces: moved
#: by whole seconds, a chunk is cut where the whole recording would be, and agrees
#: better with one pass over it (30 dB instead of 25 with a DPRNN).
_STEP_SECONDS = 1.0
_FRAME_SECONDS = 0.02


class Chunker:
    """Cuts a stream of blocks into overlapping chunks of equal length.

    Neighbours overlap by ``overlap`` samples. Where that would hold too little
    speech to recognise the speakers by, it is widened, up to two thirds of a chunk:
    speech before a pause then shares a chunk with speech after it.

    Arguments
    ---------
    length, overlap : int
        In samples; the overlap is at most half of the length.
    sample_rate : int
    widen : bool
        Whether overlaps may be widened. Without speakers to tell apart it is of no
        use.

    Raises
    ------
    InputError
        If the overlap is more than half of a chunk.

    Example
    -------
    >>> chunker = Chunker(length=40, overlap=10, sample_rate=100)
    >>> blocks = torch.randn(2, 105).split(7, dim=1)
    >>> [(start, chunk.shape[1]) for start, chunk in chunker(blocks)]
    [(0, 40), (14, 40), (28, 40), (42, 40), (56, 40), (70, 35)]
    >>> chunker = Chunker(length=40, overlap=10, sample_rate=100, widen=False)
    >>> [start for start, _ in chunker(blocks)]
    [0, 30, 60, 90]
    """

    def __init__(self, length, overlap, sample_rate, widen=True):
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

    def __call__(self, blocks):
        """Yields chunks.

        Arguments
        ---------
        blocks : iterable of torch.Tensor
            Parts of a stream, one after the other, ``[batch, time]``.

        Yields
        ------
        start : int
            The chunk's first sample.
        chunk : torch.Tensor
            ``[batch, length]``. The last one is what is left, but, if there are
            others, at least a quarter of their length.
        """
        level = None  # of loud frames, falling slowly, [batch]
        start, held, held_from = 0, None, 0
        end = 0  # of the last chunk
        for block in blocks:
            held = block if held is None else torch.cat([held, block], dim=1)
            while held_from + held.shape[1] >= start + self.length:
                chunk = held[:, start - held_from :][:, : self.length]
                yield start, chunk
                # The last chunk may have to begin right after this one's start.
                held, held_from = held[:, start - held_from :], start
                end = start + self.length
                power = self._frame_power(chunk)
                loud = power.quantile(0.95, dim=1)
                level = loud if level is None else torch.maximum(loud, level / 2)
                speech = power > SILENCE_RATIO * level.unsqueeze(1)
                start = end - self._next_overlap(speech)
        total = 0 if held is None else held_from + held.shape[1]
        if total > end:
            # A short rest is given some of what lies before it as context.
            start = max(held_from, min(start, total - self.length // 4))
            yield start, held[:, start - held_from :]

    def _frame_power(self, chunk):
        """``[batch, time]`` → ``[batch, frames]``, frames counted from the end."""
        missing = -chunk.shape[1] % self.frame
        frames = F.pad(chunk, (missing, 0)).unflatten(1, (-1, self.frame))
        return frames.square().mean(2).flip(1)

    def _next_overlap(self, speech):
        """The narrowest overlap with enough speech in every signal of the batch."""
        frames = speech[:, : self.widest // self.frame]
        if not frames.any():
            return self.overlap
        heard = frames.cumsum(1)
        wanted = heard[:, -1:].clamp(max=self.wanted_frames)
        needed = int((heard < wanted).sum(1).max() + 1) * self.frame
        steps = max(0, -((self.overlap - needed) // self.step))
        return min(self.overlap + steps * self.step, self.widest)
