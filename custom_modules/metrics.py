"""What an estimate is worth: which metrics there are, and how each is computed.

Every metric is taken of three signals against each target: the estimate, the
mixture, whose difference is the improvement, and the *background-removal
oracle*, the clean sum of the speakers. Removing the background alone raises
SI-SDR on a noisy mixture without parting the speakers, and the oracle says by
how much; the speaker-to-speaker SIR is what only separation raises.

What cannot be computed raises :class:`Uncomputable`, whose text tables count.
Only the alignment and SI-SDR use torch; all else is left to forked worker
processes, which must not.
"""

from typing import NamedTuple

import numpy as np
import torch
from fast_bss_eval.numpy import square_cosine_metrics
from numpy.lib.stride_tricks import sliding_window_view
from pesq import BufferTooShortError, NoUtterancesError, PesqError, pesq
from pystoi import utils
from pystoi.stoi import BETA, DYN_RANGE, FS, N_FRAME, NFFT, OBM, N

from custom_modules.objectives import pit_si_sdr_loss, reorder, si_sdr

#: A target below this energy is silent, and no ratio to it means anything.
SILENCE_ENERGY = 1e-8

#: Taps of the distortion filter that BSS-eval allows; 512 in all its versions.
BSS_FILTER_TAPS = 512

#: BSS-eval's ratios are squared cosines; beyond this their rounding decides.
BSS_LIMIT_DB = 100.0

#: How far rounding may push a squared cosine out of [0, 1].
COSINE_ERROR = 1e-6

#: PESQ's mode at each sample rate in Hz that it is defined for.
PESQ_MODES = {8000: "nb", 16000: "wb"}


class Metric(NamedTuple):
    """A metric as tables show it; ``<name>i`` is its improvement.

    Arguments
    ---------
    heading : str
    unit : str
        ``"dB"``, or ``""`` for none.
    decimals : int
        Of a mean in a table.
    group : str
        What is computed in one go, and chosen by one option.
    """

    heading: str
    unit: str
    decimals: int
    group: str


#: Column → metric, in the order of tables.
METRICS = {
    "si_sdr": Metric("SI-SDR", "dB", 2, "si_sdr"),
    "sdr": Metric("SDR", "dB", 2, "sdr"),
    "sir": Metric("SIR", "dB", 2, "sdr"),
    "pesq": Metric("PESQ", "", 2, "pesq"),
    "stoi": Metric("STOI", "", 3, "stoi"),
    "estoi": Metric("ESTOI", "", 3, "stoi"),
}

#: What can be chosen beside SI-SDR, which is always there.
GROUPS = ("sdr", "pesq", "stoi")

#: What is scored: suffix of its columns → its name.
SIGNALS = {"": "estimate", "_mixture": "mixture", "_oracle": "oracle"}


class Uncomputable(Exception):  # noqa: N818 - a finding, not an error
    """A metric that does not exist for a signal; the text names the reason."""


def align(estimates, targets):
    """Puts estimates into the order of their targets, by the best mean SI-SDR.

    Arguments
    ---------
    estimates : torch.Tensor
        ``[batch, time, sources]``, in any order. One that is not finite is
        assigned to what the others leave.
    targets : torch.Tensor
        ``[batch, time, sources]``.

    Returns
    -------
    torch.Tensor
        ``[batch, time, sources]``.

    Example
    -------
    >>> targets = torch.randn(1, 800, 2)
    >>> torch.equal(align(targets.flip(-1), targets), targets)
    True
    """
    finite = torch.isfinite(estimates).all(1, keepdim=True)
    usable = torch.where(finite, estimates, estimates.new_zeros(()))
    _, permutation = pit_si_sdr_loss(usable, targets)
    return reorder(estimates, permutation)


def si_sdr_of_signals(aligned, targets, mixture):
    """SI-SDR of the estimates, the mixture and the oracle.

    Arguments
    ---------
    aligned : torch.Tensor
        ``[batch, time, sources]``, from :func:`align`.
    targets : torch.Tensor
        ``[batch, time, sources]``.
    mixture : torch.Tensor
        ``[batch, time]``.

    Returns
    -------
    dict of str to torch.Tensor
        Suffix of :data:`SIGNALS` → dB, ``[batch, sources]``. The oracle is
        missing if there is one source only.

    Example
    -------
    >>> targets = torch.randn(1, 8000, 2)
    >>> scores = si_sdr_of_signals(targets, targets, targets.sum(-1))
    >>> bool((scores[""] - scores["_mixture"] > 60).all())
    True
    """
    scores = {
        "": si_sdr(aligned, targets),
        "_mixture": si_sdr(mixture.unsqueeze(2).expand_as(targets), targets),
    }
    if targets.shape[2] > 1:
        speech = targets.sum(2, keepdim=True)
        scores["_oracle"] = si_sdr(speech.expand_as(targets), targets)
    return scores


def bss_eval(references, signals):
    """SDR and SIR of BSS-eval, of every signal against every reference.

    A time-invariant filter of 512 taps is forgiven. SDR: what the filtered
    reference explains, over the rest. SIR: that, over what only the other
    references explain.

    Source: Vincent et al. 2006; Scheibler 2022, "SDR – medium rare with fast
    computations", whose ``fast_bss_eval`` computes it.

    Arguments
    ---------
    references : numpy.ndarray
        ``[references, time]``, none of them silent.
    signals : numpy.ndarray
        ``[signals, time]``, finite. Each column of the result depends on its
        own signal and on the number of signals alone, to the last bit.

    Returns
    -------
    sdr, sir : numpy.ndarray
        dB, ``[references, signals]``, at most 100 in magnitude; NaN where the
        references leave the filter undetermined.

    Raises
    ------
    Uncomputable
        If the signals are shorter than the filter.

    Example
    -------
    >>> noise = np.random.default_rng(1).standard_normal((2, 8000))
    >>> sdr, sir = bss_eval(noise, noise[:1] + 0.1 * noise[1:])
    >>> bool(abs(sdr[0, 0] - 20) < 1), bool(abs(sir[0, 0] - 20) < 1)
    (True, True)
    """
    if references.shape[1] <= BSS_FILTER_TAPS:
        raise Uncomputable(f"not longer than {BSS_FILTER_TAPS} samples")
    try:
        own, all_together = square_cosine_metrics(
            references.astype(np.float64),
            signals.astype(np.float64),
            filter_length=BSS_FILTER_TAPS,
        )
    except np.linalg.LinAlgError as error:
        raise Uncomputable("target leaves the filter undetermined") from error
    # What is explained by one reference is explained by all of them.
    sir = np.divide(own, all_together, out=np.zeros_like(own), where=all_together > 0)
    return _to_db(own), _to_db(sir)


def _to_db(cosine):
    """The ratio that a squared cosine stands for; NaN if it is none."""
    least = 1 / (1 + 10 ** (BSS_LIMIT_DB / 10))
    possible = (cosine > -COSINE_ERROR) & (cosine < 1 + COSINE_ERROR)
    cosine = np.clip(cosine, least, 1 - least)
    return np.where(possible, 10 * np.log10(cosine / (1 - cosine)), np.nan)


def pesq_score(target, signal, sample_rate):
    """Perceptual evaluation of speech quality, MOS-LQO.

    Source: ITU-T P.862 (narrow band, at 8 kHz) and P.862.2 (wide band, 16 kHz).

    Arguments
    ---------
    target, signal : numpy.ndarray
        ``[time]``, never padded: zeros change the score.
    sample_rate : int
        Hz.

    Returns
    -------
    float

    Raises
    ------
    Uncomputable
        If PESQ finds no utterance, the signals are shorter than 0.25 s, or the
        rate is another one.

    Example
    -------
    >>> time = np.arange(16000) / 8000
    >>> chirps = np.sin(800 * np.sin(9 * time) * time) * (np.sin(20 * time) > 0)
    >>> round(pesq_score(chirps, chirps, 8000), 2)
    4.55
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


def is_silent(signals):
    """Which signals are constant.

    Arguments
    ---------
    signals : torch.Tensor
        ``[batch, time, sources]``.

    Returns
    -------
    torch.Tensor
        bool, ``[batch, sources]``.

    Example
    -------
    >>> is_silent(torch.tensor([[[0.5, 1.0], [0.5, -1.0]]]))
    tensor([[ True, False]])
    """
    centred = signals - signals.mean(1, keepdim=True)
    return centred.square().sum(1) < SILENCE_ENERGY


def fault(signal):
    """Why nothing can be computed of a signal.

    Arguments
    ---------
    signal : numpy.ndarray
        ``[time]``.

    Returns
    -------
    str or None

    Example
    -------
    >>> fault(np.float32([0.5, 0.5])), fault(np.float32([1, np.nan]))
    ('silent', 'not finite')
    """
    signal = signal.astype(np.float64)
    if not np.isfinite(signal).all():
        return "not finite"
    energy = np.square(signal - signal.mean()).sum()
    return "silent" if energy < SILENCE_ENERGY else None


def columns_of(groups, sources):
    """The columns of scores in ``test_results.csv``.

    Arguments
    ---------
    groups : collection of str
        Some of :data:`GROUPS`.
    sources : int
        How many the task has. With one there is neither an oracle nor SIR.

    Returns
    -------
    list of str

    Example
    -------
    >>> columns_of((), 1)
    ['si_sdr', 'si_sdr_mixture', 'si_sdri']
    >>> columns_of((), 2)[-2:]
    ['si_sdr_oracle', 'si_sdri_oracle']
    """
    columns = []
    for name in metrics_of(groups, sources):
        columns += [name, f"{name}_mixture", f"{name}i"]
        if sources > 1:
            columns += [f"{name}_oracle", f"{name}i_oracle"]
    return columns


def metrics_of(groups, sources):
    """The names of the metrics of some groups.

    Arguments
    ---------
    groups : collection of str
        Some of :data:`GROUPS`.
    sources : int
        How many the task has.

    Returns
    -------
    list of str

    Example
    -------
    >>> metrics_of(("sdr",), 2), metrics_of(("sdr",), 1)
    (['si_sdr', 'sdr', 'sir'], ['si_sdr', 'sdr'])
    """
    return [
        name
        for name, metric in METRICS.items()
        if metric.group in ("si_sdr", *groups) and (name != "sir" or sources > 1)
    ]


_HOP = N_FRAME // 2
_WINDOW = np.hanning(N_FRAME + 2)[1:-1]
_CLIP = 1 + 10 ** (-BETA / 20)


class StoiReference:
    """A target, prepared for scoring signals against it.

    Source: Taal et al. 2011 (STOI); Jensen and Taal 2016 (ESTOI).

    Arguments
    ---------
    target : numpy.ndarray
        Clean speech, ``[time]``.
    sample_rate : int
        Hz.

    Raises
    ------
    Uncomputable
        If fewer than 30 frames (0.4 s) of it are not silent.

    Example
    -------
    >>> from pystoi import stoi as pystoi
    >>> noise = np.random.default_rng(1).standard_normal((2, 16000))
    >>> stoi, estoi = StoiReference(noise[0], 8000).score(noise[0] + 0.3 * noise[1])
    >>> bool(abs(stoi - pystoi(noise[0], noise[0] + 0.3 * noise[1], 8000)) < 1e-9)
    True
    """

    def __init__(self, target, sample_rate):
        self.sample_rate = sample_rate
        frames = self._frames(target)
        if not len(frames):
            raise Uncomputable("fewer than 30 frames of speech")
        energies = 20 * np.log10(np.linalg.norm(frames, axis=1) + utils.EPS)
        self._heard = energies > energies.max() - DYN_RANGE
        self._segments = self._to_segments(frames)
        self._direction = _to_unit(self._segments)
        self._normalised = _normalise(self._segments)

    def score(self, signal):
        """STOI and ESTOI of a signal.

        Arguments
        ---------
        signal : numpy.ndarray
            ``[time]``, as long as the target.

        Returns
        -------
        stoi, estoi : float
        """
        segments = self._to_segments(self._frames(signal))
        scale = _norm(self._segments) / (_norm(segments) + utils.EPS)
        clipped = np.minimum(segments * scale, self._segments * _CLIP)
        stoi = np.mean(np.sum(_to_unit(clipped) * self._direction, axis=2))
        products = np.sum(self._normalised * _normalise(segments), axis=(1, 2))
        return float(stoi), float(np.mean(products) / N)

    def _frames(self, signal):
        """Windowed frames at 10 kHz, ``[frames, samples]``."""
        signal = signal.astype(np.float64)
        if self.sample_rate != FS:
            signal = utils.resample_oct(signal, FS, self.sample_rate)
        if len(signal) <= N_FRAME:
            return np.zeros((0, N_FRAME))
        return _cut(signal) * _WINDOW

    def _to_segments(self, frames):
        """Third-octave envelopes where the target speaks, [segments, bands, 30]."""
        signal = utils._overlap_and_add(frames[self._heard], _HOP)
        if len(signal) - N_FRAME <= (N - 1) * _HOP:
            raise Uncomputable("fewer than 30 frames of speech")
        spectrum = np.fft.rfft(_cut(signal) * _WINDOW, n=NFFT)
        bands = np.sqrt(np.matmul(OBM, np.square(np.abs(spectrum)).T))
        return sliding_window_view(bands, N, axis=1).transpose(1, 0, 2)


def _cut(signal):
    """Overlapping frames; like pystoi without the last one if it just fits."""
    return sliding_window_view(signal, N_FRAME)[:-1:_HOP]


def _norm(segments):
    return np.linalg.norm(segments, axis=2, keepdims=True)


def _to_unit(segments):
    centred = segments - segments.mean(axis=2, keepdims=True)
    return centred / (_norm(centred) + utils.EPS)


def _normalise(segments):
    """Rows, then columns, without their mean and of unit norm.

    ``pystoi`` adds noise at the level of rounding, so that nothing is divided by
    0; what is constant becomes 0 here, and results repeat.
    """
    rows = _to_unit(segments)
    columns = rows - rows.mean(axis=1, keepdims=True)
    return columns / (np.linalg.norm(columns, axis=1, keepdims=True) + utils.EPS)
