from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest
from pydantic import SecretStr

from services.server.origins import Callers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

PAGE = "https://page.example"
CHAT = "/v1/chat/completions"
KEYS = SecretStr("anna:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b")
PREFLIGHT = {
    "origin": PAGE,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-lang",
}


@pytest.fixture
async def http(
    backend: Any, door: Any
) -> AsyncIterator[Callable[..., Awaitable[httpx.AsyncClient]]]:
    """Return `await http(origins)`: a client of a door that lets these origins in."""
    clients = []

    async def start(*origins: str) -> httpx.AsyncClient:
        chat = await backend()
        front = await door(chat=[chat.url], keys=KEYS, wrap=Callers(origins).around)
        clients.append(httpx.AsyncClient(base_url=front.url))
        return clients[-1]

    yield start
    for one in clients:
        await one.aclose()


async def test_a_preflight_needs_no_key(http: Any) -> None:
    response = await (await http(PAGE)).options(CHAT, headers=PREFLIGHT)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == PAGE
    assert "POST" in response.headers["access-control-allow-methods"]
    allowed = response.headers["access-control-allow-headers"]
    assert all(name in allowed for name in ("authorization", "content-type", "x-stainless-lang"))
    assert "access-control-allow-credentials" not in response.headers


async def test_another_origin_is_not_let_in(http: Any) -> None:
    client = await http(PAGE)
    response = await client.options(CHAT, headers={**PREFLIGHT, "origin": "https://evil.example"})
    assert response.status_code == 400
    assert "access-control-allow-origin" not in response.headers


async def test_answers_and_errors_show_their_headers_to_the_page(http: Any) -> None:
    client = await http(PAGE)
    with_key = {"origin": PAGE, "authorization": "Bearer secret"}
    answer = await client.post(CHAT, content=b"{}", headers=with_key)
    refusal = await client.post(CHAT, content=b"{}", headers={"origin": PAGE})
    assert (answer.status_code, answer.content, refusal.status_code) == (200, b"hello", 401)
    for response in (answer, refusal):
        assert response.headers["access-control-allow-origin"] == PAGE
        exposed = response.headers["access-control-expose-headers"].split(", ")
        assert {"x-request-id", "retry-after", "retry-after-ms"} <= set(exposed)
        assert {name for name in response.headers if name.startswith("x-ratelimit")} <= set(exposed)


async def test_a_star_lets_every_page_in(http: Any) -> None:
    response = await (await http("*")).options(CHAT, headers=PREFLIGHT)
    assert response.headers["access-control-allow-origin"] == "*"


async def test_without_origins_a_preflight_is_405_and_nothing_is_allowed(http: Any) -> None:
    response = await (await http()).options(CHAT, headers=PREFLIGHT)
    assert response.status_code == 405
    assert "access-control-allow-origin" not in response.headers


async def test_the_setting_decides(backend: Any, door: Any) -> None:
    chat = await backend()
    closed = await door(chat=[chat.url])
    opened = await door(chat=[chat.url], cors_origins=[PAGE])
    assert closed.shell.app.callers.around(closed.shell) is closed.shell
    assert opened.shell.app.callers.around(opened.shell) is not opened.shell


async def test_a_page_that_is_let_in_reaches_a_backend_and_no_other_does(
    backend: Any, door: Any
) -> None:
    speech = await backend()
    front = await door(speech=[speech.url], cors_origins=[PAGE])
    async with httpx.AsyncClient(base_url=front.url) as client:
        for origin, status in [(PAGE, 200), (front.url, 200), ("https://evil.example", 403)]:
            answer = await client.post(
                "/v1/audio/voice_consents", files={"recording": b"RIFF"}, headers={"origin": origin}
            )
            assert answer.status_code == status
    assert len(speech.requests) == 2
    assert not any(request.all("origin") for request in speech.requests)
