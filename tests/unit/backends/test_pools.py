from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from services.backends import backend as backend_module
from services.backends.pools import Pool, Pools
from services.errors import NotFoundError, UnavailableError
from services.settings.sections import GatewaySettings

if TYPE_CHECKING:
    from services.backends.backend import Backend

URLS = ["http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3"]


def pool(*models: set[str]) -> Pool:
    """Return a pool of ready backends that serve these models."""
    made = Pool("chat", URLS[: len(models)], GatewaySettings())
    for one, names in zip(made.backends, models, strict=True):
        one.models = {name: {"id": name} for name in names}
        one.mark(ready=True)
    return made


def test_the_backend_with_the_fewest_outstanding_takes_the_next() -> None:
    chat = pool({"m"}, {"m"}, {"m"})
    for one, outstanding in zip(chat.backends, [2, 0, 1], strict=True):
        one.count(outstanding)
    assert chat.pick(None) is chat.backends[1]


def test_one_that_is_not_ready_takes_none() -> None:
    chat = pool({"m"}, {"m"})
    chat.backends[0].mark(ready=False)
    chat.backends[1].count(9)
    assert chat.pick(None) is chat.backends[1]


def test_the_model_decides_where_backends_serve_different_ones() -> None:
    chat = pool({"a"}, {"b"})
    assert chat.needs_model
    chat.backends[1].count(9)
    assert chat.pick("b") is chat.backends[1]
    assert chat.pick("b-2025-12-15") is chat.backends[1]  # OpenAI's name of a snapshot
    with pytest.raises(NotFoundError, match="'c' does not exist") as refused:
        chat.pick("c")
    assert (refused.value.param, refused.value.code) == ("model", "model_not_found")


def test_a_model_whose_backend_may_be_starting_is_unavailable_and_not_unknown() -> None:
    chat = pool({"a"}, set())
    chat.backends[1].mark(ready=False)
    assert chat.needs_model
    assert chat.pick("a") is chat.backends[0]
    with pytest.raises(UnavailableError) as refused:
        chat.pick("b")
    assert refused.value.retry_after_s
    chat.backends[1].told = frozenset({"b"})  # as it was before it went away
    with pytest.raises(UnavailableError):
        chat.pick("b-2025-12-15")
    with pytest.raises(NotFoundError):
        chat.pick("c")


def test_a_replica_that_starts_does_not_make_speech_look_at_names_that_it_takes_anyway() -> None:
    speech = Pool("speech", URLS[:2], GatewaySettings())
    speech.backends[0].mark(ready=True)
    assert not speech.needs_model


def test_the_model_is_not_looked_at_where_all_serve_the_same() -> None:
    assert not pool({"a"}, {"a"}).needs_model


def test_none_ready_is_unavailable_with_retry_after() -> None:
    chat = pool({"a"})
    chat.backends[0].mark(ready=False)
    with pytest.raises(UnavailableError) as refused:
        chat.pick(None)
    assert refused.value.retry_after_s


def test_starting_lasts_until_every_role_was_ready_once_then_one_is_enough() -> None:
    pools = Pools({"chat": URLS[:1], "speech": URLS[1:2]}, GatewaySettings())
    chat, speech = pools.backends()
    assert pools.status() == ("starting", {"chat": "not ready", "speech": "not ready"})
    speech.mark(ready=True)
    assert pools.status()[0] == "starting"
    chat.mark(ready=True)
    assert pools.status() == ("ready", {"chat": "ready", "speech": "ready"})
    chat.mark(ready=False)
    assert pools.status() == ("degraded", {"chat": "not ready", "speech": "ready"})
    speech.mark(ready=False)
    assert pools.status()[0] == "unavailable"
    chat.mark(ready=True)
    assert pools.status()[0] == "degraded"


def telling(status: int, told: dict[str, Any]) -> Any:
    """Return an application that says this of itself, whatever it is asked."""

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(told).encode()})

    return app


async def test_a_role_that_lacks_its_model_keeps_nobody_waiting_and_says_what_it_lacks(
    serve: Any,
) -> None:
    detail = {"faster_whisper": "no model: set a folder"}
    lacking = await serve(telling(503, {"status": "unavailable", "detail": detail}))
    pools = Pools({"chat": URLS[:1], "transcription": [lacking]}, GatewaySettings())
    chat, ears = pools.backends()
    assert pools.status()[0] == "starting"
    await ears.probe()
    assert pools.status()[0] == "starting"
    chat.mark(ready=True)
    states = {"chat": "ready", "transcription": "no model: set a folder"}
    assert pools.status() == ("degraded", states)
    with pytest.raises(UnavailableError, match="not ready: no model: set a folder"):
        pools.by_role["transcription"].pick(None)


@pytest.mark.parametrize(
    "told", [{"status": "starting", "detail": {}}, {"detail": {}}, {}, {"status": "unavailable"}]
)
async def test_a_role_that_is_on_its_way_is_waited_for(serve: Any, told: dict[str, Any]) -> None:
    (one,) = Pool("transcription", [await serve(telling(503, told))], GatewaySettings()).backends
    await one.probe()
    assert (one.ready, one.lack) == (False, "")


def test_a_role_without_backends_is_none() -> None:
    assert list(Pools({"chat": URLS[:1], "speech": []}, GatewaySettings()).by_role) == ["chat"]


async def probed(url: str) -> Backend:
    (one,) = Pool("chat", [url], GatewaySettings()).backends
    await one.probe()
    return one


async def test_a_probe_learns_readiness_and_models(backend: Any) -> None:
    server = await backend("a", "b")
    one = await probed(server.url)
    assert one.ready
    assert set(one.models) == {"a", "b"}
    server.ready = False
    await one.probe()
    assert not one.ready
    assert one.models == {}
    server.ready, server.models = True, ["c"]
    await one.probe()
    assert set(one.models) == {"c"}
    one.connections.close()


async def test_a_probe_of_nobody_is_not_ready() -> None:
    assert not (await probed(URLS[0])).ready


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"data":3}', b'{"data":[3]}', b"null"])
async def test_nonsense_instead_of_models_is_not_ready(serve: Any, body: bytes) -> None:
    async def odd(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    assert not (await probed(await serve(odd))).ready


async def test_one_slow_probe_closes_no_role_but_several_in_a_row_do(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_module, "_PROBE_TIMEOUT_S", 0.05)
    stuck = False

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        while stuck and (await receive())["type"] != "http.disconnect":
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b'{"data": [{"id": "m"}]}'})

    one = await probed(await serve(app))
    assert one.ready
    stuck = True
    await one.probe()
    assert one.ready
    await one.probe()
    await one.probe()
    assert not one.ready
    stuck = False
    await one.probe()
    assert one.ready
    one.connections.close()


async def test_probing_goes_on_until_the_context_ends(backend: Any) -> None:
    server = await backend("a")
    server.ready = False
    pools = Pools({"chat": [server.url]}, GatewaySettings(probe_interval_s=0.001))

    async def until(status: str) -> None:
        async with asyncio.timeout(2):
            while pools.status()[0] != status:  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    async with pools.probing():
        server.ready = True
        await until("ready")
        server.ready = False
        await until("unavailable")
    assert asyncio.all_tasks() - server._tasks == {asyncio.current_task()}


async def test_metrics_are_asked_of_ready_backends_by_name(serve: Any) -> None:
    async def counting(scope: Any, _receive: Any, send: Any) -> None:
        status = 200 if scope["path"] == "/metrics" else 500
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"x 1\n"})

    url = await serve(counting)
    pools = Pools({"chat": [url, url], "speech": [URLS[0]]}, GatewaySettings())
    first, second, third = pools.backends()
    second.mark(ready=True)
    third.mark(ready=True)
    assert await pools.metrics() == {"chat-1": b"x 1\n"}
    assert not first.ready
    second.connections.close()
