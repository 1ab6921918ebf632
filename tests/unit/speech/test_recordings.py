from __future__ import annotations

import asyncio
import base64
import gzip
import inspect
import socket
import ssl
import subprocess
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from hypothesis import given, settings
from hypothesis import strategies as st

from services.audio.encode import Encoder, to_wav
from services.errors import InvalidRequestError, ServiceError, TooLargeError
from services.speech import reference_download as download
from services.speech.recordings import MAX_BYTES, fetch_recording, read_recording
from services.speech.reference_download import Downloads, is_public
from tests.sounds import FORMATS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from services.audio.formats import AudioFormat


def tone(seconds: float, rate_hz: int = 24_000, level: float = 0.5) -> np.ndarray:
    times = np.arange(round(seconds * rate_hz)) / rate_hz
    return (level * np.sin(2 * np.pi * 220 * times)).astype(np.float32)


def wav(seconds: float = 2.0, rate_hz: int = 24_000, level: float = 0.5) -> bytes:
    return to_wav(tone(seconds, rate_hz, level), rate_hz)


def encoded(audio_format: AudioFormat, seconds: float) -> bytes:
    encoder = Encoder(audio_format, 24_000)
    return encoder.feed(tone(seconds)) + encoder.finish()


def refusal(data: bytes) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        read_recording(data, param="audio_sample", text=None)
    assert caught.value.param == "audio_sample"
    return caught.value


# Bytes


@pytest.mark.parametrize("rate_hz", [16_000, 22_050, 44_100, 48_000])
def test_a_recording_is_read_at_its_own_rate(rate_hz: int) -> None:
    found = read_recording(wav(2, rate_hz), param="file", text="Hello.")
    assert (found.sample_rate_hz, found.text, found.id) == (rate_hz, "Hello.", None)
    assert np.array_equal(found.samples, tone(2, rate_hz))


def test_a_rate_over_48_khz_is_brought_down() -> None:
    found = read_recording(wav(2, 96_000), param="file", text=None)
    assert found.sample_rate_hz == 48_000
    assert abs(found.samples.size - 96_000) <= 1


@pytest.mark.parametrize("audio_format", [name for name in FORMATS if name != "pcm"])
def test_thirty_seconds_are_accepted_in_every_format(audio_format: AudioFormat) -> None:
    found = read_recording(encoded(audio_format, 30), param="file", text=None)
    assert found.samples.size == 30 * found.sample_rate_hz


@pytest.mark.parametrize("seconds", [1.0, 30.0])
def test_both_bounds_are_included(seconds: float) -> None:
    assert read_recording(wav(seconds), param="file", text=None).samples.size == 24_000 * seconds


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (wav(0.99), "audio_too_short"),
        (wav(30.2), "audio_too_long"),
        (wav(2, 8_000), "unsupported_sample_rate"),
        (wav(2, 15_999), "unsupported_sample_rate"),
        (wav(2, level=0), "silent_audio"),
        (wav(2, level=0.0005), "silent_audio"),
        (to_wav(np.full(48_000, 0.5, np.float32), 24_000), "silent_audio"),
        (b"", "invalid_audio"),
        (b"RIFF", "invalid_audio"),
        (b"<html>no audio here</html>" * 100, "invalid_audio"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_no_voice_can_be_made_of_is_refused(data: bytes, code: str) -> None:
    assert refusal(data).code == code


def test_the_refusal_of_a_rate_names_it_and_what_is_needed() -> None:
    message = refusal(wav(2, 8_000)).message
    assert "8000 Hz" in message
    assert "16000 Hz" in message


def test_quiet_speech_is_not_silence() -> None:
    assert read_recording(wav(2, level=0.005), param="file", text=None).samples.size


def test_what_is_louder_than_full_scale_is_clipped() -> None:
    found = read_recording(wav(2, level=3.0), param="file", text=None)
    assert (found.samples.max(), found.samples.min()) == (1.0, -1.0)


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, 60_000), noise=st.binary(max_size=200))
def test_a_damaged_recording_does_no_worse_than_a_refusal(at: int, noise: bytes) -> None:
    good = wav(1.5, 16_000)
    try:
        found = read_recording(good[:at] + noise + good[at + len(noise) :], param="file", text=None)
    except ServiceError:
        return
    assert np.isfinite(found.samples).all()
    assert np.abs(found.samples).max() <= 1


# Data URLs


def data_url(data: bytes, kind: str = "audio/wav") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


@pytest.mark.parametrize(
    "url",
    [
        data_url(wav()),
        data_url(wav(), "audio/ogg;codecs=opus"),
        data_url(wav()).replace("data:audio/wav;base64", "DATA:Audio/WAV;BASE64"),
        "data:audio/wav;base64," + quote(base64.b64encode(wav()).decode(), safe=""),
    ],
    ids=["plain", "parameters", "capitals", "percent"],
)
async def test_a_data_url_is_read(url: str) -> None:
    found = await fetch_recording(url, text="Hello.")
    assert np.array_equal(found.samples, tone(2))
    assert found.text == "Hello."


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("data:", "invalid_data_url"),
        ("data:audio/wav,abc", "invalid_data_url"),
        ("data:;base64,AAAA", "invalid_data_url"),
        ("data:text/html;base64,AAAA", "invalid_data_url"),
        ("data:audio/wav;base64,A", "invalid_data_url"),
        ("data:audio/wav;base64,AA AA", "invalid_data_url"),
        ("data:audio/wav;base64,\u00e4", "invalid_data_url"),
        ("data:audio/wav;base64,%ff", "invalid_data_url"),
        ("data:audio/wav" + ";a" * 200 + ";base64,AAAA", "invalid_data_url"),
        ("data:audio/wav;base64,", "invalid_audio"),
        ("data:audio/wav;base64,AAAA", "invalid_audio"),
        ("data:audio/wav;base64," + "A" * (MAX_BYTES * 4 // 3 + 8), "audio_too_large"),
        (data_url(wav(0.5)), "audio_too_short"),
        ("", "url_not_allowed"),
        ("http://voices.example/a.wav", "url_not_allowed"),
        ("file:///etc/passwd", "url_not_allowed"),
        ("/etc/passwd", "url_not_allowed"),
        ("UklGRg==", "url_not_allowed"),
    ],
    ids=lambda value: value[:40],
)
async def test_a_reference_that_is_no_use_is_refused(url: str, code: str) -> None:
    with pytest.raises(ServiceError) as caught:
        await fetch_recording(url)
    assert (caught.value.param, caught.value.code) == ("ref_audio", code)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60), st.sampled_from(["", "data:", "data:audio/", "https:", "https://"]))
async def test_any_text_is_a_refusal_and_no_crash(text: str, start: str) -> None:
    with pytest.raises((InvalidRequestError, TooLargeError)):
        await fetch_recording(start + text, downloads=Downloads(9, resolver=Names({})))


# Addresses


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",  # noqa: S104
        "0.1.2.3",
        "10.0.0.1",
        "100.64.0.1",
        "100.100.100.200",
        "127.0.0.1",
        "127.1.2.3",
        "168.63.129.16",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.1",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::8.8.8.8",
        "::ffff:127.0.0.1",
        "::ffff:8.8.8.8",
        "64:ff9b::7f00:1",
        "64:ff9b::a00:1",
        "64:ff9b:1::808:808",
        "100::1",
        "2001::1",
        "2001:0:7f00:1::",
        "2001:db8::1",
        "2002:7f00:1::",
        "2002:808:808::",
        "3fff::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%eth0",
        "2606:4700::1%eth0",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
    ],
)
def test_an_address_that_is_not_public_is_not(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "64:ff9b::808:808"],
)
def test_an_address_that_is_public_is(address: str) -> None:
    assert is_public(ip_address(address))


def inside(network: str) -> st.SearchStrategy[IPv4Address | IPv6Address]:
    if ":" in network:
        six = IPv6Network(network)
        return st.integers(int(six[0]), int(six[-1])).map(IPv6Address)
    four = IPv4Network(network)
    return st.integers(int(four[0]), int(four[-1])).map(IPv4Address)


@given(
    st.sampled_from(
        [
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "224.0.0.0/4",
            "240.0.0.0/4",
            "::/8",
            "::ffff:0:0/96",
            "64:ff9b:1::/48",
            "2001::/32",
            "2001:db8::/32",
            "2002::/16",
            "fc00::/7",
            "fe80::/10",
            "fec0::/10",
            "ff00::/8",
        ]
    ).flatmap(inside)
)
def test_no_address_of_a_range_that_is_not_public_is(address: IPv4Address | IPv6Address) -> None:
    assert not is_public(address)


@given(st.ip_addresses() | inside("2000::/3") | inside("64:ff9b::/96"))
def test_what_is_public_is_what_python_calls_global_unicast(
    address: IPv4Address | IPv6Address,
) -> None:
    if is_public(address):
        assert address.is_global
        assert not address.is_multicast
        assert not address.is_loopback
        assert not address.is_link_local


@given(st.ip_addresses(v=4))
def test_nat64_is_as_public_as_the_address_in_it(address: IPv4Address) -> None:
    within = IPv6Address(int(IPv6Address("64:ff9b::")) + int(address))
    assert is_public(within) == is_public(address)


# https


class Names(AbstractResolver):
    """Resolves a host to its next answer, and finally always to the last; can change the port."""

    def __init__(self, answers: dict[str, list[list[str]]], port: int | None = None) -> None:
        self._answers = answers
        self._port = port
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        answers = self._answers.get(host)
        if not answers:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        found = answers[min(self.asked.count(host), len(answers) - 1)]
        self.asked.append(host)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=self._port or port,
                family=family,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in found
        ]

    async def close(self) -> None:
        pass


OUTSIDE = "127.0.0.2"
"""Where the tests' server listens, and the one address that counts as public."""


def is_outside(address: IPv4Address | IPv6Address) -> bool:
    return str(address) == OUTSIDE


class Server:
    """An HTTPS server that answers each path with the test's bytes."""

    def __init__(self, port: int, certificate: Path) -> None:
        self.port = port
        self.paths: dict[str, bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]] = {}
        self.heads: list[bytes] = []
        self.connections = 0
        self.names = Names({"voices.example": [[OUTSIDE]], "other.example": [[OUTSIDE]]}, port)
        self.trust = ssl.create_default_context(cafile=str(certificate))

    def downloads(self, **options: Any) -> Downloads:
        given = {"allowed": is_outside, "resolver": self.names, "tls": self.trust, **options}
        return Downloads(given.pop("max_bytes", MAX_BYTES), **given)

    async def serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            answer = self.paths[head.split(b" ")[1].decode()]
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await answer(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def answered(body: bytes, *headers: str, status: str = "200 OK", kind: str = "audio/wav") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-type: {kind}", f"content-length: {len(body)}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


def redirected(to: str) -> bytes:
    return answered(b"", f"location: {to}", status="302 Found")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=voices.example"),
            *("-addext", f"subjectAltName=DNS:voices.example,DNS:other.example,IP:{OUTSIDE}"),
            *("-keyout", str(made.with_name("key.pem")), "-out", str(made)),
        ],
        check=True,
        capture_output=True,
    )
    return made


@pytest.fixture
async def server(certificate: Path) -> AsyncIterator[Server]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    made = Server(0, certificate)
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(made.serve_one(reader, writer))
        tasks.add(task)

    listening = await asyncio.start_server(connected, OUTSIDE, 0, ssl=context)
    made.port = made.names._port = listening.sockets[0].getsockname()[1]
    yield made
    listening.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


URL = "https://voices.example/a.wav"


async def refused(server: Server, url: str = URL, **options: Any) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        await fetch_recording(url, downloads=server.downloads(**options))
    assert caught.value.param == "ref_audio"
    assert OUTSIDE not in caught.value.message
    return caught.value


async def test_a_recording_is_fetched(server: Server) -> None:
    server.paths["/a.wav"] = answered(wav())
    found = await fetch_recording(URL, text="Hello.", downloads=server.downloads())
    assert np.array_equal(found.samples, tone(2))
    head = server.heads[0].lower()
    assert b"host: voices.example\r\n" in head
    assert b"accept-encoding: identity\r\n" in head
    assert b"cookie" not in head
    assert b"authorization" not in head


async def test_redirects_are_followed_three_times_and_no_more(server: Server) -> None:
    server.paths["/a.wav"] = answered(wav())
    server.paths["/1"] = redirected("/a.wav")
    server.paths["/2"] = redirected("https://other.example/1")
    server.paths["/3"] = redirected("https://voices.example:443/2")
    server.paths["/4"] = redirected("/3")
    await fetch_recording("https://voices.example/3", downloads=server.downloads())
    assert server.names.asked == ["voices.example"] * 2 + ["other.example"] * 2
    assert (await refused(server, "https://voices.example/4")).code == "fetch_failed"


NOT_ALLOWED = [
    "http://voices.example/a.wav",
    "https://voices.example:8443/a.wav",
    "https://voices.example:22/a.wav",
    "https://voices.example:0/a.wav",
    "https://voices.example:99999/a.wav",
    "https://user@voices.example/a.wav",
    "https://user:password@voices.example/a.wav",
    "https://:password@voices.example/a.wav",
    "https://127.0.0.1/a.wav",
    "https://127.1/a.wav",
    "https://2130706433/a.wav",
    "https://0x7f000001/a.wav",
    "https://0177.0.0.1/a.wav",
    "https://0/a.wav",
    "https://[::1]/a.wav",
    "https://[::]/a.wav",
    "https://[::ffff:127.0.0.1]/a.wav",
    "https://[fe80::1%25eth0]/a.wav",
    "https://10.0.0.1/a.wav",
    "https://169.254.169.254/latest/meta-data",
    "https://inside.example/a.wav",
    "https://nowhere.example/a.wav",
    "https://mixed-in.example/a.wav",
    "file:///etc/passwd",
]


@pytest.fixture
def inside_names(server: Server) -> None:
    server.names._answers |= {
        "inside.example": [["10.0.0.1"], [OUTSIDE]],
        "mixed-in.example": [["10.0.0.1", "::1"]],
    }


@pytest.mark.usefixtures("inside_names")
@pytest.mark.parametrize(
    "url",
    [
        *NOT_ALLOWED,
        "https:///a.wav",
        "https:a.wav",
        "https://",
        "https://voices.example/" + "a" * 2048,
    ],
    ids=lambda url: url[:40],
)
async def test_what_is_inside_is_never_connected_to(server: Server, url: str) -> None:
    assert (await refused(server, url)).code == "url_not_allowed"
    assert server.connections == 0


@pytest.mark.usefixtures("inside_names")
@pytest.mark.parametrize("url", [*NOT_ALLOWED, "data:audio/wav;base64,AAAA", ""])
async def test_a_redirect_leads_nowhere_inside(server: Server, url: str) -> None:
    server.paths["/a.wav"] = redirected(url)
    assert (await refused(server)).code == "url_not_allowed"
    assert server.connections == 1


async def test_nothing_listening_inside_notices_a_redirect_to_it(server: Server) -> None:
    inside_hits = []
    inner = await asyncio.start_server(lambda _r, w: inside_hits.append(w), "127.0.0.1", 0)
    port = inner.sockets[0].getsockname()[1]
    server.paths["/a.wav"] = redirected("https://inside.example/a.wav")
    server.names._answers["inside.example"] = [["127.0.0.1"]]
    server.names._port = None
    names = server.names

    class Ports(Names):
        async def resolve(
            self, host: str, port_: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
        ) -> list[ResolveResult]:
            names._port = port if host == "inside.example" else server.port
            return await names.resolve(host, port_, family)

    assert (await refused(server, resolver=Ports({}))).code == "url_not_allowed"
    assert inside_hits == []
    # The same without the guard reaches it: the test would see a connection.
    with pytest.raises(ServiceError):
        await fetch_recording(
            URL,
            downloads=server.downloads(
                resolver=Ports({}), allowed=lambda _address: True, timeout_s=0.3
            ),
        )
    assert len(inside_hits) == 1
    inside_hits[0].close()
    inner.close()


async def test_a_name_that_changes_its_address_is_checked_each_time(server: Server) -> None:
    server.names._answers["voices.example"] = [[OUTSIDE], ["127.0.0.1"]]
    server.paths["/a.wav"] = redirected("/b.wav")
    assert (await refused(server)).code == "url_not_allowed"
    assert server.names.asked == ["voices.example"] * 2
    assert server.connections == 1


async def test_of_several_addresses_only_the_public_one_is_used(server: Server) -> None:
    server.names._answers["voices.example"] = [["127.0.0.1", "::1", OUTSIDE]]
    server.paths["/a.wav"] = answered(wav())
    await fetch_recording(URL, downloads=server.downloads())
    assert len(server.names.asked) == 1


async def test_a_name_inside_and_one_that_is_not_known_look_the_same(server: Server) -> None:
    server.names._answers["inside.example"] = [["10.0.0.1"]]
    known = await refused(server, "https://inside.example/")
    unknown = await refused(server, "https://nowhere.example/")
    assert (known.message, known.code) == (unknown.message, unknown.code)


async def test_a_certificate_that_is_not_trusted_is_refused(server: Server) -> None:
    server.paths["/a.wav"] = answered(wav())
    error = await refused(server, tls=None)
    assert error.code == "fetch_failed"
    assert "certificate" in error.message
    assert server.heads == []


async def test_a_certificate_of_another_name_is_refused(server: Server) -> None:
    server.names._answers["third.example"] = [[OUTSIDE]]
    assert (await refused(server, "https://third.example/a.wav")).code == "fetch_failed"
    assert server.heads == []


@pytest.mark.parametrize(
    "answer",
    [
        answered(b"secret", status="404 Not Found"),
        answered(b"secret", status="500 Oh no"),
        answered(b"secret", status="206 Partial Content"),
        answered(b"secret", status="302 Found"),
        answered(b"secret", kind="text/html"),
        answered(b"secret", kind="application/json"),
        answered(gzip.compress(wav()), "content-encoding: gzip"),
        answered(wav())[:-10],
        b"secret\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nsecret: " + b"x" * 100_000,
        b"",
    ],
    ids=lambda answer: answer[:40].decode(),
)
async def test_an_answer_that_is_no_use_is_refused_and_not_repeated(
    server: Server, answer: bytes
) -> None:
    server.paths["/a.wav"] = answer
    error = await refused(server)
    assert error.code in {"fetch_failed", "url_not_allowed"}
    assert "secret" not in error.message


async def test_what_arrives_and_is_no_audio_is_refused(server: Server) -> None:
    server.paths["/a.wav"] = answered(b"secret", kind="application/octet-stream")
    error = await refused(server)
    assert error.code == "invalid_audio"
    assert "secret" not in error.message


async def test_a_body_that_drips_ends_at_the_time_limit(server: Server) -> None:
    stopped = asyncio.Event()

    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: audio/wav\r\n\r\n")
        try:
            while not writer.is_closing():
                writer.write(b"R")
                await writer.drain()
                await asyncio.sleep(0.01)
        finally:
            stopped.set()

    server.paths["/a.wav"] = drip
    started = asyncio.get_running_loop().time()
    error = await refused(server, timeout_s=0.3)
    assert error.code == "fetch_failed"
    assert "0.3 s" in error.message
    assert asyncio.get_running_loop().time() - started < 2
    await asyncio.wait_for(stopped.wait(), 5)


async def test_a_server_that_says_nothing_ends_at_the_time_limit(server: Server) -> None:
    async def mute(_writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    server.paths["/a.wav"] = mute
    assert (await refused(server, timeout_s=0.3)).code == "fetch_failed"


@pytest.mark.parametrize("length", ["", "content-length: 5\r\n", "content-length: 99999999\r\n"])
async def test_an_endless_body_ends_at_the_size_limit(server: Server, length: str) -> None:
    sent = 0

    async def endless(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(f"HTTP/1.1 200 OK\r\ncontent-type: audio/wav\r\n{length}\r\n".encode())
        while not writer.is_closing():
            writer.write(bytes(4096))
            sent += 4096
            await writer.drain()

    server.paths["/a.wav"] = endless
    error = await refused(server, max_bytes=100_000)
    assert error.code == ("fetch_failed" if " 5\r" in length else "audio_too_large")
    assert sent < 50_000_000


async def test_a_chunked_body_of_many_pieces_is_put_together(server: Server) -> None:
    data = wav()
    pieces = [data[at : at + 1000] for at in range(0, len(data), 1000)]
    head = b"HTTP/1.1 200 OK\r\ncontent-type: audio/wav\r\ntransfer-encoding: chunked\r\n\r\n"
    chunks = b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces)
    server.paths["/a.wav"] = head + chunks + b"0\r\n\r\n"
    found = await fetch_recording(URL, downloads=server.downloads())
    assert np.array_equal(found.samples, tone(2))


async def test_a_client_that_hangs_up_ends_the_fetch(server: Server) -> None:
    arrived, gone = asyncio.Event(), asyncio.Event()

    async def wait(writer: asyncio.StreamWriter) -> None:
        arrived.set()
        await writer.wait_closed()
        gone.set()

    server.paths["/a.wav"] = wait
    fetch = asyncio.ensure_future(fetch_recording(URL, downloads=server.downloads()))
    await asyncio.wait_for(arrived.wait(), 5)
    fetch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetch
    await asyncio.wait_for(gone.wait(), 5)


async def test_no_proxy_of_the_environment_is_used(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    server.paths["/a.wav"] = answered(wav())
    await fetch_recording(URL, downloads=server.downloads())


def test_unless_told_otherwise_only_public_addresses_are_allowed() -> None:
    assert Downloads(1).allowed is is_public
    assert inspect.signature(fetch_recording).parameters["downloads"].default.allowed is is_public


async def test_the_systems_names_are_guarded_too() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await fetch_recording("https://localhost/a.wav")
    assert caught.value.code == "url_not_allowed"
    found = await download._SystemResolver().resolve("localhost", 443)
    assert {ip_address(entry["host"]).is_loopback for entry in found} == {True}
