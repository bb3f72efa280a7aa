"""Weights of another training, as far as they fit, and parameters that stay as they are."""

import copy
import shutil
from pathlib import Path

import pytest
import torch
from speechbrain.dataio.batch import PaddedBatch

from custom_modules import finetuning
from custom_modules.checkpoints import AtomicCheckpointer, mean_of_checkpoints
from custom_modules.errors import InputError
from custom_modules.finetuning import freeze, frozen_statistics, load_what_fits, read_source
from custom_modules.hub.card import CardFacts
from custom_modules.hub.folder import write_folder
from custom_modules.hub.recipe import ModelRecipe
from custom_modules.limits import check_values
from custom_modules.models.layers import BatchNorm
from tests.test_brain import Bend, brain_with

ROOT = Path(__file__).parents[1]
SIZES = {"N": 16, "B": 8, "H": 16, "X": 2, "R": 1, "data_folder": "none"}
HERE = {"task": "SB", "sample_rate": 8000}


def separator(**changes):
    torch.manual_seed(changes.pop("seed", 1))
    hparams = str(ROOT / "hparams" / "convtasnet.yaml")
    return ModelRecipe(hparams, SIZES | changes).make_separator().eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A ConvTasNet, whose norm_eps of 1e-4 its folder has folded into the weights."""
    folder = tmp_path_factory.mktemp("exported") / "convtasnet"
    recipe = ModelRecipe(str(ROOT / "hparams" / "convtasnet.yaml"), SIZES)
    write_folder(folder, recipe, separator(seed=7), CardFacts({}))
    return folder


@pytest.mark.parametrize("norm_eps", [1e-4, 1e-8, 3e-6])
@torch.no_grad()
def test_an_exported_model_computes_the_same_in_training_whatever_its_epsilon(exported, norm_eps):
    mixture = 0.05 * torch.randn(2, 700)
    model = separator(norm_eps=norm_eps)
    notes = load_what_fits(model, exported, HERE)
    torch.testing.assert_close(model(mixture), separator(seed=7)(mixture), atol=1e-6, rtol=1e-4)
    count = len(model.state_dict())
    (note,) = notes
    assert note.startswith(f"--pretrained={exported}: exported; {count} of {count} weights")


def test_of_another_task_what_fits_is_taken_and_the_rest_is_listed(exported):
    before, source = separator(task="ES", R=2), separator(seed=7)
    model = copy.deepcopy(before)
    first, purpose, *rest = load_what_fits(model, exported, HERE | {"task": "ES"})
    state, fresh, trained = (m.state_dict() for m in (model, before, source))
    fits = {n for n, value in trained.items() if n in state and value.shape == state[n].shape}
    for name in state:
        torch.testing.assert_close(state[name], (trained if name in fits else fresh)[name])
    assert f"{len(fits)} of {len(state)} weights" in first
    assert "'task': 'SB'" in purpose
    assert "'task': 'ES'" in purpose
    listed = {line.split()[3].rstrip(",") for line in rest}
    assert listed == (state.keys() | trained.keys()) - fits
    (masks,) = [line for line in rest if "[32, 8, 1] there, [16, 8, 1] here" in line]
    assert masks.startswith("--pretrained: not taken: masknet.")
    assert any("nothing there" in line for line in rest)


def test_what_cannot_be_started_from_is_refused_in_one_line(exported, tmp_path):
    def refused(folder, message, model=None):
        model = model or separator()
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(InputError, match=message) as caught:
            load_what_fits(model, folder, HERE)
        assert "\n" not in str(caught.value)
        assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())

    refused(exported, "none of its .* fits this model", torch.nn.Linear(3, 3))
    refused(tmp_path / "nowhere", "nowhere: no such folder; name a results folder")
    refused(tmp_path, "holds no hyperparams.yaml")
    (tmp_path / "hyperparams.yaml").write_text("seed: 1\n")
    refused(tmp_path, "is not of a model")
    (tmp_path / "hyperparams.yaml").write_text("checkpointer: 1\n")
    refused(tmp_path, "has no checkpoint; train first")
    folder = shutil.copytree(exported, tmp_path / "copy")
    state = torch.load(folder / "encoder.ckpt")
    torch.save({name: value * torch.nan for name, value in state.items()}, folder / "encoder.ckpt")
    refused(folder, "parameter encoder.conv1d.weight is not finite")
    torch.save([1, 2], folder / "encoder.ckpt")
    refused(folder, "encoder.ckpt: holds no weights by name")
    (folder / "encoder.ckpt").unlink()
    refused(folder, "encoder.ckpt: cannot be read")


def test_a_results_folder_gives_the_mean_of_its_best(tmp_path):
    (tmp_path / "hyperparams.yaml").write_text("checkpointer: 1\naverage_checkpoints: 2\n")
    models = [separator(seed=seed) for seed in range(3)]
    for epoch, (model, si_sdr) in enumerate(zip(models, (3.0, 1.0, 2.0), strict=True)):
        checkpointer = AtomicCheckpointer(tmp_path / "save", {"separator": model})
        checkpointer.save_checkpoint(meta={"si_sdr": si_sdr, "epoch": epoch})
    source = read_source(tmp_path)
    assert source.origin == "mean of epochs 0, 2"
    first, _, third = (model.state_dict() for model in models)
    for name, value in source.weights.items():
        torch.testing.assert_close(value, (first[name] + third[name]) / 2)


def test_the_mean_of_what_is_equal_is_it(tmp_path):
    """A third of three times a float need not be it; frozen parameters stay, to the bit."""
    module = torch.nn.BatchNorm1d(1000)
    torch.nn.init.normal_(module.weight)
    module.num_batches_tracked += 7
    checkpointer = AtomicCheckpointer(tmp_path, {"separator": module})
    for epoch in range(7):
        checkpointer.save_checkpoint(meta={"si_sdr": epoch, "epoch": epoch})
    best = checkpointer.find_best(7)
    mean = mean_of_checkpoints(best, "separator")
    assert len(best) == 7
    for name, value in module.state_dict().items():
        assert torch.equal(mean[name], value)
        assert mean[name].dtype == value.dtype


def test_parameters_are_frozen_by_regular_expressions():
    model = separator()
    encoder, rest = [], []
    for name, parameter in model.named_parameters():
        (encoder if name.startswith("encoder") else rest).append(parameter)
    assert freeze(model, "encoder.*") == len(encoder)
    assert not any(p.requires_grad for p in encoder)
    assert all(p.requires_grad for p in rest)
    freeze(model, ["decoder.*", r".*\.norm\..*"])
    names = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert names == {
        name
        for name, _ in model.named_parameters()
        if name.startswith(("encoder", "decoder")) or ".norm." in name
    }


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ("encoder", "--freeze=encoder: matches no parameter .*encoder, masknet, decoder.*encoder"),
        (["encoder.*", "lstm.*"], r"--freeze=lstm.\*: matches no"),
        (".*", "leaves nothing to train"),
        (["encoder.*", "masknet.*", "decoder.*"], "leaves nothing to train"),
    ],
)
def test_what_freezes_nothing_or_everything_is_refused(patterns, message):
    with pytest.raises(InputError, match=message) as caught:
        freeze(separator(), patterns)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["enc(", ["a", "*"], 3, {"a": 1}, [None]])
def test_what_is_no_regular_expression_is_refused(value):
    with pytest.raises(InputError, match=r"--freeze=.*takes a regular expression"):
        check_values({"freeze": value})
    check_values({"freeze": None})
    check_values({"freeze": ["encoder.*"]})


class Normed(Bend):
    """With statistics in a part of its own, and beside it."""

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Sequential(torch.nn.BatchNorm1d(1), BatchNorm(1), torch.nn.Dropout())
        self.inner.append(torch.nn.Sequential(torch.nn.BatchNorm1d(1, affine=False)))
        self.outer = torch.nn.BatchNorm1d(1)

    def forward(self, mixture):
        return super().forward(self.outer(self.inner(mixture[:, None]))[:, 0])


@pytest.mark.parametrize("compile", [False, True])
def test_frozen_modules_stay_to_the_bit_and_the_others_train(compile, monkeypatch):
    if compile:  # as --compile does, without a compiler
        real = torch.compile
        monkeypatch.setattr(torch, "compile", lambda m, **_: real(m, backend="eager"))
    brain = brain_with(freeze="inner.*", separator=Normed(), compile=compile)
    model = brain.hparams.separator
    brain.opt_class = lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.5)
    brain.init_optimizers()
    freeze(model, "inner.*")
    brain.frozen = frozen_statistics(brain.modules)
    before = copy.deepcopy(model.state_dict())
    for epoch in range(2):
        brain.modules.train()
        for values in (1, 2, 3):
            brain.step += 1
            brain.fit_batch(batch_of_two(10 * epoch + values))
    after = model.state_dict()
    for name, value in after.items():
        stays = name.startswith("inner")
        assert torch.equal(value, before[name]) == stays, name
    assert model.inner[2].training  # dropout goes on
    assert all(p.grad is None for p in model.inner.parameters())


def batch_of_two(seed):
    generator = torch.Generator().manual_seed(seed)
    items = []
    for name in "ab":
        targets = 3 + torch.randn(300, 2, generator=generator)
        item = {"id": name, "variant": "C", "mixture": targets.sum(1), "targets": targets}
        items.append(item)
    return PaddedBatch(items)


def test_a_run_with_checkpoints_needs_no_weights_but_its_own(tmp_path):
    model = separator()
    checkpointer = AtomicCheckpointer(tmp_path / "save", {"separator": model})
    hparams = HERE | {"modules": {"separator": model}, "checkpointer": checkpointer}
    assert finetuning.begin(hparams) == []
    hparams |= {"pretrained": str(tmp_path / "gone"), "freeze": "decoder.*"}
    with pytest.raises(InputError, match="no such folder"):
        finetuning.begin(hparams)
    checkpointer.save_checkpoint(meta={"si_sdr": 1.0, "epoch": 1})
    first, second = finetuning.begin(hparams)
    assert first == (
        f"--pretrained={tmp_path}/gone: not read; the run goes on from its own, {tmp_path}/save"
    )
    assert second == "--freeze=decoder.*: 1 parameters stay as they are"
