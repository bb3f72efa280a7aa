"""What a PolSESS corpus looks like: its folders, its tables, who speaks in it.

The generator writes by these facts and the preparation reads by them.

Source: the corpus and its generator script of Kleć, Szklanny, Wieczorkowska 2024.
"""

import csv
import math
import os
import posixpath
import re
from collections.abc import Collection, Iterable, Mapping
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from custom_modules.errors import InputError
from custom_modules.files import atomic_path, regular_file

#: The subsets, in the order in which reports list them.
SUBSETS = ("train", "val", "test")

#: In the corpus folder of the generator: columns ``speaker``, ``gender`` and others.
SPEAKERS_FILE = "speakers.csv"

#: What PolSESS's generator draws from, dB: whole speech-to-speech ratios, and the scene's
#: level relative to the speech mix.
SSR_RANGE = -5, 5
SCENE_RANGE = -14.0, 0.0

#: Between the paths of recordings that were joined to one segment.
JOIN = ";"

#: The columns of a subset's table, in PolSESS's order.
COLUMNS = (
    *("subset", "speech1OryginalPath", "speech1Start", "speech1End"),
    *("speech2OryginalPath", "speech2Start", "speech2End", "SSR"),
    *("sceneOryginalPath", "sceneStart", "sceneEnd"),
    *("sceneRandomDB", "sceneOffsetDB", "sceneVolumeGain"),
    *("eventOryginalPath", "eventStart", "eventEnd"),
    *("speaker1File", "speaker2File", "eventFile", "sceneFile"),
    *("reverbForSpeaker1", "reverbForSpeaker2", "reverbForEvent", "mixFile"),
    *("sceneClass", "eventClass", "preDelayForEvent", "preDelay1", "preDelay2"),
    *("highCut", "diffusion", "decay", "freqDamp"),
)

#: Lowest and highest rate of an audio file, Hz; others are of a damaged header.
RATES = 1000, 768_000
#: The same of lengths: a day.
MOST_SECONDS = 86_400.0

#: What can be the name of a mixture: of a file, and text.
NAME = re.compile(r"(?!\.\.?$)[^/\\\x00-\x1f\ud800-\udfff]+")

#: Windows in Polish writes the second one; the first may have a byte order mark.
ENCODINGS = ("utf-8-sig", "cp1250")

_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")


class Layer(NamedTuple):
    """Where one kind of file of a mixture is named and stored."""

    column: str  # of the CSV
    folder: str  # inside the subset's


#: name of the layer → column and folder; the mixture comes first
LAYERS = {
    "mix": Layer("mixFile", "mix"),
    "s1": Layer("speaker1File", "clean"),
    "s2": Layer("speaker2File", "clean"),
    "scene": Layer("sceneFile", "scene"),
    "event": Layer("eventFile", "event"),
    "s1_reverb": Layer("reverbForSpeaker1", "sp1_reverb"),
    "s2_reverb": Layer("reverbForSpeaker2", "sp2_reverb"),
    "event_reverb": Layer("reverbForEvent", "ev_reverb"),
}

#: Indoor mixtures have them, outdoor ones do not.
REVERB_LAYERS = ("s1_reverb", "s2_reverb", "event_reverb")

#: Every mixture has them.
DRY_LAYERS = tuple(layer for layer in LAYERS if layer not in REVERB_LAYERS)

#: Layer → what the generator's names of its files end with. The mix comes last: a
#: mixture whose mix exists has all its layers.
ENDINGS = {layer: f"_{LAYERS[layer].folder}" for layer in reversed(LAYERS)}
ENDINGS |= {"s1": "_sp1", "s2": "_sp2", "mix": ""}

#: name in the manifest → column that may be absent
OPTIONAL_COLUMNS = {
    **{"scene_class": "sceneClass", "event_class": "eventClass"},
    **{"ssr_db": "SSR", "scene_db": "sceneOffsetDB"},
}

#: In an entry only if it is known who the speakers of the corpus are.
SPEAKER_KEYS = ("speaker1", "gender1", "speaker2", "gender2")
#: Otherwise, if the recordings lie in folders: which folder is, as far as paths say, a talker's.
SOURCE_KEYS = ("source1", "source2")

#: name in the manifest → column that the corpus of whole utterances has behind the others
TEXT_COLUMNS = {"text1": "speech1Text", "text2": "speech2Text"}
#: The column of a table of recordings that says what is said in each.
TEXT = "text"

#: name here → column: which stretch of which recording a speaker says
SEGMENT_COLUMNS = {
    "recording1": "speech1OryginalPath",  # the corpus itself spells it so
    "start1": "speech1Start",
    "end1": "speech1End",
    "recording2": "speech2OryginalPath",
    "start2": "speech2Start",
    "end2": "speech2End",
}

#: column → name here, of every column that the preparation reads; the subset's only
#: tells a row that lost its cells from a blank line
NAMES = {"subset": "subset"} | {layer.column: name for name, layer in LAYERS.items()}
NAMES |= {column: x for x, column in (OPTIONAL_COLUMNS | SEGMENT_COLUMNS | TEXT_COLUMNS).items()}


def corpora(data_folder: str | list[str]) -> dict[str, str]:
    """Label → folder of each corpus; a single one needs no label, ``""``.

    >>> corpora(["real/PolSESS", "mini/PolSESS"])
    {'PolSESS': 'real/PolSESS', 'PolSESS-2': 'mini/PolSESS'}
    """
    if isinstance(data_folder, str):
        return {"": data_folder}
    labels: dict[str, str] = {}
    for folder in data_folder:
        name = Path(folder).resolve().name
        free = (x for n in count(1) if (x := f"{name}-{n}" if n > 1 else name) not in labels)
        labels[next(free)] = folder
    return labels


def corpus_names(data_folder: str | list[str]) -> str:
    """The names of the corpora, for people."""
    return ", ".join(Path(folder).resolve().name for folder in corpora(data_folder).values())


def table_name(corpus: str, subset: str) -> str:
    """The name of a subset's CSV file; ``corpus`` ``"*"`` makes a pattern."""
    return f"corpus_{corpus}_{subset}_final.csv"


def csv_path(root: Path, subset: str) -> Path:
    """Where the generator writes a subset's CSV."""
    return root / subset / table_name(root.resolve().name, subset)


def stem(subset: str, index: int) -> str:
    """What the names of a mixture's files begin with: ``train_00007``."""
    return f"{subset}_{index:05d}"


def file_cells(subset: str, index: int, layers: Iterable[str]) -> dict[str, str]:
    """The cells of a row that name its files.

    >>> file_cells("val", 3, ["s1", "mix"])
    {'speaker1File': 'val_00003_sp1.wav', 'mixFile': 'val_00003.wav'}
    """
    name = stem(subset, index)
    return {LAYERS[layer].column: f"{name}{ENDINGS[layer]}.wav" for layer in layers}


def file_paths(root: Path, row: Mapping[str, str]) -> dict[str, Path]:
    """Layer → path of the files that a row of a CSV names, the mix last."""
    return {
        layer: root / row["subset"] / LAYERS[layer].folder / row[LAYERS[layer].column]
        for layer in ENDINGS
        if row.get(LAYERS[layer].column)
    }


def speaker_of(recording: str, speakers: Collection[str]) -> str:
    r"""Who speaks in a recording, by its path; ``""`` if no folder is a speaker's.

    The outermost folder that is a speaker's name counts: in ``speaker/book/file``, as
    LibriSpeech has it, a book may have the number of another speaker. Slashes are of
    either kind; of joined recordings, the first counts.

    >>> speaker_of(r"D:\mls\6892\10179\7.flac", {"6892", "10179"})
    '6892'
    """
    folders = recording.replace("\\", "/").split("/")[:-1]
    return next((name for name in folders if name in speakers), "")


def talkers_of(entry: Mapping[str, Any]) -> tuple[str, str]:
    """Who speaks in a mixture of a manifest, as far as speakers.csv or paths say, or ``""``.

    >>> talkers_of({"speaker1": "ada", "source2": "tapes", "corpus": "a"})
    ('a: ada', 'a: tapes')
    """
    names = [entry.get(f"speaker{n}") or entry.get(f"source{n}") or "" for n in (1, 2)]
    corpus = entry.get("corpus")
    first, second = (f"{corpus}: {name}" if corpus and name else name for name in names)
    return first, second


def with_speaker(recording: str, speaker: str, speakers: Collection[str]) -> str:
    """A recording's path, in front of it the speaker if :func:`speaker_of` errs.

    >>> with_speaker("mls/6892/10179/7.flac", "10179", {"6892", "10179"})
    '10179/mls/6892/10179/7.flac'
    """
    if speaker_of(recording, speakers) == speaker:
        return recording
    return f"{speaker}/{recording}"


def write_rows(path: Path, columns: Iterable[str], rows: Iterable[Mapping[str, str]]) -> None:
    """Writes a CSV as MATLAB's ``writetable`` does: missing values are empty cells."""
    with atomic_path(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(columns), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_rows(path: str | Path) -> list[dict[str, str]]:
    """The rows of a CSV that are not blank."""
    columns = read_columns(path)
    rows = (dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True))
    return [row for row in rows if any(row.values())]


def read_columns(path: str | Path, wanted: Iterable[str] = ()) -> dict[str, list[str]]:
    """Column → its cells, of all or of the wanted columns that a CSV file has.

    A spreadsheet's row n, blank or not, is at n - 2. Semicolons or tabs between cells,
    a byte order mark and the Polish encoding of Windows are a spreadsheet's, too.
    """
    regular_file(path)
    for encoding in ENCODINGS:
        try:
            with open(path, encoding=encoding, newline="") as file:
                return _read_columns(path, file, {name.casefold(): name for name in wanted})
        except UnicodeDecodeError:
            continue
        except csv.Error as error:
            raise InputError(f"{path}: is not a CSV table ({error}); make it again") from error
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); fix it") from error
    raise InputError(f"{path}: is neither UTF-8 nor cp1250; save it as UTF-8")


def _read_columns(
    path: str | Path, file: TextIO, wanted: Mapping[str, str]
) -> dict[str, list[str]]:
    first = file.readline(csv.field_size_limit())
    file.seek(0)
    reader = csv.reader(file, delimiter=max(",;\t", key=first.count), strict=True)
    header = [name.strip() for name in next(reader, ())]
    if not any(header):
        raise InputError(f"{path}: is empty, or names no columns in row 1; make it again")
    names = [wanted.get(name.casefold(), "") for name in header] if wanted else header
    for place, name in enumerate(names):
        if name and name in names[:place]:
            raise InputError(f"{path}: has two columns {name} in row 1; remove one")
    columns: dict[str, list[str]] = {name: [] for name in names if name}
    number, short = 1, False
    for number, cells in enumerate(reader, start=2):
        if any(cells[len(header) :]):
            reason = f"row {number}, line {reader.line_num}, has {len(cells)} cells"
            raise csv.Error(f"{reason}, but row 1 names {len(header)} columns")
        short = len(cells) < len(header)
        # Spreadsheets leave out the empty cells at a row's end.
        for name, cell in zip(names, cells + [""] * (len(header) - len(cells)), strict=False):
            if name:
                columns[name].append(cell)
    if short and cells and not _ends_with_a_line(path):
        raise csv.Error(f"row {number} is cut off")
    return columns


def _ends_with_a_line(path: str | Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, 2)
        return file.read() in b"\r\n"


def read_number(cell: str, thousands: bool = False) -> float:
    """A cell as a finite number, NaN if it is empty; ValueError if it is none.

    Understands what spreadsheets and people write: decimal commas, a typographic minus,
    dB behind. ``thousands`` refuses ``1,234``, where the comma may separate thousands.

    >>> read_number("−2,5 dB"), read_number("")
    (-2.5, nan)
    """
    if not cell:
        return math.nan
    text = re.sub(r"\s*dB$", "", re.sub("[−–]", "-", cell))
    unsure = thousands and _THOUSANDS.fullmatch(text)
    if unsure or not _NUMBER.fullmatch(text) or math.isinf(value := float(text.replace(",", "."))):
        raise ValueError(f"{cell!r} is no number")
    return value


class OutsideError(ValueError):
    """A file name that leads out of the corpus folder, or nowhere."""


def path_below(root: str, cell: str) -> str:
    """A cell or a manifest's path relative to the corpus folder; OutsideError if it leaves it.

    A link in the corpus may lead elsewhere: that is its owner's wish.
    """
    if re.match(r"[A-Za-z]:|\\\\", cell):
        raise OutsideError(f"{cell!r} is an absolute Windows path")
    path = cell.replace("\\", "/")
    if ".." in path.split("/"):
        raise OutsideError(f"{cell!r} leaves the corpus folder")
    if posixpath.isabs(path):
        roots = (os.path.abspath(root), os.path.realpath(root))
        bases = [base.replace(os.sep, "/").rstrip("/") + "/" for base in roots]
        base = next((base for base in bases if path.startswith(base)), None)
        if base is None:
            raise OutsideError(f"{cell!r} is outside the corpus folder")
        path = path[len(base) :]
    path = posixpath.normpath(path)
    if path == "." or "\0" in path:
        raise OutsideError(f"{cell!r} is not a file name")
    return path


def number(value: float) -> str:
    """A number as a cell: six significant digits.

    The last digits of a float differ between machines while the audio does not.

    >>> number(0.123456789), number(18000.0), number(-3)
    ('0.123457', '18000', '-3')
    """
    return f"{value:.6g}"
