"""Words of several results side by side: sums over the mixtures that all have."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from custom_modules import markdown
from custom_modules.evaluation.bootstrap import interval_of_ratio
from custom_modules.evaluation.record import RECORD_FILE
from custom_modules.evaluation.summary import ALL_VARIANTS, split_by_variant
from custom_modules.evaluation.voices import UNIT_KEYS, VOICE_KEYS, count_voices, with_units
from custom_modules.evaluation.words import COUNTS_FILE, WORDS_FOLDER
from custom_modules.recognition.word_errors import WordErrors
from custom_modules.tabular import read_record, read_table

#: What must be the same of all results for their words to be compared.
_SHARED = {
    "recogniser": "recognisers",
    "version": "versions of the recogniser",
    "options": "options of the recogniser",
    "text_rules": "text rules",
    "pseudo_references": "references",
}
_KEY = ["id", "variant", "arm"]
_ARMS = ("targets", "mixture", "model", "model_gated")


#: Model → folder of each of its seeds → its scores.
Results = Mapping[str, Mapping[str, pd.DataFrame]]


def compare_words(results: Results, pooled: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """A row for each model, variant and arm; ``pooled`` of :func:`count_words`.

    ``wer`` in per cent, over all seeds; ``difference`` from the first model's, with its 95 %
    bootstrap interval over voices.
    """
    return _compared(pooled, {model: len(seeds) for model, seeds in results.items()})


def count_words(results: Results) -> tuple[dict[str, pd.DataFrame] | None, str]:
    """Errors and words by mixture, variant and arm over each model's seeds; what is left out.

    ``results`` are those of :func:`custom_modules.evaluation.comparison.read_results`. None if
    not all have words, counted alike.
    """
    folders = [Path(folder) for seeds in results.values() for folder in seeds]
    facts = [read_record(folder / RECORD_FILE).get("words") for folder in folders]
    known = [found for found in facts if found]
    if not known:
        return None, ""
    if len(known) < len(facts):
        return None, "words, which not all results have"
    for key, name in _SHARED.items():
        if any(found.get(key) != known[0].get(key) for found in known):
            return None, f"words, which are of different {name}"
    tables = {
        model: [_read(Path(folder), table) for folder, table in seeds.items()]
        for model, seeds in results.items()
    }
    every = [table for seeds in tables.values() for table in seeds]
    common = every[0].index
    for table in every[1:]:
        common = common[common.isin(table.index)]
    if any((x.loc[common].length != every[0].loc[common].length).any() for x in every):
        return None, "words, whose references are of different texts"
    if not len(common):
        return None, "words, of which the results have no mixture in common"
    known = every[0].loc[common, ["environment", *VOICE_KEYS]].reset_index()
    known = with_units(known).set_index(_KEY)
    pooled = {
        model: sum(x.loc[common, ["errors", "length"]] for x in seeds).join(known)
        for model, seeds in tables.items()
    }
    return pooled, ""


def _read(folder: Path, scores: pd.DataFrame) -> pd.DataFrame:
    """Counts of a results folder, of the arms that are compared, with who talks where."""
    path = folder / WORDS_FOLDER / COUNTS_FILE
    remedy = "run evaluate.py with --recogniser again"
    table = read_table(path, [*_KEY, *WordErrors._fields], _KEY, remedy)
    known = scores.drop_duplicates("id").set_index("id")
    for name in ("environment", *VOICE_KEYS):
        table[name] = table.id.map(known[name])
    table = table[table.arm.isin(_ARMS) & table.environment.notna()]
    return table.set_index(_KEY)


def _compared(pooled: Mapping[str, pd.DataFrame], seeds: Mapping[str, int]) -> pd.DataFrame:
    first = next(iter(pooled))
    parts: list[dict[str, Any]] = []
    for model, table in pooled.items():
        for variant, part in split_by_variant(table.reset_index()):
            if variant == ALL_VARIANTS:
                continue
            for arm, of_arm in part.groupby("arm", sort=False):
                index = pd.MultiIndex.from_frame(of_arm[_KEY])
                first_sums = _sums(pooled[first].loc[index])
                row = {"model": model, "seeds": seeds[model], "variant": variant, "arm": arm}
                row |= _rates(_sums(of_arm), first_sums if model != first else None, of_arm)
                parts.append(row)
    return pd.DataFrame(parts)


def outputs_of(counts: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """What :func:`count_words` returns, of the models' outputs alone."""
    return {
        model: table[table.index.get_level_values("arm") == "model"]
        for model, table in counts.items()
    }


def _sums(counts: pd.DataFrame) -> np.ndarray:
    """Errors and words of each mixture, ``[n, 1, 2]``."""
    return counts[["errors", "length"]].to_numpy(float)[:, None]


def _rates(sums: np.ndarray, less: np.ndarray | None, rows: pd.DataFrame) -> dict[str, Any]:
    """The rate, per cent, and with ``less`` its difference from that, with intervals."""
    units = rows[UNIT_KEYS].to_numpy()
    (low,), (high,) = interval_of_ratio(sums, units)
    row = {"n": rows.id.nunique(), "voices": count_voices(units), "wer": _rate(sums)}
    row |= {"low": 100 * low, "high": 100 * high}
    if less is not None:
        (low,), (high,) = interval_of_ratio(sums, units, less)
        row["difference"] = row["wer"] - _rate(less)
        row |= {"difference_low": 100 * low, "difference_high": 100 * high}
    return row


def _rate(sums: np.ndarray) -> float:
    errors, length = sums.sum(axis=(0, 1))
    return 100 * errors / length if length else np.nan


def words_by_variant(table: pd.DataFrame) -> str:
    """Of what :func:`compare_words` returns, the outputs' rates beside the mixture's."""
    models = list(dict.fromkeys(table.model))
    cells = table.set_index(["model", "variant", "arm"])
    voices = ["voices"] * bool(table.voices.notna().any())
    lines = [["variant", "n", *voices, "mixture once", *models]]
    for name in models[1:]:
        lines[0] += [f"{name} − {models[0]}", "95 % interval"]
    for variant in dict.fromkeys(table.variant):
        of_model = [cells.loc[(name, variant, "model")] for name in models]
        once = cells.loc[(models[0], variant, "mixture")].wer
        line = [variant, f"{of_model[0].n:.0f}"]
        line += [markdown.number(of_model[0][x], 0) for x in voices]
        line += [markdown.number(x, 1) for x in (once, *(cell.wer for cell in of_model))]
        for cell in of_model[1:]:
            line.append(markdown.number(cell.difference, 1))
            line.append(markdown.interval(cell.difference_low, cell.difference_high, 1))
        lines.append(line)
    return markdown.table(lines)
