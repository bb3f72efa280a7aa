"""Searches with a program that stands in for training: crash, prune, resume."""

import json
import os
import sqlite3
from pathlib import Path

import optuna
import pandas as pd
import pytest
import yaml
from optuna.trial import TrialState

from custom_modules.errors import InputError
from custom_modules.hparams import load_hparams
from custom_modules.tuning import search as searching
from custom_modules.tuning import trainings
from custom_modules.tuning.results import leaderboard, write_report
from custom_modules.tuning.search import (
    Search,
    check_any_succeeded,
    make_pruner,
    open_storage,
    open_study,
)
from custom_modules.tuning.sweep import read_sweep
from custom_modules.tuning.trainings import Trainings
from tests.integration.forked import Forked

ROOT = Path(__file__).parents[2]
PROGRAM = "tests/tuning/fake_training.py"
#: From the best to the worst: whoever follows in a bracket of Hyperband is pruned.
RATES = [1e-3, 2e-3, 4e-3, 1e-2, 4e-2, 1e-1, 4e-1, 1.0]


def sweep_file(folder, method="grid", lr=None, **more):
    lr = lr or {"values": RATES}
    tree = {
        "program": PROGRAM,
        "method": method,
        "metric": {"name": "valid_si_sdr", "goal": "maximize"},
        "command": ["python", "${program}", "hparams/convtasnet.yaml", "${args}"],
        "parameters": {"lr": lr, "lr_patience": {"value": 3}},
    } | more
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def search(folder, arguments=(), trials=8, storage="journal", **options):
    sweep = read_sweep(sweep_file(folder, **options))
    study = open_study(sweep, open_storage(storage, folder), max_epochs=4)
    Search(sweep, study, Trainings(2), folder, arguments).run(trials)
    return sweep, study


def test_a_crash_is_one_failed_trial(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(ROOT)
    caplog.set_level("INFO", searching.logger.name)
    wide = {"min": 1e-4, "max": 1.0, "distribution": "log_uniform_values"}
    sweep, study = search(tmp_path, ["--fail_above=0.01"], trials=6, method="random", lr=wide)
    table = leaderboard(sweep, study)
    assert len(table) == 6
    failed = table[table.state == "fail"]
    assert (failed.lr > 0.01).all()
    assert (table[table.state == "complete"].lr <= 0.01).all()
    assert 0 < len(failed) < 6
    assert failed.failure.str.endswith("not finite; lower --lr").all()
    assert table.state.tolist() == sorted(table.state)  # failures at the end
    for number, folder in zip(failed.trial, failed.folder, strict=True):
        (line,) = [m for m in caplog.messages if m.startswith(f"trial {number} fail")]
        assert line.endswith(f"; see {folder}/output.txt)")
    best = table.iloc[0]
    written = write_report(sweep, study, tmp_path, ["--data_folder=x"])
    assert {path.name for path in written} >= {"leaderboard.csv", "best.yaml"}
    text = (tmp_path / "best.yaml").read_text()
    assert "not part of it: lr_patience 3, --data_folder=x\n" in text
    hparams = yaml.safe_load(text)
    assert hparams["lr"] == pytest.approx(best.lr, rel=1e-4)
    assert "lr_patience" not in hparams  # a setting of the search, not found by it


def test_a_second_search_draws_other_values_and_counts_what_there_is(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    wide = {"min": 1e-4, "max": 1e-2}
    search(tmp_path, trials=2, method="random", lr=wide)
    _, study = search(tmp_path, trials=4, method="random", lr=wide)
    assert len({trial.params["lr"] for trial in study.trials}) == 4


class Standstill:
    """A training that says nothing and never ends, until it is stopped."""

    def __init__(self, at_start=lambda: None, at_look=lambda: None, looks=3):
        self.at_start, self.at_look, self.looks = at_start, at_look, looks
        self.stopped = False

    def __call__(self, *args):
        self.at_start()
        return self

    def values(self, tick=lambda: None):
        for _ in range(self.looks):
            self.at_look()
            tick()
        assert self.stopped, "it was waited for"
        yield from ()

    def stop(self):
        self.stopped = True


@pytest.fixture
def standing(tmp_path, monkeypatch):
    """A search whose trials stand still."""
    sweep = read_sweep(sweep_file(tmp_path))
    study = open_study(sweep, open_storage("journal", tmp_path))
    search = Search(sweep, study, Trainings(1), tmp_path)
    monkeypatch.setattr(searching, "ALIVE_SECONDS", -1)

    def start(**what):
        process = Standstill(**what)
        monkeypatch.setattr(trainings, "TrialProcess", process)
        return search, study, process

    return start


def test_a_trial_is_alive_however_long_an_epoch_takes(standing):
    beats = []

    def look():
        beats.append(study.trials[0].user_attrs["alive"])
        if len(beats) == 3:
            search.trainings.stop()

    search, study, _ = standing(at_look=look)
    search.run(1)
    assert beats[0] < beats[1] < beats[2]


def test_a_trial_that_another_has_ended_is_let_go_in_one_line(standing, caplog):
    def take_over():
        (trial,) = study.get_trials(states=[TrialState.RUNNING])
        study.tell(trial.number, state=TrialState.FAIL)

    search, study, process = standing(at_start=take_over)
    search.run(1)
    (line,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert line.startswith("trial 0 was given up here: another tune.py")
    assert process.stopped


def test_a_search_that_ends_while_a_trial_begins_waits_for_nothing(standing):
    search, study, process = standing(at_start=lambda: search.trainings.stop())
    search.run(8)
    assert process.stopped
    assert [t.state for t in study.trials].count(TrialState.RUNNING) == 1


def test_hyperband_is_as_early_terminate_describes_it():
    def band(spec, most):
        pruner = make_pruner({"type": "hyperband", **spec}, most)
        return pruner._min_resource, pruner._max_resource, pruner._reduction_factor

    assert band({"min_iter": 10, "eta": 3, "s": 2}, 100) == (10, 100, 3)
    assert band({"max_iter": 27, "eta": 3, "s": 2}, 100) == (3, 27, 3)
    assert isinstance(make_pruner(None), optuna.pruners.NopPruner)
    # Trials shorter than the first rung cannot be pruned.
    assert isinstance(
        make_pruner({"type": "hyperband", "min_iter": 10}, 5), optuna.pruners.NopPruner
    )


@pytest.mark.parametrize("where", ["nosuch://x", "x", "postgresql://h:port/x"])
def test_a_storage_that_cannot_be_opened_is_refused_in_one_line(tmp_path, where):
    with pytest.raises(InputError, match=f"--storage={where}: cannot be opened") as e:
        open_storage(where, tmp_path)
    assert "\n" not in str(e.value)


def test_a_study_of_another_optuna_is_refused_in_one_line(tmp_path):
    storage = open_storage("sqlite", tmp_path)
    with sqlite3.connect(tmp_path / "study.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'v99.0.0.a'")
    with pytest.raises(InputError, match="Please try updating optuna") as e:
        open_storage("sqlite", tmp_path)
    assert "\n" not in str(e.value)
    storage.engine.dispose()


def text(file):
    file.write_text("hello\n")


def half(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def overwritten(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 3 : 2 * len(data) // 3] = b"\xff" * (len(data) // 3)
    file.write_bytes(data)


def a_pipe(file):
    file.unlink()
    os.mkfifo(file)


@pytest.fixture
def studied(tmp_path):
    """A folder with a study of a few trials, in both of its forms."""
    sweep = read_sweep(sweep_file(tmp_path))
    for where in ("sqlite", "journal"):
        storage = open_storage(where, tmp_path)
        study = open_study(sweep, storage)
        for _ in range(20):
            study.tell(study.ask({"lr": sweep.parameters["lr"].distribution}), 1.0)
        if where == "sqlite":
            storage.engine.dispose()
    return tmp_path


@pytest.mark.parametrize(
    ("where", "damage"),
    [
        *(("sqlite", damage) for damage in (text, half, overwritten, a_pipe)),
        *(("journal", damage) for damage in (text, overwritten, a_pipe)),
    ],
)
def test_a_damaged_study_is_named_and_left_as_it_is(studied, where, damage):
    file = studied / {"sqlite": "study.db", "journal": "study.journal"}[where]
    damage(file)
    before = None if file.is_fifo() else file.read_bytes()
    with pytest.raises(InputError, match=file.name) as caught:
        open_storage(where, studied)
    assert "\n" not in str(caught.value)
    assert file.is_fifo() or file.read_bytes() == before


@pytest.mark.parametrize("cut", [1, 10])
def test_a_journal_goes_on_after_a_line_that_a_kill_cut_off(studied, cut):
    file = studied / "study.journal"
    file.write_bytes(file.read_bytes()[:-cut])
    sweep = read_sweep(studied / "tiny.yaml")
    study = open_study(sweep, open_storage("journal", studied))
    study.tell(study.ask(), 2.0)
    trials = open_study(sweep, open_storage("journal", studied)).trials
    assert [trial.value for trial in trials][:19] == [1.0] * 19
    assert trials[-1].value == 2.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": {"values": [1.0, 2.0]}}, "began with another lr"),
        ({"metric": {"name": "valid_si_sdr", "goal": "minimize"}}, "began with another goal"),
    ],
)
def test_a_study_does_not_go_on_after_another_sweep_file(studied, changes, message):
    sweep = read_sweep(sweep_file(studied, **changes))
    with pytest.raises(InputError, match=f"tiny.yaml: its study {message}"):
        open_study(sweep, open_storage("journal", studied))


def test_a_study_stays_with_its_corpus_and_settings(tmp_path):
    sweep, storage = read_sweep(sweep_file(tmp_path)), open_storage("journal", tmp_path)
    open_study(sweep, storage, arguments=["--data_folder=here/A", "--num_workers=1"])
    open_study(sweep, storage, arguments=["--data_folder=moved/A", "--num_workers=4"])
    for arguments in (["--data_folder=here/B"], ["--data_folder=A", "--task=ES"]):
        with pytest.raises(InputError, match=r"began with another (data_folder|task)"):
            open_study(sweep, storage, arguments=arguments)


def test_trials_of_another_study_are_not_gone_on_with(tmp_path):
    (tmp_path / "trials" / "0000").mkdir(parents=True)
    with pytest.raises(InputError, match="trials: is of another study; name another"):
        search(tmp_path)


def tune(folder):
    options = [f"--tuning_folder={folder}", "--workers=2", "--data_folder=x"]
    with open(folder / "printed.txt", "wb") as file:
        command = ["recipes/separation/tune.py", folder / "tiny.yaml", *options]
        return Forked(command, os.environ, stdout=file, stderr=file)


def is_running(pid):
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "Z (zombie)" not in status.read_text()


@pytest.mark.slow
def test_a_killed_search_goes_on_prunes_and_finds_the_best(tmp_path):
    band = {"type": "hyperband", "min_iter": 1, "eta": 2}
    # The stand-in knows no number_of_epochs; Hyperband takes it from here.
    epochs = {"number_of_epochs": {"value": 4}, "lr": {"values": RATES}}
    go = tmp_path / "go"
    command = ["python", "${program}", "hparams/convtasnet.yaml", f"--wait_for={go}"]
    sweep_file(tmp_path, early_terminate=band, parameters=epochs, command=[*command, "${args}"])
    first = tune(tmp_path)
    while len(list(tmp_path.glob("trials/*/history.csv"))) < 2:
        assert first.wait(0.1) is None, (tmp_path / "printed.txt").read_text()
    first.kill()
    first.wait()
    outputs = [path.read_text() for path in tmp_path.glob("trials/*/output.txt")]
    pids = [int(text.split()[1]) for text in outputs]
    while any(map(is_running, pids)):  # the kernel takes a moment
        pass

    go.touch()
    second = tune(tmp_path)
    status, printed = second.wait(), (tmp_path / "printed.txt").read_text()
    assert status == 0, printed
    assert printed.count("was interrupted and goes on") == 2
    table = pd.read_csv(tmp_path / "leaderboard.csv")
    assert sorted(table.lr) == RATES
    assert set(table.state) == {"complete", "pruned"}
    assert table.lr[0] == RATES[0]
    # Those that were interrupted went on in their folders.
    resumed = [Path(folder).name for folder in table.folder[table.lr.isin(RATES[:2])]]
    assert sorted(resumed) == ["0000", "0001"]
    for name in ("parallel_coordinate", "importance", "intermediate_values"):
        picture = (tmp_path / f"{name}.png").read_bytes()
        assert picture.startswith(b"\x89PNG")
    best = load_hparams(
        tmp_path / "best.yaml", {"data_folder": "x", "output_folder": str(tmp_path)}
    )
    assert best["lr"] == RATES[0]
    assert best["opt_class"].keywords["lr"] == RATES[0]
    assert best["model_name"] == "tiny_best"
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/study.db")
    study = optuna.load_study(study_name="tiny", storage=storage)
    interrupted = [t for t in study.trials if t.user_attrs.get("interrupted")]
    assert [t.state for t in interrupted] == [TrialState.FAIL] * 2
    assert json.dumps(study.best_params) == json.dumps({"lr": RATES[0]})


def test_a_search_without_a_single_result_says_why():
    study = optuna.create_study()
    check_any_succeeded(study)  # there is nothing yet
    for reason in ("no such corpus", "out of memory"):
        trial = study.ask()
        trial.set_user_attr("failure", reason)
        trial.set_user_attr("folder", f"trials/{trial.number}")
        study.tell(trial, state=TrialState.FAIL)
    last = "all 2 trials failed; the last: out of memory; see trials/1/output.txt"
    with pytest.raises(InputError, match=last):
        check_any_succeeded(study)
    study.tell(study.ask(), 1.0)
    check_any_succeeded(study)


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=str(tmp_path / "file")):
        open_storage("sqlite", tmp_path / "file" / "study")
