"""Which recordings to separate, where their outputs go, and what made those there."""

import glob
from dataclasses import dataclass
from pathlib import Path

from custom_modules.audio import SUFFIXES, open_audio
from custom_modules.errors import InputError
from custom_modules.evaluation.loading import fingerprint
from custom_modules.inference import PolSESSSeparation
from custom_modules.recordings.spectrograms import comment_of_picture

#: How the comments begin of the files that ``separate.py`` has written.
MADE_HERE = "separate.py "


def describe_settings(model: PolSESSSeparation, channels: str, normalize: str) -> str:
    """A line for all that makes outputs what they are, the same on any device."""
    name = getattr(model.hparams, "model_name", "unnamed")
    settings = {
        "model": f"{name}-{fingerprint(model.mods)}",
        "channels": channels,
        "normalize": normalize,
        "chunk_seconds": model.chunk_seconds,
        "overlap_seconds": model.overlap_seconds,
        "precision": model.precision,
    }
    return MADE_HERE + " ".join(f"{key}={value}" for key, value in settings.items())


@dataclass
class Recording:
    """A file to separate."""

    path: Path
    stem: Path  # of its outputs, to which _s1.wav and the like are appended

    def outputs(self, sources: int, channels: int | None = None) -> list[Path]:
        """The files to write, by channel, if each is separated, and source."""
        parts = [""] if channels is None else [f"_ch{c + 1}" for c in range(channels)]
        return [
            self.stem.with_name(f"{self.stem.name}{part}_s{source + 1}.wav")
            for part in parts
            for source in range(sources)
        ]


def find_recordings(
    inputs: list[str], folder: str | Path
) -> tuple[list[Recording], list[str]]:
    """Lists the files to separate, sorted, each once, with their place in ``folder``.

    Inputs are files, folders, which are searched through, and patterns. What lies in a
    folder of an input folder goes into a folder of that name. Names that would collide
    keep their suffix. Also returns a line for each input that is not there, or has
    nothing in it; raises InputError if all are, or names collide.
    """
    names: dict[Path, tuple[Path, Path]] = {}  # by file: as given, and below its base
    missing = []
    outputs = Path(folder).resolve()
    for item in inputs:
        try:
            expanded = _expand(item)
        except InputError as error:
            missing.append(str(error))
            continue
        for path, base in expanded:
            # What an earlier run wrote into a folder of an input folder is no input.
            inside = outputs in path.resolve().parents and outputs != base.resolve()
            if not (inside and Path(item).is_dir()):
                names.setdefault(path.resolve(), (path, path.relative_to(base)))
    if len(missing) == len(inputs):
        raise InputError(missing[-1], missing[:-1])
    recordings = _name_outputs(sorted(names.values(), key=lambda pair: pair[1]), folder)
    _refuse_overwriting(recordings, set(names))
    return recordings, missing


def _name_outputs(
    names: list[tuple[Path, Path]], folder: str | Path
) -> list[Recording]:
    """Recordings, each with the stem of its outputs; raises InputError if two meet."""
    by_stem: dict[Path, list[tuple[Path, Path]]] = {}
    for path, name in names:
        by_stem.setdefault(name.with_suffix(""), []).append((path, name))
    recordings = []
    for stem, same in by_stem.items():
        if len({name for _, name in same}) < len(same):
            raise InputError(
                f"{same[0][0]} and {same[1][0]}: both would be written as {stem}; "
                "separate them into different folders"
            )
        recordings += [
            Recording(path, Path(folder) / (name if len(same) > 1 else stem))
            for path, name in same
        ]
    return recordings


def _refuse_overwriting(recordings: list[Recording], inputs: set[Path]) -> None:
    """Raises InputError if a recording's output is another recording."""
    for recording in recordings:
        for output in recording.outputs(2) + recording.outputs(2, channels=2):
            if output.resolve() in inputs:
                raise InputError(
                    f"{recording.path}: its output would replace the recording "
                    f"{output}; choose another --output_folder"
                )


def _expand(item: str) -> list[tuple[Path, Path]]:
    """Files of an input, each with the folder that its name is relative to."""
    path = Path(item)
    if path.is_dir():
        files = [(p, path) for p in sorted(path.rglob("*")) if _is_audio(p)]
    elif path.exists():
        files = [(path, path.parent)]
    else:
        matches = [Path(p) for p in sorted(glob.glob(item, recursive=True))]
        files = [(p, p.parent) for p in matches if _is_audio(p)]
        if not files and not glob.has_magic(item):
            raise InputError(f"{item}: no such file or folder")
    if not files:
        where = "in it" if path.is_dir() else "that it matches"
        raise InputError(f"{item}: no {', '.join(SUFFIXES)} {where}")
    return files


def _is_audio(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def shard(recordings: list[Recording], index: int, count: int) -> list[Recording]:
    """Every ``count``-th recording from ``index`` on, for one of several processes."""
    return recordings[index::count]


def outputs_of(recording: Recording, sources: int, channels: str) -> list[Path]:
    """The files of a recording; with ``channels="each"`` it is opened to count them."""
    if channels != "each":
        return recording.outputs(sources)
    with open_audio(recording.path) as audio:
        return recording.outputs(sources, audio.channels)


def finished_by(recording: Recording, outputs: list[Path]) -> str | None:
    """What made the outputs of a recording, if all are there and newer than it.

    The comment that they have in common, ``""`` if they have none. Raises InputError if
    a file is in the place of an output that no comment says was made here.
    """
    present = [path for path in outputs if _is_present(path)]
    comments = [_comment_of(path) for path in present]
    for path, comment in zip(present, comments, strict=True):
        _check_made_here(path, comment)
    changed = recording.path.stat().st_mtime
    if present != outputs or any(p.stat().st_mtime < changed for p in present):
        return None
    return comments[0] if len(set(comments)) == 1 else ""


def check_picture(path: Path) -> None:
    """Refuses to replace a picture that was not drawn here."""
    if _is_present(path):
        _check_made_here(path, comment_of_picture(path))


def _is_present(path: Path) -> bool:
    # An empty file is what a crash of the machine leaves; there is nothing to lose.
    return path.exists() and path.stat().st_size > 0


def _check_made_here(path: Path, comment: str) -> None:
    if not comment.startswith(MADE_HERE):
        raise InputError(
            f"{path} is there and does not say that separate.py made it; move it "
            "away, or replace it with --overwrite"
        )


def left_beside(outputs: list[Path], sources: int) -> list[Path]:
    """Files of a model with more sources, which lie beside those of this one.

    Of those that were made here, the next source's.
    """
    last, following = f"_s{sources}.wav", f"_s{sources + 1}.wav"
    candidates = [
        path.with_name(path.name.removesuffix(last) + following)
        for path in outputs
        if path.name.endswith(last)
    ]
    return [path for path in candidates if _comment_of(path).startswith(MADE_HERE)]


def _comment_of(path: Path) -> str:
    """A file's own comment; none if it is missing or no audio."""
    try:
        with open_audio(path) as audio:
            return audio.comment
    except InputError:
        return ""
