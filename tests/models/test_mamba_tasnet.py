"""Mamba-TasNet against recordings, plain loops, and the contract of separators."""

import random

import pytest
import torch
import torch.nn.functional as F

from custom_modules.errors import InputError
from custom_modules.models import mamba_tasnet
from custom_modules.models.mamba_tasnet import MambaTasNet, from_reference
from tests.draws import DRAWS
from tests.models import plain_mamba as plain

CONFIG = {
    **{"N_encoder_out": 12, "out_channels": 8, "kernel_size": 16, "n_mamba": 2, "ssm_dim": 4},
    **{"mamba_expand": 2, "mamba_conv": 4, "bidirectional": True, "rms_norm": True, "num_spks": 2},
}
#: Our names, and the reference's.
RENAMED = {
    "masknet.layer_norm.weight": "masknet.layer_norm.gamma",
    "masknet.layer_norm.bias": "masknet.layer_norm.beta",
    "masknet.bottleneck.weight": "masknet.bottleneck_conv1x1.conv.weight",
    "masknet.mask_linear.weight": "masknet.mask_conv1x1.conv.weight",
}


def small(num_sources=2, **options):
    torch.manual_seed(0)
    sizes = {"N": 12, "B": 8, "n_layers": 2, "d_state": 4}
    return plain.perturb(MambaTasNet(num_sources, **sizes | options))


def plain_masks(features, state):
    p = plain.below(state, "layer_norm.")
    centred = features - features.mean(2, keepdim=True)
    x = centred / (centred.square().mean(2, keepdim=True) + 1e-8).sqrt()
    x = (x * p["weight"] + p["bias"]) @ state["bottleneck.weight"].T
    x = plain.plain_stack(x, plain.below(state, "mamba_net."))
    masks = F.relu(x @ state["mask_linear.weight"].T)
    return masks.view(*masks.shape[:2], -1, features.shape[2])


@pytest.mark.parametrize("name", ["mamba_tasnet_small", "mamba_tasnet_predecessor_small"])
def test_recordings_are_reproduced(name):
    plain.check_golden(name, mamba_tasnet)


@pytest.mark.parametrize("draw", range(3))
def test_a_configuration_drawn_at_random_is_the_plain_loop(draw):
    rng = random.Random(3 * DRAWS + draw)
    torch.manual_seed(rng.randrange(10**6))
    config = CONFIG | {
        "N_encoder_out": rng.randint(2, 20),
        "out_channels": rng.choice([1, 7, 17, 20]),
        "kernel_size": rng.choice([2, 5, 12]),
        "n_mamba": rng.randint(1, 3),
        "ssm_dim": rng.randint(1, 6),
        "mamba_expand": rng.randint(1, 3),
        "mamba_conv": rng.randint(1, 5),
        "bidirectional": draw != 1,
        "rms_norm": draw != 2,
        "num_spks": rng.randint(1, 3),
    }
    sizes = (config[key] for key in ("num_spks", "N_encoder_out", "kernel_size", "out_channels"))
    ours = MambaTasNet(
        *sizes,
        n_layers=config["n_mamba"],
        d_state=config["ssm_dim"],
        d_conv=config["mamba_conv"],
        expand=config["mamba_expand"],
        bidirectional=config["bidirectional"],
        rms_norm=config["rms_norm"],
    )
    state = plain.perturb(ours).state_dict()
    theirs = {RENAMED.get(key, key): value for key, value in state.items()}
    for key, value in theirs.items():
        if "conv1x1" in key:
            theirs[key] = value[:, :, None]
        elif key.endswith(("gamma", "beta")):
            theirs[key] = value[None, None]
    model = from_reference(config, theirs).double()
    mixture = torch.randn(2, rng.randint(30, 90), dtype=torch.float64)
    exact = {key: value.double() for key, value in state.items()}
    with torch.no_grad():
        expected = plain.plain_separator(mixture, exact, plain_masks)
        assert plain.relative_error(model(mixture), expected) < 1e-6


@pytest.mark.parametrize(
    ("sizes", "parameters"),
    [
        ({"N": 128, "B": 128}, 2_210_176),
        ({}, 7_926_528),
        ({"n_layers": 32}, 15_647_488),
        ({"N": 512, "B": 512, "n_layers": 32}, 58_951_168),
    ],
)
def test_sizes_are_the_published_ones(sizes, parameters):
    with torch.device("meta"):
        model = MambaTasNet(2, **sizes)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("bidirectional", [True, False])
def test_any_length_comes_out_as_long(bidirectional):
    plain.check_lengths(small(bidirectional=bidirectional))


@torch.no_grad()
def test_one_direction_alone_is_causal_but_for_a_frame():
    mixture = torch.randn(1, 400)
    changed = mixture.clone()
    changed[:, 200:] += 1
    for bidirectional in (True, False):
        model = small(bidirectional=bidirectional)
        same = torch.equal(model(mixture)[:, :184], model(changed)[:, :184])
        assert same != bidirectional


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("beside_speech", [False, True])
def test_silence_is_silent_and_finite(autocast, beside_speech):
    plain.check_silence(small(), autocast, beside_speech)


def test_half_precision_agrees():
    plain.check_half_precision(small())


def test_initialisation_is_mambas_in_both_directions():
    torch.manual_seed(0)
    plain.check_initialisation(MambaTasNet(2, N=32, B=64, n_layers=4), layers=4)


def test_checkpointed_blocks_compute_the_same():
    mixture, results = torch.randn(1, 500), []
    for checkpoint_blocks in (False, True):
        model = small(checkpoint_blocks=checkpoint_blocks)
        model(mixture).square().sum().backward()
        results.append([p.grad for p in model.parameters()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    "size", ["num_sources", "N", "B", "n_layers", "d_state", "d_conv", "expand", "kernel_size"]
)
def test_bad_sizes_are_named(size):
    for value in (0, 1.5, "two"):
        with pytest.raises(InputError, match=f"--{size}={value}: must be"):
            MambaTasNet(**{"num_sources": 2} | {size: value})


@pytest.mark.parametrize(
    "change",
    [
        *({"n_mamba": 0}, {"bidirectional": "yes"}, {"kernel_size": 1}, {"num_spks": 2.5}),
        *({"causal": True}, {"mamba_conv": None}),
    ],
)
def test_configurations_that_make_no_model_are_refused_by_their_key(change):
    with pytest.raises(InputError, match=next(iter(change))):
        from_reference(CONFIG | change, {})
    with pytest.raises(InputError, match="ssm_dim: is missing"):
        from_reference({k: v for k, v in CONFIG.items() if k != "ssm_dim"}, {})


def test_the_predecessors_stride_and_residual():
    golden = torch.load(plain.DATA / "mamba_tasnet_predecessor_small.pt", weights_only=True)
    config, state = golden["config"], golden["state_dict"]
    from_reference(config | {"residual_in_fp32": True}, state)
    from_reference({k: v for k, v in config.items() if k != "residual_in_fp32"}, state)
    with pytest.raises(InputError, match="stride=4: can only be 8"):
        from_reference(config | {"stride": 4}, state)
    with pytest.raises(RuntimeError, match="norm_f"):
        from_reference(config, {k: v for k, v in state.items() if "norm_f" not in k})
