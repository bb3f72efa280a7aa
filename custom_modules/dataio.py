"""From a manifest to mixtures and targets.

A manifest (``polsess_prepare.py``) lists for each variant the layers that it
cancels. An item of a dataset draws its variant, reads the full mix, the targets
and those layers, and subtracts them. The draw is a pure function of the seed,
the epoch and the mixture's id, so neither the number of workers nor a resumed
run changes what is trained on.
"""

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataio import _recursive_format
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.data_utils import batch_pad_right

from custom_modules.audio import cancel, read_layer
from custom_modules.errors import InputError
from custom_modules.mmipc import (
    VARIANTS,
    Curriculum,
    draw_fraction,
    draw_variant,
    num_sources,
    variants_of,
)


class MixtureDataset(DynamicItemDataset):
    """PolSESS mixtures under MM-IPC; each epoch draws one variant for each.

    Items hold ``id``, ``environment``, ``variants`` (names), ``mixtures``
    ``[variants, time]`` and ``targets`` ``[time, sources]``;
    :func:`custom_modules.dataio.collate` makes batches of them.

    Arguments
    ---------
    manifest : Mapping
        :class:`Manifest`, or a dict of the same entries.
    variants : list of str
        The variants to draw from; mixtures that have none of them are left out.
    task : str
        ``"SB"``, ``"EB"`` or ``"ES"``.
    seed : int
        The experiment's seed.
    segment_seconds : float, optional
        Length of a random crop in s. By default mixtures are whole.
    max_samples : int, optional
        How many mixtures to keep. They are picked by their ids alone: the same
        for every seed, and the fewer are always among the more.
    draw : bool
        False gives every allowed variant of a mixture instead of one.
    curriculum : list of dict, optional
        Restricts the variants by epoch, see
        :class:`custom_modules.mmipc.Curriculum`.

    Raises
    ------
    InputError
        If a variant or the task is unknown, or nothing is left.
    """

    def __init__(
        self,
        manifest,
        variants,
        task,
        seed,
        segment_seconds=None,
        max_samples=None,
        draw=True,
        curriculum=None,
    ):
        num_sources(task)  # refuses an unknown one
        self.variants = checked_variants(variants)
        self.curriculum = Curriculum(curriculum, self.variants)
        self.task, self.seed, self.segment_seconds = task, seed, segment_seconds
        # Shared memory: workers that live on see the next epoch, too.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        super().__init__(manifest)
        drawn = self.curriculum.all_variants()
        self.data_ids = _kept_ids(manifest, drawn, max_samples)
        self._check_curriculum()
        chosen = self.draw_variants if draw else self.all_variants
        self.add_dynamic_item(chosen, ["id", "environment"], "drawn")
        self.add_dynamic_item(
            self.segment, ["id", "duration", "sample_rate"], "segment"
        )
        layers = ["mix", "s1", "s2", "s2_layers", "variants", "drawn", "segment"]
        self.add_dynamic_item(self.read, layers, ["mixtures", "targets"])
        self.set_output_keys(
            {key: key for key in ("id", "environment", "mixtures", "targets")}
            | {"variants": "drawn"}
        )

    @property
    def epoch(self):
        """The epoch that variants and crops are drawn with."""
        return int(self._epoch)

    def set_epoch(self, epoch):
        """Says which epoch begins, also to workers."""
        self._epoch.fill_(epoch)

    def indices_at(self, epoch):
        """The places of the mixtures that have an allowed variant in an epoch.

        Arguments
        ---------
        epoch : int

        Returns
        -------
        list of int
        """
        allowed = self.curriculum.variants_at(epoch)
        return [
            place
            for place, environment in enumerate(self._environments)
            if variants_of(environment, allowed)
        ]

    @functools.cached_property
    def _environments(self):
        return [self.data[mixture_id]["environment"] for mixture_id in self.data_ids]

    def _check_curriculum(self):
        for epoch, variants in self.curriculum.steps:
            if len(self.curriculum.steps) > 1 and not self.indices_at(epoch):
                raise InputError(
                    f"curriculum: no mixture has any variant of {list(variants)}, "
                    f"which epoch {epoch} trains on; change it or --curriculum=null"
                )

    def draw_variants(self, mixture_id, environment):
        """The variant of a mixture in this epoch, as a tuple of one."""
        allowed = self.curriculum.variants_at(self.epoch)
        return (draw_variant(environment, allowed, self.seed, self.epoch, mixture_id),)

    def all_variants(self, mixture_id, environment):
        """All allowed variants of a mixture."""
        return variants_of(environment, self.variants)

    def segment(self, mixture_id, duration, sample_rate):
        """First sample and number of samples of the crop of this epoch."""
        total = round(duration * sample_rate)
        if self.segment_seconds is None:
            return 0, total
        frames = max(1, min(round(self.segment_seconds * sample_rate), total))
        fraction = draw_fraction("crop", self.seed, self.epoch, mixture_id)
        return int(fraction * (total - frames + 1)), frames

    def read(self, mix, s1, s2, s2_layers, variants, drawn, segment):
        """Mixtures ``[variants, time]`` and targets ``[time, sources]``."""
        cancelled = [variants[name] for name in drawn]
        if self.task == "ES":
            # Never the same layer twice: C cancels speaker 2's reverb already.
            cancelled = [
                list(dict.fromkeys([*paths, *s2_layers])) for paths in cancelled
            ]
        start, frames = segment
        layer = functools.partial(read_layer, start=start, frames=frames)
        if len(drawn) > 1:  # variants share layers; a single one reads each once
            layer = functools.cache(layer)
        mixtures = [cancel(layer(mix), map(layer, paths)) for paths in cancelled]
        sources = [layer(s1)] if self.task == "ES" else [layer(s1), layer(s2)]
        if self.task == "EB":
            sources = [sources[0] + sources[1]]
        targets = np.stack(sources).T  # a view: interleaving waits for the batch
        return torch.from_numpy(np.stack(mixtures)), torch.from_numpy(targets)


def dataio_prep(hparams):
    """The datasets of an experiment.

    Arguments
    ---------
    hparams : dict
        ``{train,valid,test}_manifest``, ``data_folder``, ``sample_rate``,
        ``{train,valid}_variants``, ``curriculum``, ``per_variant_validation``,
        ``{train,valid,test}_max_samples``, ``segment_seconds``, ``task``, ``seed``.

    Returns
    -------
    dict
        ``train``, ``valid`` and ``test``, each a :class:`MixtureDataset`. Training
        draws anew in each epoch, validation always as in epoch 0 unless it goes
        through every variant, as testing does.

    Raises
    ------
    InputError
        If a manifest cannot be read, or a setting does not fit.
    """
    check_choices(hparams)

    def dataset(split, variants=VARIANTS, **kwargs):
        replacements = {"data_root": hparams["data_folder"]}
        manifest = Manifest(hparams[f"{split}_manifest"], replacements)
        check_rate(manifest, hparams["sample_rate"])
        return MixtureDataset(
            manifest,
            variants,
            hparams["task"],
            hparams["seed"],
            max_samples=hparams[f"{split}_max_samples"],
            **kwargs,
        )

    return {
        "train": dataset(
            "train",
            hparams["train_variants"],
            segment_seconds=hparams["segment_seconds"],
            curriculum=hparams["curriculum"],
        ),
        "valid": dataset("valid", draw=False)
        if hparams["per_variant_validation"]
        else dataset("valid", hparams["valid_variants"]),
        "test": dataset("test", draw=False),
    }


def check_choices(hparams):
    """Checks what can be checked of a training's settings without its corpus.

    Arguments
    ---------
    hparams : dict

    Raises
    ------
    InputError
        If one does not fit.
    """
    for split in ("train", "valid"):
        checked_variants(hparams[f"{split}_variants"])
    whole = [f"{split}_max_samples" for split in ("train", "valid", "test")]
    _check_numbers(hparams, ["batch_size", "number_of_epochs"], int)
    _check_numbers(hparams, whole, int, or_null=True)
    _check_numbers(hparams, ["segment_seconds"], int | float, or_null=True)
    _check_numbers(hparams, ["num_workers"], int, or_zero=True)
    _check_numbers(hparams, ["lr"], int | float, or_zero=True)


def check_rate(manifest, sample_rate):
    """One rate a corpus is the prepare step's care; here it must be the model's.

    Arguments
    ---------
    manifest : Manifest
    sample_rate : int
        The model's, Hz.

    Raises
    ------
    InputError
        If they differ.
    """
    rate = manifest[next(iter(manifest))]["sample_rate"]
    if rate != sample_rate:
        raise InputError(
            f"{manifest.path}: audio at {rate} Hz, model at {sample_rate} Hz; "
            f"set --sample_rate={rate} or use another corpus"
        )


def checked_variants(variants):
    """Checks a choice of variants.

    Arguments
    ---------
    variants : str or list of str
        A string lists them with commas, as in ``SER,SE``.

    Returns
    -------
    tuple of str

    Raises
    ------
    InputError
        If there is none, or one is unknown.

    Example
    -------
    >>> checked_variants("SER,SE")
    ('SER', 'SE')
    """
    names = variants.split(",") if isinstance(variants, str) else list(variants or ())
    if not names or any(name not in VARIANTS for name in names):
        raise InputError(
            f"variants {variants}: choose one or more of {', '.join(VARIANTS)}, "
            "as in SER,SE"
        )
    return tuple(names)


def _check_numbers(hparams, names, kind, or_null=False, or_zero=False):
    """Refuses what is no positive number of that kind."""
    also = "null or " if or_null else ""
    wanted = "a number, 0 or above" if or_zero else "a number above 0"
    for name in names:
        value = hparams[name]
        is_number = isinstance(value, kind) and not isinstance(value, bool)
        is_large = is_number and (value > 0 or (or_zero and value == 0))
        if not is_large and not (or_null and value is None):
            raise InputError(f"--{name}={value}: must be {also}{wanted}")


def _kept_ids(manifest, variants, max_samples):
    """Mixtures that have an allowed variant, at most ``max_samples`` of them."""
    ids = [
        mixture_id
        for mixture_id, entry in manifest.items()
        if variants_of(entry["environment"], variants)
    ]
    if not ids:
        name = getattr(manifest, "path", "manifest")
        raise InputError(f"{name}: no mixture has any variant of {list(variants)}")
    if max_samples is not None and max_samples < len(ids):
        ids = sorted(ids, key=lambda name: draw_fraction("subset", name))[:max_samples]
    return ids


def collate(items):
    """One example for each mixture and variant, padded to the longest.

    Arguments
    ---------
    items : list of dict
        From :class:`custom_modules.dataio.MixtureDataset`.

    Returns
    -------
    speechbrain.dataio.batch.PaddedBatch
        ``id``, ``environment`` and ``variant`` are lists; ``mixture`` is
        ``[batch, time]``, ``targets`` ``[batch, time, sources]``, both with
        relative lengths.
    """
    return PaddedBatch(
        [
            {
                "id": item["id"],
                "environment": item["environment"],
                "variant": variant,
                "mixture": mixture,
                "targets": item["targets"],
            }
            for item in items
            for variant, mixture in zip(item["variants"], item["mixtures"], strict=True)
        ],
        padding_func=_stack_or_pad,
    )


def _stack_or_pad(signals):
    """SpeechBrain's padding, without its copies where nothing is to be padded."""
    if len({signal.shape for signal in signals}) > 1:
        return batch_pad_right(signals)
    # numpy's, because torch's wakes all threads for what is a copy of memory
    stacked = np.stack([signal.numpy() for signal in signals])
    return torch.from_numpy(stacked), torch.ones(len(signals))


_ENTRY = re.compile(rb'\s*("(?:[^"\\]|\\.)*")\s*:\s*(\{.*\})\s*,?\s*')


class Manifest(Mapping):
    """A JSON manifest whose entries are parsed when they are asked for.

    A manifest of 128,000 mixtures takes over a gigabyte as Python objects, and
    again as much in every worker, as counting references copies memory pages.
    As bytes it takes what the file takes, once.

    Arguments
    ---------
    path : str or pathlib.Path
        A manifest as ``polsess_prepare.py`` writes it, or any JSON of the shape
        that SpeechBrain's ``load_data_json`` reads.
    replacements : dict
        Such as ``{"data_root": "/corpora/PolSESS"}``.

    Raises
    ------
    InputError
        If the file cannot be read, is no manifest, or is empty.

    Example
    -------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "train.json"
    >>> _ = path.write_text('{"a": {"mix": "{data_root}/a.wav"}}')
    >>> Manifest(path, {"data_root": "/corpus"})["a"]
    {'mix': '/corpus/a.wav'}
    """

    def __init__(self, path, replacements):
        self.path = Path(path)
        self.replacements = dict(replacements)
        self._bytes, self._spans = self._index(self._read())
        if not self._spans:
            raise InputError(f"{path}: holds no mixtures; run polsess_prepare.py again")

    def __getitem__(self, mixture_id):
        start, end = self._spans[mixture_id]
        entry = json.loads(self._bytes[start:end])
        _recursive_format(entry, self.replacements)
        return entry

    def __iter__(self):
        return iter(self._spans)

    def __len__(self):
        return len(self._spans)

    def _read(self):
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be read ({error.strerror}); "
                "run polsess_prepare.py first"
            ) from error

    def _index(self, content):
        """Where each entry lies: one a line if it can be, else parsed and laid so."""
        spans = _line_spans(content)
        if spans is None:
            try:
                entries = json.loads(content)
                lines = [
                    f"{json.dumps(k)}: {json.dumps(v)}" for k, v in entries.items()
                ]
            except (ValueError, AttributeError) as error:
                raise InputError(
                    f"{self.path}: no manifest ({error}); run polsess_prepare.py again"
                ) from error
            content = ("{\n" + ",\n".join(lines) + "\n}\n").encode()
            spans = _line_spans(content)
        return content, spans


def _line_spans(content):
    """id → (start, end) of its entry, or None if the entries are laid otherwise."""
    spans, position = {}, 0
    for line in content.splitlines(keepends=True):
        entry = _ENTRY.fullmatch(line)
        if entry:
            spans[json.loads(entry[1])] = tuple(position + i for i in entry.span(2))
        elif line.strip() not in (b"{", b"}", b""):
            return None
        position += len(line)
    return spans
