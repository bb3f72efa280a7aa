"""What makes a killed run harmless: who owns a folder, and what is done in it.

``generator.json`` says which options a corpus belongs to. A mixture is done when
its row is known and each of its files is there in full length. Until a subset's
CSV is written, rows wait in ``.rows/``, one small file per mixture.
"""

import json
import os
import shutil
from pathlib import Path

from custom_modules import layout
from custom_modules.errors import InputError
from custom_modules.files import PARTIAL_SUFFIX, atomic_path
from custom_modules.layout import COLUMNS, SPEAKERS_FILE, SUBSETS

try:
    import fcntl
except ImportError:  # not on Windows, where two runs must not share a folder
    fcntl = None

NOTE, ROWS = "generator.json", ".rows"
WAV_HEADER = 44  # bytes that soundfile writes before the samples


class State:
    """A corpus under construction; a context manager that holds the folder's lock.

    Arguments
    ---------
    root : pathlib.Path
        Its folder.
    length : int
        A mixture's length in samples.
    """

    def __init__(self, root, length):
        self.root = root
        self._note = root / NOTE
        self._handle = None
        self.file_size = WAV_HEADER + 2 * length

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def check(self, options, overwrite=False):
        """Refuses a folder that is not ours to work in; changes nothing.

        Arguments
        ---------
        options : dict
            Everything that the corpus depends on.
        overwrite : bool
            Whether a corpus of other options may be replaced.

        Raises
        ------
        InputError
            If the folder holds other things, or a corpus of other options, or
            another process works on it.
        """
        if not self.root.exists():
            return
        if not self.root.is_dir():
            raise InputError(
                f"{self.root}: is no folder; choose another --output_folder"
            )
        self._lock()
        if not self._note.is_file():
            self._refuse_foreign_files()
        elif not overwrite and not self._is_of(options):
            raise InputError(
                f"{self._note}: this corpus was made with other options; set "
                "--overwrite=True to replace it, or another --output_folder"
            )

    def claim(self, options):
        """Makes the folder ours: a corpus of other options is deleted.

        Arguments
        ---------
        options : dict
            As for :meth:`check`, which comes first.
        """
        if self._note.is_file() and not self._is_of(options):
            self._clear()
        if not self._note.is_file():
            self._write_note(options)
        self._lock()
        self.sweep()

    def pin(self, digest, overwrite=False):
        """Holds a resumed run to the recordings of the run that it resumes.

        Arguments
        ---------
        digest : str
            Of the lists of recordings.
        overwrite : bool
            Whether mixtures of other recordings may be deleted.

        Raises
        ------
        InputError
            If the recordings have changed.
        """
        content = self._read_note()
        if content.get("recordings", digest) != digest:
            if not overwrite:
                raise InputError(
                    f"{self._note}: the source recordings have changed since this "
                    "corpus was begun; set --overwrite=True to make it anew"
                )
            self._remove(*SUBSETS, ROWS)
        self._write_note(content["options"], digest)

    def done_rows(self, subset):
        """Rows of the mixtures that are whole.

        Returns
        -------
        dict of int to dict
            Index → row.
        """
        rows = {}
        for row in self._known_rows(subset):
            if all(
                self._is_whole(path)
                for path in layout.file_paths(self.root, row).values()
            ):
                rows[_index(row)] = row
        return rows

    def keep_row(self, row):
        """Remembers that a mixture is done; its files must have been written."""
        name = row["mixFile"].removesuffix(".wav")
        with atomic_path(self.root / ROWS / row["subset"] / f"{name}.json") as partial:
            partial.write_text(json.dumps(row), encoding="utf-8")

    def sweep(self):
        """Removes what a killed process left half-written."""
        for folder in (*SUBSETS, ROWS, "sources"):
            for path in (self.root / folder).rglob(f"*{PARTIAL_SUFFIX}"):
                path.unlink(missing_ok=True)

    def finish_subset(self, subset, rows):
        """Writes a subset's CSV; its waiting rows are needed no more."""
        layout.write_rows(layout.csv_path(self.root, subset), COLUMNS, rows)
        self._remove(Path(ROWS, subset))

    def finish(self):
        """Removes the folder of waiting rows."""
        self._remove(ROWS)

    def _refuse_foreign_files(self):
        if any(self.root.iterdir()):
            raise InputError(
                f"{self.root}: holds files that are no corpus of this generator; "
                "choose another --output_folder"
            )

    def _lock(self):
        """Locks the folder; the system unlocks it when the process dies."""
        if fcntl is None or self._handle is not None:
            return
        handle = os.open(self.root, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            raise InputError(
                f"{self.root}: another process is generating here; wait for it"
            ) from error
        self._handle = handle

    def _clear(self):
        # The note goes last: killed in between, the folder is still known as ours.
        self._remove(*SUBSETS, ROWS, "sources")
        (self.root / SPEAKERS_FILE).unlink(missing_ok=True)
        self._note.unlink()

    def _remove(self, *folders):
        for folder in folders:
            shutil.rmtree(self.root / folder, ignore_errors=True)

    def _is_of(self, options):
        return self._read_note().get("options") == json.loads(json.dumps(options))

    def _read_note(self):
        try:
            return json.loads(self._note.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(
                f"{self._note}: cannot be read; remove the folder, or choose "
                "another --output_folder"
            ) from error

    def _write_note(self, options, digest=None):
        content = {"options": options} | ({"recordings": digest} if digest else {})
        with atomic_path(self._note) as partial:
            partial.write_text(json.dumps(content, indent=1), encoding="utf-8")

    def _known_rows(self, subset):
        path = layout.csv_path(self.root, subset)
        if path.is_file():
            yield from layout.read_rows(path)
        for waiting in sorted((self.root / ROWS / subset).glob("*.json")):
            yield json.loads(waiting.read_text(encoding="utf-8"))

    def _is_whole(self, path):
        return path.is_file() and path.stat().st_size == self.file_size


def _index(row):
    return int(row["mixFile"].removesuffix(".wav").rsplit("_", 1)[1])
