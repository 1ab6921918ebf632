"""The configuration of /v1/realtime sessions, and the client's messages."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from services.errors import InvalidRequestError
from services.openai.realtime import AUDIO_CHARACTERS
from services.server.admission import Limits
from tests.fakes.transcription_engine import FakeEngine
from tests.hearing_app import said
from tests.live_app import (
    MANUAL,
    PATH,
    QUIET,
    RATE_HZ,
    TEXT,
    VAD_TURN,
    Served,
    Talk,
    of_turn,
    session_of,
    spoken,
)
from tests.sounds import to_bytes

# The session


async def test_a_session_is_shown_as_it_is_set(served: Any) -> None:
    role = await served()
    url = role.url.replace("http", "ws") + PATH
    async with connect(url, proxy=None) as connection:
        session = (await Talk(connection).event("session.created"))["session"]
    assert session.pop("id").startswith("sess_")
    assert session == {
        "object": "realtime.transcription_session",
        "type": "transcription",
        "audio": {
            "input": {
                "format": {"type": "audio/pcm", "rate": 24_000},
                "transcription": {"model": "fake", "language": None, "prompt": ""},
                "noise_reduction": None,
                "turn_detection": {
                    "type": "server_vad",
                    "threshold": 0.5,
                    "prefix_padding_ms": 300,
                    "silence_duration_ms": 500,
                },
            }
        },
        "include": None,
    }


async def test_an_update_changes_what_it_names_and_nothing_else(served: Any) -> None:
    role = await served()
    async with role.talk() as talk:
        transcription = {"model": "whisper-1", "language": "de-AT", "prompt": "Namen: Anna"}
        await talk.configure(transcription=transcription, include=[])
        await talk.configure(turn_detection={"type": "server_vad", "silence_duration_ms": 200})
        event = await talk.configure(format={"type": "audio/pcmu"}, noise_reduction=None)
        shown = event["session"]["audio"]["input"]
        assert shown["transcription"] == {**transcription, "language": "de"}
        assert shown["turn_detection"]["silence_duration_ms"] == 200
        assert shown["turn_detection"]["prefix_padding_ms"] == 300
        assert shown["format"] == {"type": "audio/pcmu"}
        await talk.configure(format={"type": "audio/pcm"})
        await talk.speak(spoken(TEXT))
        await talk.until("completed")
    assert {one.language for one in role.engine.requests} == {"de"}
    assert {one.prompt for one in role.engine.requests} == {"Namen: Anna"}


async def test_an_update_counts_for_a_turn_in_which_nobody_has_spoken_yet(served: Any) -> None:
    role = await served()
    async with role.talk(**MANUAL) as talk:
        await talk.speak(QUIET)
        await talk.configure(transcription={"language": "de"})
        await talk.speak(to_bytes(said("hallo", RATE_HZ)))
        await talk.say("input_audio_buffer.commit")
        await talk.until("completed")
    assert {one.language for one in role.engine.requests} == {"de"}


async def test_times_are_those_of_the_sessions_sound_whatever_finds_turns(served: Any) -> None:
    role = await served()
    async with role.talk(**MANUAL) as talk:
        await talk.speak(QUIET)
        await talk.configure(turn_detection={"type": "server_vad"})
        await talk.speak(spoken("ok"))
        events = await talk.until("completed")
    assert events[0]["audio_start_ms"] == pytest.approx(800 + 500, abs=32)
    assert events[1]["audio_end_ms"] == pytest.approx(800 + 1536, abs=32)


async def test_sound_that_came_before_the_update_is_not_lost(served: Any) -> None:
    role = await served()
    async with role.talk() as talk:  # a client that speaks first and says later that it commits
        await talk.speak(to_bytes(said("|" * 8 + "abcdefgh", RATE_HZ)))
        await talk.event(VAD_TURN[0])
        await talk.configure(**MANUAL)
        await talk.speak(to_bytes(said("ijklmnop", RATE_HZ)))
        await talk.say("input_audio_buffer.commit")
        events = await talk.until("completed")
        assert of_turn(events) == VAD_TURN[2:]
        assert events[-1]["transcript"] == "abcdefghijklmnop"
        await talk.speak(to_bytes(said("qrst|||", RATE_HZ)))
        await talk.say("session.update", session=session_of(turn_detection={"type": "server_vad"}))
        events = await talk.until("completed")
        assert events[-1]["transcript"] == "qrst"


async def test_a_client_of_the_beta_is_told_the_way(served: Any) -> None:
    async with (await served()).talk() as talk:
        session = {"input_audio_format": "pcm16"}
        await talk.say("transcription_session.update", session=session, event_id="mine")
        error = (await talk.event("error"))["error"]
        assert (error["param"], error["event_id"]) == ("type", "mine")
        assert "session.update" in error["message"].split("send ")[1]
        await talk.say("session.update", session=session_of(turn_detection=None))
        await talk.event("session.updated")


VAD = {"type": "server_vad"}


@pytest.mark.parametrize(
    ("session", "param", "code"),
    [
        ({"type": "realtime"}, "type", "unsupported_value"),
        ({}, "type", "missing_required_parameter"),
        ({"type": "transcription", "includes": []}, "includes", "unknown_parameter"),
        ({"type": "transcription", "include": ["words"]}, "include.0", "invalid_value"),
    ],
)
async def test_a_session_of_another_kind_is_refused(
    served: Any, session: dict[str, Any], param: str, code: str
) -> None:
    async with (await served()).talk() as talk:
        await talk.say("session.update", session=session)
        assert await talk.fault() == (f"session.{param}", code)


@pytest.mark.parametrize(
    ("field", "value", "param", "code"),
    [
        ("formats", 1, "", "unknown_parameter"),
        ("turn_detection", {"type": "semantic_vad"}, ".type", "unsupported_value"),
        ("turn_detection", {**VAD, "threshold": 2}, ".threshold", "decimal_above_max_value"),
        ("format", {"type": "audio/opus"}, ".type", "invalid_value"),
        ("format", {"type": "audio/pcm", "rate": 16000}, ".rate", "invalid_value"),
        ("format", {"type": "audio/pcmu", "rate": 24000}, ".rate", "unsupported_parameter"),
        ("transcription", None, "", "unsupported_value"),
        ("transcription", {"model": "gpt-5"}, ".model", "model_not_found"),
        ("transcription", {"language": "tlh"}, ".language", "unsupported_language"),
        ("transcription", {"language": "?"}, ".language", "invalid_value"),
        ("transcription", {"languages": ["en", "xx"]}, ".languages", "unsupported_language"),
        ("transcription", {"language": "en", "languages": ["de"]}, ".languages", "invalid_value"),
        ("transcription", {"prompt": "x" * 4097}, ".prompt", "string_above_max_length"),
        ("transcription", {"model": "gpt-4o-transcribe-diarize"}, ".model", "unsupported_value"),
    ],
)
async def test_what_is_not_offered_is_refused_by_its_name(
    served: Any, field: str, value: Any, param: str, code: str
) -> None:
    role = await served()
    async with role.talk() as talk:
        session = session_of(**{field: value})
        await talk.say("session.update", session=session, event_id="mine")
        error = (await talk.event("error"))["error"]
        place = f"session.audio.input.{field}{param}"
        assert (error["param"], error["code"], error["event_id"]) == (place, code, "mine")
        shown = (await talk.configure())["session"]
        assert shown["audio"]["input"]["transcription"]["model"] == "fake"
        await talk.speak(spoken("ok"))  # and the session goes on as it was
        assert (await talk.until("completed"))[-1]["transcript"] == "ok"


async def test_what_an_engine_cannot_include_is_refused_by_its_name(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    role = await served()

    def check(request: Any) -> None:
        if request.logprobs:
            raise InvalidRequestError("no tokens", param="include", code="unsupported_value")

    monkeypatch.setattr(role.engine, "check", check)
    async with role.talk() as talk:
        session = session_of(transcription={"model": "fake"})
        session["include"] = ["item.input_audio_transcription.logprobs"]
        await talk.say("session.update", session=session)
        assert await talk.fault() == ("session.include", "unsupported_value")


async def test_who_misspells_a_field_is_told_the_one_that_stands_beside_it(served: Any) -> None:
    async with (await served()).talk() as talk:
        await talk.say("session.update", session=session_of(turn_detection={**VAD, "treshold": 1}))
        error = (await talk.event("error"))["error"]
    assert error["param"] == "session.audio.input.turn_detection.treshold"
    assert "did you mean 'threshold'" in error["message"]


@pytest.mark.parametrize(
    ("fields", "ignored"),
    [
        ({"noise_reduction": {"type": "near_field"}}, "noise_reduction"),
        ({"noise_reduction": {"type": "far_field", "strength": 0.5}}, "noise_reduction"),
        ({"noise_reduction": {"strength": 1}}, "noise_reduction"),
        ({"transcription": {"delay": "low"}}, "transcription.delay"),
        ({"turn_detection": {**VAD, "create_response": True}}, "turn_detection.create_response"),
        (
            {"turn_detection": {**VAD, "interrupt_response": True}},
            "turn_detection.interrupt_response",
        ),
        ({"turn_detection": {**VAD, "idle_timeout_ms": 5000}}, "turn_detection.idle_timeout_ms"),
    ],
)
async def test_an_option_that_cannot_be_honoured_is_ignored_and_named_in_the_log(
    served: Any, caplog: pytest.LogCaptureFixture, fields: dict[str, Any], ignored: str
) -> None:
    with caplog.at_level("INFO", "bentovox"):
        async with (await served()).talk() as talk:
            shown = (await talk.configure(**fields))["session"]["audio"]["input"]
    assert f"ignored: session.audio.input.{ignored}" in caplog.text
    assert shown["noise_reduction"] is None
    assert "delay" not in shown["transcription"]
    assert shown["turn_detection"]["threshold"] == 0.5


async def test_what_is_off_is_nothing_to_ignore(
    served: Any, caplog: pytest.LogCaptureFixture
) -> None:
    turns = {**VAD, "create_response": False, "interrupt_response": False, "idle_timeout_ms": None}
    with caplog.at_level("INFO", "bentovox"):
        async with (await served()).talk() as talk:
            await talk.configure(noise_reduction=None, turn_detection=turns)
    assert "ignored" not in caplog.text


async def test_clients_of_some_models_commit_unless_they_say_otherwise(served: Any) -> None:
    role = await served()
    names = ("gpt-realtime-whisper", "gpt-live-transcribe", "gpt-realtime-whisper-2026-05-07")
    for name in names:
        async with role.talk() as talk:
            by_model = (await talk.configure(transcription={"model": name}))["session"]
            assert by_model["audio"]["input"]["turn_detection"] is None
            back = (await talk.configure(transcription={"model": "whisper-1"}))["session"]
            assert back["audio"]["input"]["turn_detection"]["type"] == "server_vad"
            named = (await talk.configure(turn_detection=VAD))["session"]
            again = (await talk.configure(transcription={"model": name}))["session"]
            assert (
                named["audio"]["input"]["turn_detection"]
                == again["audio"]["input"]["turn_detection"]
                != by_model["audio"]["input"]["turn_detection"]
            ), "what the client has said stays"
        async with role.talk(query=f"?model={name}") as talk:
            await talk.append(spoken("ok"))
            await talk.say("input_audio_buffer.commit")
            assert (await talk.until("completed"))[-1]["transcript"] == "ok"


async def test_a_language_is_known_by_its_name_too(served: Any) -> None:
    async with (await served()).talk() as talk:
        for given, code in [("English", "en"), ("en_US", "en"), ("auto", None), ("", None)]:
            shown = (await talk.configure(transcription={"language": given}))["session"]
            assert shown["audio"]["input"]["transcription"]["language"] == code
        several = (await talk.configure(transcription={"languages": ["German", "fr-CA"]}))[
            "session"
        ]
        assert several["audio"]["input"]["transcription"]["languages"] == ["de", "fr"]


async def test_silence_that_a_client_commits_is_no_text(served: Any) -> None:
    role = await served()
    async with role.talk(**MANUAL) as talk:
        await talk.append(bytes(20 * RATE_HZ * 2))
        await talk.say("input_audio_buffer.commit")
        assert (await talk.until("completed"))[-1]["transcript"] == ""
    assert role.engine.requests == []


async def test_a_field_that_nobody_knows_does_no_harm(served: Any) -> None:
    async with (await served()).talk() as talk:
        session = session_of(turn_detection={**VAD, "eager": 1, "threshold": 0.25}, volume=1)
        await talk.say("session.update", session=session)
        shown = (await talk.event("session.updated"))["session"]
    assert shown["audio"]["input"]["turn_detection"]["threshold"] == 0.25


@pytest.mark.parametrize(
    ("message", "param", "code"),
    [
        ("{", None, "invalid_json"),
        ("[" * 100_000, None, "invalid_json"),
        ("[]", None, "invalid_type"),
        (b"\x00\x01", None, "invalid_message"),
        ("{}", "type", "invalid_value"),
        ('{"type": ["session.update"]}', "type", "invalid_value"),
        ('{"type": "response.create"}', "type", "invalid_value"),
        ('{"type": "session.update"}', "session", "missing_required_parameter"),
        ('{"type": "input_audio_buffer.append"}', "audio", "missing_required_parameter"),
        ('{"type": "input_audio_buffer.append", "audio": 1}', "audio", "invalid_type"),
        ('{"type": "input_audio_buffer.append", "audio": "?"}', "audio", "invalid_base64"),
        ('{"type": "input_audio_buffer.append", "audio": "AAA"}', "audio", "invalid_base64"),
        ('{"type": "input_audio_buffer.append", "audio": "\\u00e9"}', "audio", "invalid_base64"),
        (
            '{"type": "input_audio_buffer.commit", "event_ids": "a"}',
            "event_ids",
            "unknown_parameter",
        ),
    ],
)
async def test_a_message_that_cannot_be_read_changes_nothing(
    served: Any, message: str | bytes, param: str | None, code: str
) -> None:
    role = await served()
    async with role.talk() as talk:
        speech = spoken("ok")
        await talk.speak(speech[: len(speech) // 2])
        await talk.event(VAD_TURN[0])
        await talk.connection.send(message)
        assert await talk.fault() == (param, code)
        await talk.speak(speech[len(speech) // 2 :])
        assert (await talk.until("completed"))[-1]["transcript"] == "ok"


async def test_an_append_is_bounded(served: Any) -> None:
    role = await served()
    async with role.talk() as talk:
        await talk.say("input_audio_buffer.append", audio="A" * (AUDIO_CHARACTERS + 1))
        assert await talk.fault() == ("audio", "string_above_max_length")


@pytest.mark.parametrize(
    ("query", "status", "param"),
    [("?intent=conversation", 400, "intent"), ("?model=gpt-realtime", 404, "model")],
)
async def test_an_address_for_something_else_is_refused_before_it_is_opened(
    served: Any, query: str, status: int, param: str
) -> None:
    role = await served()
    with pytest.raises(InvalidStatus) as refused:
        await connect(role.url.replace("http", "ws") + PATH + query, proxy=None)
    assert refused.value.response.status_code == status
    assert json.loads(refused.value.response.body or b"")["error"]["param"] == param


async def test_a_browser_hears_its_subprotocol_back(served: Any) -> None:
    role = await served()
    url = role.url.replace("http", "ws") + PATH + "?model=whisper-1"
    offered: Any = ["realtime", "openai-insecure-api-key.none"]
    async with connect(url, proxy=None, subprotocols=offered) as connection:
        assert connection.subprotocol == "realtime"
        session = (await Talk(connection).event("session.created"))["session"]
    assert session["audio"]["input"]["transcription"]["model"] == "whisper-1"


# Whatever is sent

_TEXT = st.text(st.characters(categories=["L", "N", "P", "Z", "Cc", "Cs"]), max_size=20)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=6,
)
_INPUT = st.dictionaries(
    st.sampled_from(["format", "transcription", "turn_detection", "noise_reduction", "x"]),
    _JSON
    | st.sampled_from([{"type": "audio/pcmu"}, {"type": "server_vad"}, {"model": "fake"}, None]),
)
_UPDATES = st.builds(
    lambda fields: {"type": "session.update", "session": session_of(**fields)}, _INPUT
)
_SOUND = to_bytes(said("|ab|", RATE_HZ))
_AUDIO = st.sampled_from([b"", b"\x01", _SOUND, _SOUND * 30]).map(
    lambda data: {"type": "input_audio_buffer.append", "audio": base64.b64encode(data).decode()}
)
_BARE = st.sampled_from(["commit", "clear", "append"]).map(
    lambda kind: {"type": f"input_audio_buffer.{kind}"}
)
_ODD = st.builds(
    lambda kind, fields: {**fields, "type": kind},
    st.sampled_from(
        ["session.update", "transcription_session.update", "input_audio_buffer.append", "other"]
    ),
    st.dictionaries(_TEXT | st.sampled_from(["session", "audio", "event_id"]), _JSON, max_size=3),
)
_SAID = (
    st.binary(max_size=40)
    | st.text(max_size=40)
    | (_UPDATES | _AUDIO | _BARE | _ODD | _JSON).map(json.dumps)
)


@settings(max_examples=80, deadline=None)
@given(said_=st.lists(_SAID, max_size=10))
def test_no_message_breaks_the_server(said_: list[str | bytes]) -> None:
    asyncio.run(_survives(said_))


async def _survives(said_: list[str | bytes]) -> None:
    """Say all of it to a session without a network: it answers each, and ends as it should."""
    engine = FakeEngine()
    await engine.start()
    heard: list[Any] = []
    answered = asyncio.Event()
    messages: asyncio.Queue[Any] = asyncio.Queue()
    messages.put_nowait({"type": "websocket.connect"})
    for one in [*said_, json.dumps({"type": "last", "event_id": "last"})]:
        kind = "bytes" if isinstance(one, bytes) else "text"
        messages.put_nowait({"type": "websocket.receive", kind: one})

    async def send(message: Any) -> None:
        if message["type"] == "websocket.send":
            message["text"].encode()
            if json.loads(message["text"]).get("error", {}).get("event_id") == "last":
                answered.set()
        heard.append(message)

    scope = {
        "type": "websocket", "path": PATH, "headers": [], "subprotocols": [], "extensions": {},
    }  # fmt: skip
    role = Served(engine, Limits(1, 1, 30))
    serving = asyncio.create_task(role.shell(scope, messages.get, send))
    async with asyncio.timeout(5):
        await answered.wait()
        messages.put_nowait({"type": "websocket.disconnect", "code": 1001})
        await serving
    events = [json.loads(one["text"]) for one in heard if one["type"] == "websocket.send"]
    assert all(one["error"]["code"] != "internal_error" for one in events if "error" in one)
    assert (engine.active, role.shell.admission.in_use) == (0, 0)
    by_item: dict[str, str] = {}
    for event in events:
        if event["type"].endswith("transcription.delta"):
            by_item[event["item_id"]] = by_item.get(event["item_id"], "") + event["delta"]
        if event["type"].endswith("transcription.completed"):
            assert by_item.get(event["item_id"], "") == event["transcript"]
