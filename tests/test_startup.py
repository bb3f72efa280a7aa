"""What a command is set up with, and how signals end it."""

import os
import signal
import subprocess
import sys
from itertools import cycle
from pathlib import Path

import pytest

PROGRAM = """
import logging
logging.basicConfig(format="%(message)s")
from custom_modules.startup import prepare_process
prepare_process()
from speechbrain.utils.train_logger import logger
logger.warning("something else")
"""


def test_a_process_starts_in_silence():
    """But for what concerns the user."""
    # SpeechBrain leaves this behind in a process in which it has started.
    environment = {k: v for k, v in os.environ.items() if k != "SB_LOG_LEVEL"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stderr == "something else\n"


ROOT = Path(__file__).parents[1]
COMMANDS = [
    "polsess_prepare.py",
    "recipes/corpus/generate.py",
    *sorted(
        str(path.relative_to(ROOT))
        for path in ROOT.glob("recipes/separation/*.py")
        if "exit_cleanly" in path.read_text(encoding="utf-8")
    ),
]

# Python reads it before any command.
SIGNAL_AT_IMPORT = """
import os, sys
def hook(event, arguments):
    if event == "import" and arguments[0] == "custom_modules.errors":
        os.kill(os.getpid(), {number})
sys.addaudithook(hook)
"""

BEGIN = """
import multiprocessing, os, signal, sys, time
from custom_modules.startup import prepare_process
prepare_process("__main__")
from custom_modules.errors import InputError, exit_cleanly
from custom_modules.files import atomic_path
from custom_modules.processes import worker_pool
"""


def run(program: str, *options: str, before: str = "") -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", before + BEGIN + program, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("command", "number"), [*zip(COMMANDS, cycle([signal.SIGINT, signal.SIGTERM]), strict=False)]
)
def test_a_command_whose_libraries_still_load_ends_in_a_line(tmp_path, command, number):
    hook = SIGNAL_AT_IMPORT.format(number=int(number))
    (tmp_path / "sitecustomize.py").write_text(hook, encoding="utf-8")
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, str(ROOT / command), "--help"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": paths},
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_half_done_is_undone_once_whatever_a_library_makes_of_it(tmp_path, number):
    program = """
with exit_cleanly(), atomic_path(sys.argv[1] + "/target") as path:
    path.touch()
    try:
        os.kill(os.getpid(), int(sys.argv[2]))
        os.kill(os.getpid(), int(sys.argv[2]))
        time.sleep(60)
    except KeyboardInterrupt as error:
        raise InputError("of a library") from error
"""
    done = run(program, str(tmp_path), str(int(number)))
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
    assert not any(tmp_path.iterdir())


def test_an_interrupt_that_a_destructor_swallows_still_ends_the_command():
    program = """
class Swallows:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

with exit_cleanly():
    Swallows()
    time.sleep(60)
"""
    done = run(program)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_busy_workers_end_with_the_command():
    """The grace over, they are killed: a worker ignores Ctrl-C."""
    program = """
with exit_cleanly(), worker_pool(2, "again") as pool:
    futures = [pool.submit(time.sleep, 60) for _ in range(2)]
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)
    os.killpg(os.getpgid(0), signal.SIGINT)
    time.sleep(60)
"""
    done = run("os.setsid()" + program)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
    assert len(done.stdout.split()) == 2
    for pid in done.stdout.split():
        assert not Path(f"/proc/{pid}").exists()


def test_an_interrupt_that_meets_a_worker_at_its_fork_is_the_commands():
    before = """
import os, signal
os.register_at_fork(after_in_child=lambda: signal.raise_signal(signal.SIGINT))
"""
    program = """
with exit_cleanly(), worker_pool(1, "again") as pool:
    print(pool.submit(os.getppid).result() == os.getpid())
"""
    done = run(program, before=before)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_a_signal_to_a_worker_is_not_the_commands():
    program = """
with exit_cleanly(), worker_pool(1, "again") as pool:
    pool.submit(signal.raise_signal, signal.SIGINT).result()
    pool.submit(signal.raise_signal, signal.SIGTERM).result()
"""
    done = run(program)
    assert done.returncode == 2
    assert done.stderr == "error: a worker process died, perhaps for want of memory; again\n"


def test_workers_that_cannot_start_are_one_line():
    """Semaphores, like pipes, take descriptors."""
    program = """
import resource
with exit_cleanly():
    resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8))
    with worker_pool(1, "use fewer") as pool:
        pool.submit(os.getpid).result()
"""
    done = run(program)
    assert (done.returncode, done.stderr.splitlines()[-1].split(" (")[0]) == (
        2,
        "error: worker processes cannot start",
    )
    assert done.stderr.endswith("use fewer\n")
