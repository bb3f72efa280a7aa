import numpy as np
import pytest
import soundfile as sf
import torch

from custom_modules.errors import InputError
from custom_modules.inference import PolSESSSeparation


class Shares(torch.nn.Module):
    """Sources at a level that has nothing to do with the mixture's."""

    def forward(self, mixture):
        return torch.stack([3 * mixture, mixture], dim=2)


@pytest.fixture
def model():
    return PolSESSSeparation(
        {"separator": Shares()},
        {"sample_rate": 8000, "num_spks": 2},
        run_opts={"device": "cpu"},
        chunk_seconds=1,
    )


def test_batches_of_any_length(model):
    mixture = torch.randn(3, 30_001)
    expected = torch.stack([3 * mixture, mixture], dim=2)
    for method in (model.estimate, model.separate_batch, model):
        torch.testing.assert_close(method(mixture), expected)
    scaled = model.separate_batch(mixture, normalize="mixture")
    torch.testing.assert_close(scaled, expected / 4)
    peaks = model.separate_batch(mixture, normalize="peak").abs().amax(1)
    torch.testing.assert_close(peaks, torch.ones(3, 2))


@pytest.mark.parametrize("normalize", ["mixture", "peak", "none"])
def test_silence_stays_silence(model, normalize):
    sources = model.separate_batch(torch.zeros(2, 20_000), normalize)
    assert not sources.any()


def test_a_file_keeps_its_level(model, tmp_path):
    signal = 0.1 * np.random.default_rng(0).normal(size=(12_345, 2))
    sf.write(tmp_path / "a.wav", signal, 8000, subtype="FLOAT")
    path = str(tmp_path / "a.wav")
    sources = model.separate_file(path)
    mixture = torch.from_numpy(signal).float().mean(1)
    expected = torch.stack([0.75 * mixture, 0.25 * mixture], dim=1)[None]
    torch.testing.assert_close(sources, expected)
    torch.testing.assert_close(model.separate_file(path, normalize="none")[0, :, 1], mixture)
    sf.write(tmp_path / "b.wav", signal, 16_000)
    assert model.separate_file(str(tmp_path / "b.wav")).shape == (1, 6173, 2)


@pytest.mark.parametrize(
    ("mixture", "options", "message"),
    [
        (torch.zeros(8), {}, r"must be \[batch, time\] .*, not \[8\]"),
        (torch.zeros(2, 0), {}, r"not \[2, 0\]"),
        (torch.zeros(1, 8), {"normalize": "loud"}, "mixture, peak, none"),
    ],
)
def test_mistakes_are_named(model, mixture, options, message):
    with pytest.raises(InputError, match=message):
        model.separate_batch(mixture, **options)


def test_what_a_model_folder_must_say():
    with pytest.raises(ValueError, match="num_spks"):
        PolSESSSeparation({"separator": Shares()}, {"sample_rate": 8000})


def test_a_missing_file_is_named(model, tmp_path):
    with pytest.raises(InputError, match=r"nope\.wav: no such file"):
        model.separate_file(str(tmp_path / "nope.wav"))
