"""Work shared among processes."""

import os
import select
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from custom_modules.processes import available_cores, map_pieces

ANSWER_SECONDS = 30  # far more than it takes; reached only by a failure

# Its workers take an item, say so through the pipe, and then never finish.
ENDLESS = """
import os, sys, threading
from custom_modules.processes import map_pieces
def never(items):
    os.write(int(sys.argv[1]), b"x")
    threading.Event().wait()
list(map_pieces(never, list(range(300)), workers=2))
"""


def squares(items):
    return [item**2 for item in items]


def fail(items):
    raise ValueError(f"{len(items)} items")


@given(st.lists(st.integers(), max_size=300))
def test_one_process_keeps_the_order(items):
    assert list(map_pieces(squares, items, workers=1)) == squares(items)


@pytest.mark.parametrize("workers", [2, 3])
def test_several_processes_keep_the_order(workers):
    items = list(range(1000))
    assert list(map_pieces(squares, items, workers)) == squares(items)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_in_a_worker_reaches_the_caller(workers):
    with pytest.raises(ValueError, match="128 items"):
        list(map_pieces(fail, list(range(1000)), workers))


def test_there_is_a_core():
    assert available_cores() >= 1


def read_soon(pipe):
    ready, _, _ = select.select([pipe], [], [], ANSWER_SECONDS)
    assert ready, "no answer"
    return os.read(pipe, 1)


def test_workers_leave_with_a_parent_that_is_killed():
    reading, writing = os.pipe()
    command = [sys.executable, "-c", ENDLESS, str(writing)]
    with subprocess.Popen(command, pass_fds=[writing]) as parent:
        os.close(writing)
        assert read_soon(reading) + read_soon(reading) == b"xx"
        parent.send_signal(signal.SIGKILL)
    # The pipe ends when the last of the workers has left.
    assert read_soon(reading) == b""
    os.close(reading)
