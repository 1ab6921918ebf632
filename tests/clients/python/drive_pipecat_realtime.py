"""Pipecat's realtime service as a client: `drive_pipecat_realtime.py URL RECORDING`.

A pipeline as in its examples, with a microphone that plays RECORDING (16-bit mono wav) and a
loudspeaker that takes as long as the sound does.
"""

from __future__ import annotations

import asyncio
import sys
import wave
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
from pipecat.audio.utils import create_stream_resampler
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.frames.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    InterruptionFrame,
    LLMContextFrame,
    OutputAudioRawFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSTextFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    LLMContextAggregatorPair,
    LLMUserAggregatorParams,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.openai.realtime import events
from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import TransportParams
from pipecat.turns.user_stop import SpeechTimeoutUserTurnStopStrategy
from pipecat.turns.user_turn_strategies import UserTurnStrategies
from pipecat.workers.runner import WorkerRunner
from telling import tell

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

STEP_S = 0.04
HEARD_HZ = 16_000  # by its microphones, and its VAD
WAIT_S = 60.0
NUMBER = {"type": "integer"}


class Watch(FrameProcessor):
    """Notes what passes, and lets others wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Frame] = []
        self._changed = asyncio.Condition()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        async with self._changed:
            self.seen.append(frame)
            self._changed.notify_all()
        await self.push_frame(frame, direction)

    def all(self, kind: type[Frame]) -> list[Any]:
        return [one for one in self.seen if type(one) is kind]

    async def until(self, kind: type[Frame], count: int = 1) -> None:
        async with self._changed:
            await self._changed.wait_for(
                lambda: len(self.all(kind)) >= count or self.all(ErrorFrame)
            )
        assert kind is ErrorFrame or not self.all(ErrorFrame), self.all(ErrorFrame)


class Speaker(BaseOutputTransport):
    """A loudspeaker without sound."""

    async def start(self, frame: Any) -> None:
        await super().start(frame)
        await self.set_transport_ready(frame)

    async def write_audio_frame(self, frame: OutputAudioRawFrame) -> bool:
        await asyncio.sleep(len(frame.audio) / 2 / frame.sample_rate)
        return True


class Call:
    """A conversation.

    Attributes:
        up: sees what goes up from the service: transcripts and errors.
        down: sees what goes down to the loudspeaker.
        after: sees what the loudspeaker does.
    """

    def __init__(self, url: str, vad: Any = None, **properties: Any) -> None:
        """With a VAD the client finds the turns."""
        self.llm = OpenAIRealtimeLLMService(
            api_key="none",
            base_url=f"{url.replace('http', 'ws')}/v1/realtime",
            settings=OpenAIRealtimeLLMService.Settings(
                session_properties=events.SessionProperties(**properties)
            ),
        )
        self.up, self.down, self.after = Watch(), Watch(), Watch()
        self.context = LLMContext()
        turns = UserTurnStrategies(stop=[SpeechTimeoutUserTurnStopStrategy()]) if vad else None
        listening = LLMUserAggregatorParams(vad_analyzer=vad, user_turn_strategies=turns)
        user, assistant = LLMContextAggregatorPair(self.context, user_params=listening)
        params = TransportParams(audio_out_enabled=True, audio_out_sample_rate=24_000)
        line = [user, self.up, self.llm, self.down, Speaker(params), self.after, assistant]
        self.worker = PipelineWorker(
            Pipeline(line),
            cancel_on_idle_timeout=False,
            enable_rtvi=False,
            params=PipelineParams(audio_in_sample_rate=HEARD_HZ, audio_out_sample_rate=24_000),
        )

    @asynccontextmanager
    async def going(self) -> AsyncIterator[None]:
        started = asyncio.Event()

        @self.worker.event_handler("on_pipeline_started")
        async def _started(_worker: Any, _frame: Any) -> None:
            started.set()

        runner = WorkerRunner(handle_sigint=False)
        await runner.add_workers(self.worker)
        running = asyncio.create_task(runner.run())
        async with asyncio.timeout(WAIT_S):
            await started.wait()
            yield
            await self.worker.cancel()  # not when all was played
            await running

    async def play(self, recording: bytes) -> None:
        recording = await create_stream_resampler().resample(recording, 24_000, HEARD_HZ)
        step = int(HEARD_HZ * STEP_S) * 2
        for begin in range(0, len(recording), step):
            audio = recording[begin : begin + step]
            await self.worker.queue_frame(InputAudioRawFrame(audio, HEARD_HZ, 1))
            await asyncio.sleep(STEP_S)  # a microphone is no faster

    def told(self) -> dict[str, Any]:
        """Return what was said, by both."""
        return {
            "heard": [one.text for one in self.up.all(TranscriptionFrame)],
            "answer": "".join(one.text for one in self.down.all(TTSTextFrame)),
            "sound_s": sum(len(one.audio) for one in self.down.all(TTSAudioRawFrame)) / 48_000,
            "interruptions": len(self.down.all(InterruptionFrame)),
        }


async def called(url: str) -> dict[str, Any]:
    """Have a function called, and its result answered aloud."""
    call = Call(url, instructions="")
    arguments: dict[str, Any] = {}

    async def add(params: Any) -> None:
        arguments.update(params.arguments)
        await params.result_callback({"result": params.arguments["a"] + params.arguments["b"]})

    call.llm.register_function("add", add)
    call.context.add_message({"role": "user", "content": "What is 7 + 2?"})
    schema = FunctionSchema("add", "Add two numbers.", {"a": NUMBER, "b": NUMBER}, ["a", "b"])
    call.context.set_tools([schema])
    async with call.going():
        await call.worker.queue_frame(LLMContextFrame(call.context))
        await call.after.until(BotStoppedSpeakingFrame)
    return {**call.told(), "arguments": arguments}


def heard(turn_detection: Any) -> Any:
    transcription = events.InputAudioTranscription(model="whisper-1", language="en")
    sound = events.AudioInput(transcription=transcription, turn_detection=turn_detection)
    return events.AudioConfiguration(input=sound)


async def conversed(url: str, recording: bytes, vad: Any = None) -> dict[str, Any]:
    """Be greeted, and speak while the greeting plays; a VAD makes the turns the client's."""
    call = Call(url, vad, audio=heard(False if vad else events.TurnDetection()))
    answers: list[str] = []

    @call.llm.event_handler("on_conversation_item_created")
    async def _created(_service: Any, id_: str, item: Any) -> None:
        if item.role == "assistant":
            answers.append(id_)

    async with call.going():
        await call.worker.queue_frame(LLMContextFrame(call.context))
        await call.after.until(BotStartedSpeakingFrame)
        greeting = call.told()["answer"]
        await call.play(recording)
        await call.up.until(TranscriptionFrame)
        await call.after.until(BotStartedSpeakingFrame, 2)
        first = await call.llm.retrieve_conversation_item(answers[0])
    kept = (first.content or [])[0].transcript
    return {**call.told(), "greeting": greeting, "kept": kept}


async def failed(url: str, recording: bytes) -> dict[str, Any]:
    """Ask what is too long for the model, and then speak."""
    call = Call(url, audio=heard(events.TurnDetection()))
    call.context.add_message({"role": "user", "content": "and so on " * 2000})
    async with call.going():
        await call.worker.queue_frame(LLMContextFrame(call.context))
        await call.up.until(ErrorFrame)
        errors = [one.error for one in call.up.all(ErrorFrame)]
        call.up.seen.clear()
        await call.play(recording)
        await call.up.until(TranscriptionFrame)
        await call.after.until(BotStartedSpeakingFrame)
    return {**call.told(), "errors": errors}


async def main(url: str, recording: str) -> None:
    """Call a function, speak and interrupt, end turns by its own VAD, and survive a failure."""
    with wave.open(recording) as file:
        data = file.readframes(file.getnframes())
    await tell(
        {
            "function": lambda: called(url),
            "conversation": lambda: conversed(url, data),
            "own turns": lambda: conversed(url, data, SileroVADAnalyzer()),
            "failure": lambda: failed(url, data),
        }
    )


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
