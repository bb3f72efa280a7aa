"""Who speaks: the optional ``speakers.csv`` beside the subsets."""

import os
from pathlib import Path

from custom_modules.errors import InputError
from custom_modules.layout import SPEAKERS_FILE, speaker_of
from custom_modules.manifest.cells import read_cells


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

    See :func:`custom_modules.layout.speaker_of` for who speaks in a recording.

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
        known = {path: speaker_of(path, genders) for path in set(recordings)}
        speakers = [known[path] for path in recordings]
        rows[f"speaker{number}"] = speakers
        rows[f"gender{number}"] = [genders.get(speaker, "") for speaker in speakers]
