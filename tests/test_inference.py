import functools
import http.server
import itertools
import threading

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


class Signed(torch.nn.Module):
    """Filters, negated as a training may leave them."""

    def __init__(self, signs):
        super().__init__()
        self.filters = torch.nn.Conv1d(1, len(signs), 15, padding=7, bias=False)
        taps = torch.randn(len(signs), 1, 15, generator=torch.Generator().manual_seed(1))
        self.filters.weight.data = taps * torch.tensor(signs)[:, None, None]

    def forward(self, mixture):
        return self.filters(mixture.unsqueeze(1)).transpose(1, 2)


@pytest.mark.parametrize("normalize", ["mixture", "peak"])
@pytest.mark.parametrize("chunk_seconds", [8, 1])
@pytest.mark.parametrize("sources", [1, 2])
def test_the_sign_of_a_model_is_not_heard(tmp_path, sources, chunk_seconds, normalize):
    mixture = 0.1 * torch.randn(2, 24_000)
    sf.write(tmp_path / "a.wav", mixture.T, 8000, subtype="FLOAT")
    separated = []
    for signs in itertools.product([1.0, -1.0], repeat=sources):
        model = PolSESSSeparation(
            {"separator": Signed(signs)},
            {"sample_rate": 8000, "num_spks": sources},
            run_opts={"device": "cpu"},
            chunk_seconds=chunk_seconds,
        )
        batch = model.separate_batch(mixture, normalize)
        assert (torch.einsum("bt,bts->bs", mixture, batch) > 0).all()
        separated.append((batch, model.separate_file(tmp_path / "a.wav", normalize=normalize)))
    for others in separated[1:]:
        torch.testing.assert_close(others, separated[0])


def test_files_of_one_name_are_told_apart(model, tmp_path):
    for folder, length in (("a", 100), ("b", 200)):
        (tmp_path / folder).mkdir()
        sf.write(tmp_path / folder / "talk.wav", np.full(length, 0.5), 8000)
        path = str(tmp_path / folder / "talk.wav")
        assert model.separate_file(path, savedir=str(tmp_path / "kept")).shape[1] == length


def test_files_of_the_web_are_kept_apart(model, tmp_path):
    for folder, length in (("a", 100), ("b", 200)):
        (tmp_path / folder).mkdir()
        sf.write(tmp_path / folder / "talk.wav", np.full(length, 0.5), 8000)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        address = f"http://127.0.0.1:{server.server_port}"
        lengths = [
            model.separate_file(f"{address}/{name}/talk.wav", savedir=tmp_path / "kept").shape[1]
            for name in "ab"
        ]
        with pytest.raises(InputError, match=r"none\.wav: cannot be fetched"):
            model.separate_file(f"{address}/none.wav", savedir=tmp_path / "kept")
        server.shutdown()
    assert lengths == [100, 200]


FOLDER = """
sample_rate: 8000
num_spks: 1
separator: !new:torch.nn.Sequential
    - !new:torch.nn.Unflatten {dim: 1, unflattened_size: [-1, 1]}
    - !new:torch.nn.Linear {in_features: 1, out_features: 1}
modules: {separator: !ref <separator>}
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables: {separator: !ref <separator>}
"""


def test_two_models_with_one_place_for_downloads(tmp_path):
    for gain in (1.0, 2.0):
        folder = tmp_path / f"model{gain}"
        folder.mkdir()
        (folder / "hyperparams.yaml").write_text(FOLDER)
        weights = {"1.weight": torch.tensor([[gain]]), "1.bias": torch.zeros(1)}
        torch.save(weights, folder / "separator.ckpt")
        model = PolSESSSeparation.from_hparams(folder, savedir=tmp_path / "kept")
        assert model.separate_batch(torch.ones(1, 1)).item() == gain


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
    with pytest.raises(InputError, match=r"nope\.wav: cannot be read \(No such"):
        model.separate_file(str(tmp_path / "nope.wav"))
