"""PolSESS's tables, and those of Mini-PolSESS."""

from collections import Counter

from custom_modules.corpus import events, scenes, sources
from custom_modules.layout import read_rows

#: Groups of espeak-ng variants that sound alike; none may be on two sides.
ALIKE = [
    {"adam", "klatt6", "benjamin", "edward2"},
    {"steph", "steph2", "steph3"},
    {"anika", "anikaRobot"},
    {"RicishayMax", "RicishayMax2", "RicishayMax3", "max"},
    {"croak", "grandpa", "fast", "m5", "m6"},
    {"iven", "iven2", "iven3", "iven4"},
    {"klatt", "klatt2", "klatt3", "klatt4", "klatt5"},
    {"f4", "aunty", "f1"},
    {"Mario", "Michael", "m7"},
    {"michel", "miguel"},
    {"Henrique", "Hugo", "Diogo"},
    {"f2", "f5"},
]
UNVOICED = {"whisper", "whisperf", "caleb", "zac"}
CLIPPING = {"Jacky", "Marco", "antonio", "ed", "iven", "paul"}


def test_scene_classes_are_polsess_s():
    environments = Counter(s.environment for s in sources.scene_classes().values())
    assert environments == {"indoor": 16, "outdoor": 8}


def test_every_indoor_scene_has_a_room_with_sensible_ranges():
    for scene in sources.scene_classes().values():
        assert bool(scene.room) == (scene.environment == "indoor")
        for low, high in scene.room.values():
            assert 0 < low < high
        if scene.room:
            assert scene.room["pre_delay"][1] <= 0.5
            assert scene.room["high_cut"] == (15000, 20000)
            assert max(scene.room[k][1] for k in ("diffusion", "decay", "freq_damp")) < 1


def test_event_classes_are_polsess_s():
    suits = sources.event_scenes()
    assert len(suits) == 193
    assert all(names and names <= set(sources.scene_classes()) for names in suits.values())
    assert suits["Doorbell"] == {"h", "m", "l", "home", "library", "office"}
    assert suits["Knock"] == suits["Tap"] - {
        *("airport", "bus", "train", "tram", "car", "metro", "metro_station")
    }


def test_procedural_sounds_exist_for_every_scene():
    assert set(sources.event_families().values()) == {
        n for n in vars(events.EventFamilies) if n[0] != "_"
    }
    for scene_class in sources.scene_classes().values():
        assert scene_class.layers.keys() <= vars(scenes.SceneLayers).keys()
        assert max(scene_class.layers.values()) >= -2
    for scene in sources.scene_classes():
        names = [n for n in sources.event_families() if scene in sources.event_scenes()[n]]
        assert len(names) >= 10


def test_base_voices_never_cross_subsets():
    sides = {}
    for voice in read_rows(sources.DATA / "voices.csv"):
        group = next((i for i, g in enumerate(ALIKE) if voice["variant"] in g), None)
        key = voice["variant"] if group is None else group
        assert sides.setdefault(key, voice["subset"]) == voice["subset"]
        assert voice["variant"] not in UNVOICED | CLIPPING


def test_voices_are_many_and_balanced():
    voices = read_rows(sources.DATA / "voices.csv")
    assert len({voice["speaker"] for voice in voices}) == len(voices)
    numbers = Counter((voice["subset"], voice["gender"]) for voice in voices)
    for subset, number in {"train": 24, "val": 4, "test": 12}.items():
        assert numbers[subset, "female"] == numbers[subset, "male"] == number
    train = {v["variant"] for v in voices if v["subset"] == "train"}
    assert len(train) >= 16


def test_sentences_never_cross_subsets():
    rows = read_rows(sources.DATA / "sentences.csv")
    assert len(rows) >= 150
    assert len({row["sentence"].lower() for row in rows}) == len(rows)
    assert Counter(row["subset"] for row in rows).keys() == {"train", "val", "test"}
