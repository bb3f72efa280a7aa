"""Who talks in a mixture, so that intervals are over voices, and what tables say of that."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from custom_modules.errors import InputError
from custom_modules.evaluation.bootstrap import FEWEST, interval_of_mean
from custom_modules.evaluation.store import SCORES_FOLDER
from custom_modules.layout import talkers_of
from custom_modules.manifest.reading import open_manifest

#: In a row of results: who talks; empty if nobody knows, or it is not in the mixture.
VOICE_KEYS = ("voice1", "voice2")

#: What is drawn for a row, as :func:`with_units` makes it.
UNIT_KEYS = ["unit1", "unit2"]


def voices_of(entry: dict, task: str = "SB") -> dict[str, str | None]:
    """Who is heard in a mixture, by :data:`VOICE_KEYS`; of ES, the first alone.

    >>> voices_of({"speaker1": "ada", "speaker2": None, "source2": "tapes"})
    {'voice1': 'ada', 'voice2': 'tapes'}
    """
    first, second = talkers_of(entry)
    return {"voice1": first or None, "voice2": (second or None) if task != "ES" else None}


def with_units(table: pd.DataFrame) -> pd.DataFrame:
    """Adds :data:`UNIT_KEYS`: numbers of the voices, for the bootstrap.

    One voice is there twice. Where nobody knows who talks it is the mixture, below 0.
    """
    voices = table.reindex(columns=[*VOICE_KEYS]).astype(object)
    voices = voices.where(voices.notna() & (voices != ""))
    filled = voices.bfill(axis=1).ffill(axis=1).to_numpy()
    codes, _ = pd.factorize(filled.ravel(), sort=True)  # whatever the order of rows
    units, mixtures = codes.reshape(-1, 2), -1 - pd.factorize(table.id)[0]
    units = np.where(units < 0, mixtures[:, None], units)
    return table.assign(**dict(zip(UNIT_KEYS, units.T, strict=True)))


def count_voices(units: np.ndarray) -> float:
    """How many voices talk in rows with these units; NaN if it is not known of all."""
    return np.nan if (units < 0).any() else float(len(np.unique(units)))


def caption(table: pd.DataFrame) -> str:
    """What a page says of its intervals, by the voices in rows of results."""
    units = table[UNIT_KEYS].to_numpy() if "unit1" in table else units_in(table)
    known = units >= 0
    voices = len(np.unique(units[known]))
    if not known.any():
        return (
            "Intervals are 95 % bootstrap intervals over mixtures, as it is not known who talks "
            "in them: too narrow, where few voices talk in all"
        )
    if known.all() and voices < FEWEST:
        return f"There are no intervals: {voices} of {FEWEST} voices that they need"
    text = (
        f"Intervals are 95 % bootstrap intervals over {voices} voices, both of a mixture drawn "
        f"with replacement; fewer than {FEWEST} voices have none"
    )
    partly = "; a mixture of which nobody knows who talks counts as a voice of its own"
    return text + partly * (not known.all())


def units_in(table: pd.DataFrame) -> np.ndarray:
    """Units of rows of results, ``[n, 2]``."""
    return with_units(table)[UNIT_KEYS].to_numpy()


def read_voices(folder: Path, record: dict[str, Any], ids: pd.Series) -> pd.DataFrame | None:
    """Who talks in mixtures, from the manifest that a test left beside its scores, if any."""
    path = folder / SCORES_FOLDER / f"{record.get('split')}.json"
    corpus = record.get("data_folder")
    if not isinstance(corpus, str | list):
        return None
    try:
        manifest = open_manifest(path, corpus)
    except InputError:  # moved, or of a version that left none
        return None
    if not set(ids) <= set(manifest):
        return None
    task = str(record.get("task"))
    voices = {name: voices_of(manifest[name], task) for name in dict.fromkeys(ids)}
    return pd.DataFrame([voices[name] for name in ids], index=ids.index, columns=[*VOICE_KEYS])


def tested_voices(folder: Path) -> pd.DataFrame:
    """Units of each mixture of a test that left its results in a folder, by its id."""
    manifest = open_manifest(folder / SCORES_FOLDER / "test.json", "")
    rows = [{"id": name, **voices_of(manifest[name])} for name in manifest]
    return with_units(pd.DataFrame(rows)).set_index("id")[UNIT_KEYS]


def interval_over_voices(values: np.ndarray, voices: np.ndarray) -> tuple[float, float]:
    """95 % interval of a mean ``[mixtures]``; ``voices``, ``[mixtures, 2]``, are who talks.

    >>> voices = np.array([["a", "b"], ["b", "c"], ["c", "a"]])
    >>> interval_over_voices(np.ones(3), voices)
    (1.0, 1.0)
    """
    (low,), (high,) = interval_of_mean(np.asarray(values)[:, None], voices)
    return float(low), float(high)
