"""Conversations: the laws of turn-taking, and that truth and tracks say the same."""

import csv
import hashlib
import json
import shutil
from pathlib import Path

import meeteval
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from custom_modules import audio
from custom_modules.corpus import turns
from custom_modules.corpus.conversation_mixing import active_spans
from custom_modules.corpus.matrix import slots
from custom_modules.corpus.turns import Piece, converse, draw_turns, lay_out, overlap_share
from tests.corpus.recordings import speech_folder
from tests.integration.forked import Forked
from tests.integration.generating import ENVIRONMENT, HPARAMS, SCRIPT, run


def pieces_of(voices, seed):
    rng = np.random.default_rng(seed)
    lengths = [[*rng.uniform(1.5, 6, 20), *rng.uniform(0.3, 0.9, 5)] for _ in range(voices)]
    return [
        [Piece(f"{voice}/{i}", x, ((0.0, x),)) for i, x in enumerate(own)]
        for voice, own in enumerate(lengths)
    ]


@given(st.integers(2, 4), st.floats(0, 0.3), st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_laws_of_turn_taking(voices, wanted, seed):
    script = draw_turns(pieces_of(voices, seed), 90.0, np.random.default_rng(seed))
    said, share, _ = converse(script, wanted, 90.0)
    grid = np.arange(0, 90, 0.01)
    talking = np.zeros((voices, len(grid)), int)
    for u in said:
        talking[u.speaker] += (grid >= u.start) & (grid < u.end)
        if u.back_channel:
            assert u.piece.seconds <= turns.LONGEST_BACK_CHANNEL
            assert any(o.start <= u.start and u.end <= o.end for o in said if o != u)
    assert said[0].start >= turns.MARGIN
    assert max(u.end for u in said) <= 90 - turns.MARGIN
    assert talking.max() <= 1  # nobody overlaps himself
    assert talking.sum(0).max() <= 2
    both, speech = (talking.sum(0) > 1).sum(), (talking.sum(0) > 0).sum()
    assert share == pytest.approx(both / speech, abs=0.01)
    if not wanted:
        assert share == 0
    assert abs(share - wanted) < 0.05


@pytest.mark.parametrize("wanted", [0.05, 0.15, 0.3])
def test_the_share_of_overlap_is_reached_over_a_set(wanted):
    shares = [
        converse(draw_turns(pieces_of(2 + n % 3, n), 60, np.random.default_rng(n)), wanted, 60)[1]
        for n in range(8)
    ]
    assert np.mean(shares) == pytest.approx(wanted, abs=0.02)


def test_the_published_law_gives_the_published_overlap():
    """Scale 1 is Switchboard, where 4.7 % of speech is overlapped."""
    said = [
        lay_out(draw_turns(pieces_of(2, n), 600, np.random.default_rng(n)), 1.0, 600)
        for n in range(8)
    ]
    shares = [overlap_share([span for u in one for span in u.spans]) for one in said]
    assert np.mean(shares) == pytest.approx(0.047, abs=0.015)
    utterances = [u for one in said for u in one]
    assert np.mean([u.back_channel for u in utterances]) == pytest.approx(0.19, abs=0.05)


def test_everything_is_said_before_anything_comes_again():
    (own, other) = pieces_of(2, 1)
    script = draw_turns([own, other], 200, np.random.default_rng(1))
    said = [p.path for t in script if t.speaker == 0 for p in t.sentences]
    assert len(set(said[:20])) == min(20, len(said))


def test_activity_is_where_frames_are_loud():
    signal = np.zeros(8000)
    signal[800:1600] = signal[4800:8000] = 0.1
    assert active_spans(signal, 8000) == [(0.1, 0.2), (0.6, 1.0)]
    assert active_spans(signal, 8000, bridge=0.5) == [(0.1, 1.0)]
    assert active_spans(np.zeros(8000), 8000) == []


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Of talkers of noise with invented words."""
    folder = speech_folder(tmp_path_factory.mktemp("speech"), recordings=6)
    for speaker in folder.glob("*/"):
        samples, rate = soundfile.read(speaker / "0.wav")
        soundfile.write(speaker / "5.wav", samples[: rate // 2] + 1e-3, rate)
    lines = (folder / "table.csv").read_text().splitlines()
    texts = [f"{line},{line.split(',')[0]} ż" for line in lines[1:]]
    (folder / "table.csv").write_text("\n".join([f"{lines[0]},text", *texts]))
    return [
        HPARAMS / "folder_conversations.yaml",
        *(f"--speech_folder={folder}", f"--speech_table={folder / 'table.csv'}"),
        *("--n_train=1", "--n_test=3", "--minutes=0.4", "--voices=[2, 3]"),
        *("--indoor_share=0.5", "--scene_recordings=3", "--event_recordings=3"),
    ]


@pytest.fixture(scope="module")
def made(command, tmp_path_factory):
    root = tmp_path_factory.mktemp("made") / "Talk"
    run([*command, f"--output_folder={root}", "--workers=1"])
    return root


def digests(root):
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


def read(path):
    return soundfile.read(path, dtype="int16")[0].astype(int)


def draws_of(root):
    paths = [p for p in root.glob("*/*.json") if not p.name.endswith(".seglst.json")]
    return [(path, json.loads(path.read_text())) for path in sorted(paths)]


def test_recordings_are_the_exact_sum_of_their_layers(made):
    environments = set()
    for path, draw in draws_of(made):
        layers = {p.stem: read(p) for p in path.with_suffix("").glob("*.wav")}
        np.testing.assert_array_equal(sum(layers.values()), read(path.with_suffix(".wav")))
        names = {who["speaker"] for who in draw["speakers"]}
        wet = {f"{name}_wet" for name in names} if draw["environment"] == "indoor" else set()
        assert {n for n in layers if n.endswith(("_dry", "_wet"))} == wet | {
            f"{name}_dry" for name in names
        }
        environments.add(draw["environment"])
    assert environments == {"indoor", "outdoor"}


def test_what_is_said_is_where_the_dry_track_has_energy(made):
    for path, draw in draws_of(made):
        segments = meeteval.io.load(path.with_suffix(".seglst.json"))
        spans = meeteval.io.load(path.with_suffix(".rttm")).to_seglst()
        assert {s["session_id"] for s in [*segments, *spans]} == {draw["session"]}
        for who in draw["speakers"]:
            track = read(path.with_suffix("") / f"{who['speaker']}_dry.wav")
            said = np.zeros(len(track), bool)
            for segment in segments:
                if segment["speaker"] == who["speaker"]:
                    first, last = (round(8000 * segment[f"{x}_time"]) for x in ("start", "end"))
                    said[first:last] = True
                    edges = track[first : first + 320], track[last - 320 : last]
                    assert all(np.abs(edge).max() > 0 for edge in edges)
                    assert segment["words"].startswith(who["speaker"])
            assert not track[~said].any()
            spoken = np.zeros(len(track), bool)
            for span in spans:
                if span["speaker"] == who["speaker"]:
                    first, last = (round(8000 * float(span[f"{x}_time"])) for x in ("start", "end"))
                    spoken[first:last] = True
            assert not (spoken & ~said)[8:].any()
            pauses = track[said & ~spoken]
            assert not len(pauses) or audio.rms(track[spoken]) > 10 * audio.rms(pauses)


def test_ratios_levels_and_shares_are_as_drawn(made):
    for path, draw in draws_of(made):
        folder = path.with_suffix("")
        spoken = {who["speaker"]: np.zeros(draw["samples"], bool) for who in draw["speakers"]}
        for u in draw["utterances"]:
            spoken[u["speaker"]][round(8000 * u["start"]) : round(8000 * u["end"])] = True
        tracks = {name: read(folder / f"{name}_dry.wav") for name in spoken}
        level = {name: audio.rms(tracks[name][spoken[name]]) for name in spoken}
        first = draw["speakers"][0]["speaker"]
        for who in draw["speakers"]:
            ratio = 20 * np.log10(level[first] / level[who["speaker"]])
            assert ratio == pytest.approx(who["ratio_db"], abs=0.1)
        anybody = np.any(list(spoken.values()), axis=0)
        speech = audio.rms(sum(tracks.values())[anybody])
        scene = 20 * np.log10(audio.rms(read(folder / "scene.wav")) / speech)
        assert scene == pytest.approx(draw["scene"]["level_db"], abs=0.1)
        assert draw["overlap_share"] == pytest.approx(0.15, abs=0.02)


def test_voices_do_not_cross_subsets_and_a_table_sums_up(made):
    by_subset = {}
    for _, draw in draws_of(made):
        names = {who["speaker"] for who in draw["speakers"]}
        by_subset.setdefault(draw["subset"], set()).update(names)
    assert not by_subset["train"] & by_subset["test"]
    with open(made / "test" / "conversations.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["session"] for row in rows] == [f"test_{n:05d}" for n in range(3)]
    assert {row["seconds"] for row in rows} == {"24"}


def test_bytes_depend_on_the_options_alone(made, command, tmp_path):
    """Nor on workers, a part that is there, or what a killed process left."""
    root = tmp_path / "Talk"
    (root / "test").mkdir(parents=True)
    shutil.copy(made / "generator.json", root)
    for path in made.glob("test/test_00001*"):
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, root / "test" / path.name)
    (root / "test" / "test_00002.wav.77.partial").write_bytes(b"half")
    shutil.copy(made / "test" / "test_00000.json", root / "test")  # without its files
    run([*command, f"--output_folder={root}", "--workers=2"])
    assert digests(root) == digests(made)


def test_a_killed_run_is_resumed(made, command, tmp_path):
    root = tmp_path / "Talk"
    arguments = [str(a) for a in command] + [f"--output_folder={root}", "--workers=1"]
    process = Forked([SCRIPT, *arguments], ENVIRONMENT)
    while not (root / "train" / "train_00000.json").exists():
        assert process.wait(0.01) is None
    process.kill()
    process.wait()
    run(arguments)
    assert digests(root) == digests(made)


def test_too_much_overlap_is_refused(command, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        run([*command, f"--output_folder={tmp_path / 'x'}", "--overlap_share=0.8", "--workers=1"])
    assert stop.value.code == 2
    assert "lower --overlap_share" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--voices=3", "test has 2 speakers"),
        ("--minutes=[3, 1]", "least, most"),
        ("--voices=1", "from 2"),
        ("--overlap_share=x", "number"),
    ],
)
def test_options_are_checked(command, tmp_path, option, words, capsys):
    with pytest.raises(SystemExit):
        run([*command, f"--output_folder={tmp_path / 'x'}", option])
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("sentences", ["text", "matrix"])
def test_mini_polsess_s_voices_converse(tmp_path, sentences):
    root = tmp_path / "Mini"
    options = ["--n_test=1", "--minutes=0.5", "--workers=1", "--scene_recordings=1"]
    options += [f"--sentences={sentences}", "--seconds_per_voice=20"]
    run([HPARAMS / "mini_conversations.yaml", f"--output_folder={root}", *options])
    ((_, draw),) = draws_of(root)
    known = Path("custom_modules/corpus/data/sentences.csv").read_text()
    for u in draw["utterances"]:
        words = u["text"].strip(".").split()
        if sentences == "matrix":
            assert all(word in {w for slot in slots() for w in slot} for word in words)
            assert len(words) == (1 if u["back_channel"] else 5)
        elif not u["back_channel"]:
            assert u["text"].strip(".") in known
    if sentences == "matrix":
        said = {(u["speaker"], u["text"]) for u in draw["utterances"] if not u["back_channel"]}
        assert len({text for _, text in said}) == len(said)
