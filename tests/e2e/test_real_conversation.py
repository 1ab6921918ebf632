"""A conversation on real models: Whisper hears, the stack's chat model answers, Kokoro speaks."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from websockets.asyncio.client import connect

pytest.importorskip("misaki", reason="the kokoro extra is not installed")

from services.conversation import routes
from services.openai.paths import REALTIME
from services.server.shell import Shell
from services.settings.sections import ConversationSettings
from services.speech.engines.kokoro.model import PACKAGED
from services.speech.engines.protocol import SynthesisRequest
from services.transcription.engines.faster_whisper.loader import TINY_EN
from tests.e2e.server import MODEL
from tests.hearing_app import live_socket
from tests.kokoro import kokoro_engine
from tests.live_app import QUIET, Talk
from tests.packaged import packaged
from tests.sounds import to_bytes
from tests.talking_app import TalkingChat, role_of, speech_role
from tests.whisper_engine import until, whisper_engine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.speech.engines.kokoro.engine import KokoroEngine
    from tests.e2e.server import Server

SAYS = ("Tell me a long story.", "Please stop and listen to me now.")


@pytest.fixture(scope="module")
def kokoro() -> Iterator[KokoroEngine]:
    with kokoro_engine(packaged(PACKAGED)) as engine:
        yield engine


async def spoken(engine: KokoroEngine, text: str) -> bytes:
    """Return a text as somebody says it, between silences, PCM at 24 kHz."""
    frames = [frame async for frame in engine.synthesise(SynthesisRequest(text, "onyx"))]
    return QUIET + to_bytes(np.concatenate(frames)) + QUIET


def words(text: str) -> list[str]:
    return re.sub(r"[^a-z ]", "", text.lower()).split()


async def conversed(url: str, question: bytes, interruption: bytes) -> list[dict[str, Any]]:
    """Ask, and interrupt the answer; return the events until both turns are answered."""
    async with connect(url, proxy=None, max_size=None) as connection:
        talk = Talk(connection)
        sound = {"input": {"transcription": {"model": "whisper-1"}}}
        await talk.say("session.update", session={"type": "realtime", "audio": sound})
        await talk.speak(question)
        events = await talk.until("response.output_audio.delta")
        await talk.speak(interruption)  # more of it is still to be made
        for _ in range(2):
            events += await talk.until("response.done")
    return events


async def test_it_is_understood_and_answered_and_interrupted(
    stack: Server, kokoro: KokoroEngine, serve: Any
) -> None:
    with stack.client() as client:

        def say(body: dict[str, Any]) -> list[str]:
            answer = client.chat.completions.create(model=MODEL, messages=body["messages"])
            return [answer.choices[0].message.content or ""]

        async with whisper_engine(packaged(TINY_EN)) as whisper, asyncio.timeout(240):
            roles = {
                "chat": TalkingChat(say),
                "speech": speech_role(kokoro),
                "transcription": role_of("transcription", sockets={REALTIME: live_socket(whisper)}),
            }
            urls = {name: [await serve(one)] for name, one in roles.items()}
            role = routes.build(ConversationSettings(), urls)
            url = (await serve(Shell(role))).replace("http", "ws") + REALTIME
            question, interruption = [await spoken(kokoro, text) for text in SAYS]
            async with role.lifespan():
                await until(lambda: role.readiness().status == "ready")
                events = await conversed(url, question, interruption)
    heard = [one["transcript"] for one in events if one["type"].endswith("n.completed")]
    assert [words(text) for text in heard] == [words(text) for text in SAYS]
    first, second = (one["response"] for one in events if one["type"] == "response.done")
    assert first["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
    assert second["status"] == "completed"
    assert second["output"][0]["content"][0]["transcript"]
