"""What evaluate.py is pointed at, and where its results go."""

import json
import os
import sys
import types
from pathlib import Path

import pytest
import torch

from custom_modules.errors import InputError
from custom_modules.evaluation.loading import (
    FoundModel,
    Model,
    find_model,
    manifest_path,
    prepare_options,
    results_folder,
)
from custom_modules.evaluation.record import facts_of, fingerprint
from tests.evaluation.conftest import Blur


class StandIn:
    """An exported model, as far as its contract goes."""

    def __init__(self, module):
        self.mods = torch.nn.ModuleDict({"separator": module})

    @classmethod
    def from_hparams(cls, source, run_opts):
        assert (Path(source) / "hyperparams.yaml").exists()
        assert run_opts == {"device": "cpu"}
        return cls(Blur())

    def estimate(self, mixture):
        return self.mods["separator"](mixture)


@pytest.fixture
def exported(tmp_path):
    folder = tmp_path / "exported" / "blur_sb"
    folder.mkdir(parents=True)
    (folder / "hyperparams.yaml").write_text(
        "task: SB\nsample_rate: 8000\nmodel_name: blur\nother: !new:torch.nn.Identity\n"
    )
    return folder


def test_an_exported_folder_is_loaded_by_its_own_class(exported, monkeypatch):
    stand_in = types.SimpleNamespace(PolSESSSeparation=StandIn)
    monkeypatch.setitem(sys.modules, "custom_modules.inference", stand_in)
    arguments = [str(exported), "--data_folder=corpus", "--device=cpu"]
    found = find_model(arguments)
    facts = {"model_name": "blur", "task": "SB", "sample_rate": 8000, "seed": None}
    assert facts_of(found.hparams) == facts | {"data_folder": "corpus"}
    assert results_folder(found, "test") == Path("results/blur_sb")
    model, checkpoint = found.load()
    mixture = torch.randn(1, 300)
    ((_, estimates),) = model.separate_all([(0, mixture)])
    with torch.inference_mode():
        assert torch.equal(estimates, Blur()(mixture))
    assert "blur_sb" in checkpoint


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "no corpus"), (["--data_folder=x", "--lr=3"], "--lr: not for an exported folder")],
)
def test_an_exported_folder_takes_few_options(exported, monkeypatch, arguments, message):
    monkeypatch.delenv("POLSESS_DATA_ROOT", raising=False)
    with pytest.raises(InputError, match=message):
        find_model([str(exported), *arguments])


def test_folders_that_are_neither_are_refused(tmp_path, exported):
    with pytest.raises(InputError, match=r"holds no hyperparams.yaml"):
        find_model([str(tmp_path)])
    (exported / "hyperparams.yaml").write_text("lr: 1\n")
    for name in (exported, exported / "hyperparams.yaml"):
        with pytest.raises(InputError, match="no key 'task'"):
            find_model([str(name), "--data_folder=x"])
    (tmp_path / "other.yaml").write_text("lr: 1\n")
    os.mkfifo(tmp_path / "pipe.yaml")
    for name, message in (
        ("other.yaml", "is not of a training; name a results folder, an exported"),
        ("pipe.yaml", "is a pipe"),
        ("none", "cannot be read"),
    ):
        with pytest.raises(InputError, match=f"{name}: {message}"):
            find_model([str(tmp_path / name)])
    with pytest.raises(InputError, match="the first argument must be"):
        find_model(["--data_folder=x"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sample_rate: fast", "sample_rate=fast: must be a whole number"),
        ("sample_rate: 0", "sample_rate=0: must be a whole number"),
        ("task: [SB]", "task=.*choose one of"),
        ("model_name: ''", "model_name='': is empty"),
    ],
)
def test_an_exported_file_of_other_values_is_refused(exported, line, message):
    file, key = exported / "hyperparams.yaml", line.partition(":")[0]
    lines = file.read_text().splitlines()
    file.write_text("\n".join([line, *(x for x in lines if not x.startswith(f"{key}:"))]))
    with pytest.raises(InputError, match=f"{file}: {message}"):
        find_model([str(exported), "--data_folder=x"])


def model_of(folder, corpus="data/PolSESS", **overrides):
    hparams = {"output_folder": str(folder), "data_folder": corpus, "skip_prep": False}
    hparams |= {"check": "header", "skip_bad_rows": False} | overrides
    return FoundModel(hparams, overrides, None, None)


def test_results_of_another_corpus_or_split_go_beside(tmp_path):
    assert results_folder(model_of(tmp_path), "test") == tmp_path
    (tmp_path / "hyperparams.yaml").write_text("data_folder: /elsewhere/PolSESS\n")
    assert results_folder(model_of(tmp_path), "test") == tmp_path
    assert results_folder(model_of(tmp_path), "val") == tmp_path / "val"
    other = model_of(tmp_path, "data/Libri2Mix/")
    assert results_folder(other, "test") == tmp_path / "Libri2Mix"
    assert results_folder(other, "val") == tmp_path / "Libri2Mix" / "val"
    asked = model_of(tmp_path, output_folder=str(tmp_path / "here"))
    assert results_folder(asked, "val") == tmp_path / "here"


def test_an_imported_model_was_trained_on_no_corpus_of_ours(tmp_path):
    (tmp_path / "hyperparams.yaml").write_text("data_folder: !PLACEHOLDER\n")
    assert results_folder(model_of(tmp_path), "test") == tmp_path


def corpus_at(folder):
    folder.mkdir(parents=True)
    return str(folder)


def test_a_link_to_the_corpus_is_the_corpus(tmp_path):
    corpus = corpus_at(tmp_path / "disk" / "v1")
    (tmp_path / "PolSESS").symlink_to(corpus)
    out = tmp_path / "out"
    out.mkdir()
    for trained, tested in [(corpus, tmp_path / "PolSESS"), ("PolSESS", corpus)]:
        trained = tmp_path / trained
        (out / "hyperparams.yaml").write_text(f"data_folder: {trained}\n")
        assert results_folder(model_of(out, str(tested)), "test") == out


def test_corpora_of_one_name_have_places_of_their_own(tmp_path):
    trained, *others = (corpus_at(tmp_path / p / "PolSESS") for p in "abc")
    out = tmp_path / "out"
    out.mkdir()
    (out / "hyperparams.yaml").write_text(f"data_folder: {trained}\n")
    first = results_folder(model_of(out, others[0]), "val")
    assert first == out / "PolSESS" / "val"
    leave_results(first, others[0])
    second = results_folder(model_of(out, others[1]), "val")
    assert second.parent.name.startswith("PolSESS-")
    leave_results(second, others[1])
    for corpus, place in zip([trained, *others], [out / "val", first, second], strict=True):
        assert results_folder(model_of(out, corpus), "val") == place


def test_an_exported_model_keeps_the_results_of_two_corpora(tmp_path):
    corpora = [corpus_at(tmp_path / p / name) for p in "ab" for name in ("P", "L")]
    for split in ("test", "val"):
        places = []
        for corpus in corpora:
            place = results_folder(model_of(tmp_path / "out", corpus), split)
            leave_results(place, corpus)
            places.append(place)
        assert places[0] == tmp_path / "out" / ("" if split == "test" else "val")
        assert len(set(places)) == 4
        again = [results_folder(model_of(tmp_path / "out", c), split) for c in corpora]
        assert again == places


def leave_results(folder, corpus):
    folder.mkdir(parents=True)
    (folder / "test_run.json").write_text(json.dumps({"data_folder": corpus}))


def test_manifests_that_are_named_are_taken(tmp_path):
    prepared = model_of(tmp_path)
    assert manifest_path(prepared, tmp_path, "val").parent.name == "test_scores"
    assert prepare_options(prepared, tmp_path, "val")[0]["subsets"] == ["val"]
    folder = model_of(tmp_path, skip_prep=True, manifest_folder="m")
    assert manifest_path(folder, tmp_path, "val") == Path("m/val.json")
    one = model_of(tmp_path, test_manifest="m/x.json")
    assert manifest_path(one, tmp_path, "test") == Path("m/x.json")
    assert prepare_options(one, tmp_path, "test")[0]["skip_prep"] is True
    with pytest.raises(InputError, match="--manifest_folder"):
        manifest_path(model_of(tmp_path, skip_prep=True), tmp_path, "test")


def test_lanes_give_what_one_pass_gives_in_order(monkeypatch, blur):
    model = blur()
    monkeypatch.setattr(Model, "lanes", 3)
    mixtures = torch.randn(10, 1, 500, generator=torch.Generator().manual_seed(1))
    separated = list(model.separate_all(enumerate(mixtures)))
    assert [item for item, _ in separated] == list(range(10))
    with torch.inference_mode():
        for mixture, (_, estimates) in zip(mixtures, separated, strict=True):
            assert torch.equal(estimates, model.modules(mixture))
            assert not estimates.requires_grad


def test_bfloat16_is_autocast_and_comes_back_as_float32():
    module = Blur()
    mixture = torch.randn(1, 500)
    exact, rough = (
        next(iter(Model(module, module, 8000, dtype=d).separate_all([(0, mixture)])))[1]
        for d in (torch.float32, torch.bfloat16)
    )
    assert rough.dtype == torch.float32
    assert 0 < (exact - rough).abs().max() < 0.1


def test_a_fingerprint_tells_parameters_and_settings():
    first, same, other, setting = (Blur() for _ in range(4))
    with torch.no_grad():
        other.layer.weight[0] += 1e-6
    setting.eps = 1e-4
    prints = [fingerprint(m) for m in (first, same, other, setting)]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3
