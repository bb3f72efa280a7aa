"""A list of recordings through a model: progress, failures and a report."""

import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from custom_modules.distributed import check_device
from custom_modules.errors import InputError
from custom_modules.files import lock
from custom_modules.hparams import HPARAMS_FILE
from custom_modules.inference import PolSESSSeparation
from custom_modules.recordings import jobs
from custom_modules.recordings.spectrograms import plot_spectrograms
from custom_modules.recordings.streams import separate_recording


def load_model(
    source: str, device: str | None = None, precision: str = "fp32", **options: Any
) -> PolSESSSeparation:
    """Loads an exported model for use, from a folder or, ``hf:owner/name``, from a hub.

    By default on a GPU if there is one; torchrun's processes take one each. Options
    are those of :class:`PolSESSSeparation`. What cannot be loaded is an InputError;
    a fault of the model's own code is not.
    """
    is_graph = options.get("runtime", "torch") != "torch"
    if device is None and torch.cuda.is_available() and not is_graph:
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    run_opts = {"device": device or "cpu", "precision": precision}
    check_device(run_opts["device"])
    if precision == "fp16" and run_opts["device"] == "cpu":
        raise InputError("--precision=fp16 needs a GPU; use bf16 or fp32 on a CPU")
    if (Path(source) / "save").is_dir():
        raise InputError(
            f"{source}: is a results folder; export it first: "
            f"export.py {source}/{HPARAMS_FILE} FOLDER"
        )
    logging.getLogger("speechbrain").setLevel(logging.WARNING)
    return PolSESSSeparation.from_hparams(source, run_opts=run_opts, **options)


@dataclass
class Separation:
    """Separates recordings one after the other in the same way."""

    model: PolSESSSeparation
    channels: str = "mix"  # see separate_recording
    normalize: str = "mixture"
    overwrite: bool = False  # also what is finished, or was not made here
    plot: bool = False  # spectrograms, also where only they are missing
    show_progress: bool = True

    def separate_all(self, recordings: list[jobs.Recording]) -> int:
        """Separates, reports, and counts what failed.

        What another model or other settings have finished is always separated again.
        """
        self.model.check_normalize(self.normalize)
        settings = jobs.describe_settings(self.model, self.channels, self.normalize)
        failures, skipped, notes = [], 0, []
        for recording in tqdm(recordings, desc="recordings", disable=not self.show_progress):
            try:
                # Another run, which perhaps separates it as well, is waited for.
                with lock(recording.stem, wait=True, beside=True):
                    was_finished, told = self._separate(recording, settings)
            except (InputError, OSError) as error:  # of a file; a bug ends the run
                name, reason = str(recording.path), str(error)
                failures.append(reason if name in reason else f"{name}: {reason}")
                continue
            skipped += was_finished
            notes += [f"{recording.path}: {note}" for note in told]
        for line in notes:
            print(line)
        done = len(recordings) - skipped - len(failures)
        print(f"{done} separated, {skipped} finished before, {len(failures)} failed")
        for failure in failures:
            print(f"failed: {failure}", file=sys.stderr)
        return len(failures)

    def _separate(self, recording: jobs.Recording, settings: str) -> tuple[bool, list[str]]:
        """Whether it was finished before, and what the user should know of it."""
        picture = recording.stem.with_name(f"{recording.stem.name}.png")
        sources = self.model.hparams.num_spks
        outputs = jobs.outputs_of(recording, sources, self.channels)
        wanted, before = jobs.stamp(recording, settings), None
        if not self.overwrite:
            jobs.check_replaceable([picture, *outputs] if self.plot else outputs, wanted)
            before = jobs.finished_by(recording, outputs)
        made, needed = ((text or "").rpartition(" ")[0] for text in (before, wanted))
        notes, finished = [], made == needed  # wherever the recording was
        if not finished:
            options = (self.channels, self.normalize, wanted, self.show_progress)
            notes = separate_recording(self.model, recording.path, outputs, *options)
            # One source more is what a model with more sources has left behind.
            wider = jobs.outputs_of(recording, sources + 1, self.channels)
            left = [p for p in wider if p not in outputs and jobs.is_made_here(p)]
            told = [] if before is None else ["was made otherwise before; made again"]
            if left:
                names = ", ".join(map(str, left))
                told.append(f"{names} is left from a model with more sources")
            notes += ["; ".join(told)] if told else []
        if self.plot and not (finished and jobs.comment_of(picture).rpartition(" ")[0] == needed):
            # There is nothing in them above what the model can return.
            highest = self.model.hparams.sample_rate / 2
            plot_spectrograms(recording.path, outputs, picture, highest, wanted)
        return finished, notes
