"""Each architecture on a GPU as on a CPU: forward, backward, and a step."""

import copy

import pytest
import torch

from custom_modules.hparams import read_yaml
from custom_modules.objectives import pit_si_sdr_loss
from recipes.benchmark.campaign.costs import load_model
from tests.integration.training import ROOT, TINY
from tests.selective_scan.cases import relative_error

ARCHITECTURES = [
    path.stem
    for path in sorted((ROOT / "hparams").glob("*.yaml"))
    if "separator" in read_yaml(path)
]
#: ‖a − b‖ / ‖b‖ of outputs beside those in float32: 8 and 11 binary places, and depth.
HALF = {torch.bfloat16: 0.25, torch.float16: 0.1}
#: Of gradients in float32. On a CPU, too, ConvTasNet's are 1.1e-3 from those in float64.
GRADIENTS = {"convtasnet": 5e-3}


@pytest.fixture(params=ARCHITECTURES)
def model(request, device):
    """Hparams, and targets; of the published size on a GPU, tiny on a CPU."""
    options = TINY.get(request.param, "") if device == "cpu" else ""
    hparams = load_model(f"hparams/{request.param}.yaml", options.split())
    for module in hparams["separator"].modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # CPU and GPU draw other numbers
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    samples = 800 if device == "cpu" else 8000
    return hparams, torch.randn(2, samples, hparams["num_sources"])


def passes(separator, targets, dtype=torch.float32):
    """Estimates, mean loss in dB, and gradients, as on the CPU."""
    separator.zero_grad()
    kind = targets.device.type
    with torch.autocast(kind, dtype=dtype, enabled=dtype != torch.float32):
        estimates = separator(targets.sum(2))
    loss = pit_si_sdr_loss(estimates, targets)[0].mean()
    loss.backward()
    learnt = [p for p in separator.parameters() if p.requires_grad]
    gradients = [p.grad.flatten().cpu() for p in learnt]
    return estimates.detach().float().cpu(), loss.item(), torch.cat(gradients)


def test_a_training_step_is_that_of_a_cpu(model, device, full_precision):
    hparams, targets = model
    on_cpu = hparams["separator"]
    on_device = copy.deepcopy(on_cpu).to(device)
    expected, found = passes(on_cpu, targets), passes(on_device, targets.to(device))
    assert relative_error(found[0], expected[0]) < 1e-4
    assert found[1] == pytest.approx(expected[1], abs=1e-3)
    assert relative_error(found[2], expected[2]) < GRADIENTS.get(hparams["model_name"], 1e-3)
    after = []
    for separator, where in ((on_cpu, "cpu"), (on_device, device)):
        hparams["opt_class"](separator.parameters()).step()
        after.append(passes(separator, targets.to(where))[1])
    # Where a gradient is about 0, Adam's first step goes either way.
    assert after[1] == pytest.approx(after[0], abs=0.05)


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_half_precision_is_finite_and_near(model, device, dtype):
    hparams, targets = model
    if device == "cpu" and dtype == torch.float16:
        pytest.skip("no GPU")
    separator, targets = hparams["separator"].to(device), targets.to(device)
    expected, found = passes(separator, targets), passes(separator, targets, dtype)
    assert torch.isfinite(found[0]).all()
    assert torch.isfinite(found[2]).all()
    assert relative_error(found[0], expected[0]) < HALF[dtype]
