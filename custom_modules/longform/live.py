"""Signals that are still being spoken: chunk by chunk, at a latency that is known before."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from custom_modules.errors import InputError
from custom_modules.longform.polarity import Polarity, upright
from custom_modules.longform.speakers import SpeakerTracker
from custom_modules.longform.stitching import MixtureLevel

CHUNK_SECONDS = 1.0
#: What a chunk hears of what comes after it: at its edge a model knows least.
AHEAD_SECONDS = 0.5
#: What it hears of what went before; also where its speakers are recognised by.
CONTEXT_SECONDS = 8.0
_FADE_SECONDS = 0.02


class LiveSeparation:
    """Separates a stream of one signal; speakers, level and sign go on from chunk to chunk.

    Each chunk is separated together with its context and its look-ahead, so that
    computing takes ``(context + chunk + ahead) / chunk`` times as long as for a file. A
    sample comes out ``latency`` seconds after it at the latest, and the time that the
    model takes.

    >>> model = lambda mixture: torch.stack([mixture / 2, mixture / 4], dim=2)
    >>> live, mixture = LiveSeparation(model, 8000), torch.randn(30_001)
    >>> parts = list(live.stream(mixture.split(700)))
    >>> torch.allclose(torch.cat(parts).sum(1), mixture, atol=1e-5)
    True
    """

    def __init__(
        self,
        estimate: Callable[[Tensor], Tensor],  # [batch, time] → [batch, time, sources]
        sample_rate: int,
        chunk_seconds: float = CHUNK_SECONDS,
        ahead_seconds: float = AHEAD_SECONDS,
        context_seconds: float = CONTEXT_SECONDS,
    ) -> None:
        self.estimate, self.rate = estimate, sample_rate
        self.latency = chunk_seconds + ahead_seconds
        self.chunk = max(1, round(chunk_seconds * sample_rate))
        self.ahead, self.context = (
            round(seconds * sample_rate) for seconds in (ahead_seconds, context_seconds)
        )
        self.fade = min(round(_FADE_SECONDS * sample_rate), self.ahead, self.chunk)
        self.tracker, self.level = SpeakerTracker(sample_rate), MixtureLevel(sample_rate)
        self.polarity = Polarity(fitted=True)
        self.position = 0  # samples that were written
        self.heard = torch.zeros(0)  # from the beginning of the context on
        self.written: Tensor | None = None  # of the context, [time, sources]
        self.tail = torch.zeros(0, 1)  # of the last look-ahead, to be faded out

    @torch.no_grad()
    def stream(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Blocks ``[time]`` → parts ``[time, sources]``, as soon as they are there."""
        for block in blocks:
            self.heard = torch.cat([self.heard, block])
            while self._waiting() >= self.chunk + self.ahead:
                yield self._advance(self.chunk)
        while rest := min(self.chunk, self._waiting()):
            yield self._advance(rest)

    def _waiting(self) -> int:
        return len(self.heard) - (0 if self.written is None else len(self.written))

    def _advance(self, count: int) -> Tensor:
        """The next samples, of which what follows is known as far as it is heard."""
        past = len(self.heard) - self._waiting()
        window = self.heard[: past + count + self.ahead]
        estimates = self.estimate(window[None])[0].float().cpu()
        if not torch.isfinite(estimates).all():
            second = self.position / self.rate
            raise InputError(f"the model returns a value that is no number after {second:.3f} s")
        before = estimates[:0] if self.written is None else self.written
        now = slice(past, past + count)
        total = upright(estimates, window).sum(1)
        scaled = estimates * self.level.gain(window[now], total[now])
        scaled = scaled[:, self.tracker.follow(scaled, before, window)]
        scaled = scaled * self.polarity.signs(window, scaled, before)
        return self._write(before, scaled[now], scaled[past + count :])

    def _write(self, before: Tensor, part: Tensor, later: Tensor) -> Tensor:
        """Fades a part in over the last look-ahead, and moves the context on."""
        faded = min(len(self.tail), len(part))
        ramp = torch.linspace(0, 1, faded + 2)[1:-1, None]
        beginning = torch.lerp(self.tail[:faded], part[:faded], ramp) if faded else part[:0]
        part = torch.cat([beginning, part[faded:]])
        self.tail, self.position = later[: self.fade], self.position + len(part)
        whole = torch.cat([before, part])
        gone = max(0, len(whole) - self.context)
        self.written, self.heard = whole[gone:], self.heard[gone:]
        return part
