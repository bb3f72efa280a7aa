"""Whatever is typed: a line and an exit status, never a traceback, a hang or a lost file.

500 command lines a run. Each is given something that it must refuse before it begins to
work, so that they are run in this process.
"""

import contextlib
import io
import os
import re
import signal
import stat
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import polsess_prepare
from custom_modules.errors import exit_cleanly
from custom_modules.hparams import RUN_OPTIONS, read_hparams
from recipes.corpus import generate
from recipes.separation import (
    benchmark_all,
    evaluate,
    export,
    import_checkpoint,
    librimix_prepare,
    plot,
    separate,
    train,
    tune,
)

ROOT = Path(__file__).parents[2]
Argv = st.SearchStrategy[list[str]]
TRAINING = str(ROOT / "hparams/small/convtasnet.yaml")
CORPUS = str(ROOT / "hparams/corpus/speech_folder.yaml")
SWEEP = str(ROOT / "hparams/sweeps/dprnn_stage1.yaml")
CORPUS_KEYS = set(read_hparams(CORPUS))
SECONDS = 60  # of one command, on a machine that has other things to do

FILES = {
    "empty.yaml": b"",
    "binary.yaml": b"\0\1\xff binary",
    "list.yaml": b"- a\n- b\n",
    "few.yaml": b"lr: 1.0e-3\noutput_folder: few\n",
    "brackets.yaml": b"a: " + b"[" * 5000,
    "exported/hyperparams.yaml": b"task: SB\nsample_rate: 8000\nmodel_name: x\n",
    "results/hyperparams.yaml": b"checkpointer: x\noutput_folder: results\n",
    "results/history.csv": b"epoch,lr\n1,x\n",
    "weights.pt": b"no weights",
    "a.wav": b"RIFF",
    "text.csv": "zażółć;gęślą\n1;2\n".encode("utf-16"),
    "corpus #4/notes": b"mine",
}
NAMES = [
    *FILES,
    "exported",
    "results",
    "corpus #4",
    "nothing",
    "missing",
    "pipe",
    "loop",
    "/dev/full",
]

WORDS = r"""
 ,2024,2024-01-01,007,a: b,~/x,null,True,no,{a: b},{a: {b: c}},[[,-,--,*x,!new:x,<seed>,9#x,../x
cpu,cuda:9,SER,[C],&a [*a],1/0,2/2,1e400,1.5,1e-4,0x10,1_000,100000
"""
words = st.sampled_from(
    [
        *NAMES,
        *re.split("[,\n]", WORDS),
        "SER,SE",
        "a\nb",
        "\udcff",
        "x" * 300,
        "[" * 2000,
        "9" * 5000,
    ]
)
numbers = st.one_of(st.integers(-2, 9), st.floats(width=16)).map(str)
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
values = st.one_of(words, numbers, texts)


def options(keys: set[str]) -> Argv:
    """Options of a command, now and then one without a value or of another name."""
    key = st.sampled_from([*sorted(keys) * 9, "x", "", "no=", "help-me"])
    one = st.builds("--{}={}".format, key, values)
    return st.lists(st.one_of(one, one, one, one, key.map("--{}".format)), max_size=3)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what may be named by mistake."""
    place = tmp_path_factory.mktemp("any")
    for name, content in FILES.items():
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_bytes(content)
    (place / "nothing").mkdir()
    os.mkfifo(place / "pipe")
    (place / "loop").symlink_to("loop")
    return place


def state_of(place: Path) -> dict[str, tuple[int, ...]]:
    """What is there; of a folder its name alone, as a lock comes and goes in it."""
    stats = {str(path): path.lstat() for path in place.rglob("*")}
    return {
        name: () if stat.S_ISDIR(s.st_mode) else (s.st_ino, s.st_size, s.st_mtime_ns)
        for name, s in stats.items()
    }


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raises TimeoutError in what hangs."""

    def end(*_: object) -> None:
        raise TimeoutError(f"{seconds} s are over")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def check_law(place: Path, main: Callable, argv: list[str]) -> None:
    before, code = state_of(place), None
    said = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace")  # as stderr is
    with contextlib.chdir(place), contextlib.redirect_stderr(said), limited(SECONDS):
        try:
            with exit_cleanly():
                code = main(argv)
        except SystemExit as end:
            code = end.code
        except BaseException as error:
            raise AssertionError(f"{argv}: {traceback.format_exc()}") from error
    assert code in (None, 0, 1, 2), argv
    said.seek(0)
    assert "Traceback" not in said.read(), argv
    if code:
        assert state_of(place) == before, argv


def command(first: list[str], keys: set[str], refused: list[str]) -> Argv:
    """Mostly a right file, with any options; else anything in its place."""
    file = st.sampled_from(first * 20) | st.sampled_from(first * 20) | values
    return st.tuples(file, options(keys)).map(lambda drawn: [drawn[0], *drawn[1], *refused])


SIZES = {"N", "B", "H", "P", "X", "R", "kernel_size"}  # large ones are no mistake
TRAINING_KEYS = (set(read_hparams(TRAINING)) | RUN_OPTIONS) - SIZES
TESTING_KEYS = TRAINING_KEYS | {"variants", "metrics", "max_samples", "split", "output", "workers"}
PREPARING = {"data_folder", "save_folder", "subsets", "check", "workers", "skip_bad_rows", "mode"}
SEPARATING = {"channels", "normalize", "device", "precision", "chunk_seconds", "overlap_seconds"}
SEPARATING |= {"batch_size", "shard", "output_folder"}
SEARCHING = {"trials", "workers", "storage", "seed_of_search"}
COMPARING = {"preset", "hparams", "budget", "seeds", "models", "jobs"}
NOT_THERE = ["--data_folder=nothing", "--output_folder=new", "--skip_prep=False"]
MODELS = ["exported", "results", "nothing", "a.wav", "pipe"]

#: Command → examples, what runs it, and command lines that it must refuse.
COMMANDS: dict[str, tuple[int, Callable, Argv]] = {
    "train": (100, train.main, command([TRAINING], TRAINING_KEYS, NOT_THERE)),
    "evaluate": (70, evaluate.main, command([TRAINING, *MODELS], TESTING_KEYS, NOT_THERE)),
    "export": (
        60,
        export.main,
        command([TRAINING], TRAINING_KEYS, ["--output_folder=new", "--", "o"]),
    ),
    "generate": (80, generate.main, command([CORPUS], CORPUS_KEYS, ["--speech_folder=nothing"])),
    "prepare": (40, polsess_prepare.main, command(["--check=full"], PREPARING, NOT_THERE[:1])),
    "librimix": (40, librimix_prepare.main, command(["--check=full"], PREPARING, NOT_THERE[:1])),
    "separate": (
        40,
        separate.main,
        command(MODELS, SEPARATING, ["--output_folder=o", "a.wav", "pipe"]),
    ),
    "plot": (30, plot.main, command(["text.csv", "results"], {"output", "score"}, [])),
    "import": (20, import_checkpoint.main, command(["weights.pt"], {"results", "license"}, ["o"])),
    "tune": (10, tune.main, command([SWEEP], SEARCHING, ["--output_folder=x"])),
    "benchmark": (10, benchmark_all.main, command(["--budget=1"], COMPARING, ["--seed=1"])),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_any_command_line_is_refused_in_a_line_and_changes_nothing(name, place):
    examples, main, command_lines = COMMANDS[name]

    @settings(
        max_examples=examples,
        phases=[Phase.generate],  # to shrink would take minutes
        suppress_health_check=list(HealthCheck),
    )
    @given(command_lines)
    def keeps_the_law(argv: list[str]) -> None:
        check_law(place, main, argv)

    keeps_the_law()
