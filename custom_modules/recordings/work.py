"""A list of recordings through a model: progress, failures and a report."""

import logging
import os
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from custom_modules.errors import InputError
from custom_modules.hparams import check_device
from custom_modules.inference import PolSESSSeparation, open_audio
from custom_modules.recordings.jobs import (
    check_picture,
    describe_settings,
    finished_by,
    left_beside,
    outputs_of,
)
from custom_modules.recordings.spectrograms import plot_spectrograms
from custom_modules.recordings.streams import separate_recording


def load_model(source, device=None, precision="fp32", **options):
    """Loads an exported model for use.

    Arguments
    ---------
    source : str
        A folder, or ``owner/name`` on a hub.
    device : str
        None takes a GPU if there is one; torchrun's processes one each.
    precision : str
        ``"fp32"``, ``"bf16"`` or ``"fp16"``.
    **options
        For :class:`PolSESSSeparation`.

    Returns
    -------
    PolSESSSeparation

    Raises
    ------
    InputError
        If there is no such model or device.
    """
    if device is None and torch.cuda.is_available():
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    run_opts = {"device": device or "cpu", "precision": precision}
    check_device(run_opts["device"])
    if precision == "fp16" and run_opts["device"] == "cpu":
        raise InputError("--precision=fp16 needs a GPU; use bf16 or fp32 on a CPU")
    folder = Path(source)
    _check_model_folder(source, folder)
    logging.getLogger("speechbrain").setLevel(logging.WARNING)
    try:
        model = PolSESSSeparation.from_hparams(source, run_opts=run_opts, **options)
    except InputError:
        raise
    except Exception as error:  # whatever is wrong with a folder, or with a hub
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{source}: cannot be loaded ({reason})") from error
    return model


def _check_model_folder(source, folder):
    if (folder / "save").is_dir():
        raise InputError(
            f"{source}: is a results folder; export it first: "
            f"export.py {folder}/hyperparams.yaml FOLDER"
        )
    if folder.exists() and not (folder / "hyperparams.yaml").is_file():
        raise InputError(f"{source}: has no hyperparams.yaml; export.py writes models")
    # Where there is a folder of that name, nobody means a hub's owner.
    on_hub = source.count("/") == 1 and not folder.parent.exists()
    if not folder.exists() and not on_hub:
        raise InputError(f"{source}: no such folder; export.py writes models")


def separate_all(
    model,
    recordings,
    channels="mix",
    normalize="mixture",
    overwrite=False,
    plot=False,
    show_progress=True,
):
    """Separates recordings one after the other and reports what failed.

    Arguments
    ---------
    model : PolSESSSeparation
    recordings : list of custom_modules.recordings.jobs.Recording
    channels, normalize : str
        As for :func:`custom_modules.recordings.streams.separate_recording`.
    overwrite : bool
        Whether finished recordings are separated again, and files replaced that were
        not made here. What another model or other settings have finished is always
        separated again.
    plot : bool
        Whether to draw each recording's spectrograms, also where only they are missing.
    show_progress : bool
        A bar for each recording, and one for all.

    Returns
    -------
    int
        How many failed.
    """
    failures, skipped, notes = [], 0, []
    quiet = not show_progress
    settings = describe_settings(model, channels, normalize)
    options = {"channels": channels, "normalize": normalize, "comment": settings}
    for recording in tqdm(recordings, desc="recordings", disable=quiet):
        try:
            kind = (model.hparams.num_spks, channels)
            picture = recording.stem.with_name(f"{recording.stem.name}.png")
            if plot and not overwrite:
                check_picture(picture)
            before = None if overwrite else finished_by(recording, *kind)
            if before == settings:
                skipped += 1
            else:
                notes += _separate(model, recording, quiet, options)
                notes += _note_before(recording, before, left_beside(recording, *kind))
            if plot and not (before == settings and picture.exists()):
                outputs = outputs_of(recording, *kind)
                # There is nothing in them above what the model can return.
                highest = model.hparams.sample_rate / 2
                paths = (recording.path, outputs, picture)
                plot_spectrograms(*paths, highest, comment=settings)
        except InputError as error:
            told, name = str(error), str(recording.path)
            failures.append(told if name in told else f"{name}: {told}")
    for line in notes:
        print(line)
    done = len(recordings) - skipped - len(failures)
    print(f"{done} separated, {skipped} finished before, {len(failures)} failed")
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return len(failures)


def _note_before(recording, before, left):
    """What the user should know of the files that were there before."""
    parts = [] if before is None else ["was made otherwise before; made anew"]
    if left:
        names = ", ".join(map(str, left))
        parts.append(f"{names} is left from a model with more sources")
    return [f"{recording.path}: {'; '.join(parts)}"] if parts else []


def _separate(model, recording, quiet, options):
    """Separates a recording; returns what the user should know of it."""
    with (
        open_audio(recording.path) as audio,
        tqdm(
            total=audio.frames,
            desc=recording.path.name,
            unit="s",
            unit_scale=1 / audio.samplerate,
            leave=False,
            # None: not in a log, where moving between two bars leaves "[A" behind.
            disable=quiet or None,
        ) as bar,
    ):
        _, notes = separate_recording(model, recording, tick=bar.update, **options)
    return [f"{recording.path}: {note}" for note in notes]
