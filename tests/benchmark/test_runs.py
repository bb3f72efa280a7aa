"""Which runs a campaign has."""

from pathlib import Path

import pytest

from custom_modules.errors import InputError
from custom_modules.tuning.trainings import Trainings
from recipes.benchmark.campaign.campaign import what_costs
from recipes.benchmark.campaign.runs import ENDLESS, Run, chosen_models, do_runs, models_in, plan
from recipes.benchmark.campaign.runs import test_of as make_test

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("folder", ["hparams/small", "hparams"])
def test_every_architecture_takes_part_and_the_demo_does_not(folder):
    models = models_in(ROOT / folder)
    assert {"convtasnet", "dprnn", "sepformer", "spmamba"} <= set(models)
    assert models == sorted(models)
    assert "demo" not in models


def test_an_architecture_joins_by_its_hparams_file(tmp_path):
    (tmp_path / "another.yaml").write_text(f"base: {ROOT}/hparams/dprnn.yaml\n")
    (tmp_path / "own.yaml").write_text("separator: !new:torch.nn.Linear [1, 2]\n")
    (tmp_path / "corpus.yaml").write_text("sample_rate: 8000\n")
    assert models_in(tmp_path) == ["another", "own"]


def test_each_architecture_has_a_run_early():
    runs = plan("hparams", "data", "out", {"b": 7, "a": 3}, [5, 6], ["--lr=1"])
    assert [(r.model, r.seed, r.steps) for r in runs] == [
        ("b", 5, 7),
        ("a", 5, 3),
        ("b", 6, 7),
        ("a", 6, 3),
    ]
    (train,) = runs[0].commands
    assert train[1] == "hparams/b.yaml"
    assert {"--seed=5", "--optimizer_step_limit=7", "--lr=1"} <= set(train)
    assert not runs[0].is_finished()


def test_a_training_goes_on_with_more_steps_but_not_with_other_options(tmp_path):
    for steps in (3, 7):
        plan("hparams/small", "data", tmp_path, {"dprnn": steps}, [5])[0].keep_begun()
    for data, options in (("other", []), ("data", ["--remix=True"])):
        (other,) = plan("hparams/small", data, tmp_path, {"dprnn": 7}, [5], options)
        with pytest.raises(InputError, match="dprnn/5: was begun with other options"):
            other.keep_begun()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("loss: !name:a.loss", "loss: !name:b.loss"),
        ("opt_class: !name:torch.optim.Adam {lr: 1}", "opt_class: !name:torch.optim.SGD {lr: 1}"),
        ("separator: !new:a.Model {sizes: [1, 2]}", "separator: !new:a.Model {sizes: [1, 3]}"),
    ],
)
def test_a_run_is_of_all_that_its_file_says_but_comments(tmp_path, before, after):
    file = tmp_path / "mine.yaml"
    file.write_text(f"{before}\n")
    (run,) = plan(str(tmp_path), "data", tmp_path, {"mine": 7}, [5])
    run.keep_begun()
    identity, costs = run.identity(), what_costs(str(file), [])
    file.write_text(f"# Why\n{before}\n")
    run.keep_begun()
    assert (run.identity(), what_costs(str(file), [])) == (identity, costs)
    file.write_text(f"{after}\n")
    assert run.identity() != identity and what_costs(str(file), []) != costs
    with pytest.raises(InputError, match="mine/5: was begun with other options"):
        run.keep_begun()


def test_a_file_that_changes_while_others_train_is_noticed(tmp_path):
    """The first run stands for hours of training: it writes the second one's file."""
    file, script = tmp_path / "b.yaml", tmp_path / "train.py"
    file.write_text("lr: 1\n")
    script.write_text(f"open({str(file)!r}, 'w').write('lr: 2')\n")
    runs = [
        Run(name, 5, tmp_path / name, [[str(script), str(tmp_path / "b.yaml")]], ENDLESS, "")
        for name in ("first", "second")
    ]
    with pytest.raises(InputError, match="1 of the runs failed") as error:
        do_runs(runs, Trainings(1))
    assert "second: was begun with other options" in error.value.details[0]
    assert not runs[0].is_finished() and not runs[1].is_finished()
    assert (tmp_path / "first/commits.txt").read_text().count("\n") == 1


@pytest.mark.parametrize("names", ["dprnn", "dprnn,dprnn,tiger"])
def test_what_is_compared_is_two_or_more_each_once(names):
    with pytest.raises(InputError, match="2 or more, each of them once"):
        chosen_models("hparams/small", names, least=2)


@pytest.mark.parametrize("recogniser", [None, "mini:out/recogniser"])
def test_a_test_is_of_its_training(recogniser):
    (run,) = plan("hparams", "data", "out", {"b": 7}, [5])
    test = make_test(run, "data", recogniser)
    (command,) = test.commands
    assert command[1] == "out/b/5/hyperparams.yaml"
    assert ("--recogniser=mini:out/recogniser" in command) == bool(recogniser)
    assert f"--output_folder={test.folder}" in command  # not where a test by hand writes
    assert test.folder != run.folder and not test.is_finished()
