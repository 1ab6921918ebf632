"""Live conversations through the gateway: the audio roles' real sockets, and fake engines."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import AsyncMock

import numpy as np
import pytest
from websockets.exceptions import InvalidStatus

from services.audio.decode import LiveDecoder
from services.conversation.live import items as kept
from services.conversation.live import socket
from services.conversation.live.ear import Ear
from services.conversation.live.items import Clause, Item, Items, messages_of
from services.conversation.speech_translation.stages import is_whole
from services.errors import BackendError, InvalidRequestError
from services.openai.realtime import InputFields
from services.transcription.engines.protocol import SAMPLE_RATE_HZ
from tests.fakes.transcription_engine import _characters
from tests.live_app import spoken, until
from tests.talking_app import MODEL, WAIT, Rig, called

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from services.audio.formats import LiveFormat
    from services.errors import ServiceError
    from tests.live_app import Talk

TEXT = {"output_modalities": ["text"]}
MANUAL = {"input": {"turn_detection": None}}


@pytest.fixture
async def rig(serve: Any, door: Any) -> AsyncIterator[Callable[..., Awaitable[Rig]]]:
    rigs: list[Rig] = []

    async def start(**rules: Any) -> Rig:
        rigs.append(Rig())
        await rigs[-1].start(serve, door, **rules)
        return rigs[-1]

    yield start
    for one in rigs:
        one.chat.free.set()


def message(text: str, role: str = "user", **more: Any) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}], **more}


async def add(talk: Talk, item: dict[str, Any], **more: Any) -> dict[str, Any]:
    await talk.say("conversation.item.create", item=item, **more)
    added = await talk.event("conversation.item.added")
    await talk.event("conversation.item.done")
    return added


async def ask(talk: Talk, text: str, **response: Any) -> list[dict[str, Any]]:
    """Say a text; return the events of the response."""
    await add(talk, message(text))
    await talk.say("response.create", **({"response": response} if response else {}))
    return await talk.until("response.done")


def short(events: list[dict[str, Any]]) -> list[str]:
    """Return the types, each run of equal ones once."""
    kinds = [event["type"] for event in events]
    return [one for place, one in enumerate(kinds) if kinds[place - 1 : place] != [one]]


def told(events: list[dict[str, Any]], kind: str) -> str:
    return "".join(one["delta"] for one in events if one["type"] == f"response.{kind}.delta")


def heard(events: list[dict[str, Any]], live_format: LiveFormat = "audio/pcm") -> str:
    """Return what the fake ear hears in the audio."""
    sound = [one["delta"] for one in events if one["type"] == "response.output_audio.delta"]
    decoder = LiveDecoder(live_format, SAMPLE_RATE_HZ)
    samples = np.concatenate(
        [decoder.feed(b"".join(map(base64.b64decode, sound))), decoder.finish()]
    )
    return "".join(one or " " for one in _characters([samples])).strip()


def done(events: list[dict[str, Any]]) -> dict[str, Any]:
    assert events[-1]["type"] == "response.done", events[-1]
    response: dict[str, Any] = events[-1]["response"]
    return response


# Text and audio


async def test_text_in_text_out(rig: Any) -> None:
    one = await rig()
    async with one.talk(**TEXT, instructions="Be brief.") as talk:
        events = await ask(talk, "hello there")
    assert short(events) == [
        "response.created",
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "conversation.item.done",
        "response.done",
    ]
    assert told(events, "output_text") == "hello there"
    response = done(events)
    assert response["status"] == "completed"
    assert response["output"][0]["content"] == [{"type": "output_text", "text": "hello there"}]
    assert response["usage"]["input_tokens"] == 7
    assert response["usage"]["input_token_details"]["cached_tokens"] == 2
    assert response["usage"]["output_tokens"] == 3
    (body,) = one.chat.asked
    assert body["model"] == MODEL
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hello there"},
    ]


async def test_audio_comes_with_its_transcript(rig: Any) -> None:
    one = await rig()
    async with one.talk() as talk:
        events = await ask(talk, "hello there, how are you")
    assert [one["error"] for one in events if one["type"] == "error"] == []
    assert short(events)[3:9] == [
        "response.content_part.added",
        "response.output_audio_transcript.delta",
        "response.output_audio.delta",
        "response.output_audio_transcript.delta",
        "response.output_audio.delta",
        "response.output_audio.done",
    ]
    assert told(events, "output_audio_transcript") == "hello there, how are you"
    assert heard(events).replace(",", "l") == "hello therelhow are you"
    (part,) = done(events)["output"][0]["content"]
    assert part == {"type": "output_audio", "transcript": "hello there, how are you"}


@pytest.mark.parametrize("live_format", ["audio/pcmu", "audio/pcma"])
async def test_telephones_hear_the_answer(rig: Any, live_format: LiveFormat) -> None:
    one = await rig()
    async with one.talk(audio={"output": {"format": {"type": live_format}}}) as talk:
        events = await ask(talk, "hello")
    assert heard(events, live_format) == "hello"


async def test_the_first_clause_is_heard_before_the_model_has_ended(rig: Any) -> None:
    one = await rig()
    one.chat.say = lambda _: ["hello there, ", "how ", WAIT, "are you"]
    async with one.talk() as talk:
        await add(talk, message("hi"))
        await talk.say("response.create")
        events = await talk.until("output_audio.delta")
        one.chat.free.set()
        events += await talk.until("response.done")
    assert told(events, "output_audio_transcript") == "hello there, how are you"


async def test_the_voice_is_the_sessions(rig: Any) -> None:
    one = await rig()
    async with one.talk(audio={"output": {"voice": "echo", "speed": 1.5}}) as talk:
        await ask(talk, "hello")
    assert (one.voice.requests[-1].voice, one.voice.requests[-1].speed) == ("echo", 1.5)


# Audio in


async def test_a_turn_is_heard_and_answered(rig: Any) -> None:
    one = await rig()
    async with one.talk(audio={"input": {"transcription": {"model": "whisper-1"}}}) as talk:
        await talk.speak(spoken("hello there"))
        events = await talk.until("response.done")
    told_ = [one for one in events if not one["type"].endswith(".delta")]
    kinds = [one for one in short(told_) if not one.startswith("response.")]
    assert kinds[:5] == [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
    ]
    (transcript,) = [one for one in events if one["type"].endswith("transcription.completed")]
    assert transcript["transcript"].strip() == "hello there"
    assert one.chat.asked[0]["messages"][-1]["content"].strip() == "hello there"
    assert heard(events) == "hello there"


async def test_what_was_said_is_told_only_if_it_is_asked_for(rig: Any) -> None:
    one = await rig()
    async with one.talk(**TEXT) as talk:
        await talk.speak(spoken("hello"))
        events = await talk.until("response.done")
    assert not [one for one in events if "transcription" in one["type"]]
    assert told(events, "output_text").strip() == "hello"


async def test_a_client_that_commits_asks_for_the_answer(rig: Any) -> None:
    one = await rig()
    async with one.talk(audio=MANUAL, **TEXT) as talk:
        await talk.append(spoken("hello"))
        await talk.say("input_audio_buffer.commit")
        committed = await talk.event("input_audio_buffer.committed")
        added = await talk.event("conversation.item.added")
        assert committed["item_id"] == added["item"]["id"]
        await talk.event("conversation.item.done")
        await talk.say("response.create")
        events = await talk.until("response.done")
        assert told(events, "output_text").strip() == "hello"
        await talk.say("input_audio_buffer.commit", event_id="early")
        error = (await talk.event("error"))["error"]
        assert (error["code"], error["event_id"]) == ("input_audio_buffer_commit_empty", "early")


async def test_turns_may_wait_for_the_clients_response_create(rig: Any) -> None:
    one = await rig()
    turns = {"type": "server_vad", "create_response": False}
    async with one.talk(audio={"input": {"turn_detection": turns}}, **TEXT) as talk:
        await talk.speak(spoken("hello"))
        await talk.until("conversation.item.done")
        await talk.say("response.create")
        assert told(await talk.until("response.done"), "output_text").strip() == "hello"
    assert len(one.chat.asked) == 1


async def test_nobody_waits_for_a_turn_that_is_deleted(rig: Any) -> None:
    one = await rig()
    one.ear.delay_s = 30
    async with one.talk(audio=MANUAL, **TEXT) as talk:
        await add(talk, message("hi"))
        await talk.append(spoken("never mind"))
        await talk.say("input_audio_buffer.commit")
        events = await talk.until("conversation.item.done")
        await talk.say("response.create")
        await talk.event("response.created")
        await talk.say("conversation.item.delete", item_id=events[-1]["item"]["id"])
        assert told(await talk.until("response.done"), "output_text") == "hi"


async def test_semantic_vad_waits_for_the_rest_of_a_sentence(rig: Any) -> None:
    one = await rig()
    turns = {"type": "semantic_vad", "eagerness": "low"}
    async with one.talk(**TEXT) as talk:
        session = {"type": "realtime", "audio": {"input": {"turn_detection": turns}}}
        await talk.say("session.update", session=session)
        shown = (await talk.event("session.updated"))["session"]["audio"]["input"]
        assert shown["turn_detection"].items() >= turns.items()
        await talk.speak(spoken("hello"))
        await talk.until("response.created")
        await talk.speak(spoken("there"))
        events = await talk.until("response.done")
        assert done(events)["status_details"]["reason"] == "turn_detected"
        assert one.chat.asked == []
        await talk.until("response.created")
        await talk.say("response.cancel")
        await talk.until("response.done")
    # What ends with a mark is answered at once; so the fake ear's words would wait for seconds.
    assert is_whole("Hello there.")
    assert is_whole("\u4f60\u597d\u3002")
    assert not is_whole("Hello, I wanted to")


async def test_a_noise_is_not_answered(rig: Any) -> None:
    one = await rig()
    async with one.talk(audio=MANUAL) as talk:
        await talk.append(spoken("|" * 8))
        await talk.say("input_audio_buffer.commit")
        await talk.until("conversation.item.done")
        await talk.say("response.create")
        assert done(await talk.until("response.done"))["output"] == []
    assert one.chat.asked == []


# Interruptions


async def test_cancel_stops_the_model(rig: Any) -> None:
    one = await rig()
    one.chat.say = lambda _: ["hello ", WAIT]
    async with one.talk(**TEXT) as talk:
        await add(talk, message("hi"))
        await talk.say("response.create")
        await talk.until("output_text.delta")
        await talk.say("response.cancel")
        events = await talk.until("response.done")
        await until(lambda: one.chat.cut == 1)
        response = done(events)
        assert response["status"] == "cancelled"
        assert response["status_details"] == {"type": "cancelled", "reason": "client_cancelled"}
        assert response["output"][0]["status"] == "incomplete"
        await talk.say("response.cancel")
        error = (await talk.event("error"))["error"]
        assert (error["param"], error["code"]) == (None, "response_cancel_not_active")
        assert error["message"].startswith("Cancellation failed")  # or LiveKit takes it for worse


async def test_speech_interrupts_model_and_voice(rig: Any) -> None:
    one = await rig()
    one.voice.delay_s = 0.01
    one.chat.say = lambda _: ["hello there, ", "and so on, " * 50, WAIT]
    async with one.talk() as talk:
        await add(talk, message("hi"))
        await talk.say("response.create")
        await talk.until("output_audio.delta")
        await talk.speak(spoken("stop"))
        events = await talk.until("response.done")
        kinds = short(events)
        started = kinds.index("input_audio_buffer.speech_started")
        assert set(kinds[started:]) <= {
            "input_audio_buffer.speech_started",
            "response.output_audio.done",
            "response.output_audio_transcript.done",
            "response.content_part.done",
            "response.output_item.done",
            "conversation.item.done",
            "response.done",
        }
        response = done(events)
        assert response["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
        await until(lambda: one.chat.cut == 1 and not one.voice.active)
        one.chat.say = lambda _: ["yes"]
        answer = done(await talk.until("response.done"))
    assert answer["status"] == "completed"
    voiced = response["output"][0]["content"][0]["transcript"]
    assert voiced.startswith("hello there,")
    assert len(voiced) < 500
    told_ = [one["content"].strip() for one in one.chat.asked[-1]["messages"][1:]]
    assert told_ == ["hi", voiced.strip(), "stop"]


async def test_speech_need_not_interrupt(rig: Any) -> None:
    one = await rig()
    one.chat.say = lambda _: ["hello ", WAIT]
    turns = {"type": "server_vad", "create_response": False, "interrupt_response": False}
    async with one.talk(audio={"input": {"turn_detection": turns}}, **TEXT) as talk:
        await add(talk, message("hi"))
        await talk.say("response.create")
        await talk.until("output_text.delta")
        await talk.speak(spoken("stop"))
        await talk.until("conversation.item.done")
        one.chat.free.set()
        assert done(await talk.until("response.done"))["status"] == "completed"


LEAST = {"min_speech_duration_ms": 250}


@pytest.mark.parametrize(
    ("ours", "turns"),
    [
        (LEAST, {"type": "server_vad"}),
        (LEAST, {"type": "semantic_vad", "eagerness": "low"}),
        ({"min_speech_duration_ms": 9000}, {"type": "server_vad", **LEAST}),
    ],
)
async def test_a_short_noise_does_not_interrupt(
    rig: Any, ours: dict[str, Any], turns: dict[str, Any]
) -> None:
    one = await rig(realtime=ours)
    one.chat.say = lambda _: ["hello ", WAIT]
    async with one.talk(audio={"input": {"turn_detection": turns}}, **TEXT) as talk:
        await add(talk, message("hi"))
        await talk.say("response.create")
        await talk.until("output_text.delta")
        await talk.speak(spoken("a|||||||stop"))
        events = await talk.until("response.done")
        assert done(events)["status_details"]["reason"] == "turn_detected"
        (started,) = (one for one in events if one["type"].endswith("speech_started"))
        assert started["audio_start_ms"] == 1300  # 300 ms before the word


async def test_an_answer_is_truncated_at_what_was_heard(rig: Any) -> None:
    one = await rig()
    async with one.talk() as talk:
        answer = done(await ask(talk, "hello there, how are you"))["output"][0]
        where = {"item_id": answer["id"], "content_index": 0}
        await talk.say("conversation.item.truncate", **where, audio_end_ms=99_000)
        assert await talk.fault() == ("audio_end_ms", "invalid_value")
        await talk.say("conversation.item.truncate", **where, audio_end_ms=1700)
        told_ = await talk.event("conversation.item.truncated")
        assert (told_["item_id"], told_["audio_end_ms"]) == (answer["id"], 1700)
        await talk.say("conversation.item.retrieve", item_id=answer["id"])
        item = (await talk.event("conversation.item.retrieved"))["item"]
    assert item["content"][0]["transcript"] == "hello there, how"


async def test_clearing_the_output_stops_it(rig: Any) -> None:
    one = await rig()
    one.chat.say = lambda _: ["hello there, ", WAIT]
    async with one.talk() as talk:
        await add(talk, message("hi"))
        await talk.say("response.create")
        await talk.until("output_audio.delta")
        await talk.say("output_audio_buffer.clear")
        events = await talk.until("output_audio_buffer.cleared")
    assert events[-2]["response"]["status"] == "cancelled"
    assert events[-1]["response_id"] == events[-2]["response"]["id"]


# Tools, options, out-of-band


TOOL = {
    "type": "function",
    "name": "weather",
    "description": "Tell the weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}


async def test_functions_are_called_and_answered(rig: Any) -> None:
    one = await rig()
    one.chat.say = lambda _: called(0, "weather", '{"city": ', '"Bonn"}')
    async with one.talk(tools=[TOOL], tool_choice="required") as talk:
        events = await ask(talk, "weather?")
        (call,) = done(events)["output"]
        assert (call["type"], call["name"], call["call_id"]) == (
            "function_call", "weather", "call_0",
        )  # fmt: skip
        assert call["arguments"] == '{"city": "Bonn"}'
        assert told(events, "function_call_arguments") == call["arguments"]
        one.chat.say = lambda _: ["it rains"]
        result = {"type": "function_call_output", "call_id": "call_0", "output": "rain"}
        await add(talk, result)
        await talk.say("response.create", response={"tool_choice": "none"})
        assert heard(await talk.until("response.done")) == "it rains"
    first, second = one.chat.asked
    function = {name: value for name, value in TOOL.items() if name != "type"}
    assert first["tools"] == [{"type": "function", "function": function}]
    assert first["tool_choice"] == "required"
    assert "tools" not in second
    assert second["messages"][2]["tool_calls"][0]["function"]["arguments"] == '{"city": "Bonn"}'
    assert second["messages"][3] == {"role": "tool", "tool_call_id": "call_0", "content": "rain"}


async def test_options_reach_the_model(rig: Any) -> None:
    one = await rig()
    one.chat.finish_reason = "length"
    async with one.talk(**TEXT, max_output_tokens=50) as talk:
        choice = {"type": "function", "name": "weather"}
        response = done(
            await ask(
                talk, "hi", temperature=0.5, tools=[TOOL], tool_choice=choice, instructions="Now."
            )
        )
    (body,) = one.chat.asked
    assert (body["max_tokens"], body["temperature"]) == (50, 0.5)
    assert body["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    assert body["messages"][0]["content"] == "Now."
    assert response["status_details"] == {"type": "incomplete", "reason": "max_output_tokens"}


async def test_a_response_beside_the_conversation(rig: Any) -> None:
    one = await rig()
    async with one.talk(**TEXT) as talk:
        first = (await add(talk, message("one", id="first")))["item"]
        assert first["id"] == "first"
        await talk.say(
            "response.create",
            response={
                "conversation": "none",
                "metadata": {"topic": "test"},
                "input": [{"type": "item_reference", "id": "first"}, message("two")],
            },
        )
        events = await talk.until("response.done")
        response = done(events)
        assert (response["conversation_id"], response["metadata"]) == (None, {"topic": "test"})
        assert "conversation.item.added" not in short(events)
        assert told(events, "output_text") == "two"
        await talk.say("conversation.item.retrieve", item_id=response["output"][0]["id"])
        assert await talk.fault() == ("item_id", "item_retrieve_invalid_item_id")
    texts = [one["content"] for one in one.chat.asked[0]["messages"][1:]]
    assert texts == ["one", "two"]


async def test_one_response_at_a_time_in_the_conversation(rig: Any) -> None:
    one = await rig()
    one.chat.say = lambda _: [WAIT, "yes"]
    async with one.talk(**TEXT) as talk:
        await add(talk, message("hi"))
        await talk.say("response.create")
        await talk.event("response.created")
        await talk.say("response.create")
        assert await talk.fault() == (None, "conversation_already_has_active_response")
        one.chat.free.set()
        assert done(await talk.until("response.done"))["status"] == "completed"


async def test_four_responses_beside_the_conversation_and_no_more(rig: Any) -> None:
    one = await rig()
    one.chat.say = lambda _: [WAIT]
    async with one.talk(**TEXT) as talk:
        beside = {"conversation": "none", "input": [message("hi")]}
        for _ in range(4):
            await talk.say("response.create", response=beside)
            await talk.event("response.created")
        await talk.say("response.create", response=beside)
        assert await talk.fault() == ("response.conversation", "too_many_responses")


async def test_the_oldest_items_are_deleted_with_an_event(
    rig: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "MOST_ITEMS", 1)
    one = await rig()
    async with one.talk(**TEXT) as talk:
        await add(talk, message("one", id="first"))
        await add(talk, message("two"))
        assert (await talk.event("conversation.item.deleted"))["item_id"] == "first"


async def test_items_are_put_where_they_belong(rig: Any) -> None:
    one = await rig()
    async with one.talk(**TEXT) as talk:
        await add(talk, message("three", id="c"))
        assert (await add(talk, message("one", id="a"), previous_item_id="root"))[
            "previous_item_id"
        ] is None
        between = await add(talk, message("two", "assistant", id="b"), previous_item_id="a")
        assert between["previous_item_id"] == "a"
        await add(talk, message("gone", id="d"), previous_item_id="a")
        await talk.say("conversation.item.delete", item_id="d")
        assert (await talk.event("conversation.item.deleted"))["item_id"] == "d"
        await talk.say("conversation.item.create", item=message("two", id="b"))
        assert await talk.fault() == ("item.id", "item_create_duplicate_item_id")
        await talk.say("response.create")
        await talk.until("response.done")
    assert [one["content"] for one in one.chat.asked[0]["messages"][1:]] == ["one", "two", "three"]


async def test_what_does_not_fit_the_context_is_forgotten(rig: Any) -> None:
    one = await rig()

    def refuse(body: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        error = {"message": "too long", "type": "BadRequestError", "param": "input_tokens"}
        return (400, {**error, "code": 400}) if len(body["messages"]) > 3 else None

    one.chat.refuse = refuse
    async with one.talk(**TEXT) as talk:
        for text in ("one", "two", "three", "four"):
            await add(talk, message(text))
        await talk.say("response.create")
        assert told(await talk.until("response.done"), "output_text") == "four"
    assert [one["content"] for one in one.chat.asked[-1]["messages"][1:]] == ["three", "four"]


# Settings


async def test_a_session_with_everything_that_the_page_names(rig: Any) -> None:
    one = await rig()
    heard_by = {"model": "whisper-1", "language": "de", "prompt": "A home.", "keywords": ["Anna"]}
    sound = {
        "input": {
            "format": {"type": "audio/pcma"},
            "transcription": heard_by,
            "turn_detection": None,
            "noise_reduction": {"type": "near_field"},
        },
        "output": {"format": {"type": "audio/pcmu"}, "voice": {"id": "echo"}, "speed": 1.25},
    }
    ignored = {
        "include": ["item.input_audio_transcription.logprobs"],
        "prompt": {"id": "pmpt_1"},
        "reasoning": {"effort": "low"},
        "tracing": {"workflow_name": "x"},
        "truncation": "disabled",
    }
    more = {"tools": [TOOL], "tool_choice": "auto", "max_output_tokens": "inf", "temperature": 1.0}
    async with one.talk() as talk:
        session = {"type": "realtime", "instructions": "Be brief.", "audio": sound, **more}
        await talk.say("session.update", session={**session, **ignored})
        shown = (await talk.event("session.updated"))["session"]
        assert shown["audio"]["input"]["format"] == {"type": "audio/pcma"}
        assert shown["audio"]["input"]["transcription"].items() >= heard_by.items()
        assert shown["audio"]["input"]["turn_detection"] is None
        assert shown["audio"]["output"] == {**sound["output"], "voice": "echo"}
        assert [shown[name] for name in ("instructions", "tools", "max_output_tokens")] == [
            "Be brief.", [TOOL], "inf",
        ]  # fmt: skip
        await talk.append(bytes([*[0x2A] * 10, *[0xAA] * 10]) * 400)  # a second of a tone
        await talk.say("input_audio_buffer.commit")
        await talk.until("transcription.completed")
    request = one.ear.requests[-1]
    assert (request.language, request.keywords) == ("de", ("Anna",))


async def test_openais_names_stand_for_the_model_that_is_set(rig: Any) -> None:
    one = await rig(realtime={"model": "another"})
    with pytest.raises(InvalidStatus) as refused:
        async with one.talk("?model=gpt-realtime-2.1"):
            pass
    assert refused.value.response.status_code == 404
    async with one.talk(f"?model={MODEL}", **TEXT) as talk:
        assert done(await ask(talk, "hello"))["status"] == "completed"


# Errors and bounds


@pytest.mark.parametrize(
    ("session", "param"),
    [
        ({"audio": {"output": {"voice": "nobody"}}}, "session.audio.output.voice"),
        ({"audio": {"output": {"speed": 2.0}}}, "session.audio.output.speed"),
        (
            {"audio": {"output": {"format": {"type": "audio/mp3"}}}},
            "session.audio.output.format.type",
        ),
        (
            {"audio": {"input": {"turn_detection": {"type": "telepathy"}}}},
            "session.audio.input.turn_detection.type",
        ),
        (
            {"audio": {"input": {"turn_detection": {"type": "server_vad", "threshold": 2.0}}}},
            "session.audio.input.turn_detection.threshold",
        ),
        (
            {"audio": {"input": {"transcription": {"model": "nobody"}}}},
            "session.audio.input.transcription.model",
        ),
        ({"max_output_tokens": 5000}, "session.max_output_tokens"),
        ({"output_modalities": ["text", "audio"]}, "session.output_modalities"),
        ({"tools": [{"type": "mcp", "server_label": "x"}]}, "session.tools.0.type"),
        ({"tool_choice": "never"}, "session.tool_choice"),
        ({"temperature": 3.0}, "session.temperature"),
        ({"model": "another"}, "session.model"),
        ({"instruction": "x"}, "session.instruction"),
    ],
)  # fmt: skip
async def test_a_setting_out_of_range_is_named_and_changes_nothing(
    rig: Any, session: dict[str, Any], param: str
) -> None:
    one = await rig()
    async with one.talk(**TEXT) as talk:
        given = {"type": "realtime", "instructions": "never", **session}
        await talk.say("session.update", session=given, event_id="mine")
        error = (await talk.event("error"))["error"]
        assert (error["param"], error["event_id"]) == (param, "mine")
        assert error["type"] == "invalid_request_error"
        await talk.say("session.update", session={"type": "realtime"})
        assert (await talk.event("session.updated"))["session"]["instructions"] != "never"


@pytest.mark.parametrize(
    ("kind", "fields", "param"),
    [
        ("conversation.item.create", {"item": {"type": "message"}}, "item.role"),
        ("conversation.item.create", {"item": message("x") | {"role": "system", "content": [
            {"type": "output_text", "text": "x"}]}}, "item.content.0.type"),
        ("conversation.item.create", {"item": message("x") | {"content": [
            {"type": "input_audio", "audio": "AAAA"}]}}, "item.content.0.audio"),
        ("conversation.item.create", {"item": {"type": "function_call_output", "output": ""}},
         "item.call_id"),
        ("conversation.item.create", {"item": message("x"), "previous_item_id": "no"},
         "previous_item_id"),
        ("conversation.item.delete", {"item_id": "no"}, "item_id"),
        ("conversation.item.truncate", {"item_id": "no", "audio_end_ms": 0}, "item_id"),
        ("response.create", {"response": {"input": [{"type": "item_reference", "id": "no"}]}},
         "response.input.0.id"),
        ("response.cancel", {"response_id": "no"}, "response_id"),
        ("response.begin", {}, "type"),
    ],
)  # fmt: skip
async def test_a_mistake_is_named_and_the_session_goes_on(
    rig: Any, kind: str, fields: dict[str, Any], param: str
) -> None:
    one = await rig()
    async with one.talk(**TEXT) as talk:
        await talk.say(kind, **fields)
        assert (await talk.fault())[0] == param
        assert done(await ask(talk, "hello"))["status"] == "completed"


async def test_an_engine_that_fails_ends_the_response_and_not_the_session(rig: Any) -> None:
    one = await rig()
    async with one.talk() as talk:
        events = await ask(talk, "hello \u2620")
        assert not any(event["type"] == "error" for event in events)  # Pipecat would read no more
        response = done(events)
        assert response["status"] == "failed"
        error = response["status_details"]["error"]
        assert error["type"] == "server_error"
        assert set(error) == {"type", "code", "message"}
        for status in (500, 429):
            one.chat.refuse = lambda _: (status, {"message": "no", "type": "x", "code": status})  # noqa: B023
            assert done(await ask(talk, "hello"))["status"] == "failed"
        one.chat.refuse = lambda _: None
        await talk.speak(spoken("failing"))
        assert done(await talk.until("response.done"))["status"] == "failed"
        events = await ask(talk, "hello")
        assert (done(events)["status"], heard(events)) == ("completed", "hello")


async def test_a_backend_that_is_gone_ends_the_response_and_not_the_session(rig: Any) -> None:
    one = await rig()
    async with one.talk() as talk:
        one.door.asked[0].by_role["speech"].backends[0].mark(ready=False)
        assert done(await ask(talk, "hello"))["status"] == "failed"
        assert done(await ask(talk, "hello", **TEXT))["status"] == "completed"


async def test_an_ear_that_breaks_is_told_and_opened_again(rig: Any) -> None:
    one = await rig()
    async with one.talk(audio=MANUAL, **TEXT) as talk:
        one.ear.ready = False
        await talk.append(spoken("lost"))
        error = (await talk.event("error"))["error"]
        assert error["message"] == one.ear.status
        await talk.speak(spoken("lost"))  # in many pieces, of which one error tells
        await talk.say("input_audio_buffer.commit", event_id="mine")
        errors = [(await talk.event("error"))["error"] for _ in range(2)]
        assert [error["message"] for error in errors] == [one.ear.status] * 2
        assert [error["event_id"] for error in errors] == [None, "mine"]
        one.ear.ready = True
        await talk.append(spoken("hello"))
        await talk.say("input_audio_buffer.commit")
        await talk.until("conversation.item.done")
        await talk.say("response.create")
        assert told(await talk.until("response.done"), "output_text").strip() == "hello"


class Line:
    """A connection to an ear that breaks at the first sound."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

    async def send(self, text: str) -> None:
        event = json.loads(text)
        updates = event["type"] == "session.update"
        self._events.put_nowait({**event, "type": "session.updated"} if updates else None)

    async def __aiter__(self) -> AsyncIterator[str]:
        while (event := await self._events.get()) is not None:
            yield json.dumps(event)


async def test_a_broken_ear_tells_all_of_it_before_it_is_opened_again() -> None:
    """Whoever waits for a transcript would else wait forever."""

    @asynccontextmanager
    async def line(*_: str) -> AsyncIterator[Line]:
        yield Line()

    breaks, told = asyncio.Event(), asyncio.Event()

    async def lost(_: ServiceError) -> None:
        breaks.set()
        for _ in range(10):  # to a client that reads slowly
            await asyncio.sleep(0)
        told.set()

    ear = Ear(cast("Any", SimpleNamespace(socket=line)), AsyncMock(), lost)
    await ear.send({"type": "input_audio_buffer.append"})
    await breaks.wait()
    await ear.send({"type": "input_audio_buffer.append"})
    assert told.is_set()
    await ear.close()


async def test_settings_for_an_ear_that_breaks_as_it_opens_are_refused() -> None:
    """Whoever waits for the answer would else wait forever."""

    class Brief(Line):
        async def send(self, text: str) -> None:
            await super().send(text)
            self._events.put_nowait(None)

    @asynccontextmanager
    async def brief(*_: str) -> AsyncIterator[Line]:
        yield Brief()

    ear = Ear(cast("Any", SimpleNamespace(socket=brief)), AsyncMock(), AsyncMock())
    with pytest.raises(BackendError):
        await asyncio.wait_for(ear.follow(InputFields()), 5)
    await ear.close()


async def test_an_ear_that_is_closed_as_soon_as_it_is_opened_leaves_no_socket() -> None:
    hung_up = []

    @asynccontextmanager
    async def line(*_: str) -> AsyncIterator[Line]:
        try:
            yield Line()
        finally:
            hung_up.append(True)

    ear = Ear(cast("Any", SimpleNamespace(socket=line)), AsyncMock(), AsyncMock())
    ear.plain = True
    await ear.send({"type": "input_audio_buffer.append"})
    await ear.close()  # before the task that listens has begun
    assert hung_up


async def test_a_client_that_hangs_up_stops_everything(rig: Any) -> None:
    one = await rig()
    one.voice.delay_s = 0.01
    one.chat.say = lambda _: ["hello there, ", "and so on, " * 50, WAIT]
    async with one.talk() as talk:
        await add(talk, message("hi"))
        await talk.say("response.create")
        await talk.until("output_audio.delta")
    await until(lambda: one.chat.cut == 1 and one.idle())


async def test_a_client_that_neither_speaks_nor_is_answered_is_closed_with_3008(
    rig: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "IDLE_S", 0.05)
    one = await rig()
    one.voice.delay_s = 0.02
    async with one.talk() as talk:
        await talk.say("response.create", response={"input": [message("so long an answer")]})
        assert done(await talk.until("response.done"))["status"] == "completed"
        assert (await talk.event("error"))["error"]["code"] == "idle_timeout"
        assert await talk.close_code() == 3008


async def test_a_client_that_does_not_listen_slows_the_voice(rig: Any) -> None:
    one = await rig()
    clauses = 20_000
    one.chat.say = lambda _: ["and so on, "] * clauses
    async with one.talk() as talk:
        await add(talk, message("hi"))
        await talk.say("response.create")
        await talk.until("output_audio.delta")
        before = -1
        while len(one.voice.requests) != before:  # until it has stopped
            before = len(one.voice.requests)
            await asyncio.sleep(0.2)
        assert before < clauses / 10  # the kernel's buffers of four hops
        await talk.say("response.cancel")
        assert done(await talk.until("response.done"))["status"] == "cancelled"
        await until(lambda: not one.voice.active)


async def test_a_session_for_transcription_is_passed_on(rig: Any) -> None:
    one = await rig()
    async with one.talk("") as talk:
        turns = {"turn_detection": None}
        session = {"type": "transcription", "audio": {"input": turns}}
        await talk.say("session.update", session=session)
        assert (await talk.event("session.updated"))["session"]["type"] == "transcription"
        await talk.append(spoken("hello"))
        await talk.say("input_audio_buffer.commit")
        assert (await talk.until("completed"))[-1]["transcript"].strip() == "hello"


@pytest.mark.parametrize(
    "query", ["?intent=transcription", "?intent=transcription&model=whisper-1"]
)
async def test_the_intent_decides_who_is_asked(rig: Any, query: str) -> None:
    one = await rig()
    async with one.talk(query) as talk:
        await talk.say("response.create")
        assert (await talk.fault())[0] == "type"


async def test_there_are_so_many_sessions_and_no_more(rig: Any) -> None:
    one = await rig(realtime={"sessions": 1})
    async with one.talk():
        with pytest.raises(InvalidStatus) as refused:
            async with one.talk():
                pass
        assert refused.value.response.status_code == 429


async def test_an_unknown_model_is_refused(rig: Any) -> None:
    one = await rig()
    with pytest.raises(InvalidStatus) as refused:
        async with one.talk("?model=nobody"):
            pass
    assert refused.value.response.status_code == 404


async def test_twenty_talk_at_once(rig: Any) -> None:
    one = await rig()

    async def said(text: str) -> str:
        async with one.talk() as talk:
            return heard(await ask(talk, text))

    texts = [f"hello {letter}" for letter in "abcdefghijklmnopqrst"]
    assert await asyncio.gather(*map(said, texts)) == texts


# Items


def test_old_items_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MOST_ITEMS", 2)
    monkeypatch.setattr(kept, "MOST_CHARACTERS", 10)
    items = Items()
    for text in ("one", "two", "three"):
        items.add(Item.of("message", id_=text, role="user", content=message(text)["content"]))
    assert [one.id for one in items.surplus()] == ["one"]
    items.add(Item.of("message", id_="long", role="user", content=message("x" * 9)["content"]))
    assert [one.id for one in items.surplus()] == ["two", "three"]


@pytest.mark.parametrize(
    ("end_ms", "text"),
    [(0, ""), (400, ""), (600, "hello"), (1000, "hello there,"), (1700, "hello there, how"),
     (2000, "hello there, how are")],
)  # fmt: skip
def test_a_cut_clause_keeps_its_whole_words(end_ms: int, text: str) -> None:
    item = Item.of("message", role="assistant", content=[{"type": "output_audio"}])
    item.clauses = [Clause("hello there,", 0), Clause(" how are", 1000)]
    item.audio_ms = 2000
    item.truncate(end_ms)
    assert item.text == text


def test_who_rounds_up_may_truncate_at_the_end() -> None:
    item = Item.of("message", role="assistant", content=[{"type": "output_audio"}])
    item.clauses, item.audio_ms = [Clause("hello there", 0)], 1403.6
    with pytest.raises(InvalidRequestError):
        item.truncate(1405)
    item.truncate(1404)
    assert item.text == "hello there"


def test_calls_of_one_answer_are_one_message() -> None:
    calls = [
        Item.of("function_call", call_id=f"c{number}", name="f", arguments="{}")
        for number in range(2)
    ]
    (only,) = messages_of(calls)
    assert [one["id"] for one in only["tool_calls"]] == ["c0", "c1"]
