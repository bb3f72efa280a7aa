"""Libri2Mix as manifests of the shape that PolSESS's have.

Its noisy mixture is the scene variant S; cancelling the noise gives C, the clean
one. There is neither reverberation nor an event.

Source: Cosentino et al. 2020, "LibriMix: An open-source dataset for generalizable
speech separation".
"""

import logging
import os
from pathlib import Path

from tqdm import tqdm

from custom_modules.errors import InputError
from custom_modules.files import atomic_path
from custom_modules.layout import LAYERS, OPTIONAL_COLUMNS
from custom_modules.manifest.checks import LEVELS, check_rows
from custom_modules.manifest.entries import escape_braces, write_lines
from custom_modules.mmipc import variants_of
from custom_modules.processes import available_cores, map_pieces

logger = logging.getLogger(__name__)

#: Our subset → the folders that may stand for it.
SUBSET_FOLDERS = {
    "train": ("train-360", "train-100"),
    "val": ("dev",),
    "test": ("test",),
}

MODES = ("min", "max")

#: The folder of the noisy mixture, and that of the clean one.
NOISY, CLEAN = "mix_both", "mix_clean"


def prepare_librimix(
    data_folder,
    save_folder,
    sample_rate=8000,
    mode="min",
    train_set="train-360",
    speakers_file=None,
    check="header",
    workers=None,
):
    """Writes a manifest for each subset of Libri2Mix that is there.

    Arguments
    ---------
    data_folder : str or pathlib.Path
        ``Libri2Mix``: the folder that holds ``wav8k`` or ``wav16k``.
    save_folder : str or pathlib.Path
        Where ``train.json``, ``val.json`` and ``test.json`` go.
    sample_rate : int
        8000 or 16000 Hz.
    mode : str
        ``"min"``: a mixture ends with its shorter speaker; ``"max"``: with the
        longer one.
    train_set : str
        ``"train-360"`` or ``"train-100"``.
    speakers_file : str, optional
        LibriSpeech's ``SPEAKERS.TXT``, for the results by gender.
    check : str
        As in ``prepare_polsess``.
    workers : int, optional
        By default, one per available core.

    Returns
    -------
    dict of str to int
        Subset → its number of mixtures.

    Raises
    ------
    InputError
        If a file is missing or does not fit, or there is no such folder. What
        existed before is unchanged.
    """
    root = _root(data_folder, sample_rate, mode, check)
    folders = _subset_folders(root, train_set)
    genders = read_speakers(speakers_file) if speakers_file else {}
    manifests, problems = {}, []
    for subset, folder in folders.items():
        rows = _rows(data_folder, folder)
        manifests[subset], faults = _entries(
            data_folder, rows, check, workers or available_cores(), genders, sample_rate
        )
        problems += faults
    if problems:
        raise InputError(
            f"{root}: {len(problems)} files are bad, as listed; mend them", problems
        )
    for subset, entries in manifests.items():
        with atomic_path(Path(save_folder, f"{subset}.json")) as path:
            write_lines(path, entries.items())
        logger.info("%s: %d mixtures", subset, len(entries))
    logger.info("Manifests are in %s", save_folder)
    return {subset: len(entries) for subset, entries in manifests.items()}


def read_speakers(path):
    """Genders from LibriSpeech's list of speakers.

    Arguments
    ---------
    path : str or pathlib.Path
        ``SPEAKERS.TXT``: lines such as ``14 | F | train-clean-360 | 25.03 | Name``.

    Returns
    -------
    dict of str to str
        Speaker → ``"female"`` or ``"male"``.

    Raises
    ------
    InputError
        If it cannot be read or names nobody.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InputError(f"{path}: cannot be read ({reason})") from error
    fields = [line.split("|") for line in lines if not line.startswith(";")]
    names = {"F": "female", "M": "male"}
    genders = {
        cells[0].strip(): names[cells[1].strip()]
        for cells in fields
        if len(cells) > 1 and cells[1].strip() in names
    }
    if not genders:
        raise InputError(f"{path}: names no speaker; is it LibriSpeech's SPEAKERS.TXT?")
    return genders


def _root(data_folder, sample_rate, mode, check):
    for name, value, allowed in (
        ("sample_rate", sample_rate, (8000, 16000)),
        ("mode", mode, MODES),
        ("check", check, LEVELS),
    ):
        if value not in allowed:
            raise InputError(f"{name}: {value}; choose from {allowed}")
    root = Path(data_folder, f"wav{sample_rate // 1000}k", mode)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; check --data_folder and --mode")
    return root


def _subset_folders(root, train_set):
    """Subset → its folder, of those that are there."""
    if train_set not in SUBSET_FOLDERS["train"]:
        raise InputError(
            f"train_set: {train_set}; choose from {', '.join(SUBSET_FOLDERS['train'])}"
        )
    names = {"train": train_set, "val": "dev", "test": "test"}
    folders = {s: root / name for s, name in names.items() if (root / name).is_dir()}
    if not folders:
        raise InputError(f"{root}: holds none of {', '.join(names.values())}")
    there = [n for n in SUBSET_FOLDERS["train"] if (root / n).is_dir()]
    if "train" not in folders and there:
        logger.warning(
            "%s: no %s, and so no train.json; --train_set %s is there",
            *(root, train_set, there[0]),
        )
    return folders


def _rows(data_folder, folder):
    """Paths of each mixture's files, by layer, relative to the data folder."""
    noisy = (folder / NOISY).is_dir() and (folder / "noise").is_dir()
    mixtures = folder / (NOISY if noisy else CLEAN)
    names = sorted(path.name for path in mixtures.glob("*.wav"))
    if not names:
        raise InputError(
            f"{mixtures}: no mixtures; Libri2Mix needs {NOISY} and noise, or {CLEAN}"
        )
    places = {"mix": mixtures.name, "s1": "s1", "s2": "s2"}
    places |= {"scene": "noise"} if noisy else {}
    base = folder.relative_to(data_folder).as_posix()
    return [
        dict.fromkeys(LAYERS, "")
        | {layer: f"{base}/{place}/{name}" for layer, place in places.items()}
        for name in names
    ]


def _entries(data_folder, rows, check, workers, genders, sample_rate):
    """Entries by mixture id, and the faults of their files."""
    entries, problems = {}, []
    files = [tuple(row[layer] for layer in LAYERS) for row in rows]
    work = _Check(str(data_folder), check)
    found = map_pieces(work, files, workers)
    for row, facts in zip(
        tqdm(rows, unit="mix", disable=None, leave=False), found, strict=True
    ):
        problems += [f"{file}: {reason}" for file, reason in facts.problems]
        if not facts.problems and facts.sample_rate != sample_rate:
            problems.append(f"{row['mix']}: {facts.sample_rate} Hz, not {sample_rate}")
        name = os.path.splitext(os.path.basename(row["mix"]))[0]
        if not facts.problems:
            entries[name] = _entry(name, row, facts, genders)
    return entries, problems


class _Check:
    """What a process does; an object, as processes cannot be handed closures."""

    def __init__(self, root, level):
        self.root, self.level = root, level

    def __call__(self, rows):
        return check_rows(self.root, self.level, rows)


def _entry(name, row, facts, genders):
    paths = {k: "{data_root}/" + escape_braces(v) for k, v in row.items() if v}
    environment = "scene only" if "scene" in paths else "clean"
    cancelled = {"S": [], "C": [paths["scene"]] if "scene" in paths else []}
    # Names are of two utterances, each speaker-chapter-number.
    speakers = [part.split("-")[0] for part in name.split("_")[:2]]
    entry = {
        "duration": facts.frames / facts.sample_rate,
        "sample_rate": facts.sample_rate,
        "environment": environment,
        "mix": paths["mix"],
        "s1": paths["s1"],
        "s2": paths["s2"],
        "s2_layers": [paths["s2"]],
        "variants": {v: cancelled[v] for v in variants_of(environment)},
        **dict.fromkeys(OPTIONAL_COLUMNS),
    }
    for number, speaker in enumerate(speakers, start=1):
        entry[f"speaker{number}"] = escape_braces(speaker)
        entry[f"gender{number}"] = genders.get(speaker)
    return entry
