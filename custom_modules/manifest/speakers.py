"""Who speaks: the optional ``speakers.csv`` beside the subsets."""

import os
from pathlib import Path

from custom_modules.errors import InputError
from custom_modules.manifest.cells import read_cells

#: In the corpus folder; columns ``speaker``, ``gender`` and whatever else.
SPEAKERS_FILE = "speakers.csv"


def read_genders(root):
    """Reads the list of speakers, if the corpus has one.

    Arguments
    ---------
    root : str or pathlib.Path
        The corpus folder.

    Returns
    -------
    dict of str to str, or None
        Speaker → gender (``""`` if unknown). None if there is no such list.

    Raises
    ------
    InputError
        If the list cannot be read or has no column ``speaker``.
    """
    path = Path(root) / SPEAKERS_FILE
    if not os.path.exists(path):
        return None
    cells = read_cells(path, wanted=("speaker", "gender"))
    if "speaker" not in cells:
        raise InputError(f"{path}: has no column speaker in row 1; add it")
    genders = cells["gender"] if "gender" in cells else [""] * len(cells)
    return dict(zip(cells["speaker"], genders, strict=True))


def add_speakers(rows, genders):
    """Adds the columns ``speaker1``, ``gender1``, ``speaker2``, ``gender2``.

    The speaker of a recording is the innermost of its parent folders that is
    the name of a speaker.

    Arguments
    ---------
    rows : pandas.DataFrame
        As in :class:`~custom_modules.manifest.tables.Table`; changed in place.
    genders : dict of str to str
        From :func:`read_genders`.

    Example
    -------
    >>> import pandas as pd
    >>> recordings = ["D:\\\\pl\\\\anna\\\\7.wav", "pl/eve/8.wav"]
    >>> rows = pd.DataFrame({"recording1": recordings})
    >>> add_speakers(rows, {"anna": "female"})
    >>> rows["speaker1"].tolist(), rows["gender1"].tolist()
    (['anna', ''], ['female', ''])
    """
    for number in (1, 2):
        column = f"recording{number}"
        recordings = rows[column].tolist() if column in rows else [""] * len(rows)
        known = {path: _speaker_of(path, genders) for path in set(recordings)}
        speakers = [known[path] for path in recordings]
        rows[f"speaker{number}"] = speakers
        rows[f"gender{number}"] = [genders.get(speaker, "") for speaker in speakers]


def _speaker_of(recording, genders):
    folders = recording.replace("\\", "/").split("/")[:-1]
    return next((name for name in reversed(folders) if name in genders), "")
