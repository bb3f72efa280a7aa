"""Visits through the queue, and what is served of them, with a model that waits for us."""

import threading

import numpy as np
import pytest
import soundfile as sf
import torch
from starlette.applications import Starlette
from starlette.testclient import TestClient

from custom_modules.page import views, visits
from custom_modules.page.growing import Track
from custom_modules.page.routes import POLICY, Guarded, visit_route
from custom_modules.page.shelf import Shelf
from custom_modules.page.speaking import Turn, with_words
from custom_modules.page.texts import RefusedError
from custom_modules.page.visits import Queue, Studio
from custom_modules.recordings import jobs
from custom_modules.recordings.work import Separation
from tests.page.gated import gated_model

RATE = 8000


class Words:
    """A recogniser of the protocol."""

    def transcribe(self, waveforms, rate):
        return [f"<b>{len(w) / rate:.2f}" for w in waveforms]


@pytest.fixture
def queue(tmp_path):
    (tmp_path / "shelf").mkdir()
    return Queue(Studio({"gate": gated_model()}, Words()), Shelf(tmp_path / "shelf"))


@pytest.fixture
def gate(queue):
    return queue.studio.models["gate"].mods.separator


@pytest.fixture
def talk(tmp_path):
    rng = np.random.default_rng(0)
    signal = np.r_[0.1 * rng.normal(size=2 * RATE), np.zeros(RATE), 0.1 * rng.normal(size=RATE)]
    sf.write(tmp_path / "talk.wav", signal, RATE)
    return tmp_path / "talk.wav"


def test_files_are_those_of_separate(queue, gate, talk, tmp_path):
    visit = queue.join(talk, "gate")
    gate.let(20)
    assert queue.work_off()
    assert visit.stage == visits.FINISHED
    recordings, _ = jobs.find_recordings([str(talk)], tmp_path / "out")
    separation = Separation(queue.studio.models["gate"], show_progress=False)
    assert separation.separate_all(recordings) == 0
    for path in visit.files:
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()


def test_what_is_heard_is_what_is_taken_away(queue, gate, talk):
    visit = queue.join(talk, "gate")
    gate.let(20)
    queue.work_off()
    signal, _ = sf.read(talk)
    for name, expected in (("mixture", signal), ("s1", sf.read(visit.files[0])[0])):
        heard, rate = sf.read(visit.tracks[name].path)
        assert rate == RATE
        np.testing.assert_allclose(heard, expected, atol=2e-4)


def test_words_and_turns(queue, gate, talk):
    visit = queue.join(talk, "gate")
    gate.let(20)
    queue.work_off()
    assert [(turn.speaker, turn.words) for turn in visit.turns] == [
        *((0, "<b>2.00"), (1, "<b>2.00"), (0, "<b>1.00"), (1, "<b>1.00"))
    ]
    page = views.results(visit, "en", with_words=True)
    assert page.count("<rect") == 4
    assert "&lt;b&gt;2.00" in page
    assert "<b>2.00" not in page


def test_who_is_ahead(queue, gate, talk):
    first, second, third = (queue.join(talk, "gate") for _ in range(3))
    assert [queue.ahead(visit) for visit in (first, second, third)] == [0, 1, 2]
    assert "Ahead of it: 2." in views.status(third, "en", queue.ahead(third))
    queue.stop(second.token)
    assert (second.stage, queue.ahead(third)) == (visits.STOPPED, 1)
    gate.let(20)
    queue.work_off()
    assert (first.stage, queue.ahead(third)) == (visits.FINISHED, 0)


def test_who_comes_when_too_many_wait(queue, talk):
    for _ in range(visits.MOST_WAITING + 1):
        queue.join(talk, "gate")
    with pytest.raises(RefusedError, match="full"):
        queue.join(talk, "gate")


def test_a_visit_that_is_stopped_ends_with_its_chunk(queue, gate, talk):
    visit = queue.join(talk, "gate")
    thread = threading.Thread(target=queue.work_off)
    thread.start()
    gate.let(1)
    queue.stop(visit.token)
    gate.let(20)
    thread.join()
    assert visit.stage == visits.STOPPED
    assert visit.files == []
    assert not list(visit.place.glob("separated/*"))
    assert queue.shelf.held == set()


def test_a_bad_value_late_in_a_recording_is_the_recordings(queue, gate, tmp_path):
    signal = np.zeros(15 * RATE)
    signal[-1] = np.inf
    sf.write(tmp_path / "a.wav", signal, RATE, subtype="FLOAT")
    visit = queue.join(tmp_path / "a.wav", "gate")
    gate.let(99)
    queue.work_off()
    assert visit.stage == visits.FAILED
    assert visit.problem.told("pl").startswith("W pliku a.wav są wartości")


class Broken(torch.nn.Module):
    def forward(self, mixture):
        raise ValueError("a bug")


def test_a_bug_is_in_the_log_and_the_page_goes_on(queue, gate, talk, caplog):
    model = queue.studio.models["gate"]
    model.mods["separator"] = Broken()
    visit = queue.join(talk, "gate")
    queue.work_off()
    assert "a bug" in caplog.text
    assert "a bug" not in views.status(visit, "en", 0)
    assert views.status(visit, "en", 0).count("A fault of the program") == 1
    model.mods["separator"] = gate
    gate.let(20)
    after = queue.join(talk, "gate")
    queue.work_off()
    assert after.stage == visits.FINISHED


def test_a_name_is_text(queue, tmp_path):
    path = tmp_path / "<img src=x onerror=alert(1)>.wav"
    sf.write(path, np.zeros(9), RATE)
    visit = queue.join(path, "gate")
    shown = views.status(visit, "en", 0) + views.players(visit, "en")
    assert "<img" not in shown
    assert "&lt;img" in shown


@pytest.fixture
def client(queue):
    return TestClient(Guarded(Starlette(routes=[visit_route(queue)])))


def test_what_is_served_of_a_visit(queue, gate, talk, client):
    visit = queue.join(talk, "gate")
    gate.let(20)
    queue.work_off()
    place = f"/visits/{visit.token}"
    for path in visit.files:
        answer = client.get(f"{place}/{path.name}")
        assert answer.content == path.read_bytes()
        assert "attachment" in answer.headers["content-disposition"]
        assert answer.headers["content-security-policy"] == POLICY
    assert client.get(f"{place}/{views.SPECTROGRAMS}").content.startswith(b"\x89PNG")
    text = client.get(f"{place}/{views.TRANSCRIPT}?language=pl").text
    assert text.splitlines()[0] == "0:00–0:02 Mówca 1: <b>2.00"
    for name in ("talk.wav", "separated", "..%2f..%2ftalk.wav", "s3.wav"):
        assert client.get(f"{place}/{name}").status_code == 404
    assert client.get(f"/visits/{'x' * 22}/s1.wav").status_code == 404


@pytest.mark.parametrize(
    ("wanted", "status", "span"),
    [
        ("", 200, slice(None)),
        ("bytes=0-", 206, slice(None)),
        ("bytes=10-19", 206, slice(10, 20)),
        ("bytes=64000-999999", 206, slice(64_000, None)),
        ("bytes=999999-", 416, None),
        ("bytes=20-10", 416, None),
        ("bytes=-5", 200, slice(None)),
    ],
)
def test_stretches_of_a_track(queue, gate, talk, client, wanted, status, span):
    visit = queue.join(talk, "gate")
    gate.let(20)
    queue.work_off()
    headers = {"range": wanted} if wanted else {}
    answer = client.get(f"/visits/{visit.token}/s1.wav", headers=headers)
    assert answer.status_code == status
    if span:
        assert answer.content == visit.tracks["s1"].path.read_bytes()[span]


def test_a_track_is_served_while_it_is_made(queue, gate, talk, client):
    """The answer waits for what is not there yet."""
    visit = queue.join(talk, "gate")
    thread = threading.Thread(target=queue.work_off)
    thread.start()
    while not visit.tracks:
        thread.join(0.01)
        assert thread.is_alive()
    opening = threading.Thread(target=gate.let, args=[20])
    opening.start()
    whole = client.get(f"/visits/{visit.token}/s1.wav")
    opening.join()
    thread.join()
    assert len(whole.content) == int(whole.headers["content-length"])
    assert whole.content == visit.tracks["s1"].path.read_bytes()


def test_what_ends_early_is_no_endless_answer(queue, talk, client):
    visit = queue.join(talk, "gate")
    visit.tracks["s1"] = Track(visit.place / "s1.wav", RATE, 99)
    queue.stop(visit.token)
    answer = client.get(f"/visits/{visit.token}/s1.wav")
    assert len(answer.content) == int(answer.headers["content-length"]) == 44 + 2 * 99
    far = {"range": f"bytes={'9' * 5000}-"}
    assert client.get(f"/visits/{visit.token}/s1.wav", headers=far).status_code == 200


@pytest.mark.parametrize("name", ["mixture.wav", "s1.wav", "s2.wav", "spectrograms.png"])
def test_a_recording_of_any_name_is_left_as_it_is(queue, gate, talk, name):
    upload = queue.shelf.folder / "upload" / name
    upload.parent.mkdir()
    upload.write_bytes(before := talk.read_bytes())
    visit = queue.join(upload, "gate")
    gate.let(20)
    queue.work_off()
    assert visit.stage == visits.FINISHED
    assert upload.read_bytes() == visit.recording.read_bytes() == before
    assert np.abs(sf.read(visit.files[0])[0]).max() > 0.01


def test_files_are_given_out_where_the_words_fail(queue, gate, talk):
    def fail(waveforms, rate):
        raise RuntimeError

    queue.studio.recogniser.transcribe = fail
    visit = queue.join(talk, "gate")
    gate.let(20)
    queue.work_off()
    assert visit.stage == visits.FAILED
    assert all(path.name in views.results(visit, "en", True) for path in visit.files)


def test_a_long_turn_is_recognised_in_parts(tmp_path):
    signal = np.random.default_rng(0).normal(0, 0.1, 70 * RATE)
    signal[20 * RATE : 21 * RATE] = 0
    sf.write(tmp_path / "s1.wav", signal, RATE)
    (turn,) = with_words([Turn(0, 0.0, 70.0)], [tmp_path / "s1.wav"], Words())
    lengths = [float(x) for x in turn.words.replace("<b>", "").split()]
    assert sum(lengths) == pytest.approx(70, abs=0.02) and max(lengths) <= 30
    assert 20 < lengths[0] < 21


def test_a_visit_is_forgotten_with_its_folder(queue, gate, talk, client):
    visit = queue.join(talk, "gate")
    gate.let(20)
    queue.work_off()
    queue.shelf.clock = lambda: visit.place.stat().st_mtime + 3601
    queue.sweep()
    assert client.get(f"/visits/{visit.token}/s1.wav").status_code == 404
    assert list(queue.shelf.folder.iterdir()) == []
