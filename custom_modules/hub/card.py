"""The model card: README.md of a hub folder."""

import re
from pathlib import Path

_CARD = """\
---
language: pl
license: {license}
library_name: speechbrain
pipeline_tag: audio-to-audio
tags:
- speechbrain
- audio-to-audio
- {tag}
- speech-separation
- speech-enhancement
- PolSESS
- {architecture}
metrics:
- si-sdr
---

# {name}: {task_words}

{architecture} trained on {corpus}, of the format of PolSESS (Polish speech in
everyday sound scenes), with MM-IPC augmentation (Kleć, Szklanny and Wieczorkowska
2024).
{output_words}
It takes mono audio of {sample_rate} Hz; `separate_file` converts any other.

## Use

With [SpeechBrain](https://speechbrain.github.io) alone (`pip install speechbrain`,
torch and torchaudio of one version):

```python
from speechbrain.inference.interfaces import foreign_class

model = foreign_class(
    source="{source}",
    pymodule_file="custom_interface.py",
    classname="PolSESSSeparation",
)
# [1, time, sources] at {sample_rate} Hz
sources = model.separate_file("recording.wav")
# [batch, time] -> [batch, time, sources]
sources = model.separate_batch(mixtures)
```

Recordings may be of any length, sampling rate and number of channels. They are
separated in overlapping chunks{order_words}.
`separate_file` returns sources at about the level that they have in the mixture.
{stock}
## Results
{results}
## Model

| | |
|---|---|
| architecture | {architecture}, {parameters:,} parameters |
| task | {task}: {task_words} |
| sampling rate | {sample_rate} Hz |
| training corpus | {corpus}, MM-IPC variants {variants} |
| checkpoint | {checkpoint} |

```yaml
{hyperparameters}
```

Weights are plain tensors, which torch loads with `weights_only=True`.
"""

_STOCK = """
SpeechBrain's own class loads the model as well, for what fits into memory at once:

```python
from speechbrain.inference.separation import SepformerSeparation

model = SepformerSeparation.from_hparams(source="{source}")
sources = model.separate_batch(mixtures)
```
{folded}"""

_FOLDED = """
It was trained with {norm_eps:g} in its normalisations, where SpeechBrain's classes have
1e-8. Its weights are rescaled so that these compute the same. For half precision take
bfloat16: in float16 the rescaled encoder is too coarse.
"""

_TASKS = {
    "SB": ("separation of two speakers", "It returns each of two speakers, dry."),
    "EB": ("enhancement of two speakers", "It returns the speech of both, dry."),
    "ES": ("enhancement of a single speaker", "It returns the speaker, dry."),
}
#: What is worth a line in the card, if an hparams file has it.
_TRAINING_KEYS = (
    "seed",
    "number_of_epochs",
    "batch_size",
    "lr",
    "weight_decay",
    "max_grad_norm",
    "segment_seconds",
    "train_variants",
    "curriculum",
    "valid_variants",
)


def training_keys(tree):
    """The hyperparameters of a training that a model card shows.

    Arguments
    ---------
    tree : dict
        Of an hparams file.

    Returns
    -------
    dict
    """
    keys = {key: tree[key] for key in _TRAINING_KEYS if key in tree}
    if isinstance(tree.get("data_folder"), str):
        keys["corpus"] = Path(tree["data_folder"]).name
    return keys


def write_card(
    recipe,
    separator,
    training,
    source="owner/name",
    license_id="apache-2.0",
    results=None,
    checkpoint="-",
):
    """A model card with its front matter.

    Arguments
    ---------
    recipe : custom_modules.hub.recipe.ModelRecipe
    separator : torch.nn.Module
    training : dict
        See :func:`training_keys`.
    source : str
        The model's name on the hub.
    license_id : str
        As hubs spell it.
    results : str
        The evaluation's table, Markdown; None if there is none.
    checkpoint : str
        Of the weights, in words.

    Returns
    -------
    str
    """
    task = recipe.keys["task"]
    task_words, output_words = _TASKS[task]
    stock = ""
    if recipe.is_masking:
        folded = _FOLDED.format(norm_eps=recipe.norm_eps) if recipe.is_folded else ""
        stock = _STOCK.format(source=source, folded=folded)
    variants = training.get("train_variants")
    shown = {key: value for key, value in training.items() if key != "corpus"}
    lines = [f"{key}: {value}" for key, value in shown.items()]
    if results:
        tables = re.sub(
            "^#", "##", re.sub(r"\A# .*\n", "", results), flags=re.MULTILINE
        )
        results = "\nTest set, means over mixtures, dB:\n\n" + tables.strip() + "\n"
    return _CARD.format(
        license=license_id,
        tag="Separation" if task == "SB" else "Enhancement",
        architecture=recipe.architecture,
        name=recipe.keys["model_name"],
        task=task,
        task_words=task_words,
        output_words=output_words,
        order_words=", and speakers keep their places" if task == "SB" else "",
        sample_rate=recipe.keys["sample_rate"],
        source=source,
        stock=stock,
        results=results or "\nNot evaluated when it was exported.\n",
        parameters=sum(p.numel() for p in separator.parameters()),
        corpus=training.get("corpus", "PolSESS"),
        variants=", ".join(variants) if variants else "unknown",
        checkpoint=checkpoint,
        hyperparameters="\n".join(lines + recipe.size_lines()),
    )
