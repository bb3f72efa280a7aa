"""Sweep files: W&B's schema, the keys of the hparams, and what is refused."""

import json
import os
from pathlib import Path

import jsonschema
import numpy as np
import optuna
import pytest
import yaml

from custom_modules.errors import InputError
from custom_modules.tuning.sweep import check_search, parse_parameter, read_sweep

ROOT = Path(__file__).parents[2]
SWEEPS = sorted((ROOT / "hparams/sweeps").glob("*.yaml"))

#: Lowest and highest lr, mixtures, and where Hyperband begins; as published.
PUBLISHED = {
    "dprnn_stage1": (3e-4, 3e-3, 2000, 10),
    "dprnn_stage2": (5e-4, 2e-3, 4000, 10),
    "dprnn_stage3": (7e-4, 2e-3, 8000, 10),
    "convtasnet_stage1": (1e-4, 1e-2, 2000, 15),
    "convtasnet_stage2": (3e-4, 1.5e-3, 8000, 15),
    "spmamba_stage1": (1e-4, 3e-3, 2000, 10),
    "spmamba_stage2": (3e-4, 2e-3, 8000, 10),
    "sepformer": (5e-5, 5e-4, 8000, 15),
}


def wandb_validator():
    """As W&B's package ``sweeps`` makes it; that package needs numpy 1."""
    checker = jsonschema.FormatChecker()
    checker.checks("float")(lambda value: isinstance(value, float))
    checker.checks("integer")(lambda value: isinstance(value, int))
    schema = json.loads((ROOT / "tests/data/wandb_sweep_schema.json").read_text())
    return jsonschema.Draft7Validator(schema, format_checker=checker)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_sweeps_pass_wandbs_schema_and_fit_their_hparams(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    tree = yaml.safe_load(path.read_text())
    assert [error.message for error in wandb_validator().iter_errors(tree)] == []
    sweep = read_sweep(path)
    assert check_search(sweep, ["--data_folder=x"]) > 0
    assert sweep.metric == "valid_si_sdr"
    for spec in tree["parameters"].values():
        for key in ("min", "max", "value"):
            assert not isinstance(spec.get(key), str), spec
    if sweep.method == "grid":
        assert tree["parameters"]["seed"] == {"values": [42, 123, 456]}


def test_the_schema_does_refuse():
    tree = yaml.safe_load((ROOT / "hparams/sweeps/dprnn_stage1.yaml").read_text())
    tree["parameters"]["lr"]["min"] = "1e-4"
    assert list(wandb_validator().iter_errors(tree))


@pytest.mark.parametrize(("name", "expected"), PUBLISHED.items())
def test_searches_are_the_published_ones(name, expected):
    sweep = read_sweep(ROOT / f"hparams/sweeps/{name}.yaml")
    lr = sweep.parameters["lr"].distribution
    mixtures = sweep.parameters["train_max_samples"].values[0]
    assert (lr.low, lr.high, mixtures, sweep.early_terminate["min_iter"]) == expected
    assert lr.log
    assert (sweep.early_terminate["s"], sweep.early_terminate["eta"]) == (2, 3)


def write(folder, **changes):
    tree = {
        "program": "recipes/separation/train.py",
        "method": "bayes",
        "metric": {"name": "valid_si_sdr", "goal": "maximize"},
        "command": ["python", "${program}", "hparams/dprnn.yaml", "${args}"],
        "parameters": {"lr": {"min": 1e-4, "max": 1e-2}},
    } | changes
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in tree.items() if v is not None}))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "best"}, "method 'best' is none of"),
        ({"metric": None}, "lacks metric"),
        ({"metric": {"name": "x", "goal": "high"}}, "minimize or maximize"),
        ({"parameters": {}}, "must name at least one"),
        ({"parameters": {"lr": {"min": "1e-4", "max": 1}}}, "write 1e-4 as 1.0e-4"),
        ({"parameters": {"lr": {"min": 2, "max": 1}}}, "2 is not below max 1"),
        (
            {
                "parameters": {
                    "N": {"min": 1, "max": 9, "q": 0} | {"distribution": "q_log_uniform_values"}
                }
            },
            "q=0: must be a number above 0",
        ),
        ({"parameters": {"lr": {"distribution": "normal"}}}, "min and max"),
        ({"parameters": {"lr": 3}}, "value, values, or min and max"),
        ({"parameters": {"lr": {"min": 0, "max": 1, "distribution": "beta"}}}, "'beta' is none of"),
        ({"early_terminate": {"type": "envelope"}}, "of type hyperband"),
        ({"early_terminate": {"type": "hyperband"}}, "needs min_iter"),
        (
            {"early_terminate": {"type": "hyperband", "min_iter": 0}},
            "min_iter=0: must be a whole number from 1",
        ),
        ({"early_terminate": {"type": "hyperband", "max_iter": 9, "s": 99}}, "s=99: .* up to 64"),
        ({"run_cap": "many"}, "run_cap=many: must be a whole number from 1"),
        ({"run_cap": 0}, "run_cap=0"),
        ({"program": ["a"]}, r"program \['a'\] must be text"),
        ({"method": ["bayes"]}, r"method \['bayes'\] is none of"),
        ({"command": 5}, "command 5 must be a list of words"),
        ({"command": [["a"]]}, "must be a list of words"),
        ({"metric": {"name": 3}}, "metric .* must have a name"),
        ({"parameters": {3: {"value": 1}}}, "holds no keys|each by text"),
        ({"parameters": {"lr": {"min": float("nan"), "max": 1}}}, "min=nan: must be a number"),
        ({"parameters": {"lr": {"values": [float("nan"), 1]}}}, "lr: .* cannot be given"),
        ({"parameters": {"lr": {"min": 0, "max": 999, "distribution": "log_uniform"}}}, "max=999"),
        ({"parameters": {"N": {"min": 1.5, "max": 9, "distribution": "int_uniform"}}}, "min=1.5"),
        ({"parameters": {"seed": {"value": -1}}}, "--seed=-1: must be a whole number"),
        ({"program": "none.py"}, "none.py is not there"),
        ({"parameters": {"lrr": {"value": 1}}}, "no key 'lrr' .*did you mean --lr"),
        ({"parameters": {"output_folder": {"value": "x"}}}, "--tuning_folder"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(tmp_path, monkeypatch, changes, message):
    monkeypatch.chdir(ROOT)
    with pytest.raises(InputError, match=message) as caught:
        check_search(read_sweep(write(tmp_path, **changes)), ["--data_folder=x"])
    assert "\n" not in str(caught.value)


def test_what_goes_to_trials_is_checked_too(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("POLSESS_DATA_ROOT", raising=False)
    sweep = read_sweep(write(tmp_path))
    for arguments, message in (
        ([], "--data_folder"),
        (["--data_folder=x", "--batch_sise=2"], "--batch_size"),
        (["--data_folder=x", "--output_folder=y"], "--tuning_folder"),
        (["--data_folder=x", "--batch_size=0"], "--batch_size=0: must be a whole number"),
    ):
        with pytest.raises(InputError, match=message):
            check_search(sweep, arguments)
    assert check_search(sweep, ["--data_folder=x", "--number_of_epochs=7"]) == 7


def test_a_command_is_put_together_as_wandbs_agent_does(tmp_path, monkeypatch):
    monkeypatch.setenv("CORPUS", "/data")
    command = ["${env}", "python", "${program}", "--data_folder=${envvar:CORPUS}"]
    sweep = read_sweep(write(tmp_path, command=[*command, "${args}"]))
    values = {"lr": 1e-05, "variants": ["C", "R"], "flag": True, "task": "SB", "n": None}
    assert sweep.command_line(values, ["--more"])[1:] == [
        "recipes/separation/train.py",
        "--data_folder=/data",
        "--lr=1e-05",
        '--variants=["C", "R"]',
        "--flag=true",
        "--task=SB",
        "--n=null",
        "--more",
    ]


@pytest.mark.parametrize(
    "text", ["", "- a", "a: [", "[" * 5000, "a: &a [*a]", "\0", "a: !!python/object:os.system x"]
)
def test_what_is_no_sweep_file_is_refused_in_one_line(tmp_path, text):
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=f"^{path}: ") as caught:
        read_sweep(path)
    assert "\n" not in str(caught.value)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match=f"^{path}: is a pipe"):
        read_sweep(path)


def test_values_go_to_a_trial_as_they_stand_in_the_file(tmp_path):
    path = write(tmp_path, parameters={"lr": {"values": [1, 2]}, "model_name": {"value": "DATE"}})
    path.write_text(path.read_text().replace("DATE", "2024-01-01"))
    sweep = read_sweep(path)
    assert sweep.constants() == {"model_name": "2024-01-01"}
    assert sweep.command_line(sweep.constants())[-1] == "--model_name=2024-01-01"


@pytest.mark.parametrize("quantum", [1, 2, 0.25])
@pytest.mark.parametrize("drawn", [1, 4.26, 8.999])
def test_a_quantised_draw_is_a_multiple_whole_if_q_is(quantum, drawn):
    spec = {"distribution": "q_uniform", "min": 1, "max": 9, "q": quantum}
    value = parse_parameter("here", spec).decode(drawn)
    assert value == np.round(drawn / quantum) * quantum
    assert isinstance(value, type(quantum))


@pytest.mark.parametrize("quantum", [8, 0.5])
def test_a_quantised_logarithm_is_drawn_evenly_by_its_logarithm(quantum):
    """As W&B draws: X log-uniform, then round(X / q) * q."""
    spec = {"distribution": "q_log_uniform_values", "min": 1, "max": 1024}
    parameter = parse_parameter("here", spec | {"q": quantum})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    drawn = []
    for _ in range(400):
        raw = study.ask({"n": parameter.distribution}).params["n"]
        drawn.append(parameter.decode(raw))
        assert drawn[-1] == pytest.approx(np.round(raw / quantum) * quantum)
        assert isinstance(drawn[-1], type(quantum))
    # Half of them below the geometric mean, 32; linearly it would be a 32nd.
    assert 0.4 < np.mean([value < 32 for value in drawn]) < 0.6
