"""POST /v1/realtime/client_secrets, and sessions that are opened with one."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from pydantic import SecretStr
from websockets.exceptions import InvalidStatus

from services.gateway import keys
from tests.talking_app import Rig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PATH = "/v1/realtime/client_secrets"
KEY = "sk-made-for-the-test"


def line(key: str) -> SecretStr:
    return SecretStr(f"anna:{hashlib.sha256(key.encode()).hexdigest()}")


@pytest.fixture
async def rig(serve: Any, door: Any) -> AsyncIterator[Rig]:
    one = Rig()
    await one.start(serve, door, {"keys": line(KEY)})
    yield one
    one.chat.free.set()


async def asked(rig: Rig, body: Any, key: str = KEY, path: str = PATH) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=rig.door.url, trust_env=False) as client:
        return await client.post(path, json=body, headers=headers)


async def secret(rig: Rig, **session: Any) -> str:
    response = await asked(rig, {"session": session} if session else {})
    assert response.status_code == 200, response.text
    value: str = response.json()["value"]
    return value


async def refused(rig: Rig, key: str) -> int:
    with pytest.raises(InvalidStatus) as error:
        async with rig.talk(key=key):
            pass
    return error.value.response.status_code


async def test_a_session_begins_with_the_secrets_settings(rig: Rig) -> None:
    told = {"type": "realtime", "output_modalities": ["text"], "instructions": "Be brief."}
    async with rig.talk(key=await secret(rig, **told)) as talk:
        updated = (await talk.event("session.updated"))["session"]
        assert {name: updated[name] for name in told} == told


async def test_a_secret_may_be_for_transcription(rig: Rig) -> None:
    value = await secret(rig, type="transcription", audio={"input": {"turn_detection": None}})
    async with rig.talk("", key=value) as talk:
        updated = (await talk.event("session.updated"))["session"]
        assert updated["type"] == "transcription"
        assert updated["audio"]["input"]["turn_detection"] is None


async def test_a_secret_is_for_one_kind_of_session(rig: Rig) -> None:
    of_talks = await secret(rig)
    path = "/v1/realtime/translations/client_secrets"
    session = {"model": "gpt-realtime-translate", "audio": {"output": {"language": "de"}}}
    made = (await asked(rig, {"session": session}, path=path)).json()
    assert made["session"].items() >= {"type": "translation", **session}.items()
    assert await refused(rig, made["value"]) == 401
    rig.url = rig.url.replace("realtime", "realtime/translations")
    assert await refused(rig, of_talks) == 401
    async with rig.talk("", key=made["value"]) as talk:
        updated = (await talk.event("session.updated"))["session"]
        assert updated["audio"]["output"]["language"] == "de"
    wrong = await asked(rig, {"session": {"type": "realtime"}}, path=path)
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "session.type")


async def test_a_secret_expires(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    response = await asked(rig, {"expires_after": {"anchor": "created_at", "seconds": 10}})
    made = response.json()
    monkeypatch.setattr(keys.time, "time", lambda: made["expires_at"] - 1)
    async with rig.talk(key=made["value"]):
        pass
    monkeypatch.setattr(keys.time, "time", lambda: made["expires_at"])
    assert await refused(rig, made["value"]) == 401


async def test_a_changed_secret_opens_nothing(rig: Rig) -> None:
    value = await secret(rig)
    for other in (value[:-8] + "AAAAAAAA", value[:40], "ek_", "ek_x"):
        assert await refused(rig, other) == 401


async def test_a_secret_opens_nothing_else(rig: Rig) -> None:
    value = await secret(rig)
    assert (await asked(rig, {}, key=value)).status_code == 401
    assert (await asked(rig, {}, key="sk-unknown")).status_code == 401


async def test_servers_with_the_same_keys_accept_each_others(
    rig: Rig, serve: Any, door: Any
) -> None:
    value = await secret(rig)
    for key, accepted in ((KEY, True), ("sk-another", False)):
        other = Rig()
        await other.start(serve, door, {"keys": line(key)})
        if accepted:
            async with other.talk(key=value):
                pass
        else:
            assert await refused(other, value) == 401


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"expires_after": {"seconds": 5}}, 400, "expires_after.seconds"),
        ({"session": "realtime"}, 400, "session"),
        ({"session": {"type": "translation"}}, 400, "session.type"),
        ({"session": {"type": []}}, 400, "session.type"),
        ({"session": {"instructions": "x" * 5000}}, 413, "session"),
    ],
)
async def test_what_is_wrong_is_named(rig: Rig, body: Any, status: int, param: str) -> None:
    response = await asked(rig, body)
    assert (response.status_code, response.json()["error"]["param"]) == (status, param)
