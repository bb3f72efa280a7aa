"""From a manifest to mixtures and targets.

A manifest lists for each variant the layers that it cancels. An item of a dataset draws
its variant, reads the full mix, the targets and those layers, and subtracts them. The
draw is a pure function of seed, epoch and mixture id, so neither the number of workers
nor a resumed run changes what is trained on.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.data_utils import batch_pad_right
from torch import Tensor
from torch.utils.data import get_worker_info

from custom_modules import mmipc
from custom_modules.audio import cancel, read_layer
from custom_modules.composing import Part, compose
from custom_modules.distributed import FEWER_WORKERS
from custom_modules.errors import InputError
from custom_modules.limits import checked_variants
from custom_modules.manifest.reading import JoinedManifest, Manifest, open_manifest
from custom_modules.mmipc import CANCELLED_LAYERS, VARIANTS, variants_of
from custom_modules.remixing import Remixer, Sketch


class MixtureDataset(DynamicItemDataset):
    """PolSESS mixtures under MM-IPC; each epoch draws one variant for each.

    Items hold ``id``, ``environment``, ``variants`` (names), ``mixtures``
    ``[variants, time]`` and ``targets`` ``[time, sources]``. Mixtures that have none of
    the variants are left out; ``draw=False`` gives all that a mixture has.
    Without ``segment_seconds``, the length of a random crop, they are whole. Which
    ``max_samples`` are kept depends on their ids alone: the fewer are among the more.
    ``remixing`` has ``remix``, ``speed`` and ``silent_talker`` of an hparams file. What is
    drawn has a ``recipe``, its :class:`Part` list, whose sum the mixture is.
    """

    def __init__(
        self,
        manifest: Manifest | JoinedManifest,
        variants: str | Iterable[str],
        task: str,
        seed: int,
        segment_seconds: float | None = None,
        max_samples: int | None = None,
        draw: bool = True,
        curriculum: list[dict] | None = None,
        remixing: Mapping[str, Any] | None = None,
    ) -> None:
        mmipc.num_sources(task)  # refuses an unknown one
        self.variants = checked_variants(variants)
        self.curriculum = mmipc.Curriculum(curriculum, self.variants)
        self.task, self.seed, self.segment_seconds = task, seed, segment_seconds
        # Shared memory: workers that live on see the next epoch, too.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        super().__init__(manifest)
        self._choose_mixtures(max_samples)
        entries = ((name, self.data[name]) for name in self.data_ids)
        self.remixer = Remixer.make(entries, seed, remixing or {})
        add = self.add_dynamic_item
        chosen = self.draw_variants if draw else self.all_variants
        add(chosen, ["id", "environment"], "drawn")
        add(self.segment, ["id", "duration", "sample_rate"], "segment")
        layers = ["mix", "s1", "s2", "s2_layers", "variants", "drawn", "segment"]
        add(self.read, ["id", "environment", *layers], ["mixtures", "targets", "recipe"])
        keys = ["id", "environment", "mixtures", "targets", *(["recipe"] if draw else [])]
        self.set_output_keys({key: key for key in keys} | {"variants": "drawn"})

    def _choose_mixtures(self, max_samples: int | None) -> None:
        """Keeps those that have a variant of some epoch, at most ``max_samples``."""
        environments = {name: e["environment"] for name, e in self.data.items()}
        allowed = self.curriculum.all_variants()
        ids = [name for name, e in environments.items() if variants_of(e, allowed)]
        if not ids:
            reason = f"no mixture has any variant of {list(allowed)}"
            raise InputError(f"{self.data.path}: {reason}")
        if max_samples is not None and max_samples < len(ids):
            draw = functools.partial(mmipc.draw_fraction, "subset")
            ids = sorted(ids, key=draw)[:max_samples]
        self.data_ids, self._environments = ids, [environments[name] for name in ids]
        self._indices: dict[tuple[str, ...], list[int]] = {}  # by what is allowed
        for epoch, variants in self.curriculum.steps:
            if len(self.curriculum.steps) > 1 and not self.indices_at(epoch):
                raise InputError(
                    f"curriculum: no mixture has any variant of {list(variants)}, "
                    f"which epoch {epoch} trains on; change it or --curriculum=null"
                )

    @property
    def epoch(self) -> int:
        """The epoch that variants and crops are drawn with."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Says which epoch begins, also to workers."""
        self._epoch.fill_(epoch)

    def indices_at(self, epoch: int) -> list[int]:
        """The places of the mixtures that have an allowed variant in an epoch."""
        allowed = self.curriculum.variants_at(epoch)
        if allowed not in self._indices:
            places = enumerate(self._environments)
            self._indices[allowed] = [i for i, e in places if variants_of(e, allowed)]
        return self._indices[allowed]

    def draw_variants(self, mixture_id: str, environment: str) -> tuple[str | None]:
        """The variant of a mixture in this epoch, as a tuple of one."""
        allowed = self.curriculum.variants_at(self.epoch)
        key = self.seed, self.epoch, mixture_id
        return (mmipc.draw_variant(environment, allowed, *key),)

    def all_variants(self, mixture_id: str, environment: str) -> tuple[str, ...]:
        """All allowed variants of a mixture."""
        return variants_of(environment, self.variants)

    def segment(self, mixture_id: str, duration: float, sample_rate: int) -> tuple[int, int]:
        """First sample and number of samples of the crop of this epoch."""
        total = round(duration * sample_rate)
        if self.segment_seconds is None:
            return 0, total
        frames = max(1, min(round(self.segment_seconds * sample_rate), total))
        fraction = mmipc.draw_fraction("crop", self.seed, self.epoch, mixture_id)
        return int(fraction * (total - frames + 1)), frames

    def read(
        self,
        mixture_id: str,
        environment: str,
        mix: str,
        s1: str,
        s2: str,
        s2_layers: list[str],
        variants: dict[str, list[str]],
        drawn: tuple[str, ...],
        segment: tuple[int, int],
    ) -> tuple[Tensor, Tensor, list[Part]]:
        """Mixtures ``[variants, time]``, targets ``[time, sources]``, recipe of the first."""
        if self.remixer and (sketch := self.remixer.sketch(mixture_id, environment, self.epoch)):
            return self._compose(sketch, mixture_id, environment, drawn[0], segment)
        cancelled = [variants[name] for name in drawn]
        if self.task == "ES":
            # Never the same layer twice: C cancels speaker 2's reverb already.
            cancelled = [list(dict.fromkeys([*x, *s2_layers])) for x in cancelled]
        start, frames = segment
        layer: Callable = functools.partial(read_layer, start=start, frames=frames)
        if len(drawn) > 1:  # variants share layers; a single one reads each once
            layer = functools.cache(layer)
        mixtures = [cancel(layer(mix), map(layer, paths)) for paths in cancelled]
        sources = [layer(s1)] if self.task == "ES" else [layer(s1), layer(s2)]
        recipe = [Part("mix", mix, 1.0, 1.0)]
        recipe += [Part("cancelled", path, -1.0, 1.0) for path in cancelled[0]]
        return *self._as_tensors(mixtures, sources), recipe

    def _compose(
        self,
        sketch: Sketch,
        mixture_id: str,
        environment: str,
        variant: str,
        segment: tuple[int, int],
    ) -> tuple[Tensor, Tensor, list[Part]]:
        left_out = {*CANCELLED_LAYERS[environment][variant]}
        if self.task == "ES":
            left_out |= {"s2", "s2_reverb"}
        kept = [layer for layer in sketch.donors if layer not in left_out]
        made = compose(sketch, self.data.__getitem__, kept, mixture_id, segment)
        sources = [made.s1] if self.task == "ES" else [made.s1, made.s2]
        return *self._as_tensors([made.mixture], sources), made.recipe

    def _as_tensors(
        self, mixtures: list[np.ndarray], sources: list[np.ndarray]
    ) -> tuple[Tensor, Tensor]:
        if self.task == "EB":
            sources = [sources[0] + sources[1]]
        targets = np.stack(sources).T  # a view: interleaving waits for the batch
        return torch.from_numpy(np.stack(mixtures)), torch.from_numpy(targets)


def dataio_prep(hparams: dict) -> dict[str, MixtureDataset]:
    """The datasets of an experiment: ``train``, ``valid`` and ``test``.

    Validation draws as in epoch 0 or goes through every variant, as testing does.
    """
    every = bool(hparams["per_variant_validation"])
    valid = VARIANTS if every else hparams["valid_variants"]
    return {
        "train": _dataset(hparams, "train", hparams["train_variants"], draw=True),
        "valid": _dataset(hparams, "valid", valid, draw=not every),
        "test": _dataset(hparams, "test", VARIANTS, draw=False),
    }


def _dataset(
    hparams: dict, split: str, variants: str | Iterable[str], draw: bool
) -> MixtureDataset:
    manifest = open_manifest(hparams[f"{split}_manifest"], hparams["data_folder"])
    check_rate(manifest, hparams["sample_rate"])
    training = split == "train"
    return MixtureDataset(
        manifest,
        variants,
        hparams["task"],
        hparams["seed"],
        segment_seconds=hparams["segment_seconds"] if training else None,
        max_samples=hparams[f"{split}_max_samples"],
        draw=draw,
        curriculum=hparams["curriculum"] if training else None,
        remixing=hparams if training else None,
    )


def check_rate(manifest: Manifest | JoinedManifest, sample_rate: int) -> None:
    """One rate a corpus is the prepare step's care; here it must be the model's, Hz."""
    rate = manifest.sample_rate
    if rate != sample_rate:
        raise InputError(
            f"{manifest.path}: audio at {rate} Hz, model at {sample_rate} Hz; "
            f"set --sample_rate={rate} or use another corpus"
        )


def collate(items: Sequence[dict]) -> PaddedBatch:
    """One example for each mixture and variant, padded to the longest.

    ``id``, ``environment``, ``variant`` and ``recipe`` are lists; ``mixture`` is ``[batch, time]``,
    ``targets`` ``[batch, time, sources]``, both with relative lengths.
    """
    examples = [
        {key: item[key] for key in ("id", "environment", "targets", "recipe") if key in item}
        | {"variant": variant, "mixture": mixture}
        for item in items
        for variant, mixture in zip(item["variants"], item["mixtures"], strict=True)
    ]
    batch = PaddedBatch(examples, padding_func=_stack_or_pad)
    if get_worker_info() is not None:
        _share(batch)
    return batch


def _share(batch: PaddedBatch) -> None:
    """Moves a worker's batch where it must go anyway; later, an error there is a standstill."""
    try:
        for value in filter(torch.is_tensor, (*batch.mixture, *batch.targets)):
            value.share_memory_()
    except RuntimeError as error:
        reason = str(error).splitlines()[0].rpartition(": ")[2]
        raise InputError(f"no shared memory for a batch ({reason}); {FEWER_WORKERS}") from error


def _stack_or_pad(signals: list[Tensor]) -> tuple[Tensor, Tensor | list[float]]:
    """SpeechBrain's padding, without its copies where nothing is to be padded."""
    if len({signal.shape for signal in signals}) > 1:
        return batch_pad_right(signals)
    # numpy's, because torch's wakes all threads for what is a copy of memory
    stacked = np.stack([signal.numpy() for signal in signals])
    return torch.from_numpy(stacked), torch.ones(len(signals))
