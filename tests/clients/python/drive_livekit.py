"""LiveKit's plugin for OpenAI as a client: `drive_livekit.py URL RECORDING`.

RECORDING is 16-bit mono wav, speech between silences.
"""

from __future__ import annotations

import asyncio
import sys
import wave
from typing import Any

import aiohttp
from livekit import rtc
from livekit.agents import APIConnectOptions, stt
from livekit.plugins import openai
from telling import tell

FORMATS = ("mp3", "opus", "aac", "flac", "wav", "pcm")
ONCE = APIConnectOptions(max_retry=0, timeout=30)
STEP_S = 0.05
FINAL_S = 60.0


def frames(path: str) -> list[rtc.AudioFrame]:
    """Return the recording as a microphone gives it."""
    with wave.open(path) as file:
        rate_hz = file.getframerate()
        step = int(rate_hz * STEP_S)
        made = []
        while data := file.readframes(step):
            made.append(rtc.AudioFrame(data, rate_hz, 1, len(data) // 2))
    return made


class Client:
    """LiveKit's services, pointed at a server."""

    def __init__(self, url: str, audio: list[rtc.AudioFrame]) -> None:
        self.to: Any = {"base_url": f"{url}/v1", "api_key": "none"}
        self.audio = audio

    async def spoken(self, model: str, response_format: str, **more: Any) -> float:
        """Return the seconds of sound that LiveKit decodes."""
        tts = openai.TTS(
            model=model, voice="alloy", response_format=response_format, **more, **self.to
        )
        stream = tts.synthesize("Hello from the server.", conn_options=ONCE)
        seconds = sum([one.frame.duration async for one in stream])
        await tts.aclose()
        return float(seconds)

    async def heard(self, model: str, **more: Any) -> str:
        """Return the text of the recording, sent whole."""
        made = openai.STT(model=model, language="en", **more, **self.to)
        found = await made.recognize(self.audio, conn_options=ONCE)
        return str(found.alternatives[0].text)

    async def live(self, model: str, **more: Any) -> dict[str, Any]:
        """Return what came while the recording was played, and its text."""
        options = {"language": "en", "use_realtime": True, **more, **self.to}
        async with aiohttp.ClientSession() as session, asyncio.timeout(FINAL_S):
            made = openai.STT(model=model, **options)
            made._session = session  # a worker's job has one of its own
            stream = made.stream(conn_options=ONCE)
            playing = asyncio.create_task(self._play(stream))
            try:
                return await told(stream)
            finally:
                playing.cancel()
                await asyncio.gather(playing, return_exceptions=True)
                await stream.aclose()

    async def _play(self, stream: Any) -> None:
        for frame in self.audio:
            stream.push_frame(frame)
            await asyncio.sleep(STEP_S)  # a microphone is no faster


async def told(stream: Any) -> dict[str, Any]:
    """Return the interim texts and the first final one."""
    interim = []
    async for event in stream:
        if event.type == stt.SpeechEventType.INTERIM_TRANSCRIPT:
            interim.append(event.alternatives[0].text)
        elif event.type == stt.SpeechEventType.FINAL_TRANSCRIPT:
            return {"interim": interim, "final": event.alternatives[0].text}
    return {"interim": interim, "final": None}


async def main(url: str, recording: str) -> None:
    """Speak in each format, hear a file, and hear live with each kind of model."""
    client = Client(url, frames(recording))
    newest: Any = {"language": ["en", "de"], "keywords": ["kitchen"], "prompt": "A home."}

    def spoken(model: str, response_format: str, **more: Any) -> Any:
        return lambda: client.spoken(model, response_format, **more)

    await tell(
        {
            **{f"speech in {one}": spoken("tts-1", one) for one in FORMATS},
            **{f"speech as events in {one}": spoken("gpt-4o-mini-tts", one) for one in FORMATS},
            "instructions": spoken("gpt-4o-mini-tts", "mp3", instructions="Speak cheerfully."),
            "whisper-1": lambda: client.heard("whisper-1"),
            "gpt-4o-mini-transcribe": lambda: client.heard("gpt-4o-mini-transcribe", prompt="Fox."),
            "live gpt-4o-mini-transcribe": lambda: client.live("gpt-4o-mini-transcribe"),
            "live gpt-realtime-whisper": lambda: client.live(
                "gpt-realtime-whisper", noise_reduction_type="near_field"
            ),
            "live gpt-live-transcribe": lambda: client.live("gpt-live-transcribe", **newest),
        }
    )


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
