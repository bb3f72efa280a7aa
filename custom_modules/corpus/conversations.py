"""MiniConversations: making sets of conversations, resumed as a corpus is.

Of each, in its subset's folder: the recording, ``.rttm`` and ``.seglst.json`` with the truth,
``.json`` with all that was drawn, and a folder with the layers that it is the sum of.
"""

import json
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from custom_modules import audio, layout
from custom_modules.corpus import generation
from custom_modules.corpus.conversation_mixing import Conversations, Draw, Plan
from custom_modules.corpus.turns import Span
from custom_modules.files import atomic_path, lock
from custom_modules.limits import check_values

TABLE = "conversations.csv"
COLUMNS = (
    *("session", "seconds", "speakers", "overlap_share", "utterances", "back_channels"),
    *("environment", "scene_class", "scene_db"),
)
#: Sources are prepared for stretches of this length; longer scenes are repeated. s.
STRETCH_SECONDS = 30.0


@dataclass
class ConversationState(generation.State):
    """As a corpus's state; a conversation is done when its draw is there, its last file."""

    def files(self, draw: Draw) -> dict[str, Path]:
        """Layer → its file; ``""`` is the recording's."""
        base = self.root / draw["subset"] / draw["session"]
        return {name: base / f"{name}.wav" for name in draw["layers"]} | {
            "": base.with_name(f"{base.name}.wav")
        }

    def done(self, subset: str) -> dict[int, Draw]:
        """Index → draw of the conversations that are whole."""
        result = {}
        for path in sorted((self.root / subset).glob(f"{subset}_*.json")):
            if path.name.endswith(".seglst.json"):
                continue
            draw = generation.read_mapping(path)
            if draw.get("session") == path.stem and self._is_whole(draw):
                result[int(path.stem.rpartition("_")[2])] = draw
        return result

    def _is_whole(self, draw: Draw) -> bool:
        size, files = generation.WAV_HEADER + 2 * draw["samples"], self.files(draw)
        truth = [files[""].with_suffix(suffix) for suffix in (".rttm", ".seglst.json")]
        return all(path.is_file() for path in truth) and all(
            path.is_file() and path.stat().st_size == size for path in files.values()
        )


def generate_conversations(hparams: dict, options: dict) -> dict[str, list[Draw]]:
    """Makes conversations, or what is missing of them; the draws of each subset.

    ``options``: all that they depend on, as plain values. Only a set of the same is resumed.
    """
    begun = time.monotonic()
    check_values(hparams)
    plan = Plan.of(hparams)
    setup, sizes = generation.make_setup(hparams | {"duration": STRETCH_SECONDS})
    sources = {role: hparams[role] for role in generation.ROLES}
    state = ConversationState(setup.output_folder, setup.length)
    with lock(state.root):
        recordings = generation.begin(state, setup, sources, hparams["overwrite"], options)
        generation.write_speakers(state.root, recordings["speech"])
        limits = hparams["indoor_share"], hparams["max_tries"]
        mixer = Conversations(setup, sources, recordings, *limits, plan)
        draws: dict[str, list[Draw]] = {}
        made = 0
        with generation.mixture_maker(mixer, state, _make, chunk=1) as make:
            for subset, size in sizes.items():
                done = {i: draw for i, draw in state.done(subset).items() if i < size}
                new = [index for index in range(size) if index not in done]
                missing = [generation.Task(subset, index) for index in new]
                bar = tqdm(make(missing), subset, len(missing), dynamic_ncols=True)
                done |= {index: draw for index, draw, _ in bar}
                made += len(missing)
                draws[subset] = [done[index] for index in range(size)]
                table = state.root / subset / TABLE
                layout.write_rows(table, COLUMNS, map(_row, draws[subset]))
    print(summary(draws))
    print(f"{made} conversations made in {time.monotonic() - begun:.1f} s; {state.root}")
    return draws


def _make(
    mixer: Conversations, state: ConversationState, task: generation.Task
) -> tuple[int, Draw, int]:
    """Makes and writes one conversation; its draw comes last, as a promise."""
    made = mixer.conversation(task.subset, task.index)
    for name, path in state.files(made.draw).items():
        audio.write_pcm16(path, made.layers[name], mixer.setup.rate)
    recording = state.files(made.draw)[""]
    session = made.draw["session"]
    write = partial(_write, recording)
    write(".rttm", "".join(rttm_line(session, who, span) for who, span in made.spans))
    segments = [
        {"session_id": session, "speaker": u["speaker"], "start_time": u["start"]}
        | {"end_time": u["end"], "words": u["text"]}
        for u in made.draw["utterances"]
    ]
    write(".seglst.json", json.dumps(segments, indent=1, ensure_ascii=False) + "\n")
    write(".json", json.dumps(made.draw, indent=1, ensure_ascii=False) + "\n")
    return task.index, made.draw, made.tries


def rttm_line(session: str, speaker: str, span: Span) -> str:
    """A line of an RTTM file.

    >>> rttm_line("talk", "ada", (1.5, 2.0))
    'SPEAKER talk 1 1.500 0.500 <NA> <NA> ada <NA> <NA>\\n'
    """
    first, last = span
    return f"SPEAKER {session} 1 {first:.3f} {last - first:.3f} <NA> <NA> {speaker} <NA> <NA>\n"


def _write(recording: Path, suffix: str, text: str) -> None:
    with atomic_path(recording.with_suffix(suffix)) as partial_path:
        partial_path.write_text(text, encoding="utf-8")


def _row(draw: Draw) -> dict[str, str]:
    said = draw["utterances"]
    return {
        "session": draw["session"],
        "seconds": layout.number(draw["samples"] / draw["sample_rate"]),
        "speakers": " ".join(who["speaker"] for who in draw["speakers"]),
        "overlap_share": layout.number(draw["overlap_share"]),
        "utterances": str(len(said)),
        "back_channels": str(sum(u["back_channel"] for u in said)),
        "environment": draw["environment"],
        "scene_class": draw["scene"]["class"],
        "scene_db": layout.number(draw["scene"]["level_db"]),
    }


def summary(draws: dict[str, list[Draw]]) -> str:
    """What was made, a line for each subset."""
    lines = [f"{'subset':8}{'recordings':>11}{'minutes':>9}{'voices':>8}{'overlap':>9}"]
    for subset, made in draws.items():
        minutes = sum(draw["samples"] / draw["sample_rate"] for draw in made) / 60
        voices = len({who["speaker"] for draw in made for who in draw["speakers"]})
        share = np.mean([draw["overlap_share"] for draw in made])
        lines.append(f"{subset:8}{len(made):11}{minutes:9.1f}{voices:8}{share:9.3f}")
    return "\n".join(lines)
