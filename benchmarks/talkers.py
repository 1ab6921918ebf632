"""People who talk with a server at once, each with a microphone that is always on.

`python -m benchmarks.talkers URL COUNT SECONDS TEXT` prints what they saw as JSON; it needs what
the conversation role needs. Each says TEXT, listens for a while, and says it again: if the answer
still goes on, that interrupts it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
import urllib.request
from typing import Any, Final

from websockets.asyncio.client import connect

from services.openai.paths import REALTIME

STEP_MS: Final = 20
_RATE_HZ: Final = 24_000
_STEP_BYTES: Final = _RATE_HZ * 2 * STEP_MS // 1000
_GRID_MS: Final = 800  # the fake ear reads whole tones, which are whole frames here
_PADDING_MS, _FRAME_MS = 300, 32
_LISTENS_S: Final = 1.6
_WORD: Final = "so it goes on and on, "
# At `/readyz` and at `/v1/models`.
_CARD: Final = (
    b'{"status": "ready", "role": "chat", "detail": {}, "object": "list",'
    b' "data": [{"id": "talker", "object": "model"}]}'
)


class Talker:
    """One of them."""

    def __init__(self, speech: bytes) -> None:
        self.answered_ms: list[float] = []  # from the packet that ended a turn to the first sound
        self.stopped_ms: list[float] = []  # from an interruption's first sound to `response.done`
        self.ended_ms: list[float] = []  # likewise, from `speech_started`
        self.errors: list[str] = []
        self._speech = [
            speech[begin : begin + _STEP_BYTES] for begin in range(0, len(speech), _STEP_BYTES)
        ]
        self._sent: dict[int, float] = {}  # when the packet was sent that ends there, in ms
        self._begins: asyncio.Event = asyncio.Event()
        self._waits_since_ms: int | None = None  # where the turn ended that nobody has answered
        self._started: tuple[float, int] | None = None  # when an interruption was told, and where
        self._first_at = 0.0
        self._item: tuple[str, float] | None = None  # the last answer that is whole, and its ms

    async def talk(self, url: str, after_s: float, until: float) -> None:
        """Begin a while later, and talk until a time."""
        await asyncio.sleep(after_s)
        where = f"{url.replace('http', 'ws')}{REALTIME}"
        async with connect(where, proxy=None, max_size=None) as live:
            self._begins.set()
            listening = asyncio.create_task(self._listen(live))
            await self._speak(live, until)
            listening.cancel()

    async def _speak(self, live: Any, until: float) -> None:
        began, left, at_ms = time.perf_counter(), iter(self._speech), 0
        speaking = False
        while time.time() < until:
            if not speaking and self._begins.is_set() and at_ms % _GRID_MS == 0:
                self._begins.clear()
                left, speaking = iter(self._speech), True
            packet = next(left, None) if speaking else None
            speaking = packet is not None
            audio = base64.b64encode(packet or bytes(_STEP_BYTES)).decode()
            await live.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
            at_ms += STEP_MS
            self._sent[at_ms] = time.perf_counter()
            self._sent.pop(at_ms - 60_000, None)
            await asyncio.sleep(began + at_ms / 1000 - time.perf_counter())

    async def _listen(self, live: Any) -> None:
        sound_ms = 0.0
        async for message in live:
            event, now = json.loads(message), time.perf_counter()
            kind = event["type"]
            if kind == "input_audio_buffer.speech_started":
                self._started = now, event["audio_start_ms"] + _PADDING_MS
                await self._truncate(live, now)
            elif kind == "input_audio_buffer.speech_stopped":
                self._started, self._waits_since_ms = None, event["audio_end_ms"]
            elif kind == "response.output_audio.delta":
                if self._waits_since_ms is not None:
                    self._answered(self._waits_since_ms, now)
                    sound_ms = 0.0
                sound_ms += len(base64.b64decode(event["delta"])) / 2 / _RATE_HZ * 1000
            elif kind == "response.done":
                self._done(event["response"], now, sound_ms)
            elif kind == "error":
                self.errors.append(event["error"]["message"])

    def _answered(self, ended_ms: int, now: float) -> None:
        self.answered_ms.append(self._since_ms(ended_ms, now))
        self._waits_since_ms, self._first_at, self._item = None, now, None
        asyncio.get_running_loop().call_later(_LISTENS_S, self._begins.set)

    def _done(self, response: dict[str, Any], now: float, sound_ms: float) -> None:
        if response["status"] == "cancelled" and self._started is not None:
            told, speech_ms = self._started
            self.ended_ms.append((now - told) * 1000)
            self.stopped_ms.append(self._since_ms(speech_ms + _FRAME_MS, now))
        elif response["status"] == "completed" and response["output"]:
            self._item = response["output"][0]["id"], sound_ms
        elif response["status"] == "failed":
            self.errors.append(response["status_details"]["error"]["message"])
        if self._waits_since_ms is not None and not response["output"]:  # nothing was understood
            self._waits_since_ms = None
            self._begins.set()

    def _since_ms(self, heard_ms: int, now: float) -> float:
        """Return how long ago the packet was sent that ends there, or just after it."""
        return (now - self._sent[-(-heard_ms // STEP_MS) * STEP_MS]) * 1000

    async def _truncate(self, live: Any, now: float) -> None:
        if self._item is not None:
            (item_id, sound_ms), self._item = self._item, None
            played_ms = int(min(sound_ms, (now - self._first_at) * 1000))
            where = {"item_id": item_id, "content_index": 0, "audio_end_ms": played_ms}
            await live.send(json.dumps({"type": "conversation.item.truncate", **where}))


async def talk(url: str, count: int, seconds: float, text: str) -> dict[str, Any]:
    """Return what so many saw in that time; they begin one after the other."""
    speech = await asyncio.to_thread(_spoken, url, text)
    talkers = [Talker(speech) for _ in range(count)]
    until, apart_s = time.time() + seconds, _LISTENS_S * 4 / count
    talking = (one.talk(url, number * apart_s, until) for number, one in enumerate(talkers))
    await asyncio.gather(*talking)
    return {
        name: [seen for one in talkers for seen in getattr(one, name)]
        for name in ("answered_ms", "stopped_ms", "ended_ms", "errors")
    }


def _spoken(url: str, text: str) -> bytes:
    """Return a text as the server says it, PCM without silence around it, in whole packets."""
    body = {"model": "tts-1", "voice": "echo", "input": text, "response_format": "pcm"}
    headers = {"content-type": "application/json"}
    asked = urllib.request.Request(url + "/v1/audio/speech", json.dumps(body).encode(), headers)  # noqa: S310
    with urllib.request.urlopen(asked) as answer:  # noqa: S310
        sound: bytes = answer.read().strip(b"\0")
    sound = sound[: len(sound) // 2 * 2]
    return sound + bytes(-len(sound) % _STEP_BYTES)


def chat() -> Any:
    """Return a chat backend that begins at once and goes on for seconds; a uvicorn factory."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        stream = scope["path"] == "/v1/chat/completions"
        while stream and (await receive()).get("more_body"):
            pass
        kind = b"text/event-stream" if stream else b"application/json"
        headers = [(b"content-type", kind)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for _ in range(300 if stream else 0):
            chunk = {"choices": [{"index": 0, "delta": {"content": _WORD}, "finish_reason": None}]}
            data = b"data: " + json.dumps(chunk).encode() + b"\n\n"
            await send({"type": "http.response.body", "body": data, "more_body": True})
            await asyncio.sleep(0.1)
        last = b"data: [DONE]\n\n" if stream else _CARD
        await send({"type": "http.response.body", "body": last})

    return app


if __name__ == "__main__":
    _, _url, _count, _seconds, _text = sys.argv
    print(json.dumps(asyncio.run(talk(_url, int(_count), float(_seconds), _text))))
