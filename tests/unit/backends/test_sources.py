from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest

from services.backends.sources import Dns, Kubernetes, RayServe, source_of
from services.errors import ConfigurationError
from services.tasks import racing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from services.backends.sources import Source


async def first(source: Source, until: Callable[[frozenset[str]], bool]) -> frozenset[str]:
    """Return what the source says once it says what a test waits for."""
    async with asyncio.timeout(10), aclosing(source.changes()) as changes:
        async for urls in changes:
            if until(urls):
                return urls
    raise AssertionError("it says no more")


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ("dns://speech:3000", Dns),
        ("k8s://speech", Kubernetes),
        ("k8s://speech.voice:http", Kubernetes),
        ("ray://head:8265/speech", RayServe),
    ],
)
def test_a_url_says_who_knows_the_backends(given: str, kind: type[Source]) -> None:
    assert isinstance(source_of(given), kind)


@pytest.mark.parametrize("given", ["http://speech:3000", "https://speech", "file:///x.sock"])
def test_a_backends_own_url_needs_nobody(given: str) -> None:
    assert source_of(given) is None


@pytest.mark.parametrize(
    "given",
    [
        "dns://speech",
        "dns://speech:3000/path",
        "http://speech:3000/v1",
        "dns://:3000",
        "k8s://",
        "k8s://Speech",
        "k8s://speech/path",
        "ray://head:8265",
        "ray://head:8265/",
        "ray:///speech",
        "ray://head/a/b",
        "consul://speech",
    ],
)
def test_what_names_nobody_is_refused_at_start(given: str) -> None:
    with pytest.raises(ConfigurationError):
        source_of(given)


@pytest.mark.parametrize(
    "given", ["k8s://speech:99999", "k8s://speech:0", "dns://speech:0", "ray://head:99999/speech"]
)
def test_what_is_no_port_is_refused_at_start(given: str) -> None:
    with pytest.raises(ConfigurationError, match="no URL"):
        source_of(given)


# DNS


async def test_a_name_that_cannot_be_one_is_told_like_one_without_an_address(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = Dns(f"dns://{'a' * 64}:3000")
    waiting = asyncio.ensure_future(first(source, bool))
    async with asyncio.timeout(10):
        while not source._failing:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert not waiting.done()
    waiting.cancel()
    assert "tells no backends" in caplog.text


async def test_every_address_of_a_name_is_a_backend() -> None:
    urls = await first(Dns("dns://localhost:3000"), bool)
    assert urls <= {"http://127.0.0.1:3000", "http://[::1]:3000"}


async def test_a_name_is_asked_for_again_and_a_failure_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Dns, "_again_s", 0)
    answers: list[list[str] | None] = [["10.0.0.1"], None, None, ["10.0.0.1", "fd00::2"]]

    async def getaddrinfo(name: str, port: int, **_: Any) -> list[Any]:
        assert (name, port) == ("speech", 3000)
        found = answers.pop(0)
        if found is None:
            raise OSError(-2, "Name or service not known")
        return [(None, None, None, "", (address, port)) for address in found]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    seen = []
    async with asyncio.timeout(10), aclosing(Dns("dns://speech:3000").changes()) as changes:
        async for urls in changes:
            seen.append(urls)
            if not answers:
                break
    one = "http://10.0.0.1:3000"
    assert seen == [{one}, {one, "http://[fd00::2]:3000"}]
    said = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == 1
    assert "Name or service not known" in said[0]


# Kubernetes


def pods(name: str, *addresses: str, leaving: str = "", port: int = 3000) -> dict[str, Any]:
    """Return an EndpointSlice."""
    return {
        "metadata": {"name": name},
        "ports": [{"name": "metrics", "port": 9090}, {"name": "http", "port": port}],
        "endpoints": [
            {"addresses": [one], "conditions": {"ready": False, "terminating": one == leaving}}
            for one in addresses
        ],
    }


class Api:
    """The part of Kubernetes' API that we use; the test sends its events."""

    def __init__(self, *slices: dict[str, Any]) -> None:
        self.slices = slices
        self.events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self.asked: list[tuple[str, str, str]] = []
        self.down = False
        self.watchable = True

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()  # the request
        query = scope["query_string"].decode()
        token = dict(scope["headers"]).get(b"authorization", b"").decode()
        self.asked.append((scope["path"], query, token))
        refused = self.down or ("watch=1" in query and not self.watchable)
        start = {"type": "http.response.start", "status": 403 if refused else 200, "headers": []}
        await send(start)
        if refused:
            await send({"type": "http.response.body", "body": b"{}"})
        elif "watch=1" not in query:
            listed = {"metadata": {"resourceVersion": "7"}, "items": self.slices}
            await send({"type": "http.response.body", "body": json.dumps(listed).encode()})
        else:
            while (event := await self._next(receive)) is not None:
                line = json.dumps(event).encode() + b"\n"
                for piece in (line[:20], line[20:]):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    async def _next(self, receive: Any) -> dict[str, Any] | None:
        async with racing(self.events.get(), receive()) as (event, _):
            return event.result() if event.done() else None

    def tell(self, kind: str, one: dict[str, Any]) -> None:
        self.events.put_nowait({"type": kind, "object": one})


@pytest.fixture
def account(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text("secret\n")
    (tmp_path / "namespace").write_text("voice")
    return tmp_path


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Kubernetes, "_again_s", 0.01)


async def test_pods_come_and_go_as_their_slices_say(serve: Any, account: Path) -> None:
    api = Api(pods("a", "10.0.0.1"))
    source = Kubernetes("k8s://speech:http", account, await serve(api))
    async with asyncio.timeout(10), aclosing(source.changes()) as changes:
        one, two = "http://10.0.0.1:3000", "http://10.0.0.2:3000"
        assert await anext(changes) == {one}
        api.tell("ADDED", pods("b", "10.0.0.2"))
        assert await anext(changes) == {one, two}
        api.tell("BOOKMARK", {"metadata": {"resourceVersion": "9"}})
        assert await anext(changes) == {one, two}
        api.tell("MODIFIED", pods("a", "10.0.0.1", leaving="10.0.0.1"))
        assert await anext(changes) == {two}
        api.tell("DELETED", pods("b"))
        assert await anext(changes) == frozenset()
    path, query, token = api.asked[0]
    assert path == "/apis/discovery.k8s.io/v1/namespaces/voice/endpointslices"
    assert "labelSelector=kubernetes.io%2Fservice-name%3Dspeech" in query
    assert token == "Bearer secret"
    assert "resourceVersion=7" in api.asked[1][1]


@pytest.mark.parametrize(
    ("given", "urls"),
    [
        ("k8s://speech", {"http://10.0.0.1:9090"}),
        ("k8s://speech:http", {"http://10.0.0.1:3000"}),
        ("k8s://speech:3001", {"http://10.0.0.1:3001"}),
        ("k8s://speech:grpc", set()),
    ],
)
async def test_the_port_is_named_or_numbered(
    serve: Any, account: Path, given: str, urls: set[str]
) -> None:
    source = Kubernetes(given, account, await serve(Api(pods("a", "10.0.0.1"))))
    assert await first(source, lambda _: True) == urls


async def test_another_namespace_is_asked_for(serve: Any, account: Path) -> None:
    api = Api()
    await first(Kubernetes("k8s://speech.other", account, await serve(api)), lambda _: True)
    assert "/namespaces/other/" in api.asked[0][0]


@pytest.mark.parametrize("end", ["expired", "ended"])
async def test_a_watch_that_ends_begins_again_with_a_list(
    serve: Any, account: Path, end: str
) -> None:
    api = Api(pods("a", "10.0.0.1"))
    source = Kubernetes("k8s://speech:http", account, await serve(api))
    async with asyncio.timeout(10), aclosing(source.changes()) as changes:
        await anext(changes)
        api.slices = (pods("a", "10.0.0.9"),)
        if end == "expired":
            api.tell("ERROR", {"code": 410})
        api.events.put_nowait(None)
        assert await anext(changes) == {"http://10.0.0.9:3000"}


async def test_an_api_that_refuses_is_asked_again(serve: Any, account: Path) -> None:
    api = Api(pods("a", "10.0.0.1"))
    api.down = True
    waiting = asyncio.ensure_future(
        first(Kubernetes("k8s://speech:http", account, await serve(api)), bool)
    )
    while len(api.asked) < 3:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert not waiting.done()
    api.down = False
    assert await waiting == {"http://10.0.0.1:3000"}


async def test_outside_a_pod_it_says_so(caplog: pytest.LogCaptureFixture, account: Path) -> None:
    waiting = asyncio.ensure_future(first(Kubernetes("k8s://speech", account), bool))
    while not caplog.records:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    waiting.cancel()
    assert "runs in no pod" in caplog.text


async def test_an_api_that_ends_each_watch_at_once_is_asked_again_after_a_pause(
    serve: Any, account: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Kubernetes, "_again_s", 0.2)
    api = Api(pods("a", "10.0.0.1"))
    for _ in range(1000):
        api.events.put_nowait(None)
    began = asyncio.get_running_loop().time()
    source = Kubernetes("k8s://speech:http", account, await serve(api))
    async with asyncio.timeout(10), aclosing(source.changes()) as changes:
        for _ in range(4):
            await anext(changes)
    assert asyncio.get_running_loop().time() - began >= 0.6
    assert len(api.asked) <= 8


async def test_after_a_long_watch_the_slices_are_listed_at_once(
    serve: Any, account: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleep, slept = asyncio.sleep, []

    async def noted(delay: float, *about: Any) -> None:
        slept.append(delay)
        await sleep(delay, *about)

    api = Api(pods("a", "10.0.0.1"))
    source = Kubernetes("k8s://speech:http", account, await serve(api))
    async with asyncio.timeout(10), aclosing(source.changes()) as changes:
        await anext(changes)
        await sleep(2 * Kubernetes._again_s)
        monkeypatch.setattr(asyncio, "sleep", noted)
        api.events.put_nowait(None)
        await anext(changes)
    assert slept[-1] <= 0


async def test_a_watch_that_is_refused_is_told_once_and_the_list_is_still_read(
    serve: Any, account: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="bentovox.backends")
    api = Api(pods("a", "10.0.0.1"))
    api.watchable = False
    source = Kubernetes("k8s://speech:http", account, await serve(api))
    async with asyncio.timeout(10), aclosing(source.changes()) as changes:
        for _ in range(4):
            assert await anext(changes) == {"http://10.0.0.1:3000"}
        assert len(caplog.records) == 1
        api.watchable = True
        api.tell("BOOKMARK", {"metadata": {"resourceVersion": "9"}})
        while len(caplog.records) < 2:
            await anext(changes)
    assert "answers again" in caplog.records[1].message


@pytest.mark.parametrize(
    "odd",
    [
        {"ports": None},
        {"ports": [{"name": "http", "port": None}]},
        {"endpoints": None},
        {"endpoints": []},
    ],
)
async def test_a_slice_that_lacks_something_has_no_backends(
    serve: Any, account: Path, odd: dict[str, Any]
) -> None:
    api = Api(pods("a", "10.0.0.1"), {**pods("b", "10.0.0.2"), **odd})
    source = Kubernetes("k8s://speech:http", account, await serve(api))
    assert await first(source, lambda _: True) == {"http://10.0.0.1:3000"}


async def test_an_endpoint_may_have_no_conditions(serve: Any, account: Path) -> None:
    one = {**pods("a"), "endpoints": [{"addresses": ["fd00::1"], "conditions": None}]}
    source = Kubernetes("k8s://speech:http", account, await serve(Api(one)))
    assert await first(source, lambda _: True) == {"http://[fd00::1]:3000"}


async def test_an_empty_list_may_be_null(serve: Any, account: Path) -> None:
    api = Api()
    api.slices = None  # type: ignore[assignment]
    source = Kubernetes("k8s://speech:http", account, await serve(api))
    assert await first(source, lambda _: True) == frozenset()


# Ray


def target(ip: str, app: str = "speech") -> dict[str, Any]:
    return {"ip": ip, "port": 30000, "name": f"SERVE_REPLICA::{app}#Speech#{ip}"}


class Head:
    """A Ray head's dashboard."""

    def __init__(self, *targets: dict[str, Any]) -> None:
        group = {"app_name": "speech", "protocol": "HTTP", "route_prefix": "/speech"}
        other = {**group, "app_name": "speech-2", "targets": [target("10.0.0.9", "speech-2")]}
        self.answer: Any = {"target_groups": [{**group, "targets": list(targets)}, other]}
        self.token = ""

    async def __call__(self, scope: Any, _receive: Any, send: Any) -> None:
        assert scope["path"] == "/api/serve/applications/"
        self.token = dict(scope["headers"]).get(b"authorization", b"").decode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(self.answer).encode()})


async def test_replicas_of_the_application_are_the_backends_and_its_proxy_is_none(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    proxy = {"ip": "10.0.0.1", "port": 8000, "name": "PROXY::abc"}
    head = Head(target("10.0.0.1"), target("10.0.0.2"), proxy)
    url = await serve(head)
    source = RayServe(f"{url.replace('http://', 'ray://')}/speech")
    local = await first(source, bool)
    assert local == {"http://127.0.0.1:30000/speech"}  # the head is here, so they are
    source._local = ""
    assert await first(source, bool) == {
        "http://10.0.0.1:30000/speech",
        "http://10.0.0.2:30000/speech",
    }
    assert head.token == "Bearer secret"
    assert not source.is_sure  # it leaves out replicas that serve while it rebuilds


async def test_token_may_be_in_a_file(
    serve: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("of the file\n")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    head = Head(target("10.0.0.1"))
    source = RayServe(f"{(await serve(head)).replace('http://', 'ray://')}/speech")
    await first(source, bool)
    assert head.token == "Bearer of the file"


_ODD_PORT = {"ip": "10.0.0.1", "port": 99999, "name": "SERVE_REPLICA::speech#Speech#x1"}


@pytest.mark.parametrize(
    "answer",
    [[], {}, "x", {"target_groups": ["x"]}, {"target_groups": [{"targets": [_ODD_PORT]}]}],
)
async def test_nonsense_of_the_head_changes_nothing(serve: Any, answer: Any) -> None:
    head = Head()
    good, head.answer = head.answer, answer
    url = await serve(head)
    source = RayServe(f"{url.replace('http://', 'ray://')}/speech")
    waiting = asyncio.ensure_future(first(source, lambda _: True))
    while not source._failing:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    head.answer = good
    assert await waiting == frozenset()
