"""Hub folders: writing one, making sure that it loads, and sending it off."""

import copy
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
import torch

from custom_modules.errors import InputError
from custom_modules.files import PARTIAL_SUFFIX
from custom_modules.hub.bundle import bundle
from custom_modules.hub.card import write_card
from custom_modules.inference import INTERFACE_FILE, PolSESSSeparation
from custom_modules.models.masking import fold_norm_eps

HPARAMS_FILE = "hyperparams.yaml"
_TOLERANCE = 1e-5


def write_folder(folder, recipe, separator, overwrite=False, **card):
    """Writes a folder that SpeechBrain loads, and loads it to make sure.

    Arguments
    ---------
    folder : str or pathlib.Path
    recipe : custom_modules.hub.recipe.ModelRecipe
        How the separator is made.
    separator : torch.nn.Module
        With its trained weights.
    overwrite : bool
        Whether a hub folder of that name may be replaced.
    **card
        For :func:`custom_modules.hub.card.write_card`.

    Raises
    ------
    InputError
        If the folder exists or cannot be written, or does not compute what the
        separator does.
    """
    separator = copy.deepcopy(separator).cpu().eval()
    exported = copy.deepcopy(separator)
    if recipe.is_folded:
        fold_norm_eps(exported)
    package, interface = bundle(recipe.project_modules(), card["source"])
    with new_folder(folder, overwrite) as partial:
        texts = {
            HPARAMS_FILE: recipe.write(package),
            INTERFACE_FILE: interface,
            "README.md": write_card(recipe, separator, **card),
        }
        for name, text in texts.items():
            (partial / name).write_text(text, encoding="utf-8")
        for name, module in recipe.modules_of(exported).items():
            torch.save(module.state_dict(), partial / f"{name}.ckpt")
        _check(partial, separator, recipe.keys["sample_rate"])


def _check(folder, separator, sample_rate):
    """Makes sure that a folder computes what the separator does."""
    loaded = PolSESSSeparation.from_hparams(folder, run_opts={"device": "cpu"})
    generator = torch.Generator().manual_seed(0)
    # Below a second in length, at the level of speech.
    mixture = 0.05 * torch.randn(1, sample_rate * 9 // 10 + 7, generator=generator)
    with torch.no_grad():
        expected, found = separator(mixture), loaded.estimate(mixture)
    difference = float((found - expected).abs().max())
    if not difference <= _TOLERANCE * max(1.0, float(expected.abs().max())):
        raise InputError(
            f"the exported model differs from the trained one by {difference:.1e}; "
            "its classes or options are not ones that can be exported"
        )


@contextmanager
def new_folder(folder, overwrite=False):
    """Yields a folder to fill, which gets its name when it is whole.

    Arguments
    ---------
    folder : str or pathlib.Path
    overwrite : bool
        Whether a hub folder of that name may be replaced.

    Yields
    ------
    pathlib.Path

    Raises
    ------
    InputError
        If the folder exists or cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; name another folder")
    if folder.is_dir() and any(folder.iterdir()):
        if not overwrite:
            raise InputError(f"{folder}: exists; name another folder, or --overwrite")
        if not (folder / INTERFACE_FILE).exists():
            raise InputError(f"{folder}: is no exported model; name another folder")
    partial = folder.with_name(f".{folder.name}.{os.getpid()}{PARTIAL_SUFFIX}")
    try:
        partial.mkdir(parents=True)
        yield partial
        if folder.is_dir():
            shutil.rmtree(folder)
        partial.rename(folder)
    except (OSError, RuntimeError) as error:  # torch's writer raises the latter
        if isinstance(error, RuntimeError) and "PytorchStreamWriter" not in str(error):
            raise
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{folder}: cannot be written ({reason}); check permissions and free space"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def push_folder(folder, name):
    """Uploads a folder to a hub, as huggingface_hub does.

    Arguments
    ---------
    folder : str or pathlib.Path
    name : str
        ``owner/name``; made if there is none.

    Returns
    -------
    str
        Its address.

    Raises
    ------
    InputError
        If the hub refuses, or cannot be reached.
    """
    try:
        api = huggingface_hub.HfApi()
        address = api.create_repo(name, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=str(folder))
    except Exception as error:  # of HTTP libraries, which differ between versions
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{name}: not uploaded ({reason}); log in with `hf auth login`. "
            f"{folder} is complete"
        ) from error
    return str(address)
