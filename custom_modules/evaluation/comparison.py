"""Several results side by side, as table, CSV and plot."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from custom_modules import markdown
from custom_modules.curves import save
from custom_modules.errors import InputError
from custom_modules.evaluation import summary
from custom_modules.evaluation.bootstrap import interval_of_mean
from custom_modules.evaluation.pairwise import PAIRS_FILE, compare_pairs, sections
from custom_modules.evaluation.plots import plot_comparison
from custom_modules.evaluation.record import RECORD_FILE, RESULTS_FILE, command, without_folders
from custom_modules.evaluation.voices import (
    UNIT_KEYS,
    VOICE_KEYS,
    caption,
    count_voices,
    read_voices,
    with_units,
)
from custom_modules.evaluation.word_comparison import (
    compare_words,
    count_words,
    outputs_of,
    words_by_variant,
)
from custom_modules.metrics import METRICS, Metric
from custom_modules.mmipc import CANCELLED_LAYERS, VARIANTS
from custom_modules.tabular import read_record, read_table, write_table, write_text

logger = logging.getLogger(__name__)

COMPARISON_FOLDER = "results/comparison"
COMPARED_WORDS_FILE = "comparison_words.csv"

#: Columns of ``test_results.csv`` that hold no numbers.
TEXT_COLUMNS = (
    *("id", "variant", "environment", "genders"),
    *("scene_class", "event_class", *VOICE_KEYS, "failures"),
)

#: What must be the same of all results, and how it is named.
SHARED = {"task": "tasks", "sample_rate": "sample rates", "split": "splits"}

#: dB. By more than this, SI-SDR of the mixture differs if it is other audio.
SAME_AUDIO_DB = 0.01


#: Model → folder of each of its seeds → a row per mixture and variant, by both.
Results = dict[str, dict[str, pd.DataFrame]]


def compare_results(
    folders: Sequence[str | Path],
    output_folder: str | Path = COMPARISON_FOLDER,
    output: str | Path | None = None,
) -> pd.DataFrame:
    """Compares results folders and writes ``comparison.csv``, ``.md`` and ``.png``.

    Also every pair of models, ``comparison_pairs.csv``, and where all count words alike
    ``comparison_words.csv``. Seeds of one model are pooled. Every other model is compared
    with the first, on the mixtures and variants that all have. ``output`` is another path
    for the CSV. Returns what :func:`compare` does.
    """
    results = read_results(folders)
    common = in_common(results)
    table = compare(common)
    folder = Path(output_folder)
    for path in (folder / "comparison.csv", *([output] if output else [])):
        write_table(table, path, digits=6)
    counts, without = count_words(results)
    words = None if counts is None else compare_words(results, counts)
    (folder / COMPARED_WORDS_FILE).unlink(missing_ok=True)  # of other results
    pooled = over_seeds(common)
    scores = [name for name in improvements() if name in common_scores(common)]
    pairs = compare_pairs(pooled, scores, counts and outputs_of(counts))
    write_table(pairs, folder / PAIRS_FILE, digits=6)
    missing = "; ".join(filter(None, (left_out(results, common), without)))
    note = caption(next(iter(pooled.values())))
    text = report(table, missing, words, sections(pairs), note)
    if words is not None:
        write_table(words, folder / COMPARED_WORDS_FILE, digits=6)
    write_text(folder / "comparison.md", text)
    save(plot_comparison(table), folder / "comparison.png")
    print(f"{text}\nTo look at:")
    for name in ("comparison.md", "comparison.png"):
        print(f"  {folder / name}")
    return table


def read_results(folders: Sequence[str | Path]) -> Results:
    """Reads results folders, those of several seeds of a model as one.

    Folders of one model are pooled if each is of a seed of its own. Otherwise, as for
    an exported folder, which knows of no seed, they go by their paths. InputError if
    there are fewer than two models, one is named twice, or they are not of one task,
    sample rate and split.
    """
    names = [*map(str, folders)]
    if len({Path(name).resolve() for name in names}) < len(names):
        raise InputError(f"{', '.join(names)}: one is named twice; name each once")
    runs = {name: _read(Path(name)) for name in names}
    _share_voices({name: table for name, (_, table) in runs.items()})
    for key, name in SHARED.items():
        known = {str(record.get(key)): folder for folder, (record, _) in runs.items()}
        if len(known) > 1:
            values = ", ".join(f"{value} ({known[value]})" for value in sorted(known))
            raise InputError(f"{name} {values} cannot be compared; name results of one of them")
    seeds = [  # as text, whatever a record says
        (str(record.get("model_name") or f), record.get("seed") and str(record["seed"]))
        for f, (record, _) in runs.items()
    ]
    count = Counter(model for model, _ in seeds)
    apart = {
        model
        for model, seed in seeds
        if count[model] > 1 and (seed is None or seeds.count((model, seed)) > 1)
    }
    results: Results = {}
    for (model, _), (folder, (_, table)) in zip(seeds, runs.items(), strict=True):
        results.setdefault(folder if model in apart else model, {})[folder] = table
    if len(results) < 2:
        raise InputError(f"{', '.join(runs)}: one model only; name the results of two or more")
    return results


def _read(folder: Path) -> tuple[dict, pd.DataFrame]:
    """The record of a results folder and its scores, over sources."""
    path, remedy = folder / RESULTS_FILE, "run evaluate.py first, or again"
    if not folder.is_dir():
        raise InputError(f"{folder}: cannot be read (is no results folder); {remedy}")
    record = read_record(folder / RECORD_FILE, remedy)
    needed = ("id", "variant", "environment", "source", "si_sdr", "si_sdr_mixture", "si_sdri")
    rows = read_table(path, needed, TEXT_COLUMNS, remedy)
    bad = ~(rows.variant.isin(VARIANTS) & rows.environment.isin(CANCELLED_LAYERS))
    bad |= rows.id.isna() | rows.source.isna()
    if bad.any():
        raise InputError(f"{path}, row {bad.idxmax() + 2}: is no row of a test; {remedy}")
    if rows.groupby(["id", "variant"]).source.nunique().nunique() > 1:
        raise InputError(f"{path}: lacks sources of some mixtures; {remedy}")
    table = summary.over_sources(rows)
    if not set(VOICE_KEYS) <= set(table):  # as of before they were written
        found = read_voices(folder, record, table.id)
        table = table if found is None else table.join(found)
    return record, table.set_index([table.id.to_numpy(), table.variant.to_numpy()])


def _share_voices(tables: Mapping[str, pd.DataFrame]) -> None:
    """Gives every table the voices that any of them knows, and says which knew none."""
    old = [name for name, table in tables.items() if not set(VOICE_KEYS) <= set(table)]
    known = [table[["id", *VOICE_KEYS]] for name, table in tables.items() if name not in old]
    voices = pd.concat([pd.DataFrame(columns=["id", *VOICE_KEYS], dtype=object), *known])
    voices = voices.dropna(how="all", subset=[*VOICE_KEYS]).drop_duplicates("id").set_index("id")
    for name, table in tables.items():
        for key in VOICE_KEYS:
            table[key] = table.id.map(voices[key])
        if name in old and not set(table.id) <= set(voices.index):
            logger.warning(
                "%s: does not say who talks, so a mixture counts as a voice of its own; "
                "run evaluate.py on it again, which scores nothing again",
                Path(name, RESULTS_FILE),
            )


def in_common(results: Results) -> Results:
    """Only the mixtures and variants that all have, in one order.

    InputError if there are none, or what has one name is other audio.
    """
    (_, first), *others = _tables(results)
    common = first.index
    for _, table in others:
        common = common[common.isin(table.index)]
    if not len(common):
        raise InputError("the results have no mixture and variant in common")
    results = {
        model: {folder: table.loc[common] for folder, table in seeds.items()}
        for model, seeds in results.items()
    }
    _check_audio(results)
    return results


def _tables(results: Results) -> list[tuple[str, pd.DataFrame]]:
    """Folder and scores of each seed of each model."""
    return [pair for seeds in results.values() for pair in seeds.items()]


def _check_audio(results: Results) -> None:
    """Names alone say little: corpora made alike have them in common."""
    (first, reference), *others = _tables(results)
    for folder, table in others:
        levels = reference.si_sdr_mixture, table.si_sdr_mixture
        same = np.isclose(*levels, rtol=0, atol=SAME_AUDIO_DB, equal_nan=True)
        if not same.all():
            raise InputError(
                f"{first} and {folder}: other audio under the same names, by the "
                f"SI-SDR of the mixture, in {(~same).sum()} of {len(same)} mixtures "
                "and variants; run evaluate.py with one --data_folder for both"
            )


def left_out(results: Results, common: Results) -> str:
    """What only some results have, as ``"variants S, E; metrics PESQ; 3 mixtures"``.

    ``common`` is what :func:`in_common` leaves of them.
    """
    tables = [table for _, table in _tables(results)]
    _, kept = _tables(common)[0]
    variants = set().union(*(table.variant for table in tables)) - set(kept.variant)
    mixtures = set().union(*(table.id for table in tables)) - set(kept.id)
    of_all = common_scores(common)
    metrics = [
        metric.heading
        for name, metric in METRICS.items()
        if name not in of_all and any(name in table for table in tables)
    ]
    parts = []
    if variants:
        parts.append(f"variants {', '.join(v for v in VARIANTS if v in variants)}")
    if metrics:
        parts.append(f"metrics {', '.join(metrics)}")
    if mixtures:
        parts.append(f"{len(mixtures)} mixture{'s' * (len(mixtures) > 1)}")
    return "; ".join(parts)


def common_scores(results: Results) -> list[str]:
    """Metrics and improvements that all have."""
    names = [name for metric in METRICS for name in (metric, f"{metric}i")]
    return [n for n in names if all(n in table for _, table in _tables(results))]


def over_seeds(results: Results) -> dict[str, pd.DataFrame]:
    """The mean over each model's seeds, a row per mixture and variant, and its units."""
    scores, pooled = common_scores(results), {}
    for model, tables in results.items():
        # Of a mixture that failed with one seed there is none.
        values = [table[scores].to_numpy(float) for table in tables.values()]
        pooled[model] = with_units(next(iter(tables.values())))
        pooled[model][scores] = np.mean(values, axis=0)
    return pooled


def compare(results: Results) -> pd.DataFrame:
    """Means of each model, and paired differences from the first.

    Of results :func:`in_common`. A row per model, variant (and average) and score:
    ``model``, ``seeds``, ``variant``, ``metric``, ``n`` (mixtures), ``voices`` (none where
    it is not known who talks, and intervals are over mixtures), ``mean``, ``ci_low``,
    ``ci_high``, ``std_over_seeds``; and for all but the first ``difference`` (mean over
    mixtures of this model's score minus the first's), ``difference_ci_low``,
    ``difference_ci_high`` and ``won``, the share of mixtures in which this model is better.
    """
    scores = common_scores(results)
    parts, reference = [], None
    for model, pooled in over_seeds(results).items():
        tables = results[model]
        differences = pooled.copy()
        differences[scores] -= np.nan if reference is None else reference[scores]
        reference = pooled if reference is None else reference
        for variant, part in summary.split_by_variant(pooled):
            subsets = [table.loc[part.index] for table in tables.values()]
            seeds = [_mean(variant, subset, scores) for subset in subsets]
            several = len(seeds) > 1
            paired = differences.loc[part.index]
            units, present = part[UNIT_KEYS].to_numpy(), part[scores].notna().to_numpy()
            won = (paired[scores] > 0).where(paired[scores].notna()).mean()
            columns = {
                "model": model,
                "seeds": len(seeds),
                "variant": variant,
                "metric": scores,
                "n": present.sum(axis=0),
                "voices": [count_voices(units[column]) for column in present.T],
                **_mean_and_interval(variant, part, scores, "mean", "ci"),
                "std_over_seeds": np.std(seeds, axis=0, ddof=1) if several else np.nan,
                **_mean_and_interval(variant, paired, scores, "difference", "difference_ci"),
                "won": won.to_numpy(dtype=float),
            }
            parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def _mean_and_interval(
    variant: str, table: pd.DataFrame, scores: list[str], mean: str, interval: str
) -> dict[str, np.ndarray]:
    """Columns with these names."""
    strata = table.variant.to_numpy() if variant == summary.ALL_VARIANTS else None
    values = table[scores].to_numpy(dtype=float)
    low, high = interval_of_mean(values, table[UNIT_KEYS].to_numpy(), strata)
    means = _mean(variant, table, scores)
    return {mean: means, f"{interval}_low": low, f"{interval}_high": high}


def _mean(variant: str, table: pd.DataFrame, scores: list[str]) -> np.ndarray:
    if variant != summary.ALL_VARIANTS:
        return table[scores].mean().to_numpy()
    means = table.groupby("variant")[scores].mean()
    whole = means.mean(skipna=False)
    if "C" in means.index:  # a task with one output has no improvement there
        lacking = means.columns[means.loc["C"].isna()]
        whole[lacking] = means.drop(index="C")[lacking].mean(skipna=False)
    return whole.to_numpy()


def report(
    table: pd.DataFrame,
    missing: str = "",
    words: pd.DataFrame | None = None,
    pairs: Sequence[str] = (),
    note: str = "",
) -> str:
    """What :func:`compare` returns as Markdown; ``missing`` is what was left out.

    ``pairs`` are sections of :mod:`~custom_modules.evaluation.pairwise`, ``note`` a caption.

    ``words`` are of :func:`~custom_modules.evaluation.word_comparison.compare_words`.
    """
    seeds = dict(zip(table.model, table.seeds, strict=True))
    models = list(seeds)
    averages = table[table.variant == summary.ALL_MIXTURES]
    note = (
        f"Differences are from {models[0]}, mixture by mixture; `won` is the share of mixtures "
        f"in which the model is better. {note}"
    )
    if table.seeds.max() > 1:
        note += "; ± is the standard deviation over seeds"
    parts = [
        f"# {', '.join(models)}",
        "## SI-SDRi (dB) by variant",
        scores_by(table[table.metric == "si_sdri"], "variant"),
        "## All metrics, over all mixtures",
        scores_by(averages[averages.metric.isin(improvements())], "metric"),
        *(["## Words (word error rate, %)", words_by_variant(words)] if words is not None else []),
        f"{note}.",
        *(["## Which is better", *pairs] if pairs else []),
        *([f"Left out, as not all results have them: {missing}."] if missing else []),
    ]
    facts = [f"- {name}: {n} seed{'s' * (n > 1)}" for name, n in seeds.items()]
    facts.append(f"- Command: `{without_folders(command())}`")
    return "\n\n".join([*parts, "\n".join(facts)]) + "\n"


def scores_by(table: pd.DataFrame, key: str) -> str:
    """Of what :func:`compare` returns: a row for each variant or metric, by ``key``.

    A cell is the mean, ± the deviation over seeds if there are several. Behind all are
    the differences from the first model.
    """
    models = list(dict.fromkeys(table.model))
    cells = table.set_index(["model", key], drop=False)
    voices = ["voices"] if "voices" in table and table.voices.notna().any() else []
    lines = [[key, "n", *voices, *models]]
    for name in models[1:]:
        lines[0] += [f"{name} − {models[0]}", "95 % interval", "won"]
    for row in dict.fromkeys(table[key]):
        of_model = {name: cells.loc[(name, row)] for name in models}
        first = of_model[models[0]]
        metric = improvements()[first.metric]
        line = [metric.heading if key == "metric" else row, str(first.n)]
        line += [markdown.number(first[x], 0) for x in voices]
        line += [score_cell(cell, metric.decimals) for cell in of_model.values()]
        for cell in (of_model[name] for name in models[1:]):
            bounds = (cell.difference_ci_low, cell.difference_ci_high)
            line += [
                markdown.number(cell.difference, metric.decimals),
                markdown.interval(*bounds, metric.decimals),
                markdown.DASH if pd.isna(cell.won) else f"{100 * cell.won:.0f} %",
            ]
        lines.append(line)
    return markdown.table(lines)


def score_cell(cell: pd.Series, decimals: int, interval: bool = False) -> str:
    """A mean as a table shows it, of a row of :func:`compare`."""
    text = markdown.number(cell["mean"], decimals)
    if text == markdown.DASH:
        return text
    if cell.seeds > 1:
        text += f" ± {markdown.number(cell.std_over_seeds, decimals)}"
    if interval and pd.notna(cell.ci_low):
        text += f" [{markdown.interval(cell.ci_low, cell.ci_high, decimals)}]"
    return text


def improvements() -> dict[str, Metric]:
    """Column of an improvement → its metric, under the improvement's heading."""
    return {f"{k}i": m._replace(heading=f"{m.heading}i") for k, m in METRICS.items()}
