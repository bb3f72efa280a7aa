"""Sources that sum to the mixture: against the formula and the nearest point, by laws."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from custom_modules.errors import InputError
from custom_modules.hparams import load_hparams, resolve
from custom_modules.models.consistency import MixtureConsistent, sum_to

SMALL = {"data_folder": "none", "N": 8, "B": 8, "H": 8, "X": 2, "R": 1, "precision": "fp32"}
ON_C = {"mixture_consistency": True, "train_variants": ["C"], "curriculum": None}


def signals(seed, sources=2, batch=2, time=50):
    generator = torch.Generator().manual_seed(seed)
    shapes = (batch, time), (batch, time, sources)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 5))
def test_it_is_the_nearest_point_whose_sources_sum_up(seed, sources):
    """By Lagrange's equations, sample by sample, and by the paper's formula."""
    mixture, estimates = signals(seed, sources)
    found = sum_to(mixture, estimates).numpy()
    lagrange = np.block([[np.eye(sources), np.ones((sources, 1))], [np.ones(sources), 0]])
    for y, guesses, row in zip(
        mixture.flatten(), estimates.flatten(0, 1), found.reshape(-1, sources), strict=True
    ):
        nearest = np.linalg.solve(lagrange, [*guesses, y])[:sources]
        np.testing.assert_allclose(row, nearest, atol=1e-12)
        formula = [x + (y - sum(guesses)) / sources for x in guesses]
        np.testing.assert_allclose(row, formula, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_targets_that_sum_to_the_mixture_come_no_farther_and_twice_is_once(seed):
    _, estimates = signals(seed)
    _, targets = signals(seed + 1)
    mixture = targets.sum(2)
    once = sum_to(mixture, estimates)
    assert (once - targets).norm() <= (estimates - targets).norm() + 1e-12
    torch.testing.assert_close(sum_to(mixture, once), once)
    torch.testing.assert_close(sum_to(mixture, targets), targets)


def test_half_precision_sums_up_as_well():
    mixture, estimates = (x.float() for x in signals(1))
    total = sum_to(mixture, estimates.bfloat16()).sum(2)
    torch.testing.assert_close(total, mixture)


def test_what_stands_behind_the_sources_stays():
    class Stages(nn.Module):
        def forward(self, mixture):
            return torch.stack([mixture * k for k in (1.0, 2.0, 3.0, 4.0)], dim=2)

    mixture = signals(2)[0].float()
    found = MixtureConsistent(Stages(), 2)(mixture)
    torch.testing.assert_close(found[..., :2].sum(2), mixture)
    torch.testing.assert_close(found[..., 2:], Stages()(mixture)[..., 2:])


def test_the_option_puts_it_around_any_separator(tmp_path):
    file = "hparams/convtasnet.yaml"
    plain = load_hparams(file, SMALL)
    summed = load_hparams(file, SMALL | ON_C)
    assert isinstance(summed["modules"]["separator"], MixtureConsistent)
    assert summed["checkpointer"].recoverables["separator"] is summed["separator"]
    summed["separator"].separator.load_state_dict(plain["separator"].state_dict())
    mixture = signals(3, time=999)[0].float()
    with torch.no_grad():
        expected = sum_to(mixture, plain["separator"](mixture))
        torch.testing.assert_close(summed["separator"](mixture), expected)
    tree = resolve(file, SMALL | ON_C | {"num_sources": 2})
    assert tree["separator"]["num_sources"] == 2
    own = tmp_path / "own.yaml"
    own.write_text("separator: !new:torch.nn.Unflatten [1, [-1, 1]]\nmixture_consistency: True\n")
    found = load_hparams(own, {})["separator"](mixture)
    torch.testing.assert_close(found.sum(2), mixture)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "ES"}, "one source would be the mixture itself; use it with --task=SB"),
        ({"task": "EB"}, "one source would be the mixture itself"),
        ({"train_variants": ["C", "R"]}, "the speakers sum to the mixture on C alone"),
        ({"train_variants": ["SER", "SE"]}, "add --train_variants='.C.'"),
        ({"mixture_consistency": 1}, "neither True nor False"),
    ],
)
def test_where_it_makes_no_sense_it_is_one_line(changes, message):
    with pytest.raises(InputError, match=message) as caught:
        load_hparams("hparams/convtasnet.yaml", SMALL | ON_C | changes)
    assert "\n" not in str(caught.value)


def test_one_source_is_refused_by_the_class_too():
    with pytest.raises(InputError, match="one source would be the mixture itself"):
        MixtureConsistent(nn.Identity(), 1)
