"""A recording through the real engines: espeak-ng's speech, a trained Whisper, espeak-ng again."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

from services.audio.encode import to_wav
from services.conversation import routes
from services.server.shell import Shell
from services.settings.sections import ConversationSettings
from services.speech.engines.protocol import SynthesisRequest
from tests.decoding import decode
from tests.hearing_app import hearing_app
from tests.parrot import TEXT, parrot
from tests.speech_app import app_of, ready, shelled
from tests.translating_app import TranslatingChat
from tests.whisper_engine import whisper_engine

pytest.importorskip("espeakng_loader", reason="the espeak extra is not installed")

from services.speech.engines.espeak.engine import EspeakEngine

if TYPE_CHECKING:
    from pathlib import Path

SAID = TEXT.strip()  # whatever is spoken


async def spoken(engine: EspeakEngine, text: str) -> bytes:
    request = SynthesisRequest(text=text, voice="alloy")
    frames = [frame async for frame in engine.synthesise(request)]
    return to_wav(np.concatenate(frames), engine.sample_rate_hz)


async def test_a_recording_is_heard_and_spoken_by_real_engines(tmp_path: Path, serve: Any) -> None:
    chat, voice = TranslatingChat(), EspeakEngine()
    await voice.start()
    async with whisper_engine(parrot(tmp_path)) as ear:
        roles = {
            "chat": chat,
            "speech": ready(shelled(app_of(voice))),
            "transcription": ready(shelled(hearing_app(ear))),
        }
        urls = {role: [await serve(one)] for role, one in roles.items()}
        role = routes.build(ConversationSettings(), urls)
        talk = await spoken(voice, "Could you tell me when the next train leaves, please?")
        url = await serve(Shell(role))
        async with role.lifespan(), httpx.AsyncClient(base_url=url, timeout=60) as client:
            while role.readiness().status != "ready":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            response = await client.post(
                "/v1/audio/speech-translations",
                files={"file": talk},
                data={
                    "language": "de",
                    "source_language": "en",
                    "stream_format": "sse",
                    "response_format": "wav",
                },
            )
    await voice.close()
    assert response.status_code == 200, response.text
    told = [json.loads(line[6:]) for line in response.text.splitlines() if line]
    heard = "".join(one["delta"] for one in told if "input" in one["type"])
    meant = "".join(one["delta"] for one in told if "output" in one["type"])
    assert heard == SAID
    assert meant == SAID.upper()
    wav = b"".join(base64.b64decode(one["audio"]) for one in told if "audio" in one)
    samples = decode(wav, sample_rate_hz=16_000)
    assert np.abs(samples).max() > 0.1
    assert told[-1]["usage"]["input_tokens"] >= 10
