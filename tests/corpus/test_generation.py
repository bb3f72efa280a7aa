"""What is done, what is ours, what is refused; workers that die or refuse."""

import json
import os

import numpy as np
import pytest

from custom_modules import audio, layout
from custom_modules.corpus.generation import State, Task, generate, mixture_maker
from custom_modules.corpus.sources import Setup
from custom_modules.errors import InputError
from custom_modules.files import lock
from custom_modules.layout import COLUMNS

LENGTH = 100


def add_mixture(state, index, layers=("s1", "s2", "scene", "event", "mix")):
    row = {"subset": "train"} | layout.file_cells("train", index, layers)
    for path in layout.file_paths(state.root, row).values():
        audio.write_pcm16(path, np.zeros(LENGTH, np.int16), 8000)
    state.keep_row(row)
    return row


@pytest.fixture
def state(tmp_path):
    state = State(tmp_path / "corpus", LENGTH)
    state.root.mkdir()
    state.check({"seed": 1})
    state.claim({"seed": 1})
    return state


def test_whole_mixtures_are_done(state):
    rows = {index: add_mixture(state, index) for index in (0, 3)}
    assert state.done_rows("train") == rows
    assert state.done_rows("val") == {}


@pytest.mark.parametrize("layer", ["s2", "mix"])
@pytest.mark.parametrize("damage", ["missing", "short"])
def test_damaged_mixtures_are_not(state, layer, damage):
    row = add_mixture(state, 0)
    add_mixture(state, 1)
    path = layout.file_paths(state.root, row)[layer]
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-2])
    assert list(state.done_rows("train")) == [1]


def test_rows_survive_in_the_csv(state):
    rows = [add_mixture(state, index) for index in range(3)]
    state.finish_subset("train", rows)
    assert not (state.root / ".rows").exists()
    empty = dict.fromkeys(COLUMNS, "")
    assert state.done_rows("train") == {i: empty | row for i, row in enumerate(rows)}


def test_csv_is_written_as_matlab_writes_it(state):
    rows = [add_mixture(state, 0) | {"SSR": "-3", "sceneClass": "park"}]
    state.finish_subset("train", rows)
    path = state.root / "train" / "corpus_corpus_train_final.csv"
    header, row, end = path.read_bytes().decode().split("\n")
    assert header.split(",") == list(COLUMNS)
    assert len(row.split(",")) == 34
    assert ",,," in row
    assert end == ""


def test_half_written_files_are_swept(state):
    add_mixture(state, 0)
    left = state.root / "train" / "mix" / "train_00001.wav.77.partial"
    left.write_bytes(b"half")
    state.claim({"seed": 1})
    assert not left.exists()
    assert list(state.done_rows("train")) == [0]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_second_run_is_refused_before_it_touches_anything(state, overwrite):
    add_mixture(state, 0)
    hparams = {f"n_{subset}": 1 for subset in layout.SUBSETS}
    hparams |= dict.fromkeys(("speech", "scene", "event"))
    hparams |= {"output_folder": str(state.root), "overwrite": overwrite, "indoor_share": None}
    hparams |= {"sample_rate": 8000, "duration": 4.0, "seed": 2, "workers": 1, "max_tries": 9}
    with lock(state.root), pytest.raises(InputError, match="another command writes into it"):
        generate(hparams, {"seed": 2})
    assert list(state.done_rows("train")) == [0]


def test_other_options_are_refused_unless_overwritten(state):
    add_mixture(state, 0)
    with pytest.raises(InputError, match="--overwrite=True"):
        state.check({"seed": 2})
    assert list(state.done_rows("train")) == [0]
    state.check({"seed": 2}, overwrite=True)
    assert list(state.done_rows("train")) == [0]
    state.claim({"seed": 2})
    assert state.done_rows("train") == {}
    state.check({"seed": 2})


def test_a_corpus_of_before_an_option_is_one_of_what_was_done_then(state):
    before = {"seed": 1, "speech": {"class": "x"}}
    state.claim(before)
    now = {"seed": 1, "sentences": "text", "speech": {"class": "x", "utterances": "cut"}}
    state.check(now)
    for changed in (now | {"sentences": "matrix"}, now | {"speech": {"class": "y"}}):
        with pytest.raises(InputError, match="--overwrite=True"):
            state.check(changed)


def test_changed_recordings_are_refused(state):
    state.pin("abc")
    state.pin("abc")
    add_mixture(state, 0)
    with pytest.raises(InputError, match="recordings have changed"):
        state.pin("abd")
    assert list(state.done_rows("train")) == [0]
    state.pin("abd", overwrite=True)
    assert state.done_rows("train") == {}
    state.pin("abd")


def test_foreign_folders_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="not a corpus of this generator"), lock(tmp_path):
            State(tmp_path, LENGTH).check({"seed": 1}, overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_a_kill_left_in_the_first_second_is_in_nobody_s_way(tmp_path):
    (tmp_path / "generator.json.123.partial").write_text("{ha")
    state = State(tmp_path, LENGTH)
    with lock(tmp_path):
        state.check({"seed": 1})
        state.claim({"seed": 1})
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "generator.json"]


def test_damaged_note_is_refused(tmp_path):
    (tmp_path / "generator.json").write_text("{half")
    with pytest.raises(InputError, match="cannot be read"):
        State(tmp_path, LENGTH).check({"seed": 1})


@pytest.mark.parametrize("text", ["", "[1]", "null", "[" * 5000])
def test_damaged_rows_are_made_again(state, text):
    add_mixture(state, 0)
    add_mixture(state, 1)
    rows = sorted((state.root / ".rows" / "train").glob("*.json"))
    rows[0].write_text(text)
    assert list(state.done_rows("train")) == [1]
    rows[1].write_text(json.dumps(json.loads(rows[1].read_text()) | {"sceneFile": "x.wav"}))
    assert not state.done_rows("train")
    (state.root / "generator.json").write_text(text)
    with pytest.raises(InputError, match=r"generator\.json: cannot be read"):
        state.check({"seed": 1})


def test_a_table_of_other_columns_is_made_again(state):
    add_mixture(state, 0)
    table = layout.csv_path(state.root, "train")
    layout.write_rows(table, ("mixFile", "a"), [{"mixFile": "train_00001.wav", "a": "1"}])
    assert list(state.done_rows("train")) == [0]


def test_note_says_what_the_corpus_depends_on(state):
    note = json.loads((state.root / "generator.json").read_text())
    assert note["options"] == {"seed": 1}


class Failing:
    """A mixer whose every mixture ends its process, or is refused."""

    def __init__(self, folder, dies, workers=2):
        self.setup = Setup(folder, 8000, 1.0, 1, workers)
        self.dies = dies

    def mixture(self, subset, index, taken):
        if self.dies:
            os._exit(9)
        raise InputError(f"{subset} {index} is bad")


def test_killed_worker_is_told_in_one_line(tmp_path):
    with (
        pytest.raises(InputError, match=r"worker process died.*fewer --workers"),
        mixture_maker(Failing(tmp_path, dies=True), state=None) as make,
    ):
        list(make([Task("train", 0), Task("train", 1)]))


@pytest.mark.parametrize("workers", [1, 2])
def test_refusal_crosses_the_process_border(tmp_path, workers):
    with (
        mixture_maker(Failing(tmp_path, dies=False, workers=workers), None) as make,
        pytest.raises(InputError, match="train 0 is bad"),
    ):
        list(make([Task("train", 0), Task("train", 1)]))
