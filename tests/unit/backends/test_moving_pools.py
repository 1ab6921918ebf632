"""Pools whose backends come and go: which one takes a request, and which requests wait."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from statistics import pstdev
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from services.backends import pools as pools_module
from services.backends.backend import Backend, Call, places
from services.backends.pools import AHEAD, Pool, Pools
from services.backends.sources import Source
from services.errors import BackendError, UnavailableError
from services.settings.sections import GatewaySettings

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

DEAD = "http://127.0.0.1:1"


class Told:
    """A source that reports what the test sets."""

    def __init__(self, *, is_sure: bool = True) -> None:
        self.given = "dns://chat:1"
        self.is_sure = is_sure
        self._news: asyncio.Queue[frozenset[str]] = asyncio.Queue()

    def say(self, *urls: str) -> None:
        self._news.put_nowait(frozenset(urls))

    async def changes(self) -> AsyncIterator[frozenset[str]]:
        while True:
            yield await self._news.get()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    source = Told()
    monkeypatch.setattr(
        pools_module, "source_of", lambda url: source if url.startswith("dns://") else None
    )
    return source


def moving(**rules: Any) -> Pools:
    return Pools({"chat": ["dns://chat:1"]}, GatewaySettings(**{"probe_interval_s": 0.01, **rules}))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  a pool has no event for it
            await asyncio.sleep(0.001)


def ready(pool: Pool) -> list[str]:
    return [one.url for one in pool.backends if one.ready]


# Coming and going


async def test_a_backend_joins_with_its_first_good_probe(backend: Any, told: Told) -> None:
    server = await backend("a")
    server.ready = False
    pools = moving()
    chat = pools.by_role["chat"]
    async with pools.probing():
        assert pools.status() == ("starting", {"chat": "not ready"})
        told.say(server.url)
        await until(lambda: len(chat.backends) == 1)
        assert not ready(chat)
        server.ready = True
        await until(lambda: ready(chat) == [server.url])
        await until(lambda: list(chat.backends[0].models) == ["a"])
        assert pools.status() == ("ready", {"chat": "ready"})


async def test_a_backend_that_leaves_ends_its_streams_and_takes_no_new_ones(
    backend: Any, told: Told
) -> None:
    old, new = await backend("a"), await backend("a")
    go_on = asyncio.Event()

    async def slowly(_request: Any, writer: Any) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nha")
        await go_on.wait()
        writer.write(b"lf")

    old.answer = slowly
    pools = moving()
    chat = pools.by_role["chat"]
    async with pools.probing():
        told.say(old.url)
        await until(lambda: ready(chat) == [old.url])
        async with chat.answering(Call(b"POST", b"/x", [])) as stream:
            told.say(new.url)
            await until(lambda: ready(chat) == [new.url])
            assert [one.url for one in chat.backends] == [old.url, new.url]
            assert chat.pick(None).url == new.url
            assert pools.status() == ("ready", {"chat": "ready (1 of 2)"})
            go_on.set()
            assert b"".join([piece async for piece in stream.pieces()]) == b"half"
        await until(lambda: [one.url for one in chat.backends] == [new.url])


async def test_one_that_comes_back_while_it_leaves_is_a_new_backend(
    backend: Any, told: Told
) -> None:
    server = await backend("a")
    pools = moving()
    chat = pools.by_role["chat"]
    async with pools.probing():
        told.say(server.url)
        await until(lambda: ready(chat) == [server.url])
        first = chat.backends[0]
        first.count(1)
        told.say()
        await until(lambda: not ready(chat))
        told.say(server.url)
        await until(lambda: ready(chat) == [server.url])
        assert [one.name for one in chat.backends] == ["chat-0", "chat-1"]
        first.count(-1)
        await until(lambda: [one.name for one in chat.backends] == ["chat-1"])


async def test_who_is_missing_from_a_list_that_is_not_sure_goes_when_it_fails_its_probe(
    backend: Any, told: Told
) -> None:
    told.is_sure = False
    server = await backend("a")
    pools = moving()
    chat = pools.by_role["chat"]
    async with pools.probing():
        told.say(server.url)
        await until(lambda: ready(chat) == [server.url])
        told.say()
        told.say()
        await until(told._news.empty)
        assert ready(chat) == [server.url]
        server.ready = False
        await until(lambda: not ready(chat))
        told.say()
        await until(lambda: not chat.backends)


async def test_the_pool_is_seen_in_metrics(backend: Any, told: Told) -> None:
    server = await backend("a")
    pools = moving()

    def shown(state: str) -> float | None:
        return REGISTRY.get_sample_value("bentovox_backends", {"asked": "chat", "state": state})

    async with pools.probing():
        told.say(server.url, DEAD)
        await until(lambda: shown("ready") == 1.0)
        assert (shown("not_ready"), shown("leaving")) == (1.0, 0.0)


# What must not end the probes of a role


@pytest.mark.parametrize(
    "told_state",
    [{"status": "unavailable", "detail": "no model"}, {"status": "unavailable", "detail": None}],
)
async def test_an_odd_answer_to_a_probe_is_that_of_one_that_is_not_ready(
    serve: Any, told_state: Any
) -> None:
    async def odd(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 503, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(told_state).encode()})

    (one,) = Pool("chat", [await serve(odd)], GatewaySettings()).backends
    await one.probe()
    assert not one.ready
    assert one.lack == str(told_state["detail"])
    one.connections.close()


async def test_a_probe_reads_no_endless_answer(serve: Any) -> None:
    sent = 0

    async def endless(_scope: Any, _receive: Any, send: Any) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            body = b"x" * 65536
            await send({"type": "http.response.body", "body": body, "more_body": True})
            sent += len(body)
            if sent > 1 << 30:
                return

    (one,) = Pool("chat", [await serve(endless)], GatewaySettings()).backends
    await one.probe()
    assert not one.ready
    assert sent < 64 << 20
    one.connections.close()


async def test_what_a_backend_lacked_is_forgotten_when_it_is_gone() -> None:
    """It may come back with it, and requests may wait for it until then."""
    (one,) = Pool("chat", [DEAD], GatewaySettings()).backends
    one.lack = "no model"
    await one.probe()
    assert not one.lack


async def test_a_probe_that_fails_unexpectedly_is_repeated_and_logged(
    backend: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken, sound = await backend("a"), await backend("b")
    pools = Pools({"chat": [broken.url, sound.url]}, GatewaySettings(probe_interval_s=0.01))
    chat = pools.by_role["chat"]
    fetch = Backend.fetch

    async def fails(self: Backend, path: str) -> tuple[int, bytes]:
        if self.url == broken.url and not caplog.records:
            raise RecursionError
        return await fetch(self, path)

    monkeypatch.setattr(Backend, "fetch", fails)
    async with pools.probing():
        await until(lambda: ready(chat) == [broken.url, sound.url])
    (said,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "backend chat-0: its probe failed" in said.message


async def test_a_source_that_fails_unexpectedly_is_asked_again_and_its_backends_stay(
    backend: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = await backend("a"), await backend("a")
    answers = [[one.url], None, [one.url, two.url]]

    class Failing(Source):
        _again_s = 0.0

        async def _told(self) -> AsyncGenerator[frozenset[str], None]:
            urls = answers.pop(0) if len(answers) > 1 else answers[0]
            if urls is None:
                assert ready(chat) == [one.url]
                raise RecursionError
            yield frozenset(urls)
            await until(lambda: ready(chat) == urls)

    monkeypatch.setattr(pools_module, "source_of", Failing)
    pools = moving()
    chat = pools.by_role["chat"]
    async with pools.probing():
        await until(lambda: ready(chat) == [one.url, two.url])
        assert len(chat.backends) == 2
    assert "dns://chat:1 tells no backends" in caplog.text


async def test_nothing_is_left_of_backends_that_come_and_go(backend: Any, told: Told) -> None:
    server = await backend("a")
    pools = moving()
    chat = pools.by_role["chat"]
    async with pools.probing():
        tasks = len(asyncio.all_tasks())
        for _ in range(20):
            told.say(server.url)
            await until(lambda: ready(chat) == [server.url])
            async with chat.answering(Call(b"POST", b"/x", [])) as answer:
                assert answer.status == 200
                assert [piece async for piece in answer.pieces()]
            assert chat.backends[0].name == "chat-0"
            told.say()
            await until(lambda: not chat.backends)
        await until(lambda: len(asyncio.all_tasks()) <= tasks + 1)  # the last reader of the server
        await until(lambda: not server._writers)


async def test_a_connection_used_while_its_backend_goes_is_closed(backend: Any) -> None:
    server = await backend("a")
    (one,) = Pool("chat", [server.url], GatewaySettings()).backends
    connection = await Call(b"GET", b"/metrics", []).sent(one.connections, 9)
    assert [piece async for piece in connection.pieces()]
    one.connections.close()
    one.connections.give_back(connection)
    assert connection.closed


# Who takes it


def loaded(*outstanding: int) -> Pool:
    """Return a pool of ready backends with so much under way."""
    urls = [f"http://127.0.0.1:{port}" for port in range(1, len(outstanding) + 1)]
    pool = Pool("chat", urls, GatewaySettings())
    for one, count in zip(pool.backends, outstanding, strict=True):
        one.mark(ready=True)
        one.count(count)
    return pool


AFFINITY = st.text(max_size=40)
LOADS = st.lists(st.integers(0, 40), min_size=1, max_size=12)


@given(LOADS, AFFINITY)
def test_affinity_never_asks_one_that_is_further_ahead(loads: list[int], affinity: str) -> None:
    assert loaded(*loads).pick(None, affinity).outstanding <= min(loads) + AHEAD


@given(st.integers(2, 12), AFFINITY)
def test_what_is_alike_goes_to_the_same_backend_while_there_is_room(
    count: int, affinity: str
) -> None:
    pool = loaded(*[0] * count)
    home = pool.pick(None, affinity)
    home.count(AHEAD)
    assert pool.pick(None, affinity) is home
    home.count(1)
    second = pool.pick(None, affinity)
    assert second is not home
    assert pool.pick(None, affinity) is second


@given(st.integers(2, 12), st.data())
def test_when_a_backend_goes_only_what_was_its_own_moves(count: int, data: st.DataObject) -> None:
    pool = loaded(*[0] * count)
    affinities = [f"conversation {number}" for number in range(60)]
    before = {one: pool.pick(None, one) for one in affinities}
    gone = data.draw(st.sampled_from(pool.backends))
    gone.mark(ready=False)
    moved = {one for one in affinities if pool.pick(None, one) is not before[one]}
    assert moved == {one for one in affinities if before[one] is gone}


def test_affinities_spread_over_all() -> None:
    pool = loaded(0, 0, 0, 0)
    taken = [pool.pick(None, f"conversation {number}").name for number in range(400)]
    assert all(60 < taken.count(one.name) < 140 for one in pool.backends)


EVENTS = st.lists(
    st.tuples(st.sampled_from(["ready", "gone", "begins", "ends"]), st.integers(0, 5)), max_size=60
)


@given(EVENTS, AFFINITY)
def test_the_choice_is_that_of_a_look_at_every_backend(
    events: list[tuple[str, int]], affinity: str
) -> None:
    """Fewest in flight; with affinity the greatest weight, if it is not too far ahead."""
    pool = loaded(*[0] * 6)
    for kind, number in events:
        one = pool.backends[number]
        if kind in {"ready", "gone"}:
            one.models = {"a" if number % 2 else "b": {}}
            one.mark(ready=kind == "ready")
        elif kind == "begins" or one.outstanding:
            one.count(7 if kind == "begins" else -1)
    ready = [one for one in pool.backends if one.ready]
    assert pool.ready == bool(ready)
    assert pool.has_choice == (len(ready) > 1)
    for model in (None, "a", "b"):
        able = [one for one in ready if model is None or model in one.models]
        if not able:
            continue
        fewest = min(one.outstanding for one in able)
        assert pool.pick(model).outstanding == fewest
        home = max(able, key=lambda one: weight(affinity, one.url))
        taken = pool.pick(model, affinity)
        assert taken.outstanding <= fewest + AHEAD
        assert (taken is home) == (home.outstanding <= fewest + AHEAD)
        if len(able) > 1:
            assert pool.pick(model, affinity, besides=taken) is not taken


def weight(affinity: str, url: str) -> int:
    """Return the weight that rendezvous hashing has for a pair: no other backend counts."""
    return -min((there - here) % 2**64 for here in places(affinity) for there in places(url))


def test_each_of_a_thousand_has_about_as_many_affinities() -> None:
    pool = loaded(*[0] * 1000)
    taken = Counter(pool.pick(None, f"conversation {number}").url for number in range(50_000))
    assert len(taken) == 1000
    assert max(taken.values()) < 2 * 50
    assert pstdev(taken.values()) < 10  # drawn at random: the root of 50


def test_a_choice_among_a_thousand_looks_at_few() -> None:
    looked = Counter[str]()

    class Looking(list[Any]):
        def __getitem__(self, at: Any) -> Any:
            looked["circle"] += 1
            return super().__getitem__(at)

    pool = loaded(*[0] * 1000)
    (choice,) = pool._choices.values()
    choice._circle = Looking(choice._circle)
    pool.pick(None, "conversation")
    assert 0 < looked["circle"] < 200


# Elsewhere


async def test_what_was_surely_not_begun_is_sent_elsewhere_once(backend: Any) -> None:
    server = await backend("a")
    pool = Pool("chat", [DEAD, server.url], GatewaySettings())
    for one in pool.backends:
        one.mark(ready=True)
    pool.backends[1].count(5)  # so that the dead one is asked first
    async with pool.answering(Call(b"POST", b"/x", [])) as answer:
        assert answer.status == 200
        assert [one.outstanding for one in pool.backends] == [0, 6]
    assert len(server.requests) == 1
    assert not pool.backends[0].ready
    assert [one.outstanding for one in pool.backends] == [0, 5]
    pool.backends[1].connections.close()


async def test_what_may_have_begun_is_sent_nowhere_else(backend: Any) -> None:
    first, second = await backend("a"), await backend("a")
    first.says(b"", close=True)
    pool = Pool("chat", [first.url, second.url], GatewaySettings())
    for one in pool.backends:
        one.mark(ready=True)
    with pytest.raises(BackendError):
        async with pool.answering(Call(b"POST", b"/x", [])):
            pass
    assert not second.requests


async def test_where_there_is_nobody_else_the_first_fault_is_told() -> None:
    pool = Pool("chat", [DEAD, DEAD], GatewaySettings())
    pool.backends[0].mark(ready=True)
    with pytest.raises(UnavailableError, match="cannot be reached"):
        async with pool.answering(Call(b"POST", b"/x", [])):
            pass


async def test_it_is_tried_twice_and_no_more() -> None:
    pool = Pool("chat", [DEAD] * 3, GatewaySettings())
    for one in pool.backends:
        one.mark(ready=True)
    with pytest.raises(UnavailableError):
        async with pool.answering(Call(b"POST", b"/x", [])):
            pass
    assert [one.ready for one in pool.backends].count(True) == 1


# Waiting


async def test_requests_wait_for_a_role_that_starts_and_are_counted() -> None:
    pool = Pool("chat", [DEAD], GatewaySettings(hold_s=30))
    waiting = [asyncio.ensure_future(pool.until_ready()) for _ in range(3)]
    await asyncio.sleep(0)
    held = REGISTRY.get_sample_value("bentovox_held_requests", {"asked": "chat"})
    assert (pool.waiting, held) == (3, 3.0)
    pool.backends[0].mark(ready=True)
    async with asyncio.timeout(10):
        await asyncio.gather(*waiting)
    assert pool.waiting == 0


@pytest.mark.parametrize(
    "rules", [{}, {"hold_s": 30, "queue": 1}, {"hold_s": 0.01}], ids=["off", "full", "late"]
)
async def test_none_waits_longer_than_it_may(rules: dict[str, Any]) -> None:
    pool = Pool("chat", [DEAD], GatewaySettings(**rules))
    first = asyncio.ensure_future(pool.until_ready())
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await pool.until_ready()
        with pytest.raises(UnavailableError):
            pool.pick(None)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert pool.waiting == 0


async def test_nobody_waits_for_a_role_that_lacks_what_it_needs() -> None:
    pool = Pool("chat", [DEAD], GatewaySettings(hold_s=30))
    pool.backends[0].lack = "no model"
    async with asyncio.timeout(10):
        await pool.until_ready()


async def test_a_front_door_whose_roles_are_scaled_to_zero_is_open() -> None:
    """Nobody would wait at a closed one, and no role would ever be started."""
    pools = Pools({"chat": ["dns://chat:1"]}, GatewaySettings(hold_s=30))
    assert pools.status() == ("degraded", {"chat": "not ready"})
    for rules in ({}, {"hold_s": 30, "queue": 0}):
        shut = Pools({"chat": ["dns://chat:1"]}, GatewaySettings(**rules))
        assert shut.status()[0] == "starting"


async def test_what_a_role_is_asked_for_is_what_is_at_work_and_what_waits() -> None:
    pool = Pool("speech", [DEAD], GatewaySettings(hold_s=30))
    waiting = asyncio.ensure_future(pool.until_ready())
    await asyncio.sleep(0)
    pool.backends[0].count(1)
    asked = REGISTRY.get_sample_value("bentovox_asked_requests", {"asked": "speech"})
    assert asked == 2.0
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
