"""The playground: a page on which a person tries what the server can do.

Its files are in the folder `playground`. They refer to each other and to the API by relative URLs,
so that it also works where a proxy serves the gateway under a path.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from services.errors import NotFoundError
from services.server.serving import NO_SUCH_PATH

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from services.openai.documents import Handlers

PAGE: Final = "/playground"
_FILES: Final = f"{PAGE}/{{}}"
_FOLDER: Final = Path(__file__).with_name("playground")
_TYPES: Final = {
    ".css": b"text/css; charset=utf-8",
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}
# Everything comes from here, and nothing is inline; blobs are sounds that were made in the page.
_POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    b"media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = (
    (b"cache-control", b"no-cache"),  # asked again each time, and then 304
    (b"content-security-policy", _POLICY),
    (b"permissions-policy", b"microphone=(self)"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


class Playground:
    """Serves the page from memory; 65 KB."""

    def __init__(self) -> None:
        """Read its files."""
        self._files = {path.name: _read(path) for path in _FOLDER.iterdir()}

    def handlers(self) -> Handlers:
        """Return what answers its paths."""
        return {("GET", "/"): _to_page, ("GET", PAGE): self._page, ("GET", _FILES): self._file}

    async def _page(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["bentovox.slash"]:
            await self._send(scope, send, "index.html")
        else:
            await _to_page(scope, receive, send)

    async def _file(self, scope: Scope, _receive: Receive, send: Send) -> None:
        name = scope["path"].removeprefix(f"{PAGE}/")
        if name not in self._files:
            message = NO_SUCH_PATH.format(method=scope["method"], path=scope["path"])
            raise NotFoundError(message, code="unknown_url")
        await self._send(scope, send, name)

    async def _send(self, scope: Scope, send: Send, name: str) -> None:
        body, content_type, tag = self._files[name]
        headers = [*_HEADERS, (b"etag", tag)]
        known = [value for key, value in scope["headers"] if key == b"if-none-match"]
        if any(tag in value for value in known):  # a proxy that compresses makes it weak: W/"…"
            await send({"type": "http.response.start", "status": 304, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return
        headers += [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _read(path: Path) -> tuple[bytes, bytes, bytes]:
    """Return a file, its type and its tag."""
    body = path.read_bytes()
    return body, _TYPES[path.suffix], f'"{hashlib.sha256(body).hexdigest()[:32]}"'.encode()


async def _to_page(_scope: Scope, _receive: Receive, send: Send) -> None:
    headers = [(b"location", b"playground/"), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 307, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
