"""Curriculum, stopping, accumulation, several processes and failures, on train.py."""

import json
import os
import zlib

import pandas as pd
import pytest
import torch
import yaml

from custom_modules.brain import Separation
from custom_modules.errors import InputError
from custom_modules.hparams import read_yaml
from custom_modules.hub.recipe import load_best
from custom_modules.mmipc import VARIANTS, draw_variant
from tests.integration.forked import run_two
from tests.integration.training import REMIXED, ROOT, TINY, TWO_PROCESSES, WATCHED, arguments, run


def last_weights(folder):
    """Of the checkpoint of the last epoch."""
    metas = {p.parent: yaml.safe_load(p.read_text()) for p in folder.rglob("CKPT.yaml")}
    last = max(metas, key=lambda path: metas[path]["epoch"])
    return torch.load(last / "separator.ckpt", weights_only=True)


def drawn_by(monkeypatch):
    """Collects epoch, mixture, variant and recipe of all that is trained on."""
    seen, real = [], Separation.on_fit_batch_end

    def on_fit_batch_end(self, batch, *args):
        real(self, batch, *args)
        recipes = [zlib.crc32(repr(recipe).encode()) for recipe in batch.recipe]
        drawn = zip(batch.id, batch.variant, recipes, strict=True)
        seen.extend((self.epoch, *example) for example in drawn)

    monkeypatch.setattr(Separation, "on_fit_batch_end", on_fit_batch_end)
    return seen


def fail_at(monkeypatch, epoch, step, error):
    """Raises an error in a step, once."""
    real, done = Separation.compute_forward, []

    def compute_forward(self, batch, stage):
        if (self.epoch, self.step) == (epoch, step) and not done:
            done.append(True)
            raise error
        return real(self, batch, stage)

    monkeypatch.setattr(Separation, "compute_forward", compute_forward)


CURRICULUM = """--curriculum=[{epoch: 1, variants: [R]}, {epoch: 2, variants: [C, S]},
    {epoch: 3, variants: [C, R, SR, S, SE, ER, E, SER], lr_scheduler: start}]"""


def test_curriculum(train, tmp_path, monkeypatch):
    seen = drawn_by(monkeypatch)
    train(tmp_path, "--number_of_epochs=3", CURRICULUM, "--batch_size=4")
    environments = {f"train_{i}": "outdoor" if i % 3 == 2 else "indoor" for i in range(9)}
    indoor = [name for name, kind in environments.items() if kind == "indoor"]
    by_epoch = {e: {(i, v) for n, i, v, _ in seen if n == e} for e in (1, 2, 3)}
    assert len(seen) == len(indoor) + 9 + 9  # each mixture once
    assert by_epoch[1] == {(name, "R") for name in indoor}
    assert {i for i, _ in by_epoch[2]} == set(environments)
    for name, variant in by_epoch[2]:
        assert variant == "C" or (variant == "S" and environments[name] == "outdoor")
    assert by_epoch[3] == {
        (name, draw_variant(kind, VARIANTS, 42, 3, name)) for name, kind in environments.items()
    }
    (scheduler,) = tmp_path.glob("save/CKPT*/lr_scheduler.ckpt")
    assert len(torch.load(scheduler)["losses"]) == 1  # of the third epoch alone


def test_early_stopping_also_across_a_resume(train, tmp_path):
    # A rate of nothing, and a schedule that does not begin: validation stays the same.
    still = ["--lr=0", "--early_stopping_patience=2", "--early_stopping_warmup=1"]
    still += [
        "--curriculum=[{epoch: 1, variants: [C]}, {epoch: 9, variants: [R], lr_scheduler: start}]",
        "--batch_size=9",
    ]
    whole = train(tmp_path / "whole", *still, "--number_of_epochs=9")
    assert whole.epoch.tolist() == [1, 2, 3, 4]  # 2 is the best after the warm-up
    train(tmp_path / "parts", *still, "--number_of_epochs=3")
    parts = train(tmp_path / "parts", *still, "--number_of_epochs=9")
    assert parts.epoch.tolist() == [1, 2, 3, 4]
    assert len(list((tmp_path / "whole").glob("save/CKPT*"))) <= 2


MY_LOSS = """
from custom_modules.objectives import pit_si_sdr_loss

def loss(estimates, targets, lengths=None, factor=1):
    value, permutation = pit_si_sdr_loss(estimates, targets, lengths)
    return factor * value + 1000, permutation
"""


def test_another_loss_trains_and_every_score_stays_si_sdr(train, script, tmp_path):
    base = ROOT / "hparams" / "convtasnet.yaml"
    (tmp_path / "loss_of_mine.py").write_text(MY_LOSS)
    (tmp_path / "mine.yaml").write_text(
        f"base: {base}\nloss: !name:loss_of_mine.loss\n    factor: 0.5\n"
    )
    options = [*["--N=8", "--B=8", "--H=8", "--X=2", "--R=1", "--precision=fp32"], "--seed=3"]
    options += ["--curriculum=null", "--batch_size=9", "--weight_decay=0"]
    # Adam does not see a factor, nor clipping one that is the same in every step.
    options += ["--max_grad_norm=1e-6", "--number_of_epochs=3"]
    ours = train(tmp_path / "ours", *options)
    other = train(tmp_path / "other", *options, hparams=tmp_path / "mine")
    for name in ("train_si_sdr", "valid_si_sdr", "valid_si_sdri"):
        assert other[name].tolist() == pytest.approx(ours[name].tolist(), abs=0.05)
    metas = [yaml.safe_load(p.read_text()) for p in tmp_path.glob("other/**/CKPT.yaml")]
    best = max(metas, key=lambda meta: meta["si_sdr"])
    assert best["si_sdr"] == pytest.approx(other.valid_si_sdr.max(), abs=1e-6)
    assert best["epoch"] == other.epoch[other.valid_si_sdr.idxmax()]
    # The results need no other file than those beside them.
    left = [str(tmp_path / "other"), "--device=cpu", "--noprogressbar"]
    script.main([*left, "--number_of_epochs=4"])
    assert len(pd.read_csv(tmp_path / "other" / "history.csv")) == 4


def test_results_of_before_there_was_a_choice_of_losses_go_on(train, script, tmp_path):
    train(tmp_path, "--number_of_epochs=1", "--curriculum=null", "--batch_size=9")
    path = tmp_path / "hyperparams.yaml"
    text = path.read_text()
    kept = [line for line in text.splitlines() if not line.startswith("loss:")]
    old = "custom_modules.training.stopping.StoppingEpochCounter"
    text = "\n".join(kept).replace("custom_modules.steps.StoppingEpochCounter", old)
    path.write_text(text + "\n")
    script.main([str(tmp_path), "--device=cpu", "--number_of_epochs=2"])
    assert len(pd.read_csv(tmp_path / "history.csv")) == 2


def test_a_run_goes_on_from_its_own_file_with_another_rate(train, script, tmp_path):
    options = ["--number_of_epochs=1", "--curriculum=null", "--batch_size=9"]
    train(tmp_path, *options)
    left = [str(tmp_path / "hyperparams.yaml"), "--device=cpu", "--noprogressbar"]
    script.main([*left, "--lr=5e-4", "--number_of_epochs=2", "--batch_size=4"])
    history = pd.read_csv(tmp_path / "history.csv")
    assert history.lr.tolist() == [1e-3, 5e-4]


def test_accumulated_batches_take_the_steps_of_a_big_one(train, tmp_path):
    # Nine mixtures: five batches of 2 or less; three steps, the last of one mixture.
    options = ["--number_of_epochs=7", "--curriculum=null", "--test_max_samples=1"]
    options += ["--warmup_steps=8"]
    whole = train(tmp_path / "big", *options, "--batch_size=4", "--save_all_checkpoints=True")
    two = ["--batch_size=2", "--grad_accumulation_factor=2"]
    halves = train(tmp_path / "two", *options, *two)
    assert whole.lr[:3].tolist() == pytest.approx([3e-3 / 8, 6e-3 / 8, 1e-3])
    assert halves.lr.tolist() == whole.lr.tolist()
    big, parts = last_weights(tmp_path / "big"), last_weights(tmp_path / "two")
    for name, values in big.items():
        torch.testing.assert_close(parts[name], values, atol=1e-6, rtol=0)
    assert len(list((tmp_path / "big").glob("save/CKPT*"))) == 7


@pytest.mark.parametrize("model", ["convtasnet", "spmamba"])
def test_tuned_models_train_and_leave_all_that_they_need(train, tmp_path, model):
    history = train(tmp_path, "--debug", hparams=f"tuned/{model}")
    tuned = read_yaml(ROOT / f"hparams/tuned/{model}.yaml")
    assert history.lr[0] == tuned["lr"]
    path = tmp_path / "debug" / "hyperparams.yaml"
    first = f"# From hparams/tuned/{model}.yaml, based on hparams/{model}.yaml, "
    assert path.read_text().startswith(first)
    left = read_yaml(path)
    assert "base" not in left
    assert {k: left[k] for k in tuned if k != "base"} == {
        k: v for k, v in tuned.items() if k != "base"
    }


def test_every_variant_is_validated_and_has_its_line(train, tmp_path):
    history = train(tmp_path, "--number_of_epochs=1", "--per_variant_validation=True").iloc[0]
    each = [history[f"valid_si_sdri_{variant}"] for variant in VARIANTS]
    assert history.valid_si_sdri == pytest.approx(sum(each) / len(VARIANTS), abs=1e-6)
    lines = (tmp_path / "train_log.txt").read_text().splitlines()[1:]
    assert [line.split(" - ")[0] for line in lines] == [
        f"epoch: 1, variant: {variant}" for variant in VARIANTS
    ]
    for line, value in zip(lines, each, strict=True):
        assert line.endswith(f"si_sdri: {value:.2f}")


def test_out_of_memory_says_what_to_lower_and_loses_nothing(train, tmp_path, monkeypatch):
    options = ["--number_of_epochs=2", "--ckpt_interval_steps=1"]
    train(tmp_path / "whole", *options, "--batch_size=4")
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
    fail_at(monkeypatch, epoch=2, step=3, error=error)
    with pytest.raises(InputError) as caught:
        train(tmp_path / "killed", *options, "--batch_size=4")
    assert "\n" not in str(caught.value)
    assert "--batch_size=2 --grad_accumulation_factor=2" in str(caught.value)
    # As told: from the middle of the epoch on in half the memory, in the same steps.
    two = ["--batch_size=2", "--grad_accumulation_factor=2"]
    train(tmp_path / "killed", *options, *two)
    whole = last_weights(tmp_path / "whole")
    for name, values in last_weights(tmp_path / "killed").items():
        torch.testing.assert_close(values, whole[name], atol=1e-6, rtol=0)


COSINE = """
lr_scheduler: !new:custom_modules.schedules.CosineDecay
    lr: !ref <lr>
"""


@pytest.fixture
def cosine(tmp_path):
    """An hparams file, and options: 3 epochs of 3 steps, the first 5 of a warm-up."""
    (tmp_path / "cosine.yaml").write_text(f"base: {ROOT}/hparams/convtasnet.yaml\n{COSINE}")
    options = [*TINY["convtasnet"].split(), "--number_of_epochs=3", "--curriculum=null"]
    return tmp_path / "cosine", [*options, "--batch_size=4", "--warmup_steps=5"]


@pytest.mark.slow
@pytest.mark.parametrize("place", [(1, 3), (2, 2), (3, 2)])
def test_rates_of_single_steps_survive_a_kill(train, tmp_path, monkeypatch, cosine, place):
    hparams, options = cosine
    whole = train(tmp_path / "whole", *options, hparams=hparams)
    assert whole.lr.tolist() == pytest.approx([6e-4, 0.855e-3, 1e-5], rel=1e-3)
    fail_at(monkeypatch, *place, error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", *options, "--ckpt_interval_steps=1", hparams=hparams)
    killed = train(tmp_path / "killed", *options, hparams=hparams)
    assert killed.lr.tolist() == whole.lr.tolist()
    expected, found = last_weights(tmp_path / "whole"), last_weights(tmp_path / "killed")
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_warm_up_that_is_cut_short_leaves_the_whole_rate(train, tmp_path):
    options = ["--curriculum=null", "--batch_size=4"]
    train(tmp_path, *options, "--number_of_epochs=1", "--warmup_steps=30")
    history = train(tmp_path, *options, "--number_of_epochs=2", "--warmup_steps=3")
    assert history.lr.tolist() == pytest.approx([1e-4, 1e-3])


def test_the_mean_of_the_best_is_kept_tested_and_exported(train, script, tmp_path):
    options = ["--curriculum=null", "--batch_size=4", "--test_max_samples=1"]
    options += ["--number_of_epochs=5", "--average_checkpoints=3", "--lr=5e-2"]
    history = train(tmp_path, *options).set_index("epoch")
    best = history.valid_si_sdr.nlargest(3).index
    metas = [yaml.safe_load(p.read_text()) for p in tmp_path.rglob("CKPT.yaml")]
    assert {meta["epoch"] for meta in metas} == {*best, 5}
    states = [
        torch.load(p.with_name("separator.ckpt"), weights_only=True)
        for p in tmp_path.rglob("CKPT.yaml")
        if yaml.safe_load(p.read_text())["epoch"] in best
    ]
    _, separator, facts = load_best([str(tmp_path / "hyperparams.yaml")])
    listed = ", ".join(map(str, sorted(best)))
    assert facts.checkpoint.startswith(f"mean of epochs {listed}, SI-SDR ")
    for name, value in separator.state_dict().items():
        mean = sum(state[name] for state in states) / 3
        torch.testing.assert_close(value, mean, rtol=1e-6, atol=1e-9)
    script.main([str(tmp_path), "--device=cpu", "--noprogressbar", "--test_only"])
    record = json.loads((tmp_path / "test_run.json").read_text())
    assert record["checkpoint"] == f"mean of epochs {listed}"
    _, separator, facts = load_best([str(tmp_path), "--average_checkpoints=1"])
    assert facts.checkpoint.startswith(f"epoch {best[0]}, ")


def test_a_run_that_goes_on_with_longer_steps_begins_a_step_anew(train, tmp_path, monkeypatch):
    options = ["--number_of_epochs=1", "--curriculum=null", "--ckpt_interval_steps=1"]
    fail_at(monkeypatch, epoch=1, step=4, error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, *options, "--batch_size=2")
    seen = drawn_by(monkeypatch)
    train(tmp_path, *options, "--batch_size=2", "--grad_accumulation_factor=2")
    # Three of five batches were done; the third is the first of the second step.
    assert len(seen) == 2 + 2 + 1
    assert len(set(seen)) == len(seen)


@pytest.fixture(scope="module")
def two_processes(corpus, tmp_path_factory):
    """Two processes, one of which is killed in the second epoch; and the rerun."""
    folder = tmp_path_factory.mktemp("two")
    options = ["--number_of_epochs=3", "--batch_size=2", "--distributed_backend=gloo"]
    options += ["--warmup_steps=6", *REMIXED]
    # A tracker is for the first process alone, and must not keep it waiting.
    options += ["--ckpt_interval_steps=1", "--tracker=tensorboard"]
    command = arguments(corpus, folder, *options)
    watched = [WATCHED, f"record:{folder}"]
    dead = run(*TWO_PROCESSES, *watched, "rank1:5", *command)
    return folder, dead, run_two([*watched, *command], os.environ | {"PYTHONPATH": str(ROOT)})


@pytest.mark.slow
def test_a_lost_process_ends_the_run_and_a_rerun_goes_on(two_processes):
    folder, dead, again = two_processes
    assert dead.returncode == 1
    assert "SIGKILL" in dead.stderr
    assert again.returncode == 0, again.stderr
    assert (folder / "train_log.txt").read_text().count("epoch: ") == 3
    results = pd.read_csv(folder / "test_results.csv")
    assert len(results) == 2 * 2 * 5  # two indoor mixtures, two sources


@pytest.mark.slow
def test_two_processes_train_as_one_with_twice_the_batch(
    train, two_processes, tmp_path, monkeypatch
):
    folder, _, _ = two_processes
    seen = drawn_by(monkeypatch)
    # Nine mixtures in the third epoch: one process has none in the last step.
    options = ["--number_of_epochs=3", "--batch_size=4", "--warmup_steps=6", *REMIXED]
    one = train(tmp_path, *options)
    two = pd.read_csv(folder / "history.csv")
    assert two.lr.tolist() == one.lr.tolist()
    parts = [pd.read_csv(folder / f"{rank}.csv", header=None) for rank in (0, 1)]
    assert sorted(map(list, seen)) == sorted(pd.concat(parts).values.tolist())
    for name in one.filter(regex="_si_sdri?$"):
        assert two[name].tolist() == pytest.approx(one[name].tolist(), abs=1e-3)
