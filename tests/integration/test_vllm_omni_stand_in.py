from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import aiohttp
import httpx
import pytest

from services.speech.engines.vllm_omni.client import inline
from tests.vllm_omni import reference

if TYPE_CHECKING:
    from tests.vllm_omni import StandIn

# The stand-in itself, against vLLM-Omni 0.30.0's sources


def _posted(server: StandIn, **fields: Any) -> httpx.Response:
    body = {"input": "abc", "ref_audio": data_url(2.0), "ref_text": "hello", **fields}
    return httpx.post(f"{server.url}/v1/audio/speech", json=body)


def data_url(length_s: float) -> str:
    return inline(reference(length_s))["ref_audio"]


RAW = {"stream": True, "stream_format": "audio", "response_format": "pcm"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({**RAW, "speed": 2.0}, "Streaming is not supported with speed adjustment"),
        ({**RAW, "sample_rate": 8000}, "sample_rate is not supported by the current TTS model"),
        ({**RAW, "ref_text": None}, "CosyVoice3 requires 'ref_text'"),
        ({**RAW, "ref_audio": None}, "CosyVoice3 requires 'ref_audio'"),
        ({**RAW, "ref_audio": None, "voice": "x"}, "Unknown voice 'x'"),
        ({**RAW, "ref_audio": data_url(0.5)}, "Reference audio too short"),
        ({**RAW, "response_format": "mp3"}, "requires response_format='pcm' or 'wav'"),
        ({**RAW, "input": " "}, "Input text cannot be empty"),
    ],
)
def test_the_stand_in_refuses_as_the_real_one(
    server: StandIn, fields: dict[str, Any], message: str
) -> None:
    answer = _posted(server, **fields)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


def test_the_stand_in_answers_events_unless_asked_for_audio(server: StandIn) -> None:
    answer = _posted(server, stream=True, response_format="pcm")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert json.loads(answer.text.split("\n")[0][6:])["type"] == "speech.audio.delta"


async def test_the_stand_in_sends_200_before_it_breaks_off(server: StandIn) -> None:
    server.switch(dead_stage=1)
    body = {**RAW, "input": "abc", "ref_audio": data_url(2.0), "ref_text": "hello"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{server.url}/v1/audio/speech", json=body) as answer,
    ):
        assert answer.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()
    whole = _posted(server, **{**RAW, "stream": False, "stream_format": None})
    assert whole.status_code == 500
    assert whole.json()["error"]["message"] == "Stage-1 has no live replica"
    assert whole.json()["error"]["error_stage_id"] == 1
    assert not server.healthy()
