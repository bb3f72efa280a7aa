"""The training command itself: it runs, resumes exactly, and refuses kindly."""

import os
import signal
from pathlib import Path

import pandas as pd
import pytest

from custom_modules.files import lock
from tests.integration import training
from tests.integration.forked import run_two
from tests.integration.training import REMIXED, assert_same, final_state
from tests.manifest.tiny_corpus import TinyCorpus

ROOT = Path(__file__).parents[2]
TRAIN = "recipes/separation/train.py"
DIE = "tests/integration/watched_training.py"

TINY = {
    "convtasnet": "--N=8 --B=8 --H=8 --X=2 --R=1",
    "dprnn": "--N=8 --num_layers=2 --hidden_size=4 --chunk_size=20",
    "sepformer": "--N=8 --num_blocks=2 --num_layers=1 --nhead=2 --d_ffn=8 --chunk_size=20",
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    corpus = TinyCorpus(tmp_path_factory.mktemp("data") / "Tiny", frames=1600)
    for subset, rows in (("train", 12), ("val", 6), ("test", 4)):
        for row in range(rows):
            environment = "outdoor" if row % 3 == 2 else "indoor"
            corpus.add(subset, f"{subset}_{row}", environment)
    corpus.write_tables()
    return corpus.root


def run(*arguments, script=TRAIN, environment=()):
    return training.run(script, *arguments, **dict(environment))


def train(corpus, folder, *more, model="convtasnet", script=TRAIN, before=()):
    return run(
        *before,
        f"hparams/{model}.yaml",
        f"--data_folder={corpus}",
        f"--output_folder={folder}",
        *TINY[model].split(),
        "--batch_size=2",
        "--num_workers=0",
        "--noprogressbar",
        *more,
        script=script,
    )


@pytest.mark.parametrize(
    ("model", "task", "precision"),
    [("convtasnet", "SB", "fp32"), ("dprnn", "EB", "bf16"), ("sepformer", "ES", "bf16")],
)
def test_every_task_runs_in_debug_mode(corpus, tmp_path, model, task, precision):
    done = train(
        corpus, tmp_path, f"--task={task}", f"--precision={precision}", "--debug", model=model
    )
    assert done.returncode == 0, done.stderr
    results = pd.read_csv(tmp_path / "debug" / "test_results.csv")
    assert results.source.max() == (2 if task == "SB" else 1)
    assert results.si_sdr.notna().all()
    unimproved = (results.variant == "C") & (task != "SB")  # it is the target
    assert (results.si_sdri.isna() == unimproved).all()
    assert not (tmp_path / "test_results.csv").exists()


def test_two_processes_debug_in_one_folder(corpus, tmp_path):
    """SpeechBrain gives each one of its own; then they waited for each other for ever."""
    command = training.arguments(corpus, tmp_path, "--debug", "--debug_epochs=3", "--batch_size=2")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(training.ROOT)}
    done = run_two([TRAIN, *command, "--distributed_backend=gloo"], environment)
    assert done.returncode == 0, done.stderr
    assert len(pd.read_csv(tmp_path / "debug" / "history.csv")) == 3
    assert pd.read_csv(tmp_path / "debug" / "test_results.csv").si_sdr.notna().all()


@pytest.mark.slow
def test_accumulated_gradients_survive_a_kill(corpus, tmp_path):
    options = ["--number_of_epochs=3", "--grad_accumulation_factor=3"]
    options += ["--save_audio=0", "--test_max_samples=1", *REMIXED]
    often = [*options, "--ckpt_interval_steps=2"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert train(corpus, whole, *options).returncode == 0
    dead = train(corpus, killed, *often, script=DIE, before=["step:5"])
    assert dead.returncode == -signal.SIGKILL
    assert train(corpus, killed, *often).returncode == 0
    assert_same(final_state(killed), final_state(whole))


def test_a_run_that_diverged_goes_on_from_sound_weights(corpus, tmp_path):
    untested = "--test_after_training=False"
    sound = train(corpus, tmp_path, "--number_of_epochs=1", untested)
    assert sound.returncode == 0, sound.stderr
    options = ["--number_of_epochs=2", "--ckpt_interval_steps=1", untested]
    diverged = train(corpus, tmp_path, *options, "--lr=1e30")
    assert diverged.returncode == 2
    assert "lower --lr" in diverged.stderr
    lower = train(corpus, tmp_path, *options, "--lr=1e-4")
    assert lower.returncode == 0, lower.stderr
    log = (tmp_path / "train_log.txt").read_text().splitlines()
    assert "lr: 1.000e-03" in log[0]
    assert "lr: 1.000e-04, skipped: 0" in log[1]


def test_a_second_training_is_refused_before_it_touches_anything(corpus, tmp_path):
    folder = tmp_path / "run"
    with lock(folder):
        second = train(corpus, folder)
        assert [path.name for path in folder.iterdir()] == [".lock"]
    assert second.returncode == 2
    message = "another command writes into it; wait for its end, or name another folder"
    assert second.stderr.splitlines()[-1] == f"error: {folder}: {message}"


def test_a_damaged_history_is_refused_before_anything_is_touched(corpus, tmp_path):
    (tmp_path / "history.csv").write_text("epoch\n")
    done = train(corpus, tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: {tmp_path / 'history.csv'}: cannot")
    assert [path.name for path in tmp_path.iterdir()] == ["history.csv"]


def test_a_killed_run_ends_with_the_numbers_of_an_uninterrupted_one(corpus, tmp_path):
    # Dropout and crops draw random numbers, too; they must not depend on the kills.
    options = ["--number_of_epochs=3", "--segment_seconds=0.1", "--dropout=0.1"]
    options += ["--save_audio=0", "--test_max_samples=1", *REMIXED]
    often = [*options, "--ckpt_interval_steps=2"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert train(corpus, whole, *options, model="sepformer").returncode == 0

    # Six steps an epoch: in mid-epoch 1, in mid-epoch 2, within a checkpoint.
    for point, workers in (("step:4", 0), ("step:8", 2), ("save:4", 1)):
        dead = train(
            corpus,
            killed,
            *often,
            f"--num_workers={workers}",
            model="sepformer",
            script=DIE,
            before=[point],
        )
        assert dead.returncode == -signal.SIGKILL, dead.stderr
    done = train(corpus, killed, *often, model="sepformer")
    assert done.returncode == 0, done.stderr
    assert "never finished and is passed over" in done.stdout

    assert_same(final_state(killed), final_state(whole))
    for name in ("train_log.txt", "test_results.csv"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    of_the_clock = ["seconds", "peak_memory_gb"]
    histories = [pd.read_csv(f / "history.csv") for f in (killed, whole)]
    pd.testing.assert_frame_equal(
        *(history.drop(columns=of_the_clock) for history in histories), check_exact=True
    )
    assert (whole / "train_log.txt").read_text().count("epoch:") == 3


def test_results_are_written_and_a_finished_run_only_tests_again(corpus, tmp_path):
    options = ["--number_of_epochs=1", "--save_audio=1"]
    done = train(corpus, tmp_path, *options)
    assert done.returncode == 0, done.stderr
    for name in ("training_curve.png", "test_results.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    results = pd.read_csv(tmp_path / "test_results.csv")
    # Three indoor mixtures with five variants, one outdoor with four, two sources.
    assert len(results) == 2 * (3 * 5 + 4)
    gain = results.si_sdr - results.si_sdr_mixture
    pd.testing.assert_series_equal(results.si_sdri, gain, check_names=False, atol=2e-4)
    assert {"sdr", "sir", "pesq_oracle", "estoii"} <= set(results)
    audio = {path.name.split("_", 2)[2] for path in (tmp_path / "audio").iterdir()}
    assert {"C_mixture.wav", "C_s1.wav", "C_s2.wav", "C_s1_target.wav"} <= audio
    assert "| C indoor" in done.stdout
    before = (tmp_path / "test_results.csv").read_bytes()
    again = train(corpus, tmp_path, *options, "--test_only")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "test_results.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hparams/convtasnet.yaml"], "--data_folder"),
        (["hparams/none.yaml", "--data_folder=x"], "hparams/none.yaml"),
        (["hparams", "--data_folder=x"], "hparams: is a folder; name a file"),
        (["hparams/convtasnet.yaml", "--data_folder=nowhere"], "nowhere"),
        (["hparams/convtasnet.yaml", "--batch_sise=2"], "--batch_size"),
        (["hparams/convtasnet.yaml", "--data_folder=x", "--task=XX"], "SB, EB, ES"),
        (["--debug"], "hparams file"),
        (["hparams/dprnn.yaml", "--debug"], "--data_folder"),
        (["hparams/dprnn.yaml", "--data_folder=x", "--skip_prep=yes"], "True nor False"),
        (["hparams/sepformer.yaml", "--data_folder=x", "--nhead=3"], "must divide N="),
        (["hparams/dprnn.yaml", "--data_folder=x", "--kernel_size=0"], "number from 2"),
        (["hparams/convtasnet.yaml", "--seed"], "--seed=value"),
        (["hparams/convtasnet.yaml", "--data_folder=x", "--lr=fast"], "not a number"),
        (["hparams/dprnn.yaml", "--data_folder=x", "--save_folder=README.md"], "README"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path, arguments, message):
    done = run(*arguments, f"--output_folder={tmp_path / 'out'}")
    assert done.returncode == 2
    assert "Traceback" not in done.stdout + done.stderr
    (line,) = [x for x in done.stderr.splitlines() if x.startswith("error: ")]
    assert message in line
    assert not (tmp_path / "out").exists()  # plot.py and others would stumble over it


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--sample_rate=16000", "--sample_rate=8000"),
        ("--save_folder=elsewhere", "where all look for checkpoints"),
        ("--test_only", "train first"),
        ("--train_max_samples=some", "--train_max_samples=some"),
        ("--precision=fp16", "needs a GPU"),
        ("--lr=1.0e+30 --nonfinite_patience=1 --number_of_epochs=9", "lower --lr"),
    ],
)
def test_mistakes_found_later_end_in_one_line_too(corpus, tmp_path, options, message):
    done = train(corpus, tmp_path, "--device=cpu", *options.split())
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    (line,) = [x for x in done.stderr.splitlines() if x.startswith("error: ")]
    assert message in line


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--train_variants=[SER,XX]", "choose one or more of SER"),
        ("--segment_seconds=0", "--segment_seconds=0: must be a number above 0"),
        ("--batch_size=0", "--batch_size=0: must be a whole number from 1"),
        ("--lr=-1", "--lr=-1: must be a number from 0"),
        ("--num_workers=-1", "--num_workers=-1"),
        ("--device=cuda:99", "CUDA devices are in reach"),
        ("--device=abacus", "--device=abacus: is not a device"),
        ("--precision=fp8", "'bf16'); see --help"),
    ],
)
def test_values_that_cannot_be_are_refused_before_the_corpus_is_read(
    corpus, tmp_path, option, message
):
    done = train(corpus, tmp_path / "out", option)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()[-1:]
    assert line.startswith("error: ")
    assert message in line
    assert "Traceback" not in done.stderr
    assert "usage" not in done.stderr
    assert not (tmp_path / "out").exists()


BROKEN = """
import torch

class Broken(torch.nn.Module):
    def __init__(self, late):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        if not late:
            1 / 0

    def forward(self, mixture):
        raise RuntimeError("shapes that do not fit")
"""


@pytest.mark.parametrize(
    ("late", "error", "line"),
    [(False, "ZeroDivisionError", 9), (True, "RuntimeError: shapes that do not", 12)],
)
def test_a_bug_of_a_model_of_ones_own_keeps_its_traceback(corpus, tmp_path, late, error, line):
    (tmp_path / "mine.py").write_text(BROKEN)
    text = f"base: {ROOT}/hparams/convtasnet.yaml\nseparator: !new:mine.Broken\n"
    (tmp_path / "mine.yaml").write_text(f"{text}    late: {late}\n")
    arguments = [tmp_path / "mine.yaml", f"--data_folder={corpus}", "--device=cpu"]
    arguments += ["--num_workers=0", f"--output_folder={tmp_path / 'out'}", "--debug"]
    done = run(*arguments)
    assert done.returncode == 1
    shown = done.stdout + done.stderr
    assert f'{tmp_path}/mine.py", line {line}' in shown
    assert error in shown
    assert "error: " not in done.stderr.replace("Error: ", "")


def test_a_checkpoint_of_another_model_is_not_loaded(corpus, tmp_path):
    untested = "--test_after_training=False"
    assert train(corpus, tmp_path, "--number_of_epochs=1", untested).returncode == 0
    before = (tmp_path / "hyperparams.yaml").read_bytes()
    other = train(corpus, tmp_path, "--number_of_epochs=2", "--task=ES")
    assert other.returncode == 2
    assert "another --output_folder" in other.stderr
    lost = train(corpus / "nowhere", tmp_path, "--number_of_epochs=2")
    assert lost.returncode == 2
    assert (tmp_path / "hyperparams.yaml").read_bytes() == before


def test_the_environment_names_the_corpus_and_the_command_line_wins(corpus, tmp_path):
    arguments = ["hparams/convtasnet.yaml", f"--output_folder={tmp_path}", "--debug"]
    arguments += [*TINY["convtasnet"].split(), "--num_workers=0"]
    variable = {"POLSESS_DATA_ROOT": str(corpus)}
    done = run(*arguments, environment=variable)
    assert done.returncode == 0, done.stderr
    lost = run(*arguments, "--data_folder=nowhere", environment=variable)
    assert lost.returncode == 2
    assert "nowhere" in lost.stderr


def test_help_tells_how_to_run_it_and_lists_the_keys():
    done = run("hparams/convtasnet.yaml", "--help")
    assert done.returncode == 0
    assert "recipes/separation/train.py hparams/convtasnet.yaml" in done.stdout
    assert "number_of_epochs: 100" in done.stdout
    assert "data_folder: !PLACEHOLDER" in done.stdout
    assert "output_folder: !ref results/" in done.stdout
    assert "!new:" not in done.stdout
    assert "TaggedScalar" not in done.stdout
    assert "--ckpt_interval_steps" in done.stdout
