"""OpenAI's Python SDK with the gateway: live transcription, conversations and translation."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any, get_args

import openai
import pytest
from openai.types import realtime as types

from tests.hearing_app import said
from tests.sounds import to_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from openai.resources.realtime.realtime import AsyncRealtimeConnection

RATE_HZ = 24_000
TEXT = "what is said goes on and on here"
HALF_A_SECOND = RATE_HZ


def kinds_of(union: Any) -> dict[str, Any]:
    """Return the SDK's types of events by their names."""
    kinds = get_args(get_args(union)[0])
    return {get_args(kind.model_fields["type"].annotation)[0]: kind for kind in kinds}


KINDS = kinds_of(types.RealtimeServerEvent)
knows_translation = pytest.mark.skipif(
    not hasattr(types, "RealtimeTranslationServerEvent"),
    reason=f"openai {openai.__version__} knows no live translation",
)
TRANSLATION_KINDS = (
    kinds_of(types.RealtimeTranslationServerEvent) if not knows_translation.args[0] else {}
)


@pytest.fixture
async def client(fresh: Any, key: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{fresh.url}/v1", api_key=key, max_retries=0) as made:
        yield made


@pytest.fixture
def five(open_stack: Any) -> Iterator[Any]:
    """The stack with the conversation role."""
    with open_stack(talks=True) as served:
        yield served


@pytest.fixture
async def talker(five: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{five.url}/v1", api_key="none") as made:
        yield made


def session_of(**fields: Any) -> Any:
    return {"type": "transcription", "audio": {"input": fields}}


def opened(client: openai.AsyncOpenAI) -> Any:
    return client.realtime.connect(extra_query={"intent": "transcription"})


async def until(connection: Any, kind: str, kinds: dict[str, Any] = KINDS) -> list[Any]:
    """Return the events up to the first whose type ends so, each held to the SDK's own type."""
    events: list[Any] = []
    async with asyncio.timeout(10):
        while not events or not events[-1].type.endswith(kind):
            event = await connection.recv()
            # The SDK reads without a look at the fields; strictly it is what we promise.
            kinds[event.type].model_validate(event.to_dict(), strict=True)
            events.append(event)
    return events


async def speak(connection: Any, text: str) -> None:
    data = to_bytes(said(text, RATE_HZ))
    for begin in range(0, len(data), HALF_A_SECOND):
        audio = base64.b64encode(data[begin : begin + HALF_A_SECOND]).decode()
        await connection.input_audio_buffer.append(audio=audio)


async def test_text_comes_while_sound_is_sent_and_is_what_the_sdk_expects(
    client: openai.AsyncOpenAI, fresh: Any
) -> None:
    async with opened(client) as connection:
        await until(connection, "session.created")
        session = session_of(
            format={"type": "audio/pcm", "rate": RATE_HZ},
            transcription={"model": "gpt-4o-transcribe", "language": "en"},
            turn_detection={"type": "server_vad", "silence_duration_ms": 400},
        )
        await connection.session.update(session=session)
        (updated,) = await until(connection, "session.updated")
        assert updated.session.audio.input.transcription.model == "gpt-4o-transcribe"
        assert updated.session.audio.input.turn_detection.silence_duration_ms == 400
        fresh.ear.requests.clear()
        await speak(connection, "|" * 8 + TEXT[:5])
        for begin in range(5, len(TEXT), 5):
            asked = len(fresh.ear.requests)
            await speak(connection, TEXT[begin : begin + 5])
            async with asyncio.timeout(5):
                while begin + 5 <= len(TEXT) and len(fresh.ear.requests) == asked:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
        events = await until(connection, "delta")  # nobody has been silent yet
        await speak(connection, "|" * 8)
        events += await until(connection, "completed")
    kinds = [event.type.rpartition(".")[2] for event in events]
    assert [kind for kind in kinds if kind != "delta"] == [
        "speech_started", "speech_stopped", "committed", "added", "done", "completed",
    ]  # fmt: skip
    assert "".join(event.delta for event in events if event.type.endswith("delta")) == TEXT
    assert events[-1].transcript == TEXT
    assert events[-1].usage.type == "duration"


async def test_a_client_that_commits_itself(client: openai.AsyncOpenAI) -> None:
    async with opened(client) as connection:
        await connection.session.update(session=session_of(turn_detection=None))
        await speak(connection, "never mind")
        await connection.input_audio_buffer.clear()
        await speak(connection, "hello")
        await connection.input_audio_buffer.commit()
        assert (await until(connection, "completed"))[-1].transcript == "hello"


async def test_errors_name_the_event_that_caused_them(client: openai.AsyncOpenAI) -> None:
    async with opened(client) as connection:
        await until(connection, "session.created")
        await connection.session.update(session={"type": "realtime"}, event_id="mine")
        (error,) = await until(connection, "error")
        assert error.error.event_id == "mine"
        assert error.error.param == "session.type"
        assert error.error.type == "invalid_request_error"
        await connection.response.create()
        (error,) = await until(connection, "error")
        assert error.error.code == "invalid_value"


async def test_a_turn_that_fails_is_an_event_of_its_own(
    client: openai.AsyncOpenAI, fresh: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fresh.ear, "fail_at", "bad")
    async with opened(client) as connection:
        await connection.session.update(session=session_of(turn_detection=None))
        await speak(connection, "bad")
        await connection.input_audio_buffer.commit()
        failed = (await until(connection, "failed"))[-1]
        assert failed.error.code == "engine_failed"


# Conversations


def talking(talker: openai.AsyncOpenAI) -> Any:
    return talker.realtime.connect(model="gpt-realtime")


async def say(connection: AsyncRealtimeConnection, text: str) -> None:
    item: Any = {
        "type": "message",
        "role": "user",
        "content": [{"type": "input_text", "text": text}],
    }
    await connection.conversation.item.create(item=item)
    await until(connection, "item.done")


def names(events: list[Any]) -> list[str]:
    """Return the types of the events of a response, without those about items."""
    kinds = [event.type for event in events]
    return [
        kind
        for place, kind in enumerate(kinds)
        if kind.startswith("response.") and kinds[place - 1 : place] != [kind]
    ]


async def test_a_text_is_answered_with_text(talker: openai.AsyncOpenAI) -> None:
    async with talking(talker) as connection:
        (created,) = await until(connection, "session.created")
        assert created.session.type == "realtime"
        assert created.session.model == "gpt-realtime"
        await connection.session.update(session={"type": "realtime", "output_modalities": ["text"]})
        await until(connection, "session.updated")
        await say(connection, "hello")
        await connection.response.create()
        events = await until(connection, "response.done")
    assert names(events) == [
        "response.created",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.done",
    ]
    response = events[-1].response
    assert response.status == "completed"
    assert response.output[0].content[0].text == "hello"
    assert response.usage.total_tokens > 0


async def test_speech_is_answered_with_speech(talker: openai.AsyncOpenAI) -> None:
    async with talking(talker) as connection:
        session: Any = {
            "type": "realtime",
            "instructions": "Repeat.",
            "audio": {
                "input": {
                    "format": {"type": "audio/pcm", "rate": RATE_HZ},
                    "transcription": {"model": "gpt-4o-transcribe", "language": "en"},
                    "turn_detection": {"type": "server_vad", "silence_duration_ms": 400},
                },
                "output": {"voice": "alloy", "format": {"type": "audio/pcm", "rate": RATE_HZ}},
            },
        }
        await connection.session.update(session=session)
        updated = (await until(connection, "session.updated"))[-1].session
        assert updated.audio.input.transcription.model == "gpt-4o-transcribe"
        assert updated.audio.input.turn_detection.create_response
        await speak(connection, "|" * 8 + "hello" + "|" * 8)
        events = await until(connection, "response.done")
        item = events[-1].response.output[0]
        assert item.content[0].transcript == "hello"
        sound = [
            base64.b64decode(event.delta)
            for event in events
            if event.type == "response.output_audio.delta"
        ]
        assert len(b"".join(sound)) == 5 * RATE_HZ // 10 * 2
        await connection.conversation.item.truncate(
            item_id=item.id, content_index=0, audio_end_ms=0
        )
        await until(connection, "truncated")
        await connection.conversation.item.retrieve(item_id=item.id)
        (retrieved,) = await until(connection, "retrieved")
        assert not retrieved.item.content[0].transcript
        await connection.conversation.item.delete(item_id=item.id)
        await until(connection, "deleted")
        await connection.output_audio_buffer.clear()
        await until(connection, "output_audio_buffer.cleared")


async def test_a_function_is_called_and_its_result_answered(talker: openai.AsyncOpenAI) -> None:
    tool: Any = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
    async with talking(talker) as connection:
        await say(connection, "hello")
        await connection.response.create(response={"tools": [tool], "tool_choice": "auto"})
        events = await until(connection, "response.done")
        (call,) = events[-1].response.output
        assert (call.type, call.name, call.arguments) == (
            "function_call", "weather", '{"city": "Bonn"}',
        )  # fmt: skip
        output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
        await connection.conversation.item.create(item=output)
        await connection.response.create(response={"output_modalities": ["text"]})
        events = await until(connection, "response.done")
        assert events[-1].response.output[0].content[0].text == "rain"


async def test_a_response_that_is_cancelled_or_fails(talker: openai.AsyncOpenAI, five: Any) -> None:
    five.chat.delay_s = 30
    async with talking(talker) as connection:
        await say(connection, "hello")
        await connection.response.create()
        await until(connection, "response.created")
        await connection.response.cancel()
        response = (await until(connection, "response.done"))[-1].response
        assert (response.status, response.status_details.reason) == (
            "cancelled", "client_cancelled",
        )  # fmt: skip
        five.chat.delay_s = 0
        await say(connection, "\u2620")
        await connection.response.create()
        events = await until(connection, "response.done")
        assert events[-1].response.status == "failed"
        assert events[-1].response.status_details.error.code
        assert not [event for event in events if event.type == "error"]
        await say(connection, "hello")
        await connection.response.create()
        assert (await until(connection, "response.done"))[-1].response.status == "completed"


async def test_a_browser_gets_a_secret(talker: openai.AsyncOpenAI, five: Any) -> None:
    session: Any = {"type": "realtime", "output_modalities": ["text"]}
    expiry: Any = {"anchor": "created_at", "seconds": 60}
    made = await talker.realtime.client_secrets.create(session=session, expires_after=expiry)
    assert made.value.startswith("ek_")
    assert made.session.type == "realtime"
    async with (
        openai.AsyncOpenAI(base_url=f"{five.url}/v1", api_key=made.value) as page,
        talking(page) as connection,
    ):
        updated = (await until(connection, "session.updated"))[-1]
        assert updated.session.output_modalities == ["text"]


# Translation


@knows_translation
async def test_speech_is_translated_while_it_goes_on(talker: openai.AsyncOpenAI) -> None:
    async with talker.realtime.translations.connect(model="gpt-realtime-translate") as connection:
        (created,) = await until(connection, "session.created", TRANSLATION_KINDS)
        assert created.session.type == "translation"
        assert created.session.model == "gpt-realtime-translate"
        assert created.session.audio.output.language == "en"
        session: Any = {
            "audio": {
                "input": {
                    "transcription": {"model": "gpt-realtime-whisper"},
                    "noise_reduction": {"type": "near_field"},
                },
                "output": {"language": "es"},
            }
        }
        await connection.session.update(session=session)
        (updated,) = await until(connection, "session.updated", TRANSLATION_KINDS)
        assert updated.session.audio.output.language == "es"
        assert updated.session.audio.input.transcription.model == "gpt-realtime-whisper"
        await speak(connection.session, "|" * 8 + "hello" + "|" * 11)
        events = await until(connection, "output_audio.delta", TRANSLATION_KINDS)
        await speak(connection.session, "again|||")
        await connection.session.close()
        events += await until(connection, "session.closed", TRANSLATION_KINDS)
    told = "".join(one.delta for one in events if one.type == "session.input_transcript.delta")
    assert told == "hello again"
    assert {"session.output_transcript.delta", "session.output_audio.delta"} <= {
        event.type for event in events
    }
    assert not [event for event in events if event.type == "error"]


@knows_translation
async def test_a_browser_gets_a_secret_for_translation(
    talker: openai.AsyncOpenAI, five: Any
) -> None:
    session: Any = {"model": "gpt-realtime-translate", "audio": {"output": {"language": "fr"}}}
    made = await talker.realtime.translations.client_secrets.create(session=session)
    assert made.session.audio.output.language == "fr"
    assert made.session.expires_at == made.expires_at
    async with (
        openai.AsyncOpenAI(base_url=f"{five.url}/v1", api_key=made.value) as page,
        page.realtime.translations.connect(model="gpt-realtime-translate") as connection,
    ):
        updated = (await until(connection, "session.updated", TRANSLATION_KINDS))[-1]
        assert updated.session.audio.output.language == "fr"
