from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from pydantic import SecretStr

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

FOLDER = Path(__file__).parents[3] / "services" / "gateway" / "playground"
KEYS = SecretStr("anna:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b")


@pytest.fixture
async def http(backend: Any, door: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Return a client of a door that asks for keys, and has none."""
    chat = await backend()
    front = await door(chat=[chat.url], keys=KEYS)
    async with httpx.AsyncClient(base_url=front.url) as client:
        yield client


@pytest.mark.parametrize("path", ["/", "/playground"])
async def test_the_way_to_the_page_is_relative(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.get(path)
    assert (answer.status_code, answer.headers["location"]) == (307, "playground/")


async def test_the_page_and_its_files_need_no_key_and_what_they_ask_for_does(
    http: httpx.AsyncClient,
) -> None:
    page = await http.get("/playground/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.text == (FOLDER / "index.html").read_text(encoding="utf-8")
    for path in FOLDER.iterdir():
        answer = await http.get(f"/playground/{path.name}")
        assert answer.content == path.read_bytes()
    assert (await http.get("/v1/models")).status_code == 401


async def test_its_files_are_those_that_are_there(http: httpx.AsyncClient) -> None:
    for name in ("missing.js", "..%2fkeys.py", "%2e%2e/keys.py", "style.css/more"):
        answer = await http.get(f"/playground/{name}")
        assert answer.json()["error"]["code"] == "unknown_url"
    assert (await http.post("/playground/")).status_code == 405


async def test_head_has_the_headers_alone(http: httpx.AsyncClient) -> None:
    answer, whole = await http.head("/playground/"), await http.get("/playground/")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == str(len(whole.content))


async def test_what_a_browser_has_is_not_sent_again(http: httpx.AsyncClient) -> None:
    tag = (await http.get("/playground/style.css")).headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}'):
        answer = await http.get("/playground/style.css", headers={"if-none-match": known})
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == tag
    other = await http.get("/playground/style.css", headers={"if-none-match": '"other"'})
    assert other.status_code == 200


async def test_nothing_inline_or_from_elsewhere_may_run(http: httpx.AsyncClient) -> None:
    policy = (await http.get("/playground/")).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    for path in FOLDER.iterdir():
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"style=|<script>|\son\w+=\"", text), path.name
        assert set(re.findall(r"https?://[\w./]+", text)) <= {
            "http://www.w3.org/2000/svg",
            "http://localhost",
        }


async def test_a_setting_turns_it_off(backend: Any, door: Any) -> None:
    chat = await backend()
    front = await door(chat=[chat.url], playground=False)
    async with httpx.AsyncClient(base_url=front.url) as client:
        for path in ("/", "/playground/", "/playground/app.js"):
            assert (await client.get(path)).status_code == 404
