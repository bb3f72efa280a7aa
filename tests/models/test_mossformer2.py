"""MossFormer2 against a recording, the plain formulas, and the contract of separators."""

import random
import re

import pytest
import torch

from custom_modules.errors import InputError
from custom_modules.models.mossformer2 import MossFormer2, convert_state_dict, from_reference
from tests.draws import DRAWS
from tests.models.contract import (
    DATA,
    check_half_precision,
    check_lengths,
    check_silence,
    count_parameters,
    perturb,
    relative_error,
)
from tests.models.plain_mossformer2 import STACK, Plain, draw_config, draw_state

SIZES = {"N": 12, "num_layers": 2, "group_size": 16, "qk_channels": 6, "fsmn_channels": 8}


def small(num_sources=2, **options):
    torch.manual_seed(0)
    return perturb(MossFormer2(num_sources, **SIZES | {"fsmn_order": 4} | options)).eval()


def recorded(name):
    return torch.load(DATA / "checkpoints" / f"{name}.pt", weights_only=True)


@torch.no_grad()
def test_recorded_outputs_are_reproduced():
    saved, io = recorded("mossformer2_SB_best"), recorded("mossformer2_io")
    config = saved["config"]["model"]["mossformer2"]
    model = from_reference(config, saved["model_state_dict"])
    assert not model.training
    assert relative_error(model(io["input"]).mT, io["output"]) < 2e-6
    assert relative_error(model(io["input_odd"]).mT, io["output_odd"]) < 2e-6
    older = {key: value for key, value in config.items() if key != "attn_dropout"}
    from_reference(older, saved["model_state_dict"])


@pytest.mark.parametrize("draw", range(3))
def test_a_configuration_drawn_at_random_is_the_plain_formulas(draw):
    rng = random.Random(3 * DRAWS + draw)
    config = draw_config(rng)
    state = draw_state(config, torch.Generator().manual_seed(rng.randrange(10**6)))
    model = from_reference(config, state).double()
    # What is loaded into float32 comes back as it was.
    state = {key: value.float().double() for key, value in state.items()}
    mixture = torch.randn(2, rng.randint(40, 60), dtype=torch.float64, requires_grad=True)
    output = model(mixture)
    expected = torch.stack([Plain(config, state).separate(item) for item in mixture])
    assert expected.std() > 1e-3
    assert relative_error(output, expected) < 1e-7
    weights = torch.randn_like(output)
    (found,) = torch.autograd.grad((output * weights).sum(), mixture)
    (exact,) = torch.autograd.grad((expected * weights).sum(), mixture)
    assert relative_error(found, exact) < 1e-6


@pytest.mark.parametrize("prefix", ["", "model.model.", "ss_network.", "module.model."])
def test_names_of_every_published_version(prefix):
    state = draw_state(draw_config(random.Random(0)), torch.Generator().manual_seed(0))
    expected = convert_state_dict(state)
    other = {prefix + key.removeprefix("model."): value for key, value in state.items()}
    assert convert_state_dict(other).keys() == expected.keys()
    authors = {}
    for key, value in state.items():
        key = re.sub(r"^model\.(enc|dec)\.", r"\1oder.", key)
        key = key.replace("model.mask_net.mdl.", "masknet.dual_mdl.0.")
        key = key.replace("model.mask_net.", "masknet.").replace("mossformerM", "mdl.flashT")
        authors[key.replace("intra_mdl.norm.", "intra_mdl.mdl.norm.norm.")] = value
    assert convert_state_dict(authors).keys() == expected.keys()


@pytest.mark.parametrize(("layers", "parameters"), [(11, 26_409_022), (24, 55_735_410)])
def test_sizes_are_the_published_ones(layers, parameters):
    assert count_parameters("mossformer2", num_layers=layers) == parameters


def test_any_length_comes_out_as_long():
    # One frame, one group, and more than one.
    check_lengths(small(), (1, 2, 15, 16, 17, 24, 143, 144, 145, 500))
    check_lengths(small(3, whole_frames=True), (1, 17, 500), sources=3)


@torch.no_grad()
def test_the_last_samples_are_separated_too():
    mixture = torch.zeros(1, 203)
    mixture[:, -1] = 1
    assert small()(mixture)[:, -1].any()
    assert not small(whole_frames=True)(mixture).any()


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("time", [1, 20, 600])
def test_silence_is_silent_and_finite(time, dtype):
    check_silence(small(), time, dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_agrees(dtype):
    check_half_precision(small(), dtype)


def test_sharp_attention_does_not_overflow_half_precision():
    """Scores of 300 are 90,000 when squared, beyond float16."""
    model = small(group_size=64)
    with torch.no_grad():
        for layer in model.masknet.layers:
            layer.attention.qk_gain.mul_(600)
    mixture = torch.randn(1, 4000)
    with torch.autocast("cpu", dtype=torch.float16):
        output = model(mixture)
    output.square().sum().backward()
    assert torch.isfinite(output).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


def test_attention_starts_near_nothing():
    torch.manual_seed(0)
    attention = MossFormer2(2, N=8, num_layers=1).masknet.layers[0].attention
    assert 0.017 < attention.qk_gain.std() < 0.023
    assert not attention.qk_offset.any()


def test_dropout_is_of_both_parts_while_training():
    mixture = torch.randn(1, 300)
    for name in ("attn_dropout", "dropout"):
        model = small(**{"attn_dropout": 0, "dropout": 0} | {name: 0.5}).train()
        assert not torch.equal(model(mixture), model(mixture)), name
    model = small(attn_dropout=0, dropout=0).train()
    assert torch.equal(model(mixture), model(mixture))


def test_checkpointed_layers_compute_the_same():
    mixture, results = torch.randn(1, 500), []
    for checkpoint_blocks in (False, True):
        model = small(checkpoint_blocks=checkpoint_blocks).train()
        torch.manual_seed(1)  # of dropout
        model(mixture).square().sum().backward()
        results.append([p.grad for p in model.parameters() if p.requires_grad])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("N", 13, "even"),
        ("qk_channels", 7, "even"),
        ("conv_size", 4, "odd"),
        ("conv_size", 1.5, "whole"),
        ("kernel_size", 1, "from 2"),
        *[(key, 0, "from 1") for key in ("num_sources", "num_layers", "group_size")],
        *[(key, 1.5, "whole") for key in ("fsmn_channels", "fsmn_order", "fsmn_depth", "N")],
    ],
)
def test_bad_sizes_are_named(key, value, reason):
    with pytest.raises(InputError, match=f"--{key}={value}: must be .*{reason}"):
        MossFormer2(**{"num_sources": 2} | SIZES | {key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("num_mossformer_layer", value) for value in (0, "two", None)],
        *[("encoder_embedding_dim", 9), ("mossformer_sequence_dim", 10), ("causal", True)],
        *[("expansion_factor", 2), ("norm", "gln"), ("rotary_dim", 2), ("attn_dropout", 2)],
        *[("num_spks", 2.5), ("query_key_dim", "x"), ("conv_module_kernel", 4)],
    ],
)
def test_configurations_that_make_no_model_are_refused_by_their_key(key, value):
    config = draw_config(random.Random(1))
    config |= config.pop("fixed")
    # If their widths differ, either is at fault.
    with pytest.raises(InputError, match=rf"{key}={value}|mossformer_sequence_dim"):
        from_reference(config | {key: value}, {})
    del config["num_spks"]
    with pytest.raises(InputError, match="num_spks: is missing"):
        from_reference(config, {})


def test_weights_that_do_not_fit_are_refused():
    config = draw_config(random.Random(0)) | {"num_mossformer_layer": 2}
    state = draw_state(config, torch.Generator().manual_seed(0))
    with pytest.raises(RuntimeError, match="memory"):
        from_reference(config, {k: v for k, v in state.items() if "fsmn.1" not in k})
    name = f"{STACK}mossformerM.layers.1.rotary_pos_emb.freqs"
    with pytest.raises(InputError, match="rotary: differs between layers"):
        from_reference(config, state | {name: 2 * state[name]})
