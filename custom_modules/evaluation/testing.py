"""An evaluation from end to end: score, write tables and plots, say where they are.

``train.py`` and ``evaluate.py`` both call :func:`evaluate_model`.
"""

from contextlib import contextmanager
from pathlib import Path

import torch
from speechbrain.utils.distributed import if_main_process, is_distributed_initialized

from custom_modules.distributed import (
    is_lost_process,
    is_out_of_memory,
    rank_and_processes,
)
from custom_modules.errors import InputError
from custom_modules.evaluation.record import describe_run, evaluation_key
from custom_modules.evaluation.runner import (
    BATCH_SIZE,
    Scope,
    example_path,
    score_test_set,
)
from custom_modules.evaluation.store import ScoreStore
from custom_modules.evaluation.tables import (
    main_table,
    result_rows,
    write_results,
    write_rows,
)
from custom_modules.files import nearest_existing, prepare_folder
from custom_modules.metrics import GROUPS
from custom_modules.mmipc import num_sources

#: In the results folder: what was scored, so that a rerun goes on.
SCORES_FOLDER = "test_scores"

_RERUN = "what was scored is kept, and the same command goes on from there"


def evaluate_model(model, dataset, folder, scope, output=None, **facts):
    """Tests a model on every variant and writes what came out of it.

    What an earlier run has scored of the same model and test set is not scored
    again; remove ``test_scores`` to do so.

    Arguments
    ---------
    model : custom_modules.evaluation.loading.Model
    dataset : custom_modules.dataio.MixtureDataset
        With ``draw=False``.
    folder : str or pathlib.Path
        The results folder.
    scope : custom_modules.evaluation.runner.Scope
    output : str, optional
        Another path for the rows as CSV.
    **facts
        For the record: ``model_name``, ``task``, ``sample_rate``, ``split``,
        ``seed``, ``checkpoint``.

    Raises
    ------
    InputError
        If something cannot be read or written.
    """
    folder = Path(folder)
    scope = scope._replace(audio_folder=str(folder / "audio"))
    _check_writable(folder, output)
    key = _shared_key(model, dataset, facts["split"], scope.batch_size)
    store = ScoreStore(folder / SCORES_FOLDER, key, rank_and_processes()[0])
    with _explained_failures(model, scope):
        effort = score_test_set(model, dataset, store, scope)
    if not if_main_process():
        return
    rows = result_rows(dataset, store, scope.groups)
    record = describe_run(model, effort, **facts)
    summary, pictures = write_results(rows, folder, record)
    if output:
        write_rows(rows, output)
    split = facts["split"]
    print(f"\nThe {split} set (means over mixtures):\n\n{main_table(summary)}")
    _say_where(folder, dataset, scope, pictures)


def scope_of_training(hparams, progressbar):
    """What is scored at the end of a training.

    Arguments
    ---------
    hparams : dict
        ``test_metrics``, ``test_batch_size``, ``save_audio``.
    progressbar : bool

    Returns
    -------
    custom_modules.evaluation.runner.Scope

    Raises
    ------
    InputError
        If a value does not fit.
    """
    heard = hparams["save_audio"]
    if not _is_whole(heard) or heard < 0:
        raise InputError(f"--save_audio={heard}: must be a number, 0 or above")
    return Scope(
        groups=chosen_groups(hparams["test_metrics"]),
        batch_size=chosen_batch_size(hparams),
        size_option="--test_batch_size",
        save_audio=heard,
        progressbar=progressbar,
    )


def chosen_batch_size(hparams):
    """Checks how many mixtures are tested at once.

    Arguments
    ---------
    hparams : dict
        Perhaps with ``test_batch_size``, which older files and exported folders
        lack.

    Returns
    -------
    int

    Raises
    ------
    InputError
        If it is no number above 0.

    Example
    -------
    >>> chosen_batch_size({"test_batch_size": 2}), chosen_batch_size({})
    (2, 8)
    """
    size = hparams.get("test_batch_size", BATCH_SIZE)
    if not _is_whole(size) or size < 1:
        raise InputError(f"--test_batch_size={size}: must be a number above 0")
    return size


def chosen_groups(names):
    """Checks a choice of metrics.

    Arguments
    ---------
    names : list of str
        Beside SI-SDR, which is always there.

    Returns
    -------
    tuple of str
        In the order of :data:`custom_modules.metrics.GROUPS`.

    Raises
    ------
    InputError
        If one is unknown.

    Example
    -------
    >>> chosen_groups(["stoi", "sdr"])
    ('sdr', 'stoi')
    """
    if not isinstance(names, list | tuple) or not set(names) <= set(GROUPS):
        raise InputError(
            f"test_metrics {names}: choose a list of {', '.join(GROUPS)}; "
            "SI-SDR is always computed"
        )
    return tuple(name for name in GROUPS if name in names)


def _is_whole(value):
    return isinstance(value, int) and not isinstance(value, bool)


@contextmanager
def _explained_failures(model, scope):
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            message = f"out of memory in the test; {_remedy(model, scope)}"
        elif is_lost_process(error):
            message = "another process of this test has ended; " + _RERUN
        else:
            raise
        raise InputError(message) from error


def _remedy(model, scope):
    if model.device.type == "cpu":
        return (
            "with fewer cores, as by taskset -c 0 before the same command, fewer "
            "mixtures are separated and scored at a time. " + _RERUN.capitalize()
        )
    if scope.batch_size == 1:
        return "use --eval_precision=bf16, or --device=cpu"
    return f"batches were of {scope.batch_size}: use {scope.size_option}=" + str(
        scope.batch_size // 2
    )


def _check_writable(folder, output):
    """Hours of scoring must not end at a file that cannot be written."""
    nearest = nearest_existing(folder)
    if not nearest.is_dir():
        raise InputError(f"{nearest}: is a file; choose another --output_folder")
    prepare_folder(folder)
    if output and Path(output).is_dir():
        raise InputError(f"--output={output}: is a folder; name a file")
    if output:
        prepare_folder(Path(output).parent)


def _shared_key(model, dataset, *names):
    """The first process's key: files may look otherwise from another machine."""
    key = [evaluation_key(model, dataset, *names) if if_main_process() else None]
    if is_distributed_initialized():
        on_device = torch.distributed.get_backend() == "nccl"
        device = model.device if on_device else torch.device("cpu")
        torch.distributed.broadcast_object_list(key, src=0, device=device)
    return key[0]


def _say_where(folder, dataset, scope, pictures):
    print("\nTo look at:")
    for path in (folder / "test_summary.md", *pictures):
        print(f"  {path}")
    if not scope.save_audio:
        return
    signals = ["mixture", *(f"s{i + 1}" for i in range(num_sources(dataset.task)))]
    heard = [
        example_path(scope.audio_folder, dataset.data_ids[0], "C", signal)
        for signal in signals
    ]
    if heard[0].exists():
        print("To listen to, a mixture and what was made of it:")
        for path in heard:
            print(f"  {path}")
