"""LiveKit's realtime model as a client: `drive_livekit_realtime.py URL RECORDING`.

An `AgentSession` without a room, with a microphone that plays RECORDING (16-bit mono wav) and a
loudspeaker that takes as long as the sound does.
"""

from __future__ import annotations

import asyncio
import sys
import wave
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from livekit import rtc
from livekit.agents import Agent, AgentSession, function_tool
from livekit.agents.voice import io
from livekit.plugins import openai
from openai.types import realtime
from telling import tell

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

RATE_HZ = 24_000
STEP_S = 0.05
WAIT_S = 60.0
NUMBER = {"type": "integer"}
ADD = {
    "name": "add",
    "description": "Add two numbers.",
    "parameters": {
        "type": "object",
        "properties": {"a": NUMBER, "b": NUMBER},
        "required": ["a", "b"],
    },
}


class Microphone(io.AudioInput):
    """Silent until something is played."""

    def __init__(self) -> None:
        super().__init__(label="microphone")
        self._frames: asyncio.Queue[rtc.AudioFrame] = asyncio.Queue()

    async def __anext__(self) -> rtc.AudioFrame:
        return await self._frames.get()

    async def play(self, path: str) -> None:
        with wave.open(path) as file:
            while data := file.readframes(int(RATE_HZ * STEP_S)):
                self._frames.put_nowait(rtc.AudioFrame(data, RATE_HZ, 1, len(data) // 2))
                await asyncio.sleep(STEP_S)  # a microphone is no faster


class Loudspeaker(io.AudioOutput):
    """Plays in time.

    Attributes:
        pushed_s: what it was given.
        positions: how much of each answer was played, and whether it was cut.
    """

    def __init__(self) -> None:
        super().__init__(
            label="loudspeaker",
            capabilities=io.AudioOutputCapabilities(pause=False),
            sample_rate=RATE_HZ,
        )
        self.pushed_s = 0.0
        self.positions: list[tuple[float, bool]] = []
        self._began: float | None = None
        self._ending: asyncio.TimerHandle | None = None
        self._segment_s = 0.0

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        await super().capture_frame(frame)
        if self._began is None:
            self._began = asyncio.get_running_loop().time()
            self.on_playback_started(created_at=self._began)
        self._segment_s += frame.duration
        self.pushed_s += frame.duration

    def flush(self) -> None:
        super().flush()
        if self._began is not None:
            loop = asyncio.get_running_loop()
            self._ending = loop.call_at(self._began + self._segment_s, self._end)

    def clear_buffer(self) -> None:
        if self._began is not None:
            self._end(interrupted=True)

    def _end(self, *, interrupted: bool = False) -> None:
        assert self._began is not None
        played_s = min(asyncio.get_running_loop().time() - self._began, self._segment_s)
        if self._ending is not None:
            self._ending.cancel()
        self._began, self._ending, self._segment_s = None, None, 0.0
        self.positions.append((played_s, interrupted))
        self.on_playback_finished(playback_position=played_s, interrupted=interrupted)

    @property
    def playing(self) -> bool:
        return self._began is not None


class Call:
    """A session with a server, and what was seen of it."""

    def __init__(self, url: str, **options: Any) -> None:
        self.model = openai.realtime.RealtimeModel(base_url=f"{url}/v1", api_key="none", **options)
        self.session: AgentSession[None] = AgentSession(llm=self.model, aec_warmup_duration=None)
        self.microphone, self.loudspeaker = Microphone(), Loudspeaker()
        self.session.input.audio = self.microphone
        self.session.output.audio = self.loudspeaker
        self.errors: list[str] = []
        self.heard: list[str] = []
        self.said: list[tuple[str, bool]] = []
        self.session.on("error", lambda event: self.errors.append(str(event.error)))
        self.session.on("user_input_transcribed", self._hear)
        self.session.on("conversation_item_added", self._add)

    def _hear(self, event: Any) -> None:
        if event.is_final:
            self.heard.append(event.transcript)

    def _add(self, event: Any) -> None:
        if getattr(event.item, "role", None) == "assistant":
            self.said.append((event.item.text_content or "", event.item.interrupted))

    @asynccontextmanager
    async def going(self, agent: Agent) -> AsyncIterator[None]:
        async with asyncio.timeout(WAIT_S):
            await self.session.start(agent, record=False)
            yield
            await self.session.aclose()
            await self.model.aclose()

    async def until(self, done: Any) -> None:
        while not (done() or self.errors):  # noqa: ASYNC110  of several, by their own events
            await asyncio.sleep(0.02)

    def told(self) -> dict[str, Any]:
        return {
            "errors": self.errors,
            "heard": self.heard,
            "said": self.said,
            "sound_s": self.loudspeaker.pushed_s,
            "played": self.loudspeaker.positions,
        }


async def called(url: str) -> dict[str, Any]:
    """Have a function called, and its result answered aloud."""
    arguments: dict[str, Any] = {}

    @function_tool(raw_schema=ADD)
    async def add(raw_arguments: dict[str, object]) -> str:
        arguments.update(raw_arguments)
        return str(sum(raw_arguments.values()))

    call = Call(url)
    async with call.going(Agent(instructions="", tools=[add])):
        call.session.generate_reply(user_input="Add 0 and 3.")
        await call.until(lambda: call.said)
    return {**call.told(), "arguments": arguments}


async def conversed(url: str, recording: str) -> dict[str, Any]:
    """Speak, and speak again while the answer plays."""
    transcription = realtime.AudioTranscription(model="whisper-1", language="en")
    call = Call(url, input_audio_transcription=transcription)
    async with call.going(Agent(instructions="You are a friendly voice assistant.")):
        await call.microphone.play(recording)
        await call.until(lambda: call.loudspeaker.playing)
        await call.microphone.play(recording)
        await call.until(lambda: len(call.heard) > 1 and call.loudspeaker.playing)
    return call.told()


async def reconnected(url: str) -> dict[str, Any]:
    """Ask, have the client connect anew and tell what was said, and ask again."""
    call = Call(url, max_session_duration=2.0)
    anew = asyncio.Event()
    made: list[Any] = []
    begin = call.model.session

    def session(**options: Any) -> Any:
        made.append(begin(**options))
        made[-1].on("session_reconnected", lambda _: anew.set())
        return made[-1]

    call.model.session = session  # type: ignore[method-assign]
    known = "You are a friendly voice assistant. Answer briefly."  # by the demo model
    async with call.going(Agent(instructions=known)):
        call.session.generate_reply(user_input="Hello")
        await call.until(lambda: call.said)
        anew.clear()
        await anew.wait()
        await call.until(lambda: len(made[-1].chat_ctx.items) > 1)  # what it told was taken
        call.session.generate_reply(user_input="How are you?")
        await call.until(lambda: call.loudspeaker.playing)
    return call.told()


async def main(url: str, recording: str) -> None:
    """Call a function, speak and interrupt, and reconnect."""
    await tell(
        {
            "function": lambda: called(url),
            "conversation": lambda: conversed(url, recording),
            "reconnection": lambda: reconnected(url),
        }
    )


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
