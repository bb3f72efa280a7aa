"""SepReformer against recorded outputs and plain formulas, and its loss over stages."""

import copy
import random
from pathlib import Path

import pytest
import torch

from custom_modules.errors import InputError
from custom_modules.hparams import load_hparams
from custom_modules.models.reformer import Attention, Positions
from custom_modules.models.sepreformer import SepReformer, from_reference
from custom_modules.objectives import MultiStageLoss, pit_si_sdr_loss
from tests.draws import DRAWS
from tests.models.contract import relative_error
from tests.models.plain_sepreformer import plain

ROOT = Path(__file__).parents[2]
GOLDEN = ("sepreformer_base_small", "sepreformer_wham_small")


def load_golden(name, state_dict=None):
    golden = torch.load(ROOT / f"tests/data/{name}.pt", weights_only=True)
    return from_reference(golden["config"], state_dict or golden["state_dict"]), golden


def small(num_sources=2, **sizes):
    small_sizes = {"N": 8, "kernel_size": 8, "stride": 4, "emb_dim": 4, "num_stages": 2}
    small_sizes |= {"n_head": 2, "conv_size": 5, "max_distance": 4, "dropout": 0.0}
    model = SepReformer(num_sources, **small_sizes | sizes)
    for name, parameter in model.named_parameters():
        if name.endswith("scale.gain"):  # branches are on
            torch.nn.init.normal_(parameter, 0.8, 0.2)
    return model


@pytest.mark.parametrize("name", GOLDEN)
def test_recorded_output_and_gradient_are_reproduced(name):
    model, golden = load_golden(name)
    mixture = golden["input"].requires_grad_()
    output = model(mixture)
    assert output.shape == (2, 1602, 2)
    assert relative_error(output[:, :1600].mT, golden["output"]) < 2e-6
    assert not output[:, 1600:].any()  # behind the last whole frame
    output.square().sum().backward()
    assert relative_error(mixture.grad, golden["grad_input"]) < 2e-5


@pytest.mark.parametrize("name", GOLDEN)
@torch.no_grad()
def test_recorded_odd_length_is_reproduced(name):
    model, golden = load_golden(name)
    output = model(golden["input_odd"])[:, :1200].mT
    assert relative_error(output, golden["output_odd"]) < 2e-6


@pytest.mark.parametrize("name", GOLDEN)
def test_recorded_stages_and_their_gradients_are_reproduced(name):
    model, golden = load_golden(name)
    model.training = True  # of itself alone: its parts are as in evaluation
    mixture = golden["input"].requires_grad_()
    output, *stages = model(mixture)[:, :1600].mT.split(2, dim=1)
    assert relative_error(output, golden["output"]) < 2e-6
    for stage, expected in zip(stages, golden["aux"], strict=True):
        assert relative_error(stage, expected) < 2e-6
    sum(waves.square().sum() for waves in (output, *stages)).backward()
    assert relative_error(mixture.grad, golden["grad_input_with_aux"]) < 2e-5
    # What was recorded next was the gradient of silence, and was added to the parameters'.
    model.eval()(torch.zeros(1, 1602)).square().sum().backward()
    # The norms of gradients, under the names of ours, told apart by weights that say so.
    counters = range(len(golden["state_dict"]))
    marked = {
        key: torch.full_like(value, i)
        for i, (key, value) in zip(counters, golden["state_dict"].items(), strict=True)
    }
    names = list(golden["state_dict"])
    of_name, _ = load_golden(name, marked)
    recorded = [key for key in names if ".running_" not in key]
    norms = dict(zip(recorded, golden["grad_norms"], strict=True))
    for mark, parameter in zip(of_name.parameters(), model.parameters(), strict=True):
        key = names[int(mark.detach().flatten()[0])]
        if not key.endswith("linear_k.bias"):  # the softmax does not see it
            torch.testing.assert_close(parameter.grad.norm(), norms[key], rtol=2e-5, atol=1e-5)


def test_recorded_loss_is_reproduced():
    _, golden = load_golden(GOLDEN[0])
    waveforms = torch.cat([golden["output"], *golden["aux"]], dim=1).mT
    loss, permutation = MultiStageLoss()(waveforms, golden["loss_targets"].mT)
    assert loss.mean().item() == pytest.approx(golden["loss_engine_alpha04"], rel=1e-4)
    assert torch.equal(
        permutation, pit_si_sdr_loss(golden["output"].mT, golden["loss_targets"].mT)[1]
    )


def test_the_loss_of_one_stage_is_si_sdr_up_to_30_db():
    torch.manual_seed(0)
    targets = torch.randn(3, 2000, 2)
    estimates = targets.flip(2) + torch.tensor([1.0, 0.1, 1e-4])[:, None, None] * torch.randn(
        3, 2000, 2
    )
    loss, permutation = MultiStageLoss()(estimates, targets)
    expected, same = pit_si_sdr_loss(estimates, targets)
    torch.testing.assert_close(loss, expected.clamp_min(-30))
    assert torch.equal(permutation, same)


def test_each_stage_has_a_permutation_of_its_own_and_no_sign():
    torch.manual_seed(0)
    targets = torch.randn(2, 4000, 2)
    main = targets + torch.randn_like(targets)
    losses = [
        MultiStageLoss(alpha=1)(torch.cat([main, stage], 2), targets)[0]
        for stage in (targets, targets.flip(2), -targets.flip(2))
    ]
    torch.testing.assert_close(losses[0], torch.full((2,), -30.0))
    torch.testing.assert_close(losses[1], losses[0])
    assert (losses[2] > -30).all()  # scaled by at least 0.01, as in the reference


def test_what_lies_in_the_padding_does_not_count():
    torch.manual_seed(0)
    waveforms, targets = torch.randn(2, 1600, 6), torch.randn(2, 1600, 2)
    lengths = torch.tensor([1600, 700])
    other = copy.deepcopy(targets), copy.deepcopy(waveforms)
    other[0][1, 700:], other[1][1, 700:] = 7, torch.nan
    waveforms.requires_grad_()
    loss, _ = MultiStageLoss()(waveforms, targets, lengths)
    torch.testing.assert_close(MultiStageLoss()(other[1], other[0], lengths)[0], loss)
    loss.sum().backward()
    assert not waveforms.grad[1, 700:].any()


@pytest.mark.parametrize("time", [1, 100, 700])
@pytest.mark.parametrize("silent", ["estimates", "targets", "both"])
def test_the_loss_of_silence_is_finite(silent, time):
    waveforms, targets = torch.randn(2, time, 6), torch.randn(2, time, 2)
    waveforms *= silent == "targets"
    targets *= silent == "estimates"
    waveforms.requires_grad_()
    loss, _ = MultiStageLoss()(waveforms, targets)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(waveforms.grad).all()


def test_stages_count_less_from_an_epoch_on():
    class Counter:
        current = 0

    torch.manual_seed(0)
    waveforms, targets = torch.randn(1, 900, 4), torch.randn(1, 900, 2)
    main, stage = (MultiStageLoss(alpha)(waveforms, targets)[0] for alpha in (0, 1))
    counter = Counter()
    loss = MultiStageLoss(0.4, counter)
    for counter.current, weight in ((1, 0.4), (100, 0.4), (101, 0.32), (105, 0.32), (106, 0.256)):
        expected = (1 - weight) * main + weight * stage
        torch.testing.assert_close(loss(waveforms, targets)[0], expected)


@torch.no_grad()
def test_a_drawn_configuration_follows_plain_formulas():
    draw = random.Random(f"sepreformer {DRAWS}")
    torch.manual_seed(draw.randrange(10**6))
    model = small(
        num_sources=draw.choice([1, 2, 3]),
        stride=draw.choice([2, 3, 8]),
        num_stages=draw.choice([1, 2, 3]),
        emb_dim=draw.choice([4, 8]),
        conv_size=draw.choice([1, 3, 7]),
        max_distance=draw.choice([1, 3, 50]),
        shared_split=draw.choice([True, False]),
    ).eval()
    for value in model.state_dict().values():
        value += 0.1 * torch.rand_like(value)
    mixture = torch.randn(8 + model.stride * draw.choice([15, 16, 21]))
    assert relative_error(model(mixture[None])[0], plain(model, mixture)) < 1e-5


@torch.no_grad()
def test_the_order_of_frames_matters_through_positions():
    attention, positions = Attention(4, 2, 0.0), Positions(2, 3)
    frames = torch.randn(1, 9, 4)
    turned = attention(frames.flip(1)).flip(1)
    torch.testing.assert_close(turned, attention(frames))
    attention.scale.gain.fill_(1)
    turned = attention(frames.flip(1), positions(9)).flip(1)
    assert relative_error(turned, attention(frames, positions(9))) > 0.01
    # Distances beyond the limit are alike.
    assert torch.equal(positions(9)[0], positions(9)[5])


@torch.no_grad()
def test_speakers_are_not_told_apart_by_the_decoder():
    """What is split, in another order, comes out in that order."""
    model = small(num_sources=3).eval()
    mixture = torch.randn(2, 300)
    before = model(mixture)
    order = torch.tensor([2, 0, 1])
    for split in model.splits:
        for parameter in split.contract.parameters():
            parameter.copy_(parameter.unflatten(0, (3, -1))[order].flatten(0, 1))
    torch.testing.assert_close(model(mixture), before[..., order], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("time", [1, 7, 8, 9, 40, 501])
@torch.no_grad()
def test_any_length_comes_out_as_long(time, training):
    for sources in (1, 3):
        model = small(sources).train(training)
        output = model(0.1 * torch.randn(1, time))
        assert output.shape == (1, time, sources * (3 if training else 1))
        assert torch.isfinite(output).all()


@torch.no_grad()
def test_batch_mates_change_nothing():
    model = small().eval()
    mixtures = torch.randn(3, 301)
    torch.testing.assert_close(model(mixtures)[1:2], model(mixtures[1:2]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("time", [1, 300])
def test_silence_has_finite_outputs_and_gradients(dtype, time):
    model = small().train()
    mixture = torch.zeros(2, time, requires_grad=True)
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        output = model(mixture)
    output.float().square().sum().backward()
    assert torch.isfinite(output).all()
    assert all(torch.isfinite(p.grad).all() for p in [*model.parameters(), mixture])
    assert all(torch.isfinite(buffer).all() for buffer in model.buffers())


@torch.no_grad()
def test_half_precision_is_near():
    model, golden = load_golden(GOLDEN[0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(golden["input"])[:, :1600].float().mT
    assert relative_error(output, golden["output"]) < 0.05


@torch.no_grad()
def test_a_batch_that_is_not_finite_leaves_no_trace():
    model = small().train()
    before = copy.deepcopy(model.state_dict())
    model(torch.full((1, 300), torch.inf))
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, before[key])
    model(torch.randn(1, 300))
    assert not torch.equal(model.downsamplings[0].norm.running_var, torch.ones(4))


def test_checkpointing_changes_no_gradient():
    models = [small(dropout=0.3, checkpoint_blocks=c).train() for c in (False, True)]
    models[1].load_state_dict(models[0].state_dict())
    mixture, gradients = torch.randn(2, 300), []
    for model in models:
        torch.manual_seed(0)
        model(mixture).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


PUBLISHED = {
    "T": ({"emb_dim": 64}, 3_711_488),
    "S": ({"emb_dim": 64, "kernel_size": 8, "stride": 2, "num_stages": 5}, 4_527_616),
    "B": ({}, 14_147_840),
    "M": ({"kernel_size": 8, "stride": 2, "num_stages": 5}, 17_307_904),
    "L": ({"emb_dim": 256, "shared_split": False}, 59_428_608),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    sizes, count = PUBLISHED[name]
    with torch.device("meta"):
        model = SepReformer(2, multi_stage=False, **sizes)
        assert sum(p.numel() for p in model.parameters()) == count


def test_the_hparams_file_is_size_b_with_its_stages():
    hparams = load_hparams(str(ROOT / "hparams/sepreformer.yaml"), {"data_folder": "x"})
    assert sum(p.numel() for p in hparams["separator"].parameters()) == 14_691_584
    assert hparams["loss"].epoch_counter is hparams["epoch_counter"]


@pytest.mark.parametrize(
    "sizes, refused",
    [
        ({"n_head": 3}, "--n_head=3: must divide emb_dim=4"),
        ({"stride": 9}, "--stride=9: must be at most kernel_size=8"),
        ({"conv_size": 4}, "--conv_size=4: must be odd"),
        ({"num_stages": 0}, "--num_stages=0: "),
        ({"max_distance": 0}, "--max_distance=0: "),
    ],
)
def test_sizes_that_make_no_model_name_their_key(sizes, refused):
    with pytest.raises(InputError, match=refused):
        small(**sizes)


def change(config, path, value):
    config = copy.deepcopy(config)
    *outer, last = path.split(".")
    inner = config
    for key in outer:
        inner = inner[key]
    inner[last] = value
    return config


@pytest.mark.parametrize(
    "path, value",
    [
        ("num_stages", 0),
        ("module_audio_enc.bias", True),
        ("module_audio_enc.stride", 3),
        ("module_separator.enc_stage.global_blocks.in_channels", 9),
        ("module_separator.dec_stage.local_blocks.dropout_rate", 2),
        ("module_separator.relative_positional_encoding.embed_v", True),
        ("module_output_layer.unknown", 1),
        ("module_separator.enc_stage.global_blocks.num_mha_heads", 5),
    ],
)
def test_configurations_that_make_no_model_are_refused(path, value):
    golden = torch.load(ROOT / f"tests/data/{GOLDEN[0]}.pt", weights_only=True)
    with pytest.raises(InputError, match=path.rpartition(".")[2]):
        from_reference(change(golden["config"], path, value), golden["state_dict"])


def test_a_training_step_lowers_the_loss():
    torch.manual_seed(0)
    model, loss = small().train(), MultiStageLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    targets = torch.sin(torch.arange(800)[:, None] * torch.tensor([0.3, 1.1]))[None]
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        value = loss(model(targets.sum(2)), targets)[0].mean()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < losses[0] - 3
    assert all(p.grad is not None for p in model.parameters())
