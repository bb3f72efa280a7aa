"""Trained separators for use: batches, and recordings of any length."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub.errors import HTTPError
from speechbrain.inference.interfaces import Pretrained
from speechbrain.lobes.models.conv_tasnet import MaskNet
from speechbrain.lobes.models.resepformer import ResourceEfficientSeparator
from speechbrain.utils.data_utils import split_path
from speechbrain.utils.fetching import FetchFrom, FetchSource, fetch
from torch import Tensor, nn

from custom_modules.audio import READ_SECONDS, open_audio, read_blocks, resample_blocks
from custom_modules.errors import InputError
from custom_modules.longform.stitching import CHUNK_SECONDS, LongForm
from custom_modules.models.masking import MaskingSeparator, improve_conv_tasnet
from custom_modules.models.resepformer import improve_resepformer
from custom_modules.onnx.runtimes import load_graph
from custom_modules.postprocessing import observed
from custom_modules.pretrained import HUB, find_folder, load_pretrained

NORMALIZATIONS = ("mixture", "peak", "none")
#: Classes of SpeechBrain's, and what makes them compute as in training for any batch.
_IMPROVED = {MaskNet: improve_conv_tasnet, ResourceEfficientSeparator: improve_resepformer}
_FETCHING = ("trust", "savedir", "fetch_config")
_LOADING = ("hparams_file", "overrides", *_FETCHING)


class PolSESSSeparation(Pretrained):
    """A ready-to-use separator, from a folder that ``export.py`` wrote or from a hub.

    Signals longer than ``chunk_seconds`` are separated by
    :class:`custom_modules.longform.stitching.LongForm`, which explains the options.
    ``batch_size`` is 1 by default on a CPU, whose caches gain nothing by more, and 8
    elsewhere. Among the hparams are ``sample_rate`` (Hz) and ``num_spks``, the modules
    are ``separator``, or ``encoder``, ``masknet`` and ``decoder``. ``observation_db`` adds the
    mixture, at that level, to each source of ``normalize="mixture"``.

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
        modules: dict[str, nn.Module],
        hparams: dict[str, Any] | None = None,
        *args: Any,
        chunk_seconds: float = CHUNK_SECONDS,
        overlap_seconds: float | None = None,
        batch_size: int | None = None,
        observation_db: float | None = None,
        **kwargs: Any,
    ) -> None:
        masknet = modules.get("masknet")
        if improve := _IMPROVED.get(type(masknet)):
            improve(masknet)
        super().__init__(modules, hparams, *args, **kwargs)
        self.chunk_seconds, self.overlap_seconds = chunk_seconds, overlap_seconds
        self.observation_db = observation_db
        self.batch_size = batch_size or (1 if self.device_type == "cpu" else 8)
        self._longform("none")  # refuses what does not fit at once

    @classmethod
    def from_hparams(
        cls, source: str | Path, *args: Any, runtime: str = "torch", **options: Any
    ) -> Self:
        """As in SpeechBrain, from a folder, or ``hf:owner/name`` of a hub with ``trust=True``.

        That runs the code and the YAML that are there. Weights fit exactly, or are refused
        with InputError; ``savedir`` keeps what is fetched. ``runtime="onnx"`` runs the folder's
        graph by onnxruntime, on CPUs. The other options are this class's.
        """
        loading = {key: options.pop(key) for key in _LOADING if key in options}
        if runtime == "torch":
            hparams = load_pretrained(source, *args, **loading)
        else:
            hparams = _load_graph(source, runtime, options.get("run_opts") or {}, loading)
        model = cls(hparams["modules"], hparams, **options)
        shape = model.estimate(torch.zeros(1, 99)).shape
        if shape != (1, 99, model.hparams.num_spks):
            raise InputError(
                f"{source}: returns {list(shape)} for 99 samples, and num_spks is "
                f"{model.hparams.num_spks}; export it again"
            )
        return model

    def estimate(self, mixture: Tensor) -> Tensor:
        """The model's output as it is: neither chunks nor levels.

        ``[batch, time]`` at the model's rate → ``[batch, time, sources]``.
        """
        with self.inference_ctx:
            return self._separator(mixture.to(self.device)).float()

    @property
    def _separator(self) -> nn.Module:
        if "separator" in self.mods:
            return self.mods.separator
        # Built on the way: it has no parameters, and must not own those twice.
        parts = (self.mods.encoder, self.mods.masknet, self.mods.decoder)
        return MaskingSeparator(*parts, getattr(self.hparams, "whole_frames", False))

    def separate_batch(self, mix: Tensor, normalize: str = "none") -> Tensor:
        """Mixtures of any length, ``[batch, time]`` → ``[batch, time, sources]``.

        ``normalize="none"``, as in SpeechBrain, returns what the model does, whose
        level SI-SDR leaves open; see :meth:`separate_file` for the others.
        """
        if mix.dim() != 2 or not mix.shape[1]:
            shape = f"not {list(mix.shape)}"
            raise InputError(f"mixtures must be [batch, time] with samples, {shape}")
        block = round(READ_SECONDS * self.hparams.sample_rate)
        return self._separate(mix.float().cpu().split(block, dim=1), normalize)

    forward = separate_batch

    def separate_file(
        self, path: str, savedir: str | None = None, normalize: str = "mixture"
    ) -> Tensor:
        """Sources of a file of any length, ``[1, time, sources]`` at the model's rate.

        The path is local, a web address or a file on the hub (``hf:owner/name/file``);
        ``savedir`` keeps what is downloaded. Channels are averaged.
        ``normalize="mixture"`` scales the sources to sum to about the mixture's level,
        ``"peak"`` each to a peak of 1; neither returns one that is against the mixture.
        ``"none"`` leaves level and sign as the model returns them: SI-SDR sees neither.
        Raises InputError if the file cannot be read or is empty; or it, or what the
        model makes of it, holds values that are no numbers.
        """
        with open_audio(_fetch_file(str(path), savedir)) as audio:
            blocks = (block.mean(0, keepdims=True) for block in read_blocks(audio))
            model_rate = self.hparams.sample_rate
            mixture = resample_blocks(blocks, audio.samplerate, model_rate)
            return self._separate(map(torch.from_numpy, mixture), normalize, path)

    def _separate(self, blocks: Iterable[Tensor], normalize: str, name: str = "mix") -> Tensor:
        parts = list(self.stream(blocks, normalize))
        if not parts:
            raise InputError(f"{name}: holds no samples")
        sources = torch.cat(parts, dim=1)
        if normalize == "peak":
            peak = sources.abs().amax(1, keepdim=True)
            sources = sources / torch.where(peak > 0, peak, 1)  # silence stays
        return sources.to(self.device)

    def stream(self, blocks: Iterable[Tensor], normalize: str = "mixture") -> Iterator[Tensor]:
        """Separates a stream, for those who cannot hold all of it.

        Blocks of one or more equally long signals, ``[batch, time]`` at the model's
        rate → parts of any length, ``[batch, time, sources]``. ``normalize`` is as for
        :meth:`separate_file`; ``"peak"`` needs all of it, and is left to the caller.
        """
        self.check_normalize(normalize)
        if self.observation_db is None:
            return self._longform(normalize).stream(blocks)
        return self._observed(blocks, self.observation_db)

    def check_normalize(self, normalize: str) -> None:
        """Refuses what is unknown, and what does not go with ``observation_db``."""
        if normalize not in NORMALIZATIONS:
            known = ", ".join(NORMALIZATIONS)
            raise InputError(f"normalize={normalize!r} is unknown; there are {known}")
        if self.observation_db is not None and normalize != "mixture":
            raise InputError(
                f"observation_db={self.observation_db:g} is a level beside the mixture's; "
                f"use normalize=mixture with it, not {normalize}"
            )

    def _observed(self, blocks: Iterable[Tensor], observation_db: float) -> Iterator[Tensor]:
        """As :meth:`stream`, with some of the mixture in each source."""
        waiting: list[Tensor] = []  # what was read, and is not separated yet

        def kept() -> Iterator[Tensor]:
            for block in blocks:
                waiting.append(block.float().cpu())
                yield block

        for part in self._longform("mixture").stream(kept()):
            heard = torch.cat(waiting, dim=1)
            waiting[:] = [heard[:, part.shape[1] :]]
            yield observed(part, heard[:, : part.shape[1]], observation_db)

    def _longform(self, normalize: str) -> LongForm:
        if self.precision != "fp32":
            remedy = f"use --precision fp32 instead of {self.precision}"
        else:
            name = getattr(self.hparams, "model_name", "the model")
            remedy = f"the weights of {name} may be broken: export another checkpoint"
        return LongForm(
            self.estimate,
            self.hparams.sample_rate,
            self.chunk_seconds,
            self.overlap_seconds,
            self.batch_size,
            widen=self.hparams.num_spks > 1,
            match_level=normalize == "mixture",
            match_sign=normalize != "none",
            remedy=remedy,
        )


def _load_graph(
    source: str | Path, runtime: str, run_opts: dict[str, Any], loading: dict[str, Any]
) -> dict[str, Any]:
    """The hparams of a folder whose graph takes the place of modules."""
    wanted = {"device": "cpu", "precision": "fp32"}
    for option, only in wanted.items():
        if (given := run_opts.get(option) or only) != only:
            raise InputError(f"--runtime={runtime}: cannot use {option} {given}, only {only}")
    fetching = {key: loading[key] for key in _FETCHING if key in loading}
    folder = find_folder(source, **fetching, patterns=("*.onnx",))
    separator = load_graph(folder, runtime)
    return {**separator.facts, "modules": {"separator": separator}}


def _fetch_file(path: str, savedir: str | Path | None) -> Path:
    """A local file as it is; another, downloaded: names are alike in many places."""
    if not path.startswith((HUB, "http:", "https:")):
        return Path(path)
    source, name = split_path(path.removeprefix(HUB))
    place = savedir and Path(savedir, hashlib.sha256(source.encode()).hexdigest()[:12])
    origin = FetchFrom.HUGGING_FACE if path.startswith(HUB) else FetchFrom.URI
    try:
        return fetch(name, FetchSource(origin, source), place)
    except (ValueError, OSError, HTTPError) as error:
        raise InputError(f"{path}: cannot be fetched ({error})") from error
