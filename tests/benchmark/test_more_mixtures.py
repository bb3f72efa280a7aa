"""The study of more mixtures: its runs, and that its tables say what results say."""

import json

import numpy as np
import pandas as pd
import pytest

from recipes.benchmark import more_mixtures
from recipes.benchmark.more_mixtures import ARMS, SILENT_ARMS, SIZES, Study


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Results whose every mixture gains what its arm, size and seed say."""
    monkeypatch.setattr(more_mixtures, "SEEDS", (1, 2))
    study = Study(tmp_path, steps=100)
    entries = {
        f"m{i}": {
            **{"duration": 0.1, "sample_rate": 8000, "environment": "clean"},
            **{"mix": "{data_root}/m", "s1": "{data_root}/1", "s2": "{data_root}/2"},
            **{"s2_layers": [], "variants": {"C": []}},
            **{"speaker1": "abc"[i % 3], "speaker2": "abc"[(i + 1) % 3]},
        }
        for i in range(6)
    }
    for number, run in enumerate(study.runs()):
        for place in (run.folder, run.folder / "train"):
            place.mkdir(parents=True, exist_ok=True)
            gains = number + np.arange(6.0) + (100 if place.name == "train" else 0)
            rows = pd.DataFrame({"id": [*entries], "variant": "C", "si_sdr": 1 + gains})
            rows.assign(si_sdr_mixture=1.0).to_csv(place / "test_results.csv", index=False)
        (run.folder / "test_scores").mkdir()
        (run.folder / "test_scores" / "test.json").write_text(json.dumps(entries))
    return study


def test_every_arm_has_each_seed_and_its_own_folder(study):
    runs = list(study.runs())
    assert len({run.folder for run in runs}) == len(runs)
    assert len(runs) == 2 * (len(SIZES) * len(ARMS) + len(SILENT_ARMS))
    (silent,) = {x for run in runs for x in run.commands[0] if x.startswith("--silent")}
    assert silent == "--silent_talker={share: 0.1, from_epoch: 2}"  # HALF of the steps are over


def test_means_are_over_mixtures_and_seeds(study):
    lines = more_mixtures.unseen_voices(study)[1:]
    offset = len(SIZES) * len(ARMS)
    for row, line in enumerate(lines):
        numbers = [row, offset + row]  # of runs: the trainings of seed 1 come first
        assert float(line[1]) == pytest.approx(np.mean(numbers) + 2.5, abs=0.006)
        gain = line[3]
        assert gain == "–" if row % len(ARMS) == 0 else float(gain) == row % len(ARMS)
        assert float(line[5]) == pytest.approx(np.mean(numbers) + 102.5, abs=0.006)
