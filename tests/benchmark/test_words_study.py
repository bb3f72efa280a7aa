"""The study of words: its runs, that its table says what results say, and the whole of it, tiny."""

import json

import numpy as np
import pandas as pd
import pytest

from custom_modules.mmipc import variants_of
from recipes.benchmark import words
from recipes.benchmark.words import ARMS, FIRST, GROUPS, ROWS, TESTS, Study
from tests.integration.test_recognition_command import tiny_corpus

VOICES = "abcd"


@pytest.fixture
def study(tmp_path):
    """Results by chance, kept as they are written by evaluate.py."""
    study = Study(tmp_path, tmp_path / "corpus", 100, [1, 2], 3, 2)
    rng = np.random.default_rng(7)
    ids = [f"0{i}" for i in range(12)]
    keys = [(x, v) for x in ids for v in ("C", "SER", "R")]
    layers = {"mix": "{data_root}/m", "s1": "{data_root}/1", "s2": "{data_root}/2"}
    entry = {"duration": 0.1, "sample_rate": 8000, "environment": "indoor", **layers}
    entry |= {"s2_layers": [], "variants": {key: [] for key in variants_of("indoor")}}
    for run in study.tests():
        for command in run.commands[1:]:
            (folder,) = {x[16:] for x in command if x.startswith("--output_folder=")}
            place = study.folder / folder
            (place / "words").mkdir(parents=True)
            (place / "test_scores").mkdir()
            entries = {
                x: entry | {"speaker1": VOICES[i % 4], "speaker2": VOICES[(i + 1 + i // 4) % 4]}
                for i, x in enumerate(ids)
            }
            (place / "test_scores" / "test.json").write_text(json.dumps(entries))
            scores = pd.DataFrame(keys, columns=["id", "variant"])
            scores = scores.assign(si_sdr=rng.normal(5, 2, len(keys)), si_sdr_mixture=1.0)
            scores.to_csv(place / "test_results.csv", index=False)
            rows = [
                (*k, arm) for k in keys for arm in ("targets", "mixture", "model", "model_gated")
            ]
            counts = pd.DataFrame(rows, columns=["id", "variant", "arm"])
            counts["errors"] = rng.integers(0, 11, len(counts))
            counts["length"] = rng.integers(8, 12, len(counts))
            counts.to_csv(place / "words" / "counts.csv", index=False)
    return study


def test_each_training_has_its_seeds_folder_and_all_recognisers(study):
    runs = [*study.trainings(), *study.tests()]
    assert len({run.folder for run in runs}) == len(runs) == 1 + 2 * 2 * len(ARMS)
    (recogniser,) = [run for run in runs if run.model == "recogniser"]
    further = recogniser.commands[1]
    assert f"--output_folder={study.further}" in further
    assert f"--start_from={recogniser.folder}" in further
    assert not any(option.startswith("--separator") for option in further)
    for run in study.tests():
        tune, *tests = run.commands
        assert f"--start_from={recogniser.folder}" in tune
        heard = {x for test in tests for x in test if x.startswith("--recogniser=")}
        assert heard == {
            f"--recogniser=mini:{recogniser.folder}",
            f"--recogniser=mini:{study.further}",
            f"--recogniser=mini:{run.folder / 'recogniser'}",
        }
        is_first = run.model == f"{FIRST}, words"
        assert sum("--observation_db=-6" in test for test in tests) == (3 if is_first else 0)
    other = study._replace(steps=200)
    assert not {r.folder for r in other.tests()} & {r.folder for r in study.tests()}


def test_its_table_is_sums_over_seeds(study):
    rows = {line[0]: line for line in words.table(study)[1:]}
    assert len(rows) == len(GROUPS) * len(ROWS)
    for (group, variants), (row, (arm, test, kind)) in (
        (x, y) for x in GROUPS.items() for y in ROWS.items()
    ):
        line = rows[f"{group}: {row}"]
        for column, name in zip((3, 5, 7), TESTS, strict=True):
            errors = length = 0
            for seed in (1, 2):
                place = study.place(arm, seed) / "words" / f"{name}{test}"
                for x in pd.read_csv(place / "words" / "counts.csv").itertuples():
                    if x.variant in variants and x.arm == kind:
                        errors, length = errors + x.errors, length + x.length
            assert float(line[column]) == pytest.approx(100 * errors / length, abs=0.06)
            low, high = map(float, line[column + 1].split(" … "))
            assert low < float(line[column]) < high
        assert (line[1] == "–") == (kind != "model")


def test_an_hour_of_two_cores_is_what_it_takes(tmp_path):
    options = words.parse([])
    epochs = options.recogniser_epochs, options.tuning_epochs
    study = Study(tmp_path, tmp_path, options.steps, options.seeds, *epochs)
    assert study.minutes(0.2, 2) < 60
    assert study.minutes(0.2, 1) == 2 * study.minutes(0.2, 2)


@pytest.mark.slow
def test_all_of_it_from_a_corpus_to_a_page_and_again(tmp_path, monkeypatch, capsys):
    """With one of the trainings, a step long; a second time there is nothing to do."""
    kept = {FIRST}
    monkeypatch.setattr(words, "ARMS", {x: y for x, y in ARMS.items() if x in kept})
    monkeypatch.setattr(words, "ROWS", {x: y for x, y in ROWS.items() if y[0] in kept})
    file = tmp_path / "page.md"
    file.write_text("before\n\n<!-- begin experiment -->\n<!-- end experiment -->\n\nafter\n")
    argv = [f"--data_folder={tiny_corpus(tmp_path)}", f"--output_folder={tmp_path / 'out'}"]
    argv += ["--steps=1", "--seeds", "3", "--recogniser_epochs=1", "--tuning_epochs=1"]
    argv += [f"--page={file}"]
    words.main(argv)
    assert "minutes in all, with 2 at a time" in capsys.readouterr().out
    text = file.read_text("utf-8")
    assert text.startswith("before") and text.endswith("after\n")
    assert text.count("\n| ") == 2 + len(GROUPS) * len(words.ROWS)
    finished = {x: x.stat().st_mtime_ns for x in tmp_path.glob("out/**/finished.json")}
    assert len(finished) == 1 + 2 * len(kept)
    words.main(argv)
    assert {x: x.stat().st_mtime_ns for x in finished} == finished
    assert file.read_text("utf-8") == text
