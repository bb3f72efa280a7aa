"""What a separator makes of training mixtures, for a recogniser that shall hear it."""

import json
from pathlib import Path

import torch
from speechbrain.utils.logger import get_logger
from torch import Tensor
from tqdm import tqdm

from custom_modules import audio, packs
from custom_modules.dataio import Manifest
from custom_modules.errors import InputError
from custom_modules.files import atomic_path, digest_of, digest_of_files
from custom_modules.inference import PolSESSSeparation
from custom_modules.metrics import align
from custom_modules.mmipc import draw_variant, variants_of
from custom_modules.recognition.single_talkers import separated_path

#: In the folder: what separated, and the draw of variants.
RECORD_FILE = "separator.json"

logger = get_logger(__name__)


def separate_mixtures(
    source: str | Path, manifest: Manifest, folder: Path, seed: int, device: str = "cpu"
) -> None:
    """Writes both estimates of each mixture, under a variant of its own, to wav files.

    What an earlier run of the same separator on the same mixtures has written is kept.
    """
    model = PolSESSSeparation.from_hparams(source, run_opts={"device": device})
    first = manifest[next(iter(manifest))]
    if model.hparams.num_spks != 2 or model.hparams.sample_rate != first["sample_rate"]:
        raise InputError(
            f"{source}: separates {model.hparams.num_spks} at {model.hparams.sample_rate} Hz; "
            f"two at {first['sample_rate']} Hz are needed, a model of --task=SB for this corpus"
        )
    # All that an exported folder computes with.
    weights = digest_of_files(Path(source), Path(source).glob("*"))
    mixes = digest_of(
        f"{name} {packs.state_of(manifest[name]['mix'])}".encode() for name in manifest
    )
    record = json.dumps({"weights": weights, "seed": seed, "mixtures": mixes})
    path = folder / RECORD_FILE
    known = (record, json.dumps({"weights": weights, "seed": seed}))  # the older form
    if not path.exists() or path.read_text() not in known:
        for old in folder.glob("*.wav"):
            old.unlink()
        with atomic_path(path) as partial:
            partial.write_text(record)
    logger.info("Separating %d training mixtures with %s", len(manifest), source)
    for mixture in tqdm(manifest, desc="separating", dynamic_ncols=True, leave=False):
        paths = [separated_path(folder, mixture, talker) for talker in (1, 2)]
        if not all(path.exists() for path in paths):
            estimates = _estimates(model, manifest[mixture], mixture, seed)
            rate = first["sample_rate"]
            for path, estimate in zip(paths, estimates.T.numpy(), strict=True):
                with (
                    atomic_path(path) as partial,
                    audio.create_wav(partial, rate, "FLOAT", len(estimate)) as write,
                ):
                    write(estimate)


def _estimates(model: PolSESSSeparation, entry: dict, mixture: str, seed: int) -> Tensor:
    """A mixture's two estimates ``[time, talkers]``, in the order of the talkers."""
    frames, environment = round(entry["duration"] * entry["sample_rate"]), entry["environment"]
    variant = draw_variant(environment, variants_of(environment), seed, 0, mixture)
    layers = (audio.read_layer(path, 0, frames) for path in entry["variants"][variant])
    mixed = audio.cancel(audio.read_layer(entry["mix"], 0, frames), layers)
    targets = [torch.from_numpy(audio.read_layer(entry[key], 0, frames)) for key in ("s1", "s2")]
    estimates = model.estimate(torch.from_numpy(mixed)[None]).cpu()
    return align(estimates, torch.stack(targets, 1)[None])[0].nan_to_num(0, 0, 0)
