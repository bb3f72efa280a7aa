"""Which estimate of a chunk continues which source: waveforms, else voices."""

import itertools

import torch
import torchaudio
from torch import Tensor

from custom_modules.longform.polarity import upright

#: What is this much below the loud parts holds no speech (30 dB).
SILENCE_RATIO = 1e-3
#: Least lead of the best assignment, as a share of the overlap's energy.
MARGIN = 0.05
#: Voices further apart than this are taken for two (see VoiceProfile.distance).
SAME_VOICE = 7.0

_FRAME_SECONDS, _HOP_SECONDS = 0.064, 0.016
_MEL_BANDS = 24
_PITCH_HZ = (60.0, 400.0)
_SEMITONES = 34  # between these two
_VOICED = 0.5  # normalised autocorrelation


class SpeakerTracker:
    """Keeps each speaker in the same source from chunk to chunk.

    The estimates of a chunk are compared with what was already written where both
    overlap. If that is silent, or tells nothing, voices are: the average spectrum
    and the pitch of what each source has said so far.

    >>> tracker = SpeakerTracker(8000)
    >>> sources = torch.randn(1200, 2)
    >>> mixture = sources.sum(1)
    >>> tracker.follow(sources[:800], sources[:0], mixture[:800])
    [0, 1]
    >>> tracker.follow(-sources[400:].flip(1), sources[400:800], mixture[400:])
    [1, 0]
    """

    def __init__(self, sample_rate: int) -> None:
        self.features = VoiceFeatures(sample_rate)
        self.profiles: list[VoiceProfile] = []
        self.loudest = 0.0

    def follow(self, estimates: Tensor, written: Tensor, mixture: Tensor) -> list[int]:
        """The estimate of the next chunk that belongs to each source.

        ``[time, sources]``, and what was written of its beginning,
        ``[overlap, sources]``, which counts from the second chunk on. Both are
        compared upright, as in the mixture ``[time]``.
        """
        order = list(range(estimates.shape[1]))
        self.loudest = max(self.loudest, float(estimates.square().mean()))
        if len(order) == 1:
            return order
        if not self.profiles:
            self.profiles = self.features(estimates, self.loudest)
            return order
        order = self._order(estimates, written, mixture)
        heard = self.features(estimates[len(written) :, order], self.loudest)
        for profile, new in zip(self.profiles, heard, strict=True):
            profile.add(new)
        return order

    def _order(self, estimates: Tensor, written: Tensor, mixture: Tensor) -> list[int]:
        overlap = len(written)
        written, beginning = (
            upright(signals[:overlap], mixture[:overlap]) for signals in (written, estimates)
        )
        order, lead = match_waveforms(written, beginning)
        quiet = min(float(x.square().mean()) for x in (written, beginning))
        if quiet > SILENCE_RATIO * self.loudest and lead > MARGIN:
            return order
        voices = self.features(estimates, self.loudest)
        if not all(any(v.frames for v in known) for known in (self.profiles, voices)):
            return order
        costs = [[p.distance(voice) for voice in voices] for p in self.profiles]
        return _two_cheapest(torch.tensor(costs, dtype=torch.float64))[0][1]


def match_waveforms(written: Tensor, estimates: Tensor) -> tuple[list[int], float]:
    """The order in which estimates agree most with what was written.

    Both are ``[time, sources]``. Also its lead over the second best, as a share of the
    energy; 1 at most.

    >>> match_waveforms(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    ([1, 0], 1.0)
    """
    # Products of samples, not coefficients of correlation: what leaks into a silent
    # source must not count as much as speech.
    agreement = written.double().T @ estimates.double()  # [sources, sources]
    best, second = _two_cheapest(-agreement)
    energy = written.double().norm() * estimates.double().norm()
    return best[1], float((second[0] - best[0]) / energy.clamp(min=1e-30))


def _two_cheapest(costs: Tensor) -> list[tuple[float, list[int]]]:
    """The two cheapest orders of ``[sources, estimates]``, with their costs."""
    places = range(len(costs))
    orders = [
        (float(costs[places, order].sum()), list(order)) for order in itertools.permutations(places)
    ]
    return sorted(orders)[:2]  # of equals the first, which leaves all as it is


class VoiceProfile:
    """The average spectrum and the pitch of a voice.

    From log mel spectra of its frames in dB, each less its mean, ``[frames, bands]``,
    and its voiced frames' pitches in whole semitones above the lowest.
    """

    def __init__(self, bands: Tensor, pitches: Tensor) -> None:
        self.frames = len(bands)
        self.bands = bands.sum(0)
        self.pitches = torch.bincount(pitches, minlength=_SEMITONES + 1).double()

    def add(self, other: "VoiceProfile") -> None:
        """Takes in what another profile knows."""
        self.frames += other.frames
        self.bands += other.bands
        self.pitches += other.pitches

    def distance(self, other: "VoiceProfile") -> float:
        """Between two voices: spectra in dB, plus pitch in semitones."""
        if not (self.frames and other.frames):
            return SAME_VOICE  # an unknown one is as good as one that is not the same
        bands = self.bands / self.frames - other.bands / other.frames
        spectrum = float(bands.square().mean().sqrt())
        if not (self.pitches.sum() and other.pitches.sum()):
            return spectrum
        # The earth mover's distance of two histograms.
        mine, theirs = ((p / p.sum()).cumsum(0) for p in (self.pitches, other.pitches))
        return spectrum + float((mine - theirs).abs().sum())


class VoiceFeatures:
    """Profiles of the sources of a chunk, from the frames in which each is heard."""

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self.hop = max(1, round(_HOP_SECONDS * sample_rate))
        self.frame = max(2, round(_FRAME_SECONDS * sample_rate))
        self.window = torch.hann_window(self.frame)
        self.mel = torchaudio.functional.melscale_fbanks(
            n_freqs=self.frame + 1,  # of frames padded to twice their length
            f_min=min(80.0, sample_rate / 8),
            f_max=min(4000.0, sample_rate / 2),
            n_mels=_MEL_BANDS,
            sample_rate=sample_rate,
        )

    def __call__(self, estimates: Tensor, loudest: float) -> list[VoiceProfile]:
        """A profile of each source of ``[time, sources]``.

        ``loudest`` is the power of the loudest chunk, far below which nothing is heard.
        """
        if len(estimates) < self.frame:
            return [self._profile(source[:0]) for source in estimates.T]
        frames = estimates.T.float().unfold(1, self.frame, self.hop)
        power = frames.square().mean(2)  # [sources, frames]
        # What leaks from the other source is not this one's voice.
        others = power.sum(0) - power
        heard = (power > 10 * SILENCE_RATIO * loudest) & (power > others)
        return [self._profile(frames[i, heard[i]]) for i in range(len(frames))]

    def _profile(self, frames: Tensor) -> VoiceProfile:
        if not len(frames):
            return VoiceProfile(torch.zeros(0, _MEL_BANDS), torch.zeros(0).long())
        power = torch.fft.rfft(frames * self.window, 2 * self.frame).abs().square()
        bands = 10 * (power @ self.mel).clamp(min=1e-12).log10()
        bands = bands.clamp(min=bands.amax(1, keepdim=True) - 40)
        return VoiceProfile(bands - bands.mean(1, keepdim=True), self._pitch(power))

    def _pitch(self, power: Tensor) -> Tensor:
        """Semitones of the voiced frames, from their autocorrelation."""
        correlation = torch.fft.irfft(power)
        spectrum = torch.fft.rfft(self.window, 2 * self.frame)
        ideal = torch.fft.irfft(spectrum.abs().square())
        shortest, longest = (round(self.sample_rate / f) for f in reversed(_PITCH_HZ))
        lags = slice(shortest, min(longest, self.frame * 3 // 4) + 1)
        # The window's own autocorrelation tapers the peaks.
        correlation = correlation / correlation[:, :1] / (ideal / ideal[0])
        peaks, places = correlation[:, lags].max(1)
        hertz = self.sample_rate / (places[peaks > _VOICED] + shortest).float()
        semitones = 12 * (hertz / _PITCH_HZ[0]).log2()
        return semitones.round().long().clamp(0, _SEMITONES)
