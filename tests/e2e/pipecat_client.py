"""Pipecat's own speech-to-text services as a client; run in the environment that has Pipecat.

`python pipecat_client.py {file,live,server-vad} URL RECORDING` plays RECORDING, 16-bit mono wav,
into a pipeline as a microphone would, in real time, and prints a line of JSON for each thing that
came out: its kind and text, and how many seconds of the recording had been played by then.
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
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.openai.stt import OpenAIRealtimeSTTService, OpenAISTTService
from pipecat.workers.runner import WorkerRunner

TOLD = {
    InterimTranscriptionFrame: "interim",
    TranscriptionFrame: "final",
    ProposedUserStartedSpeakingFrame: "started",
    ProposedUserStoppedSpeakingFrame: "stopped",
    ErrorFrame: "error",
}
STEP_S = 0.04
FINAL_S = 30.0


class Printer(FrameProcessor):
    """Prints what it is told, with the time of the recording."""

    def __init__(self) -> None:
        super().__init__()
        self.played_s = 0.0
        self.done = asyncio.Event()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        for kind, name in TOLD.items():
            if type(frame) is kind:
                text = str(getattr(frame, "text", None) or getattr(frame, "error", ""))
                line = {"kind": name, "text": text, "played_s": round(self.played_s, 2)}
                sys.stdout.write(json.dumps(line) + "\n")
                sys.stdout.flush()
        if isinstance(frame, TranscriptionFrame | ErrorFrame):
            self.done.set()
        await self.push_frame(frame, direction)


def service(kind: str, url: str) -> Any:
    """Return Pipecat's service for files or for live speech."""
    if kind == "file":
        settings = OpenAISTTService.Settings(model="whisper-1", language="en")
        return OpenAISTTService(api_key="none", base_url=f"{url}/v1", settings=settings)
    live = OpenAIRealtimeSTTService
    return live(
        api_key="none",
        base_url=f"{url.replace('http', 'ws')}/v1/realtime",
        turn_detection={"type": "server_vad"} if kind == "server-vad" else False,
        settings=live.Settings(model="whisper-1", language="en"),
    )


async def main(kind: str, url: str, path: str) -> None:
    """Play the recording, and wait for its text."""
    with wave.open(path) as recording:
        rate_hz = recording.getframerate()
        data = recording.readframes(recording.getnframes())
    before, after = Printer(), Printer()  # errors go up
    params = PipelineParams(audio_in_sample_rate=rate_hz)
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
        await started.wait()
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
        waiting = [asyncio.ensure_future(one.done.wait()) for one in (before, after)]
        await asyncio.wait(waiting, timeout=FINAL_S, return_when=asyncio.FIRST_COMPLETED)
        for one in waiting:
            one.cancel()
        await worker.queue_frame(EndFrame())

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await asyncio.gather(runner.run(), play())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
