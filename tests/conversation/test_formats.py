"""What is written is read back by other packages, within 10 ms; what is read is checked."""

import json
import re
from datetime import datetime
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import meeteval
import numpy as np
import pympi
import pytest
from praatio import textgrid

from custom_modules.conversation.formats import (
    FORMATS,
    Transcript,
    passages_of,
    read_passages,
    write_passages,
    write_transcript,
)
from custom_modules.conversation.passages import Passage, tidy
from custom_modules.errors import InputError
from custom_modules.recognition.interface import Word

SAID = [
    Passage("Ola", 0.0004, 1.25, 'Kot "Mruczek" & <pies>', (Word("Kot", 0.1, 0.5),)),
    Passage("Jan_2", 0.9996, 3.3333, "żółć: $x^2$"),
    Passage("Ola", 1.25, 4.0, "a\nb"),
    Passage("Ola", 3700.5, 3701.0, ""),
]
SPOKEN = tidy(SAID)


@pytest.fixture
def files(tmp_path):
    transcript = Transcript("rozmowa 1", 3702.0, SPOKEN, SAID, "rozmowa 1.mp3")
    paths = {}
    for name, form in FORMATS.items():
        paths[name] = tmp_path / f"rozmowa{form.suffix}"
        write_transcript(transcript, name, paths[name])
    return paths


def by_time(rows):
    return sorted((round(float(a), 2), round(float(b), 2), who, text) for a, b, who, text in rows)


WANTED = by_time((p.start, p.end, p.speaker, " ".join(p.words.split())) for p in SAID)


def close(found, wanted):
    assert [row[2:] for row in found] == [row[2:] for row in wanted]
    times = [[row[:2] for row in rows] for rows in (found, wanted)]
    np.testing.assert_allclose(*times, atol=0.01)


def test_seglst_is_read_by_meeteval_and_by_us(files):
    rows = list(meeteval.io.SegLST.load(files["seglst"]))
    assert {row["session_id"] for row in rows} == {"rozmowa 1"}
    found = [(r["start_time"], r["end_time"], r["speaker"], r["words"]) for r in rows]
    close(by_time((a, b, who, " ".join(t.split())) for a, b, who, t in found), WANTED)
    own = read_passages(files["seglst"])["rozmowa 1"]
    assert [p.words for p in own] == [p.words for p in sorted(SAID, key=lambda p: p.start)]


def test_rttm_is_read_by_meeteval_and_by_us(files):
    rows = list(meeteval.io.RTTM.load(files["rttm"]).to_seglst())
    assert {row["session_id"] for row in rows} == {"rozmowa_1"}
    wanted = by_time((p.start, p.end, p.speaker, "") for p in SPOKEN)
    close(by_time((r["start_time"], r["end_time"], r["speaker"], "") for r in rows), wanted)
    own = read_passages(files["rttm"])["rozmowa_1"]
    close(by_time((p.start, p.end, p.speaker, "") for p in own), wanted)


def test_what_meeteval_writes_is_read(tmp_path):
    rows = [{"session_id": "s", "speaker": "a", "start_time": 1, "end_time": 2.5, "words": "tak"}]
    lines = meeteval.io.SegLST(rows)
    lines.dump(tmp_path / "a.json")
    assert read_passages(tmp_path / "a.json") == {"s": [Passage("a", 1.0, 2.5, "tak")]}
    meeteval.io.RTTM.new(lines).dump(tmp_path / "a.rttm")
    assert read_passages(tmp_path / "a.rttm") == {"s": [Passage("a", 1.0, 2.5)]}


@pytest.mark.parametrize("name", ["a.rttm", "a.json"])
def test_many_sessions_come_back(tmp_path, name):
    sessions = {f"s{i}": [Passage("a", i, i + 1.5), Passage("b", i + 2, i + 3)] for i in range(3)}
    write_passages(tmp_path / name, sessions)
    assert read_passages(tmp_path / name) == sessions


def test_eaf_has_a_tier_for_each_speaker_as_pympi_reads_it(files):
    eaf = pympi.Eaf(str(files["eaf"]))
    assert set(eaf.get_tier_names()) == {"Ola", "Jan_2", "Ola words"}
    assert eaf.get_annotation_data_for_tier("Ola words")[0][:3] == (100, 500, "Kot")
    found = [
        (a / 1000, b / 1000, who, text)
        for who in ("Ola", "Jan_2")
        for a, b, text in eaf.get_annotation_data_for_tier(who)
    ]
    close(by_time(found), WANTED)


#: EAFv3.0.xsd, as far as our files go: children in their order, how many, and attributes.
EAF = {
    "ANNOTATION_DOCUMENT": (
        [("HEADER", 1, 1), ("TIME_ORDER", 1, 1), ("TIER", 0, 99), ("LINGUISTIC_TYPE", 0, 99)],
        {"DATE", "AUTHOR", "VERSION", "FORMAT"},
    ),
    "HEADER": ([("MEDIA_DESCRIPTOR", 0, 99)], {"MEDIA_FILE", "TIME_UNITS"}),
    "MEDIA_DESCRIPTOR": ([], {"MEDIA_URL", "MIME_TYPE"}),
    "TIME_ORDER": ([("TIME_SLOT", 0, 9999)], set()),
    "TIME_SLOT": ([], {"TIME_SLOT_ID", "TIME_VALUE"}),
    "TIER": ([("ANNOTATION", 0, 9999)], {"TIER_ID", "LINGUISTIC_TYPE_REF"}),
    "ANNOTATION": ([("ALIGNABLE_ANNOTATION", 1, 1)], set()),
    "ALIGNABLE_ANNOTATION": (
        [("ANNOTATION_VALUE", 1, 1)],
        {"ANNOTATION_ID", "TIME_SLOT_REF1", "TIME_SLOT_REF2"},
    ),
    "ANNOTATION_VALUE": ([], set()),
    "LINGUISTIC_TYPE": ([], {"LINGUISTIC_TYPE_ID", "TIME_ALIGNABLE", "GRAPHIC_REFERENCES"}),
}
OPTIONAL = {"PARTICIPANT", "{http://www.w3.org/2001/XMLSchema-instance}noNamespaceSchemaLocation"}


def test_eaf_keeps_the_schema_of_version_3(files):
    root = ElementTree.parse(files["eaf"]).getroot()
    for element in root.iter():
        children, attributes = EAF[element.tag]
        assert element.attrib.keys() - OPTIONAL == attributes
        names = [child.tag for child in element]
        order = [name for name, _, _ in children]
        assert names == sorted(names, key=order.index)
        assert all(least <= names.count(name) <= most for name, least, most in children)
    datetime.fromisoformat(root.get("DATE"))
    assert (root.get("FORMAT"), root.get("VERSION")) == ("3.0", "3.0")
    ids = [
        e.get(key) for e in root.iter() for key in ("TIME_SLOT_ID", "ANNOTATION_ID") if e.get(key)
    ]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"[A-Za-z_][\w.-]*", name) for name in ids)
    slots = {e.get("TIME_SLOT_ID"): int(e.get("TIME_VALUE")) for e in root.iter("TIME_SLOT")}
    kinds = {e.get("LINGUISTIC_TYPE_ID") for e in root.iter("LINGUISTIC_TYPE")}
    assert {e.get("LINGUISTIC_TYPE_REF") for e in root.iter("TIER")} <= kinds
    for tier in root.iter("TIER"):
        places = [
            slots[e.get(key)]
            for e in tier.iter("ALIGNABLE_ANNOTATION")
            for key in ("TIME_SLOT_REF1", "TIME_SLOT_REF2")
        ]
        assert places == sorted(places)
    assert " " not in root.find("HEADER/MEDIA_DESCRIPTOR").get("MEDIA_URL")


def test_textgrid_is_read_by_praatio(files):
    grid = textgrid.openTextgrid(str(files["textgrid"]), includeEmptyIntervals=False)
    assert set(grid.tierNames) == {"Ola", "Jan_2", "Ola words"}
    assert grid.maxTimestamp == 3702.0
    found = [(*x, who) for who in ("Ola", "Jan_2") for x in grid.getTier(who).entries]
    heard = [row for row in WANTED if row[3]]  # Praat knows no interval without text
    close(by_time((a, b, who, text) for a, b, text, who in found), heard)


def test_srt_and_text(files):
    parts = files["srt"].read_text("utf-8").split("\n\n")
    assert parts[1] == "2\n00:00:01,000 --> 00:00:03,333\nJan_2: żółć: $x^2$"
    assert parts[3].startswith("4\n01:01:40,500 --> 01:01:41,000\n")
    assert files["txt"].read_text("utf-8").splitlines()[2] == "[00:00:01] Ola: a b"


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_was_said(tmp_path, name):
    path = tmp_path / f"a{FORMATS[name].suffix}"
    write_transcript(Transcript("a", 2.0), name, path)
    if name in ("seglst", "rttm"):
        assert read_passages(path) == {}
    if name == "eaf":
        assert list(pympi.Eaf(str(path)).get_tier_names()) == []
    if name == "textgrid":
        assert "size = 0" in path.read_text()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.rttm", "SPEAKER s 1 0.0\n", "line 1: 4 columns"),
        ("a.rttm", "SPEAKER s 1 0.0 x <NA> <NA> a\n", "line 1: x is no time"),
        ("a.rttm", "SPEAKER s 1 -1 2 <NA> <NA> a\n", "line 1: -1 is no time"),
        ("a.json", "{", "is not JSON"),
        ("a.json", "{}", "is not SegLST"),
        ("a.json", '[{"speaker": "a", "start_time": 1}]', "segment 1: lacks end_time"),
        ("a.json", json.dumps([{"speaker": "a", "start_time": 2, "end_time": 1}]), "ends before"),
        ("a.txt", "", "is read from .rttm"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=re.escape(words)) as caught:
        read_passages(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))


def test_hours_beyond_a_hundred_and_tiers_of_one_name():
    word = Word("tak", 360_000.0, 360_001.0)
    told = [Passage("A", 360_000, 360_001, "tak", timed=(word,)), Passage("A words", 1, 2, "nie")]
    transcript = Transcript("s", 360_002, told, told)
    assert "[100:00:00] A: tak" in FORMATS["txt"].text(transcript)
    tree = ElementTree.fromstring(FORMATS["eaf"].text(transcript))
    names = [tier.get("TIER_ID") for tier in tree.iter("TIER")]
    assert sorted(names) == ["A", "A words", "A words_"]


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '[{"speaker": "a", "start_time": 0, "end_time": ' + "9" * 5000 + "}]"]
)
def test_json_of_any_depth_and_size_is_a_line(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match=r"x\.json"):
        read_passages(tmp_path / "x.json")


@pytest.mark.parametrize("name", ["\\ud800", "\\u0007"])
def test_a_name_that_no_file_holds_is_refused(tmp_path, name):
    row = f'[{{"speaker": "{name}", "start_time": 0, "end_time": 1}}]'
    (tmp_path / "x.json").write_text(row)
    with pytest.raises(InputError, match=r"segment 1: the speaker's name .* cannot be printed"):
        read_passages(tmp_path / "x.json")


def test_a_recording_finds_its_own_among_many():
    told = {"talk.wav": [Passage("a", 0, 1)], "other": [Passage("b", 0, 1)]}
    of = partial(passages_of, recording=Path("x/talk.wav"), source=Path("x.rttm"))
    assert of(told) == told["talk.wav"]
    assert of({}) == []
    assert of({"any": told["other"]}) == told["other"]
    with pytest.raises(InputError, match=r"says nothing of talk .other"):
        of({"other": told["other"]}, only=False)
