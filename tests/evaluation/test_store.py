"""What survives a kill, and what is never mixed up."""

import json

import pytest

from custom_modules.errors import InputError
from custom_modules.evaluation.scoring import Failure
from custom_modules.evaluation.store import ScoreStore

SILENT = Failure("target", "silent")
SCORES = {
    "SER": {"si_sdr": {"": [1.25, SILENT]}, "pesq": {"": [2.5, SILENT]}},
    "C": {"si_sdr": {"": [SILENT, SILENT]}, "pesq": {"": [SILENT, SILENT]}},
}
BOTH = ["si_sdr", "pesq"]


def filled(folder, rank=0, names=("a", "b")):
    store = ScoreStore(folder, "key", rank)
    for name in names:
        store.add(name, SCORES)
    store.close()
    return store.path


@pytest.mark.parametrize("cut", range(2, 60, 8))
def test_a_line_that_a_kill_cut_off_is_scored_again(tmp_path, cut):
    path = filled(tmp_path)
    path.write_bytes(path.read_bytes()[:-cut])
    store = ScoreStore(tmp_path, "key")
    assert store.scores("b", "SER", BOTH) == SCORES["SER"]
    assert store.missing("b", "C", BOTH) == BOTH
    store.add("b", {"C": SCORES["C"]})
    store.close()
    whole = ScoreStore(tmp_path, "key")
    for name in ("a", "b"):
        for variant, scores in SCORES.items():
            assert whole.scores(name, variant, BOTH) == scores


def test_processes_read_each_other(tmp_path):
    first, second = ScoreStore(tmp_path, "key", 0), ScoreStore(tmp_path, "key", 1)
    first.add("a", SCORES)
    second.add("b", SCORES)
    assert first.missing("b", "C", BOTH) == BOTH
    first.read_all()
    assert first.scores("b", "C", BOTH) == SCORES["C"]
    fewer = ScoreStore(tmp_path, "key", 0)
    assert fewer.scores("a", "C", BOTH) == fewer.scores("b", "C", BOTH) == SCORES["C"]


def test_metrics_of_several_runs_add_up_and_the_earlier_stays(tmp_path):
    first, second = {"sdr": {"": [2.0]}}, {"sdr": {"": [9.0]}, "stoi": {"": [0.5]}}
    for rank, scores in enumerate((first, second)):
        store = ScoreStore(tmp_path, "key", rank)
        store.add("a", {"C": scores})
        store.close()
    for known in (store, ScoreStore(tmp_path, "key", 2)):
        assert known.scores("a", "C", ["stoi", "sdr"]) == second | first
        assert known.missing("a", "C", ["sdr", "pesq", "stoi"]) == ["pesq"]
        assert known.missing("a", "SER", ["sdr"]) == ["sdr"]
    with pytest.raises(InputError, match="no scores of a, C"):
        store.scores("a", "C", ["pesq"])


def test_another_model_is_another_store(tmp_path):
    filled(tmp_path)
    assert ScoreStore(tmp_path, "other").missing("a", "C", BOTH) == BOTH


def test_lines_of_an_older_format_are_passed_over(tmp_path):
    path = filled(tmp_path)
    old = {"id": "c", "variant": "C", "groups": [], "rows": [{"si_sdr": 1.0}]}
    lines = [old, old | {"scores": [1]}, old | {"scores": {"pesq": 3}}, [], 7]
    with open(path, "a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    store = ScoreStore(tmp_path, "key")
    assert store.missing("c", "C", BOTH) == BOTH
    assert store.scores("a", "C", BOTH) == SCORES["C"]


WHOLE = {"": [1.25, SILENT], "_mixture": [0.5, 0.5], "_oracle": [2.0, 2.0]}


@pytest.mark.parametrize(
    "damaged",
    [
        {},
        {"": WHOLE[""]},
        WHOLE | {"": [1.25]},
        WHOLE | {"": [1.25, float("nan")]},
        WHOLE | {"": [1.25, "1.25"]},
        WHOLE | {"": [1.25, ["silent"]]},
        WHOLE | {"_other": [1.0, 1.0]},
    ],
)
def test_scores_that_are_none_are_passed_over_with_a_line(tmp_path, caplog, damaged):
    store = ScoreStore(tmp_path, "key", sources=2)
    for name, of_signals in (("a", WHOLE), ("b", damaged)):
        store.add(name, {"C": {"sdr": of_signals}})
    store.close()
    store = ScoreStore(tmp_path, "key", sources=2)
    assert store.scores("a", "C", ["sdr"]) == {"sdr": WHOLE}
    assert store.missing("b", "C", ["sdr"]) == ["sdr"]
    assert f"{store.path}: 1 lines are damaged" in caplog.text


def test_a_last_line_that_only_lacks_its_end_is_taken(tmp_path, caplog):
    path = filled(tmp_path, names=["a", "b"])
    path.write_bytes(b"{damaged}\n" + path.read_bytes().rstrip(b"\n"))
    store = ScoreStore(tmp_path, "key")
    assert all(store.missing(name, "C", BOTH) == [] for name in "ab")
    assert f"{path}: 1 lines are damaged" in caplog.text


def test_names_of_any_letters(tmp_path):
    name = 'Zażółć "gęślą"\n{jaźń}'
    filled(tmp_path, names=[name])
    assert ScoreStore(tmp_path, "key").scores(name, "C", BOTH) == SCORES["C"]


def test_what_cannot_be_written_ends_in_a_line(tmp_path):
    (tmp_path / "scores").write_text("a file")
    store = ScoreStore(tmp_path / "scores", "key")
    with pytest.raises(InputError, match="cannot be written"):
        store.add("a", SCORES)
