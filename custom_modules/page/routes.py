"""Addresses of what visitors hear and take away, and what every answer of the page forbids.

``visits/<token>/<name>``; whoever does not know a token, which is random, finds nothing.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from custom_modules.page import views
from custom_modules.page.growing import Track
from custom_modules.page.speaking import transcript
from custom_modules.page.visits import Queue, Visit

_PIECE_BYTES = 2**16
#: Between two looks at a file that grows, s.
_PAUSE_SECONDS = 0.1
#: A browser asks nobody else, whatever the page or a library of it says. Gradio compiles
#: templates in the page, which needs 'unsafe-eval'.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "media-src 'self' data: blob:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
_HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]


class Guarded:
    """An application whose answers carry the policy, and whose page begins with a script.

    Gradio's own ``head`` comes too late: the language of its labels is chosen by then.
    """

    def __init__(self, application: ASGIApp, script: str = "") -> None:
        self.application, self.script = application, f"<script>{script}</script>".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI's."""
        if scope["type"] == "http" and scope["path"] == "/":
            # What is compressed cannot be added to.
            headers = [pair for pair in scope["headers"] if pair[0] != b"accept-encoding"]
            scope, send = {**scope, "headers": headers}, self._with_script(send)

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_HEADERS]
            await send(message)

        await self.application(scope, receive, guarded)

    def _with_script(self, send: Send) -> Send:
        start: Message = {}
        body = b""

        async def add(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                start = message
                return
            body += message.get("body", b"")
            if not message.get("more_body"):
                whole = body.replace(b"<head>", b"<head>" + self.script, 1)
                kept = [pair for pair in start["headers"] if pair[0] != b"content-length"]
                start["headers"] = [*kept, (b"content-length", str(len(whole)).encode())]
                await send(start)
                await send({"type": "http.response.body", "body": whole})

        return add


def visit_route(queue: Queue) -> Route:
    """Serves what belongs to a visit."""

    async def serve(request: Request) -> Response:
        visit = queue.visits.get(request.path_params["token"])
        name = request.path_params["name"]
        return _answer(visit, name, request) if visit else _nothing()

    return Route("/visits/{token}/{name}", serve)


def _answer(visit: Visit, name: str, request: Request) -> Response:
    files = {path.name: path for path in visit.files}
    if name in files:
        return FileResponse(files[name], filename=name)
    track = visit.tracks.get(name.removesuffix(".wav"))
    if track:
        return _stream(visit, track, request.headers.get("range", ""))
    if name == views.SPECTROGRAMS and visit.picture:
        return FileResponse(visit.picture)
    if name == views.TRANSCRIPT and visit.is_over:
        language = request.query_params.get("language", "")
        text = transcript(visit.turns, views.speakers(visit, language))
        file = quote(f"{visit.recording.stem}.txt")
        named = {"content-disposition": f"attachment; filename*=utf-8''{file}"}
        return PlainTextResponse(text, headers=named)
    return _nothing()


def _nothing() -> Response:
    return PlainTextResponse("There is nothing here (any more).", status_code=404)


def _stream(visit: Visit, track: Track, wanted: str) -> Response:
    """A stretch of a track, or all of it, as fast as it is made."""
    span, headers, status = (0, track.size), {"accept-ranges": "bytes"}, 200
    if match := re.fullmatch(r"bytes=(\d{1,18})-(\d{0,18})", wanted):
        start, last = int(match[1]), int(match[2] or track.size - 1)
        if start >= track.size or last < start:
            unmet = {"content-range": f"bytes */{track.size}"}
            return Response(status_code=416, headers=unmet)
        span, status = (start, min(last + 1, track.size)), 206
        headers["content-range"] = f"bytes {start}-{span[1] - 1}/{track.size}"
    headers["content-length"] = str(span[1] - span[0])
    options: dict[str, Any] = {"media_type": "audio/wav", "headers": headers}
    return StreamingResponse(_pieces(visit, track, *span), status, **options)


async def _pieces(visit: Visit, track: Track, start: int, stop: int) -> AsyncIterator[bytes]:
    while start < stop:
        piece = track.read(start, min(_PIECE_BYTES, stop - start))
        if piece:
            yield piece
            start += len(piece)
        elif visit.is_over:  # its disk was full
            return
        else:
            await asyncio.sleep(_PAUSE_SECONDS)
