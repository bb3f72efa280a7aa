"""Words of a validation set, and the best checkpoint by them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from custom_modules.checkpoints import AtomicCheckpointer
from custom_modules.errors import InputError
from custom_modules.limits import check_values
from custom_modules.recognition.recognisers import load_recogniser
from custom_modules.recognition.validation import ValidationWords
from custom_modules.recognition.word_errors import count_errors

ENTRIES = {
    "a": {"text1": "ala ma", "text2": "psa"},
    "b": {"text1": "", "text2": "dwa koty"},
    "c": {"text1": None, "text2": "x"},
}


def words_with(specs, task="SB", **hparams):
    hparams = {"valid_recogniser": specs["ctc"], "sample_rate": 8000} | hparams
    words = ValidationWords(hparams, "cpu")
    words.data = SimpleNamespace(data=ENTRIES, task=task)
    return words


def batch(sources=2, lengths=(4000, 3000, 4000)):
    targets = 0.1 * torch.randn(3, 4000, sources, generator=torch.Generator().manual_seed(1))
    for row, length in zip(targets, lengths, strict=True):
        row[length:] = 0
    mixture = targets.sum(2)
    return {
        "mixture": mixture,
        "targets": targets,
        "estimates": 50
        * torch.cat([targets, targets[..., :1]], dim=2),  # and one of an earlier stage
        "lengths": torch.tensor(lengths),
    }


@pytest.mark.parametrize("task", ["SB", "ES"])
def test_words_are_those_of_each_mixture_alone(specs, task):
    words, sources = words_with(specs, task), 2 if task == "SB" else 1
    outputs, errors, length = batch(sources), 0, 0
    words.begin(1)
    words.add(["a", "b"], {k: v[:2] for k, v in outputs.items()})
    words.add(["c"], {k: v[2:] for k, v in outputs.items()})
    recogniser = load_recogniser(specs["ctc"])
    expected = ("a", "b", "c") if task == "ES" else ("a", "b")
    for row, name in enumerate(n for n in expected if ENTRIES[n]["text1"] is not None):
        end = int(outputs["lengths"][row])
        streams = recogniser.transcribe([*outputs["targets"][row, :end].T.numpy()], 8000)
        texts = [ENTRIES[name][f"text{n + 1}"] for n in range(sources)]
        found = count_errors(texts, streams)
        errors, length = errors + found.errors, length + found.length
    assert words.stats() == {"wer": pytest.approx(100 * errors / length)}


def test_every_n_epochs_and_none_without_a_recogniser(specs):
    words = words_with(specs, valid_recogniser_every=3)
    due = []
    for epoch in range(1, 7):
        words.begin(epoch)
        words.add(["a", "b", "c"], batch())
        due.append("wer" in words.stats())
    assert due == [False, False, True] * 2
    silent = ValidationWords({}, "cpu")
    silent.begin(1)
    silent.add(["a"], {})
    assert silent.stats() == {} == silent.meta({"si_sdr": 1.0})


def epochs(folder, rows):
    """A checkpoint for each; ``rows`` are what each says."""
    model = torch.nn.Linear(1, 1)
    checkpointer = AtomicCheckpointer(folder, {"separator": model})
    for epoch, row in enumerate(rows, start=1):
        checkpointer.save_checkpoint({"epoch": epoch, **row})
    return checkpointer


def test_the_best_goes_by_words_where_they_are_asked_for(tmp_path, specs):
    words = words_with(specs, best="wer")
    rates = [90.0, None, 40.0, 60.0, None]
    stats = [{"si_sdr": float(n)} | ({} if r is None else {"wer": r}) for n, r in enumerate(rates)]
    rows = [{"si_sdr": x["si_sdr"], **words.meta(x)} for x in stats]
    checkpointer = epochs(tmp_path / "wer", rows)
    assert [c.meta["epoch"] for c in checkpointer.recover_best(2)] == [3, 4]
    assert [c.meta["epoch"] for c in checkpointer.recover_best(5)] == [3, 4, 1]
    checkpointer.keep_best(1)
    assert {c.meta["epoch"] for c in checkpointer.list_checkpoints()} == {3, 5}
    plain = epochs(tmp_path / "si_sdr", [{"si_sdr": x["si_sdr"]} for x in stats])
    assert [c.meta["epoch"] for c in plain.recover_best(1)] == [5]


def test_another_choice_on_a_rerun_counts_for_all_epochs(tmp_path):
    rows = [
        {"si_sdr": 5.0, "best": "wer", "wer": 80.0},
        {"si_sdr": 3.0, "best": "wer", "wer": 20.0},
    ]
    checkpointer = epochs(tmp_path, [*rows, {"si_sdr": 1.0}])
    assert [c.meta["epoch"] for c in checkpointer.recover_best(1)] == [1]
    checkpointer.save_checkpoint({"epoch": 4, "si_sdr": 0.0, "best": "wer", "wer": np.inf})
    assert [c.meta["epoch"] for c in checkpointer.recover_best(1)] == [2]


def test_by_words_needs_words():
    with pytest.raises(InputError, match="set --valid_recogniser, too"):
        check_values({"best": "wer", "valid_recogniser": None})
    check_values({"best": "wer", "valid_recogniser": "mini:x"})
    with pytest.raises(InputError, match="choose one of si_sdr, wer"):
        check_values({"best": "words"})
