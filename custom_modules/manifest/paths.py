"""File names in a CSV, and how they are kept inside the corpus folder."""

import os
import posixpath
import re

# Anything else is a bare file name, which needs no closer look.
_UNUSUAL = re.compile(r"[\\/:\0]|^\.+$")
_WINDOWS_ABSOLUTE = re.compile(r"[A-Za-z]:|\\\\")


class OutsideError(ValueError):
    """A file name that leads out of the corpus folder, or nowhere."""


def corpus_path(cell, folder, subset, root):
    """The path of a file that a CSV cell names, relative to the corpus folder.

    Arguments
    ---------
    cell : str
        A bare file name, a path relative to the subset's folder or to the
        corpus folder, or an absolute path inside the corpus. Separators may
        be backslashes.
    folder : str
        The subset's folder in which bare file names are looked for.
    subset : str
        ``"train"``, ``"val"`` or ``"test"``.
    root : str
        The corpus folder.

    Returns
    -------
    str
        With ``/`` as separator.

    Raises
    ------
    OutsideError
        If the name leaves the corpus folder.

    Example
    -------
    >>> corpus_path("a.wav", folder="mix", subset="val", root="data")
    'val/mix/a.wav'
    >>> corpus_path("mix\\\\a.wav", folder="mix", subset="val", root="data")
    'val/mix/a.wav'
    >>> corpus_path("../a.wav", folder="mix", subset="val", root="data")
    Traceback (most recent call last):
    custom_modules.manifest.paths.OutsideError: '../a.wav' leaves the corpus folder
    """
    if not _UNUSUAL.search(cell):
        return f"{subset}/{folder}/{cell}"
    path = _relative(cell, root)
    if "/" not in path:
        return f"{subset}/{folder}/{path}"
    if not posixpath.isabs(cell.replace("\\", "/")):
        inside_subset = f"{subset}/{path}"
        if os.path.exists(os.path.join(root, inside_subset)):
            return inside_subset
        if not os.path.exists(os.path.join(root, path)):
            # Neither exists: name the likelier one in the complaint.
            return path if path.startswith(f"{subset}/") else inside_subset
    return path


def _relative(cell, root):
    if _WINDOWS_ABSOLUTE.match(cell):
        raise OutsideError(f"{cell!r} is an absolute Windows path")
    path = cell.replace("\\", "/")
    if ".." in path.split("/"):
        raise OutsideError(f"{cell!r} leaves the corpus folder")
    if posixpath.isabs(path):
        path = _inside(path, root)
        if path is None:
            raise OutsideError(f"{cell!r} is outside the corpus folder")
    path = posixpath.normpath(path)
    if path == "." or "\0" in path:
        raise OutsideError(f"{cell!r} is not a file name")
    return path


def _inside(path, root):
    for base in (os.path.abspath(root), os.path.realpath(root)):
        base = base.replace(os.sep, "/").rstrip("/") + "/"
        if path.startswith(base):
            return path[len(base) :]
    return None
