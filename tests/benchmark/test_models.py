"""The table of what architectures cost."""

import sys

import pytest

from custom_modules.errors import InputError
from recipes.benchmark import laptop, models
from recipes.benchmark.campaign.runs import models_in

COSTS = {
    "parameters": 7_926_528,
    "macs_per_second": 4.2e9,
    "real_time_factor": 0.5,
    "inference_mib": 100.4,
    "step_seconds": 7.125,
    "step_mib": 1000,
}


def measured(file, options, threads, repeats):
    assert {"--batch_size=1", "--precision=fp32"} <= set(options)
    if "sepformer" in file:
        raise MemoryError
    return COSTS | {"parameters": 2e6 if "small" in file else COSTS["parameters"]}


def test_each_size_has_a_table_of_every_architecture(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(models, "measure_costs", measured)
    monkeypatch.setattr(sys, "argv", ["models.py", "--repeats=1", f"--output={tmp_path}"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    models.main()
    published, small = capsys.readouterr().out.split("**small**")
    for text, folder in ((published, "hparams"), (small, "hparams/small")):
        rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")]
        names = [row[0].strip() for row in rows]
        assert names == ["architecture", "-" * len(rows[1][0].strip()), *models_in(folder)]
        cells = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}
        size = "2.00" if folder == "hparams/small" else "7.93"
        assert cells["dpmamba"] == [size, "4.20", "0.500", "100", "7.12", "1000"]
        assert cells["sepformer"] == ["–"] * 6
        assert "\n\nsepformer: not enough memory" in text


@pytest.mark.parametrize("option", ["--sizes=big", "--models=dprnn,conformer"])
@pytest.mark.parametrize("benchmark", [models, laptop])
def test_what_there_is_not_is_refused(tmp_path, monkeypatch, benchmark, option):
    monkeypatch.setattr(sys, "argv", ["x.py", option, f"--output={tmp_path}"])
    with pytest.raises(InputError, match=option.split("=")[0]):
        benchmark.main()
