"""Several results side by side, as table, CSV and plot."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from custom_modules import markdown
from custom_modules.curves import PALETTE, save
from custom_modules.errors import InputError
from custom_modules.evaluation.record import RECORD_FILE, command, without_folders
from custom_modules.evaluation.summary import (
    ALL_MIXTURES,
    ALL_VARIANTS,
    interval_of_mean,
    over_sources,
    split_by_variant,
)
from custom_modules.files import atomic_path
from custom_modules.metrics import METRICS
from custom_modules.mmipc import VARIANTS

#: What must be the same of all results, and how it is named.
SHARED = {"task": "tasks", "sample_rate": "sample rates", "split": "splits"}

#: dB. By more than this, SI-SDR of the mixture differs if it is other audio.
SAME_AUDIO_DB = 0.01


class Contender(NamedTuple):
    """The results of a model, of one seed or of several.

    Arguments
    ---------
    name : str
    folders : list of str
        Of each seed, where its results are.
    seeds : list of pandas.DataFrame
        Of each seed, a row per mixture and variant.
    """

    name: str
    folders: list
    seeds: list


def read_contenders(folders):
    """Reads results, those of several seeds of a model as one.

    Arguments
    ---------
    folders : list of str

    Returns
    -------
    list of Contender
        In the order of the folders. Folders of one model are pooled if each is of
        a seed of its own. Otherwise, as for an exported folder, which knows of no
        seed, they go by their paths.

    Raises
    ------
    InputError
        If there are fewer than two models, one is named twice, or tasks, sample
        rates or splits differ.
    """
    repeated = [f for f in folders if folders.count(f) > 1]
    if repeated:
        raise InputError(f"{repeated[0]}: named twice; name each result once")
    runs = [_read(Path(folder)) for folder in folders]
    _check_shared(folders, [record for record, _ in runs])
    by_name = {}
    for folder, (record, table) in zip(folders, runs, strict=True):
        by_name.setdefault(record["model_name"], []).append(
            (str(folder), record["seed"], table)
        )
    contenders = [c for name, found in by_name.items() for c in _pooled(name, found)]
    if len(contenders) < 2:
        raise InputError(
            f"{', '.join(map(str, folders))}: one model only; name the results of "
            "two or more to compare"
        )
    return contenders


def _check_shared(folders, records):
    for key, name in SHARED.items():
        known = {str(r[key]): f for f, r in zip(folders, records, strict=True)}
        if len(known) > 1:
            found = ", ".join(f"{value} ({known[value]})" for value in sorted(known))
            raise InputError(
                f"{name} {found} cannot be compared; name results of one of them"
            )


def _pooled(name, found):
    """One contender of several seeds, or one of each folder."""
    folders, seeds, tables = map(list, zip(*found, strict=True))
    if len(found) == 1 or (len(set(seeds)) == len(seeds) and None not in seeds):
        return [Contender(name, folders, tables)]
    return [Contender(f, [f], [t]) for f, t in zip(folders, tables, strict=True)]


def compare(contenders):
    """Means of each model, and paired differences from the first.

    Arguments
    ---------
    contenders : list of Contender
        With the same mixtures and variants.

    Returns
    -------
    pandas.DataFrame
        A row per model, variant (and average) and score: ``model``, ``seeds``,
        ``variant``, ``metric``, ``n`` (mixtures), ``mean``, ``ci_low``,
        ``ci_high``, ``std_over_seeds``; and for all but the first ``difference``
        (mean over mixtures of this model's score minus the first's),
        ``difference_ci_low``, ``difference_ci_high`` and ``won``, the share of
        mixtures in which this model is better.
    """
    scores = _common_scores(contenders)
    pooled = [_mean_over_seeds(contender, scores) for contender in contenders]
    rows = []
    for place, contender in enumerate(contenders):
        table = pooled[place]
        differences = table.copy()
        differences[scores] -= pooled[0][scores]
        for variant, part in split_by_variant(table):
            rows.append(
                _statistics(contender, variant, part, scores)
                | _paired(variant, differences.loc[part.index], scores, place)
            )
    return pd.concat(map(pd.DataFrame, rows), ignore_index=True)


def _statistics(contender, variant, part, scores):
    means, low, high = _mean_and_interval(variant, part, scores)
    of_seeds = [
        _mean(variant, seed.loc[part.index], scores) for seed in contender.seeds
    ]
    several = len(of_seeds) > 1
    return {
        "model": contender.name,
        "seeds": len(of_seeds),
        "variant": variant,
        "metric": scores,
        "n": part[scores].notna().sum().to_numpy(),
        "mean": means,
        "ci_low": low,
        "ci_high": high,
        "std_over_seeds": np.std(of_seeds, axis=0, ddof=1) if several else np.nan,
    }


def _paired(variant, differences, scores, place):
    if place == 0:
        names = ("difference", "difference_ci_low", "difference_ci_high", "won")
        return dict.fromkeys(names, np.nan)
    means, low, high = _mean_and_interval(variant, differences, scores)
    known = differences[scores].notna()
    won = (differences[scores] > 0).where(known).mean().to_numpy(dtype=float)
    return {
        "difference": means,
        "difference_ci_low": low,
        "difference_ci_high": high,
        "won": won,
    }


def _mean(variant, table, scores):
    if variant != ALL_VARIANTS:
        return table[scores].mean().to_numpy()
    return table.groupby("variant")[scores].mean().mean(skipna=False).to_numpy()


def _mean_and_interval(variant, table, scores):
    strata = table.variant.to_numpy() if variant == ALL_VARIANTS else None
    values = table[scores].to_numpy(dtype=float)
    bounds = interval_of_mean(values, table.id.to_numpy(), strata)
    return _mean(variant, table, scores), *bounds


def _mean_over_seeds(contender, scores):
    """The mean over seeds of each mixture; one that failed once has none."""
    first = contender.seeds[0].copy()
    values = np.stack([seed[scores].to_numpy(float) for seed in contender.seeds])
    first[scores] = values.mean(axis=0)
    return first


def _read(folder):
    """The record of a results folder and its scores, over sources."""
    path = folder / "test_results.csv"
    try:
        rows = pd.read_csv(path, dtype={"id": str})
        record = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
        wanted = {"model_name": str(folder), "seed": None} | dict.fromkeys(SHARED)
        table = over_sources(rows)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or "not as evaluate.py writes it"
        raise InputError(
            f"{getattr(error, 'filename', None) or path}: cannot be read ({reason}); "
            "run evaluate.py first"
        ) from error
    return wanted | record, table


def in_common(contenders):
    """Only the mixtures and variants that all have, in one order.

    Arguments
    ---------
    contenders : list of Contender

    Returns
    -------
    list of Contender

    Raises
    ------
    InputError
        If there are none, or what has one name is other audio.
    """
    tables = [seed for contender in contenders for seed in contender.seeds]
    keys = [pd.MultiIndex.from_frame(table[["id", "variant"]]) for table in tables]
    common = keys[0]
    for other in keys[1:]:
        common = common[common.isin(other)]
    if not len(common):
        raise InputError("the results have no mixture and variant in common")

    def restrict(table):
        table = table.set_index(["id", "variant"], drop=False).loc[common]
        return table.reset_index(drop=True)

    contenders = [
        contender._replace(seeds=[restrict(table) for table in contender.seeds])
        for contender in contenders
    ]
    _check_audio(contenders)
    return contenders


def left_out(contenders, common):
    """What only some results have, and a comparison therefore leaves out.

    Arguments
    ---------
    contenders : list of Contender
        As they were read.
    common : list of Contender
        From :func:`in_common`.

    Returns
    -------
    str
        Such as ``"variants S, E; metrics PESQ; 3 mixtures"``; empty if nothing is.
    """
    tables = [seed for contender in contenders for seed in contender.seeds]
    kept = common[0].seeds[0]
    variants = set().union(*(table.variant for table in tables)) - set(kept.variant)
    mixtures = set().union(*(table.id for table in tables)) - set(kept.id)
    of_all = _common_scores(common)
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


def _check_audio(contenders):
    """Names alone say little: corpora made alike have them in common."""
    (first, reference), *others = [
        (folder, table)
        for contender in contenders
        for folder, table in zip(contender.folders, contender.seeds, strict=True)
    ]
    for folder, table in others:
        levels = [t.get("si_sdr_mixture") for t in (reference, table)]
        if any(level is None for level in levels):
            continue
        same = np.isclose(*levels, rtol=0, atol=SAME_AUDIO_DB, equal_nan=True)
        if not same.all():
            raise InputError(
                f"{first} and {folder}: other audio under the same names, by the "
                f"SI-SDR of the mixture, in {(~same).sum()} of {len(same)} mixtures "
                "and variants; run evaluate.py with one --data_folder for both"
            )


def _common_scores(contenders):
    tables = [seed for contender in contenders for seed in contender.seeds]
    names = [name for metric in METRICS for name in (metric, f"{metric}i")]
    return [name for name in names if all(name in table for table in tables)]


#: Column of an improvement → its metric.
GAINS = {f"{name}i": metric for name, metric in METRICS.items()}

COMPARISON_FOLDER = "results/comparison"


def compare_results(folders, output_folder=COMPARISON_FOLDER, output=None):
    """Compares results and writes what came out of it.

    Seeds of one model are pooled. Every other model is compared with the first,
    on the mixtures and variants that all have.

    Arguments
    ---------
    folders : list of str
        Results folders with ``test_results.csv``.
    output_folder : str or pathlib.Path
        ``comparison.csv``, ``comparison.md`` and ``comparison.png`` go there.
    output : str, optional
        Another path for the CSV.

    Returns
    -------
    pandas.DataFrame
        See :func:`~custom_modules.evaluation.comparison.compare`.

    Raises
    ------
    InputError
        If a folder holds no results, tasks differ, or no mixture is in all.
    """
    contenders = read_contenders(folders)
    common = in_common(contenders)
    table = compare(common)
    folder = Path(output_folder)
    for path in filter(None, (folder / "comparison.csv", output)):
        with atomic_path(path) as partial:
            table.to_csv(partial, index=False, float_format="%.6g")
    text = report(table, left_out(contenders, common))
    with atomic_path(folder / "comparison.md") as path:
        path.write_text(text, encoding="utf-8")
    save(plot_comparison(table), folder / "comparison.png")
    print(f"{text}\nTo look at:")
    for name in ("comparison.md", "comparison.png"):
        print(f"  {folder / name}")
    return table


def report(table, missing=""):
    """A comparison as Markdown.

    Arguments
    ---------
    table : pandas.DataFrame
        From :func:`~custom_modules.evaluation.comparison.compare`.
    missing : str
        From :func:`~custom_modules.evaluation.comparison.left_out`.

    Returns
    -------
    str
    """
    models = list(dict.fromkeys(table.model))
    gains = table[table.metric == "si_sdri"]
    averages = table[(table.variant == ALL_MIXTURES) & table.metric.isin(GAINS)]
    seeds = dict.fromkeys(zip(table.model, table.seeds, strict=True))
    note = (
        f"Differences are from {models[0]}, mixture by mixture, with 95 % bootstrap "
        "intervals; `won` is the share of mixtures in which the model is better"
    )
    spread = "; ± is the standard deviation over seeds"
    note += f"{spread if table.seeds.max() > 1 else ''}."
    if missing:
        note += f"\n\nLeft out, as not all results have them: {missing}."
    facts = [f"- {name}: {count} seed{'s' * (count > 1)}" for name, count in seeds]
    parts = [
        f"# {', '.join(models)}",
        "## SI-SDRi (dB) by variant",
        _comparison_table(gains, "variant", lambda _: 2),
        "## All metrics, over all mixtures",
        _comparison_table(averages, "metric", decimals_of, heading_of),
        note,
        "\n".join([*facts, f"- Command: `{without_folders(command())}`"]),
    ]
    return "\n\n".join(parts) + "\n"


def _comparison_table(table, key, decimals, heading=str):
    models = list(dict.fromkeys(table.model))
    cells = table.set_index(["model", key])
    lines = [[key, "n", *models]]
    for name in models[1:]:
        lines[0] += [f"{name} − {models[0]}", "95 % interval", "won"]
    for row in dict.fromkeys(table[key]):
        places = decimals(row)
        line = [heading(row), str(cells.loc[(models[0], row), "n"])]
        line += [mean_over_seeds(cells.loc[(name, row)], places) for name in models]
        for name in models[1:]:
            cell = cells.loc[(name, row)]
            bounds = (cell.difference_ci_low, cell.difference_ci_high)
            line += [
                markdown.number(cell.difference, places),
                markdown.interval(*bounds, places),
            ]
            line.append(
                markdown.DASH if pd.isna(cell.won) else f"{100 * cell.won:.0f} %"
            )
        lines.append(line)
    return markdown.table(lines)


def mean_over_seeds(cell, decimals):
    """A mean, ± the standard deviation over seeds if there are several.

    Arguments
    ---------
    cell : pandas.Series
        A row of :func:`~custom_modules.evaluation.comparison.compare`.
    decimals : int

    Returns
    -------
    str
    """
    mean = markdown.number(cell["mean"], decimals)
    if cell.seeds == 1:
        return mean
    return f"{mean} ± {markdown.number(cell.std_over_seeds, decimals)}"


def decimals_of(gain):
    """Decimals that an improvement is shown with."""
    return GAINS[gain].decimals


def heading_of(gain):
    """What an improvement is called in a table."""
    return f"{GAINS[gain].heading}i"


def plot_comparison(table):
    """SI-SDRi of all models by variant, and below it the paired differences.

    Arguments
    ---------
    table : pandas.DataFrame
        From :func:`~custom_modules.evaluation.comparison.compare`.

    Returns
    -------
    matplotlib.figure.Figure
    """
    table = table[table.metric == "si_sdri"]
    models = list(dict.fromkeys(table.model))
    variants = list(dict.fromkeys(table.variant))
    figure = Figure(figsize=(9.5, 6.4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    width = 0.8 / len(models)
    for place, model in enumerate(models):
        part = table[table.model == model].set_index("variant").loc[variants]
        colour = PALETTE[place % len(PALETTE)]
        where = np.arange(len(variants)) + (place - (len(models) - 1) / 2) * width
        above.bar(
            where,
            part["mean"],
            width,
            yerr=_errors(part["mean"], part.ci_low, part.ci_high),
            capsize=3,
            color=colour,
            label=model,
        )
        if place:
            below.errorbar(
                where,
                part.difference,
                yerr=_errors(
                    part.difference, part.difference_ci_low, part.difference_ci_high
                ),
                fmt="o",
                capsize=3,
                color=colour,
            )
    for axes in (above, below):
        axes.axhline(0, color="black", linewidth=0.8)
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    labels = [name.replace(" ", "\n", 1) for name in variants]
    below.set_xticks(range(len(variants)), labels, fontsize=9)
    above.set(ylabel="SI-SDRi (dB)", title="Improvement over the mixture")
    below.set(ylabel=f"difference from\n{models[0]} (dB)")
    # Inside, it would hide bars of some results.
    figure.legend(loc="outside upper center", ncols=len(models), frameon=False)
    return figure


def _errors(mean, low, high):
    return np.nan_to_num([mean - low, high - mean]).clip(0)
