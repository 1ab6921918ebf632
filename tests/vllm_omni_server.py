"""vLLM-Omni's HTTP API without a model: a real process that answers like version 0.30.0.

`python tests/vllm_omni_server.py serve MODEL --omni --host 127.0.0.1 --port 8091`. It follows
the sources (`entrypoints/openai/{api_server,serving_speech,tts_adapters/cosyvoice3}.py`): fields,
order and words of the refusals, the status before the first sample, what a dead stage does to
`/health` and to requests, voices on disk.

Text sounds as with `FakeEngine`: a tone of 0.1 s for each character. `POST /stand-in` sets
`Switches`; `GET /stand-in` reports the requests and the current state.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import dataclasses
import io
import json
import os
import time
import uuid
import wave
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import uvicorn
from pydantic import AliasChoices, BaseModel, Field, ValidationError, model_validator
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

RATE_HZ = 24_000
CHARACTER_S = 0.1
_FRAME_BYTES = 15 * RATE_HZ // 25 * 2  # codec_chunk_frames at 25 tokens a second, 16 bits
_TOO_SHORT = "Reference audio too short ({:.1f}s). At least 1s of clear speech is required."
_TOO_LONG = "Reference audio too long ({:.1f}s). Maximum 30s supported — use a shorter clip."


class SpeechBody(BaseModel):
    """The fields that matter here; unknown ones are ignored, as in vLLM-Omni."""

    input: str
    model: str | None = None
    voice: str | None = Field(None, validation_alias=AliasChoices("voice", "speaker"))
    instructions: str | None = None
    response_format: Literal["wav", "pcm", "flac", "mp3", "opus"] = "wav"
    sample_rate: int | None = Field(None, gt=0)
    speed: float | None = Field(1.0, ge=0.25, le=4.0)
    stream_format: Literal["sse", "audio"] | None = None
    stream: bool = False
    language: str | None = None
    ref_audio: str | None = None
    ref_text: str | None = None
    max_new_tokens: int | None = Field(None, ge=1)
    seed: int | None = None

    @model_validator(mode="after")
    def _streams_raw(self) -> SpeechBody:
        streams = self.stream or self.stream_format is not None
        if streams and self.response_format not in {"pcm", "wav"}:
            raise ValueError(
                "Streaming (stream=true, stream_format='audio', or stream_format='sse') requires "
                "response_format='pcm' or 'wav'. "
                f"Got response_format='{self.response_format}'."
            )
        return self


@dataclass
class Switches:
    """Faults and delays.

    Attributes:
        delay_s: before each frame of 0.6 s.
        dead_stage: this stage has no live replica: streams break off, /health is 503.
        lying_health: /health is 200 even then.
        orchestrator_dead: 500 before the first byte, and the server shuts down.
        cut_after: frames after which each stream breaks off.
        refuse: each request gets 400 with this message.
        no_voices: uploads get 409, as with several API servers.
        silent: streams end at once without a sample.
        rate_hz: in a wav stream's header.
    """

    delay_s: float = 0.0
    dead_stage: int | None = None
    lying_health: bool = False
    orchestrator_dead: bool = False
    cut_after: int | None = None
    refuse: str | None = None
    no_voices: bool = False
    silent: bool = False
    rate_hz: int = RATE_HZ


@dataclass
class State:
    """The process's state."""

    model: str
    folder: Path
    switches: Switches = field(default_factory=Switches)
    requests: list[dict[str, Any]] = field(default_factory=list)
    voices: dict[str, dict[str, Any]] = field(default_factory=dict)
    active: int = 0
    most_active: int = 0
    aborted: int = 0
    features_computed: int = 0
    health_checks: int = 0
    features: set[tuple[str, int]] = field(default_factory=set)


class DeadEngineError(Exception):
    """As vLLM-Omni's EngineDeadError."""


class OmniApp:
    def __init__(self, state: State) -> None:
        self.state = state
        self.server: uvicorn.Server | None = None

    def routes(self) -> list[Route]:
        return [
            Route("/health", self.health),
            Route("/v1/models", self.models),
            Route("/v1/audio/speech", self.speech, methods=["POST"]),
            Route("/v1/audio/voices", self.list_voices),
            Route("/v1/audio/voices", self.upload, methods=["POST"]),
            Route("/v1/audio/voices/{name}", self.delete, methods=["DELETE"]),
            Route("/stand-in", self.tell),
            Route("/stand-in", self.switch, methods=["POST"]),
        ]

    async def health(self, _: Request) -> Response:
        switches = self.state.switches
        self.state.health_checks += 1
        if switches.dead_stage is not None and not switches.lying_health:
            return JSONResponse({"status": "unhealthy"}, 503)
        return JSONResponse({"status": "healthy"})

    async def models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": self.state.model}]})

    async def speech(self, request: Request) -> Response:
        media_type = request.headers.get("content-type", "").lower().partition(";")[0]
        if media_type != "application/json":
            return error("1 validation error: Unsupported Media Type", "Bad Request")
        try:
            body = SpeechBody.model_validate(await request.json())
        except (ValidationError, json.JSONDecodeError) as exc:
            first = exc.errors()[0] if isinstance(exc, ValidationError) else {"loc": (0,)}
            param = ".".join(str(part) for part in ("body", *first["loc"]))
            message = f"1 validation error:\n  {first.get('msg', 'JSON decode error')}"
            return error(message, "Bad Request", param=param)
        return await self._create(body)

    async def _create(self, body: SpeechBody) -> Response:  # noqa: C901, PLR0911  its order
        state, switches = self.state, self.state.switches
        if body.voice is not None and body.voice.lower() == "default":
            body.voice = None
        if body.sample_rate is not None:
            return error("sample_rate is not supported by the current TTS model")
        if body.model and body.model != state.model:
            message = f"The model `{body.model}` does not exist."
            return error(message, "NotFoundError", 404)
        if switches.refuse is not None:
            return error(switches.refuse)
        if (body.stream or body.stream_format) and body.speed not in {None, 1.0}:
            return error(
                "Streaming is not supported with speed adjustment. Use a non-streaming request "
                "or remove the speed parameter."
            )
        if switches.orchestrator_dead:
            if self.server is not None:
                self.server.should_exit = True
            return dead("EngineCore encountered an issue.")
        by_name = body.ref_audio is None
        if refused := self._validate(body):
            return error(refused)
        try:
            recording = fetched(body.ref_audio or "")
        except ValueError as exc:
            return error(str(exc))
        state.requests.append(
            {
                "input": body.input,
                "by_name": by_name,
                "ref_text": body.ref_text,
                "ref_samples": recording[0],
                "ref_rate_hz": recording[1],
                "seed": body.seed,
            }
        )
        self._features(body.voice if by_name else None)
        if body.stream_format == "audio":
            media_type = f"audio/{body.response_format}"
            return Streaming(self._frames(body), media_type=media_type)
        if body.stream or body.stream_format == "sse":
            return Streaming(self._events(body), media_type="text/event-stream")
        try:
            pcm = b"".join([frame async for frame in self._frames(body)])
        except DeadEngineError as exc:
            return dead(str(exc), switches.dead_stage)
        return Response(pcm, media_type="audio/pcm")

    def _validate(self, body: SpeechBody) -> str | None:
        """Its `CosyVoice3Adapter.validate`."""
        if body.voice is not None and body.ref_audio is None:
            voice = self.state.voices.get(body.voice.lower())
            if voice is None:
                return (
                    f"Unknown voice '{body.voice}'. CosyVoice3 has no built-in speakers. Upload a "
                    "voice first via POST /v1/audio/voices, or use ref_audio + ref_text."
                )
            wav = Path(voice["file_path"]).read_bytes()
            body.ref_audio = f"data:audio/wav;base64,{base64.b64encode(wav).decode()}"
            if not (body.ref_text or "").strip():
                body.ref_text = voice["ref_text"]
        if not body.input.strip():
            return "Input text cannot be empty"
        if body.ref_audio is None:
            return "CosyVoice3 requires 'ref_audio' (reference audio for voice cloning)"
        if not body.ref_audio.startswith(("data:", "http://", "https://", "file://")):
            return (
                "ref_audio must be a URL (http/https), base64 data URL (data:...), or file URI "
                "(file://...)"
            )
        if not (body.ref_text or "").strip():
            return "CosyVoice3 requires 'ref_text' (transcript of the reference audio)"
        return None

    def _features(self, voice: str | None) -> None:
        """Count computations: kept for an uploaded voice, made anew for a recording sent along."""
        known = self.state.voices.get(voice.lower()) if voice else None
        if known is not None:
            key = (str(voice).lower(), known["created_at"])
            if key in self.state.features:
                return
            self.state.features.add(key)
        self.state.features_computed += 1

    async def _frames(self, body: SpeechBody) -> AsyncIterator[bytes]:
        state, switches = self.state, self.state.switches
        pcm = b"" if switches.silent else spoken(body.input)
        state.active += 1
        state.most_active = max(state.most_active, state.active)
        ended = False
        try:
            if body.response_format == "wav":
                yield header(switches.rate_hz)
            for number, begin in enumerate(range(0, len(pcm), _FRAME_BYTES)):
                await asyncio.sleep(switches.delay_s)
                if switches.dead_stage is not None:
                    ended = True
                    raise DeadEngineError(f"Stage-{switches.dead_stage} has no live replica")
                if number == switches.cut_after:
                    ended = True
                    raise RuntimeError("cut off, as switched")
                yield pcm[begin : begin + _FRAME_BYTES]
            ended = True
        finally:
            state.active -= 1
            state.aborted += not ended

    async def _events(self, body: SpeechBody) -> AsyncIterator[bytes]:
        async for frame in self._frames(body):
            event = {"type": "speech.audio.delta", "audio": base64.b64encode(frame).decode()}
            yield f"data: {json.dumps(event)}\n\n".encode()
        yield b'data: {"type": "speech.audio.done"}\n\n'

    async def list_voices(self, _: Request) -> Response:
        kept = self.state.voices
        uploaded = [
            {"name": v["name"], "consent": v["consent"], "ref_text": v["ref_text"]}
            for v in kept.values()
        ]
        return JSONResponse({"voices": sorted(kept), "uploaded_voices": uploaded})

    async def upload(self, request: Request) -> Response:
        if self.state.switches.no_voices:
            message = "Runtime voice upload is not supported with --api-server-count > 1"
            return error(message, "Conflict", 409)
        async with request.form() as form:
            name = str(form["name"]).strip()
            ref_text = str(form.get("ref_text", "")).strip()
            consent = str(form["consent"])
            content = await form["audio_sample"].read()  # type: ignore[union-attr]
        try:
            data_url = f"data:audio/wav;base64,{base64.b64encode(content).decode()}"
            fetched(data_url)
        except ValueError as exc:
            return error(str(exc))
        self._drop(name.lower())
        created_at = time.time_ns()
        path = self.state.folder / f"{name}_{created_at}.wav"
        path.write_bytes(content)
        voice = {
            "name": name,
            "consent": consent,
            "ref_text": ref_text,
            "created_at": created_at,
            "file_path": str(path),
        }
        path.with_suffix(".json").write_text(json.dumps(voice), encoding="utf-8")
        self.state.voices[name.lower()] = voice
        return JSONResponse({"success": True, "voice": {"name": name, "created_at": created_at}})

    async def delete(self, request: Request) -> Response:
        name = request.path_params["name"]
        if not self._drop(name.lower()):
            return error(f"Voice '{name}' not found", "NotFoundError", 404)
        return JSONResponse({"success": True, "message": f"Voice '{name}' deleted successfully"})

    def _drop(self, name: str) -> bool:
        voice = self.state.voices.pop(name, None)
        if voice is None:
            return False
        path = Path(voice["file_path"])
        path.unlink(missing_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)
        return True

    async def tell(self, _: Request) -> Response:
        state = self.state
        return JSONResponse(
            {
                "health_checks": state.health_checks,
                "requests": state.requests,
                "voices": sorted(state.voices),
                "active": state.active,
                "most_active": state.most_active,
                "aborted": state.aborted,
                "features_computed": state.features_computed,
                "switches": dataclasses.asdict(state.switches),
            }
        )

    async def switch(self, request: Request) -> Response:
        """Set switches; `reset` forgets them, the voices and what was asked."""
        wanted = await request.json()
        if wanted.pop("reset", False):
            self.state.switches = Switches()
            self.state.requests.clear()
            for name in tuple(self.state.voices):
                self._drop(name)
            self.state.most_active = self.state.aborted = self.state.features_computed = 0
        for name, value in wanted.items():
            setattr(self.state.switches, name, value)
        return await self.tell(request)


class Streaming(StreamingResponse):
    """As vLLM-Omni's `_SpeechStreamingResponse`: generation ends when the client hangs up."""

    async def stream_response(self, send: Any) -> None:
        try:
            await super().stream_response(send)
        finally:
            await self.body_iterator.aclose()  # type: ignore[union-attr]


def spoken(text: str) -> bytes:
    """Return a tone a character, as 16-bit PCM."""
    time_s = np.arange(int(RATE_HZ * CHARACTER_S)) / RATE_HZ
    tones = [np.sin(2 * np.pi * (200 + 10 * (ord(c) % 64)) * time_s) * 16_384 for c in text]
    return np.concatenate(tones).astype("<i2").tobytes()


def header(rate_hz: int) -> bytes:
    """Return a WAV header of unknown length."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(rate_hz)
    return file.getvalue()[:40] + b"\xff\xff\xff\xff"


def fetched(url: str) -> tuple[int, int]:
    """Return samples and rate of a data URL's WAV; refuses as `_finalize_fetched_ref_audio` does.

    Raises:
        ValueError: too short, too long, or no audio.
    """
    try:
        data = base64.b64decode(url.partition(",")[2], validate=True)
        with wave.open(io.BytesIO(data)) as reader:
            count, rate_hz = reader.getnframes(), reader.getframerate()
    except (wave.Error, EOFError, ValueError) as exc:
        raise ValueError(f"Could not decode audio file: {exc}") from exc
    if count < rate_hz:
        raise ValueError(_TOO_SHORT.format(count / rate_hz))
    if count > 30 * rate_hz:
        raise ValueError(_TOO_LONG.format(count / rate_hz))
    return count, rate_hz


def error(
    message: str,
    err_type: str = "BadRequestError",
    status: int = 400,
    param: str | None = None,
) -> Response:
    body = {"message": message, "type": err_type, "param": param, "code": status}
    return JSONResponse({"error": body}, status)


def dead(message: str, stage_id: int | None = None) -> Response:
    body = {
        "message": message,
        "type": "InternalServerError",
        "param": None,
        "code": 500,
        "request_id": f"speech-{uuid.uuid4().hex}",
        "error_stage_id": stage_id,
    }
    return JSONResponse({"error": body}, 500)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("model")
    parser.add_argument("--omni", action="store_true", required=True)
    parser.add_argument("--host", default="0.0.0.0")  # noqa: S104  vLLM's
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    folder = Path(os.environ["SPEAKER_SAMPLES_DIR"])  # there ~/.cache/vllm-omni/speakers if unset
    folder.mkdir(parents=True, exist_ok=True)
    state = State(options.model, folder)
    for file in folder.glob("*.json"):
        voice = json.loads(file.read_text(encoding="utf-8"))
        state.voices[voice["name"].lower()] = voice
    app = OmniApp(state)
    config = uvicorn.Config(
        Starlette(routes=app.routes()),
        host=options.host,
        port=options.port,
        timeout_keep_alive=5,
    )
    app.server = uvicorn.Server(config)
    app.server.run()


if __name__ == "__main__":
    main()
