"""A PolSESS-format corpus of a few short mixtures, for tests."""

import csv

import numpy as np
import soundfile

FOLDERS = {
    "mixFile": "mix",
    "speaker1File": "clean",
    "speaker2File": "clean",
    "sceneFile": "scene",
    "eventFile": "event",
    "reverbForSpeaker1": "sp1_reverb",
    "reverbForSpeaker2": "sp2_reverb",
    "reverbForEvent": "ev_reverb",
}
OUTDOOR = list(FOLDERS)[:5]


class TinyCorpus:
    """Writes audio and tables; a test then spoils what it wants to see refused.

    Arguments
    ---------
    root : pathlib.Path
        The corpus folder to make.
    rate : int
        In Hz.
    frames : int
        Samples per file.
    """

    def __init__(self, root, rate=8000, frames=80):
        self.root, self.rate, self.frames = root, rate, frames
        self.rows = {}
        self.random = np.random.default_rng(1)

    def add(self, subset, stem, environment="indoor", **cells):
        """Writes one mixture's files; ``cells`` override those of its row."""
        columns = list(FOLDERS) if environment == "indoor" else OUTDOOR
        names = {column: f"{stem}_{column}.wav" for column in columns}
        names["mixFile"] = f"{stem}.wav"
        levels = self.random.integers(-3000, 3000, (len(columns) - 1, self.frames))
        for column, samples in zip(columns[1:], levels, strict=True):
            self.write(subset, column, names[column], samples)
        self.write(subset, "mixFile", names["mixFile"], levels.sum(axis=0))
        row = {"subset": subset, "SSR": "-2", "sceneClass": "bus"}
        row |= {"eventClass": "bell", "decay": "0.5"}
        for speaker in (1, 2):
            row[f"speech{speaker}OryginalPath"] = rf"D:\{subset}\{stem}\{speaker}.wav"
            row[f"speech{speaker}Start"], row[f"speech{speaker}End"] = "0.5", "4.5"
        row |= dict.fromkeys(FOLDERS, "") | names | cells
        self.rows.setdefault(subset, []).append(row)
        return row

    def path(self, subset, column, name):
        """Where a file of this column is."""
        return self.root / subset / FOLDERS[column] / name

    def write(self, subset, column, name, samples, rate=None, subtype="PCM_16"):
        """Writes samples, integers counting 16-bit steps."""
        path = self.path(subset, column, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = np.asarray(samples)
        if np.issubdtype(samples.dtype, np.integer):
            samples = samples.astype(np.int16)
        soundfile.write(path, samples, rate or self.rate, subtype=subtype)

    def read(self, subset, column, name):
        """The samples of a file, in 16-bit steps."""
        samples, _ = soundfile.read(self.path(subset, column, name), dtype="int16")
        return samples.astype(int)

    def table(self, subset):
        """Where the CSV of a subset goes."""
        name = f"corpus_{self.root.name}_{subset}_final.csv"
        return self.root / subset / name

    def write_tables(self, drop=(), **options):
        """Writes the CSVs, without the columns in ``drop``."""
        for subset, rows in self.rows.items():
            columns = [column for column in rows[0] if column not in drop]
            with open(self.table(subset), "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, columns, extrasaction="ignore", **options)
                writer.writeheader()
                writer.writerows(rows)
        return self


def three_subsets(root):
    """Two indoor rows and an outdoor one in each subset."""
    corpus = TinyCorpus(root)
    for subset in ("train", "val", "test"):
        corpus.add(subset, f"{subset}_1")
        corpus.add(subset, f"{subset}_2")
        corpus.add(subset, f"{subset}_3", environment="outdoor")
    return corpus.write_tables()
