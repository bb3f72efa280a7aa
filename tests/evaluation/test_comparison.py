"""Comparisons against differences taken by hand."""

import json

import numpy as np
import pandas as pd
import pytest

from custom_modules.errors import InputError
from custom_modules.evaluation.comparison import compare, compare_results, in_common, read_results


def results(folder, name, offset, seed=42, mixtures="abcd", noise=0.0, level=0.0, **facts):
    """A results folder: SI-SDRi is the mixture's number plus an offset."""
    rows = []
    random = np.random.default_rng(seed)
    for number, mixture in enumerate(mixtures):
        for variant in ("SER", "C"):
            for source in (1, 2):
                gain = number + offset + noise * random.standard_normal()
                rows.append(
                    {
                        "id": mixture,
                        "variant": variant,
                        "environment": "indoor",
                        "source": source,
                        "si_sdr": gain - 1,
                        "si_sdr_mixture": level,
                        "si_sdri": gain,
                        "stoi": 0.5,
                        "stoii": 0.1,
                        "failures": "",
                    }
                )
    folder.mkdir(parents=True)
    pd.DataFrame(rows).to_csv(folder / "test_results.csv", index=False)
    record = {"model_name": name, "task": "SB", "seed": seed} | facts
    (folder / "test_run.json").write_text(json.dumps(record))
    return folder


def cell(table, model, variant, metric="si_sdri"):
    found = table[(table.model == model) & (table.variant == variant)]
    return found[found.metric == metric].iloc[0]


def test_differences_are_paired(tmp_path):
    folders = [results(tmp_path / "a", "a", 0), results(tmp_path / "b", "b", 2, 7)]
    table = compare(in_common(read_results(folders)))
    first, second = cell(table, "a", "SER"), cell(table, "b", "SER")
    assert (first["mean"], second["mean"]) == (1.5, 3.5)
    assert np.isnan(first.difference)
    # The same for every mixture: paired, there is no doubt about it.
    assert second.difference == second.difference_ci_low == 2
    assert second.won == 1
    assert first.ci_low < 1.5 < first.ci_high
    assert cell(table, "b", "all mixtures", "stoii").won == 0


def test_seeds_of_a_model_are_pooled(tmp_path):
    folders = [results(tmp_path / "a", "a", 0)]
    folders += [results(tmp_path / f"b{s}", "b", s, seed=s) for s in (1, 2, 6)]
    table = compare(in_common(read_results(folders)))
    pooled = cell(table, "b", "C")
    assert pooled.seeds == 3
    assert pooled["mean"] == pytest.approx(1.5 + 3)
    assert pooled.std_over_seeds == pytest.approx(np.std([1, 2, 6], ddof=1))
    assert pooled.difference == pytest.approx(3)
    assert np.isnan(cell(table, "a", "C").std_over_seeds)


def test_one_model_twice_with_one_seed_goes_by_its_paths(tmp_path):
    folders = [results(tmp_path / name, "a", n) for n, name in enumerate("xy")]
    assert list(read_results(folders)) == list(map(str, folders))


def test_results_without_a_seed_are_no_seed(tmp_path):
    folders = [results(tmp_path / f"b{s}", "b", 0, seed=s) for s in (1, 2, None)]
    assert list(read_results(folders)) == list(map(str, folders))
    folders = [folders[2], results(tmp_path / "a", "a", 0)]
    assert list(read_results(folders)) == ["b", "a"]


@pytest.mark.parametrize(
    ("fact", "message"),
    [
        ({"task": "EB"}, r"tasks EB .*b\), SB .*a\) cannot"),
        ({"sample_rate": 16000}, "sample rates 16000"),
        ({"split": "val"}, r"splits None .*a\), val .*b\) cannot be compared"),
    ],
)
def test_results_of_different_kinds_are_refused(tmp_path, fact, message):
    folders = [results(tmp_path / "a", "a", 0), results(tmp_path / "b", "b", 0, **fact)]
    with pytest.raises(InputError, match=message):
        read_results(folders)


@pytest.mark.parametrize("level", [1.0, -0.02, np.nan])
def test_other_audio_under_the_same_names_is_refused(tmp_path, level):
    a, b = results(tmp_path / "a", "a", 0), results(tmp_path / "b", "b", 1, level=level)
    with pytest.raises(InputError, match=r"a and .*b: other audio.* in 8 of 8"):
        in_common(read_results([a, b]))


def test_another_device_rounds_otherwise_and_is_no_other_audio(tmp_path):
    a, b = results(tmp_path / "a", "a", 0), results(tmp_path / "b", "b", 1, level=5e-3)
    assert len(in_common(read_results([a, b]))) == 2


def test_only_what_all_have_is_compared(tmp_path):
    folders = [results(tmp_path / "a", "a", 0, mixtures="abc")]
    folders.append(results(tmp_path / "b", "b", 1, mixtures="cab"[:2]))  # other order
    table = compare(in_common(read_results(folders)))
    assert cell(table, "a", "SER").n == 2
    # c and a are numbers 2 and 0 here, 0 and 1 there
    assert cell(table, "b", "SER").difference == pytest.approx(1.5 - 1)


def test_files_and_words(tmp_path, capsys):
    folders = [results(tmp_path / "a", "a", 0, noise=0.1)]
    folders.append(results(tmp_path / "b", "b", 1, seed=3, noise=0.1))
    table = compare_results(folders, tmp_path / "out", tmp_path / "more.csv")
    saved = pd.read_csv(tmp_path / "more.csv")
    pd.testing.assert_frame_equal(saved, table, check_dtype=False, rtol=1e-4)
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert text in capsys.readouterr().out
    assert "| b − a | 95 % interval |" in text
    assert "over mixtures, as it is not known who talks" in text
    assert "- a is worse than b" in text
    assert len(pd.read_csv(tmp_path / "out" / "comparison_pairs.csv")) == 2  # of two metrics
    assert "±" not in text  # one seed each
    assert "Left out" not in text
    assert (tmp_path / "out" / "comparison.png").read_bytes()[:4] == b"\x89PNG"


def test_results_without_si_sdr_are_refused(tmp_path):
    folders = [results(tmp_path / name, name, 0) for name in "ab"]
    path = folders[1] / "test_results.csv"
    pd.read_csv(path).drop(columns="si_sdri").to_csv(path, index=False)
    with pytest.raises(InputError, match=r"b/test_results.csv: .*si_sdri"):
        compare_results(folders, tmp_path / "out")


def test_words_of_another_comparison_do_not_stay(tmp_path):
    folders = [results(tmp_path / name, name, 0) for name in "ab"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "comparison_words.csv").write_text("of other results\n")
    compare_results(folders, tmp_path / "out")
    assert not (tmp_path / "out" / "comparison_words.csv").exists()


def test_all_variants_leave_out_what_has_no_improvement(tmp_path):
    """C of a task with one output, in every model; not what one model lacks."""
    folders = [results(tmp_path / name, name, 0, task="ES") for name in "ab"]
    for folder in folders:
        path = folder / "test_results.csv"
        rows = pd.read_csv(path)
        rows.loc[rows.variant == "C", "si_sdri"] = np.nan
        rows.to_csv(path, index=False)
    table = compare(in_common(read_results(folders)))
    assert cell(table, "b", "all variants")["mean"] == cell(table, "b", "SER")["mean"] == 1.5


def with_voices(folder, voices):
    rows = pd.read_csv(folder / "test_results.csv")
    pairs = rows.id.map(voices)
    rows.assign(voice1=pairs.str[0], voice2=pairs.str[1]).to_csv(
        folder / "test_results.csv", index=False
    )
    return folder


def test_voices_that_one_knows_are_known_of_all(tmp_path, caplog):
    """Results of before voices were written: others' voices, a manifest's, or a line."""
    voices = {"a": "xy", "b": "yz", "c": "zx", "d": "xy"}
    old = results(tmp_path / "a", "a", 0, noise=1, split="test", data_folder="none")
    new = with_voices(results(tmp_path / "b", "b", 1, seed=3, noise=1, split="test"), voices)
    table = compare(in_common(read_results([old, new])))
    assert set(table.voices) == {3} and not caplog.text
    other = results(tmp_path / "c", "c", 1, seed=4, noise=1, split="test")
    assert compare(in_common(read_results([old, other]))).voices.isna().all()
    assert caplog.text.count("run evaluate.py on it again") == 2
    entry = {"duration": 1.0, "sample_rate": 8000, "environment": "indoor", "s2_layers": []}
    entry |= dict.fromkeys(("mix", "s1", "s2"), "{data_root}/x.wav")
    entry["variants"] = {v: [] for v in ("SER", "SR", "ER", "R", "C")}
    manifest = {
        name: entry | {"speaker1": first, "speaker2": second}
        for name, (first, second) in voices.items()
    }
    (old / "test_scores").mkdir()
    (old / "test_scores" / "test.json").write_text(json.dumps(manifest))
    again = compare(in_common(read_results([old, other])))
    assert set(again.voices) == {3}
    expected = table[table.model == "a"].ci_low.to_numpy()
    np.testing.assert_array_equal(again[again.model == "a"].ci_low, expected)


def test_what_is_left_out_is_said(tmp_path, capsys):
    a, b = results(tmp_path / "a", "a", 0), results(tmp_path / "b", "b", 1)
    b2 = results(tmp_path / "b2", "b", 1, seed=2, mixtures="abc")
    rows = pd.read_csv(a / "test_results.csv").drop(columns=["stoi", "stoii"])
    rows = pd.concat([rows, rows.assign(variant="E")]).assign(pesq=1.0, pesqi=0.5)
    rows.to_csv(a / "test_results.csv", index=False)
    compare_results([str(f) for f in (a, b, b2)], tmp_path / "out")
    text = capsys.readouterr().out
    (line,) = [x for x in text.splitlines() if x.startswith("Left out")]
    assert line.endswith(": variants E; metrics PESQ, STOI; 1 mixture.")
    assert "± is the standard deviation over seeds" in text


def test_what_cannot_be_compared_is_refused(tmp_path):
    a = results(tmp_path / "a", "a", 0)
    with pytest.raises(InputError, match="one model only"):
        read_results([a])
    with pytest.raises(InputError, match="named twice"):
        read_results([a, a])
    with pytest.raises(InputError, match="named twice"):
        read_results([a, a / ".." / "a"])
    with pytest.raises(InputError, match=r"none.*cannot be read"):
        read_results([a, tmp_path / "none"])
    elsewhere = results(tmp_path / "c", "c", 0, mixtures="xyz")
    with pytest.raises(InputError, match="in common"):
        in_common(read_results([a, elsewhere]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:-1], "lacks sources of some mixtures"),
        (lambda rows: rows.assign(variant="XER"), "row 2: is no row of a test"),
        (lambda rows: rows.assign(id=[*rows.id[:-1], ""]), "row 17: is no row of a test"),
        (lambda rows: rows.assign(environment="here"), "row 2: is no row of a test"),
        (lambda rows: rows.assign(si_sdri="0,5"), "column si_sdri"),
        (lambda rows: rows.drop(columns="source"), "has no column source"),
    ],
)
def test_results_that_are_damaged_are_named(tmp_path, change, message):
    a, b = results(tmp_path / "a", "a", 0), results(tmp_path / "b", "b", 1)
    change(pd.read_csv(b / "test_results.csv")).to_csv(b / "test_results.csv", index=False)
    with pytest.raises(InputError, match=rf"b/test_results.csv\b.*{message}.*run evaluate.py"):
        read_results([a, b])
    (a / "test_run.json").write_text("[]")
    with pytest.raises(InputError, match=r"a/test_run.json: cannot be read .*run evaluate.py"):
        read_results([a, b])
