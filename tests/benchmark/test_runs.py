"""Which runs a campaign has."""

from pathlib import Path

import pytest

from custom_modules.errors import InputError
from recipes.benchmark.campaign.runs import chosen_models, models_in, plan
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
    assert test.folder != run.folder and not test.is_finished()
