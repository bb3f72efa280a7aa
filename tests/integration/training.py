"""train.py on a tiny corpus and model: in a process of its own, or in this one."""

import importlib.util
import os
import sys
from pathlib import Path

import torch

from tests.integration.forked import run_command
from tests.manifest.tiny_corpus import TinyCorpus

ROOT = Path(__file__).parents[2]
TRAIN = "recipes/separation/train.py"
WATCHED = "tests/integration/watched_training.py"
TWO_PROCESSES = ["-mtorch.distributed.run", "--standalone", "--nproc_per_node=2"]
TINY = {
    "convtasnet": "--N=8 --B=8 --H=8 --X=2 --R=1 --precision=fp32",
    "dpmamba": "--N=8 --num_layers=1 --d_state=4 --chunk_size=20 --precision=fp32",
    "dprnn": "--N=8 --num_layers=1 --hidden_size=4 --chunk_size=20 --precision=fp32",
    "mamba_tasnet": "--N=8 --n_layers=2 --d_state=4 --precision=fp32",
    "mossformer2": "--N=8 --num_layers=1 --group_size=20 --fsmn_channels=4 --precision=fp32",
    "resepformer": "--N=8 --num_layers=1 --nhead=2 --d_ffn=16 --segment_size=30",
    "sepreformer": "--N=8 --emb_dim=8 --num_stages=2 --n_head=2 --conv_size=5 --max_distance=9",
    "sepformer": "--N=8 --num_blocks=1 --num_layers=1 --nhead=2 --d_ffn=8 "
    "--chunk_size=20 --precision=fp32",
    "spmamba": "--n_fft=32 --stride=16 --n_layers=1 --emb_dim=4 --qk_dim=17",
    "tf_locoformer": "--n_fft=32 --stride=16 --n_layers=1 --emb_dim=8 --n_heads=2 "
    "--attention_dim=4 --ffn_dim=4 --ffn_kernel=4",
    "tiger": "--n_fft=64 --stride=16 --bands=[[4,250],[2,1000]] --N=8 --H=8 --num_blocks=2 "
    "--num_layers=3 --nhead=2",
}
REMIXED = [
    *("--remix=True", "--speed=[0.9, 1.1]", "--loss=sa_sdr"),
    "--silent_talker={share: 0.3, both: 0.3, from_epoch: 2}",
]
SHARED = "--num_workers=0 --noprogressbar --device=cpu --save_audio=0"


def tiny_corpus(folder, train=9, valid=5, test=2, frames=800):
    """Every third mixture is an outdoor one."""
    corpus = TinyCorpus(folder / "Tiny", frames=frames)
    for subset, rows in (("train", train), ("val", valid), ("test", test)):
        for row in range(rows):
            environment = "outdoor" if row % 3 == 2 else "indoor"
            corpus.add(subset, f"{subset}_{row}", environment)
    corpus.write_tables()
    return corpus.root


def arguments(corpus, folder, *more, hparams="convtasnet"):
    """What train.py takes."""
    folders = [f"--data_folder={corpus}", f"--output_folder={folder}"]
    tiny = TINY.get(Path(hparams).name, "").split()
    return [f"{Path('hparams') / hparams}.yaml", *folders, *tiny, *SHARED.split(), *map(str, more)]


def run(*command, **environment):
    """Runs Python with a command line, from the repository's root."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    env.pop("POLSESS_DATA_ROOT", None)
    return run_command(command, env | environment)


def load_script(name, folder="separation"):
    """A script of recipes as a module; its ``main`` takes the arguments."""
    path = ROOT / f"recipes/{folder}/{name}.py"
    spec = importlib.util.spec_from_file_location(f"script_{name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def error_line(done):
    """The one line that a command ended with."""
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    (line,) = [x for x in done.stderr.splitlines() if x.startswith("error: ")]
    return line


def final_state(folder, epoch=3):
    """What the last checkpoint holds, but for the time it was written at."""
    (last,) = {
        path.parent
        for path in Path(folder).glob("save/CKPT*/CKPT.yaml")
        if f"epoch: {epoch}\n" in path.read_text()
    }
    state = {}
    for path in sorted(last.glob("*.ckpt")):
        try:
            state[path.name] = torch.load(path, weights_only=True)
        except Exception:
            state[path.name] = path.read_text()
    return state


def assert_same(a, b, where=""):
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for place, pair in enumerate(zip(a, b, strict=True)):
            assert_same(*pair, f"{where}[{place}]")
    else:
        assert a == b, where
