"""The test of a model from end to end: score, write tables and plots, say where.

``train.py`` and ``evaluate.py`` both call :func:`evaluate_model`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from speechbrain.utils.distributed import if_main_process, is_distributed_initialized

from custom_modules.dataio import MixtureDataset
from custom_modules.distributed import is_lost_process, is_out_of_memory, rank_and_processes
from custom_modules.errors import InputError
from custom_modules.evaluation import tables
from custom_modules.evaluation.loading import Model
from custom_modules.evaluation.record import describe_run, evaluation_key, size_of
from custom_modules.evaluation.runner import (
    BATCH_SIZE,
    Estimates,
    Scope,
    example_path,
    score_test_set,
)
from custom_modules.evaluation.store import SCORES_FOLDER, ScoreStore
from custom_modules.evaluation.words import WordTest, check_texts
from custom_modules.files import check_output, nearest_existing, prepare_folder
from custom_modules.limits import check_values
from custom_modules.metrics import checked_groups
from custom_modules.mmipc import num_sources
from custom_modules.recognition.packages import imported
from custom_modules.recognition.recognisers import parse_spec


def evaluate_model(
    model: Model,
    dataset: MixtureDataset,
    folder: str | Path,
    scope: Scope,
    facts: dict,
    split: str,
    checkpoint: str,
    output: str | Path | None = None,
) -> None:
    """Tests a model on every variant and writes what came out of it to a folder.

    ``dataset`` is made with ``draw=False``; ``facts`` of the experiment, as
    :func:`~custom_modules.evaluation.record.facts_of` gives them, and ``checkpoint`` go
    to the record; ``output`` is another path for the rows as CSV.

    What an earlier run has scored of the same model and test set is not scored again;
    remove ``test_scores`` to do so.
    """
    folder = Path(folder)
    scope = scope._replace(audio_folder=str(folder / "audio"))
    _check_writable(folder, output)
    words = None
    if scope.recogniser:
        words = WordTest(scope.recogniser, model, dataset, scope.pseudo_references)
    key = _shared_key(model, dataset, split, scope.batch_size)
    rank, sources = rank_and_processes()[0], num_sources(dataset.task)
    store = ScoreStore(folder / SCORES_FOLDER, key, rank, sources)
    with _explained_failures(model, scope):
        kept = Estimates() if words else None
        timing = score_test_set(model, dataset, store, scope, kept)
        if words:
            words.run(folder, key, rank, scope.batch_size, scope.progressbar, kept)
    if not if_main_process():
        return
    rows = tables.result_rows(dataset, store, scope.groups)
    record = describe_run(model, timing, facts | size_of(dataset), split, checkpoint)
    counted = words.results() if words else None
    summary, pictures = tables.write_results(rows, folder, record, counted)
    if output:
        tables.write_rows(rows, output)
    print(f"\nThe {split} set (means over mixtures):\n\n{tables.main_table(summary, counted)}")
    if counted:
        print("", *counted.sections(), sep="\n\n")
    _say_where(folder, dataset, scope, pictures)
    if counted:
        print(f"\n{counted.closing_line()}")


def scope_of_training(hparams: dict, progressbar: bool) -> Scope:
    """What is tested at the end of a training.

    By ``test_metrics``, ``test_batch_size``, ``save_audio``; InputError if one does not
    fit.
    """
    check_values({key: hparams[key] for key in ("save_audio", "test_batch_size") if key in hparams})
    return Scope(
        groups=checked_groups(hparams["test_metrics"]),
        batch_size=chosen_batch_size(hparams),
        size_option="--test_batch_size",
        save_audio=hparams["save_audio"],
        progressbar=progressbar,
        recogniser=hparams.get("test_recogniser"),
    )


def check_recogniser(spec: str | None, *datasets: MixtureDataset, device: str = "") -> None:
    """Refuses, before a training, a recogniser that is not there, and sets without texts.

    And what the ``device`` has not, if that is known.
    """
    if spec:
        parse_spec(spec, device)
        imported("meeteval"), imported("num2words")
        for dataset in datasets:
            check_texts(dataset)


def chosen_batch_size(hparams: dict) -> int:
    """How many mixtures are tested at once; older files do not say."""
    return hparams.get("test_batch_size", BATCH_SIZE)


@contextmanager
def _explained_failures(model: Model, scope: Scope) -> Iterator[None]:
    rerun, size = "the same command goes on from what was scored", scope.batch_size
    remedy = f"batches were of {size}: use {scope.size_option}={size // 2}"
    if model.device.type == "cpu":
        remedy = f"use fewer cores, as by taskset -c 0 before it; {rerun}"
    elif size == 1:
        remedy = "use --eval_precision=bf16, or --device=cpu"
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise InputError(f"out of memory in the test; {remedy}") from error
        if is_lost_process(error):
            raise InputError(f"another process of this test has ended; {rerun}") from error
        raise


def _check_writable(folder: Path, output: str | Path | None) -> None:
    """Hours of scoring must not end at a file that cannot be written."""
    nearest = nearest_existing(folder)
    if not nearest.is_dir():
        raise InputError(f"{nearest}: is a file; choose another --output_folder")
    prepare_folder(folder)
    if output:
        check_output(output)
        prepare_folder(Path(output).parent)


def _shared_key(model: Model, dataset: MixtureDataset, split: str, batch_size: int) -> str:
    """The first process's key: files may look otherwise from another machine."""
    keys = [""]
    if if_main_process():
        keys = [evaluation_key(model, dataset, split, batch_size)]
    if is_distributed_initialized():
        on_device = torch.distributed.get_backend() == "nccl"
        device = model.device if on_device else torch.device("cpu")
        torch.distributed.broadcast_object_list(keys, src=0, device=device)
    return keys[0]


def _say_where(folder: Path, dataset: MixtureDataset, scope: Scope, pictures: list[Path]) -> None:
    print("\nTo look at:", folder / "test_summary.md", *pictures, sep="\n  ")
    signals = ["mixture", *(f"s{i + 1}" for i in range(num_sources(dataset.task)))]
    name, audio = dataset.data_ids[0], scope.audio_folder
    heard = [example_path(audio, name, "C", signal) for signal in signals]
    if scope.save_audio and heard[0].exists():
        print("To listen to, a mixture and what was made of it:", *heard, sep="\n  ")
