"""Which recordings to separate, where their outputs go, and what made those there."""

import glob
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import soundfile as sf
from PIL import Image

from custom_modules.audio import SUFFIXES, open_audio
from custom_modules.errors import InputError
from custom_modules.evaluation.record import fingerprint
from custom_modules.inference import PolSESSSeparation

#: How the comments begin of the files that ``separate.py`` has written.
MADE_HERE = "separate.py "


def describe_settings(model: PolSESSSeparation, channels: str, normalize: str) -> str:
    """A line for all that makes outputs what they are, the same on any device."""
    name = getattr(model.hparams, "model_name", "unnamed")
    return (
        f"{MADE_HERE}model={name}-{fingerprint(model.mods)} channels={channels} "
        f"normalize={normalize} chunk_seconds={model.chunk_seconds} "
        f"overlap_seconds={model.overlap_seconds} precision={model.precision}"
    )


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


def find_recordings(inputs: list[str], folder: str | Path) -> tuple[list[Recording], list[str]]:
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
    for recording in recordings:
        for output in recording.outputs(2) + recording.outputs(2, channels=2):
            if output.resolve() in names:
                raise InputError(
                    f"{recording.path}: its output would replace the recording "
                    f"{output}; choose another --output_folder"
                )
    return recordings, missing


def _expand(item: str) -> list[tuple[Path, Path]]:
    """Files of an input, each with the folder that its name is relative to."""
    path = Path(item)
    if path.exists() and not path.is_dir():
        return [(path, path.parent)]
    if not (path.exists() or glob.has_magic(item)):
        raise InputError(f"{item}: no such file or folder")
    listed = path.rglob("*") if path.is_dir() else glob.glob(item, recursive=True)
    known = (p for p in map(Path, listed) if p.suffix.lower() in SUFFIXES)
    files = sorted(p for p in known if p.is_file())
    if not files:
        raise InputError(f"{item}: no recordings ({', '.join(SUFFIXES)})")
    return [(file, path if path.is_dir() else file.parent) for file in files]


def _name_outputs(names: list[tuple[Path, Path]], folder: str | Path) -> list[Recording]:
    """Recordings, each with the stem of its outputs; raises InputError if two meet."""
    stems = Counter(name.with_suffix("") for _, name in names)
    paths: dict[Path, Path] = {}
    recordings = []
    for path, name in names:
        stem = name.with_suffix("")
        if paths.setdefault(name, path) != path:
            raise InputError(
                f"{paths[name]} and {path}: both would be written as {stem}; "
                "separate them into different folders"
            )
        recordings.append(Recording(path, folder / (name if stems[stem] > 1 else stem)))
    return recordings


def outputs_of(recording: Recording, sources: int, channels: str) -> list[Path]:
    """The files of a recording; with ``channels="each"`` it is opened to count them."""
    if channels != "each":
        return recording.outputs(sources)
    with open_audio(recording.path) as audio:
        return recording.outputs(sources, audio.channels)


def finished_by(recording: Recording, outputs: list[Path]) -> str | None:
    """What made the outputs of a recording, if all are there and newer than it.

    The comment that they have in common, ``""`` if they have none.
    """
    changed = recording.path.stat().st_mtime
    if not all(_is_present(p) and p.stat().st_mtime >= changed for p in outputs):
        return None
    comments = {_comment_of(path) for path in outputs}
    return comments.pop() if len(comments) == 1 else ""


def check_made_here(paths: list[Path]) -> None:
    """Refuses to replace a file that no comment says was made here."""
    for path in paths:
        if _is_present(path) and not is_made_here(path):
            raise InputError(
                f"{path} is there and does not say that separate.py made it; move it "
                "away, or replace it with --overwrite"
            )


def is_made_here(path: Path) -> bool:
    """Whether ``separate.py`` has written a file, as its comment says."""
    return _comment_of(path).startswith(MADE_HERE)


def _is_present(path: Path) -> bool:
    # An empty file is what a crash of the machine leaves; there is nothing to lose.
    return path.exists() and path.stat().st_size > 0


def _comment_of(path: Path) -> str:
    """A file's own comment; none if it is missing, or neither picture nor audio."""
    try:
        if path.suffix == ".png":
            with Image.open(path) as picture:
                return picture.info.get("Comment", "")
        with sf.SoundFile(path) as audio:
            return audio.comment
    except (OSError, ValueError, SyntaxError, sf.SoundFileError):  # Pillow has many
        return ""
