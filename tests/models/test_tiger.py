"""TIGER against a recording, its band tables, and the contract of separators."""

import math

import pytest
import torch

from custom_modules.errors import InputError
from custom_modules.hparams import load_hparams
from custom_modules.models.interleaved import MultiScale
from custom_modules.models.tiger import TIGER, convert_state_dict, cut_bands, from_reference
from tests.models.contract import (
    DATA,
    check_half_precision,
    check_lengths,
    check_silence,
    perturb,
    relative_error,
)

BANDS = [(4, 250), (2, 1000)]
PUBLISHED = [[40, 25], [10, 100], [8, 250], [8, 500]]


def small(num_sources=2, **options):
    torch.manual_seed(0)
    sizes = {"n_fft": 64, "stride": 16, "bands": BANDS, "N": 8, "H": 6, "num_blocks": 2}
    sizes |= {"num_layers": 3, "nhead": 2, "qk_dim": 3}
    return perturb(TIGER(num_sources, 8000, **sizes | options)).eval()


def load_golden():
    golden = torch.load(DATA / "tiger_small.pt", weights_only=True)
    return from_reference(golden["config"], by_name(golden, "values")), golden


def by_name(golden, key):
    sizes = [math.prod(shape) for shape in golden["shapes"].values()]
    parts = zip(golden["shapes"].items(), golden[key].split(sizes), strict=True)
    return {name: part.view(shape) for (name, shape), part in parts}


def test_recorded_output_and_gradients_are_reproduced():
    model, golden = load_golden()
    x = golden["input"].requires_grad_()
    output = model(x)
    assert relative_error(output.mT, golden["output"]) < 1e-6
    output.square().sum().backward()
    assert relative_error(x.grad, golden["grad_input"]) < 2e-6
    unused = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert all(".scales.selections.2." in name for name in unused)
    assert len(unused) == len(golden["no_grad_params"])
    for key, gradient in convert_state_dict(by_name(golden, "grads")).items():
        if "keys.offset" not in key and key not in unused:  # a softmax does not see the one
            error = model.get_parameter(key).grad - gradient
            assert error.norm() < 1e-4 * gradient.norm() + 1e-6, key


@torch.no_grad()
def test_recorded_odd_length_is_reproduced():
    model, golden = load_golden()
    assert relative_error(model(golden["input_odd"]).mT, golden["output_odd"]) < 1e-6


def plain_scales(state, x, levels):
    """The multi-scale part by the reference's names, in loops and float64."""

    def conv(name, x, stride=1):
        weight = state[f"{name}.weight"]
        groups = 1 if weight.shape[1] > 1 else len(weight)
        padding = weight.shape[2] // 2
        bias = state.get(f"{name}.bias")
        return torch.nn.functional.conv1d(x, weight, bias, stride, padding, groups=groups)

    def norm(name, x):
        mean, var = x.mean((1, 2), keepdim=True), x.var((1, 2), keepdim=True, correction=0)
        gain, offset = (state[f"{name}.{kind}"][:, None] for kind in ("weight", "bias"))
        return (x - mean) / (var + 1e-8).sqrt() * gain + offset

    def both(name, x, stride=1):
        return norm(f"{name}.norm", conv(f"{name}.conv", x, stride))

    def up(x, time):
        return x[:, :, torch.arange(time) * x.shape[2] // time]

    def inject(name, x, other):
        time = x.shape[2]
        gate = torch.sigmoid(up(both(f"{name}.global_act", other), time))
        added = up(both(f"{name}.global_embedding", other), time)
        return both(f"{name}.local_embedding", x) * gate + added

    entered = both("proj_1x1", x)
    scale = torch.where(entered > 0, entered, state["proj_1x1.act.weight"] * entered)
    scales = []
    for level in range(levels):
        scales.append(scale := both(f"spp_dw.{level}", scale, 2 if level else 1))
    seen = torch.zeros_like(scale)
    for each in scales:
        time, parts = each.shape[2], scale.shape[2]
        for part in range(parts):
            first, last = part * time // parts, -(-(part + 1) * time // parts)
            seen[:, :, part] += each[:, :, first:last].mean(2)
    seen = both("globalatt.fc1", seen)
    seen = both("globalatt.fc2", conv("globalatt.dwconv", seen).relu())
    chosen = [inject(f"loc_glo_fus.{n}", each, seen) for n, each in enumerate(scales)]
    joined = chosen[levels - 3]  # of two, the last
    for level in reversed(range(levels - 1)):
        joined = inject(f"last_layer.{level}", chosen[level], joined)
    return x + conv("res_conv", joined)


@pytest.mark.parametrize(("levels", "time"), [(2, 7), (3, 12), (4, 29), (5, 40)])
def test_scales_are_those_of_the_plain_formulas(levels, time):
    torch.manual_seed(levels)
    scales = perturb(MultiScale(5, 6, levels).double(), 0.5)
    ours = {f"along_bands.scales.{name}": value for name, value in scales.state_dict().items()}
    theirs = {}
    golden = torch.load(DATA / "tiger_small.pt", weights_only=True)["shapes"]
    for name in golden:
        for level in range(levels):
            path, _, rest = name.partition(".0.")
            if path == "separator.freq_path":
                rest = rest.replace(".2.", f".{level}.").replace(".1.", f".{level}.")
                key = f"{path}.0.{rest}"
                (converted,) = convert_state_dict({key: torch.zeros(1)})
                if converted in ours:
                    theirs[rest] = ours[converted]
    assert len(theirs) == len(ours)
    x = torch.randn(3, 5, time, dtype=torch.float64)
    torch.testing.assert_close(scales(x), plain_scales(theirs, x, levels))


@pytest.mark.parametrize("sources", [1, 2, 4])
@torch.no_grad()
def test_all_sources_add_up_to_the_mixture_if_they_shall(sources):
    mixture = torch.randn(2, 500)
    apart = small(sources, sums_to_mixture=False)(mixture).sum(2)
    assert relative_error(apart, mixture) > 0.1
    if sources > 1:
        total = small(sources, sums_to_mixture=True)(mixture).sum(2)
        torch.testing.assert_close(total, mixture, atol=1e-5, rtol=0)


@torch.no_grad()
def test_what_is_later_by_whole_frames_comes_out_later():
    """Behind a long silence nothing else changes: attention sees no order of frames."""
    model = small(num_layers=1)  # without scales, whose grid would shift
    signal = torch.randn(1, 320)
    early = torch.cat([torch.zeros(1, 640), signal, torch.zeros(1, 1280)], 1)
    late = early.roll(320, 1)
    torch.testing.assert_close(model(early).roll(320, 1), model(late), atol=1e-4, rtol=0)


def test_band_tables():
    published = cut_bands(PUBLISHED, 16000, 321)
    assert published == [1] * 40 + [4] * 10 + [10] * 8 + [20] * 8 + [1]
    assert cut_bands(PUBLISHED[:3], 8000, 161) == [*published[:58], 1]
    with pytest.raises(InputError, match="--bands: reach 8000 Hz, where --sample_rate=8000 ends"):
        cut_bands(PUBLISHED, 8000, 161)
    with pytest.raises(InputError, match="--bands: 25 Hz are less than a bin"):
        cut_bands(PUBLISHED, 16000, 65)


def loaded(**overrides):
    return load_hparams(
        "hparams/tiger.yaml", {"data_folder": "x", "output_folder": "x"} | overrides
    )


def test_sizes_are_the_published_ones(monkeypatch):
    monkeypatch.chdir(DATA.parent.parent)
    wide = loaded(sample_rate=16000, bands=PUBLISHED)["separator"]
    large = loaded(sample_rate=16000, bands=PUBLISHED, num_blocks=8)["separator"]
    for model in (wide, large):
        assert sum(p.numel() for p in model.parameters()) == 821_932
    narrow = loaded()["separator"]
    assert narrow.spectrogram.frames == (320, 80)
    assert len(narrow.widths) == 59
    with pytest.raises(InputError, match="--bands: reach 8000 Hz"):
        loaded(bands=PUBLISHED)


def test_any_length_comes_out_as_long():
    check_lengths(small(), (1, 2, 31, 32, 33, 64, 65, 500))
    check_lengths(small(3, N=12, nhead=3, num_layers=1), (1, 100), sources=3)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("time", [1, 400])
def test_silence_has_silent_sources_and_finite_gradients(dtype, time):
    check_silence(small(), time, dtype)


def test_half_precision_is_finite_and_near():
    check_half_precision(small(), torch.bfloat16, tolerance=0.1)


def test_checkpointing_changes_nothing():
    mixture, grads = torch.randn(2, 400), []
    for kept in (False, True):
        model = small(checkpoint_blocks=kept)
        model(mixture).square().sum().backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad]))
    assert torch.equal(*grads)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({"nhead": 3}, "--nhead=3: must divide N=8"),
        ({"num_sources": 3}, "--num_sources=3: must divide N=8"),
        ({"num_sources": 1}, "--sums_to_mixture=True: one source would be the mixture itself"),
        ({"stride": 64}, "--stride=64: must be below n_fft=64"),
        ({"num_layers": 0}, "--num_layers=0"),
        ({"bands": [(9, 1000)]}, "--bands: reach 9000 Hz"),
        ({"bands": [(2, 500)]}, "--bands: end at .* Hz, where --sample_rate=.* reaches"),
    ],
)
def test_sizes_that_make_no_model_are_refused(size, message):
    with pytest.raises(InputError, match=message):
        small(**size)


def test_configurations_that_cannot_be_are_refused():
    config = torch.load(DATA / "tiger_small.pt", weights_only=True)["config"]
    for key, value, named in (
        *(("sample_rate", 8000, "sample_rate=8000"), ("att_n_head", 3, "^att_n_head=3")),
        *(("win", "long", "^win=long"), ("extra", 1, "^extra=1"), ("stride", 4000, "^stride=")),
    ):
        with pytest.raises(InputError, match=named):
            from_reference(config | {key: value}, {})


@pytest.mark.parametrize("sources", [2, 3, 4])
def test_masks_are_those_of_plain_loops(sources):
    """Of a band's outputs, values before gates, real before imaginary, then source by source."""
    model = small(num_sources=sources, N=12, H=12, sums_to_mixture=False)
    width, decoded = 3, torch.randn(2, 4 * sources * 3, 5)
    masks = model._masks(decoded, width)
    for part in range(2):
        for source in range(sources):
            first = (part * sources + source) * width
            value = decoded[:, first : first + width]
            gate = decoded[:, 2 * sources * width + first :][:, :width]
            torch.testing.assert_close(masks[:, part, source], value / (1 + (-gate).exp()))
    model.sums_to_mixture = True
    summed = model._masks(decoded, width).sum(2)
    torch.testing.assert_close(summed[:, 0], torch.ones(2, width, 5))
    torch.testing.assert_close(summed[:, 1], torch.zeros(2, width, 5))
