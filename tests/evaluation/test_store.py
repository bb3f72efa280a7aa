"""What survives a kill, and what is never mixed up."""

import pytest

from custom_modules.errors import InputError
from custom_modules.evaluation.store import ScoreStore

ROWS = {"SER": [{"si_sdr": 1.25, "failures": ""}], "C": [{"si_sdr": None}]}


def filled(folder, rank=0, names=("a", "b")):
    store = ScoreStore(folder, "key", rank)
    for name in names:
        store.add(name, ROWS, ("pesq",))
    store.close()
    return store.path


@pytest.mark.parametrize("cut", range(2, 60, 8))
def test_a_line_that_a_kill_cut_off_is_scored_again(tmp_path, cut):
    path = filled(tmp_path)
    path.write_bytes(path.read_bytes()[:-cut])
    store = ScoreStore(tmp_path, "key")
    assert store.rows("b", "SER", ()) == ROWS["SER"]
    assert store.rows("b", "C", ()) is None
    store.add("b", {"C": ROWS["C"]}, ("pesq",))
    store.close()
    whole = ScoreStore(tmp_path, "key")
    for name in ("a", "b"):
        for variant, rows in ROWS.items():
            assert whole.rows(name, variant, ("pesq",)) == rows


def test_processes_read_each_other(tmp_path):
    first, second = ScoreStore(tmp_path, "key", 0), ScoreStore(tmp_path, "key", 1)
    first.add("a", ROWS, ())
    second.add("b", ROWS, ())
    assert first.rows("b", "C", ()) is None
    first.read_all()
    assert first.rows("b", "C", ()) == ROWS["C"]
    fewer = ScoreStore(tmp_path, "key", 0)
    assert fewer.rows("a", "C", ()) == fewer.rows("b", "C", ()) == ROWS["C"]


def test_more_metrics_win_whatever_was_written_last(tmp_path):
    store = ScoreStore(tmp_path, "key")
    store.add("a", {"C": [{"si_sdr": 1.0, "pesq": 2.0}]}, ("pesq", "sdr"))
    store.close()
    later = ScoreStore(tmp_path, "key", 1)
    later.add("a", {"C": [{"si_sdr": 1.0}]}, ())
    later.close()
    store = ScoreStore(tmp_path, "key")
    assert store.rows("a", "C", ("sdr",)) == [{"si_sdr": 1.0, "pesq": 2.0}]
    assert store.rows("a", "C", ("stoi",)) is None


def test_metrics_of_several_runs_add_up(tmp_path):
    parts = {
        ("sdr", "pesq"): {"sdr": 2.0, "pesq": None, "failures": "pesq: too short"},
        ("sdr", "stoi"): {"sdr": 9.0, "stoi": None, "failures": "stoi_mixture: a"},
        ("stoi",): {"stoi": None, "failures": "stoi: b"},
    }
    store = ScoreStore(tmp_path, "key")
    for groups, row in parts.items():
        store.add("a", {"C": [{"si_sdr": 1.0} | row]}, groups)
    store.close()
    whole = {"si_sdr": 1.0, "sdr": 2.0, "pesq": None, "stoi": None}
    whole["failures"] = "pesq: too short; stoi_mixture: a"
    for known in (store, ScoreStore(tmp_path, "key", 1)):
        assert known.rows("a", "C", ("sdr", "pesq", "stoi")) == [whole]
        assert known.groups("a", "C") == {"sdr", "pesq", "stoi"}
        assert known.groups("a", "SER") == set()


def test_another_model_is_another_store(tmp_path):
    filled(tmp_path)
    assert ScoreStore(tmp_path, "other").rows("a", "C", ()) is None


def test_names_of_any_letters(tmp_path):
    name = 'Zażółć "gęślą"\n{jaźń}'
    filled(tmp_path, names=[name])
    assert ScoreStore(tmp_path, "key").rows(name, "C", ()) == ROWS["C"]


def test_what_cannot_be_written_ends_in_a_line(tmp_path):
    (tmp_path / "scores").write_text("a file")
    store = ScoreStore(tmp_path / "scores", "key")
    with pytest.raises(InputError, match="cannot be written"):
        store.add("a", ROWS, ())
