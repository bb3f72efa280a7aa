"""benchmark_all.py from a corpus to a page; what is done is not done again."""

import pandas as pd
import pytest

from tests.campaign.test_page import check_page
from tests.integration.training import ROOT, TINY, run, tiny_corpus

COMMAND = "recipes/separation/benchmark_all.py"
MODELS = ("convtasnet", "dprnn")


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    """A campaign of two tiny architectures, and the folder of its page."""
    folder = tmp_path_factory.mktemp("campaign")
    (folder / "README.md").write_text("<!-- begin small -->\n<!-- end small -->\n")
    (folder / "hparams").mkdir()
    (folder / "out").mkdir()
    costs = {"step_seconds": 6.0, "step_mib": 1, "parameters": 1, "inference_mib": 1}
    costs |= {"macs_per_second": 1, "real_time_factor": 1}
    # Measured costs are kept: so many steps are in the budget on any machine.
    pd.DataFrame([{"model": model} | costs for model in MODELS]).to_csv(
        folder / "out/costs.csv", index=False
    )
    for model in MODELS:
        sizes = [option[2:].replace("=", ": ") for option in TINY[model].split()]
        sizes += [f"base: {ROOT}/hparams/{model}.yaml", "batch_size: 2"]
        (folder / f"hparams/{model}.yaml").write_text("\n".join(sizes) + "\n")
    return folder, [
        *(f"--data_folder={tiny_corpus(folder)}", f"--hparams={folder / 'hparams'}"),
        *(f"--output_folder={folder / 'out'}", f"--page={folder / 'README.md'}"),
        *("--models", *MODELS, "--seeds", "7", "--jobs", "2", "--budget", "0.7"),
        *("--device=cpu", "--num_workers=0", "--save_audio=0"),
    ]


def test_one_command_makes_the_page_and_repeats_nothing(arguments):
    folder, command = arguments
    done = run(COMMAND, *command)
    assert done.returncode == 0, done.stderr
    for model in MODELS:
        run_folder = folder / "out" / model / "7"
        # Seven steps, of which an epoch of nine mixtures has five.
        assert len(pd.read_csv(run_folder / "history.csv")) == 2
    text = (folder / "README.md").read_text()
    check_page(text, folder / "figures/small")
    assert pd.read_csv(folder / "figures/small/runs.csv").steps.tolist() == [7, 7]
    again = run(COMMAND, *command)
    assert again.returncode == 0, again.stderr
    assert "0 of 2 runs to do" in again.stderr


@pytest.mark.parametrize(
    ("mistake", "remedy"),
    [
        (["--preset=full"], "say where PolSESS is, --data_folder"),
        (["--models=wavesplit"], "invalid choice"),
        (["--budget=ten"], "invalid float"),
    ],
)
def test_mistakes_end_in_one_line(mistake, remedy):
    done = run(COMMAND, *mistake)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and remedy in done.stderr
