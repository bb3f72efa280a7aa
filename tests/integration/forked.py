"""Runs commands in forks of a process that has their imports, which take seconds.

Each runs as Python would run it: a process of its own, ``__main__``, its arguments,
environment, streams and exit status.
"""

import json
import os
import runpy
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run_command(command, environment):
    """As ``subprocess.run([sys.executable, *command])`` from the repository's root."""
    if not str(command[0]).endswith(".py"):
        command = [sys.executable, *map(str, command)]
        options = {"capture_output": True, "text": True, "check": False}
        return subprocess.run(command, cwd=ROOT, env=environment, **options)
    with tempfile.TemporaryDirectory() as folder:
        files = [os.path.join(folder, name) for name in ("stdout", "stderr")]
        job = [*map(str, command)], dict(environment), files
        server = _server()
        server.stdin.write(json.dumps(job) + "\n")
        server.stdin.flush()
        status = int(server.stdout.readline())
        texts = [Path(file).read_text("utf-8") for file in files]
    return subprocess.CompletedProcess(command, status, *texts)


@cache
def _server():
    """One for each process of pytest; it ends with its standard input."""
    return subprocess.Popen(
        [sys.executable, __file__],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _serve():
    """Forks for each line; what returns is a fork."""
    for line in sys.stdin:
        command, environment, files = json.loads(line)
        child = os.fork()
        if not child:
            _become(command, environment, files)
            return command[0]
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    return None


def _become(command, environment, files):
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = command
    places = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:1] = [str(Path(command[0]).resolve().parent), *filter(None, places)]


if __name__ == "__main__":
    import scipy.signal  # noqa: F401

    import recipes.separation.evaluate
    import recipes.separation.train  # noqa: F401

    if script := _serve():
        runpy.run_path(script, run_name="__main__")
