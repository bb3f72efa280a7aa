"""Every two speakers tested once, and the tests of a model as one."""

import argparse
import json
from itertools import product
from pathlib import Path

import pandas as pd
import pytest

from custom_modules.errors import InputError
from custom_modules.evaluation.comparison import compare_results
from custom_modules.evaluation.options import split_options
from recipes.benchmark import real_voices
from recipes.benchmark.campaign.runs import ENDLESS, Run, plan
from recipes.benchmark.campaign.runs import test_of as make_test

#: A mixture's own columns in test_results.csv.
MIXTURE = {"environment": "indoor", "genders": "ff", "ssr": 1, "scene_class": "park"}
WORDS = {"recogniser": "whisper", "version": "1", "options": {}, "text_rules": 1}


@pytest.fixture
def runs(tmp_path):
    """Two tests of each of two models, of mixtures that have the same names."""
    made = []
    for model, number in product(("dprnn", "spmamba"), (1, 2)):
        folder = tmp_path / model / str(number)
        (folder / "words/words").mkdir(parents=True)
        (folder / "test").mkdir()
        voices = {"voice1": f"00{number}", "voice2": "b"}
        rows = [
            {"id": name, "variant": "C", "source": source, "si_sdri": number + 0.5, "failures": ""}
            | {"si_sdr": 9.0, "si_sdr_mixture": 1.0, **MIXTURE, **voices}
            for name, source in product(("007", "8"), (1, 2))
        ]
        pd.DataFrame(rows).to_csv(folder / "test/test_results.csv", index=False)
        counts = [
            {"id": "007", "variant": "C", "arm": arm, "errors": number, "length": 4}
            | {"insertions": 0, "deletions": 0, "substitutions": number}
            for arm in ("targets", "mixture", "model")
        ]
        pd.DataFrame(counts).to_csv(folder / "words/words/counts.csv", index=False)
        record = {"model_name": model, "seed": number, "task": "SB", "sample_rate": 8000}
        (folder / "test/test_run.json").write_text(json.dumps(record))
        words = {"words": WORDS | {"pseudo_references": False}}
        (folder / "words/test_run.json").write_text(json.dumps(record | words))
        made.append(Run(model, number, folder, [], ENDLESS))
    return made


def pooled(runs, folder, heard):
    models = ("dprnn", "spmamba")
    own = {model: [run for run in runs if run.model == model] for model in models}
    return [real_voices.pool(folder, model, own[model], heard) for model in models]


def test_mixtures_of_one_name_stay_apart(runs, tmp_path):
    place, _ = map(Path, pooled(runs, tmp_path, heard=True))
    assert place == tmp_path / "pooled/dprnn"
    table = pd.read_csv(place / "test_results.csv", dtype={"voice1": str})
    assert table.id.unique().tolist() == ["1/007", "1/8", "2/007", "2/8"]
    assert table.groupby("id").voice1.first().tolist() == ["001", "001", "002", "002"]
    assert table.groupby("id").si_sdri.first().tolist() == [1.5, 1.5, 2.5, 2.5]
    counts = pd.read_csv(place / "words/counts.csv")
    assert counts[counts.arm == "model"].id.tolist() == ["1/007", "2/007"]
    assert counts[counts.arm == "model"].errors.tolist() == [1, 2]


def test_words_that_were_heard_are_compared_and_others_are_not(runs, tmp_path, capsys):
    compare_results(pooled(runs, tmp_path, heard=True), tmp_path / "with")
    words = pd.read_csv(tmp_path / "with/comparison_words.csv")
    model = words[(words.arm == "model") & (words.variant == "C")]
    assert model.wer.tolist() == [100 * 3 / 8] * 2 and model.n.tolist() == [2, 2]
    compare_results(pooled(runs, tmp_path, heard=False), tmp_path / "without")
    assert not (tmp_path / "without/comparison_words.csv").exists()


def test_tests_of_two_recognisers_are_not_one(runs, tmp_path):
    path = runs[1].folder / "words/test_run.json"
    record = json.loads(path.read_text())
    record["words"]["version"] = "2"
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"dprnn/2/words: words is not that of .*dprnn/1/words"):
        pooled(runs, tmp_path, heard=True)


def test_three_speakers_are_too_few(tmp_path):
    for name in "ABC":
        (tmp_path / name).mkdir()
    with pytest.raises(InputError, match="has folders of 3 speakers; four are needed"):
        real_voices.speakers_in(argparse.Namespace(speech_folder=str(tmp_path)))


def test_every_pair_is_tested_and_never_trained_on(tmp_path, monkeypatch):
    speech, made = tmp_path / "speech", []
    for name in ("A", "A_B", "B", "C", ".cache"):
        (speech / name).mkdir(parents=True)

    def generate(place, given, hparams):
        made.append(dict(x.removeprefix("--").split("=", 1) for x in given) | {"place": place})
        return str(place)

    monkeypatch.setattr(real_voices.campaign, "generate", generate)
    options = argparse.Namespace(**dict.fromkeys(real_voices.SOURCES, str(speech)))
    corpora = real_voices.make_corpora(options, tmp_path)
    assert len(set(corpora)) == len(made) == 6
    subsets = [json.loads(command["speakers"]) for command in made]
    for subset in subsets:
        assert sorted(subset["train"] + subset["test"]) == ["A", "A_B", "B", "C"]
    assert len({tuple(subset["test"]) for subset in subsets}) == 6
    assert {command["utterances"] for command in made} == {"whole"}


def test_a_test_is_of_three_variants():
    (run,) = plan("hparams/small", "data", "out", {"dprnn": 7}, [5])
    (command,) = make_test(run, "data", "whisper:tiny", real_voices.VARIANTS).commands
    options, rest = split_options(command[2:])
    assert options.variants == ("C", "SER", "SE")
    assert {*rest} == {"--data_folder=data", "--noprogressbar", "--output_folder=out/dprnn/5/test"}


def test_the_ranking_is_spearman_s(tmp_path):
    scores = {"here": [3.0, 1.0, 2.0, 0.5, -1.0], "there": [1.0, 2.0, 4.0, 0.0, 9.0]}
    for name, means in scores.items():
        rows = {"model": [*"abcde"], "mean": means, "variant": "all mixtures", "metric": "si_sdri"}
        other = {"model": [*"ab"], "mean": [8.0, 9.0], "variant": "C", "metric": "si_sdri"}
        (tmp_path / name).mkdir()
        table = pd.concat([pd.DataFrame(rows), pd.DataFrame(other)])
        table.to_csv(tmp_path / name / "comparison.csv", index=False)
    places = [5, 3, 4, 2, 1], [2, 3, 4, 1, 5]
    rho = 1 - 6 * sum((a - b) ** 2 for a, b in zip(*places, strict=True)) / (5 * 24)
    said = real_voices.ranking(tmp_path / "here", tmp_path / "there")
    assert f"correlation of {rho:.2f} " in said.replace("−", "-")
    assert "a, c, b here, e, c, b there" in said
    few = pd.read_csv(tmp_path / "here/comparison.csv").query("model in ['a', 'b']")
    few.to_csv(tmp_path / "here/comparison.csv", index=False)
    assert "too few models" in real_voices.ranking(tmp_path / "here", tmp_path / "there")


def test_words_are_of_clean_speech_and_in_a_folder_of_their_own():
    (run,) = plan("hparams/small", "data", "out", {"dprnn": 7}, [5])
    words = make_test(run, "data", "whisper:tiny", real_voices.WORDS, real_voices.HEARD)
    ((_, hparams, *options),) = words.commands
    assert hparams == f"{run.folder}/hyperparams.yaml"
    options, rest = split_options(options)
    assert (options.variants, options.recogniser) == (("C",), "whisper:tiny")
    assert words.folder == run.folder / "words"
    assert f"--output_folder={words.folder}" in rest


def test_words_need_a_table():
    argv = [f"--{x}_folder=x" for x in ("speech", "scene", "event")]
    with pytest.raises(InputError, match="speech_table"):
        real_voices.parse([*argv, "--recogniser=whisper:tiny"])
