"""What a separated file was made by, as its own comment says."""

import glob
from dataclasses import dataclass
from pathlib import Path

from custom_modules.errors import InputError
from custom_modules.evaluation.loading import fingerprint
from custom_modules.inference import open_audio
from custom_modules.recordings.spectrograms import comment_of_picture

#: How the comments begin of the files that ``separate.py`` has written.
MADE_HERE = "separate.py "


def describe_settings(model, channels, normalize):
    """All that makes the outputs of a recording what they are.

    Arguments
    ---------
    model : custom_modules.inference.PolSESSSeparation
    channels, normalize : str
        As for :func:`custom_modules.recordings.streams.separate_recording`.

    Returns
    -------
    str
        A line, the same for the same model and settings on any device.
    """
    hparams = model.hparams
    digest = fingerprint(model.mods)
    settings = {
        "model": f"{getattr(hparams, 'model_name', 'unnamed')}-{digest}",
        "channels": channels,
        "normalize": normalize,
        "chunk_seconds": model.chunk_seconds,
        "overlap_seconds": model.overlap_seconds,
        "precision": model.precision,
    }
    pairs = (f"{name}={value}" for name, value in settings.items())
    return MADE_HERE + " ".join(pairs)


SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")


@dataclass
class Recording:
    """A file to separate.

    Arguments
    ---------
    path : pathlib.Path
    stem : pathlib.Path
        Of its outputs, to which ``_s1.wav`` and the like are appended.
    """

    path: Path
    stem: Path

    def outputs(self, sources, channels=None):
        """The files to write, by channel and source.

        Arguments
        ---------
        sources : int
        channels : int
            If each channel is separated on its own, how many there are.

        Returns
        -------
        list of pathlib.Path
        """
        parts = [""] if channels is None else [f"_ch{c + 1}" for c in range(channels)]
        return [
            self.stem.with_name(f"{self.stem.name}{part}_s{source + 1}.wav")
            for part in parts
            for source in range(sources)
        ]


def find_recordings(inputs, folder):
    """Lists the files to separate, and where each goes.

    Arguments
    ---------
    inputs : list of str
        Files, folders, which are searched through, and patterns.
    folder : str or pathlib.Path
        For the outputs. What lies in a folder of an input folder goes into a folder
        of that name. Names that would collide keep their suffix.

    Returns
    -------
    recordings : list of Recording
        Sorted, each file once.
    missing : list of str
        A line for each input that is not there, or has nothing in it.

    Raises
    ------
    InputError
        If all inputs are missing, or names collide.

    Example
    -------
    >>> root = getfixture("tmp_path")
    >>> for name in ("a.wav", "a.mp3", "b.flac", "notes.txt"):
    ...     (root / name).touch()
    >>> recordings, missing = find_recordings([str(root), "none.wav"], "out")
    >>> [recording.stem.name for recording in recordings]
    ['a.mp3', 'a.wav', 'b']
    >>> missing
    ['none.wav: no such file or folder']
    """
    found, missing = {}, []
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
            if inside and Path(item).is_dir():
                continue
            found.setdefault(path.resolve(), (path, path.relative_to(base)))
    if len(missing) == len(inputs):
        raise InputError(missing[-1], missing[:-1])
    recordings = _name_outputs(found, folder)
    _refuse_overwriting(recordings, set(found))
    return recordings, missing


def _name_outputs(found, folder):
    """Recordings, each with the stem of its outputs; raises InputError if two meet."""
    stems = {}
    for path, name in sorted(found.values(), key=lambda pair: pair[1]):
        stems.setdefault(name.with_suffix(""), []).append((path, name))
    recordings = []
    for stem, same in stems.items():
        names = [name for _, name in same] if len(same) > 1 else [stem]
        if len(set(names)) < len(names):
            raise InputError(
                f"{same[0][0]} and {same[1][0]}: both would be written as {stem}; "
                "separate them into different folders"
            )
        recordings += [
            Recording(path, Path(folder) / name)
            for (path, _), name in zip(same, names, strict=True)
        ]
    return recordings


def _refuse_overwriting(recordings, inputs):
    """Raises InputError if a recording's output is another recording."""
    for recording in recordings:
        for output in recording.outputs(2) + recording.outputs(2, channels=2):
            if output.resolve() in inputs:
                raise InputError(
                    f"{recording.path}: its output would replace the recording "
                    f"{output}; choose another --output_folder"
                )


def _expand(item):
    """Files of an input, each with the folder that its name is relative to."""
    path = Path(item)
    if path.is_dir():
        files = [p for p in sorted(path.rglob("*")) if _is_audio(p)]
        found = [(p, path) for p in files]
    elif path.exists():
        found = [(path, path.parent)]
    else:
        files = [Path(p) for p in sorted(glob.glob(item, recursive=True))]
        found = [(p, p.parent) for p in files if _is_audio(p)]
        if not found and not glob.has_magic(item):
            raise InputError(f"{item}: no such file or folder")
    if not found:
        where = "in it" if path.is_dir() else "that it matches"
        raise InputError(f"{item}: no {', '.join(SUFFIXES)} {where}")
    return found


def _is_audio(path):
    return path.suffix.lower() in SUFFIXES and path.is_file()


def shard(recordings, index, count):
    """Every ``count``-th recording, for one of several processes.

    Arguments
    ---------
    recordings : list
    index : int
        From 0.
    count : int

    Returns
    -------
    list
    """
    return recordings[index::count]


def finished_by(recording, sources, channels):
    """What made the outputs of a recording, if all are there and newer than it.

    Arguments
    ---------
    recording : Recording
    sources : int
    channels : str
        As for :func:`custom_modules.recordings.streams.separate_recording`.

    Returns
    -------
    str or None
        The comment that they have in common, ``""`` if they have none. None if an
        output is missing, or older than the recording.

    Raises
    ------
    InputError
        If a file is in the place of an output that no comment says was made here.
    """
    outputs = outputs_of(recording, sources, channels)
    there = [path for path in outputs if _is_there(path)]
    comments = [_comment_of(path) for path in there]
    for path, comment in zip(there, comments, strict=True):
        _check_made_here(path, comment)
    changed = recording.path.stat().st_mtime
    if len(there) < len(outputs) or any(p.stat().st_mtime < changed for p in there):
        return None
    return comments[0] if len(set(comments)) == 1 else ""


def check_picture(path):
    """Refuses to replace a picture that was not drawn here.

    Arguments
    ---------
    path : pathlib.Path
        A PNG, or where one is to be.

    Raises
    ------
    InputError
        If a file is there whose comment does not say that it was made here.
    """
    if _is_there(path):
        _check_made_here(path, comment_of_picture(path))


def _is_there(path):
    # An empty file is what a crash of the machine leaves; there is nothing to lose.
    return path.exists() and path.stat().st_size > 0


def _check_made_here(path, comment):
    if not comment.startswith(MADE_HERE):
        raise InputError(
            f"{path} is there and does not say that separate.py made it; move it "
            "away, or replace it with --overwrite"
        )


def outputs_of(recording, sources, channels):
    """The files that a recording is separated into.

    Arguments
    ---------
    recording : Recording
    sources : int
    channels : str
        As for :func:`custom_modules.recordings.streams.separate_recording`.

    Returns
    -------
    list of pathlib.Path
    """
    return recording.outputs(sources, _channels_of(recording, channels))


def left_beside(recording, sources, channels):
    """Files of a model with more sources, which lie beside those of this one.

    Arguments
    ---------
    recording : Recording
    sources : int
    channels : str
        As for :func:`finished_by`.

    Returns
    -------
    list of pathlib.Path
        Of those that were made here, the next source's.
    """
    count = _channels_of(recording, channels)
    written = recording.outputs(sources, count)
    more = [p for p in recording.outputs(sources + 1, count) if p not in written]
    return [path for path in more if _comment_of(path).startswith(MADE_HERE)]


def _channels_of(recording, channels):
    if channels != "each":
        return None
    with open_audio(recording.path) as audio:
        return audio.channels


def _comment_of(path):
    """A file's own comment; none if it is missing or no audio."""
    try:
        with open_audio(path) as audio:
            return audio.comment
    except InputError:
        return ""
