"""Sources that sum to the mixture: trained, exported, as a graph, and trained on, by commands."""

import numpy as np
import pytest
import soundfile
import torch

from custom_modules.errors import InputError
from custom_modules.hparams import read_hparams
from custom_modules.inference import PolSESSSeparation
from tests.integration.training import (
    TRAIN,
    arguments,
    error_line,
    final_state,
    load_script,
    run,
    tiny_corpus,
)

ON_C = ["--train_variants=[C]", "--valid_variants=[C]", "--curriculum=null", "--loss=snr"]
FEW = ["--test_metrics=[]", "--number_of_epochs=1", "--norm_eps=1.0e-4", "--batch_size=4"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("data"), train=4, valid=2)


def options(corpus, folder, *more):
    return arguments(corpus, folder, *ON_C, *FEW, *more)


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    done = run(TRAIN, *options(corpus, folder / "results", "--mixture_consistency=True"))
    assert done.returncode == 0, done.stderr
    export = [str(folder / "results" / "hyperparams.yaml"), str(folder / "exported"), "--onnx"]
    load_script("export").main(export)
    return folder


@pytest.mark.parametrize("runtime", ["torch", "onnx"])
def test_the_exported_model_and_its_graph_sum_up(trained, runtime):
    model = PolSESSSeparation.from_hparams(trained / "exported", runtime=runtime)
    for time in (1, 999, 8000):
        mixture = 0.1 * torch.randn(2, time)
        sources = model.separate_batch(mixture)
        torch.testing.assert_close(sources.sum(2), mixture, atol=1e-6, rtol=0)
        assert not torch.allclose(sources[..., 0], sources[..., 1], atol=1e-4) or time == 1


def test_recordings_are_separated_into_what_sums_to_them(trained, tmp_path):
    signal = 0.1 * np.random.default_rng(0).standard_normal(20_000)
    soundfile.write(tmp_path / "talk.wav", signal, 8000, "FLOAT")
    separate = load_script("separate").main
    assert not separate(
        [str(trained / "exported"), str(tmp_path / "talk.wav"), f"--output_folder={tmp_path}"]
    )
    outputs = [soundfile.read(tmp_path / f"talk_s{n}.wav")[0] for n in (1, 2)]
    np.testing.assert_allclose(sum(outputs), signal, atol=1e-5)


def test_the_card_names_the_architecture_and_not_speechbrains_own_class(trained):
    text = (trained / "exported" / "README.md").read_text("utf-8")
    assert "| architecture | ConvTasNet," in text
    assert "SepformerSeparation" not in text
    tree = read_hparams(trained / "exported" / "hyperparams.yaml")
    assert tree["separator"]["separator"]["masknet"]["norm_eps"] == 1e-4  # nothing is folded


@pytest.mark.parametrize("source", ["results", "exported"])
def test_weights_are_taken_with_and_without_it(corpus, trained, tmp_path, source):
    """By the names that the separator has without; frozen, all but one part stays."""
    script = load_script("train")
    frozen = ["--freeze=masknet.*", "--test_after_training=False"]
    for name, is_summed in (("with", True), ("without", False)):
        folder = tmp_path / name
        more = [f"--pretrained={trained / source}", f"--mixture_consistency={is_summed}", *frozen]
        script.main(options(corpus, folder, *more))
        log = (folder / "log.txt").read_text()
        assert "not taken" not in log
        before = final_state(trained / "results", 1)["separator.ckpt"]
        after = final_state(folder, 1)["separator.ckpt"]
        for key, value in before.items():
            if ".masknet." in key:
                assert torch.equal(after[key if is_summed else key[10:]], value)


def test_a_results_folder_stays_what_it_is(corpus, trained):
    with pytest.raises(InputError, match=r"--mixture_consistency=False: .* was trained with True"):
        load_script("train").main(
            options(corpus, trained / "results", "--mixture_consistency=False")
        )


def test_other_variants_are_refused_before_anything_is_written(corpus, tmp_path):
    more = ["--mixture_consistency=True", "--train_variants=[C, R]"]
    done = run(TRAIN, *options(corpus, tmp_path / "out", *more))
    assert done.returncode == 2
    assert "the speakers sum to the mixture on C alone" in error_line(done)
    assert not (tmp_path / "out").exists()
