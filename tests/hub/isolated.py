"""Run by test_export.py in an interpreter that has SpeechBrain and nothing of ours.

    python -I -S isolated.py CASES.json SITE_PACKAGES…

Loads each folder by each route and prints the largest difference to what the trained
model returned.
"""

import importlib.util
import json
import shutil
import sys
import tempfile
from pathlib import Path

CPU = {"run_opts": {"device": "cpu"}}


def main(cases_file, *site_packages):
    sys.path[:] = [p for p in sys.path if Path(p) != Path(__file__).parent]
    sys.path += site_packages
    assert importlib.util.find_spec("custom_modules") is None
    for package in ("numba", "matplotlib", "pandas", "pesq", "pystoi"):
        sys.modules[package] = None  # not among what SpeechBrain depends on
    import torch

    differences = {}
    for case in json.loads(Path(cases_file).read_text()):
        mixture, expected = torch.load(case["tensors"], weights_only=True)
        for route in (custom, from_hub, stock) if case["stock"] else (custom, from_hub):
            model = route(case["folder"])
            # SpeechBrain's RE-SepFormer mixes what is in a batch: one by one.
            alone = [model.separate_batch(each) for each in mixture.split(1)]
            found = torch.cat(alone) if route is stock else model.separate_batch(mixture)
            key = f"{case['name']} {route.__name__}"
            differences[key] = float((found - expected).abs().max())
    print(json.dumps(differences))


def custom(source, **options):
    from speechbrain.inference.interfaces import foreign_class

    return foreign_class(
        source=source,
        pymodule_file="custom_interface.py",
        classname="PolSESSSeparation",
        **options,
        **CPU,
    )


def from_hub(folder):
    """Through huggingface_hub, which hands out the files that are asked for."""
    import huggingface_hub

    cache = Path(tempfile.mkdtemp())

    def hf_hub_download(repo_id, filename, **_):
        assert repo_id == "owner/model"
        return shutil.copy(Path(folder) / filename, cache / filename)

    huggingface_hub.hf_hub_download = hf_hub_download
    return custom("owner/model", savedir=tempfile.mkdtemp())


def stock(source):
    from speechbrain.inference.separation import SepformerSeparation

    return SepformerSeparation.from_hparams(source, **CPU)


if __name__ == "__main__":
    main(*sys.argv[1:])
