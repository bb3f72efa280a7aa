"""The page of results says what the CSV files say, cell by cell."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from custom_modules.errors import InputError
from recipes.benchmark.campaign import page as pages

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "recipes/separation/README.md"
CELL = re.compile(r"(-?[\d.]+)(?: ± (-?[\d.]+))?(?: \[(-?[\d.]+) … (-?[\d.]+)\])?")


def write_figures(folder):
    """Figures of two architectures, of unround numbers."""
    folder.mkdir(parents=True)
    rows, number = [], 0.123456
    for model, seeds in (("dprnn", 3), ("spmamba", 1)):
        for variant in ("SER", "C", "all mixtures"):
            for metric in ("si_sdri", "pesqi", "stoii"):
                number = (number * 7.77) % 10
                rows.append(
                    {
                        "model": model,
                        "seeds": seeds,
                        "variant": variant,
                        "metric": metric,
                        "n": 60,
                        "mean": number,
                        "ci_low": number - 1.01,
                        "ci_high": number + 1.02,
                        "std_over_seeds": 0.345 if seeds > 1 else float("nan"),
                    }
                )
    pd.DataFrame(rows).to_csv(folder / pages.COMPARISON, index=False)
    costs = {"parameters": 1.23e6, "macs_per_second": 4.56e9}
    costs |= {"real_time_factor": 0.0789, "step_seconds": 0.4}
    costs |= {"inference_mib": 12.3, "step_mib": 45.6}
    models = ["dprnn", "spmamba"]
    pd.DataFrame([{"model": m} | costs for m in models]).to_csv(folder / pages.COSTS, index=False)
    runs = [
        {"model": "dprnn", "seed": 1, "steps": 70, "minutes": 9, "epochs": 3},
        {"model": "dprnn", "seed": 2, "steps": 70, "minutes": 11, "epochs": 3},
        {"model": "spmamba", "seed": 1, "steps": 30, "minutes": 10, "epochs": 2},
    ]
    runs = pd.DataFrame(runs)
    runs["minutes_per_epoch"] = runs.minutes / runs.epochs
    runs.to_csv(folder / pages.RUNS, index=False)
    record = {
        "command": "python x.py",
        "budget_minutes": 10.0,
        "seeds": [1, 2],
        "commits": ["abc"],
        "device": "a CPU",
        "versions": ["torch 2"],
        "days": ["2026-01-01", "2026-01-02"],
    }
    (folder / pages.RECORD).write_text(json.dumps(record), encoding="utf-8")
    return folder


def tables_of(text):
    """Tables of a page, each a list of rows of cells."""
    blocks = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    return [
        [[c.strip() for c in line.strip("|\n ").split("|")] for line in b.splitlines()]
        for b in blocks
    ]


NAMES = {"SI-SDRi": "si_sdri", "SDRi": "sdri", "SIRi": "siri", "PESQi": "pesqi"}
NAMES |= {"STOIi": "stoii", "ESTOIi": "estoii"}


def check_scores(table, scores, key):
    """Every cell of a table, against a lookup of its own in the CSV."""
    (_, *headings), _, *lines = table
    assert {line[0] for line in lines} == {*scores.model, "n"} | {"voices"} & {*scores}
    for name, *cells in lines:
        for heading, cell in zip(headings, cells, strict=True):
            of_key = scores[scores[key] == (NAMES[heading] if key == "metric" else heading)]
            if name in ("n", "voices"):
                assert int(cell) == of_key[name].iloc[0]
                continue
            (found,) = (row for _, row in of_key[of_key.model == name].iterrows())
            assert (cell == "–") == pd.isna(found["mean"])
            if cell == "–":
                continue
            shown = CELL.fullmatch(cell).groups()
            bounds = (found.ci_low, found.ci_high) if key == "metric" else (float("nan"),) * 2
            values = (found["mean"], found.std_over_seeds, *bounds)
            for text, value in zip(shown, values, strict=True):
                check_number(text, value)


def check_words(table, words):
    (_, *variants), _, *lines = table
    first = words.model.iloc[0]
    others = {"each voice alone": (first, "targets"), "mixture": (first, "mixture")}
    assert [line[0] for line in lines] == [*others, *dict.fromkeys(words.model)]
    for name, *cells in lines:
        model, arm = others.get(name, (name, "model"))
        for variant, cell in zip(variants, cells, strict=True):
            known = (words.model == model) & (words.arm == arm) & (words.variant == variant)
            (found,) = (row for _, row in words[known].iterrows())
            mean, _, *bounds = CELL.fullmatch(cell).groups()
            for text, value in zip((mean, *bounds), found[["wer", "low", "high"]], strict=True):
                check_number(text, value)


def check_number(text, value):
    """Whether a text is a value, rounded; none where there is none."""
    assert (text is None) == pd.isna(value)
    if text is not None:
        unit = 10.0 ** -len(text.partition(".")[2])
        assert abs(float(text) - value) <= 0.5 * unit + 1e-9


def check_costs(table, costs, runs):
    """Every cell of a table, against a lookup of its own in the two CSVs."""
    of_costs = {
        "parameters, M": ("parameters", 1e6),
        "GMAC per s of audio": ("macs_per_second", 1e9),
        "real-time factor": ("real_time_factor", 1),
        "inference, MiB": ("inference_mib", 1),
        "training, MiB": ("step_mib", 1),
    }
    of_runs = {"min per epoch": "minutes_per_epoch", "min in all": "minutes"}
    (_, *headings), _, *lines = table
    assert set(headings) == {*of_costs, *of_runs, "steps"}
    assert [line[0] for line in lines] == list(costs.model)
    for model, *cells in lines:
        mine = runs[runs.model == model]
        for heading, cell in zip(headings, cells, strict=True):
            mean, _, spread = cell.partition(" ± ")
            if heading in of_costs:
                column, divisor = of_costs[heading]
                value = costs[column][costs.model == model].item() / divisor
                check_number(mean, value)
                assert not spread
            elif heading == "steps":
                assert set(mine.steps) == {int(cell)}
            else:
                values = mine[of_runs[heading]]
                check_number(mean, values.mean())
                check_number(spread or None, values.std())


def check_pairs(tables, pairs):
    """The matrix of each metric that is shown, against a lookup of each pair."""
    shown = [name for name in ("si_sdri", "wer") if name in {*pairs.metric}]
    assert len(tables) == len(shown)
    for metric, ((_, *columns), _, *lines) in zip(shown, tables, strict=True):
        assert [line[0] for line in lines] == columns
        cells = {
            (name, column): cell
            for name, *row in lines  # without the empty last cell of the diagonal
            for column, cell in zip(columns, row, strict=False)
        }
        for row in pairs[pairs.metric == metric].itertuples():
            cell = cells[row.model, row.other].removesuffix(" [–]")  # of too few voices
            mean, _, *bounds = CELL.fullmatch(cell).groups()
            values = (row.difference, row.low, row.high)
            for text, value in zip((mean, *bounds), values, strict=True):
                check_number(text, value)
            p = cells[row.other, row.model].removeprefix("p ").removeprefix("–") or None
            if p == "< 0.001":
                assert row.p_holm < 0.001
            else:
                check_number(p, row.p_holm)


def check_page(text, folder):
    scores = pd.read_csv(folder / pages.COMPARISON)
    by_metric, by_variant, *others, costs = tables_of(text)
    check_scores(by_metric, scores[scores.variant == "all mixtures"], "metric")
    check_scores(by_variant, scores[scores.metric == "si_sdri"], "variant")
    if (folder / pages.WORDS).exists():
        check_words(others.pop(0), pd.read_csv(folder / pages.WORDS))
    if (folder / pages.PAIRS).exists():
        check_pairs(others, pd.read_csv(folder / pages.PAIRS))
    else:
        assert not others
    check_costs(costs, pd.read_csv(folder / pages.COSTS), pd.read_csv(folder / pages.RUNS))


def checked_page(folder):
    """A page of the figures in ``figures/x``, beside them, each cell of which is checked."""
    page = folder.parents[1] / "README.md"
    page.write_text("<!-- begin x -->\n<!-- end x -->\n")
    pages.update_page(page, "x", folder)
    text = page.read_text(encoding="utf-8")
    check_page(text, folder)
    return text


def test_cells_are_the_values_of_the_files(tmp_path):
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- begin x -->\nold\n<!-- end x -->\nafter\n")
    folder = write_figures(tmp_path / "figures/x")
    pages.update_page(page, "x", folder)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n<!-- begin x -->\n")
    assert text.endswith("<!-- end x -->\nafter\n")
    assert "old" not in text and "figures/x/comparison.png" in text
    assert text.count("`python x.py`; 10 min of training a run; seeds 1, 2") == 1
    check_page(text, folder)
    assert tables_of(text)[2][2][-1] == "10.0 ± 1.4"  # of 9 and 11 minutes
    pages.update_page(page, "x", folder)
    assert page.read_text(encoding="utf-8") == text


def test_a_page_without_marks_is_left_alone(tmp_path):
    page = tmp_path / "README.md"
    page.write_text("<!-- end x --> <!-- begin x -->")
    with pytest.raises(InputError, match="begin x"):
        pages.update_page(page, "x", write_figures(tmp_path / "figures/x"))
    assert page.read_text() == "<!-- end x --> <!-- begin x -->"


def test_pairs_and_voices_are_shown_where_a_campaign_has_them(tmp_path):
    folder = write_figures(tmp_path / "figures/x")
    scores = pd.read_csv(folder / pages.COMPARISON).assign(voices=16)
    scores.to_csv(folder / pages.COMPARISON, index=False)
    pair = {"metric": "si_sdri", "model": "dprnn", "other": "spmamba", "n": 60, "voices": 16}
    pair |= {"difference": 1.234, "low": 0.5, "high": 2.0, "p": 0.004, "p_holm": 0.004}
    pd.DataFrame([pair]).to_csv(folder / pages.PAIRS, index=False)
    text = checked_page(folder)
    assert "| 1.23 [0.50 … 2.00] |" in text and "p 0.004" in text
    assert "- dprnn is better than spmamba." in text


@pytest.mark.parametrize(
    ("variants", "shown"),
    [
        (("SER", "C", "all mixtures"), ["SER", "C", "all mixtures"]),
        (("C", "C indoor", "all mixtures"), ["C", "C indoor"]),  # all are those of C
    ],
)
def test_words_are_shown_where_a_campaign_counted_them(tmp_path, variants, shown):
    folder = write_figures(tmp_path / "figures/x")
    rows = [
        {"model": m, "variant": v, "arm": a, "wer": w, "low": w - 3.3, "high": w + 4.4}
        for i, m in enumerate(("dprnn", "spmamba"))
        for j, v in enumerate(variants)
        for w, a in ((9.87 + j, "targets"), (55.54 + j, "mixture"), (40.04 + i + j, "model"))
    ]
    pd.DataFrame(rows).to_csv(folder / pages.WORDS, index=False)
    text = checked_page(folder)
    assert "| 55.5 [52.2 … 59.9] |" in text
    (columns,) = (x[0] for x in tables_of(text) if x[2][0] == "each voice alone")
    assert columns[1:] == shown


def test_a_test_of_another_commit_than_the_training_says_so(tmp_path):
    folder = write_figures(tmp_path / "figures/x")
    record = json.loads((folder / pages.RECORD).read_text())
    cases = [
        (
            ["0123456"],
            ["0123456aaaaa", "0123456aaaaa-dirty"],
            "commit 0123456aaaaa, 0123456aaaaa-d",
        ),
        (["0123456"], ["abcdefgaaaaa"], "trained at commit 0123456, tested at abcdefgaaaaa;"),
        (
            ["0123456", "abcdefg"],
            ["abcdefgaaaaa"],
            "trained at commit 0123456, abcdefg, tested at a",
        ),
        (
            ["abcdefg"],
            ["0123456aaaaa", "abcdefgaaaaa"],
            "trained at commit abcdefg, tested at 0123",
        ),
    ]
    for trained, tested, words in cases:
        changed = record | {"trained_at": trained, "commits": tested}
        (folder / pages.RECORD).write_text(json.dumps(changed))
        assert f"; {words}" in pages.render(tmp_path / "README.md", folder)


@pytest.mark.parametrize("preset", ["small", "full"])
def test_the_page_shows_what_was_committed(preset, tmp_path):
    """Before a campaign was run, the page says that it was not."""
    text = PAGE.read_text(encoding="utf-8")
    middle = text.split(f"<!-- begin {preset} -->")[1]
    middle = middle.split(f"<!-- end {preset} -->")[0]
    folder = PAGE.parent / "figures" / preset
    if not folder.exists():
        assert middle.strip().startswith("*Not run yet")
        return
    check_page(middle, folder)
    copy = tmp_path / "README.md"
    copy.write_text(text, encoding="utf-8")
    (tmp_path / "figures").symlink_to(PAGE.parent / "figures")
    pages.update_page(copy, preset, tmp_path / "figures" / preset)
    assert copy.read_text(encoding="utf-8") == text
