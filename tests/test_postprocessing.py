"""What is done to outputs before somebody listens."""

import pytest
import torch

from custom_modules.errors import InputError
from custom_modules.inference import PolSESSSeparation
from custom_modules.postprocessing import Observing, at_level_of, gated, observed


def voices(seed=0, time=8000):
    return torch.randn(time, 2, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("gain", [1e-4, 1.0, 300.0])
def test_level_and_signs_of_a_model_are_not_heard(gain):
    targets = voices()
    mixture = targets.sum(1)
    levelled = at_level_of(mixture, gain * targets * torch.tensor([1.0, -1.0]), 8000)
    torch.testing.assert_close(levelled, targets)


@pytest.mark.parametrize(("below", "is_silent"), [(19.9, False), (20.1, True)])
def test_an_output_20_db_below_the_other_is_silent(below, is_silent):
    estimates = voices()
    estimates /= estimates.square().mean(0).sqrt()
    estimates[:, 1] *= 10 ** (-below / 20)
    kept = gated(estimates)
    assert torch.equal(kept[:, 0], estimates[:, 0])
    assert torch.equal(kept[:, 1], estimates[:, 1] * (not is_silent))


def test_silence_alone_and_one_source_are_left_alone():
    assert not gated(torch.zeros(9, 2)).any()
    one = voices()[:, :1]
    assert torch.equal(gated(one), one)


def test_what_is_added_back_has_its_level():
    mixture = voices().sum(1)
    added = observed(voices(1), mixture, -6.0) - voices(1)
    for source in added.T:
        decibels = 10 * torch.log10(source.square().mean() / mixture.square().mean())
        assert decibels.item() == pytest.approx(-6.0, abs=1e-3)


class Halves(torch.nn.Module):
    """Sources at a level and signs that mean nothing."""

    def forward(self, mixture):
        return torch.stack([-3 * mixture, 7 * mixture], dim=2)


@pytest.mark.parametrize("chunk_seconds", [1, 8])
def test_recordings_and_tests_add_the_same(chunk_seconds):
    separator, mixture = Halves(), 0.1 * torch.randn(2, 30_001)
    model = PolSESSSeparation(
        {"separator": separator},
        {"sample_rate": 8000, "num_spks": 2},
        run_opts={"device": "cpu"},
        chunk_seconds=chunk_seconds,
        observation_db=-6.0,
    )
    tested = Observing(separator, separator, 8000, -6.0)(mixture)
    blocks = mixture.split(7001, dim=1)
    streamed = torch.cat([*model.stream(blocks, "mixture")], dim=1)
    torch.testing.assert_close(streamed, tested)
    shares = torch.tensor([0.3, 0.7]) + 10 ** (-6 / 20)
    torch.testing.assert_close(tested, mixture[..., None] * shares)
    for normalize in ("none", "peak"):
        with pytest.raises(InputError, match="use normalize=mixture with it"):
            list(model.stream(blocks, normalize))
