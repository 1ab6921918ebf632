from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest

from services.backends.connection import HELD_BYTES, Address, Connection, Connections
from services.errors import BackendError, ConfigurationError, DeadlineError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GET = b"GET /x HTTP/1.1\r\nhost: x\r\n\r\n"


async def exchange(connections: Connections) -> tuple[Connection, bytes]:
    connection = await connections.take()
    pieces: list[bytes] = []
    await connection.ask(GET, None, 9)
    connection.flow_to(pieces.append)
    pieces.append(await connection.ended())
    connections.give_back(connection)
    return connection, b"".join(pieces)


def connections(url: str, timeout_s: float = 5) -> Connections:
    return Connections(Address.parse(url), timeout_s)


# Addresses


@pytest.mark.parametrize(
    ("url", "host", "port", "authority"),
    [
        ("http://speech:3000", "speech", 3000, b"speech:3000"),
        ("http://speech:3000/", "speech", 3000, b"speech:3000"),
        ("http://speech", "speech", 80, b"speech"),
        ("https://speech", "speech", 443, b"speech"),
        ("https://speech:80", "speech", 80, b"speech:80"),
        ("http://[::1]:3000", "::1", 3000, b"[::1]:3000"),
    ],
)
def test_a_url_is_read(url: str, host: str, port: int, authority: bytes) -> None:
    address = Address.parse(url)
    assert (address.host, address.port, address.path) == (host, port, None)
    assert (address.authority, address.tls) == (authority, url.startswith("https"))


@pytest.mark.parametrize("scheme", ["file", "unix"])
def test_a_unix_socket_is_a_path(scheme: str) -> None:
    address = Address.parse(f"{scheme}:///tmp/a%20b.sock")
    assert (address.path, address.authority) == ("/tmp/a b.sock", b"localhost")  # noqa: S108


@pytest.mark.parametrize(
    "url",
    [
        "speech:3000",
        "ftp://speech",
        "http://",
        "",
        "http://speech:port",
        "http://speech:99999",
        "http://speech:3000?x=1",
        "http://user:secret@speech:3000",
    ],
)
def test_what_would_not_be_used_as_it_stands_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="no URL such as http://speech:3000"):
        Address.parse(url)


# Exchanges


async def test_a_connection_serves_again(backend: Any) -> None:
    server = await backend()
    mine = connections(server.url)
    first, body = await exchange(mine)
    second, _ = await exchange(mine)
    assert body == b"hello"
    assert first is second
    assert server.connections == 1
    mine.close()


async def test_a_connection_that_the_backend_closed_is_not_used_again(backend: Any) -> None:
    server = await backend()
    mine = connections(server.url)
    await exchange(mine)
    server.drop_connections()
    async with asyncio.timeout(1):
        while mine._idle:  # noqa: ASYNC110
            await asyncio.sleep(0)
    await exchange(mine)
    assert server.connections == 2
    mine.close()


async def test_the_kernel_watches_over_connections_between_machines(
    backend: Any, tmp_path: Path
) -> None:
    """A machine that has lost its power closes nothing, and a stream has no deadline."""
    mine = connections((await backend()).url)
    connection = await mine.take()
    end = connection.transport.get_extra_info("socket")
    assert end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    idle_s, interval_s, count = (end.getsockopt(socket.IPPROTO_TCP, one) for one in options)
    assert idle_s + interval_s * count <= 60
    assert 0 < end.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 60_000
    connection.abort()
    local = connections((await backend(path=str(tmp_path / "s.sock"))).url)
    (await local.take()).abort()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi",
    ],
)
async def test_a_connection_that_is_to_be_closed_is_not_kept(backend: Any, answer: bytes) -> None:
    server = await backend()
    server.says(answer)
    mine = connections(server.url)
    assert (await exchange(mine))[1] == b"hi"
    assert not mine._idle


async def test_a_body_may_end_with_the_connection(backend: Any) -> None:
    server = await backend()
    server.says(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\nto the end", close=True)
    connection, body = await exchange(connections(server.url))
    assert body == b"to the end"
    assert not connection.reusable


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_an_answer_without_a_body_ends_with_its_head(backend: Any, status: bytes) -> None:
    server = await backend()
    server.says(b"HTTP/1.1 " + status + b"\r\n\r\n")
    mine = connections(server.url)
    assert (await exchange(mine))[1] == b""
    mine.close()


@pytest.mark.parametrize("status", [b"100 Continue", b"103 Early Hints"])
async def test_an_interim_answer_is_passed_over(backend: Any, status: bytes) -> None:
    server = await backend()
    interim = b"HTTP/1.1 " + status + b"\r\nlink: </x>\r\n\r\n"
    server.says(interim + b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\nhi")
    mine = connections(server.url)
    connection, body = await exchange(mine)
    assert (connection.status, body) == (201, b"hi")
    assert connection.headers == [(b"content-length", b"2")]
    mine.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-",
        b"garbage\r\n\r\n",
        b"\x16\x03\x01 a TLS server",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: nine\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx",
    ],
)
async def test_nonsense_before_the_head_is_a_backend_error(backend: Any, answer: bytes) -> None:
    server = await backend()
    server.says(answer, close=True)
    with pytest.raises(BackendError):
        await exchange(connections(server.url))


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalfxx",
    ],
)
async def test_a_body_that_breaks_off_is_a_backend_error(backend: Any, answer: bytes) -> None:
    server = await backend()
    server.says(answer, close=True)
    with pytest.raises(BackendError):
        await exchange(connections(server.url))


async def test_a_second_answer_is_never_taken_for_the_next_requests(backend: Any) -> None:
    server = await backend()
    one = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"
    server.says(one + one.replace(b"200 OK", b"500 Oh"))
    mine = connections(server.url)
    connection, body = await exchange(mine)
    assert (connection.status, body) == (200, b"hi")
    assert not connection.reusable
    assert not mine._idle


async def test_a_paused_sink_stops_the_reading(backend: Any) -> None:
    server = await backend()
    total = 8 << 20
    server.says(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % total + b"x" * total)
    connection = await connections(server.url).take()
    await connection.ask(GET, None, 9)
    got = 0

    def sink(piece: bytes) -> None:
        nonlocal got
        got += len(piece)
        connection.pause()

    connection.flow_to(sink)
    for _ in range(100):
        await asyncio.sleep(0)
    before = got
    assert before < 1 << 20
    while not connection._ended.done():
        connection.resume()
        await asyncio.sleep(0)
    assert got + len(await connection.ended()) == total
    connection.abort()


async def test_an_end_that_nobody_waits_for_any_more_stops_no_later_reading(backend: Any) -> None:
    server = await backend()
    total = 2 * HELD_BYTES
    server.says(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % total)
    mine = connections(server.url)
    connection = await mine.take()
    await connection.ask(GET, None, 5)
    waiting = asyncio.ensure_future(anext(connection.pieces()))
    await asyncio.sleep(0)
    waiting.cancel()  # in the turn in which all of it arrives
    connection.data_received(bytes(total))
    with pytest.raises(asyncio.CancelledError):
        await waiting
    mine.give_back(connection)
    assert mine._idle
    await asyncio.sleep(0)
    assert connection.transport.is_reading()
    mine.close()


# Connecting


async def test_a_refused_connection_is_unavailable() -> None:
    with socket.socket() as taken:  # bound and not listening: nobody else gets the port
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(UnavailableError):
            await connections(f"http://127.0.0.1:{taken.getsockname()[1]}").take()


async def test_a_missing_socket_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError):
        await connections(f"file://{tmp_path}/none.sock").take()


async def test_a_unix_socket_serves(backend: Any, tmp_path: Path) -> None:
    server = await backend(path=str(tmp_path / "a b.sock"))
    mine = connections(server.url.replace(" ", "%20"))
    assert (await exchange(mine))[1] == b"hello"
    mine.close()


async def test_a_backend_that_does_not_accept_in_time_is_a_deadline() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):  # the backlog's only place
            mine = connections(f"http://127.0.0.1:{port}", timeout_s=0.05)
            taking = [mine.take() for _ in range(3)]
            refused = [
                e
                for e in await asyncio.gather(*taking, return_exceptions=True)
                if isinstance(e, DeadlineError)
            ]
    assert "within 0.05 s" in refused[0].message


# A request's body


async def test_a_backend_that_does_not_read_stops_the_body_instead_of_filling_memory() -> None:
    reading = asyncio.Event()
    total, step = 64 << 20, 1 << 16
    read = 0

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal read
        await reader.readuntil(b"\r\n\r\n")
        await reading.wait()
        while read < total:
            read += len(await reader.read(1 << 20))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()
        ended.set()

    ended = asyncio.Event()
    server = await asyncio.start_server(slow, "127.0.0.1", 0)
    async with server:
        mine = connections(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        connection = await mine.take()
        sent = 0

        def body() -> Iterator[bytes]:
            nonlocal sent
            while sent < total:
                sent += step
                yield bytes(step)

        head = b"POST /x HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % total
        asking = asyncio.ensure_future(connection.ask(head, body(), 90))
        await asyncio.sleep(0)
        stalled = -1
        while stalled != sent:  # until nothing moves any more
            stalled = sent
            await asyncio.sleep(0.05)
        assert sent < total // 2  # what the sockets' own buffers hold
        assert connection.transport.get_write_buffer_size() < 1 << 20
        reading.set()
        await asking
        await connection.ended()
        assert (sent, read) == (total, total)
        connection.abort()
        await ended.wait()


async def test_a_connection_answered_before_it_was_asked_in_full_serves_no_more() -> None:
    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        await gone.wait()
        writer.close()
        ended.set()

    gone, ended = asyncio.Event(), asyncio.Event()
    server = await asyncio.start_server(early, "127.0.0.1", 0)
    async with server:
        mine = connections(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        connection = await mine.take()
        rest = (bytes(1 << 16) for _ in range(1 << 10))
        await connection.ask(b"POST /x HTTP/1.1\r\n\r\n", rest, 9)
        await connection.ended()
        assert not connection.reusable
        mine.give_back(connection)
        assert not mine._idle
        gone.set()
        await ended.wait()


async def test_the_end_of_an_idle_connection_is_seen_before_the_loop_tells_of_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        mine = connections(f"http://127.0.0.1:{listening.getsockname()[1]}")
        connection = await mine.take()
        theirs, _ = listening.accept()
        assert connection.is_quiet()
        theirs.close()  # and no turn of the loop before the next line
        assert not connection.is_quiet()
        connection.abort()
