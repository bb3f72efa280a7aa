"""From a manifest to mixtures and targets.

A manifest lists for each variant the layers that it cancels. An item of a dataset draws
its variant, reads the full mix, the targets and those layers, and subtracts them. The
draw is a pure function of seed, epoch and mixture id, so neither the number of workers
nor a resumed run changes what is trained on.
"""

import functools
import itertools
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataio import _recursive_format
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.data_utils import batch_pad_right
from torch import Tensor
from torch.utils.data import get_worker_info

from custom_modules import mmipc
from custom_modules.audio import cancel, read_layer
from custom_modules.distributed import FEWER_WORKERS
from custom_modules.errors import InputError
from custom_modules.files import regular_file
from custom_modules.layout import MOST_SECONDS, NAME, RATES, SPEAKER_KEYS, path_below
from custom_modules.limits import checked_variants
from custom_modules.mmipc import CANCELLED_LAYERS, VARIANTS, variants_of


class MixtureDataset(DynamicItemDataset):
    """PolSESS mixtures under MM-IPC; each epoch draws one variant for each.

    Items hold ``id``, ``environment``, ``variants`` (names), ``mixtures``
    ``[variants, time]`` and ``targets`` ``[time, sources]``. Mixtures that have none of
    the variants are left out; ``draw=False`` gives all that a mixture has.
    Without ``segment_seconds``, the length of a random crop, they are whole. Which
    ``max_samples`` are kept depends on their ids alone: the fewer are among the more.
    """

    def __init__(
        self,
        manifest: "Manifest",
        variants: str | Iterable[str],
        task: str,
        seed: int,
        segment_seconds: float | None = None,
        max_samples: int | None = None,
        draw: bool = True,
        curriculum: list[dict] | None = None,
    ) -> None:
        mmipc.num_sources(task)  # refuses an unknown one
        self.variants = checked_variants(variants)
        self.curriculum = mmipc.Curriculum(curriculum, self.variants)
        self.task, self.seed, self.segment_seconds = task, seed, segment_seconds
        # Shared memory: workers that live on see the next epoch, too.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        super().__init__(manifest)
        self._choose_mixtures(max_samples)
        add = self.add_dynamic_item
        chosen = self.draw_variants if draw else self.all_variants
        add(chosen, ["id", "environment"], "drawn")
        add(self.segment, ["id", "duration", "sample_rate"], "segment")
        layers = ["mix", "s1", "s2", "s2_layers", "variants", "drawn", "segment"]
        add(self.read, layers, ["mixtures", "targets"])
        keys = ("id", "environment", "mixtures", "targets")
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
        mix: str,
        s1: str,
        s2: str,
        s2_layers: list[str],
        variants: dict[str, list[str]],
        drawn: tuple[str, ...],
        segment: tuple[int, int],
    ) -> tuple[Tensor, Tensor]:
        """Mixtures ``[variants, time]`` and targets ``[time, sources]``."""
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
    replacements = {"data_root": hparams["data_folder"]}
    manifest = Manifest(hparams[f"{split}_manifest"], replacements)
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
    )


def check_rate(manifest: "Manifest", sample_rate: int) -> None:
    """One rate a corpus is the prepare step's care; here it must be the model's, Hz."""
    rate = manifest[next(iter(manifest))]["sample_rate"]
    if rate != sample_rate:
        raise InputError(
            f"{manifest.path}: audio at {rate} Hz, model at {sample_rate} Hz; "
            f"set --sample_rate={rate} or use another corpus"
        )


def collate(items: Sequence[dict]) -> PaddedBatch:
    """One example for each mixture and variant, padded to the longest.

    ``id``, ``environment`` and ``variant`` are lists; ``mixture`` is ``[batch, time]``,
    ``targets`` ``[batch, time, sources]``, both with relative lengths.
    """
    examples = [
        {key: item[key] for key in ("id", "environment", "targets")}
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


_BEFORE_ID, _BEFORE_ENTRY = re.compile(r'\s*[{,]\s*(?=")'), re.compile(r"\s*:\s*(?={)")
# Of paths, a line for each, what needs no closer look.
_USUAL = re.compile(r"(\{data_root\}/[^/\\\0{}\n][^\\\0{}\n]*\n)+")
_parse = json.JSONDecoder().raw_decode  # from a position: the value and its end


class Manifest(Mapping):
    """A JSON manifest whose entries are parsed when they are asked for.

    128,000 mixtures take over a gigabyte as Python objects, and again as much in every
    worker, as counting references copies memory pages; as text, what the file takes,
    once. Any JSON will do that SpeechBrain's ``load_data_json`` reads and whose entries
    are as ``manifest.entries.manifest_entry`` makes them, which is checked.
    """

    def __init__(self, path: str | Path, replacements: Mapping[str, str]) -> None:
        self.path, self.replacements = Path(path), dict(replacements)
        try:
            self._text = regular_file(path).read_text(encoding="utf-8-sig")
            self._starts = self._checked_starts()
        except (InputError, OSError, ValueError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or str(error).removeprefix(f"{path}: ")
            raise InputError(f"{path}: {reason}; make it by polsess_prepare.py") from error

    def _checked_starts(self) -> dict[str, int]:
        """id → where its entry begins; each is parsed, and not kept."""
        starts: dict[str, int] = {}
        rates: set[int] = set()
        for mixture_id, start, entry in _entries(self._text):
            fault = "occurs twice" if mixture_id in starts else ""
            fault = fault or _fault(mixture_id, entry, self.replacements)
            if not fault and len(rates := {*rates, entry["sample_rate"]}) > 1:
                fault = "has another sample_rate than those before"
            if fault:
                raise ValueError(f"{mixture_id!r} {fault}")
            starts[mixture_id] = start
        return starts

    def __getitem__(self, mixture_id: str) -> dict:
        entry, _ = _parse(self._text, self._starts[mixture_id])
        _recursive_format(entry, self.replacements)
        return entry

    def __iter__(self) -> Iterator[str]:
        return iter(self._starts)

    def __len__(self) -> int:
        return len(self._starts)


def _entries(text: str) -> Iterator[tuple[str, int, dict]]:
    """Each id, where its entry begins, and the entry."""
    end = 0
    while before := _BEFORE_ID.match(text, end):
        mixture_id, end = _parse(text, before.end())
        if not (between := _BEFORE_ENTRY.match(text, end)):
            raise ValueError(f"{mixture_id!r} has no entry")
        entry, end = _parse(text, between.end())
        yield mixture_id, between.end(), entry
    if not end or text[end:].strip() != "}":
        raise ValueError("not the JSON of mixtures")


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


_LABELS = (*SPEAKER_KEYS, "scene_class", "event_class")
#: What an entry must have, and the check of its value; what it may lack, or have as null.
_REQUIRED: dict[str, Callable[[Any], bool]] = {
    "duration": lambda x: type(x) in (int, float) and 0 < x <= MOST_SECONDS,
    "sample_rate": lambda x: type(x) is int and RATES[0] <= x <= RATES[1],
    "environment": lambda x: _is_text(x) and x in CANCELLED_LAYERS,
    **dict.fromkeys(("mix", "s1", "s2"), _is_text),
    "s2_layers": _are_texts,
    "variants": lambda x: isinstance(x, dict) and all(map(_are_texts, x.values())),
}
_OPTIONAL: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(_LABELS, _is_text),
    "ssr_db": lambda x: type(x) in (int, float) and math.isfinite(x),
    **dict.fromkeys(("text1", "text2"), _is_text),
}
_KNOWN = {*_REQUIRED, *_OPTIONAL}


def _fault(mixture_id: str, entry: dict, replacements: Mapping[str, str]) -> str:
    """What is wrong with an entry, or nothing. Its id becomes the name of files."""
    if not NAME.fullmatch(mixture_id):
        return "cannot be a file's name"
    for key, is_right in (*_REQUIRED.items(), *_OPTIONAL.items()):
        value = entry.get(key)
        if (value is not None or key in _REQUIRED) and not is_right(value):
            return f"has {json.dumps(value)[:60]} as its {key}" if key in entry else f"has no {key}"
    if missing := set(variants_of(entry["environment"])) - set(entry["variants"]):
        return f"lacks the variants {', '.join(sorted(missing))}"
    layers = (entry["s2_layers"], *entry["variants"].values())
    paths = {entry["mix"], entry["s1"], entry["s2"], *itertools.chain(*layers)}
    lines = "\n".join([*paths, ""])
    labels = "".join(filter(None, map(entry.get, (*_LABELS, "text1", "text2"))))
    plain = entry.keys() <= _KNOWN and not {*labels} & {*"{}"}  # which would be formatted
    if plain and ".." not in lines and _USUAL.fullmatch(lines):
        return ""
    try:
        _recursive_format(entry, replacements)
        root = str(replacements.get("data_root"))
        for path in (path.format_map(replacements) for path in paths):
            below = path.removeprefix(f"{root}/")
            path_below(root, below)
            if below == path:  # then it starts at the disk's root, or where the command runs
                path_below(root, os.path.abspath(path))
    except (LookupError, ValueError, AttributeError) as error:  # of what is in braces
        return f"has a path that cannot be used: {error}"
    return ""
