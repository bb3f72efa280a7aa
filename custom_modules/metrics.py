"""What an estimate is worth: one table of metrics, and what computes them.

A metric is taken of three signals against each target: the estimate; the mixture, whose
difference is the improvement; and the *background-removal oracle*, the clean sum of the
speakers, which says how much is gained without parting them.

To add a metric, write its function and one entry of :data:`METRICS`; options, tables,
pictures and comparisons follow. Functions run in forked worker processes, which must
not touch torch; only those that take a batch on the device do.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from fast_bss_eval.numpy import square_cosine_metrics
from numpy.lib.stride_tricks import sliding_window_view
from pesq import BufferTooShortError, NoUtterancesError, PesqError, pesq
from pystoi import utils
from pystoi.stoi import BETA, DYN_RANGE, FS, N_FRAME, NFFT, OBM, N
from torch import Tensor

from custom_modules.errors import InputError
from custom_modules.objectives import SILENCE_ENERGY, pit_si_sdr_loss, reorder, si_sdr

#: Taps of the distortion filter that BSS-eval allows; 512 in all its versions.
BSS_FILTER_TAPS = 512

#: BSS-eval's ratios are squared cosines; beyond this their rounding decides.
BSS_LIMIT_DB = 100.0

#: How far rounding may push a squared cosine out of [0, 1].
COSINE_ERROR = 1e-6

#: PESQ's mode at each sample rate in Hz that it is defined for.
PESQ_MODES = {8000: "nb", 16000: "wb"}

#: What is scored: suffix of its columns → its name.
SIGNALS = {"": "estimate", "_mixture": "mixture", "_oracle": "oracle"}


class Uncomputable(Exception):  # noqa: N818 - a finding, not an error
    """A metric that does not exist for a signal; the text says why, for tables."""


def align(estimates: Tensor, targets: Tensor) -> Tensor:
    """Estimates in the order of their targets, by the best mean SI-SDR.

    ``[batch, time, sources]``. One that is not finite gets what the others leave.
    """
    finite = torch.isfinite(estimates).all(1, keepdim=True)
    usable = torch.where(finite, estimates, estimates.new_zeros(()))
    _, permutation = pit_si_sdr_loss(usable, targets)
    return reorder(estimates, permutation)


def scores_on_device(
    names: Collection[str], aligned: Tensor, targets: Tensor, mixture: Tensor
) -> dict[str, dict[str, Tensor]]:
    """Metric → suffix of :data:`SIGNALS` → ``[batch, sources]``; SI-SDR, for one.

    Of those names that take a batch. ``aligned`` and ``targets`` are ``[batch, time,
    sources]``, ``mixture`` is ``[batch, time]``. One source alone has no oracle.
    """
    signals = {"": aligned, "_mixture": mixture.unsqueeze(2).expand_as(targets)}
    if targets.shape[2] > 1:
        signals["_oracle"] = targets.sum(2, keepdim=True).expand_as(targets)
    return {
        name: {k: METRICS[name].function(x, targets) for k, x in signals.items()}
        for name in names
        if METRICS[name].takes == "batch"
    }


def bss_eval(references: np.ndarray, signals: np.ndarray) -> tuple[np.ndarray, ...]:
    """SDR and SIR of BSS-eval in dB, of every signal against every reference.

    ``[references, time]``, none of them silent, and ``[signals, time]``, finite →
    twice ``[references, signals]``, at most 100 in magnitude; NaN where the references
    leave the filter undetermined. A column depends on its own signal and on the number
    of signals alone, to the last bit.

    A time-invariant filter of 512 taps is forgiven. SDR: what the filtered reference
    explains, over the rest. SIR: that, over what only the other references explain.

    Source: Vincent et al. 2006; Scheibler 2022, "SDR – medium rare with fast
    computations", whose ``fast_bss_eval`` computes it.

    >>> noise = np.random.default_rng(1).standard_normal((2, 8000))
    >>> sdr, sir = bss_eval(noise, noise[:1] + 0.1 * noise[1:])
    >>> bool(abs(sdr[0, 0] - 20) < 1), bool(abs(sir[0, 0] - 20) < 1)
    (True, True)
    """
    if references.shape[1] <= BSS_FILTER_TAPS:
        raise Uncomputable(f"not longer than {BSS_FILTER_TAPS} samples")
    try:
        own, all_together = square_cosine_metrics(
            references.astype(np.float64), signals.astype(np.float64), filter_length=BSS_FILTER_TAPS
        )
    except np.linalg.LinAlgError as error:
        raise Uncomputable("target leaves the filter undetermined") from error
    # What is explained by one reference is explained by all of them.
    sir = np.divide(own, all_together, out=np.zeros_like(own), where=all_together > 0)
    return _to_db(own), _to_db(sir)


def _to_db(cosine: np.ndarray) -> np.ndarray:
    """The ratio that a squared cosine stands for; NaN if it is none."""
    least = 1 / (1 + 10 ** (BSS_LIMIT_DB / 10))
    possible = (cosine > -COSINE_ERROR) & (cosine < 1 + COSINE_ERROR)
    cosine = np.clip(cosine, least, 1 - least)
    return np.where(possible, 10 * np.log10(cosine / (1 - cosine)), np.nan)


def pesq_score(target: np.ndarray, signal: np.ndarray, sample_rate: int) -> float:
    """Perceptual evaluation of speech quality, MOS-LQO.

    ``[time]``, never padded: zeros change the score.

    Source: ITU-T P.862 (narrow band, at 8 kHz) and P.862.2 (wide band, 16 kHz).
    """
    if sample_rate not in PESQ_MODES:
        raise Uncomputable(f"undefined at {sample_rate} Hz")
    try:
        return float(pesq(sample_rate, target, signal, PESQ_MODES[sample_rate]))
    except NoUtterancesError as error:
        raise Uncomputable("no utterance found") from error
    except BufferTooShortError as error:
        raise Uncomputable("shorter than 0.25 s") from error
    except (PesqError, ValueError) as error:
        raise Uncomputable("PESQ gives up") from error


_HOP = N_FRAME // 2
_WINDOW = np.hanning(N_FRAME + 2)[1:-1]
_CLIP = 1 + 10 ** (-BETA / 20)


class StoiReference:
    """Clean speech, ``[time]``, prepared for scoring signals against it.

    Uncomputable if fewer than 30 frames (0.4 s) of it are not silent.

    Source: Taal et al. 2011 (STOI); Jensen and Taal 2016 (ESTOI).

    >>> from pystoi import stoi as pystoi
    >>> noise = np.random.default_rng(1).standard_normal((2, 16000))
    >>> stoi, estoi = StoiReference(noise[0], 8000).score(noise[0] + 0.3 * noise[1])
    >>> bool(abs(stoi - pystoi(noise[0], noise[0] + 0.3 * noise[1], 8000)) < 1e-9)
    True
    """

    def __init__(self, target: np.ndarray, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        frames = self._frames(target)
        if not len(frames):
            raise Uncomputable("fewer than 30 frames of speech")
        energies = 20 * np.log10(np.linalg.norm(frames, axis=1) + utils.EPS)
        self._heard = energies > energies.max() - DYN_RANGE
        self._segments = self._to_segments(frames)
        self._direction = _to_unit(self._segments)
        self._normalised = _normalise(self._segments)

    def score(self, signal: np.ndarray) -> tuple[float, float]:
        """STOI and ESTOI of a signal as long as the target."""
        segments = self._to_segments(self._frames(signal))
        scale = _norm(self._segments) / (_norm(segments) + utils.EPS)
        clipped = np.minimum(segments * scale, self._segments * _CLIP)
        stoi = np.mean(np.sum(_to_unit(clipped) * self._direction, axis=2))
        products = np.sum(self._normalised * _normalise(segments), axis=(1, 2))
        return float(stoi), float(np.mean(products) / N)

    def _frames(self, signal: np.ndarray) -> np.ndarray:
        """Windowed frames at 10 kHz, ``[frames, samples]``."""
        signal = signal.astype(np.float64)
        if self.sample_rate != FS:
            signal = utils.resample_oct(signal, FS, self.sample_rate)
        if len(signal) <= N_FRAME:
            return np.zeros((0, N_FRAME))
        return _cut(signal)

    def _to_segments(self, frames: np.ndarray) -> np.ndarray:
        """Third-octave envelopes where the target speaks, [segments, bands, 30]."""
        signal = utils._overlap_and_add(frames[self._heard], _HOP)
        if len(signal) - N_FRAME <= (N - 1) * _HOP:
            raise Uncomputable("fewer than 30 frames of speech")
        spectrum = np.fft.rfft(_cut(signal), n=NFFT)
        bands = np.sqrt(np.matmul(OBM, np.square(np.abs(spectrum)).T))
        return sliding_window_view(bands, N, axis=1).transpose(1, 0, 2)


def _cut(signal: np.ndarray) -> np.ndarray:
    """Windowed, overlapping frames; like pystoi without the last if it just fits."""
    return sliding_window_view(signal, N_FRAME)[:-1:_HOP] * _WINDOW


def _norm(segments: np.ndarray, axis: int = 2) -> np.ndarray:
    return np.linalg.norm(segments, axis=axis, keepdims=True)


def _to_unit(segments: np.ndarray, axis: int = 2) -> np.ndarray:
    centred = segments - segments.mean(axis=axis, keepdims=True)
    return centred / (_norm(centred, axis) + utils.EPS)


def _normalise(segments: np.ndarray) -> np.ndarray:
    """Rows, then columns, without their mean and of unit norm.

    ``pystoi`` adds noise at the level of rounding, so that nothing is divided by
    0; what is constant becomes 0 here, and results repeat.
    """
    return _to_unit(_to_unit(segments), axis=1)


class Metric(NamedTuple):
    """How a metric is computed and shown; ``<name>i`` is its improvement.

    What cannot be computed raises :class:`Uncomputable`, or is NaN. The function of a

    - ``pair``: takes target and signal, ``[time]``, and the sample rate → a number;
    - ``targets``: takes those that are not silent, ``[targets, time]``, and the signals
      of all variants, ``[signals, time]`` → ``[targets, signals]``;
    - ``batch``: takes signals and targets on the device, torch, ``[batch, time,
      sources]``, in one order → ``[batch, sources]``.
    """

    function: Callable
    heading: str
    unit: str  # "dB", or "" for none
    decimals: int  # of a mean in a table
    group: str  # chosen by one option, as ``--no_<group>``
    takes: Literal["pair", "targets", "batch"] = "pair"
    part: int | None = None  # which, if the function returns several such results
    #: Of a pair, done once for a target: ``prepare(target, sample_rate)`` stands in for
    #: the target, and the function takes no sample rate.
    prepare: Callable | None = None
    across: bool = False  # compares sources: needs several, none of them silent
    undefined: str = "not a number"  # what NaN stands for


_BSS_NAN = "target leaves the filter undetermined"

#: Column → metric, in the order of tables.
METRICS = {
    "si_sdr": Metric(si_sdr, "SI-SDR", "dB", 2, "si_sdr", "batch"),
    "sdr": Metric(bss_eval, "SDR", "dB", 2, "sdr", "targets", 0, undefined=_BSS_NAN),
    "sir": Metric(bss_eval, "SIR", "dB", 2, "sdr", "targets", 1, across=True, undefined=_BSS_NAN),
    "pesq": Metric(pesq_score, "PESQ", "", 2, "pesq"),
    "stoi": Metric(StoiReference.score, "STOI", "", 3, "stoi", part=0, prepare=StoiReference),
    "estoi": Metric(StoiReference.score, "ESTOI", "", 3, "stoi", part=1, prepare=StoiReference),
}

#: Always computed, as estimates are aligned by it.
BASE_GROUP = "si_sdr"


def metric_groups() -> tuple[str, ...]:
    """What can be chosen beside SI-SDR, which is always there."""
    groups = dict.fromkeys(metric.group for metric in METRICS.values())
    return tuple(name for name in groups if name != BASE_GROUP)


def checked_groups(names: Sequence[str], option: str = "test_metrics") -> tuple[str, ...]:
    """A choice of groups in the order of the table; InputError if one is unknown.

    >>> checked_groups(["stoi", "sdr"])
    ('sdr', 'stoi')
    """
    known = metric_groups()
    if not isinstance(names, list | tuple) or any(n not in known for n in names):
        raise InputError(
            f"{option} {names}: choose a list of {', '.join(known)}; SI-SDR is always computed"
        )
    return tuple(name for name in known if name in names)


def metrics_of(groups: Collection[str], sources: int) -> list[str]:
    """The metrics of some groups that exist for so many sources.

    >>> metrics_of(("sdr",), 2), metrics_of(("sdr",), 1)
    (['si_sdr', 'sdr', 'sir'], ['si_sdr', 'sdr'])
    """
    return [
        name
        for name, metric in METRICS.items()
        if metric.group in (BASE_GROUP, *groups) and (sources > 1 or not metric.across)
    ]


def columns_of(groups: Collection[str], sources: int) -> list[str]:
    """The scores in ``test_results.csv``; of one source there is no oracle.

    >>> columns_of((), 2)
    ['si_sdr', 'si_sdr_mixture', 'si_sdri', 'si_sdr_oracle', 'si_sdri_oracle']
    """
    suffixes = ("", "_mixture", "i", "_oracle", "i_oracle")[: 3 if sources == 1 else 5]
    names = metrics_of(groups, sources)
    return [f"{name}{suffix}" for name in names for suffix in suffixes]


def fault(signal: np.ndarray) -> str | None:
    """Why nothing can be computed of a signal, ``[time]``.

    >>> fault(np.float32([0.5, 0.5])), fault(np.float32([1, np.nan]))
    ('silent', 'not finite')
    """
    signal = signal.astype(np.float64)
    if not np.isfinite(signal).all():
        return "not finite"
    energy = np.square(signal - signal.mean()).sum()
    return "silent" if energy < SILENCE_ENERGY else None
