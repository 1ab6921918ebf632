from __future__ import annotations

import socket
from typing import Any

import pytest

from services.errors import PermissionDeniedError
from services.server.origins import Callers


def scope(method: str = "POST", host: str = "localhost:3000", origin: str | None = None) -> Any:
    headers = [(b"host", host.encode())] if host else []
    if origin is not None:
        headers.append((b"origin", origin.encode()))
    kind = {"type": "websocket"} if method == "WS" else {"type": "http", "method": method}
    return {**kind, "headers": headers}


def code(callers: Callers, given: Any, *hosts: str) -> str | None:
    try:
        callers.check(given, hosts)
    except PermissionDeniedError as error:
        return error.code
    return None


@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT", "PATCH", "WS"])
@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:3001", "x"])
def test_a_page_of_another_origin_changes_nothing(method: str, origin: str) -> None:
    assert code(Callers(), scope(method, origin=origin)) == "origin_not_allowed"


@pytest.mark.parametrize("method", ["POST", "DELETE", "WS"])
def test_its_own_pages_those_that_are_allowed_and_no_pages_may(method: str) -> None:
    page = "https://page.example"
    assert code(Callers(), scope(method, "LOCALHOST:3000", "http://localhost:3000")) is None
    assert code(Callers((page,)), scope(method, origin=page)) is None
    assert code(Callers(("*",)), scope(method, origin=page)) is None
    assert code(Callers(), scope(method)) is None


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_what_changes_nothing_is_left_to_the_browser(method: str) -> None:
    assert code(Callers(), scope(method, origin="https://evil.example")) is None


NAMES = [
    "localhost", "127.0.0.1", "192.168.1.9:3000", "[::1]:3000", "[fd00::1]", "speech:3000",
    "a.localhost", "nas.local", "api.internal", "speech.voices.svc", "nas.lan",
    "speech.voices.svc.cluster.local:3000", "localhost.", socket.gethostname(), "",
]  # fmt: skip


@pytest.mark.parametrize("host", NAMES)
def test_an_address_and_a_name_that_nobody_can_register_are_answered(host: str) -> None:
    assert code(Callers(), scope("GET", host)) is None


@pytest.mark.parametrize("host", ["rebound.example", "rebound.example:3000", "localhost.example"])
@pytest.mark.parametrize("method", ["GET", "POST", "WS"])
def test_a_public_name_is_answered_once_it_is_in_the_setting(method: str, host: str) -> None:
    given = scope(method, host, f"http://{host}")  # of the same origin, as after a rebinding
    assert code(Callers(), given) == "host_not_allowed"
    assert code(Callers(("*",)), given) == "host_not_allowed"
    name = host.partition(":")[0]
    assert code(Callers(), given, "other.example", name.upper()) is None
    assert code(Callers(), given, "*") is None


def test_the_refusal_names_the_setting_and_is_short() -> None:
    with pytest.raises(PermissionDeniedError, match=r"'api\.example'.* BENTOVOX_HOSTS"):
        Callers().check(scope("GET", "api.example"), ())
    with pytest.raises(PermissionDeniedError, match="BENTOVOX_GATEWAY__CORS_ORIGINS") as refused:
        Callers().check(scope(origin="https://" + "x" * 10_000), ())
    assert len(refused.value.message) < 400


def test_where_a_key_is_asked_for_it_is_what_counts() -> None:
    keyed = Callers(keyed=True)
    for method in ("GET", "POST", "DELETE"):
        assert code(keyed, scope(method, "api.example", "app://some.editor")) is None
    assert code(keyed, scope("WS", "api.example", "https://evil.example")) == "origin_not_allowed"
    assert code(keyed, scope("WS", "api.example", "https://api.example")) is None
