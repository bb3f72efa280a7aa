"""One test set by every route: the same numbers; batches of one length each."""

import pytest
import soundfile as sf
import torch
from hypothesis import given
from hypothesis import strategies as st

from custom_modules import dataio
from custom_modules.errors import InputError
from custom_modules.evaluation import scoring
from custom_modules.evaluation.loading import Model
from custom_modules.evaluation.runner import (
    MAX_WAITING,
    Example,
    Scope,
    batches_of_one_length,
    rows_by_length,
    score_test_set,
)
from custom_modules.evaluation.scoring import score_mixture
from custom_modules.evaluation.store import ScoreStore
from custom_modules.evaluation.tables import result_rows

ALL = ("sdr", "pesq", "stoi")


def score(model, dataset, folder, groups=ALL, workers=0, **options):
    store = ScoreStore(folder, "key")
    scope = Scope(groups, workers=workers, progressbar=False, **options)
    timing = score_test_set(model, dataset, store, scope)
    return result_rows(dataset, store, groups), timing


def test_every_route_gives_the_same_rows(tmp_path, blur, test_set):
    whole, timing = score(blur(), test_set(), tmp_path / "whole")
    assert timing.scored == 3 * 5 + 4
    assert len(whole) == 2 * timing.scored
    assert list(dict.fromkeys(whole.id)) == test_set().data_ids

    parallel, _ = score(blur(), test_set(), tmp_path / "parallel", workers=2)
    assert parallel.equals(whole)

    # Some variants and metrics first, then everything: only the rest is scored.
    few = test_set(variants="SE,SER")
    part, _ = score(blur(), few, tmp_path / "few", groups=("stoi",))
    some = whole[whole.variant.isin(["SER", "SE"])].reset_index(drop=True)
    assert part.equals(some[part.columns])
    again, timing = score(blur(), test_set(), tmp_path / "few", groups=("stoi",))
    assert timing.scored == 3 * 4 + 3
    assert again.equals(whole[again.columns])


def test_no_metric_is_computed_twice(tmp_path, blur, test_set, monkeypatch):
    whole, _ = score(blur(), test_set(), tmp_path / "whole")
    asked = []

    def watched(job):
        asked.append(tuple(job.metrics))
        return score_mixture(job)

    monkeypatch.setattr(scoring, "score_mixture", watched)
    for groups in (("sdr", "pesq"), ("sdr", "stoi"), ALL):
        part, _ = score(blur(), test_set(), tmp_path / "parts", groups=groups)
    assert part.equals(whole)
    first, second = ("si_sdr", "sdr", "sir", "pesq"), ("stoi", "estoi")
    assert asked == 4 * [first] + 4 * [second]


def test_scores_that_another_process_wrote_elsewhere_are_missed(tmp_path, test_set):
    with pytest.raises(InputError, match="same output folder"):
        result_rows(test_set(), ScoreStore(tmp_path, "key"), ())


def test_batches_of_other_mixtures_change_no_row(tmp_path, test_set, blur, monkeypatch):
    monkeypatch.setattr(Model, "batch_size", lambda self, wanted: wanted)
    for size in (3, 16):
        whole, _ = score(blur(), test_set(), tmp_path / f"whole{size}", (), batch_size=size)
        few = test_set(variants="C,SE", max_samples=2)
        part, _ = score(blur(), few, tmp_path / f"few{size}", (), batch_size=size)
        kept = whole.merge(part[["id", "variant", "source"]])
        assert part.equals(kept)


def test_each_layer_is_read_once(tmp_path, blur, test_set, monkeypatch):
    read = []

    def counting(path, start, frames):
        read.append(path)
        return original(path, start, frames)

    original = dataio.read_layer
    monkeypatch.setattr(dataio, "read_layer", counting)
    score(blur(), test_set(), tmp_path, ())
    assert len(read) == len(set(read))
    # mix, s1, s2, scene, event; indoors three reverbs
    assert len(read) == 3 * 8 + 5


def test_tasks_have_their_targets(tmp_path, test_set):
    for task in ("EB", "ES"):
        entry = test_set(task).data["test_0"]

        def truth(mixture, entry=entry, task=task):
            signals = [sf.read(entry[s], dtype="float32")[0] for s in ("s1", "s2")]
            target = signals[0] + signals[1] if task == "EB" else signals[0]
            return torch.from_numpy(target)[None, :, None]

        dataset = test_set(task)
        dataset.data_ids = ["test_0"]
        model = Model(truth, torch.nn.Identity(), 8000)
        rows, _ = score(model, dataset, tmp_path / task, groups=("sdr",))
        assert rows.source.eq(1).all()
        assert (rows.si_sdr > 60).all()
        assert (rows.sdr > 60).all()
        assert "sir" not in rows
        assert not [name for name in rows if "oracle" in name]


def test_a_model_that_fails_now_and_then_is_counted(tmp_path, test_set):
    def estimate(mixture):
        pair = torch.stack([mixture, 0.5 * mixture], 2)
        return pair * float("nan") if mixture.abs().max() > 0.45 else pair

    model = Model(estimate, torch.nn.Identity(), 8000)
    rows, _ = score(model, test_set(), tmp_path, groups=())
    failed = rows.failures.map(lambda texts: texts == ("estimate: not finite",))
    assert 0 < failed.sum() < len(rows)
    assert rows.si_sdr.isna().equals(failed)
    assert (rows.si_sdri[~failed] == 0).all()


def test_examples_are_written_also_when_all_is_scored(tmp_path, test_set, blur):
    score(blur(), test_set(), tmp_path / "scores", ())
    audio = tmp_path / "audio"
    options = {"audio_folder": str(audio), "save_audio": 1}
    _, timing = score(blur(), test_set(), tmp_path / "scores", (), **options)
    assert timing.scored == 2  # C and SER of the first mixture
    names = {path.name for path in audio.iterdir()}
    signals = ("mixture", "s1", "s2", "s1_target", "s2_target")
    assert names == {f"test_0_{v}_{s}.wav" for v in ("C", "SER") for s in signals}
    estimate, _ = sf.read(audio / "test_0_C_s1.wav")
    target, _ = sf.read(audio / "test_0_C_s1_target.wav")
    assert abs((estimate**2).mean() / (target**2).mean() - 1) < 1e-2
    _, timing = score(blur(), test_set(), tmp_path / "scores", (), **options)
    assert timing.scored == 0


def entry(samples, environment):
    return {"duration": samples / 8000, "sample_rate": 8000, "environment": environment}


def test_rows_are_as_many_as_the_test_set_can_fill():
    manifest = {"a": entry(100, "indoor"), "b": entry(70, "outdoor")}
    assert rows_by_length(manifest, 8) == {100: 5, 70: 4}
    assert rows_by_length(manifest, 3) == {100: 3, 70: 3}
    assert rows_by_length(manifest | {"c": entry(100, "indoor")}, 8)[100] == 8
    assert rows_by_length(manifest, 1) == {}


@given(
    lengths=st.lists(st.integers(1, 9), max_size=40),
    rows=st.dictionaries(st.integers(1, 9), st.integers(1, 5)),
)
def test_every_example_comes_once_in_a_batch_of_its_length(lengths, rows):
    examples = [
        Example(str(i), "C", torch.full((n,), float(i)), None) for i, n in enumerate(lengths)
    ]
    seen = []
    for batch, mixtures in batches_of_one_length(examples, rows):
        seen += [example.id for example in batch]
        assert mixtures.shape == (rows.get(mixtures.shape[1], 1), len(batch[0].mixture))
        for example, mixture in zip(batch, mixtures, strict=False):
            assert torch.equal(example.mixture, mixture)
    assert sorted(seen, key=int) == [example.id for example in examples]


def test_not_everything_is_held_until_the_end():
    read = []

    def examples():
        for length in range(1, 3 * MAX_WAITING):
            read.append(length)
            yield Example(str(length), "C", torch.ones(length), None)

    rows = dict.fromkeys(range(1, 3 * MAX_WAITING), 2)
    next(batches_of_one_length(examples(), rows))
    assert len(read) == MAX_WAITING
