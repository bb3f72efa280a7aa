"""The model card: README.md of a hub folder."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from custom_modules.hub import citations
from custom_modules.layout import corpus_names
from custom_modules.limits import checked_variants

if TYPE_CHECKING:
    from custom_modules.hub.recipe import ModelRecipe

_CARD = """\
---
language: pl
license: {license_id}
library_name: speechbrain
pipeline_tag: audio-to-audio
tags:
- speechbrain
- audio-to-audio
- {tag}
- speech-separation
- speech-enhancement
- PolSESS
- {recipe.architecture}
datasets:
{datasets}
metrics:
- si-sdr
---

# {keys[model_name]}: {task_words}

{recipe.architecture} trained on {corpus}, of the format of PolSESS (Polish speech in
everyday sound scenes), with MM-IPC augmentation (Kleć, Szklanny and Wieczorkowska
2024).
{output_words}
It takes mono audio of {keys[sample_rate]} Hz; `separate_file` converts any other.

## Use

With [SpeechBrain](https://speechbrain.github.io) alone (`pip install speechbrain`,
torch and torchaudio of one version):

```python
from speechbrain.inference.interfaces import foreign_class

model = foreign_class(
    source={source},
    pymodule_file="custom_interface.py",
    classname="PolSESSSeparation",
)
# [1, time, sources] at {keys[sample_rate]} Hz
sources = model.separate_file("recording.wav")
# [batch, time] -> [batch, time, sources]
sources = model.separate_batch(mixtures)
```

Recordings may be of any length, sampling rate and number of channels. They are
separated in overlapping chunks{order_words}.
`separate_file` returns sources at about the level, and with the sign, of the mixture.
{stock}
## Results
{results}
## Model

| | |
|---|---|
| architecture | {recipe.architecture}, {parameters:,} parameters |
| task | {keys[task]}: {task_words} |
| sampling rate | {keys[sample_rate]} Hz |
| training corpus | {corpus}, MM-IPC variants {variants} |
| checkpoint | {facts.checkpoint} |

```yaml
{hyperparameters}
```

Weights are plain tensors, which torch loads with `weights_only=True`.

## Cite

```bibtex
{bibtex}
```
"""

_STOCK = """
SpeechBrain's own class loads the model as well, for what fits into memory at once, one mixture
at a time:

```python
from speechbrain.inference.separation import SepformerSeparation

model = SepformerSeparation.from_hparams(source={source})
sources = model.separate_batch(mixture)  # [1, time]
```
{folded}"""

_WITHOUT_TORCH = """
Without PyTorch (`pip install onnxruntime soundfile numpy`), from a copy of this folder:

```
python separate_onnx.py talk.wav --output_folder separated/
```

It takes `model.onnx`.{option}
"""

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
    *("seed", "number_of_epochs", "batch_size", "lr", "weight_decay"),
    *("max_grad_norm", "segment_seconds", "train_variants", "curriculum"),
    "valid_variants",
)


@dataclass
class CardFacts:
    """What a card says beside how the model is made."""

    training: dict[str, Any]  # its hparams
    source: str = "owner/name"  # the model's name on the hub
    license_id: str = "apache-2.0"  # of the weights, as hubs spell it
    checkpoint: str = "-"  # in words
    results: str | None = None  # the evaluation's table, Markdown


def write_card(
    recipe: "ModelRecipe", separator: nn.Module, facts: CardFacts, graphs: Sequence[str] = ()
) -> str:
    """A model card with its front matter; ``graphs`` are the runtimes that have one."""
    separates = recipe.keys["task"] == "SB"
    task_words, output_words = _TASKS[recipe.keys["task"]]
    training = facts.training
    lines = [f"{key}: {training[key]}" for key in _TRAINING_KEYS if key in training]
    folded = _FOLDED.format(norm_eps=recipe.norm_eps) if recipe.is_folded else ""
    source = quote(facts.source)
    stock = _STOCK.format(source=source, folded=folded)
    corpus = corpus_names(training.get("data_folder") or "PolSESS")
    papers = [recipe.paper, citations.CORPUS, citations.TOOLKIT]
    return _CARD.format(
        recipe=recipe,
        keys=recipe.keys,
        facts=facts,
        source=source,
        license_id=quote(facts.license_id),
        corpus=corpus,
        datasets="\n".join(f"- {quote(name)}" for name in corpus.split(", ")),
        bibtex="\n\n".join(paper.bibtex() for paper in papers if paper),
        tag="Separation" if separates else "Enhancement",
        task_words=task_words,
        output_words=output_words,
        order_words=", and speakers keep their places" if separates else "",
        stock=(stock if recipe.is_masking else "") + _graph_words(graphs),
        results=_results_words(facts.results),
        parameters=sum(p.numel() for p in separator.parameters()),
        variants=", ".join(_variants_of(training)),
        hyperparameters="\n".join([*lines, recipe.sizes()]),
    )


def _variants_of(training: Mapping[str, Any]) -> Sequence[str]:
    known = training.get("train_variants")
    return checked_variants(known, "train_variants") if known else ["unknown"]


def _graph_words(graphs: Sequence[str]) -> str:
    option = " `--graph model_int8.onnx` takes weights of eight bits." * ("onnx-int8" in graphs)
    return _WITHOUT_TORCH.format(option=option) if graphs else ""


def quote(text: str) -> str:
    """Text as YAML and Python have it in quotes, whatever it holds."""
    return json.dumps(text.encode("utf-8", "replace").decode(), ensure_ascii=False)


def _results_words(table: str | None) -> str:
    """The table, its headings one level lower and without the first."""
    if not table:
        return "\nNot evaluated when it was exported.\n"
    table = re.sub(r"\A# .*\n", "", table)
    table = re.sub("^#", "##", table, flags=re.MULTILINE)
    return f"\nTest set, means over mixtures, dB:\n\n{table.strip()}\n"
