"""Exported folders, loaded exactly: what is missing, damaged or does not fit is an error."""

from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HTTPError
from hyperpyyaml import load_hyperpyyaml
from ruamel.yaml import YAMLError
from speechbrain.utils.fetching import FetchConfig
from speechbrain.utils.parameter_transfer import Pretrainer
from speechbrain.utils.superpowers import import_from_path
from torch import nn

from custom_modules.errors import InputError, check_number, raised_in
from custom_modules.files import regular_file
from custom_modules.weights import load_exactly, read_weights
from custom_modules.yaml_trees import read_yaml

INTERFACE_FILE = "custom_interface.py"
HUB = "hf:"
_KEYS = {"sample_rate": int, "num_spks": int, "modules": dict, "pretrainer": Pretrainer}
_MOST_BYTES = 2**24  # of code
#: What HyperPyYAML raises for a class or an argument that does not exist, say.
_READER = (AttributeError, ImportError, LookupError, RecursionError, TypeError, ValueError)


def load_pretrained(
    source: str | Path,
    hparams_file: str = "hyperparams.yaml",
    overrides: dict[str, Any] | None = None,
    trust: bool = False,
    savedir: str | Path | None = None,
    fetch_config: FetchConfig | None = None,
) -> dict[str, Any]:
    """The objects of an exported folder's hparams file, with its weights in them.

    Folders of SpeechBrain's own separators, which bring no code, work as well. Raises
    InputError if something in the folder is missing, is damaged or does not fit.
    """
    folder = find_folder(source, trust, savedir, fetch_config)
    path = folder / hparams_file
    interface = folder / INTERFACE_FILE
    if interface.exists():
        _run(regular_file(interface, _MOST_BYTES))
    hparams = _construct(path, overrides or {})
    _check_keys(hparams, path)
    pretrainer, modules = hparams["pretrainer"], hparams["modules"].values()
    for name, module in pretrainer.loadables.items():
        weights = Path(pretrainer.paths.get(name, folder / f"{name}.ckpt"))
        load_exactly(module, read_weights(weights), weights)
    if _tensors(modules) - _tensors(pretrainer.loadables.values()):
        raise InputError(f"{path}: pretrainer leaves out some of the modules; export it again")
    return hparams


def find_folder(
    source: str | Path,
    trust: bool = False,
    savedir: str | Path | None = None,
    fetch_config: FetchConfig | None = None,
    patterns: tuple[str, ...] = ("*.yaml", "*.py", "*.ckpt"),
) -> Path:
    """A folder, or that of ``hf:owner/name``, fetched; that runs its code, and asks for trust."""
    name = str(source).removeprefix(HUB)
    if name == str(source):
        if not Path(source).is_dir():
            raise InputError(
                f"{source}: no such folder; export.py writes models, {HUB}owner/name is on a hub"
            )
        return Path(source)
    if not trust:
        raise InputError(
            f"{source}: its {INTERFACE_FILE} and YAML would be run as code; "
            f"read them at https://huggingface.co/{name}, then use --trust (in Python trust=True)"
        )
    config = fetch_config or FetchConfig()
    try:
        folder = snapshot_download(
            name,
            revision=config.revision,
            token=config.token or None,
            cache_dir=savedir or config.huggingface_cache_dir,
            local_files_only=not config.allow_network,
            allow_patterns=list(patterns),
        )
    except (OSError, ValueError, HTTPError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{source}: cannot be fetched ({reason})") from error
    return Path(folder)


def _run(interface: Path) -> None:
    """Makes the folder's own code importable."""
    try:
        compile(interface.read_bytes(), str(interface), "exec")
    except (SyntaxError, ValueError) as error:  # ValueError: null bytes
        raise InputError(f"{interface}: is damaged ({error}); export it again") from error
    import_from_path(interface)


def _construct(path: Path, overrides: dict[str, Any]) -> dict[str, Any]:
    read_yaml(path)
    try:
        return load_hyperpyyaml(path.read_text("utf-8"), overrides)
    except (YAMLError, *_READER) as error:
        if not raised_in(error, "hyperpyyaml", "ruamel", "yaml"):
            raise
        reason = " ".join(": ".join(map(str, error.args or [error])).split())
        raise InputError(f"{path}: cannot be loaded ({reason}); export it again") from error


def _check_keys(hparams: dict[str, Any], path: Path) -> None:
    for key, kind in _KEYS.items():
        if key not in hparams:
            raise InputError(f"{path}: has no {key}; export.py writes models")
        if kind is int:
            check_number(f"{path}: {key}", hparams[key], least=1, most=10**6, whole=True)
        elif not isinstance(hparams[key], kind):
            raise InputError(f"{path}: {key} is no {kind.__name__}; export it again")
    loadables = hparams["pretrainer"].loadables
    for name, module in [*hparams["modules"].items(), *loadables.items()]:
        if not (isinstance(module, nn.Module) or (module is None and name not in loadables)):
            raise InputError(f"{path}: {name} is no module; export it again")


def _tensors(modules: Any) -> set[int]:
    """What weights are loaded into, by identity."""
    states = (module.state_dict(keep_vars=True) for module in modules if module is not None)
    return {id(tensor) for state in states for tensor in state.values()}
