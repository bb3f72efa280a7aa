"""PolSESS.csv, in the form of SpeechBrain's own tests/recipes: every file is in it, and runs."""

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest

from tests.integration.training import ROOT, run, tiny_corpus

TABLE = pd.read_csv(Path(__file__).parent / "PolSESS.csv", dtype=str, keep_default_na=False)
SMALL = TABLE[TABLE.Hparam_file.str.startswith("hparams/small/")]
COLUMNS = (
    "Task,Dataset,Script_file,Hparam_file,Data_prep_file,Readme_file,Result_url,HF_repo,"
    "test_debug_flags,test_debug_checks,performance"
)


def test_every_file_of_a_training_has_one_row():
    folders = ["hparams", *(f"hparams/{name}" for name in ("small", "tuned", "recognition"))]
    files = {str(p.relative_to(ROOT)) for folder in folders for p in ROOT.glob(f"{folder}/*.yaml")}
    assert ",".join(TABLE.columns) == COLUMNS
    assert sorted(TABLE.Hparam_file) == sorted(files)


@pytest.mark.parametrize("column", ["Script_file", "Data_prep_file", "Readme_file"])
def test_the_files_of_a_row_exist(column):
    assert all((ROOT / name).is_file() for name in TABLE[column])


@pytest.mark.slow
@pytest.mark.parametrize(
    "row", list(SMALL.itertuples()), ids=lambda row: Path(row.Hparam_file).stem
)
def test_it_runs_with_its_flags_and_leaves_its_files(row, tmp_path):
    folders = [f"--data_folder={tiny_corpus(tmp_path)}", f"--output_folder={tmp_path}"]
    done = run(row.Script_file, row.Hparam_file, *shlex.split(row.test_debug_flags), *folders)
    assert done.returncode == 0, done.stderr
    (names,) = re.fullmatch(r"file_exists=\[(.+)\]", row.test_debug_checks).groups()
    left = {str(path.relative_to(tmp_path / "debug")) for path in tmp_path.glob("debug/*")}
    assert set(names.split(",")) <= left
