"""Trained separators for use: batches, and recordings of any length."""

import os
import re
from contextlib import suppress

import soundfile as sf
import torch
from huggingface_hub.utils import EntryNotFoundError
from speechbrain.inference.interfaces import Pretrained
from speechbrain.lobes.models import conv_tasnet
from speechbrain.utils.data_utils import split_path
from speechbrain.utils.fetching import FetchConfig, LocalStrategy, fetch
from speechbrain.utils.superpowers import import_from_path

from custom_modules.errors import InputError
from custom_modules.longform import CHUNK_SECONDS, LongForm, resample_blocks
from custom_modules.longform.stitching import check_normalize, scale_to_peak
from custom_modules.models.masking import MaskingSeparator, improve_conv_tasnet

INTERFACE_FILE = "custom_interface.py"
_READ_SECONDS = 10


class PolSESSSeparation(Pretrained):
    """A ready-to-use separator, from a folder that ``export.py`` wrote or from a hub.

    Signals longer than ``chunk_seconds`` are separated in overlapping chunks, in
    memory that depends on the chunks alone. Speakers keep their places from chunk
    to chunk.

    Arguments
    ---------
    *args, **kwargs
        As for ``speechbrain.inference.interfaces.Pretrained``. Among the hparams are
        ``sample_rate`` (Hz) and ``num_spks``, the modules are ``separator``, or
        ``encoder``, ``masknet`` and ``decoder``.
    chunk_seconds, overlap_seconds : float
        See :class:`custom_modules.longform.LongForm`.
    batch_size : int
        Chunks to process together; None takes 1 on a CPU, whose caches gain
        nothing by more, and 8 elsewhere.

    Raises
    ------
    InputError
        If chunks and overlaps do not fit each other.

    Example
    -------
    >>> model = PolSESSSeparation(
    ...     {"separator": torch.nn.Unflatten(1, (-1, 1))},  # one source: the mixture
    ...     {"sample_rate": 8000, "num_spks": 1},
    ...     run_opts={"device": "cpu"},
    ... )
    >>> model.separate_batch(torch.randn(2, 200_000)).shape
    torch.Size([2, 200000, 1])
    """

    HPARAMS_NEEDED = ("sample_rate", "num_spks")

    def __init__(
        self,
        modules=None,
        hparams=None,
        *args,
        chunk_seconds=CHUNK_SECONDS,
        overlap_seconds=None,
        batch_size=None,
        **kwargs,
    ):
        masknet = modules.get("masknet")
        if type(masknet) is conv_tasnet.MaskNet:
            improve_conv_tasnet(masknet)
        super().__init__(modules, hparams, *args, **kwargs)
        self.chunk_seconds, self.overlap_seconds = chunk_seconds, overlap_seconds
        self.batch_size = batch_size or (1 if self.device_type == "cpu" else 8)
        self._longform(match_level=False)  # refuses what does not fit at once

    @classmethod
    def from_hparams(
        cls,
        source,
        hparams_file="hyperparams.yaml",
        savedir=None,
        local_strategy=LocalStrategy.SYMLINK,
        fetch_config=FetchConfig(),  # noqa: B008  (as in SpeechBrain)
        **kwargs,
    ):
        """As in SpeechBrain; what the folder brings of the model's code is loaded.

        Folders of SpeechBrain's own separators, which bring none, work as well.
        """
        options = {
            "source": source,
            "savedir": savedir,
            "local_strategy": local_strategy,
            "fetch_config": fetch_config,
        }
        interface = None
        with suppress(ValueError, EntryNotFoundError):  # there is none on the hub
            interface = fetch(INTERFACE_FILE, **options)
        if interface is not None and interface.exists():
            import_from_path(interface)
        return super().from_hparams(hparams_file=hparams_file, **options, **kwargs)

    def estimate(self, mixture):
        """The model's output as it is: neither chunks nor levels.

        Arguments
        ---------
        mixture : torch.Tensor
            ``[batch, time]``, at the model's sampling rate.

        Returns
        -------
        torch.Tensor
            ``[batch, time, sources]``.
        """
        with self.inference_ctx:
            return self._separator(mixture.to(self.device)).float()

    @property
    def _separator(self):
        if "separator" in self.mods:
            return self.mods.separator
        # Built on the way: it has no parameters, and must not own those twice.
        return MaskingSeparator(self.mods.encoder, self.mods.masknet, self.mods.decoder)

    def separate_batch(self, mix, normalize="none"):
        """Separates a batch of mixtures of any length.

        Arguments
        ---------
        mix : torch.Tensor
            ``[batch, time]``, at the model's sampling rate.
        normalize : str
            ``"none"``, as in SpeechBrain, returns what the model does, whose level
            SI-SDR leaves open; see :meth:`separate_file` for the others.

        Returns
        -------
        torch.Tensor
            ``[batch, time, sources]``.

        Raises
        ------
        InputError
            If the shape or an option does not fit.
        """
        if mix.dim() != 2 or not mix.shape[1]:
            raise InputError(
                f"mixtures must be [batch, time] with at least a sample, "
                f"not {list(mix.shape)}"
            )
        block = round(_READ_SECONDS * self.hparams.sample_rate)
        parts = list(self.stream(mix.float().cpu().split(block, dim=1), normalize))
        sources = torch.cat(parts, dim=1)
        sources = scale_to_peak(sources) if normalize == "peak" else sources
        return sources.to(self.device)

    def separate_file(self, path, savedir=None, normalize="mixture"):
        """Separates a file of any length; channels are averaged.

        Arguments
        ---------
        path : str
            A local path, a web address or a file on the hub.
        savedir : str
            Where to keep what is downloaded.
        normalize : str
            ``"mixture"`` scales the sources to sum to about the mixture's level,
            ``"peak"`` each to a peak of 1, ``"none"`` leaves them as they are.

        Returns
        -------
        torch.Tensor
            ``[1, time, sources]``, at the model's sampling rate.

        Raises
        ------
        InputError
            If the file cannot be read or is empty; or it, or what the model makes of
            it, holds values that are no numbers.
        """
        source, name = split_path(path)
        local = fetch(name, source=source, savedir=savedir)
        model_rate = self.hparams.sample_rate
        with open_audio(local) as audio:
            blocks = (b.mean(0, keepdim=True) for b in read_blocks(audio))
            blocks = resample_blocks(blocks, audio.samplerate, model_rate)
            parts = list(self.stream(blocks, normalize))
        if not parts:
            raise InputError(f"{path}: holds no samples")
        sources = torch.cat(parts, dim=1)
        sources = scale_to_peak(sources) if normalize == "peak" else sources
        return sources.to(self.device)

    def stream(self, blocks, normalize="mixture"):
        """Separates a stream, for those who cannot hold all of it.

        Arguments
        ---------
        blocks : iterable of torch.Tensor
            Parts of one or more equally long signals, one after the other, at the
            model's sampling rate, ``[batch, time]``.
        normalize : str
            As for :meth:`separate_file`. ``"peak"`` needs all of it, and is left to
            the caller.

        Returns
        -------
        iterator of torch.Tensor
            The sources, in parts of any length, ``[batch, time, sources]``.
        """
        check_normalize(normalize)
        return self._longform(match_level=normalize == "mixture").stream(blocks)

    def _longform(self, match_level):
        return LongForm(
            self.estimate,
            self.hparams.sample_rate,
            self.chunk_seconds,
            self.overlap_seconds,
            self.batch_size,
            widen=self.hparams.num_spks > 1,
            match_level=match_level,
            remedy=self._remedy(),
        )

    def _remedy(self):
        """What to do if the model returns values that are no numbers."""
        if self.precision != "fp32":
            return f"use --precision fp32 instead of {self.precision}"
        name = getattr(self.hparams, "model_name", "the model")
        return f"the weights of {name} may be broken: export another checkpoint"

    def forward(self, mix):
        """Separates a batch, see :meth:`separate_batch`."""
        return self.separate_batch(mix)


def open_audio(path):
    """Opens an audio file.

    Arguments
    ---------
    path : str or pathlib.Path

    Returns
    -------
    soundfile.SoundFile

    Raises
    ------
    InputError
        If it cannot be read.
    """
    try:
        if not os.path.exists(path):
            raise InputError(f"{path}: no such file")
        return sf.SoundFile(path)
    except (sf.SoundFileError, OSError, TypeError) as error:
        reason = re.sub(r"^Error opening .*?: ", "", str(error))
        raise InputError(f"{path}: cannot be read ({reason})") from error


def read_blocks(audio, seconds=_READ_SECONDS):
    """Reads an open file block by block.

    Arguments
    ---------
    audio : soundfile.SoundFile
    seconds : float
        Length of a block.

    Yields
    ------
    torch.Tensor
        ``[channels, time]``.

    Raises
    ------
    InputError
        If the file is damaged or holds values that are no numbers.
    """
    size = max(1, round(seconds * audio.samplerate))
    start = 0
    while True:
        try:
            block = audio.read(size, dtype="float32", always_2d=True)
        except (sf.SoundFileError, OSError, ValueError) as error:
            raise InputError(f"{audio.name}: cannot be read ({error})") from error
        if not len(block):
            return
        block = torch.from_numpy(block).T
        bad = ~torch.isfinite(block).all(0)
        if bad.any():
            second = (start + int(bad.nonzero()[0])) / audio.samplerate
            raise InputError(
                f"{audio.name}: a value that is no number at {second:.3f} s"
            )
        start += block.shape[1]
        yield block
