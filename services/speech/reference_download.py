"""Downloads from URLs that clients send, without letting them reach the internal network."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from services.errors import InvalidRequestError, TooLargeError

Address = IPv4Address | IPv6Address

_LOOKUPS: Final = ThreadPoolExecutor(4, "lookup")
_MOST_ADDRESSES: Final = 8
_MOST_HOPS: Final = 3
_LONGEST_URL: Final = 2048
_PARAM: Final = "ref_audio"
_PORT: Final = 443
_HEADERS: Final = {
    "accept": "audio/*, application/octet-stream;q=0.9",
    "accept-encoding": "identity",
    "user-agent": "bentovox",
}
_MOVED: Final = frozenset({301, 302, 303, 307, 308})

# What `is_global` takes for public, in some patch release of Python or in all. Only the newest know
# all of IANA's special-purpose registry for IPv6.
_NOT_PUBLIC: Final = tuple(
    ip_network(network)
    for network in (
        "168.63.129.16/32",  # Azure's host services
        "192.0.0.0/24",  # protocol assignments
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT
        "192.88.99.0/24",  # 6to4 relays
        "192.175.48.0/24",  # AS112
        "224.0.0.0/4",  # multicast
        "2001::/23",  # Teredo and other protocol assignments
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
)
_UNICAST_6: Final = IPv6Network("2000::/3")
_NAT64: Final = IPv6Network("64:ff9b::/96")  # DNS64 maps every IPv4 host into it (RFC 6052)


def is_public(address: Address) -> bool:
    """Return whether `address` is globally routable unicast.

    Not public are private, loopback, link-local and shared addresses, multicast, reserved and
    documentation ranges, IPv4 inside IPv6 (mapped, 6to4, Teredo; NAT64 unless its IPv4 address is
    public), and relays and the metadata hosts of clouds.
    """
    if any(address in network for network in _NOT_PUBLIC):
        return False
    if isinstance(address, IPv4Address):
        return address.is_global
    if address.scope_id is not None:
        return False
    if address in _NAT64:
        return is_public(IPv4Address(int(address) & 0xFFFF_FFFF))
    return address in _UNICAST_6


class _SystemResolver(AbstractResolver):
    """Asks the system in its own threads, so that slow name servers delay nothing else."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        look_up = partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(_LOOKUPS, look_up)
        return [
            ResolveResult(
                hostname=host,
                host=str(place[0]),
                port=port,
                family=family,
                proto=protocol,
                flags=socket.AI_NUMERICHOST,
            )
            for family, _kind, protocol, _name, place in found[:_MOST_ADDRESSES]
        ]

    async def close(self) -> None:
        pass  # the threads are shared


@dataclass(frozen=True)
class Downloads:
    """How files are downloaded: https on port 443, public addresses, limits on size and time.

    The check is on the address of each connection as it is opened, so that neither a redirect nor
    a name that resolves differently the second time gets round it.
    """

    max_bytes: int  # of the body; compressed ones are refused
    timeout_s: float = 10.0  # for everything, including redirects
    allowed: Callable[[Address], bool] = is_public  # whether an address may be connected to
    resolver: AbstractResolver = field(default_factory=_SystemResolver)
    tls: ssl.SSLContext | None = None  # None for the system's trusted certificates

    async def fetch(self, url: str) -> bytes:
        """Return the body at `url`; errors name the field `ref_audio`.

        Error messages never contain an address, a header or part of a body from the way there.

        Raises:
            InvalidRequestError: the URL is not allowed, or its host has no public address
                (`url_not_allowed`), or nothing usable came in time (`fetch_failed`).
            TooLargeError: the body is over `max_bytes` (`audio_too_large`).
        """
        refused: list[object] = []  # addresses

        def open_socket(info: aiohttp.AddrInfoType) -> socket.socket:
            family, kind, protocol, _name, place = info
            if not self.allowed(ip_address(str(place[0]))):
                refused.append(place)
                raise OSError("not a public address")
            return socket.socket(family, kind, protocol)

        connector = aiohttp.TCPConnector(
            ssl=self.tls or True,
            resolver=self.resolver,
            use_dns_cache=False,
            force_close=True,
            socket_factory=open_socket,
        )
        session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=_HEADERS,
            auto_decompress=False,
            trust_env=False,
        )
        try:
            async with asyncio.timeout(self.timeout_s), session:
                return await self._follow(session, _checked(url))
        except TimeoutError as error:
            raise _failed(f"took longer than {self.timeout_s:g} s") from error
        except aiohttp.InvalidURL as error:
            raise _not_allowed() from error
        except aiohttp.ClientConnectorCertificateError as error:
            raise _failed("has a host whose certificate is not valid") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if refused or isinstance(error, aiohttp.ClientConnectorDNSError):
                # The same for an unknown name, so that nobody learns which names exist inside.
                raise InvalidRequestError(
                    "ref_audio names a host without a public address",
                    param=_PARAM,
                    code="url_not_allowed",
                ) from error
            raise _failed("could not be fetched") from error

    async def _follow(self, session: aiohttp.ClientSession, url: URL) -> bytes:
        for _hop in range(_MOST_HOPS + 1):
            async with session.get(url, allow_redirects=False) as answer:
                if answer.status not in _MOVED:
                    return await self._body(answer)
                url = _checked(answer.headers.get("location", ""), url)
        raise _failed(f"redirects more than {_MOST_HOPS} times")

    async def _body(self, answer: aiohttp.ClientResponse) -> bytes:
        if answer.status != HTTPStatus.OK:
            raise _failed(f"returned status {answer.status}")
        kind = answer.content_type
        if not kind.startswith("audio/") and kind != "application/octet-stream":
            raise _failed("did not return audio")
        if answer.headers.get("content-encoding", "identity").lower() != "identity":
            raise _failed("returned a compressed body")
        body = bytearray()
        if (answer.content_length or 0) <= self.max_bytes:
            async for piece in answer.content.iter_any():
                body += piece
                if len(body) > self.max_bytes:
                    break
            else:
                return bytes(body)
        raise TooLargeError(
            f"the file at the URL in ref_audio is larger than {self.max_bytes} bytes, the maximum",
            param=_PARAM,
            code="audio_too_large",
        )


def _checked(text: str, base: URL | None = None) -> URL:
    """Return the URL to request next, if it is allowed."""
    if 0 < len(text) <= _LONGEST_URL:
        with suppress(ValueError):
            url = URL(text) if base is None else base.join(URL(text))
            credentials = (url.user, url.password) != (None, None)
            if url.scheme == "https" and url.host and url.port == _PORT and not credentials:
                return url
    raise _not_allowed()


def _not_allowed() -> InvalidRequestError:
    return InvalidRequestError(
        "ref_audio must be a data URL or an https URL, redirected to https URLs only, at port "
        f"{_PORT}, without credentials, of at most {_LONGEST_URL} characters",
        param=_PARAM,
        code="url_not_allowed",
    )


def _failed(what: str) -> InvalidRequestError:
    return InvalidRequestError(f"the URL in ref_audio {what}", param=_PARAM, code="fetch_failed")
