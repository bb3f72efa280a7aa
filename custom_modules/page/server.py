"""The page on a port of this machine, and nothing beyond it.

Start reading at :func:`serve`.
"""

import errno
import glob
import os
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from custom_modules.audio import find_recordings, read_header
from custom_modules.errors import InputError
from custom_modules.page.shelf import Shelf
from custom_modules.page.visits import Queue, Studio

if TYPE_CHECKING:
    from starlette.types import ASGIApp

_LOOPBACK = ("127.", "::1", "localhost")
_MOST_EXAMPLES = 5
#: The last visitors' connections are closed after so many s.
_GRACE_SECONDS = 2


def serve(
    studio: Studio,
    examples: list[Path],
    host: str,
    port: int,
    max_minutes: float,
    keep_minutes: float,
) -> None:
    """Serves the page until it is interrupted; its folder goes with it."""
    with listening(host, port) as sock, upload_folder() as folder:
        queue = Queue(studio, Shelf(folder, max_minutes, keep_minutes))
        page = application(queue, examples)
        queue.start()
        sweeping = threading.Thread(target=_sweep, args=(queue,), daemon=True)
        sweeping.start()
        import uvicorn

        options: dict[str, Any] = {"log_level": "warning", "ws": "none"}
        config = uvicorn.Config(page, timeout_graceful_shutdown=_GRACE_SECONDS, **options)
        shown = f"[{host}]" if ":" in host else host
        print(f"http://{shown}:{sock.getsockname()[1]}", flush=True)
        uvicorn.Server(config).run(sockets=[sock])


def list_examples(inputs: list[str]) -> list[Path]:
    """The first five recordings of files, folders and patterns."""
    listed: list[Path] = []
    for item in inputs:
        path = Path(item)
        files = find_recordings(path)[0] if path.is_dir() else sorted(map(Path, glob.glob(item)))
        files = [path] if path.is_file() else files
        if not files:
            raise InputError(f"--examples {item}: no such recordings")
        listed += files
    for path in listed[:_MOST_EXAMPLES]:
        read_header(path)  # what cannot be heard is refused now
    return [path.resolve() for path in listed[:_MOST_EXAMPLES]]


def application(queue: Queue, examples: list[Path]) -> "ASGIApp":
    """All that is served. Gradio keeps its uploads in the shelf's folder."""
    os.environ["GRADIO_TEMP_DIR"] = str(queue.shelf.folder)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio
    from fastapi import FastAPI

    from custom_modules.page.controls import appearance, build, script
    from custom_modules.page.routes import Guarded, visit_route

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.router.routes.append(visit_route(queue))
    page = build(queue, examples)
    return Guarded(gradio.mount_gradio_app(app, page, path="/", **appearance(queue)), script())


@contextmanager
def upload_folder() -> Iterator[Path]:
    """A new folder that none but this user can read, removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="polsess-page-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that visitors can reach; a port that is taken is an InputError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
            sock.listen()  # or a second page could be bound to it, too
        except OSError as error:
            of_the_port = error.errno in (errno.EADDRINUSE, errno.EACCES)
            remedy = "name another one" if of_the_port else "check --host"
            raise InputError(f"--port={port}: {error.strerror} on {host}; {remedy}") from error
        yield sock


def stay_inside() -> None:
    """From now on, this process can connect to this machine alone; it still answers all.

    Whatever a library may want to send. There is no way back: for a command's process.
    """
    sys.addaudithook(_refuse_outside)


def _refuse_outside(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
    elif event == "socket.getaddrinfo":
        address = arguments
    else:
        return
    host = address[0] if isinstance(address, tuple) else None  # a path is of this machine
    if isinstance(host, bytes):
        host = host.decode(errors="replace")
    if host and not str(host).startswith(_LOOPBACK):
        raise PermissionError(errno.EPERM, f"the page sends nothing to {host}")


def _sweep(queue: Queue) -> None:
    """For ever: at most a quarter later than promised."""
    while True:
        threading.Event().wait(max(1.0, 60 * queue.shelf.keep_minutes / 4))
        queue.sweep()
