"""Markdown that renders, and says what was counted."""

import pandas as pd

from custom_modules.evaluation.summary import EVERY, summarise
from custom_modules.evaluation.tables import failures_table, gains_table, scores_table, spread_table
from tests.evaluation.test_summary import ROWS

FULL = ROWS.assign(
    **{
        f"{name}{suffix}": value
        for name in ("si_sdr", "pesq", "stoi")
        for suffix, value in {"": 1.234, "_mixture": 1.0, "_oracle": 2.0}.items()
    },
    pesqi=0.25,
    stoii=0.1234,
    si_sdri_oracle=1.0,
)


def every(rows):
    summary = summarise(rows)
    return summary[summary.group == EVERY]


def cells(table):
    lines = [line.strip("|").split("|") for line in table.splitlines()]
    assert len({len(line) for line in lines}) == 1
    assert all(set(cell) <= set(" -:") for cell in lines[1])
    return [[cell.strip() for cell in line] for line in lines]


def test_gains_have_interval_deviation_oracle_and_failures():
    head, _, *lines = cells(gains_table(every(FULL)))
    assert head == [
        *("variant", "n", "incomplete", "SI-SDRi", "95 % interval", "std"),
        *("oracle SI-SDRi", "PESQi", "STOIi"),
    ]
    by_name = {line[0]: line for line in lines}
    expected = ["C", "2", "1", "8.50", "–", "3.54", "1.00", "0.25", "0.123"]
    assert by_name["C"] == expected
    assert by_name["SER"][4:6] == ["–", "–"]
    assert list(by_name)[-2:] == ["all variants", "all mixtures"]


def test_nothing_failed_is_no_column():
    rows = FULL.assign(si_sdri=1.0, si_sdr=2.0)
    assert "incomplete" not in cells(gains_table(every(rows)))[0]


def test_a_source_is_counted_whichever_score_it_lacks():
    rows = FULL.assign(si_sdri=1.0, si_sdr=2.0)
    rows.loc[[2, 4], "pesqi"] = None  # two sources of C, without one score
    rows.loc[[4, 5], "stoi_mixture"] = None  # two, of which one lacked another
    summary = every(rows)
    lines = {line[0]: line for line in cells(gains_table(summary))}
    assert lines["C"][2] == lines["all mixtures"][2] == "3"
    assert lines["SER"][2] == "0"
    failed = summary[summary.variant == "C"].set_index("metric").failed
    assert (failed["pesqi"], failed["stoi_mixture"], failed["stoii"]) == (2, 2, 0)


def test_model_mixture_and_oracle_stand_together():
    head, _, *lines = cells(scores_table(every(FULL)))
    assert head == ["variant", "of", "SI-SDR", "PESQ", "STOI"]
    assert [line[:2] for line in lines[:3]] == [["SER", "model"], ["", "mixture"], ["", "oracle"]]
    assert lines[1][2:] == ["1.00", "1.00", "1.000"]


def test_voices_stand_beside_the_number_of_mixtures():
    names = pd.DataFrame({"id": list("abc"), "voice1": list("xyz"), "voice2": list("yzx")})
    rows = FULL[FULL.variant == "C"].assign(environment="indoor")
    rows = pd.concat([rows, rows[:2].assign(id="c", si_sdri=8.0)]).merge(names)
    head, _, first, *_ = cells(gains_table(every(rows)))
    assert head[:3] == ["variant", "n", "voices"] and first[:3] == ["C", "3", "3"]
    low, high = map(float, first[head.index("95 % interval")].split(" … "))
    assert low < 6 and high > 11  # three voices say little of others


def test_spread_is_shown_of_every_metric():
    _, _, *lines = cells(spread_table(every(FULL)))
    assert lines[1][1] == "8.50 ± 3.54 [–]"
    assert lines[1][3] == "0.123 ± 0.000 [–]"


def test_failures_are_counted_by_name():
    short = "pesq: no utterance found"
    failures = [(short, "stoi: too short"), (), ("target: silent",), (short,)]
    rows = pd.DataFrame({"variant": ["SER", "C", "C", "SE"], "failures": failures})
    _, _, *lines = cells(failures_table(rows))
    assert lines == [
        ["pesq: no utterance found", "2", "SER, SE"],
        ["stoi: too short", "1", "SER"],
        ["target: silent", "1", "C"],
    ]


def test_no_failure_is_no_table():
    assert failures_table(pd.DataFrame({"variant": ["C"], "failures": [()]})) is None
