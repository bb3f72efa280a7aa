"""What makes a killed run harmless: who owns a folder, and what is done in it.

``generator.json`` says which options a corpus belongs to. A mixture is done when
its row is known and each of its files is there in full length. Until a subset's
CSV is written, rows wait in ``.rows/``, one small file per mixture.
"""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from custom_modules import layout
from custom_modules.errors import InputError
from custom_modules.files import PARTIAL_SUFFIX, atomic_path
from custom_modules.layout import COLUMNS, SPEAKERS_FILE, SUBSETS

try:
    import fcntl
except ImportError:  # not on Windows, where two runs must not share a folder
    fcntl = None  # type: ignore[assignment]

NOTE, ROWS = "generator.json", ".rows"
WAV_HEADER = 44  # bytes that soundfile writes before the samples
#: Class of a source, as notes of earlier versions name it → as hparams files do now.
MOVED = {"corpus.speech_folder.SpeechFolder": "corpus.folders.SpeechFolder"}

Row = dict[str, str]


class State:
    """A corpus under construction; a context manager that holds the folder's lock.

    ``length`` is a mixture's, in samples.
    """

    def __init__(self, root: Path, length: int) -> None:
        self.root = root
        self._note = root / NOTE
        self._handle: int | None = None
        self.file_size = WAV_HEADER + 2 * length

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def check(self, options: dict, overwrite: bool = False) -> None:
        """Refuses a folder that is not ours to work in; changes nothing.

        ``options`` are everything that the corpus depends on; with ``overwrite``, a
        corpus of others may be replaced.
        """
        if not self.root.exists():
            return
        if not self.root.is_dir():
            raise InputError(
                f"{self.root}: is not a folder; choose another --output_folder"
            )
        self._lock()
        if not self._note.is_file() and any(self.root.iterdir()):
            raise InputError(
                f"{self.root}: holds files that are not a corpus of this generator; "
                "choose another --output_folder"
            )
        if self._note.is_file() and not (overwrite or self._is_of(options)):
            raise InputError(
                f"{self._note}: this corpus was made with other options; set "
                "--overwrite=True to replace it, or another --output_folder"
            )

    def claim(self, options: dict) -> None:
        """Makes the folder ours, after `check`; a corpus of others is deleted."""
        if self._note.is_file() and not self._is_of(options):
            # The note goes last: killed in between, the folder is still known as ours.
            self._remove(*SUBSETS, ROWS, "sources")
            (self.root / SPEAKERS_FILE).unlink(missing_ok=True)
            self._note.unlink()
        if not self._note.is_file():
            self._write_note(options)
        self._lock()
        self.sweep()

    def pin(self, digest: str, overwrite: bool = False) -> None:
        """Holds a resumed run to the recordings of the run that it resumes.

        ``digest`` is that of their lists; with ``overwrite``, mixtures of other
        recordings are deleted.
        """
        content = self._read_note()
        if content.get("recordings", digest) != digest:
            if not overwrite:
                raise InputError(
                    f"{self._note}: the source recordings have changed since this "
                    "corpus was begun; set --overwrite=True to make it again"
                )
            self._remove(*SUBSETS, ROWS)
        self._write_note(content["options"], digest)

    def done_rows(self, subset: str) -> dict[int, Row]:
        """Index → row of the mixtures that are whole."""
        table = layout.csv_path(self.root, subset)
        rows = layout.read_rows(table) if table.is_file() else []
        for waiting in sorted((self.root / ROWS / subset).glob("*.json")):
            rows.append(json.loads(waiting.read_text(encoding="utf-8")))
        return {
            int(_stem(row).rsplit("_", 1)[1]): row
            for row in rows
            if all(map(self._is_whole, layout.file_paths(self.root, row).values()))
        }

    def keep_row(self, row: Row) -> None:
        """Remembers that a mixture is done; its files must have been written."""
        folder = self.root / ROWS / row["subset"]
        with atomic_path(folder / f"{_stem(row)}.json") as partial:
            partial.write_text(json.dumps(row), encoding="utf-8")

    def sweep(self) -> None:
        """Removes what a killed process left half-written."""
        for folder in (*SUBSETS, ROWS, "sources"):
            for path in (self.root / folder).rglob(f"*{PARTIAL_SUFFIX}"):
                path.unlink(missing_ok=True)

    def finish_subset(self, subset: str, rows: Iterable[Row]) -> None:
        """Writes a subset's CSV; its waiting rows are needed no more."""
        layout.write_rows(layout.csv_path(self.root, subset), COLUMNS, rows)
        self._remove(Path(ROWS, subset))

    def finish(self) -> None:
        """Removes the folder of waiting rows."""
        self._remove(ROWS)

    def _lock(self) -> None:
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

    def _remove(self, *folders: str | Path) -> None:
        for folder in folders:
            shutil.rmtree(self.root / folder, ignore_errors=True)

    def _is_of(self, options: dict) -> bool:
        return self._read_note().get("options") == json.loads(json.dumps(options))

    def _read_note(self) -> dict:
        try:
            text = self._note.read_text(encoding="utf-8")
            for earlier, now in MOVED.items():
                text = text.replace(earlier, now)
            return json.loads(text)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{self._note}: cannot be read; remove the folder, or choose "
                "another --output_folder"
            ) from error

    def _write_note(self, options: dict, digest: str | None = None) -> None:
        content = {"options": options} | ({"recordings": digest} if digest else {})
        with atomic_path(self._note) as partial:
            partial.write_text(json.dumps(content, indent=1), encoding="utf-8")

    def _is_whole(self, path: Path) -> bool:
        return path.is_file() and path.stat().st_size == self.file_size


def _stem(row: Row) -> str:
    return row["mixFile"].removesuffix(".wav")
