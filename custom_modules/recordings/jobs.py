"""Which recordings to separate, where their outputs go, and what made those there."""

import glob
import hashlib
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import soundfile as sf
from PIL import Image

from custom_modules import audio
from custom_modules.errors import InputError
from custom_modules.evaluation.record import fingerprint
from custom_modules.files import not_a_file, regular_file
from custom_modules.inference import PolSESSSeparation

#: How the comments begin of the files that ``separate.py`` has written.
MADE_HERE = "separate.py "
_OUTPUT = re.compile(r"((.+?)(?:_ch\d+)?)_s\d+\.wav")


def describe_settings(model: PolSESSSeparation, channels: str, normalize: str) -> str:
    """A line for all that makes outputs what they are, the same on any device."""
    name = getattr(model.hparams, "model_name", "unnamed")
    observation = model.observation_db
    return (
        f"{MADE_HERE}model={name}-{fingerprint(model.mods)} channels={channels} "
        f"normalize={normalize} chunk_seconds={model.chunk_seconds} "
        f"overlap_seconds={model.overlap_seconds} precision={model.precision}"
        + ("" if observation is None else f" observation_db={observation:g}")
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
    keep their suffix; what a run like this one has written is no input. Also returns a
    line for each input that is not there, or has nothing in it; raises InputError if
    all are, or names collide.
    """
    names: dict[Path, tuple[Path, Path]] = {}  # by file: as given, and below its base
    missing = []
    outputs = Path(os.path.realpath(folder))
    for item in inputs:
        try:
            expanded, problems = _expand(item)
        except InputError as error:
            missing.append(str(error))
            continue
        missing += problems
        for path, base in expanded:
            # What an earlier run wrote into a folder of an input folder is no input.
            real = Path(os.path.realpath(path))
            inside = outputs in real.parents and outputs != Path(os.path.realpath(base))
            if not (inside and os.path.isdir(item)):
                names.setdefault(real, (path, path.relative_to(base)))
    if not names and missing:
        raise InputError(missing[-1], missing[:-1])
    kept = _without_outputs(names, outputs)
    return _name_outputs(sorted(kept, key=lambda pair: pair[1]), folder), missing


def _expand(item: str) -> tuple[list[tuple[Path, Path]], list[str]]:
    """Files of an input, each with the folder that its name is relative to; problems."""
    path = Path(item)
    problems: list[str] = []
    if os.path.isdir(item):
        files, problems = audio.find_recordings(path)
    elif os.path.exists(item):
        return [(path, path.parent)], []
    elif glob.has_magic(item):
        listed = sorted(map(Path, glob.glob(item, recursive=True)))
        files = [p for p in listed if p.suffix.lower() in audio.SUFFIXES and not p.is_dir()]
    else:
        raise InputError(f"{item}: no such file or folder")
    if not files:
        raise InputError(f"{item}: no recordings ({', '.join(audio.SUFFIXES)})")
    return [(file, path if os.path.isdir(item) else file.parent) for file in files], problems


def _without_outputs(names: dict[Path, tuple[Path, Path]], folder: Path) -> list[tuple[Path, Path]]:
    """Inputs that no other's outputs are, or would replace, which raises InputError."""
    stems: dict[Path, Path] = {}
    for path, name in names.values():
        stems |= dict.fromkeys((folder / name, folder / name.with_suffix("")), path)
    kept = []
    for real, given in names.items():
        match = _OUTPUT.fullmatch(real.name)
        ends = map(real.with_name, match.groups() if match else ())
        origin = next((stems[end] for end in ends if end in stems), None)
        if origin is None:
            kept.append(given)
        elif not is_made_here(real):
            raise InputError(
                f"{origin}: its output would replace the recording {given[0]}; "
                "choose another --output_folder"
            )
    return kept


def _name_outputs(names: list[tuple[Path, Path]], folder: str | Path) -> list[Recording]:
    """Recordings, each with the stem of its outputs; raises InputError if two meet."""
    stems = Counter(name.with_suffix("") for _, name in names)
    paths: dict[Path, Path] = {}
    for path, name in names:
        if paths.setdefault(name, path) != path:
            raise InputError(
                f"{paths[name]} and {path}: both would be written as "
                f"{name.with_suffix('')}; separate them into different folders"
            )
    return [
        Recording(path, folder / (name if stems[stem] > 1 or stem in paths else stem))
        for path, name in names
        for stem in [name.with_suffix("")]
    ]


def outputs_of(recording: Recording, sources: int, channels: str) -> list[Path]:
    """The files of a recording; with ``channels="each"`` it is opened to count them."""
    if channels != "each":
        return recording.outputs(sources)
    with audio.open_audio(recording.path) as opened:
        return recording.outputs(sources, opened.channels)


def stamp(recording: Recording, settings: str) -> str:
    """The comment of a recording's outputs: settings, what was read, and where it was."""
    with open(regular_file(recording.path), "rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()[:12]
    place = hashlib.sha256(os.fsencode(os.path.realpath(recording.path))).hexdigest()[:12]
    return f"{settings} recording={content} place={place}"


def finished_by(recording: Recording, outputs: list[Path]) -> str | None:
    """What made the outputs of a recording, if all are there and newer than it.

    The comment that they have in common, ``""`` if they have none.
    """
    changed = recording.path.stat().st_mtime
    if not all(_is_present(p) and p.stat().st_mtime >= changed for p in outputs):
        return None
    comments = {comment_of(path) for path in outputs}
    return comments.pop() if len(comments) == 1 else ""


def check_replaceable(paths: list[Path], wanted: str) -> None:
    """Refuses to replace what was not made here, or is of another recording."""
    for path in filter(_is_present, paths):
        if not is_made_here(path):
            raise InputError(
                f"{path} is there and does not say that separate.py made it; move it "
                "away, or replace it with --overwrite"
            )
        comment = comment_of(path).split()[-2:]
        if "recording=" in comment[0] and not set(comment) & set(wanted.split()[-2:]):
            raise InputError(
                f"{path} is of another recording; choose another --output_folder, or "
                "replace it with --overwrite"
            )


def is_made_here(path: Path) -> bool:
    """Whether ``separate.py`` has written a file, as its comment says."""
    return comment_of(path).startswith(MADE_HERE)


def _is_present(path: Path) -> bool:
    # An empty file is what a crash of the machine leaves; there is nothing to lose.
    return path.exists() and path.stat().st_size > 0


def comment_of(path: Path) -> str:
    """A file's own comment; none if it is missing, or neither picture nor audio."""
    try:
        if not_a_file(path):
            return ""
        if path.suffix == ".png":
            with Image.open(path) as picture:
                return picture.info.get("Comment", "")
        with sf.SoundFile(path) as sound:
            return sound.comment
    # Pillow has many; a raw file is a TypeError of soundfile's.
    except (
        *(OSError, TypeError, ValueError, SyntaxError),
        *(Image.DecompressionBombError, sf.SoundFileError),
    ):
        return ""
