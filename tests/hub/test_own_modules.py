"""Modules of one's own in folders that are exported."""

import ast
import subprocess
import sys

import yaml

from custom_modules.hub.card import CardFacts
from custom_modules.hub.folder import bundle, write_folder
from custom_modules.hub.recipe import ModelRecipe

OWN = """
model_name: own
task: ES
sample_rate: 8000
num_sources: !apply:custom_modules.mmipc.num_sources [!ref <task>]
separator: !new:custom_modules.models.masking.MaskingSeparator
    encoder: !new:torch.nn.Unflatten
        dim: 1
        unflattened_size: [1, -1]
    masknet: !new:custom_modules.models.own.Gate   # of one's own
        activation: !name:torch.nn.ReLU {inplace: False}
        norm_eps: 1e-05
        sources: !ref <num_sources>
    decoder: null
"""


def test_a_model_of_ones_own_is_exported_as_its_file_says(tmp_path):
    (tmp_path / "own.yaml").write_text(OWN)
    recipe = ModelRecipe(str(tmp_path / "own.yaml"), {})
    assert not recipe.is_masking
    assert recipe.architecture == "Gate"
    modules = ["custom_modules.models.masking", "custom_modules.models.own"]
    assert recipe.project_modules() == modules
    text = recipe.write("package")
    for part in (
        *("num_spks: 1\n", "sources: 1\n", "norm_eps: 1.0e-05\n", "  decoder:\n"),
        *("!name:torch.nn.ReLU", "!new:package.models.own.Gate\n", "- -1\n"),
    ):
        assert part in text
    assert "custom_modules" not in text
    assert yaml.compose(text)


MINE = """
import torch
from custom_modules.objectives import si_sdr

class Delay(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(1))

    def forward(self, mixture):
        if len(mixture) > 1:
            raise ZeroDivisionError
        return self.gain * torch.stack([mixture, mixture.roll(1, -1)], -1)
"""


def test_a_module_beside_the_hparams_file_goes_along(tmp_path):
    """It has no arguments, and a bug of its own is shown with its file and line."""
    (tmp_path / "mine_beside.py").write_text(MINE)
    header = OWN.partition("separator")[0].replace("ES", "SB")
    (tmp_path / "loss_beside.py").write_text("private = True\n")
    text = header + "separator: !new:mine_beside.Delay\nloss: !name:loss_beside.loss\n"
    (tmp_path / "mine.yaml").write_text(text)
    recipe = ModelRecipe(str(tmp_path / "mine.yaml"), {})
    facts = CardFacts({}, checkpoint="untrained")
    write_folder(tmp_path / "exported", recipe, recipe.make_separator(), facts)
    code = """
import sys, torch
from speechbrain.inference.interfaces import foreign_class
model = foreign_class(
    source=sys.argv[1], pymodule_file="custom_interface.py", classname="PolSESSSeparation"
)
print(model.separate_batch(torch.eye(2)[:1]).shape)
model.mods["separator"](torch.eye(2))
"""
    (tmp_path / "mine_beside.py").unlink()
    command = [sys.executable, "-P", "-c", code, str(tmp_path / "exported")]
    done = subprocess.run(command, cwd=tmp_path / "exported", capture_output=True, text=True)
    assert "torch.Size([1, 2, 2])" in done.stdout, done.stderr
    assert 'mine_beside.py", line 12' in done.stderr
    assert "ZeroDivisionError" in done.stderr
    interface = (tmp_path / "exported/custom_interface.py").read_text()
    assert "mine_beside" in interface
    assert "loss_beside" not in interface


def test_a_module_of_any_text_goes_along(tmp_path):
    path = tmp_path / "mine.py"
    for text in ("a = r'''b'''", "a = 1  # \\", "a = 'b'", 'a = r"""c"""\n'):
        path.write_text(text)
        _, interface = bundle([], "name", {"mine": path})
        modules = next(
            node.value.value
            for node in ast.parse(interface).body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).endswith(".mine']")
        )
        assert modules == text
