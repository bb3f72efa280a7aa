"""Test results: a row per mixture, variant and source, and their summary."""

import pandas as pd
import soundfile as sf
import torch

from custom_modules.files import atomic_path
from custom_modules.mmipc import VARIANTS

#: Columns of the summary, if the task has them, and their headings.
METRICS = {
    "si_sdr": "SI-SDR",
    "si_sdri": "SI-SDRi",
    "oracle_si_sdri": "oracle SI-SDRi",
    "si_sir": "SI-SIR",
    "si_siri": "SI-SIRi",
}

ALL_VARIANTS = "all variants"
ALL_MIXTURES = "all mixtures"


def result_rows(batch, scores, entries):
    """The rows of a scored batch.

    Arguments
    ---------
    batch : speechbrain.dataio.batch.PaddedBatch
        From :func:`custom_modules.dataio.collate`.
    scores : dict of str to torch.Tensor
        From :func:`custom_modules.metrics.score`.
    entries : Mapping
        The manifest, for what it knows of the speakers.

    Returns
    -------
    list of dict
    """
    rows = []
    for item, mixture_id in enumerate(batch.id):
        known = describe(entries[mixture_id])
        for source in range(scores["si_sdr"].shape[1]):
            rows.append(
                {
                    "id": mixture_id,
                    "variant": batch.variant[item],
                    "environment": batch.environment[item],
                    "source": source + 1,
                    **known,
                    **{name: float(v[item, source]) for name, v in scores.items()},
                }
            )
    return rows


def describe(entry):
    """What a manifest entry knows of its speakers.

    Arguments
    ---------
    entry : dict

    Returns
    -------
    dict
        ``ssr_db``, and ``genders`` (``"same"`` or ``"cross"``) if known.

    Example
    -------
    >>> describe({"ssr_db": -2, "gender1": "female", "gender2": "male"})
    {'ssr_db': -2, 'genders': 'cross'}
    """
    known = {"ssr_db": entry.get("ssr_db")}
    if entry.get("gender1") and entry.get("gender2"):
        same = entry["gender1"] == entry["gender2"]
        known["genders"] = "same" if same else "cross"
    return known


def summarise(rows):
    """Means per variant, over mixtures.

    Arguments
    ---------
    rows : pandas.DataFrame
        As in ``test_results.csv``.

    Returns
    -------
    pandas.DataFrame
        A row per variant in the order of :data:`custom_modules.mmipc.VARIANTS`,
        C of indoor and outdoor mixtures also apart, then the averages over
        variants and over mixtures. Columns: ``n`` (mixtures), ``failed``
        (sources without a score), the metrics in dB, and SI-SDRi of pairs of
        the same gender and across, if known.
    """
    groups = [(v, rows[rows.variant == v]) for v in VARIANTS]
    clean = dict(groups)["C"]
    for environment in ("indoor", "outdoor"):
        subset = clean[clean.environment == environment]
        if len(subset) < len(clean):
            groups.append((f"C {environment}", subset))
    order = {name: place for place, name in enumerate(VARIANTS)}
    groups.sort(key=lambda group: order[group[0].split()[0]])
    table = pd.DataFrame(
        {name: _means(group) for name, group in groups if len(group)}
    ).T
    table.loc[ALL_VARIANTS] = table.loc[
        [v for v in VARIANTS if v in table.index]
    ].mean()
    table.loc[ALL_VARIANTS, ["n", "failed"]] = table.loc[
        [v for v in VARIANTS if v in table.index], ["n", "failed"]
    ].sum()
    table.loc[ALL_MIXTURES] = _means(rows)
    table.index.name = "variant"
    return table.astype({"n": int, "failed": int})


def _means(rows):
    """Sources are averaged within a mixture first, then mixtures."""
    metrics = [name for name in METRICS if name in rows]
    mixtures = rows.groupby(["id", "variant"])[metrics].mean()
    means = {"n": len(mixtures), "failed": int(rows.si_sdr.isna().sum())}
    means |= mixtures.mean().to_dict()
    known = rows.genders.dropna().unique() if "genders" in rows else ()
    for genders in (g for g in ("same", "cross") if g in known):
        pairs = rows[rows.genders == genders].groupby(["id", "variant"])
        means[f"si_sdri_{genders}"] = pairs.si_sdri.mean().mean()
    return means


def render(table):
    """The summary as text, aligned, with readable headings.

    Arguments
    ---------
    table : pandas.DataFrame
        From :func:`summarise`.

    Returns
    -------
    str
        A Markdown table, dB to two decimals.
    """
    headings = METRICS | {
        "si_sdri_same": "SI-SDRi same gender",
        "si_sdri_cross": "SI-SDRi cross gender",
        "failed": "failed",
        "n": "n",
    }
    shown = table.drop(columns="failed") if not table.failed.any() else table
    lines = [["variant", *(headings[name] for name in shown)]]
    for name, row in shown.iterrows():
        lines.append([str(name), *(_cell(column, v) for column, v in row.items())])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    lines.insert(1, ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])])
    return "\n".join(
        "| "
        + " | ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in lines
    )


def _cell(column, value):
    if pd.isna(value):
        return "–"
    # Adding 0 after rounding spares the reader a -0.00.
    return f"{value:.0f}" if column in ("n", "failed") else f"{round(value, 2) + 0:.2f}"


def write_results(rows, folder):
    """Writes the rows and their summary.

    Arguments
    ---------
    rows : list of dict
        From :func:`result_rows`.
    folder : str or pathlib.Path
        ``test_results.csv``, ``test_summary.csv`` and ``test_summary.md`` go
        there.

    Returns
    -------
    pandas.DataFrame
        The summary.
    """
    rows = pd.DataFrame(rows)
    table = summarise(rows)
    with atomic_path(f"{folder}/test_results.csv") as path:
        rows.to_csv(path, index=False, float_format="%.4f")
    with atomic_path(f"{folder}/test_summary.csv") as path:
        table.to_csv(path, float_format="%.4f")
    with atomic_path(f"{folder}/test_summary.md") as path:
        path.write_text(render(table) + "\n", encoding="utf-8")
    return table


def write_example(folder, name, mixture, estimates, targets, sample_rate):
    """Writes a mixture, its estimates and its targets to listen to.

    SI-SDR leaves the scale of an estimate open, so each is given the level of
    its target.

    Arguments
    ---------
    folder : str or pathlib.Path
        Made if missing.
    name : str
        ``<name>_mixture.wav``, ``<name>_s1.wav``, ``<name>_s1_target.wav`` …
    mixture : torch.Tensor
        ``[time]``.
    estimates : torch.Tensor
        ``[time, sources]``, in the order of the targets.
    targets : torch.Tensor
        ``[time, sources]``.
    sample_rate : int
        Hz.

    Returns
    -------
    list of str
        The mixture and the estimates.
    """
    estimates = estimates.float()
    levels = targets.square().mean(0).sqrt()
    estimates = estimates * levels / estimates.square().mean(0).sqrt().clamp_min(1e-8)
    signals = {"mixture": mixture}
    sources = range(targets.shape[1])
    signals |= {f"s{i + 1}": estimates[:, i] for i in sources}
    signals |= {f"s{i + 1}_target": targets[:, i] for i in sources}
    paths = {suffix: f"{folder}/{name}_{suffix}.wav" for suffix in signals}
    for suffix, signal in signals.items():
        with atomic_path(paths[suffix]) as path:
            samples = torch.clamp(signal, -1, 1).cpu().numpy()
            sf.write(path, samples, sample_rate, subtype="PCM_16", format="WAV")
    return [path for suffix, path in paths.items() if "target" not in suffix]
