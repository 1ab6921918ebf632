"""Models from Hugging Face: its real library with a stand-in for the hub."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import pytest

from services.speech.engines.cosyvoice.download import LLM, NEEDED, REVISIONS, check

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
MODEL = "FunAudioLLM/CosyVoice2-0.5B"
COMMIT = REVISIONS[MODEL]
WEIGHTS = bytes(range(256)) * 4096 * 12  # 12 MiB: the library keeps what it has by 10 MiB
LOCATE = """
import logging, pathlib, sys
from services.errors import ConfigurationError
from services.speech.engines.cosyvoice.download import locate
logging.basicConfig(level=logging.INFO, format="%(message)s")
try:
    print(locate("{model}", {options}))
except ConfigurationError as error:
    sys.exit(error.message)
"""
TOO_MUCH = ("flow.decoder.estimator.fp32.onnx", "llm.rl.pt", "flow.encoder.fp32.zip", "README.md")


@dataclass
class StandIn:
    """The hub's HTTP API with one model, and ways to misbehave."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)  # of the next answers to `llm.pt`
    is_down: bool = False


class Handler(BaseHTTPRequestHandler):
    stand_in: StandIn

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.respond()

    def do_GET(self) -> None:
        self.respond()

    def respond(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.stand_in.asked.append((self.command, path, self.headers.get("Range")))
        if self.stand_in.is_down:
            self.refuse(503, "")
        elif not path.removeprefix("/api/models").startswith(f"/{MODEL}"):
            self.refuse(404, "RepoNotFound")
        elif path.startswith(f"/api/models/{MODEL}/revision/"):
            self.revision(path.rpartition("/")[2])
        elif path.startswith(f"/api/models/{MODEL}/tree/"):
            self.json([{"type": "file", **entry} for entry in self.entries("path")])
        else:
            self.file(path.removeprefix(f"/{MODEL}/resolve/{COMMIT}/"))

    def entries(self, key: str) -> list[dict[str, Any]]:
        return [
            {key: name, "size": len(data), "oid": digest(data), "blobId": digest(data)}
            for name, data in self.stand_in.files.items()
        ]

    def revision(self, revision: str) -> None:
        if revision not in {"main", COMMIT}:
            self.refuse(404, "RevisionNotFound")
            return
        self.json({"id": MODEL, "sha": COMMIT, "siblings": self.entries("rfilename")})

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def json(self, document: Any) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def file(self, name: str) -> None:
        data = self.stand_in.files.get(name)
        if data is None:
            self.refuse(404, "EntryNotFound")
            return
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("ETag", f'"{digest(data)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data) - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if self.command == "GET":
            cut = self.stand_in.cuts.pop(0) if name == "llm.pt" and self.stand_in.cuts else None
            self.wfile.write(data[start:][:cut])


@pytest.fixture
def hub() -> Iterator[StandIn]:
    stand_in = StandIn()
    names = ("cosyvoice2.yaml", LLM, *NEEDED[2], *TOO_MUCH)
    stand_in.files = {name: name.encode() for name in names} | {"llm.pt": WEIGHTS}

    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), type("OfThisTest", (Handler,), {"stand_in": stand_in})
    )
    stand_in.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    yield stand_in
    server.shutdown()
    server.server_close()


def digest(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class Done:
    path: Path
    log: str
    code: int


@pytest.fixture
def fetch(hub: StandIn, tmp_path: Path) -> Callable[..., Done]:
    """Return `fetch(model, options, **variables)`: what `locate` finds in a process of its own.

    The library reads its environment when it is imported.
    """

    def run(model: str = MODEL, options: str = "", **variables: str) -> Done:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        environ = {**kept, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), **variables}
        command = [sys.executable, "-c", LOCATE.format(model=model, options=options)]
        done = subprocess.run(
            command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False
        )
        return Done(Path(done.stdout.strip() or "/none"), done.stderr, done.returncode)

    return run


def test_the_pinned_commit_is_taken_and_nothing_too_much(
    fetch: Callable[..., Done], tmp_path: Path
) -> None:
    done = fetch()
    assert done.code == 0, done.log
    assert check(done.path) == 2
    assert done.path.name == COMMIT
    assert done.path.is_relative_to(tmp_path / "hf" / "hub")
    assert not {path.name for path in done.path.rglob("*")} & set(TOO_MUCH)
    assert f"{MODEL} at {COMMIT} is commit {COMMIT}" in done.log
    assert "Fetching" not in done.log  # no bars of the library in a server's log


def test_a_pinned_model_that_is_there_needs_no_network(
    fetch: Callable[..., Done], hub: StandIn
) -> None:
    first = fetch()
    hub.asked.clear()
    assert fetch().path == first.path
    assert hub.asked == []


def test_a_branch_is_looked_up_and_its_commit_said(fetch: Callable[..., Done]) -> None:
    done = fetch(options="revision='main'")
    assert done.path.name == COMMIT
    assert f"{MODEL} at main is commit {COMMIT}" in done.log


def test_what_is_asked_for_besides_comes_too(fetch: Callable[..., Done]) -> None:
    also = "also=['llm.rl.pt', 'flow.decoder.estimator.fp32.onnx']"
    done = fetch(options=also)
    assert {path.name for path in done.path.iterdir()} & set(TOO_MUCH) == {*TOO_MUCH[:2]}
    assert not (done.path / "llm.pt").exists()
    without = fetch()
    assert fetch(options=also).path == without.path


def test_another_cache_is_used(fetch: Callable[..., Done], tmp_path: Path) -> None:
    cache = tmp_path / "models"
    assert fetch(options=f"cache=pathlib.Path('{cache}')").path.is_relative_to(cache)
    assert not (tmp_path / "hf" / "hub").exists()


def test_a_cut_download_goes_on_where_it_was(fetch: Callable[..., Done], hub: StandIn) -> None:
    hub.cuts = [11 << 20]
    done = fetch()
    assert done.code == 0, done.log
    assert (done.path / "llm.pt").read_bytes() == WEIGHTS
    ranges = [asked for _, path, asked in hub.asked if path.endswith("/llm.pt") and asked]
    assert ranges == ["bytes=10485760-"]


def test_offline_takes_the_cache_or_says_how_to_fill_it(
    fetch: Callable[..., Done], hub: StandIn
) -> None:
    refused = fetch(HF_HUB_OFFLINE="1")
    assert refused.code == 1
    last = refused.log.splitlines()[-1]
    assert "downloads are off" in last
    assert f"hf download {MODEL} --revision {COMMIT}" in last
    found = fetch()
    hub.asked.clear()
    assert fetch(HF_HUB_OFFLINE="1").path == found.path
    assert hub.asked == []


def test_a_model_that_does_not_exist_is_told(fetch: Callable[..., Done]) -> None:
    done = fetch("FunAudioLLM/Nothing")
    assert done.code == 1
    assert " does not give 'FunAudioLLM/Nothing'" in done.log.splitlines()[-1]


def test_a_revision_that_does_not_exist_is_told(fetch: Callable[..., Done]) -> None:
    done = fetch(options="revision='v9'")
    assert done.code == 1
    assert "at revision 'v9'" in done.log.splitlines()[-1]


def test_a_repository_that_lacks_a_file_names_it(fetch: Callable[..., Done], hub: StandIn) -> None:
    del hub.files["hift.pt"]
    done = fetch()
    assert done.code == 1
    assert "lacks hift.pt, which family 2 needs" in done.log.splitlines()[-1]


def test_a_hub_that_is_down_does_not_stop_a_model_that_is_there(
    fetch: Callable[..., Done], hub: StandIn
) -> None:
    main = "revision='main'"
    found = fetch(options=main)
    hub.is_down = True
    assert fetch(options=main).path == found.path
    elsewhere = found.path / "empty"
    refused = fetch(options=f"{main}, cache=pathlib.Path('{elsewhere}')")
    assert refused.code == 1
    assert "cannot be reached" in refused.log.splitlines()[-1]
    assert f"hf download {MODEL} --cache-dir {elsewhere}" in refused.log.splitlines()[-1]
