"""Pipecat's own services as a client; run in the environment with Pipecat.

`drive_pipecat.py {file,live,server-vad,newest} URL RECORDING` plays RECORDING, 16-bit mono wav,
into a pipeline in real time, as a microphone would. It prints a line of JSON for each frame that
comes out: its kind and text, and how many seconds of the recording had been played by then.
`drive_pipecat.py {speech,instructed} URL TEXT` has TEXT spoken, and prints the number of bytes.
"""

from __future__ import annotations

import asyncio
import json
import sys
import wave
from typing import Any

from pipecat.frames.frames import (
    EndFrame,
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    InterimTranscriptionFrame,
    ProposedUserStartedSpeakingFrame,
    ProposedUserStoppedSpeakingFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    TTSStoppedFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.openai.stt import OpenAIRealtimeSTTService, OpenAISTTService
from pipecat.services.openai.tts import OpenAITTSService
from pipecat.workers.runner import WorkerRunner

TOLD = {
    InterimTranscriptionFrame: "interim",
    TranscriptionFrame: "final",
    ProposedUserStartedSpeakingFrame: "started",
    ProposedUserStoppedSpeakingFrame: "stopped",
    ErrorFrame: "error",
}
SPEAKING = ("speech", "instructed")
STEP_S = 0.04
FINAL_S = 30.0


class Printer(FrameProcessor):
    """Prints frames, with the time in the recording."""

    def __init__(self) -> None:
        super().__init__()
        self.played_s = 0.0
        self.spoken = 0
        self.done = asyncio.Event()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        for kind, name in TOLD.items():
            if type(frame) is kind:
                text = str(getattr(frame, "text", None) or getattr(frame, "error", ""))
                line = {"kind": name, "text": text, "played_s": round(self.played_s, 2)}
                sys.stdout.write(json.dumps(line) + "\n")
                sys.stdout.flush()
        if isinstance(frame, TTSAudioRawFrame):
            self.spoken += len(frame.audio)
        if isinstance(frame, TranscriptionFrame | TTSStoppedFrame | ErrorFrame):
            self.done.set()
        await self.push_frame(frame, direction)


def service(kind: str, url: str) -> Any:
    """Return Pipecat's service for files or for live speech."""
    if kind == "file":
        settings = OpenAISTTService.Settings(model="whisper-1", language="en")
        return OpenAISTTService(api_key="none", base_url=f"{url}/v1", settings=settings)
    if kind in SPEAKING:
        instructions = "Speak cheerfully." if kind == "instructed" else None
        spoken = OpenAITTSService.Settings(voice="alloy", instructions=instructions)
        return OpenAITTSService(api_key="none", base_url=f"{url}/v1", settings=spoken)
    live = OpenAIRealtimeSTTService
    settings = live.Settings(model="whisper-1", language="en")
    if kind == "newest":
        settings = live.Settings(
            model="gpt-realtime-whisper", language="en", noise_reduction="near_field", delay="low"
        )
    return live(
        api_key="none",
        base_url=f"{url.replace('http', 'ws')}/v1/realtime",
        turn_detection={"type": "server_vad"} if kind == "server-vad" else False,
        settings=settings,
    )


async def main(kind: str, url: str, given: str) -> None:
    """Play the recording, and wait for its text; or have the text spoken."""
    before, after = Printer(), Printer()  # errors go up
    rate_hz, data = 24_000, b""
    if kind not in SPEAKING:
        with wave.open(given) as recording:
            rate_hz = recording.getframerate()
            data = recording.readframes(recording.getnframes())
    params = PipelineParams(audio_in_sample_rate=rate_hz, audio_out_sample_rate=24_000)
    worker = PipelineWorker(
        Pipeline([before, service(kind, url), after]),
        cancel_on_idle_timeout=False,
        enable_rtvi=False,
        params=params,
    )
    started = asyncio.Event()

    @worker.event_handler("on_pipeline_started")
    async def _started(_worker: Any, _frame: Any) -> None:
        started.set()

    async def play() -> None:
        step = int(rate_hz * STEP_S) * 2
        await worker.queue_frame(VADUserStartedSpeakingFrame())
        for begin in range(0, len(data), step):
            audio = data[begin : begin + step]
            await worker.queue_frame(
                InputAudioRawFrame(audio=audio, sample_rate=rate_hz, num_channels=1)
            )
            after.played_s = before.played_s = (begin + len(audio)) / 2 / rate_hz
            await asyncio.sleep(STEP_S)  # a microphone is no faster
        await worker.queue_frame(VADUserStoppedSpeakingFrame())

    async def converse() -> None:
        await started.wait()
        await (worker.queue_frame(TTSSpeakFrame(given)) if kind in SPEAKING else play())
        waiting = [asyncio.ensure_future(one.done.wait()) for one in (before, after)]
        await asyncio.wait(waiting, timeout=FINAL_S, return_when=asyncio.FIRST_COMPLETED)
        for one in waiting:
            one.cancel()
        await worker.queue_frame(EndFrame())

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await asyncio.gather(runner.run(), converse())
    if kind in SPEAKING:
        sys.stdout.write(json.dumps({"kind": "spoken", "bytes": after.spoken}) + "\n")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
