"""A hub with one model, on loopback."""

from __future__ import annotations

import functools
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import huggingface_hub
import pytest
from huggingface_hub import constants

if TYPE_CHECKING:
    from collections.abc import Iterator


class Hub:
    """Hugging Face with one model, whose download pauses until the progress was reported."""

    commit = "c" * 40

    def __init__(self) -> None:
        """Have a Whisper; a test may put other files."""
        self.told = threading.Event()
        files = dict.fromkeys(("config.json", "tokenizer.json", "vocabulary.json"), b"{}")
        self.files = {**files, "model.bin": bytes(24_000_000), "README.md": b"not wanted"}
        self.asked: list[str] = []

    def info(self) -> dict[str, Any]:
        files = [{"rfilename": name, "size": len(data)} for name, data in self.files.items()]
        return {"id": "someone/model", "sha": self.commit, "siblings": files}

    def tree(self) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": name, "size": len(data), "oid": tag(name)}
            for name, data in self.files.items()
        ]


def tag(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:  # noqa: C901  its pages are short
    hub = Hub()

    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            path = self.path.partition("?")[0]
            hub.asked.append(path)
            if path.startswith("/api/models/"):
                self.send({}, json.dumps(hub.tree() if "/tree/" in path else hub.info()))
                return
            name = path.partition("/resolve/")[2].partition("/")[2]
            data = hub.files.get(name)
            if data is None:
                self.send({"X-Error-Code": "EntryNotFound"}, "", 404)
                return
            self.send({"ETag": f'"{tag(name)}"', "X-Repo-Commit": hub.commit}, data)

        def send(self, headers: dict[str, str], body: str | bytes, status: int = 200) -> None:
            data = body.encode() if isinstance(body, str) else body
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "HEAD":
                return
            first = 11 * len(data) // 12  # its client writes ten million bytes at a time
            self.wfile.write(data[:first])
            self.wfile.flush()
            if first > 100_000:
                hub.told.wait(20)
            self.wfile.write(data[first:])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    template = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + template)
    real_api, real_snapshot = huggingface_hub.HfApi, huggingface_hub.snapshot_download
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: real_api(endpoint=url))
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", functools.partial(real_snapshot, endpoint=url)
    )
    yield hub
    hub.told.set()
    server.shutdown()
    server.server_close()
    thread.join()
