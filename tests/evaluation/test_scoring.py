"""Scores: references, laws that must hold, named failures, processes that may die."""

import os

import numpy as np
import pytest
from pesq import pesq
from pystoi import stoi
from threadpoolctl import threadpool_info, threadpool_limits

from custom_modules.errors import InputError
from custom_modules.evaluation import scoring
from custom_modules.evaluation.scoring import scoring_processes
from custom_modules.evaluation.store import ScoreStore
from custom_modules.metrics import columns_of
from tests.evaluation.signals import GROUPS, job, noise, scored_rows

TIME = 12000


def mixed(sources=2, level=1.0, seed=1):
    targets = noise(TIME, sources, seed=seed)
    return targets, targets.sum(1) + level * noise(TIME, seed=seed + 50)


def rows_of(targets, mixture, estimates, groups=GROUPS):
    one = job(targets, {"SER": mixture}, {"SER": estimates}, groups)
    return scored_rows(one, groups)["SER"]


@pytest.mark.parametrize("sources", [1, 2, 3])
def test_the_mixture_as_an_answer_improves_nothing_exactly(sources):
    targets, mixture = mixed(sources)
    answer = np.repeat(mixture[:, None], sources, 1)
    for row in rows_of(targets, mixture, answer):
        gains = [name for name in columns_of(GROUPS, sources) if name.endswith("i")]
        gains.remove("stoi")
        gains.remove("estoi")
        assert len(gains) == (6 if sources > 1 else 5)
        assert all(row[name] == 0.0 for name in gains), row
        assert row["failures"] == ""


@pytest.mark.parametrize("sources", [1, 2, 3])
def test_the_targets_as_an_answer_score_high_in_any_order(sources):
    targets, mixture = mixed(sources)
    for row in rows_of(targets, mixture, targets[:, ::-1].copy()):
        assert row["si_sdr"] > 60
        assert row["sdr"] > 60
        assert row["pesq"] > 4.5
        assert row["stoi"] == pytest.approx(1, abs=1e-3)
        assert row["estoi"] == pytest.approx(1, abs=1e-3)
        assert list(row) == [*columns_of(GROUPS, sources), "failures"]


@pytest.mark.parametrize("sources", [1, 2])
def test_a_mixture_that_is_the_target_is_not_improved(sources):
    """The clean mixture, where it is one source that is wanted."""
    targets, _ = mixed(sources)
    clean, estimates = targets.sum(1), targets + 0.2 * noise(TIME, sources, seed=7)
    scored = scored_rows(job(targets, {"C": clean}, {"C": estimates}))
    gains = [name for name in columns_of(GROUPS, sources) if name.endswith("i")]
    gains = [name for name in gains if name not in ("stoi", "estoi")]
    for row in scored["C"]:
        assert row["si_sdr"] > 5 and row["stoi"] > 0.5
        assert all((row[name] is None) == (sources == 1) for name in gains)
        named = "mixture: the target itself, nothing to improve"
        assert row["failures"] == (named if sources == 1 else "")


def test_every_score_is_of_its_own_signal():
    targets, mixture = mixed()
    estimates = targets + 0.2 * noise(TIME, 2, seed=7)
    oracle = targets.sum(1)
    for source, row in enumerate(rows_of(targets, mixture, estimates)):
        target = targets[:, source]
        signals = {"": estimates[:, source], "_mixture": mixture, "_oracle": oracle}
        for suffix, signal in signals.items():
            assert row[f"pesq{suffix}"] == round(pesq(8000, target, signal, "nb"), 4)
            expected = stoi(target, signal, 8000)
            assert row[f"stoi{suffix}"] == pytest.approx(expected, abs=1e-4)
            expected = stoi(target, signal, 8000, extended=True)
            assert row[f"estoi{suffix}"] == pytest.approx(expected, abs=1e-4)
        for name in ("si_sdr", "sdr", "sir", "pesq", "stoi", "estoi"):
            gain = row[name] - row[f"{name}_mixture"]
            assert row[f"{name}i"] == pytest.approx(gain, abs=1e-9)
            gain = row[f"{name}_oracle"] - row[f"{name}_mixture"]
            assert row[f"{name}i_oracle"] == pytest.approx(gain, abs=1e-9)


def test_only_separation_raises_the_sir():
    targets, mixture = mixed(level=2.0)
    clean = np.repeat(targets.sum(1, keepdims=True), 2, 1)
    apart = targets + 0.5 * noise(TIME, 2, seed=8)
    of_clean, of_apart = (rows_of(targets, mixture, x)[0] for x in (clean, apart))
    assert of_clean["si_sdri"] > 5
    assert abs(of_clean["siri"]) < 0.6
    assert of_apart["siri"] > 10


def test_other_variants_change_no_score():
    targets, mixture = mixed()
    quiet = targets.sum(1) + 0.1 * noise(TIME, seed=60)
    estimates = {"SER": targets + 0.3 * noise(TIME, 2, seed=7)}
    estimates["C"] = targets + 0.1 * noise(TIME, 2, seed=9)
    both = scored_rows(job(targets, {"SER": mixture, "C": quiet}, estimates))
    alone = scored_rows(job(targets, {"C": quiet}, {"C": estimates["C"]}))
    assert both["C"] == alone["C"]
    assert both["C"] != both["SER"]


def test_fewer_metrics_have_the_same_numbers():
    targets, mixture = mixed()
    estimates = targets + 0.3 * noise(TIME, 2, seed=7)
    (everything, _), (few, _) = (
        rows_of(targets, mixture, estimates, groups=groups) for groups in (GROUPS, ())
    )
    assert list(few) == [*columns_of((), 2), "failures"]
    assert all(everything[name] == few[name] for name in few)


@pytest.mark.parametrize("spoilt", ["short", "target", "estimate", "mixture", None])
def test_metrics_one_after_the_other_are_metrics_at_once(spoilt, tmp_path):
    targets, mixture = mixed()
    estimates = targets + 0.3 * noise(TIME, 2, seed=7)
    if spoilt == "short":
        targets, mixture, estimates = targets[:400], mixture[:400], estimates[:400]
    elif spoilt is not None:
        signals = {"target": targets[:, 1], "estimate": estimates[:, 0]}
        (signals | {"mixture": mixture})[spoilt][:] = 0
    one, signals = {"SER": mixture}, {"SER": estimates}
    whole = scoring.score_mixture(job(targets, one, signals))["SER"]
    failed = any(row["failures"] for row in rows_of(targets, mixture, estimates))
    assert failed == (spoilt is not None)
    together = ScoreStore(tmp_path, "key")
    for group in GROUPS:
        part = scoring.score_mixture(job(targets, one, signals, (group,)))
        together.add("x", part)
    together.close()
    for store in (together, ScoreStore(tmp_path, "key")):
        assert store.scores("x", "SER", list(whole)) == whole


def test_a_silent_target_fails_by_name_and_takes_what_depends_on_both():
    targets, mixture = mixed()
    targets[:, 1] = 0
    heard, silent = rows_of(targets, mixture, targets + 0.1 * noise(TIME, 2))
    assert silent["failures"] == "target: silent"
    assert all(silent[name] is None for name in columns_of(GROUPS, 2))
    for name in ("si_sdri", "sdri", "pesqi", "stoii", "estoii"):
        assert heard[name] is not None, name
    assert heard["sir"] is None
    assert heard["si_sdri_oracle"] is None
    assert "sir: other target silent" in heard["failures"]
    assert "oracle: other target silent" in heard["failures"]


def test_one_talker_alone_and_clean_has_scores_and_no_improvement():
    targets, _ = mixed()
    targets[:, 1] = 0
    heard, _ = rows_of(targets, targets.sum(1), targets + 0.1 * noise(TIME, 2))
    assert heard["si_sdr"] == pytest.approx(20, abs=1)
    assert heard["si_sdri"] is None
    assert "mixture: is the target" in heard["failures"]


@pytest.mark.parametrize(
    ("value", "reason"), [(np.nan, "not finite"), (np.inf, "not finite"), (0, "silent")]
)
def test_a_spoilt_estimate_fails_and_its_neighbour_does_not(value, reason):
    targets, mixture = mixed()
    estimates = targets[:, ::-1] + 0.1 * noise(TIME, 2, seed=4)
    estimates[:, 1] = value
    first, second = rows_of(targets, mixture, estimates)
    assert first["failures"] == f"estimate: {reason}"
    assert first["si_sdr"] is None
    assert first["si_sdri"] is None
    assert first["si_sdr_mixture"] is not None
    assert second["failures"] == ""
    assert second["si_sdr"] > 10
    assert second["sdr"] > 10


@pytest.mark.parametrize(
    ("time", "failed"),
    [
        (1, {"target"}),
        (400, {"sdr", "sir", "pesq", "stoi", "estoi"}),
        (1500, {"pesq", "stoi", "estoi"}),
        (2500, {"stoi", "estoi"}),
        (4500, set()),
    ],
)
def test_what_is_too_short_for_a_metric_fails_in_it_alone(time, failed):
    targets = noise(time, 2)
    mixture = targets.sum(1)
    (row, _) = rows_of(targets, mixture, targets + noise(time, 2, seed=3))
    reasons = [part.split(":")[0] for part in row["failures"].split("; ") if part]
    names = {reason.removesuffix("_mixture").removesuffix("_oracle") for reason in reasons}
    assert names == failed
    assert (row["si_sdr"] is None) == (time == 1)


def test_speech_without_an_utterance_is_counted_not_scored():
    targets, mixture = mixed()
    # Above the telephone band: PESQ finds nobody speaking.
    targets[:, 0] = np.sin(2 * np.pi * 3900 / 8000 * np.arange(TIME))
    (row, _) = rows_of(targets, mixture, targets + 0.01 * noise(TIME, 2))
    assert row["pesq"] is None
    assert "pesq: no utterance found" in row["failures"]
    assert "pesq_mixture: no utterance found" in row["failures"]
    assert row["si_sdr"] is not None


def clean_job():
    targets = noise(2000, 2)
    return job(targets, {"C": targets.sum(1)}, {"C": targets}, groups=())


def blas_threads():
    return {i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas"}


@pytest.mark.parametrize("workers", [0, 1])
def test_metrics_take_one_thread_each(monkeypatch, workers):
    monkeypatch.setattr(scoring, "score_mixture", lambda _: blas_threads())
    with threadpool_limits(2, "blas"):
        with scoring_processes(workers) as submit:
            assert submit(clean_job()).result() == ("x", {1})
        assert blas_threads() == {2}


def test_a_process_that_dies_at_its_start_is_said_in_one_line(monkeypatch):
    monkeypatch.setattr(scoring, "begin_worker", lambda: os._exit(9))
    with pytest.raises(InputError, match="fewer --workers"), scoring_processes(1):
        pytest.fail("it began")


@pytest.mark.parametrize("again", [False, True])
def test_a_process_that_dies_is_said_in_one_line(monkeypatch, again):
    monkeypatch.setattr(scoring, "score_mixture", lambda _: os._exit(9))
    with pytest.raises(InputError, match="fewer --workers"), scoring_processes(1) as submit:
        future = submit(clean_job())
        if again:
            future.exception()
            submit(clean_job())
        future.result()
