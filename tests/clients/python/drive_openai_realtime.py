"""OpenAI's own SDK in a live conversation: `drive_openai_realtime.py URL RECORDING`."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import wave
from typing import Any

import openai
from telling import tell

STEP_BYTES = 4800  # 100 ms
WAIT_S = 60
NUMBER = {"type": "integer"}
ADD = {
    "type": "function",
    "name": "add",
    "description": "Add two numbers.",
    "parameters": {
        "type": "object",
        "properties": {"a": NUMBER, "b": NUMBER},
        "required": ["a", "b"],
    },
}


async def until(live: Any, kind: str) -> list[Any]:
    """Return the events up to the first of a type."""
    events: list[Any] = []
    while not events or events[-1].type != kind:
        events.append(await live.recv())
        assert events[-1].type != "error", events[-1]
    return events


def sound_s(events: list[Any]) -> float:
    """Return how long the sound in events is."""
    deltas = [one.delta for one in events if one.type == "response.output_audio.delta"]
    return sum(len(base64.b64decode(one)) for one in deltas) / 48_000


async def play(live: Any, recording: bytes) -> None:
    for begin in range(0, len(recording), STEP_BYTES):
        audio = base64.b64encode(recording[begin : begin + STEP_BYTES]).decode()
        await live.input_audio_buffer.append(audio=audio)


async def called(live: Any) -> dict[str, Any]:
    """Have a function called, and its result answered aloud."""
    await live.session.update(session={"type": "realtime", "instructions": "", "tools": [ADD]})
    content = [{"type": "input_text", "text": "Add 0 and 3."}]
    item = {"type": "message", "role": "user", "content": content}
    await live.conversation.item.create(item=item)
    await live.response.create()
    (call,) = (await until(live, "response.done"))[-1].response.output
    given = json.loads(call.arguments)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": str(given["b"])}
    await live.conversation.item.create(item=result)
    await live.response.create()
    events = await until(live, "response.done")
    answer = events[-1].response.output[0].content[0].transcript
    return {"arguments": given, "answer": answer, "sound_s": sound_s(events)}


async def conversed(live: Any, recording: bytes) -> dict[str, Any]:
    """Speak, and speak again when half a second of the answer has been played."""
    transcription = {"model": "whisper-1", "language": "en"}
    session = {"type": "realtime", "audio": {"input": {"transcription": transcription}}}
    await live.session.update(session=session)
    await play(live, recording)
    events = await until(live, "response.done")
    answer = events[-1].response.output[0]
    await play(live, recording)
    events += await until(live, "input_audio_buffer.speech_started")
    await live.conversation.item.truncate(item_id=answer.id, content_index=0, audio_end_ms=500)
    events += await until(live, "conversation.item.truncated")
    events += await until(live, "response.done")
    await live.conversation.item.retrieve(item_id=answer.id)
    kept = (await until(live, "conversation.item.retrieved"))[-1].item
    return {
        "heard": [one.transcript for one in events if one.type.endswith("transcription.completed")],
        "answer": answer.content[0].transcript,
        "kept": kept.content[0].transcript,
        "sound_s": sound_s(events),
    }


async def main(url: str, path: str) -> None:
    """Have two conversations."""
    with wave.open(path) as file:
        recording = file.readframes(file.getnframes())
    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)

    async def live(converse: Any, *given: Any) -> Any:
        connected = client.realtime.connect(model="gpt-realtime")
        async with asyncio.timeout(WAIT_S), connected as connection:
            return await converse(connection, *given)

    await tell(
        {"function": lambda: live(called), "conversation": lambda: live(conversed, recording)}
    )


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
