"""OpenAI's Python SDK with the gateway: live transcription."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any

import openai
import pytest
from openai.types import realtime as types

from tests.hearing_app import said
from tests.sounds import to_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from openai.resources.realtime.realtime import AsyncRealtimeConnection

RATE_HZ = 24_000
TEXT = "what is said goes on and on here"
HALF_A_SECOND = RATE_HZ
KINDS = {
    "session.created": types.SessionCreatedEvent,
    "session.updated": types.SessionUpdatedEvent,
    "input_audio_buffer.speech_started": types.InputAudioBufferSpeechStartedEvent,
    "input_audio_buffer.speech_stopped": types.InputAudioBufferSpeechStoppedEvent,
    "input_audio_buffer.committed": types.InputAudioBufferCommittedEvent,
    "input_audio_buffer.cleared": types.InputAudioBufferClearedEvent,
    "conversation.item.added": types.ConversationItemAdded,
    "conversation.item.done": types.ConversationItemDone,
    "conversation.item.input_audio_transcription.delta": (
        types.ConversationItemInputAudioTranscriptionDeltaEvent
    ),
    "conversation.item.input_audio_transcription.completed": (
        types.ConversationItemInputAudioTranscriptionCompletedEvent
    ),
    "conversation.item.input_audio_transcription.failed": (
        types.ConversationItemInputAudioTranscriptionFailedEvent
    ),
    "error": types.RealtimeErrorEvent,
}


@pytest.fixture
async def client(fresh: Any, key: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{fresh.url}/v1", api_key=key, max_retries=0) as made:
        yield made


def session_of(**fields: Any) -> Any:
    return {"type": "transcription", "audio": {"input": fields}}


def opened(client: openai.AsyncOpenAI) -> Any:
    return client.realtime.connect(extra_query={"intent": "transcription"})


async def until(connection: AsyncRealtimeConnection, kind: str) -> list[Any]:
    """Return the events up to the first whose type ends so, each held to the SDK's own type."""
    events: list[Any] = []
    async with asyncio.timeout(10):
        while not events or not events[-1].type.endswith(kind):
            event = await connection.recv()
            # The SDK reads without a look at the fields; strictly it is what we promise.
            KINDS[event.type].model_validate(event.to_dict(), strict=True)
            events.append(event)
    return events


async def speak(connection: AsyncRealtimeConnection, text: str) -> None:
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
