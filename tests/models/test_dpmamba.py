"""DPMamba against recordings, plain loops, and the contract of separators."""

import random

import pytest
import torch
import torch.nn.functional as F

from custom_modules.errors import InputError
from custom_modules.models import dpmamba
from custom_modules.models.dpmamba import DPMamba, from_reference
from custom_modules.models.mamba import BiMamba
from tests.draws import DRAWS
from tests.models import plain_mamba as plain

CONFIG = {
    **{"N_encoder_out": 8, "out_channels": 8, "kernel_size": 16, "n_dp": 2, "chunk_size": 10},
    **{"skip_n_block": 0, "skip_around_intra": False, "n_mamba_dp": 2, "ssm_dim": 4},
    **{"mamba_expand": 2, "mamba_conv": 4, "bidirectional": True, "rms_norm": True, "num_spks": 2},
}


def small(num_sources=2, **options):
    torch.manual_seed(0)
    sizes = {"N": 8, "B": 8, "num_layers": 2, "chunk_size": 10, "d_state": 4}
    return plain.perturb(DPMamba(num_sources, **sizes | options))


def global_norm(x, p):
    """Over all but the batch; channels are last."""
    over = tuple(range(1, x.dim()))
    x = x - x.mean(over, keepdim=True)
    x = x / (x.square().mean(over, keepdim=True) + 1e-8).sqrt()
    return x * p["weight"] + p["bias"]


def along(x, axis, state):
    """A stack of Mambas along one axis of ``[batch, chunks, frames, channels]``."""
    x = x.transpose(axis, 2)
    return plain.plain_stack(x.flatten(0, 1), state).view(x.shape).transpose(axis, 2)


def plain_masks(chunk_size, skip):
    def masks_of(features, state):
        batch, time, _ = features.shape
        x = global_norm(features, plain.below(state, "norm."))
        x = x @ state["conv1d.weight"][:, :, 0].T
        # Chunks begin half a chunk before the first frame; two rows of them, side by side.
        half = chunk_size // 2
        rows = (half + time) // chunk_size + 1  # SpeechBrain pads what is whole, too
        rest = rows * chunk_size - time
        padded = F.pad(x, (0, 0, half, rest))
        starts = [row * chunk_size + shift for row in range(rows) for shift in (0, half)]
        x = torch.stack([padded[:, s : s + chunk_size] for s in starts], dim=1)
        layers = 1 + max(int(k.split(".")[1]) for k in state if k.startswith("dual_mdl."))
        for layer in range(layers):
            p = plain.below(state, f"dual_mdl.{layer}.")
            within = along(x, 2, plain.below(p, "intra_mdl."))
            within = global_norm(within, plain.below(p, "intra_norm.")) + skip * x
            across = along(within, 1, plain.below(p, "inter_mdl."))
            x = within + global_norm(across, plain.below(p, "inter_norm."))
        x = torch.where(x > 0, x, state["prelu.weight"] * x)
        x = x @ state["conv2d.weight"][:, :, 0, 0].T + state["conv2d.bias"]
        whole = x.new_zeros(batch, padded.shape[1] + half, x.shape[3])
        for chunk, start in enumerate(starts):
            whole[:, start : start + chunk_size] += x[:, chunk]
        x = whole[:, half : half + time].unflatten(2, (-1, state["output.0.weight"].shape[0]))
        x = torch.tanh(x @ state["output.0.weight"][:, :, 0].T + state["output.0.bias"]) * (
            torch.sigmoid(
                x @ state["output_gate.0.weight"][:, :, 0].T + state["output_gate.0.bias"]
            )
        )
        return F.relu(x @ state["end_conv1x1.weight"][:, :, 0].T)

    return masks_of


@pytest.mark.parametrize("name", ["dpmamba_small", "dpmamba_predecessor_small"])
def test_recordings_are_reproduced(name):
    plain.check_golden(name, dpmamba)


@pytest.mark.parametrize("draw", range(3))
def test_a_configuration_drawn_at_random_is_the_plain_loop(draw):
    rng = random.Random(3 * DRAWS + draw)
    torch.manual_seed(rng.randrange(10**6))
    config = CONFIG | {
        "N_encoder_out": rng.randint(2, 12),
        "out_channels": rng.choice([3, 7, 17]),
        "kernel_size": rng.choice([2, 5, 12]),
        "n_dp": rng.randint(1, 3),
        "chunk_size": rng.randint(2, 9),
        "skip_around_intra": draw != 1,
        "n_mamba_dp": rng.randint(2, 5),
        "ssm_dim": rng.randint(1, 6),
        "mamba_expand": rng.randint(1, 3),
        "mamba_conv": rng.randint(1, 5),
        "bidirectional": draw != 1,
        "rms_norm": draw != 2,
        "num_spks": rng.randint(1, 3),
    }
    sizes = (config[key] for key in ("num_spks", "N_encoder_out", "kernel_size", "out_channels"))
    ours = DPMamba(
        *sizes,
        num_layers=config["n_dp"],
        n_mamba=config["n_mamba_dp"] // 2,
        d_state=config["ssm_dim"],
        d_conv=config["mamba_conv"],
        expand=config["mamba_expand"],
        bidirectional=config["bidirectional"],
        rms_norm=config["rms_norm"],
    )
    state = plain.perturb(ours).state_dict()
    model = from_reference(config, state).double()
    mixture = torch.randn(2, rng.randint(30, 90), dtype=torch.float64)
    exact = {key: value.double() for key, value in state.items()}
    masks_of = plain_masks(config["chunk_size"], config["skip_around_intra"])
    with torch.no_grad():
        expected = plain.plain_separator(mixture, exact, masks_of)
        assert plain.relative_error(model(mixture), expected) < 1e-6


@pytest.mark.parametrize(
    ("sizes", "parameters"),
    [
        ({"N": 128, "B": 128}, 2_265_857),
        ({}, 8_136_193),
        ({"num_layers": 16}, 15_869_441),
        ({"N": 512, "B": 512, "num_layers": 16}, 59_788_289),
    ],
)
def test_sizes_are_the_published_ones(sizes, parameters):
    with torch.device("meta"):
        model = DPMamba(2, **sizes)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("chunk_size", [2, 7, 10, 1000])
def test_any_length_comes_out_as_long(chunk_size):
    plain.check_lengths(small(chunk_size=chunk_size))


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("beside_speech", [False, True])
def test_silence_is_silent_and_finite(autocast, beside_speech):
    plain.check_silence(small(), autocast, beside_speech)


def test_half_precision_agrees():
    plain.check_half_precision(small())


def test_initialisation_is_mambas_and_no_block_a_copy():
    torch.manual_seed(0)
    model = DPMamba(2, N=32, B=64, num_layers=2, n_mamba=3)
    plain.check_initialisation(model, layers=3)
    blocks = [m for m in model.modules() if isinstance(m, BiMamba)]
    assert len(blocks) == 12
    assert len({block.in_proj.weight.sum().item() for block in blocks}) == 12


@pytest.mark.parametrize(
    ("size", "least"),
    [
        *((name, 1) for name in ("num_sources", "N", "B", "num_layers", "n_mamba", "d_state")),
        *(("d_conv", 1), ("expand", 1), ("kernel_size", 2), ("chunk_size", 2)),
    ],
)
def test_bad_sizes_are_named(size, least):
    for value in (least - 1, 3.5, None):
        with pytest.raises(InputError, match=f"--{size}={value}: must be"):
            DPMamba(**{"num_sources": 2} | {size: value})


@pytest.mark.parametrize(
    "change",
    [
        *({"n_mamba_dp": 1}, {"chunk_size": 1}, {"skip_n_block": 2}, {"skip_around_intra": 0}),
        *({"n_dp": 0}, {"layers": 3}),
    ],
)
def test_configurations_that_make_no_model_are_refused_by_their_key(change):
    with pytest.raises(InputError, match=next(iter(change))):
        from_reference(CONFIG | change, {})
