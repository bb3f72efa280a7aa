"""What was scored so far, so that a killed evaluation goes on where it was."""

import json
import os
from pathlib import Path

from custom_modules.errors import InputError
from custom_modules.evaluation.scoring import merge_rows


class ScoreStore:
    """Scores of an evaluation, appended to a file as they come.

    A line holds a mixture in one variant, with the metrics that were asked for when
    it was scored; several lines add up. Processes append to files of their own and
    read those of all. What a kill cut off in the middle of a line is passed over,
    and scored again.

    Arguments
    ---------
    folder : str or pathlib.Path
        Where the files are; made when the first score comes.
    key : str
        What is evaluated: model, test set, device, versions. Another key is
        another store.
    rank : int
        Of this process.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> store = ScoreStore(folder, key="model1")
    >>> store.add("a", {"SER": [{"si_sdr": 1.0}]}, groups=("pesq",))
    >>> store.close()
    >>> ScoreStore(folder, key="model1").rows("a", "SER", groups=())
    [{'si_sdr': 1.0}]
    >>> ScoreStore(folder, key="model1").rows("a", "SER", groups=("stoi",)) is None
    True
    """

    def __init__(self, folder, key, rank=0):
        self.folder, self.key = Path(folder), key
        self.path = self.folder / f"{key}.{rank}.jsonl"
        self._file = None
        self._scored = {}
        for path in sorted(self.folder.glob(f"{key}.*.jsonl")):
            self._read(path)

    def rows(self, mixture_id, variant, groups):
        """The rows of a mixture in a variant, one per source.

        Arguments
        ---------
        mixture_id : str
        variant : str
        groups : collection of str
            Metrics that must be there.

        Returns
        -------
        list of dict or None
            None if they are not.
        """
        known, rows = self._scored.get((mixture_id, variant), (set(), None))
        return rows if known.issuperset(groups) else None

    def groups(self, mixture_id, variant):
        """The metrics that a mixture in a variant was scored by so far.

        Arguments
        ---------
        mixture_id : str
        variant : str

        Returns
        -------
        set of str
        """
        return self._scored.get((mixture_id, variant), (set(), None))[0]

    def add(self, mixture_id, scores, groups):
        """Appends the scores of a mixture.

        Arguments
        ---------
        mixture_id : str
        scores : dict of str to list of dict
            Variant → rows, from
            :func:`custom_modules.evaluation.scoring.score_mixture`.
        groups : collection of str
            The metrics in them.

        Raises
        ------
        InputError
            If the file cannot be written.
        """
        lines = []
        for variant, rows in scores.items():
            self._take_in((mixture_id, variant), groups, rows)
            record = {"id": mixture_id, "variant": variant, "groups": list(groups)}
            lines.append(json.dumps(record | {"rows": rows}, ensure_ascii=False))
        try:
            if self._file is None:
                self._file = self._open()
            self._file.write("".join(f"{line}\n" for line in lines).encode())
            self._file.flush()
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be written ({error.strerror}); check the folder, "
                "its permissions and the free space. A rerun goes on from here"
            ) from error

    def close(self):
        """Closes the file; the store can still be read."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def read_all(self):
        """Takes in what other processes have added."""
        for path in sorted(self.folder.glob(f"{self.key}.*.jsonl")):
            if path != self.path:
                self._read(path)

    def _open(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        file = open(self.path, "ab")  # noqa: SIM115 - closed by close()
        if file.tell():
            with open(self.path, "rb") as written:
                written.seek(-1, os.SEEK_END)
                if written.read() != b"\n":  # end the line that a kill cut off
                    file.write(b"\n")
        return file

    def _read(self, path):
        try:
            lines = path.read_bytes().split(b"\n")
        except OSError as error:
            raise InputError(
                f"{path}: cannot be read ({error.strerror}); remove it to score anew"
            ) from error
        for line in lines:
            try:
                record = json.loads(line)
                key = record["id"], record["variant"]
                self._take_in(key, record["groups"], record["rows"])
            except (ValueError, KeyError, TypeError):
                continue  # cut off by a kill

    def _take_in(self, key, groups, rows):
        known, earlier = self._scored.get(key, (set(), None))
        if earlier is None:
            self._scored[key] = set(groups), rows
        elif not known.issuperset(groups):
            self._scored[key] = known.union(groups), merge_rows(earlier, rows)
