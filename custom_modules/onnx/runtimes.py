"""Separators that onnxruntime runs, in the place of their modules."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from custom_modules.errors import InputError, check_number
from custom_modules.files import regular_file

#: What runs a separator → its file in an exported folder.
GRAPHS = {"onnx": "model.onnx", "onnx-int8": "model_int8.onnx"}
RUNTIMES = ("torch", *GRAPHS)
#: What a graph says of itself, as text.
FACTS = ("model_name", "sample_rate", "num_spks")


def open_session(path: str | Path, threads: int) -> Any:
    """An onnxruntime session on CPUs; raises InputError where there is no such package or graph."""
    try:
        import onnxruntime
    except ImportError:
        raise InputError("onnxruntime is not installed; run `pip install onnxruntime`") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what fails is raised
    content = str(regular_file(path))
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of a dozen classes, all of the package's own
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: cannot be loaded ({reason}); export it again") from error


class OnnxSeparator(nn.Module):
    """A graph as a separator; it knows its rate, and has a digest in the place of weights."""

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.session = open_session(path, torch.get_num_threads())
        self.facts = read_facts(self.session, path)
        digest = hashlib.sha256(Path(path).read_bytes()).digest()
        self.digest: Tensor  # which tells models apart
        self.register_buffer("digest", torch.tensor(list(digest), dtype=torch.uint8))

    def forward(self, mixture: Tensor) -> Tensor:
        """``[batch, time]`` → ``[batch, time, sources]``."""
        (sources,) = self.session.run(None, {"mixture": mixture.float().cpu().numpy()})
        return torch.from_numpy(sources)


def read_facts(session: Any, path: str | Path) -> dict[str, Any]:
    """Name, rate and number of sources of a graph that ``export.py`` wrote."""
    written = session.get_modelmeta().custom_metadata_map
    if missing := [name for name in FACTS if name not in written]:
        raise InputError(f"{path}: has no {missing[0]}; export.py --onnx writes such files")
    facts: dict[str, Any] = {"model_name": written["model_name"]}
    for name in FACTS[1:]:
        value = int(written[name]) if written[name].isdecimal() else written[name]
        check_number(f"{path}: {name}", value, least=1, most=10**6, whole=True)
        facts[name] = value
    return facts


def load_graph(folder: Path, runtime: str) -> OnnxSeparator:
    """The graph of an exported folder; raises InputError where it is not there."""
    return OnnxSeparator(graph_of(folder, runtime))


def graph_of(folder: Path, runtime: str) -> Path:
    """The file that a runtime takes; raises InputError where it is not there."""
    if runtime not in GRAPHS:
        raise InputError(f"runtime={runtime}: is unknown; there are {', '.join(RUNTIMES)}")
    path = folder / GRAPHS[runtime]
    if not path.exists():
        option = "--onnx --quantize int8" if runtime == "onnx-int8" else "--onnx"
        raise InputError(f"{path}: no such file; export.py … {option} writes it")
    return path
