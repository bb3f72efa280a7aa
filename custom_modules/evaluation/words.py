"""The words of a test: what is counted against what, tables, and files for others.

Start reading at :class:`WordTest`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from custom_modules import markdown
from custom_modules.dataio import MixtureDataset
from custom_modules.errors import InputError
from custom_modules.evaluation.bootstrap import interval_of_ratio
from custom_modules.evaluation.loading import Model
from custom_modules.evaluation.runner import Estimates
from custom_modules.evaluation.store import SCORES_FOLDER
from custom_modules.evaluation.summary import (
    ALL_MIXTURES,
    ALL_VARIANTS,
    EVERY,
    describe,
    groups_of,
    split_by_variant,
)
from custom_modules.evaluation.transcribing import Transcripts, TranscriptStore, transcribe_test_set
from custom_modules.evaluation.voices import UNIT_KEYS, caption, count_voices, with_units
from custom_modules.files import digest_of
from custom_modules.mmipc import variants_of
from custom_modules.recognition import text
from custom_modules.recognition.packages import imported
from custom_modules.recognition.recognisers import load_recogniser
from custom_modules.recognition.word_errors import (
    WordErrors,
    best_order,
    count_sessions,
    segments,
    texts_of,
    write_seglst,
)
from custom_modules.tabular import write_table

#: Whose words are counted: see docs/words.md.
ARMS = (
    *("targets", "oracle", "mixture", "mixture_twice", "mixture_single"),
    *("model", "model_gated"),
)

#: In a results folder: statistics; SegLST of references and arms, and counts by mixture.
WORDS_FILE, WORDS_FOLDER, COUNTS_FILE = "test_words.csv", "words", "counts.csv"

_CLOSING = ("targets", "mixture", "model")

_NOTE = """Per cent of the references' words that are wrong (insertions, deletions and
substitutions, summed over mixtures), by {recogniser}. `targets`: each dry source, the floor;
`oracle`: each talker alone with the background; `mixture`: its one transcript against all texts
(ORC-WER); `mixture_twice`: the same as each talker's; `mixture_single`: as one talker's, the
other silent; `model`: its outputs (cpWER); `model_gated`: outputs 20 dB below the other are
silent. {intervals}."""
_PSEUDO = """**Against pseudo-references**: the recogniser's own transcripts of the dry targets,
which are wrong themselves; so `targets` is 0, and the other figures are none of a word error
rate."""


def check_texts(dataset: MixtureDataset, pseudo_references: bool = False) -> list[str]:
    """The ids of the mixtures that words can be counted in; InputError if there are none."""
    data, task = dataset.data, dataset.task
    ids = [x for x in dataset.data_ids if pseudo_references or texts_of(data[x], task) is not None]
    if not ids:
        raise InputError(
            f"{data.path}: no mixture has its texts (text1, text2), so no words can be counted; "
            "make the corpus with texts, or use --pseudo_references"
        )
    return ids


class WordTest:
    """A recogniser's part in the test of a model; what it lacks is refused at once."""

    def __init__(
        self, spec: str, model: Model, dataset: MixtureDataset, pseudo_references: bool = False
    ) -> None:
        self.model, self.dataset, self.pseudo = model, dataset, pseudo_references
        self.ids = check_texts(dataset, pseudo_references)
        imported("meeteval"), imported("num2words")
        self.recogniser = load_recogniser(spec, device_name(model.device))

    def run(
        self,
        folder: Path,
        key: str,
        rank: int,
        batch_size: int,
        progressbar: bool,
        kept: Estimates | None = None,
    ) -> None:
        """Transcribes what is missing; ``key`` names the model and the test set.

        What was ``kept`` of its scoring is not separated again.
        """
        heard = self.recogniser
        parts = [key, heard.name, heard.version, json.dumps(heard.options, sort_keys=True)]
        digest = digest_of(["\n".join(parts).encode()], size=8)
        self.store = TranscriptStore(folder / SCORES_FOLDER, f"words-{digest}", rank)
        options = (self.store, heard, batch_size, progressbar, kept)
        transcribe_test_set(self.model, self.dataset, self.ids, *options)

    def results(self) -> "WordResults":
        """Counts, once all is transcribed."""
        sides: dict[str, list] = {"references": [], **{arm: [] for arm in ARMS}}
        keys: list[dict[str, object]] = []
        for name in self.ids:
            entry = self.dataset.data[name]
            for variant in variants_of(entry["environment"], self.dataset.variants):
                if heard := self.store.heard.get((name, variant)):
                    session = f"{name}/{variant}"
                    keys.append({"session": session, "id": name, "variant": variant})
                    keys[-1] |= describe(entry, self.dataset.task)
                    self._add_session(sides, session, entry, heard)
        counted = pd.concat([_counts(arm, sides) for arm in ARMS], ignore_index=True)
        rows = pd.DataFrame(keys, columns=["session", "id", "variant", *describe(_ANY)])
        rows = rows.merge(counted, on="session").drop(columns="session")
        return WordResults(rows, summarise_words(rows), sides, self._facts(), self._failures())

    def _add_session(
        self, sides: dict[str, list], session: str, entry: dict, heard: Transcripts
    ) -> None:
        texts = heard.targets if self.pseudo else texts_of(entry, self.dataset.task)
        arms = arms_of(heard)
        order = best_order(texts or [], [x[0] for x in arms.values() if len(x) == 1])
        seconds = float(entry["duration"])
        sides["references"] += segments(session, texts or [], seconds, order)
        for arm, streams in arms.items():
            sides[arm] += segments(session, streams, seconds)

    def _failures(self) -> list[str]:
        """Mixtures that the recogniser raised on, and what."""
        wanted = set(self.ids)
        failures = self.store.failures.items()
        return [f"{n}, {v}: {reason}" for (n, v), reason in failures if n in wanted]

    def _facts(self) -> dict[str, Any]:
        """For the record of a run."""
        return {
            "recogniser": self.recogniser.name,
            "version": self.recogniser.version,
            "options": self.recogniser.options,
            "text_rules": text.VERSION,
            "pseudo_references": self.pseudo,
            "mixtures_without_texts": len(self.dataset.data_ids) - len(self.ids),
        }


_ANY = {"environment": None}


def device_name(device: torch.device) -> str:
    """A device as recognisers take it, the GPU of this process with its number."""
    if device.type == "cuda" and device.index is None:
        return f"cuda:{torch.cuda.current_device()}"
    return str(device)


def arms_of(heard: Transcripts) -> dict[str, list[str]]:
    """Arm → the text of each of its streams; one stream is counted by ORC-WER."""
    mixture, others = heard.mixture, [""] * (len(heard.model) - 1)
    arms = {"targets": heard.targets, "mixture": [mixture], "model": heard.model}
    if heard.oracle:
        arms["oracle"] = heard.oracle
    if others:
        arms["mixture_twice"] = [mixture] * len(heard.model)
        arms["mixture_single"] = [mixture, *others]
        outputs = zip(heard.model, heard.silent, strict=True)
        arms["model_gated"] = ["" if silent else words for words, silent in outputs]
    return {arm: arms[arm] for arm in ARMS if arm in arms}


def _counts(arm: str, sides: dict[str, list]) -> pd.DataFrame:
    counts = count_sessions(sides["references"], sides[arm])
    rows = [{"session": session, "arm": arm, **x._asdict()} for session, x in counts.items()]
    return pd.DataFrame(rows, columns=["session", "arm", *WordErrors._fields])


def summarise_words(rows: pd.DataFrame) -> pd.DataFrame:
    """Sums over mixtures, a row for each variant, group and arm.

    ``wer``, ``low`` and ``high`` (95 % bootstrap) in per cent; ``n`` mixtures and ``voices``.
    Errors are summed, never averaged: there is no row of all variants, but of all mixtures.
    """
    parts = []
    rows = with_units(rows)
    for group, subset in ((EVERY, rows), *groups_of(rows)):
        for variant, part in split_by_variant(subset, apart=group == EVERY):
            if variant != ALL_VARIANTS:
                found = ((arm, part[part.arm == arm]) for arm in ARMS)
                parts += [_sums(variant, group, arm, x) for arm, x in found if len(x)]
    return pd.DataFrame(parts, columns=_COLUMNS)


_COLUMNS = [
    *("variant", "group", "arm", *WordErrors._fields),
    *("wer", "low", "high", "n", "voices"),
]


def _sums(variant: str, group: str, arm: str, part: pd.DataFrame) -> dict[str, Any]:
    counts, units = part[[*WordErrors._fields]].to_numpy(), part[UNIT_KEYS].to_numpy()
    sums = WordErrors(*counts.sum(axis=0).tolist())
    (low,), (high,) = interval_of_ratio(counts[:, None, :2], units)
    wer = 100 * sums.errors / sums.length if sums.length else np.nan
    row = {"variant": variant, "group": group, "arm": arm, **sums._asdict()}
    row |= {"wer": wer, "low": 100 * low, "high": 100 * high}
    return row | {"n": part.id.nunique(), "voices": count_voices(units)}


class WordResults(NamedTuple):
    """Everything that is written about the words of a test."""

    rows: pd.DataFrame  # id, variant, arm, errors …
    summary: pd.DataFrame
    sides: dict[str, list]  # "references" and each arm, in SegLST
    facts: dict[str, Any]
    failures: list[str]

    def write(self, folder: Path) -> None:
        """``test_words.csv`` and ``words/``."""
        write_table(self.summary, folder / WORDS_FILE, digits=6)
        counted = self.rows[["id", "variant", "arm", *WordErrors._fields]]
        write_table(counted, folder / WORDS_FOLDER / COUNTS_FILE)
        for side, parts in self.sides.items():
            write_seglst(folder / WORDS_FOLDER / f"{side}.json", parts)

    def column(self) -> tuple[str, dict[str, str]]:
        """Heading and cells, by variant, of the model's word error rate."""
        part = self.summary[(self.summary.group == EVERY) & (self.summary.arm == "model")]
        cells = {x.variant: markdown.number(x.wer, 1) for x in part.itertuples()}
        return "pseudo-WER" if self.facts["pseudo_references"] else "WER", cells

    def closing_line(self) -> str:
        """What a command ends with: rates on C, where it was tested, or on all mixtures."""
        every = self.summary[self.summary.group == EVERY]
        place = "C" if (every.variant == "C").any() else ALL_MIXTURES
        rates = every[every.variant == place].set_index("arm").wer
        arms = [f"{arm} {markdown.number(rates[arm], 1)}" for arm in _CLOSING if arm in rates]
        against = ", against pseudo-references" if self.facts["pseudo_references"] else ""
        return f"Words wrong on {place}, per cent{against}: {', '.join(arms)}"

    def sections(self) -> list[str]:
        """Parts of a page of Markdown."""
        recogniser = f"{self.facts['recogniser']} ({self.facts['version']})"
        note = " ".join(_NOTE.format(recogniser=recogniser, intervals=caption(self.rows)).split())
        pseudo = [" ".join(_PSEUDO.split())] if self.facts["pseudo_references"] else []
        every = self.summary[self.summary.group == EVERY]
        of_groups = (self.summary.group != EVERY) & (self.summary.variant == ALL_MIXTURES)
        parts = ["## Words (word error rate, %)", *pseudo, arms_table(every), note]
        parts += ["### The model's errors by kind (% of the words)", *pseudo, kinds_table(every)]
        if of_groups.any():
            heading = "### By environment, genders and speech-to-speech ratio, all mixtures"
            parts += [heading, *pseudo, arms_table(self.summary[of_groups], "group")]
        if without := self.facts["mixtures_without_texts"]:
            parts.append(f"Left out: {without} mixtures without texts.")
        if self.failures:
            lines = [f"- {failure}" for failure in self.failures]
            parts += ["Left out, as the recogniser failed on them:", "\n".join(lines)]
        return parts


def arms_table(summary: pd.DataFrame, key: str = "variant") -> str:
    """The word error rate of each arm; beside the model's its interval."""
    arms = [arm for arm in ARMS if (summary.arm == arm).any()]
    voices = ["voices"] * bool(summary.voices.notna().any())
    lines = [[key, "n", *voices, "words", *arms, "95 % of model"]]
    for name, part in summary.groupby(key, sort=False):
        by_arm = part.set_index("arm")
        model = by_arm.loc["model"]
        rates = [markdown.number(x, 1) for x in by_arm.wer.reindex(arms)]
        interval = markdown.interval(model.low, model.high, 1)
        sizes = [str(model.n), *(markdown.number(model[x], 0) for x in voices)]
        lines.append([str(name), *sizes, str(int(model.length)), *rates, interval])
    return markdown.table(lines)


def kinds_table(summary: pd.DataFrame) -> str:
    """Insertions, deletions and substitutions of the model's outputs, by variant."""
    kinds = ["insertions", "deletions", "substitutions"]
    lines: list[Sequence[str]] = [["variant", "WER", *kinds]]
    for row in summary[summary.arm == "model"].itertuples():
        words = row.length or np.nan
        shares = [markdown.number(100 * getattr(row, kind) / words, 1) for kind in kinds]
        lines.append([row.variant, markdown.number(row.wer, 1), *shares])
    return markdown.table(lines)
