"""Where a pool's backends come from: a fixed URL, or something that knows the current ones.

A source keeps reporting the URLs that it knows. When it fails, nothing changes: the backends stay,
and their own probes tell whether they answer.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from services.backends.backend import Call
from services.backends.connection import Address, Connections, joined
from services.errors import BackendError, ConfigurationError

log = logging.getLogger("bentovox.backends")

_ANSWER_S: Final = 5.0
_ANSWER_BYTES: Final = 256 << 20  # ten thousand replicas with all that Kubernetes tells of each
_WATCH_S: Final = 240  # then the API ends a watch, and slices are listed again

_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_SERVICE: Final = re.compile(
    r"k8s://(?P<name>[a-z0-9-]+)(\.(?P<space>[a-z0-9-]+))?(:(?P<port>[a-z0-9-]+))?"
)


class Source:
    """Something that knows a role's backends."""

    is_sure = True  # whether what it no longer reports has gone, even if it still answers probes
    _again_s = 2.0

    def __init__(self, given: str) -> None:
        self.given = given
        self._failing = False

    async def changes(self) -> AsyncGenerator[frozenset[str], None]:
        """Yield the current URLs, at first and whenever they may have changed; never raises."""
        loop = asyncio.get_running_loop()
        while True:
            again_s = loop.time() + self._again_s
            try:
                async with aclosing(self._told()) as told:
                    begun = False
                    async for urls in told:
                        if begun:  # who may list may not be allowed to watch
                            self._note(None)
                        begun = True
                        yield urls
                self._note(None)
            except Exception as error:  # noqa: BLE001  whatever it is, the pool goes on
                self._note(error)
            # Even an API that ends each watch at once must not be asked without a pause. But after
            # a long watch nothing should happen unseen.
            await asyncio.sleep(again_s - loop.time())

    def _told(self) -> AsyncGenerator[frozenset[str], None]:
        """Yield the current URLs, and again while the source tells of changes; then it is asked."""
        raise NotImplementedError

    def _note(self, error: Exception | None) -> None:
        """Log when the source starts to fail and when it recovers."""
        if error and not self._failing:
            log.warning("%s tells no backends (%s); they stay as they are", self.given, error)
        elif self._failing and not error:
            log.info("%s answers again", self.given)
        self._failing = bool(error)


class Dns(Source):
    """`dns://name:port`: every address of the name, over plain HTTP."""

    _again_s = 5.0  # the lifetime of answers from Kubernetes' DNS

    def __init__(self, given: str) -> None:
        """Read the name and the port, or raise ConfigurationError."""
        super().__init__(given)
        address = Address.parse(given.replace("dns://", "http://", 1))
        if urlsplit(given).port is None or address.prefix:
            raise ConfigurationError(
                f"backend {given!r} needs a port and no path, as in dns://speech:3000."
            )
        self._name, self._port = address.host, address.port

    async def _told(self) -> AsyncGenerator[frozenset[str], None]:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self._name, self._port, type=socket.SOCK_STREAM)
        yield frozenset(_url(str(one[4][0]), self._port) for one in found)


class Kubernetes(Source):
    """`k8s://service[.namespace][:port]`: the ready and starting pods of a Service.

    It watches the EndpointSlices with the pod's own service account, which must be allowed to list
    and watch them. A terminating pod is left out at once, before it disappears from DNS. The port
    is a number or a name, by default the first port of a slice.
    """

    def __init__(self, given: str, account: Path = _ACCOUNT, api: str | None = None) -> None:
        """Read the Service's name, or raise ConfigurationError.

        `account` is the folder mounted into a pod, `api` its API's URL.
        """
        super().__init__(given)
        found = _SERVICE.fullmatch(given)
        if found is None:
            raise ConfigurationError(
                f"backend {given!r} names no Service, as k8s://speech.space:http does."
            )
        self._service, self._namespace, self._port = found["name"], found["space"], found["port"]
        if self._port and self._port.isdigit():
            _url(self._service, int(self._port))  # refuses what is no port
        self._account = account
        self._api = api

    async def _told(self) -> AsyncGenerator[frozenset[str], None]:
        """List the slices, then follow their changes until the API ends the watch."""
        api = _Api(self._api or _in_cluster(), self._account)
        space = self._namespace or (self._account / "namespace").read_text().strip()
        query = f"labelSelector=kubernetes.io%2Fservice-name%3D{self._service}"
        path = f"/apis/discovery.k8s.io/v1/namespaces/{space}/endpointslices?{query}"
        listed = await api.json(path)
        slices = {one["metadata"]["name"]: one for one in listed["items"] or ()}
        yield self._urls(slices)
        version = listed["metadata"]["resourceVersion"]
        path += f"&watch=1&allowWatchBookmarks=true&resourceVersion={version}"
        path += f"&timeoutSeconds={_WATCH_S}"
        async with aclosing(api.pieces(path, _WATCH_S + _ANSWER_S)) as pieces:
            async for line in _lines(pieces):
                event = json.loads(line)
                kind, one = event["type"], event["object"]
                if kind == "ERROR":  # the version is too old: list them again
                    return
                if kind == "DELETED":
                    slices.pop(one["metadata"]["name"], None)
                elif kind != "BOOKMARK":
                    slices[one["metadata"]["name"]] = one
                yield self._urls(slices)

    def _urls(self, slices: Mapping[str, dict[str, Any]]) -> frozenset[str]:
        urls = set()
        for one in slices.values():
            port = self._port_of(one.get("ports") or ())
            for endpoint in one.get("endpoints") or ():
                if port and not (endpoint.get("conditions") or {}).get("terminating"):
                    urls.add(_url(endpoint["addresses"][0], port))
        return frozenset(urls)

    def _port_of(self, ports: Sequence[dict[str, Any]]) -> int | None:
        if self._port and self._port.isdigit():
            return int(self._port)
        return next((p["port"] for p in ports if self._port in {None, p.get("name")}), None)


class RayServe(Source):
    """`ray://head:8265/app`: the replicas of a Ray Serve application, each on its own port.

    The list is that of direct ingress. While an application is rebuilt, it omits replicas that
    still serve, so a missing one counts as gone only if its probe fails too. The token comes from
    RAY_AUTH_TOKEN or the file that RAY_AUTH_TOKEN_PATH names, as for Ray itself.
    """

    is_sure = False

    def __init__(self, given: str) -> None:
        """Read the dashboard's address and the application's name, or raise ConfigurationError."""
        super().__init__(given)
        parts = urlsplit(given)
        self._app = parts.path.strip("/")
        if not self._app or "/" in self._app or parts.hostname is None:
            raise ConfigurationError(
                f"backend {given!r} names no application, as ray://head:8265/speech does."
            )
        # Where the head is on this machine, so are its replicas, and they listen on loopback only.
        self._local = parts.hostname if parts.hostname in {"127.0.0.1", "localhost"} else ""
        Address.parse(f"http://{parts.netloc}")  # refuses what is no port
        self._api = _Api(f"http://{parts.netloc if parts.port else f'{parts.netloc}:8265'}")

    async def _told(self) -> AsyncGenerator[frozenset[str], None]:
        told = await self._api.json("/api/serve/applications/")
        yield frozenset(
            _url(self._local or target["ip"], target["port"], group["route_prefix"])
            for group in told["target_groups"]
            if group["app_name"] == self._app and group["protocol"] == "HTTP"
            for target in group["targets"]
            if target["name"].startswith("SERVE_REPLICA::")  # the others are proxies
        )


class _Api:
    """A server that answers JSON, called with a token."""

    def __init__(self, url: str, account: Path | None = None) -> None:
        self._account = account
        tls = None
        if account is not None and url.startswith("https:"):
            tls = ssl.create_default_context(cafile=account / "ca.crt")
        self._connections = Connections(Address.parse(url), _ANSWER_S, tls=tls)

    async def json(self, path: str) -> Any:
        """Return a whole answer; raises what `pieces` does, and ValueError."""
        return json.loads(await joined(self.pieces(path, _ANSWER_S), _ANSWER_BYTES))

    async def pieces(self, path: str, silence_s: float) -> AsyncGenerator[bytes, None]:
        """Yield the body of an answer as it arrives, or raise ServiceError or TimeoutError."""
        headers = [(b"accept", b"application/json")]
        if token := self._token():
            headers.append((b"authorization", b"Bearer " + token.encode()))
        connection = await Call(b"GET", path.encode(), headers).sent(self._connections, _ANSWER_S)
        try:
            if connection.status != HTTPStatus.OK:
                raise BackendError(f"status {connection.status}")
            async with aclosing(connection.pieces(silence_s)) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            connection.abort()

    def _token(self) -> str:
        """Return the current token: Kubernetes replaces it every hour."""
        if self._account is None and (token := os.environ.get("RAY_AUTH_TOKEN")):
            return token
        of_ray = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", os.devnull))
        with suppress(FileNotFoundError):
            return (self._account / "token" if self._account else of_ray).read_text().strip()
        return ""


def _in_cluster() -> str:
    """Return the URL of the API of the cluster that this pod runs in."""
    host, port = (os.environ.get(f"KUBERNETES_SERVICE_{one}") for one in ("HOST", "PORT"))
    if not host or not port:
        raise BackendError("this process runs in no pod")
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


async def _lines(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    rest = b""
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.strip():
                yield line


def source_of(given: str) -> Source | None:
    """Return the source that `given` names; None if it is a backend's own URL.

    ConfigurationError if it is neither.
    """
    kinds: dict[str, Callable[[str], Source]] = {"dns": Dns, "k8s": Kubernetes, "ray": RayServe}
    if kind := kinds.get(given.partition("://")[0]):
        return kind(given)
    if Address.parse(given).prefix:
        raise ConfigurationError(f"backend {given!r} has a path; leave it out.")
    return None


def _url(host: str, port: int, prefix: str = "") -> str:
    """Return the URL of a backend; ConfigurationError if it cannot be one."""
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    url += prefix.rstrip("/")
    Address.parse(url)
    return url
