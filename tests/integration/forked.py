"""Runs commands in forks of a process that has their imports, which take seconds.

Each runs as Python would run it: a process of its own, ``__main__``, its arguments,
environment, folder, streams and exit status.
"""

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from speechbrain.utils import logger

ROOT = Path(__file__).parents[2]
#: What commands import, some of it not before they need it.
IMPORTS = (
    *("recipes.separation.train", "recipes.separation.evaluate", "recipes.separation.tune"),
    *("recipes.corpus.generate", "custom_modules.tuning.results"),
    *("matplotlib.pyplot", "matplotlib.backends.backend_agg", "PIL.PngImagePlugin"),
    *("numba", "scipy.signal", "torch._dynamo", "custom_modules.selective_scan.compiled"),
)


def run_command(command, environment, cwd=ROOT):
    """As ``subprocess.run([sys.executable, *command])`` from the repository's root."""
    if not str(command[0]).endswith(".py"):
        command = [sys.executable, *map(str, command)]
        options = {"capture_output": True, "text": True, "check": False}
        return subprocess.run(command, cwd=cwd, env=environment, **options)
    return _run_all(command, [environment], cwd)


def run_two(command, environment):
    """As ``torchrun --nproc_per_node=2`` starts them; the sum of exit statuses."""
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    meeting = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    ranks = ({"RANK": rank, "LOCAL_RANK": rank} for rank in "01")
    return _run_all(command, [environment | meeting | rank for rank in ranks], ROOT)


def _run_all(command, environments, cwd):
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        forks = [Forked(command, e, cwd, stdout, stderr) for e in environments]
        status = sum(fork.wait() for fork in forks)
        stdout.seek(0)
        stderr.seek(0)
        texts = [file.read().decode() for file in (stdout, stderr)]
    return subprocess.CompletedProcess(command, status, *texts)


class Forked:
    """As ``subprocess.Popen([sys.executable, *command])``; it writes to open files."""

    def __init__(self, command, environment, cwd=ROOT, stdout=None, stderr=None):
        null = os.open(os.devnull, os.O_RDWR)
        files = [null if file is None else file.fileno() for file in (stdout, stderr)]
        job = [*map(str, command)], dict(environment), str(cwd)
        self.pid = _ask(job, [null, *files])
        os.close(null)
        self._ended = os.pidfd_open(self.pid)
        self.returncode = None

    def wait(self, seconds=None):
        """The exit status; None if it has not ended by then."""
        if self.returncode is None and select.select([self._ended], [], [], seconds)[0]:
            self.returncode = _ask(self.pid)
            os.close(self._ended)
        return self.returncode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def _ask(question, files=()):
    """Has the server fork, or give a fork's exit status."""
    server = _server()
    message = json.dumps(question).encode()
    socket.send_fds(server, [len(message).to_bytes(4)], files)
    server.sendall(message)
    return int.from_bytes(server.recv(4, socket.MSG_WAITALL), signed=True)


@cache
def _server():
    """One for each process of pytest; it ends with the connection."""
    here, there = socket.socketpair()
    subprocess.Popen(
        [sys.executable, __file__, str(there.fileno())],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        pass_fds=[there.fileno()],
    )
    there.close()
    return here


def _serve(client):
    """Answers until the client is gone; what returns before that is a fork."""
    while True:
        size, files, *_ = socket.recv_fds(client, 4, 3)
        if not size:
            return None
        question = json.loads(client.recv(int.from_bytes(size), socket.MSG_WAITALL))
        if isinstance(question, int):
            answer = os.waitstatus_to_exitcode(os.waitpid(question, 0)[1])
        elif not (answer := os.fork()):
            client.close()
            _become(*question, files)
            return question[0][0]
        for file in files:
            os.close(file)
        client.sendall(answer.to_bytes(4, signed=True))


def _become(command, environment, cwd, files):
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    # Streams remember whether their file can seek.
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    # A shell has what it starts in the background ignore Ctrl-C, and so tests.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = command
    places = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:1] = [str(Path(command[0]).resolve().parent), *filter(None, places)]


if __name__ == "__main__":
    for module in IMPORTS:
        importlib.import_module(module)
    # The packages of this environment, which each training lists, take a second too.
    logger.get_environment_description = cache(logger.get_environment_description)
    logger.get_environment_description()
    gc.freeze()  # forks need not look through what is here
    if script := _serve(socket.socket(fileno=int(sys.argv[1]))):
        runpy.run_path(script, run_name="__main__")
