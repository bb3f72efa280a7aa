"""Folders that are exported, and what loads them."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import speechbrain
import torch
import yaml

from custom_modules.errors import InputError
from custom_modules.hub.card import CardFacts
from custom_modules.hub.folder import check_name, new_folder, push_folder, write_folder
from custom_modules.hub.recipe import ModelRecipe, load_best
from custom_modules.inference import PolSESSSeparation
from tests.hub.scans import without_numba

ROOT = Path(__file__).parents[2]
MODELS = {
    "convtasnet": {"N": 16, "B": 8, "H": 16, "X": 3, "R": 2, "norm_eps": 1e-4},
    "dprnn": {"N": 16, "num_layers": 2, "hidden_size": 8, "chunk_size": 20},
    "sepformer": {
        **{"N": 16, "num_blocks": 2, "num_layers": 2, "nhead": 2, "d_ffn": 16},
        **{"chunk_size": 30, "task": "ES"},
    },
    "resepformer": {"N": 8, "num_layers": 1, "nhead": 2, "d_ffn": 16, "segment_size": 30},
    "sepreformer": {
        **{"N": 8, "emb_dim": 8, "num_stages": 2, "n_head": 2, "conv_size": 5},
        **{"max_distance": 9},
    },
    "spmamba": {"n_fft": 32, "stride": 16, "n_layers": 1, "emb_dim": 4, "qk_dim": 17},
    "mossformer2": {"N": 8, "num_layers": 1, "group_size": 20, "fsmn_channels": 4},
    "mamba_tasnet": {"N": 8, "n_layers": 2, "d_state": 4},
    "dpmamba": {"N": 8, "num_layers": 1, "d_state": 4, "chunk_size": 20},
    "tf_locoformer": {
        **{"n_fft": 32, "stride": 16, "n_layers": 1, "emb_dim": 8, "n_heads": 2},
        **{"attention_dim": 4, "ffn_dim": 4, "ffn_kernel": 4},
    },
    "tiger": {
        **{"n_fft": 64, "stride": 16, "bands": [[4, 250], [2, 1000]], "N": 8, "H": 8},
        **{"num_blocks": 2, "num_layers": 3, "nhead": 2},
    },
}
UNCOMPILED = ("dpmamba", "mamba_tasnet")  # one of three is enough
CARD = CardFacts({"train_variants": ["SER", "SE"]}, source="owner/model")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Name → folder, recipe and the separator that was exported."""
    torch.manual_seed(0)
    found = {}
    for name, overrides in MODELS.items():
        hparams = ROOT / "hparams" / f"{name}.yaml"
        recipe = ModelRecipe(str(hparams), {"data_folder": "none", **overrides})
        separator = recipe.make_separator().eval()
        for parameter in separator.parameters():  # no two of them alike
            parameter.data += 0.02 * torch.randn_like(parameter)
        folder = tmp_path_factory.mktemp("exported") / name
        table = "# dprnn, test set\n\n| variant | SI-SDR |\n|---|--:|\n| C | 7.14 |"
        table += "\n\n## Scores beside the mixture\n"
        with without_numba() if name in UNCOMPILED else nullcontext():
            write_folder(folder, recipe, separator, replace(CARD, results=table))
        assert {path.suffix for path in folder.iterdir()} == {".py", ".md", ".yaml", ".ckpt"}
        found[name] = folder, recipe, separator
    return found


@pytest.mark.slow
def test_speechbrain_alone_loads_every_model(exported, tmp_path):
    cases = []
    for name, (folder, recipe, separator) in exported.items():
        # At this length SpeechBrain's own class does not cut the last samples off.
        mixture = 0.05 * torch.randn(2, 16 + 8 * 400)
        with torch.no_grad():
            torch.save((mixture, separator(mixture)), tmp_path / f"{name}.pt")
        cases.append(
            {
                "name": name,
                "folder": str(folder),
                "tensors": str(tmp_path / f"{name}.pt"),
                "stock": recipe.is_masking,
            }
        )
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    packages = {str(Path(m.__file__).parents[1]) for m in (speechbrain, torch)}
    done = subprocess.run(
        # Isolated: no environment, no .pth files, not even an editable install.
        [
            *(sys.executable, "-I", "-S", Path(__file__).with_name("isolated.py")),
            *(tmp_path / "cases.json", *packages),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    differences = json.loads(done.stdout.splitlines()[-1])
    assert len(differences) == sum(2 + case["stock"] for case in cases)
    assert max(differences.values()) < 1e-6, differences


def test_kernels_are_compiled_once_for_all_processes(exported):
    folder, _, _ = exported["spmamba"]
    package = re.search(r'PACKAGE = "(\w+)"', (folder / "custom_interface.py").read_text())[1]
    kernels = sys.modules[f"{package}.selective_scan.numba_kernels"]
    # Beside the folder's one file, as it was when it was written and loaded.
    assert kernels.scan_forward.stats.cache_path.endswith("__pycache__")


@pytest.mark.parametrize("samples", [1, 7, 1001])
@pytest.mark.parametrize("name", MODELS)
def test_any_length_is_as_in_training(exported, name, samples):
    folder, _, separator = exported[name]
    model = PolSESSSeparation.from_hparams(folder, run_opts={"device": "cpu"})
    mixture = 0.05 * torch.randn(2, samples)
    with torch.no_grad():
        expected = separator(mixture)
    torch.testing.assert_close(model.estimate(mixture), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(model.separate_batch(mixture), expected, atol=1e-6, rtol=0)


def test_folders_of_speechbrain_itself_work_as_well(exported, tmp_path):
    folder, _, separator = exported["dprnn"]
    shutil.copytree(folder, tmp_path / "stock")
    (tmp_path / "stock" / "custom_interface.py").unlink()
    model = PolSESSSeparation.from_hparams(tmp_path / "stock", run_opts={"device": "cpu"})
    mixture = torch.randn(1, 999)
    with torch.no_grad():
        torch.testing.assert_close(model.estimate(mixture), separator(mixture))


def test_weights_are_plain_tensors(exported):
    for folder, recipe, separator in exported.values():
        parameters = 0
        for name in recipe.modules_of(separator):
            saved = torch.load(folder / f"{name}.ckpt", weights_only=True)
            parameters += sum(v.numel() for v in saved.values())
        assert parameters >= sum(p.numel() for p in separator.parameters())


def test_hparams_say_nothing_of_training(exported):
    for folder, _, _ in exported.values():
        text = (folder / "hyperparams.yaml").read_text()
        keys = {key.value for key, _ in yaml.compose(text).value[:4]}
        assert keys == {"model_name", "task", "sample_rate", "num_spks"}
        for word in ("lr:", "epochs", "batch_size", "data_folder", "checkpointer"):
            assert word not in text


def test_architectures_have_their_names_in_the_field(exported):
    names = {name: recipe.architecture for name, (_, recipe, _) in exported.items()}
    assert names == {
        "convtasnet": "ConvTasNet",
        "dprnn": "DPRNN",
        "sepformer": "SepFormer",
        "resepformer": "RESepFormer",
        "sepreformer": "SepReformer",
        "spmamba": "SPMamba",
        "mossformer2": "MossFormer2",
        "mamba_tasnet": "MambaTasNet",
        "dpmamba": "DPMamba",
        "tf_locoformer": "TFLocoformer",
        "tiger": "TIGER",
    }


def test_model_card(exported):
    folder, _, separator = exported["convtasnet"]
    _, front_matter, text = (folder / "README.md").read_text().split("---\n", 2)
    front_matter = yaml.safe_load(front_matter)
    assert front_matter["language"] == "pl"
    assert front_matter["license"] == "apache-2.0"
    assert {"speechbrain", "ConvTasNet", "PolSESS"} <= set(front_matter["tags"])
    assert front_matter["datasets"] == ["PolSESS"]
    keys = re.findall(r"^@misc\{(\w+),$", text, flags=re.MULTILINE)
    assert keys == ["luo2019conv", "klec2024a", "ravanelli2024open"]
    count = sum(p.numel() for p in separator.parameters())
    headings = re.findall("^#+ .*", text, flags=re.MULTILINE)
    assert headings.count("### Scores beside the mixture") == 1
    assert "# dprnn, test set" not in headings
    for expected in ("| C | 7.14 |", f"{count:,} parameters", "SER, SE", "0.0001"):
        assert expected in text


def test_what_exists_stays(exported, tmp_path):
    _, recipe, separator = exported["dprnn"]
    (tmp_path / "notes.txt").write_text("mine")
    for overwrite, message in ((False, "exists"), (True, "not an exported model")):
        with pytest.raises(InputError, match=message):
            write_folder(tmp_path, recipe, separator, CARD, overwrite)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(InputError, match="is a file"):
        write_folder(tmp_path / "notes.txt", recipe, separator, CARD)


NAMES = [
    *(
        'a"""\nimport os; os.mkfifo("ran")\n"""',
        "a\\",
        "a\nlicense: mit",
        "{source}",
        "zażółć gęślą",
    ),
    *("```", "\udcff", "'\"", "\\N{x}", "$(touch ran)"),
]


@pytest.mark.parametrize("name", NAMES)
def test_what_something_is_called_is_never_run(exported, tmp_path, monkeypatch, name):
    _, recipe, separator = exported["convtasnet"]
    monkeypatch.chdir(tmp_path)
    facts = replace(CARD, source=name, license_id=f"{name}\nlanguage: xx")
    write_folder(tmp_path / name, recipe, separator, facts)
    PolSESSSeparation.from_hparams(tmp_path / name, run_opts={"device": "cpu"})
    assert not (tmp_path / "ran").exists()
    readable = name.replace("\udcff", "?")
    interface = ast.parse((tmp_path / name / "custom_interface.py").read_text("utf-8"))
    called = ast.parse(textwrap.dedent(ast.get_docstring(interface).split("\n\n")[1]))
    assert called.body[-1].value.keywords[0].value.value == readable
    _, front_matter, _ = (tmp_path / name / "README.md").read_text("utf-8").split("---\n", 2)
    front_matter = yaml.safe_load(front_matter)
    assert front_matter["license"] == f"{readable}\nlanguage: xx"
    assert front_matter["language"] == "pl"


def test_an_exported_model_is_not_exported_again(exported):
    folder, _, _ = exported["convtasnet"]
    with pytest.raises(InputError, match=f"{folder}: is an exported model; export the results"):
        load_best([str(folder / "hyperparams.yaml")])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_not_overwritten(exported, tmp_path):
    _, recipe, separator = exported["convtasnet"]
    write_folder(tmp_path / "a", recipe, separator, CARD)
    (tmp_path / "a").chmod(0o500)
    with pytest.raises(InputError, match="a: is read-only; name another"):
        write_folder(tmp_path / "a", recipe, separator, CARD, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_one_at_a_time_writes_a_folder(exported, tmp_path):
    _, recipe, separator = exported["convtasnet"]
    with new_folder(tmp_path / "a") as partial:
        (partial / "custom_interface.py").write_text("first")
        for overwrite in (False, True):
            with pytest.raises(InputError, match="another command writes into it"):
                write_folder(tmp_path / "a", recipe, separator, CARD, overwrite)
    assert (tmp_path / "a" / "custom_interface.py").read_text() == "first"
    with pytest.raises(InputError, match="exists"), new_folder(tmp_path / "a"):
        pass
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "a", overwrite=True):
        raise ZeroDivisionError
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a" / "custom_interface.py").read_text() == "first"


@pytest.mark.parametrize("name", ["", " ", "/", "file/below", "n" * 255])
def test_what_cannot_be_a_folder(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError), new_folder(name, overwrite=True):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["name", "a/b/c", "owner/na me", "", "owner/name--x"])
def test_what_is_no_name_on_a_hub(name):
    with pytest.raises(InputError, match="must be owner/name"):
        check_name(name)


def test_a_hub_folder_can_be_replaced(exported, tmp_path):
    _, recipe, separator = exported["dprnn"]
    for _ in range(2):
        write_folder(tmp_path / "a", recipe, separator, CARD, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_what_cannot_be_exported_is_noticed(exported, tmp_path):
    """A separator that computes something else than its recipe says."""
    _, recipe, separator = exported["dprnn"]
    odd = recipe.make_separator()
    odd.load_state_dict(separator.state_dict())
    odd.register_forward_hook(lambda module, mixture, estimates: 2 * estimates)
    with pytest.raises(InputError, match="differs from the trained one"):
        write_folder(tmp_path / "a", recipe, odd, CARD)
    assert not list(tmp_path.iterdir())


def test_uploading(exported, monkeypatch):
    calls = []

    class Hub:
        def create_repo(self, repo_id, exist_ok):
            calls.append(("create", repo_id, exist_ok))
            return f"https://hub/{repo_id}"

        def upload_folder(self, repo_id, folder_path, ignore_patterns):
            assert ignore_patterns == "__pycache__/*"
            calls.append(("upload", repo_id, folder_path))

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    folder = exported["dprnn"][0]
    assert push_folder(folder, "me/dprnn") == "https://hub/me/dprnn"
    assert calls == [("create", "me/dprnn", True), ("upload", "me/dprnn", str(folder))]


def test_an_upload_that_fails_ends_in_one_line(exported, monkeypatch):
    class Hub:
        def create_repo(self, *args, **kwargs):
            raise ConnectionError("no route\nto host")

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    with pytest.raises(InputError, match=r"me/dprnn: not uploaded \(no route to host"):
        push_folder(exported["dprnn"][0], "me/dprnn")
