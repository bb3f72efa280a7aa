"""gpu.py without a GPU: all parts in small, after a kill, hung, and on a page."""

import json
import os
import shutil
import time
from collections import Counter

import pytest

from custom_modules.errors import InputError
from recipes.benchmark import gpu
from recipes.benchmark.gpu_parts import NO_TIME, Run, parts, timed_steps
from recipes.benchmark.kept_figures import FIGURES_FILE, MACHINE, read_figures, read_lines, record
from tests.integration.forked import Forked
from tests.integration.training import ROOT, tiny_corpus
from tests.test_brain import batch_of, brain_with

FACTS = {"on": "a GPU", "tiny": False, "commit": "abc", "date": "2026-01-01"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the hparams of one architecture, and a corpus."""
    place = tmp_path_factory.mktemp("place")
    for name in ("dprnn.yaml", "small/dprnn.yaml"):
        (place / "hparams" / name).parent.mkdir(exist_ok=True, parents=True)
        shutil.copy(ROOT / "hparams" / name, place / "hparams" / name)
    tiny_corpus(place)
    return place


def start(place):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    script = ROOT / "recipes/benchmark/gpu.py"
    with open(place / "printed.txt", "wb") as file:
        command = [script, "--output=out", "--tiny", "--data_folder=Tiny"]
        return Forked(command, environment, place, file, file)


@pytest.mark.slow
def test_killed_half_way_it_measures_nothing_twice(place):
    killed = start(place)
    while not any(
        part == "scan" and "figures" in line
        for (part, _), line in read_figures(place / "out").items()
    ):
        assert killed.wait(0.1) is None, (place / "printed.txt").read_text()
    killed.kill()
    killed.wait()
    before = read_figures(place / "out")
    assert ("epoch", "dprnn") not in before
    with open(place / "out" / FIGURES_FILE, "a") as stream:
        stream.write('{"part": "step", "un')  # as if killed while it wrote
    assert start(place).wait() == 0, (place / "printed.txt").read_text()
    measured = Counter(
        (line["part"], line["unit"]) for line in read_lines(place / "out") if "figures" in line
    )
    assert set(measured.values()) == {1}
    known = read_figures(place / "out")
    assert {part for part, _ in known} == {MACHINE, *parts(tiny=True)}
    for key in [("epoch", "dprnn"), ("compile", "dprnn"), ("longform", "dprnn")]:
        assert "figures" in known[key], known[key]
    assert known["step", "dprnn fp16"]["reason"].startswith("--precision=fp16 needs a")
    assert "spmamba.yaml: cannot be read" in known["train", "spmamba"]["reason"]
    text = (place / "out" / "figures.md").read_text()
    assert text.count("\n**") == len(parts(tiny=True)) - 1
    assert "| dprnn" in text


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    return Run(tmp_path, "no corpus", tiny=True)


def test_what_takes_too_long_is_given_up(run, monkeypatch):
    monkeypatch.setattr(gpu, "START_SECONDS", 0.1)
    part = parts(tiny=True)["scan"]._replace(seconds=0.01)
    part = part._replace(units=part.units[:2])
    gpu.measure("scan", part, run, deadline=time.monotonic() + 60)
    reasons = {line["reason"] for line in read_lines(run.output)}
    assert reasons == {"took longer than 0 s"}
    assert len(read_figures(run.output)) == 2


def test_a_process_that_dies_has_its_reason(run):
    part = parts(tiny=True)["scan"]._replace(units=["1x1 torch float32"])
    gpu.measure("scan", part, run, deadline=time.monotonic() + 120)
    (line,) = read_lines(run.output)
    assert line["reason"].startswith("ValueError: ")


def test_without_time_or_gpu_all_parts_say_so(run):
    part = parts(tiny=True)["longform"]
    gpu.measure("longform", part, run, deadline=time.monotonic())
    lines = read_figures(run.output).values()
    assert {line["reason"] for line in lines} == {NO_TIME}
    if not gpu.torch.cuda.is_available():
        whole = run._replace(tiny=False)
        gpu.measure("longform", part, whole, deadline=time.monotonic() + 60)
        reasons = {line["reason"] for line in read_figures(run.output).values()}
        assert reasons == {"needs a GPU; --tiny does it in small"}


def test_training_ends_after_some_seconds():
    with timed_steps(stop_after=-1) as steps:
        brain = brain_with()
        brain.step += 1
        brain.fit_batch(batch_of(1))
        assert brain._optimizer_step_limit_exceeded
    assert len(steps) == 1
    brain.fit_batch(batch_of(1))
    assert len(steps) == 1


@pytest.fixture
def pages(tmp_path):
    """Pages with the marks, and nothing between them."""
    (tmp_path / "recipes/benchmark").mkdir(parents=True)
    (tmp_path / "docs").mkdir()
    for page in gpu.PAGES:
        text = "before\n<!-- begin gpu -->\n<!-- end gpu -->\nafter\n"
        (tmp_path / page).write_text(text)
    return tmp_path


def test_pages_say_that_nothing_is_measured_yet(pages, monkeypatch):
    monkeypatch.chdir(ROOT)
    gpu.update_pages(pages / "nothing", pages)
    for page in gpu.PAGES:
        text = (pages / page).read_text()
        assert text.startswith("before\n<!-- begin gpu -->\n\nNot measured yet")
        assert text.endswith("<!-- end gpu -->\nafter\n")


def test_pages_have_the_tables_of_their_parts(pages, monkeypatch):
    monkeypatch.chdir(ROOT)
    record(pages, MACHINE, "", figures=FACTS)
    record(pages, "scan", "1x2x3 triton float32", figures={"forward, ms": 0.12345})
    record(pages, "scan", "1x2x3 unbound float32", reason="a | b")
    record(pages, "scan", "1x2x3 triton float32", reason="a later failure")
    for _ in range(2):
        gpu.update_pages(pages, pages)
    text = (pages / "recipes/benchmark/README.md").read_text()
    assert "| 1x2x3 |  triton | float32 |       0.123 |              |" in text
    assert "a \\| b" in text
    assert text.count("<sub>a GPU; commit abc, 2026-01-01</sub>") == 1
    assert "Not measured yet" in (pages / "README.md").read_text()


def test_figures_in_small_are_refused_on_pages(pages):
    line = {"part": "machine", "unit": "", "figures": FACTS | {"tiny": True}}
    (pages / FIGURES_FILE).write_text(json.dumps(line) + "\n")
    with pytest.raises(InputError, match="--tiny are none for a page"):
        gpu.update_pages(pages, pages)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tiny"], "--output=FOLDER is needed"),
        (["--output=x", "--minutes=0"], "--minutes=0"),
        (["--output=README.md"], "README.md"),
    ],
)
def test_mistakes_end_in_one_line(options, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(InputError, match=message):
        gpu.main(options)
