"""benchmark_all.py from a corpus to a page; what is done is not done again."""

import pandas as pd
import pytest

from custom_modules.errors import InputError
from recipes.benchmark.campaign.campaign import what_costs
from tests.benchmark.test_page import check_page
from tests.integration.training import ROOT, TINY, load_script, run, tiny_corpus

COMMAND = "recipes/separation/benchmark_all.py"
MODELS = ("convtasnet", "dprnn")
OPTIONS = ["--device=cpu", "--num_workers=0", "--save_audio=0"]


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    """A campaign of two tiny architectures, and its folder."""
    folder = tmp_path_factory.mktemp("campaign")
    (folder / "hparams").mkdir()
    (folder / "out").mkdir()
    costs = {"step_seconds": 6.0, "step_mib": 1, "parameters": 1, "inference_mib": 1}
    costs |= {"macs_per_second": 1, "real_time_factor": 1}
    for model in MODELS:
        sizes = [option[2:].replace("=", ": ") for option in TINY[model].split()]
        sizes += [f"base: {ROOT}/hparams/{model}.yaml", "batch_size: 2"]
        (folder / f"hparams/{model}.yaml").write_text("\n".join(sizes) + "\n")
    # Measured costs are kept: so many steps are in the budget on any machine.
    rows = [
        {"model": m, "what": what_costs(f"{folder}/hparams/{m}.yaml", OPTIONS)} | costs
        for m in MODELS
    ]
    pd.DataFrame(rows).to_csv(folder / "out/costs.csv", index=False)
    return folder, [
        *(f"--data_folder={tiny_corpus(folder)}", f"--hparams={folder / 'hparams'}"),
        f"--output_folder={folder / 'out'}",
        *("--models", *MODELS, "--seeds", "7", "--jobs", "2", "--budget", "0.7"),
        *OPTIONS,
    ]


@pytest.mark.slow
def test_one_command_makes_the_page_and_repeats_nothing(arguments):
    folder, command = arguments
    # The environment would have the test done on another corpus.
    elsewhere = {"POLSESS_DATA_ROOT": str(folder / "nowhere")}
    done = run(COMMAND, *command, **elsewhere)
    assert done.returncode == 0, done.stderr
    for model in MODELS:
        run_folder = folder / "out" / model / "7"
        # Seven steps, of which an epoch of nine mixtures has five.
        assert len(pd.read_csv(run_folder / "history.csv")) == 2
    text = (folder / "out/README.md").read_text()
    check_page(text, folder / "out/figures/small")
    assert pd.read_csv(folder / "out/figures/small/runs.csv").steps.tolist() == [7, 7]
    again = run(COMMAND, *command)
    assert again.returncode == 0, again.stderr
    assert "0 of 2 runs to do" in again.stderr
    # A training that was through before its test was does not begin another epoch.
    (folder / "out/dprnn/7/finished.json").unlink()
    once_more = run(COMMAND, *command)
    assert "1 of 2 runs to do" in once_more.stderr
    assert len(pd.read_csv(folder / "out/dprnn/7/history.csv")) == 2
    assert (folder / "out/README.md").read_text() == text
    less = run(COMMAND, *command, "--budget=0.3")
    assert less.returncode == 2
    assert "was trained for 7 steps, more than the 3 of this budget" in less.stderr
    other = run(COMMAND, *command, "--budget=0.9", f"--data_folder={folder}")
    assert other.returncode == 2
    assert "was begun with other options" in other.stderr


@pytest.mark.parametrize(
    ("mistake", "remedy"),
    [
        (["--preset=full"], "say where PolSESS is, --data_folder"),
        (["--models", "dprnn", "wavesplit"], "no hparams/small/wavesplit.yaml; there are conv"),
        (["--hparams=tests"], "--models: must be 2 or more"),
        (["--budget=ten"], "invalid float"),
        (["--budget=nan"], "--budget=nan: must be a number above 0"),
        (["--models", "dprnn"], "must be 2 or more"),
        (["--seeds", "3", "3"], "each of them once"),
        (["--jobs=0"], "--jobs=0: must be a whole number from 1"),
        (["--seed=3"], "is decided here"),
        (["--page=nowhere.md"], "nowhere.md: cannot be read"),
        (["--page=none", "--output_folder=README.md"], "README.md: .* folder"),
    ],
)
def test_mistakes_are_refused_before_anything_is_done(mistake, remedy):
    script = load_script("benchmark_all")
    with pytest.raises(InputError, match=remedy):
        script.main(mistake)
