"""Libri2Mix as manifests of the shape that PolSESS's have.

Its noisy mixture is the scene variant S; cancelling the noise gives C, the clean
one. There is neither reverberation nor an event.

Source: Cosentino et al. 2020, "LibriMix: An open-source dataset for generalizable
speech separation".
"""

import logging
import re
from contextlib import ExitStack
from pathlib import Path

import pandas as pd

from custom_modules.audio import SUFFIXES
from custom_modules.errors import InputError, check_number
from custom_modules.files import atomic_path, regular_file
from custom_modules.layout import LAYERS
from custom_modules.manifest.checks import LEVELS, survey_audio
from custom_modules.manifest.csv_tables import Table, equal_names
from custom_modules.manifest.entries import write_entries
from custom_modules.processes import available_cores

logger = logging.getLogger(__name__)

#: The folders of which one is our subset ``train``.
TRAIN_SETS = ("train-360", "train-100")

#: A mixture ends with its shorter speaker, or with the longer one.
MODES = ("min", "max")

RATES = (8000, 16000)

#: The folder of the noisy mixture, and that of the clean one.
NOISY, CLEAN = "mix_both", "mix_clean"

# A mixture's name in LibriMix: an utterance, speaker-chapter-number, for each speaker.
_UTTERANCES = re.compile(r"\d+-\d+-\d+(_\d+-\d+-\d+)+")


def prepare_librimix(
    data_folder: str | Path,
    save_folder: str | Path,
    sample_rate: int = 8000,
    mode: str = "min",
    train_set: str = "train-360",
    speakers_file: str | Path | None = None,
    check: str = "header",
    workers: int | None = None,
) -> dict[str, int]:
    """Writes a manifest for each subset of Libri2Mix that is there.

    ``data_folder`` holds ``wav8k`` or ``wav16k``; ``speakers_file`` is LibriSpeech's
    ``SPEAKERS.TXT``; the rest is as in ``prepare_polsess``. Returns how many mixtures
    each subset has. If a file is missing or does not fit, nothing is written.
    """
    workers = available_cores() if workers is None else workers
    check_number("--workers", workers, least=1, whole=True)
    root = _root(data_folder, sample_rate, mode, check, train_set)
    genders = read_speakers(speakers_file) if speakers_file else {}
    folders = _subset_folders(root, train_set)
    tables = [Table(s, f, _rows(data_folder, f, genders)) for s, f in folders.items()]
    tables, _ = survey_audio(tables, str(data_folder), check, workers, sample_rate)
    problems = [
        f"{p.file}: {p.reason}" for t in tables for p in (*t.problems, *equal_names(t.rows))
    ]
    if problems:
        raise InputError(f"{root}: {len(problems)} files are bad, as listed; fix them", problems)
    with ExitStack() as stack:  # all or none
        for table in tables:
            target = atomic_path(Path(save_folder, f"{table.subset}.json"))
            write_entries(stack.enter_context(target), table.rows)
    for table in tables:
        logger.info("%s: %d mixtures", table.subset, len(table.rows))
    logger.info("Manifests are in %s", save_folder)
    return {table.subset: len(table.rows) for table in tables}


def read_speakers(path: str | Path) -> dict[str, str]:
    """Speaker → ``"female"`` or ``"male"``, from LibriSpeech's ``SPEAKERS.TXT``.

    Its lines are as ``14 | F | train-clean-360 | 25.03 | Name``.
    """
    try:
        lines = regular_file(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InputError(f"{path}: cannot be read ({reason})") from error
    names = {"F": "female", "M": "male"}
    genders = {}
    for number, line in enumerate(lines, start=1):
        if line.strip() and line[:1] != ";":
            speaker, gender = [*map(str.strip, line.split("|")), ""][:2]
            if gender not in names:
                raise InputError(f"{path}, line {number}: is not as '14 | F | …'; correct it")
            genders[speaker] = names[gender]
    if not genders:
        raise InputError(f"{path}: names no speaker; is it LibriSpeech's SPEAKERS.TXT?")
    return genders


def _root(data_folder: str | Path, sample_rate: int, mode: str, check: str, train_set: str) -> Path:
    for name, value, allowed in (
        ("sample_rate", sample_rate, RATES),
        ("mode", mode, MODES),
        ("check", check, LEVELS),
        ("train_set", train_set, TRAIN_SETS),
    ):
        if value not in allowed:
            choice = ", ".join(map(str, allowed))
            raise InputError(f"{name}: {value}; choose from {choice}")
    root = Path(data_folder, f"wav{sample_rate // 1000}k", mode)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; check --data_folder and --mode")
    return root


def _subset_folders(root: Path, train_set: str) -> dict[str, Path]:
    """Subset → its folder, of those that are there."""
    names = {"train": train_set, "val": "dev", "test": "test"}
    folders = {s: root / name for s, name in names.items() if (root / name).is_dir()}
    if not folders:
        raise InputError(f"{root}: holds none of {', '.join(names.values())}")
    other_sets = [name for name in TRAIN_SETS if (root / name).is_dir()]
    if "train" not in folders and other_sets:
        logger.warning(
            "%s: no %s, and so no train.json; --train_set %s is there",
            *(root, train_set, other_sets[0]),
        )
    return folders


def _rows(data_folder: str | Path, folder: Path, genders: dict[str, str]) -> pd.DataFrame:
    """Each mixture's speakers, and its files by layer, relative to the data folder."""
    noisy = (folder / NOISY).is_dir() and (folder / "noise").is_dir()
    mixtures = folder / (NOISY if noisy else CLEAN)
    files = mixtures.iterdir() if mixtures.is_dir() else ()
    names = [x.name for x in files if x.suffix.lower() in SUFFIXES and x.name[0] != "."]
    if not names:
        raise InputError(f"{mixtures}: no mixtures; Libri2Mix needs {NOISY} and noise, or {CLEAN}")
    utterances = {name.count("_") for name in names if _UTTERANCES.fullmatch(Path(name).stem)}
    if (folder / "s3").exists() or utterances - {1}:
        raise InputError(f"{folder}: mixtures of more than two speakers; name Libri2Mix")
    places = {"mix": mixtures.name, "s1": "s1", "s2": "s2"}
    places |= {"scene": "noise"} if noisy else {}
    found = {x.name for place in {*places.values(), NOISY} for x in (folder / place).glob("[!.]*")}
    if left := sorted(found.difference(names)):
        logger.warning("%s: %d files are of no mixture, such as %s", folder, len(left), left[0])
    if (folder / NOISY).is_dir() and not noisy:
        logger.warning("%s: no folder noise, so %s is used, not %s", folder, CLEAN, NOISY)
    base = folder.relative_to(data_folder).as_posix()
    common = dict.fromkeys(LAYERS, "")
    common["environment"] = "scene only" if noisy else "clean"
    rows = []
    for name in sorted(names):
        row = common | {k: f"{base}/{place}/{name}" for k, place in places.items()}
        known = _UTTERANCES.fullmatch(Path(name).stem)
        for number, utterance in enumerate(name.split("_") if known else ("", ""), start=1):
            speaker = row[f"speaker{number}"] = utterance.split("-")[0]
            row[f"gender{number}"] = genders.get(speaker, "")
        rows.append(row)
    return pd.DataFrame(rows)
