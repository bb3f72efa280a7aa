"""What a command line changes in an hparams file, and what it may not."""

import platform
import re
from pathlib import Path

import pytest
import yaml

from custom_modules.errors import InputError
from custom_modules.hparams import (
    check_overrides,
    check_recorded,
    load_experiment,
    print_help,
    read_yaml,
    split_arguments,
    write_hparams,
)
from tests.test_hparams import derived

ROOT = Path(__file__).parents[1]


DPRNN = f"{ROOT}/hparams/dprnn.yaml"


def test_values_with_equals_signs_and_numbers_survive():
    _, run_arguments, overrides = split_arguments(
        [DPRNN, "--output_folder=results/lr=0.1", "--lr", "1e-4", "--device", "cpu"]
    )
    assert overrides == {"output_folder": "results/lr=0.1", "lr": 1e-4}
    assert run_arguments == [DPRNN, "--device", "cpu"]


@pytest.mark.parametrize(
    ("text", "value"),
    [("[/a, b/c]", ["/a", "b/c"]), ("a, b", "a, b"), ("corpus #4", "corpus #4"), ("1e3", "1e3")],
)
def test_several_corpora_are_a_list_and_one_is_text(text, value):
    for known in (None, {"data_folder": ["x", "y"]}):  # as results of several record it
        assert split_arguments([DPRNN, f"--data_folder={text}"], known=known)[2] == {
            "data_folder": value
        }


@pytest.mark.parametrize(
    "words",
    [
        ["--noprogressbar", "SER"],
        ["--debug", "5"],
        ["--device", "cpu", "SER"],
        ["--device=cpu", "5"],
        ["--compile=5"],
    ],
)
def test_what_follows_a_value_is_refused_and_not_dropped(words):
    last = words[-1].partition("=")[2] or words[-1]
    with pytest.raises(InputError, match=f"argument '{last}' has no option"):
        split_arguments([DPRNN, *words])
    assert split_arguments([DPRNN, "--compile_module_keys", "a", "b"])[1][1:] == [
        *("--compile_module_keys", "a", "b")
    ]


def test_fp16_is_taken_where_it_can_be_and_refused_where_it_was_asked_for(tmp_path):
    arguments = [f"{ROOT}/hparams/dprnn.yaml", "--data_folder=x", "--device=cpu"]
    arguments.append(f"--output_folder={tmp_path}")
    _, hparams, _, _ = load_experiment(arguments)
    assert hparams["precision"] == "fp32"
    with pytest.raises(InputError, match="bf16 or fp32"):
        load_experiment([*arguments, "--precision=fp16"])


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other flags of the CPU")
def test_bf16_of_a_file_is_taken_where_the_cpu_has_it_and_always_where_it_was_asked_for(tmp_path):
    arguments = [f"{ROOT}/hparams/mossformer2.yaml", "--data_folder=x", "--device=cpu"]
    arguments.append(f"--output_folder={tmp_path}")
    has_it = "avx512bw" in Path("/proc/cpuinfo").read_text()
    assert read_yaml(arguments[0])["precision"] == "bf16"
    assert load_experiment(arguments)[1]["precision"] == ("bf16" if has_it else "fp32")
    assert load_experiment([*arguments, "--precision=bf16"])[2].precision == "bf16"


def test_a_limit_of_steps_is_a_number(tmp_path):
    arguments = [f"{ROOT}/hparams/dprnn.yaml", "--data_folder=x", "--device=cpu"]
    arguments.append(f"--output_folder={tmp_path}")
    _, _, run_opts, _ = load_experiment([*arguments, "--optimizer_step_limit=70"])
    assert run_opts.optimizer_step_limit == 70
    for value in ("0", "-3", "many", "1.5"):
        with pytest.raises(InputError, match=f"limit={value}: must be a whole number"):
            load_experiment([*arguments, f"--optimizer_step_limit={value}"])


def test_a_few_batches_make_steps(tmp_path):
    """Four that only add up to a step would be more than --debug takes."""
    path = f"{ROOT}/hparams/tf_locoformer.yaml"
    assert read_yaml(path)["grad_accumulation_factor"] == 4
    arguments = [path, "--data_folder=x", "--debug", f"--output_folder={tmp_path}/a"]
    _, hparams, _, _ = load_experiment(arguments)
    assert hparams["grad_accumulation_factor"] == 1
    _, hparams, _, _ = load_experiment([*arguments, "--grad_accumulation_factor=2"])
    assert hparams["grad_accumulation_factor"] == 2


def test_debug_writes_into_a_folder_of_its_own(tmp_path):
    arguments = [f"{ROOT}/hparams/dprnn.yaml", "--data_folder=x", "--debug"]
    _, hparams, _, _ = load_experiment([*arguments, f"--output_folder={tmp_path}/a"])
    assert hparams["output_folder"] == f"{tmp_path}/a/debug"
    assert hparams["save_folder"] == f"{tmp_path}/a/debug/save"
    # The baseline's batch of 16 mixtures of 4 s would take 30 GB.
    assert (hparams["batch_size"], hparams["segment_seconds"]) == (2, 1.0)
    _, hparams, _, _ = load_experiment([*arguments, "--batch_size=3"])
    assert hparams["batch_size"] == 3
    # What is kept must not be gone on with by a real run, either.
    _, kept, _, _ = load_experiment([*arguments, "--debug_persistently"])
    assert kept["save_folder"] == "results/dprnn/42/debug/save"


def test_each_run_of_a_wandb_agent_has_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_SWEEP_ID", "someone/polsess/abc123")
    monkeypatch.setenv("WANDB_RUN_ID", "run7")
    arguments = [f"{ROOT}/hparams/dprnn.yaml", "--data_folder=x", "--N=8"]
    _, hparams, _, _ = load_experiment(arguments)
    assert hparams["output_folder"] == "results/sweeps/abc123/run7"
    _, hparams, _, _ = load_experiment([*arguments, "--output_folder=mine"])
    assert hparams["output_folder"] == "mine"


def test_the_environment_beats_a_derived_file_and_run_options_are_recorded(tmp_path, monkeypatch):
    base = ROOT / "hparams" / "demo.yaml"
    text = f"base: {base}\ndata_folder: /from/file\nlr: 1.0e-4\nmax_grad_norm: 3\n"
    path = derived(tmp_path, "mine", text)
    monkeypatch.setenv("POLSESS_DATA_ROOT", "/from/environment")
    options = [f"--output_folder={tmp_path}", "--max_grad_norm=2.5", "--device=cpu"]
    _, hparams, _, overrides = load_experiment([str(path), *options])
    assert hparams["data_folder"] == "/from/environment"
    assert hparams["lr"] == 1e-4
    assert hparams["max_grad_norm"] == overrides["max_grad_norm"] == 2.5
    _, hparams, _, _ = load_experiment([str(path), *options, "--data_folder=/mine"])
    assert hparams["data_folder"] == "/mine"


@pytest.mark.parametrize(
    ("mode", "meant"), [("dryrun", "offline"), ("run", "online"), ("disabled", "disabled")]
)
def test_wandb_mode_is_taken_in_its_older_words_too(monkeypatch, mode, meant):
    monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setenv("POLSESS_DATA_ROOT", mode)
    overrides = check_overrides(DPRNN, {})
    assert overrides == {"wandb_mode": meant, "data_folder": mode}


@pytest.mark.parametrize("lr", ["1e-5", "1E-5", "-3e+20", "1.5e-4", "0.01", "1e5"])
def test_numbers_of_the_command_line_are_numbers_for_every_reader(tmp_path, lr):
    """YAML 1.1, as of PyYAML and W&B, takes 1e-5 for text."""
    _, _, overrides = split_arguments([DPRNN, f"--lr={lr}"])
    write_hparams(ROOT / "hparams/dprnn.yaml", overrides, tmp_path / "a.yaml")
    (line,) = re.findall(r"(?m)^lr: .*$", (tmp_path / "a.yaml").read_text())
    assert yaml.safe_load(line) == {"lr": float(lr)}


def test_help_says_how_to_see_the_keys(capsys):
    print_help("Usage.", ["--help"])
    assert "hparams/dprnn.yaml --help" in capsys.readouterr().out
    print_help("Usage.", [str(ROOT / "hparams/dprnn.yaml"), "--help"])
    printed = capsys.readouterr().out
    assert "  lr: " in printed
    assert "dprnn.yaml --help" not in printed


def test_a_results_folder_stands_for_its_file(tmp_path):
    with pytest.raises(InputError, match=f"{tmp_path}: is a folder; name a file"):
        split_arguments([str(tmp_path)])
    file = tmp_path / "hyperparams.yaml"
    file.write_text("lr: 1\noutput_folder: where/it/was\n")
    found, run_arguments, overrides = split_arguments([str(tmp_path), "--debug"])
    assert found == str(file)
    assert run_arguments == [str(file), "--debug"]
    assert overrides == {"output_folder": str(tmp_path)}
    *_, overrides = split_arguments([str(tmp_path), "--output_folder=other"])
    assert overrides == {"output_folder": "other"}


def test_a_trained_model_stays_what_it_was(tmp_path):
    path = tmp_path / "hyperparams.yaml"
    write_hparams(DPRNN, {"data_folder": "x", "output_folder": str(tmp_path)}, path)
    check_recorded({"sample_rate": 16000}, tmp_path)  # nothing is trained yet
    (tmp_path / "save" / "CKPT+1").mkdir(parents=True)
    check_recorded({"sample_rate": 8000, "lr": 1.0}, tmp_path)
    with pytest.raises(InputError, match=r"--sample_rate=16000: .* was trained with 8000"):
        check_recorded({"sample_rate": 16000}, tmp_path)
    # Also what the file computes of other keys.
    computed = "rate: 8000\nsample_rate: !ref <rate>"
    path.write_text(path.read_text().replace("sample_rate: 8000", computed))
    with pytest.raises(InputError, match=r"--sample_rate=16000: .* was trained with 8000"):
        check_recorded({"sample_rate": 16000}, tmp_path)
