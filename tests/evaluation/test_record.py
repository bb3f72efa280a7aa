"""Scores of two models, test sets or corpora never mix."""

import json
import os
import shutil
from pathlib import Path

import torch

from custom_modules.dataio import Manifest, MixtureDataset
from custom_modules.evaluation.loading import Model
from custom_modules.evaluation.record import evaluation_key, size_of
from custom_modules.mmipc import VARIANTS


def test_scores_of_another_model_or_test_set_are_never_taken(blur, test_set):
    other, scale = blur(), blur()
    with torch.no_grad():
        other.modules.layer.weight *= -0.7
    scale.modules.eps = 1e-4
    keys = {
        evaluation_key(model, dataset, split, 8)
        for model, dataset, split in [
            (blur(), test_set(), "test"),
            (blur(), test_set(variants="SER", max_samples=1), "test"),  # the same
            (blur(), test_set(), "val"),
            (blur(), test_set("ES"), "test"),
            (other, test_set(), "test"),
            (scale, test_set(), "test"),
        ]
    }
    assert len(keys) == 5


def test_scores_of_another_corpus_are_never_taken(blur, test_set, tmp_path):
    """Made again, at another place, or with other files: under the same manifest."""

    def key(root):
        manifest = Manifest(test_set().data.path, {"data_root": str(root)})
        dataset = MixtureDataset(manifest, VARIANTS, "SB", seed=0, draw=False)
        return evaluation_key(blur(), dataset, "test", 8)

    root = Path(test_set().data.replacements["data_root"])
    link, copy = tmp_path / "link", tmp_path / "copy"
    link.symlink_to(root)
    shutil.copytree(root, copy)
    keys = [key(root), key(copy)]
    assert key(link) == keys[0]
    mix = copy / "test" / "mix" / "test_0.wav"
    os.utime(mix, ns=(0, 0))
    keys.append(key(copy))
    mix.unlink()
    keys.append(key(copy))
    assert len(set(keys)) == len(keys)


def test_batches_count_where_they_can_change_a_score(blur, test_set, monkeypatch):
    keys = {evaluation_key(blur(), test_set(), "test", size) for size in (1, 8)}
    assert len(keys) == 1  # a CPU takes one by one
    monkeypatch.setattr(Model, "batch_size", lambda self, wanted: wanted)
    keys = {evaluation_key(blur(), test_set(), "test", size) for size in (1, 8)}
    assert len(keys) == 2


def test_the_voices_behind_the_mixtures_are_counted(test_set, tmp_path):
    """Of the mixtures that are tested; not where a speaker is not known."""
    dataset = test_set()
    entries = json.loads(Path(dataset.data.path).read_text())
    for number, entry in enumerate(entries.values()):
        entry |= {"speaker1": "anna", "speaker2": f"voice {number}"}
    path = tmp_path / "test.json"

    def size(**options):
        path.write_text(json.dumps(entries))
        manifest = Manifest(path, dataset.data.replacements)
        return size_of(MixtureDataset(manifest, VARIANTS, "SB", seed=0, draw=False, **options))

    assert size() == {"mixtures": len(entries), "voices": len(entries) + 1}
    assert size(max_samples=1) == {"mixtures": 1, "voices": 2}
    entry |= {"speaker1": None, "source1": None}
    assert size()["voices"] is None
