"""Where a model comes from: a directory, ModelScope (a stand-in on the loopback), the cache."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from services.errors import ConfigurationError
from services.speech.engines.cosyvoice import modelscope
from services.speech.engines.cosyvoice.download import NEEDED, REVISIONS, check, locate, main
from services.speech.engines.cosyvoice.hub import HubError
from services.speech.engines.cosyvoice.meter import Meter
from services.speech.engines.cosyvoice.modelscope import ModelScope
from services.speech.engines.cosyvoice.recipe import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL = "iic/CosyVoice2-0.5B"
HEAD = "83ee97c66e841048bedc5c02c15ce2f3ed259feb"
OLDER = "f194f50981eaaa6019bbec5049a4c7e1fd294110"
WANTED = ("*.pt", "CosyVoice-BlankEN/*")
WEIGHTS = bytes(range(256)) * 4096  # 1 MiB


@dataclass
class StandIn:
    """ModelScope's HTTP API with the files of one model, and ways to misbehave."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)  # bytes after which the next answers break off
    statuses: list[int] = field(default_factory=list)  # of the next answers
    wrong_sha: str = ""
    range_status: int = 206
    tells_range: bool = True
    ranges: bool = True

    def listing(self, revision: str) -> dict[str, Any]:
        if revision not in {"master", HEAD}:
            return {"Code": 200, "Success": True, "Data": {"Files": None}, "Message": "success"}
        blobs = [
            {
                "Path": path,
                "Name": Path(path).name,
                "Type": "blob",
                "Size": len(data),
                "Sha256": "0" * 64 if path == self.wrong_sha else hashlib.sha256(data).hexdigest(),
                "Revision": HEAD if path == "llm.pt" else OLDER,
            }
            for path, data in self.files.items()
        ]
        folder = {"Path": "CosyVoice-BlankEN", "Type": "tree", "Size": 0, "Sha256": ""}
        committer = {"Id": "", "ShortId": HEAD[:8]}
        data = {"Files": [folder, *blobs], "LatestCommitter": committer}
        return {"Code": 200, "Success": True, "Data": data, "Message": "success"}


@pytest.fixture
def hub() -> Iterator[StandIn]:
    stand_in = StandIn()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            at = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(at.query).items()}
            path = query.get("FilePath", "")
            stand_in.asked.append((path, self.headers.get("Range")))
            if stand_in.statuses:
                self.send_error(stand_in.statuses.pop(0))
            elif at.path == f"/api/v1/models/{MODEL}/repo/files":
                self.answer(200, json.dumps(stand_in.listing(query["Revision"])).encode())
            elif at.path == f"/api/v1/models/{MODEL}/repo" and path in stand_in.files:
                self.give(stand_in.files[path])
            else:
                self.send_error(404)

        def give(self, data: bytes) -> None:
            asked = self.headers.get("Range")
            if not (stand_in.ranges and asked):
                self.answer(200, data)
                return
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            told = f"bytes {start}-{len(data) - 1}/{len(data)}" if stand_in.tells_range else ""
            self.answer(stand_in.range_status, data[start:], told)

        def answer(self, status: int, body: bytes, content_range: str = "") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if content_range:
                self.send_header("Content-Range", content_range)
            self.end_headers()
            cut = stand_in.cuts.pop(0) if stand_in.cuts and status != 404 else None
            self.wfile.write(body[:cut])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    stand_in.url = f"http://127.0.0.1:{server.server_port}"
    stand_in.files = {
        "llm.pt": WEIGHTS,
        "CosyVoice-BlankEN/vocab.json": b"{}",
        "flow.decoder.estimator.fp32.onnx": b"left behind",
    }
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    yield stand_in
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "HF_HUB_OFFLINE", "MODELSCOPE_CACHE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def nobody() -> str:
    """Return the URL of a port that nobody listens on."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.server_close()
    return f"http://127.0.0.1:{server.server_port}"


def source(hub: StandIn, cache: Path) -> ModelScope:
    return ModelScope(MODEL, cache, url=hub.url, backoff_s=0)


def directory(path: Path, family: int) -> Path:
    yaml = {family: name for name, family in FAMILIES.items()}[family]
    for name in (yaml, *NEEDED[family]):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("something")
    return path


@pytest.mark.parametrize("family", [1, 2, 3])
def test_a_directory_is_used_as_it_is(tmp_path: Path, family: int) -> None:
    assert locate(str(directory(tmp_path, family))) == tmp_path
    assert check(tmp_path) == family


@pytest.mark.parametrize("family", [1, 2, 3])
def test_a_directory_that_lacks_a_file_names_it(tmp_path: Path, family: int) -> None:
    directory(tmp_path, family)
    for name in NEEDED[family]:
        (tmp_path / name).rename(tmp_path / "aside")
        with pytest.raises(ConfigurationError, match=f"lacks {name}, which family {family} needs"):
            locate(str(tmp_path))
        (tmp_path / "aside").rename(tmp_path / name)


def test_what_is_asked_for_besides_must_be_there_too(tmp_path: Path) -> None:
    directory(tmp_path, 2)
    with pytest.raises(ConfigurationError, match=r"lacks flow\.decoder\.estimator\.fp32\.onnx"):
        locate(str(tmp_path), also=["flow.decoder.estimator.fp32.onnx"])


def test_a_directory_without_a_yaml_is_told_which_it_could_have(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        locate(str(tmp_path))
    assert all(name in caught.value.message for name in FAMILIES)


def test_a_clone_without_lfs_says_how_to_finish_it(tmp_path: Path) -> None:
    directory(tmp_path, 1)
    (tmp_path / "llm.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:…")
    with pytest.raises(
        ConfigurationError, match=r"llm\.pt is only Git LFS's pointer.*git lfs pull"
    ):
        locate(str(tmp_path))


@pytest.mark.parametrize(
    "model", ["/no/such/place", "./model", "CosyVoice2-0.5B", "a/b/c", "", "a b/c"]
)
def test_what_is_neither_directory_nor_id_is_told(model: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="neither a directory that exists nor a hub's id"):
        locate(model or str(tmp_path / "gone"))


def test_every_pinned_revision_is_a_commit() -> None:
    assert all(len(commit) == 40 and int(commit, 16) for commit in REVISIONS.values())


def test_modelscope_gives_what_is_wanted_and_no_more(hub: StandIn, tmp_path: Path) -> None:
    found = source(hub, tmp_path).download("master", WANTED)
    assert {p.relative_to(found).as_posix() for p in found.rglob("*") if p.is_file()} == {
        "llm.pt",
        "CosyVoice-BlankEN/vocab.json",
    }
    assert (found / "llm.pt").read_bytes() == WEIGHTS
    assert found.is_relative_to(tmp_path)


def test_the_commit_that_was_taken_is_in_the_log(
    hub: StandIn, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "bentovox.speech"):
        source(hub, tmp_path).download("master", WANTED)
    assert f"{MODEL} at master is commit {HEAD}" in caplog.text


def test_what_is_there_is_not_asked_for_again(hub: StandIn, tmp_path: Path) -> None:
    first = source(hub, tmp_path).download("master", WANTED)
    hub.asked.clear()
    assert source(hub, tmp_path).download("master", WANTED) == first
    assert hub.asked == [("", None)]  # the list only
    assert source(hub, tmp_path).cached("master", WANTED) == first


def test_a_changed_file_gets_another_folder(hub: StandIn, tmp_path: Path) -> None:
    before = source(hub, tmp_path).download("master", WANTED)
    hub.files["llm.pt"] = WEIGHTS[::-1]
    after = source(hub, tmp_path).download("master", WANTED)
    assert after != before
    assert (before / "llm.pt").read_bytes() == WEIGHTS
    assert (after / "llm.pt").read_bytes() == WEIGHTS[::-1]


@pytest.mark.parametrize(
    ("status", "tells_range"), [(206, True), (200, True), (200, False)], ids=str
)
def test_a_cut_download_goes_on_where_it_was(
    hub: StandIn, tmp_path: Path, status: int, *, tells_range: bool
) -> None:
    hub.range_status, hub.tells_range = status, tells_range
    hub.files = {"llm.pt": WEIGHTS}
    hub.cuts = [10**9, 300_000, 400_000]  # the list is whole, then two cuts
    found = source(hub, tmp_path).download("master", WANTED)
    assert (found / "llm.pt").read_bytes() == WEIGHTS
    ranges = [asked for path, asked in hub.asked if path]
    assert ranges == ["bytes=0-", "bytes=300000-", "bytes=700000-"]


def test_the_next_start_goes_on_where_the_last_one_ended(hub: StandIn, tmp_path: Path) -> None:
    hub.files = {"llm.pt": WEIGHTS}
    hub.cuts = [10**9, 500_000, 0, 0, 0, 0, 0]
    with pytest.raises(HubError, match="failed 5 times"):
        source(hub, tmp_path).download("master", WANTED)
    assert source(hub, tmp_path).cached("master", WANTED) is None
    hub.cuts.clear()
    hub.asked.clear()
    found = source(hub, tmp_path).download("master", WANTED)
    assert (found / "llm.pt").read_bytes() == WEIGHTS
    assert hub.asked[-1] == ("llm.pt", "bytes=500000-")


def test_a_hub_that_knows_no_ranges_is_read_from_the_start(hub: StandIn, tmp_path: Path) -> None:
    hub.ranges = False
    hub.files = {"llm.pt": WEIGHTS}
    hub.cuts = [10**9, 300_000]
    found = source(hub, tmp_path).download("master", WANTED)
    assert (found / "llm.pt").read_bytes() == WEIGHTS


def test_a_hub_that_sends_too_much_is_given_up(hub: StandIn, tmp_path: Path) -> None:
    honest = hub.listing("master")
    hub.listing = lambda _: honest  # type: ignore[method-assign]
    hub.files = {**hub.files, "llm.pt": WEIGHTS * 2}
    with pytest.raises(HubError, match="failed 5 times"):
        source(hub, tmp_path).download("master", WANTED)


def test_a_wrong_checksum_is_tried_once_more_then_deleted(hub: StandIn, tmp_path: Path) -> None:
    hub.wrong_sha = "llm.pt"
    with pytest.raises(ConfigurationError, match=r"llm\.pt .* hashes to .* it was deleted"):
        source(hub, tmp_path).download("master", WANTED)
    assert [path for path, _ in hub.asked].count("llm.pt") == 2
    assert not list(tmp_path.rglob("llm.pt*"))
    assert source(hub, tmp_path).cached("master", WANTED) is None


def test_an_answer_of_this_moment_is_asked_again(hub: StandIn, tmp_path: Path) -> None:
    hub.statuses = [503, 429, 500]
    assert source(hub, tmp_path).download("master", WANTED).is_dir()


@pytest.mark.parametrize("revision", ["v9", "main"])
def test_a_revision_that_does_not_exist_is_told(
    hub: StandIn, tmp_path: Path, revision: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"no '{MODEL}' at revision '{revision}'"):
        source(hub, tmp_path).download(revision, WANTED)


def test_a_model_that_does_not_exist_is_told_at_once(hub: StandIn, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="answers 404 for 'iic/Nothing'"):
        ModelScope("iic/Nothing", tmp_path, url=hub.url, backoff_s=60).download("master", WANTED)


def test_a_file_outside_the_model_is_refused(hub: StandIn, tmp_path: Path) -> None:
    hub.files = {"../../evil.pt": b"x"}
    with pytest.raises(ConfigurationError, match="outside the model"):
        source(hub, tmp_path / "cache").download("master", WANTED)
    assert not list(tmp_path.rglob("evil.pt"))


def test_a_full_disk_is_told_before_the_first_byte(
    hub: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usage = modelscope.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(modelscope.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ConfigurationError, match="has no room for the model"):
        source(hub, tmp_path).download("master", WANTED)
    assert [path for path, _ in hub.asked if path] == []


def whole(hub: StandIn) -> None:
    names = ("cosyvoice2.yaml", *NEEDED[2])
    hub.files = {name: name.encode() for name in (*names, "llm.rl.pt", "flow.encoder.fp32.zip")}


@pytest.fixture
def at_stand_in(hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Make `locate` ask the stand-in, at once and without waits."""
    whole(hub)
    asked = ModelScope.__init__

    def init(self: ModelScope, model: str, cache: Path | None) -> None:
        asked(self, model, cache, url=hub.url, backoff_s=0)

    monkeypatch.setattr(ModelScope, "__init__", init)
    return hub


def test_a_model_of_modelscope_is_whole_and_nothing_too_much(
    at_stand_in: StandIn, tmp_path: Path
) -> None:
    found = locate(MODEL, hub="modelscope", cache=tmp_path)
    assert check(found) == 2
    names = {path.name for path in found.rglob("*")}
    assert not names & {"llm.rl.pt", "flow.encoder.fp32.zip"}
    del at_stand_in.files["hift.pt"]
    with pytest.raises(ConfigurationError, match=r"lacks hift\.pt"):
        locate(MODEL, hub="modelscope", cache=tmp_path)


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_offline_takes_the_cache_and_asks_nobody(
    at_stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    offline = True if how == "argument" else None
    if how == "environment":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigurationError) as caught:
        locate(MODEL, hub="modelscope", cache=tmp_path, offline=offline)
    assert f"download {MODEL} --hub modelscope --revision master" in caught.value.message
    found = locate(MODEL, hub="modelscope", cache=tmp_path, offline=False)
    at_stand_in.asked.clear()
    assert locate(MODEL, hub="modelscope", cache=tmp_path, offline=offline) == found
    assert at_stand_in.asked == []


def test_a_commit_that_is_there_needs_no_network(at_stand_in: StandIn, tmp_path: Path) -> None:
    found = locate(MODEL, hub="modelscope", revision=HEAD, cache=tmp_path)
    at_stand_in.asked.clear()
    assert locate(MODEL, hub="modelscope", revision=HEAD, cache=tmp_path) == found
    assert at_stand_in.asked == []


def test_a_hub_that_is_down_does_not_stop_a_model_that_is_there(
    at_stand_in: StandIn, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = locate(MODEL, hub="modelscope", cache=tmp_path)
    at_stand_in.statuses = [503] * 5
    assert locate(MODEL, hub="modelscope", cache=tmp_path) == found
    assert "taking what was downloaded before" in caplog.text
    at_stand_in.statuses = [503] * 5
    with pytest.raises(ConfigurationError, match="could not be downloaded: ModelScope"):
        locate(MODEL, hub="modelscope", cache=tmp_path / "empty")


def test_a_damaged_copy_is_made_whole_again(at_stand_in: StandIn, tmp_path: Path) -> None:
    found = locate(MODEL, hub="modelscope", revision=HEAD, cache=tmp_path)
    (found / "llm.pt").write_bytes(b"cut")
    assert locate(MODEL, hub="modelscope", revision=HEAD, cache=tmp_path) == found
    assert (found / "llm.pt").read_bytes() == b"llm.pt"
    assert at_stand_in.asked[-1][0] == "llm.pt"


@pytest.mark.usefixtures("at_stand_in")
def test_the_command_fetches_ahead_of_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([MODEL, "--hub", "modelscope", "--cache", str(tmp_path)]) == 0
    assert check(Path(capsys.readouterr().out.strip())) == 2
    assert main(["nowhere", "--hub", "modelscope"]) == 1
    assert "bentovox: model 'nowhere' is neither" in capsys.readouterr().err


def test_two_processes_of_one_stack_download_once(at_stand_in: StandIn, tmp_path: Path) -> None:
    found: list[Path] = []

    def get() -> None:
        found.append(locate(MODEL, hub="modelscope", cache=tmp_path))

    threads = [threading.Thread(target=get) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert [path for path, _ in at_stand_in.asked].count("llm.pt") == 1


def test_the_caches_of_the_hubs_own_tools_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ModelScope(MODEL, None).cache == Path("~/.cache/modelscope/bentovox").expanduser()
    monkeypatch.setenv("MODELSCOPE_CACHE", "/models")
    assert ModelScope(MODEL, None).cache == Path("/models/bentovox")


def test_the_log_says_how_far_it_is(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "bentovox.speech"):
        Meter("a/b", 4_000_000, every_s=0).add(1_000_000)
        Meter("a/b", 0, every_s=0).at(2_000_000)
        Meter("a/b", 10, every_s=60).at(5)
    told = [record.message for record in caplog.records]
    assert len(told) == 2
    assert told[0].startswith("Downloading a/b: 1 of 4 MB (25 %), ")
    assert told[1].startswith("Downloading a/b: 2 MB, ")
