"""The part of vLLM-Omni's HTTP API that is used, and what its answers mean here.

From the source of vLLM-Omni 0.30.0: raw audio needs `stream_format: "audio"` (`stream` alone gives
events); a stream with a `speed` other than 1 is refused; the status is sent before the first sample
is made, so a stage that dies breaks the body off after a 200.

It takes recordings to speak like in two ways: as a data URL in each request, from which it computes
the voice's features every time, or uploaded once and called by a name, whose features it keeps.
Registered voices are uploaded if the server allows it; everything else goes inline.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import logging
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from http import HTTPStatus
from typing import Any, Final

import aiohttp

from services.audio.encode import Encoder
from services.audio.pcm import Samples, from_pieces
from services.errors import (
    EngineError,
    InvalidRequestError,
    OverloadedError,
    ServiceError,
    UnavailableError,
)
from services.speech.engines.protocol import VoiceReference, murmur

log = logging.getLogger("bentovox.speech.vllm_omni")

SAMPLE_RATE_HZ: Final = 24_000

SILENT_S: Final = 60.0
"""A stream may be long, but not silent for this long."""

_CONNECT_S: Final = 5.0
_HEALTH: Final = aiohttp.ClientTimeout(total=5.0)
_VOICES: Final = aiohttp.ClientTimeout(total=30.0, sock_connect=_CONNECT_S)
_LONGEST_MESSAGE: Final = 300
_MARKER: Final = re.compile(r"<\|[^|<>]*\|>")  # such as <|endofprompt|>, which steers the model
_PARAMS: Final = frozenset({"input", "ref_audio", "ref_text"})
_MOST_BYTES: Final = 16 << 20  # of a recording, so that its header states its length
_WAV_RATE: Final = slice(24, 28)


class OmniClient:
    """One vLLM-Omni server, and which registered voices it keeps."""

    def __init__(self, url: str, api_key: str) -> None:
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._session: aiohttp.ClientSession | None = None
        self._kept: dict[str, bool] = {}  # False: it has refused
        self._unwanted: set[str] = set()
        self._changing = asyncio.Lock()  # one upload or deletion at a time

    def open(self) -> None:
        """Be able to ask, from the event loop on which `close` is called."""
        # A connection for each request: uvicorn closes idle ones just when one is used again.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        self._session = aiohttp.ClientSession(connector=connector)

    async def close(self) -> None:
        """Drop all connections."""
        if self._session is not None:
            await self._session.close()

    async def health(self) -> None:
        """Raise `UnavailableError` unless the server says that all of its stages live."""
        async with self._answer("GET", "/health", _HEALTH) as answer:
            if answer.status != HTTPStatus.OK:
                raise UnavailableError(
                    f"the vLLM-Omni server answers GET /health with {answer.status}: its engine "
                    "is dead, or not there yet",
                    retry_after_s=5.0,
                )

    async def speak(self, text: str, reference: VoiceReference) -> AsyncGenerator[Samples, None]:
        """Yield `text`, at most 2048 tokens of it, in the voice of `reference`: float32 [N].

        InvalidRequestError is the server's refusal; EngineError if it failed, broke off or made no
        sample, UnavailableError if it cannot be reached or fell silent.
        """
        voice_id = reference.id
        if voice_id is not None and await self._is_kept(reference, voice_id):
            try:
                async with aclosing(self._speech(text, {"voice": server_name(voice_id)})) as said:
                    async for frame in said:
                        yield frame
            except InvalidRequestError:  # before the first frame: it may have lost the voice
                if self._kept.get(voice_id):
                    del self._kept[voice_id]
            else:
                return
        recording = await asyncio.to_thread(inline, reference)
        async with aclosing(self._speech(text, recording)) as said:
            async for frame in said:
                yield frame

    async def _speech(self, text: str, voice: Mapping[str, str]) -> AsyncGenerator[Samples, None]:
        is_silent = True
        async with (
            aclosing(self._pieces(text, voice, "pcm")) as pieces,
            aclosing(from_pieces(pieces)) as frames,
        ):
            async for frame in frames:
                is_silent = False
                yield frame
        if is_silent:
            raise EngineError("vLLM-Omni made no audio", code="engine_failed")

    async def trial(self) -> None:
        """Have it say a word, which loads what is loaded late, in Fun-CosyVoice3's sample rate.

        A server that was away may know no voice any more: they are uploaded again when they are
        used next.
        """
        head = b""
        async with aclosing(self._pieces("Hello.", inline(murmur(SAMPLE_RATE_HZ)), "wav")) as said:
            async for piece in said:
                head = (head + piece)[: _WAV_RATE.stop]
        if not head.startswith(b"RIFF") or len(head) < _WAV_RATE.stop:
            raise EngineError("vLLM-Omni made no audio", code="engine_failed")
        rate_hz = int.from_bytes(head[_WAV_RATE], "little")
        if rate_hz != SAMPLE_RATE_HZ:
            raise EngineError(
                f"the server speaks at {rate_hz} Hz, which is not Fun-CosyVoice3's "
                f"{SAMPLE_RATE_HZ}: is it another model?",
                code="engine_failed",
            )
        self._kept.clear()

    def forget(self, voice_id: str) -> None:
        """Drop a registered voice here, and at the server with the next `clean`."""
        self._kept[voice_id] = False  # what is still being said must not upload it again
        self._unwanted.add(voice_id)

    async def clean(self) -> None:
        """Have the server delete the voices that were forgotten; what fails is tried next time."""
        async with self._changing:
            for voice_id in tuple(self._unwanted):
                path = f"/v1/audio/voices/{server_name(voice_id)}"
                try:
                    async with self._answer("DELETE", path, _VOICES) as answer:
                        if answer.status != HTTPStatus.NOT_FOUND:
                            await _raise_for(answer)
                except UnavailableError:
                    return
                except ServiceError as error:
                    log.warning("vLLM-Omni keeps voice %s for now: %s", voice_id, error)
                else:
                    self._unwanted.discard(voice_id)

    async def _is_kept(self, reference: VoiceReference, voice_id: str) -> bool:
        """Return whether the server has a voice, which is uploaded if it is new."""
        if voice_id in self._kept:
            return self._kept[voice_id]
        async with self._changing:
            if voice_id not in self._kept:
                try:
                    await self._upload(reference, server_name(voice_id))
                    self._kept.setdefault(voice_id, True)  # forgotten meanwhile, it stays so
                except ServiceError as error:
                    log.warning("voice %s is sent with each request: %s", voice_id, error)
                    if not isinstance(error, UnavailableError):  # else it has not refused
                        self._kept[voice_id] = False
            return self._kept.get(voice_id, False)

    async def _upload(self, reference: VoiceReference, name: str) -> None:
        wav = await asyncio.to_thread(_wav, reference)
        form = aiohttp.FormData()
        form.add_field("name", name)
        form.add_field("consent", "bentovox")  # consents are kept in our own store
        form.add_field("ref_text", transcript(reference))
        form.add_field("audio_sample", wav, filename="voice.wav", content_type="audio/wav")
        async with self._answer("POST", "/v1/audio/voices", _VOICES, data=form) as answer:
            await _raise_for(answer)

    async def _pieces(
        self, text: str, voice: Mapping[str, str], audio_format: str
    ) -> AsyncGenerator[bytes, None]:
        body = {
            **voice,
            "input": _unmarked(text),
            "response_format": audio_format,
            "stream": True,
            "stream_format": "audio",
        }
        limits = aiohttp.ClientTimeout(sock_connect=_CONNECT_S, sock_read=SILENT_S)
        async with self._answer("POST", "/v1/audio/speech", limits, json=body) as answer:
            await _raise_for(answer)
            if not answer.content_type.startswith("audio/"):
                raise EngineError(
                    f"vLLM-Omni answers with {answer.content_type}, not with audio",
                    code="engine_failed",
                )
            async for piece in answer.content.iter_any():
                yield piece

    @contextlib.asynccontextmanager
    async def _answer(
        self, method: str, path: str, limits: aiohttp.ClientTimeout, **body: Any
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        """Yield the answer; leaving before its end drops the connection, which aborts the work."""
        assert self._session is not None  # noqa: S101  it is open
        try:
            async with self._session.request(
                method, self._url + path, headers=self._headers, timeout=limits, **body
            ) as answer:
                yield answer
        except (aiohttp.ClientConnectorError, TimeoutError) as error:
            raise UnavailableError(
                "the vLLM-Omni server cannot be reached", retry_after_s=5.0
            ) from error
        except aiohttp.ClientError as error:
            raise EngineError("vLLM-Omni broke off", code="engine_failed") from error


def server_name(voice_id: str) -> str:
    """Return the server's name of a registered voice: it knows no upper case and no slashes."""
    return f"bentovox-{hashlib.sha256(voice_id.encode()).hexdigest()[:32]}"


def inline(reference: VoiceReference) -> dict[str, str]:
    """Return the fields of a request that carries a recording."""
    url = f"data:audio/wav;base64,{base64.b64encode(_wav(reference)).decode()}"
    return {"ref_audio": url, "ref_text": transcript(reference)}


def _wav(reference: VoiceReference) -> bytes:
    """Return a recording as 16-bit mono WAV at the model's 24 kHz."""
    encoder = Encoder(
        "wav", reference.sample_rate_hz, to_hz=SAMPLE_RATE_HZ, whole_bytes=_MOST_BYTES
    )
    return encoder.feed(reference.samples) + encoder.finish()


def transcript(reference: VoiceReference) -> str:
    """Return what is said in a recording, empty if that is unknown."""
    return _unmarked(reference.text or "").strip()


def _unmarked(text: str) -> str:
    """Return `text` without markers that steer the model."""
    return _MARKER.sub(" ", text)


async def _raise_for(answer: aiohttp.ClientResponse) -> None:
    """Raise what a status other than 2xx means, in the words of OpenAI's error object if it is one.

    A 400 is about what the client sent: the rest of the request is ours.
    """
    if answer.status < HTTPStatus.MULTIPLE_CHOICES:
        return
    text = (await answer.content.read(1 << 16)).decode("utf-8", "replace")
    param = None
    with contextlib.suppress(ValueError, TypeError, KeyError):
        error = json.loads(text)["error"]
        text = str(error["message"])
        named = str(error.get("param") or "").rpartition(".")[2]
        param = named if named in _PARAMS else None
    text = " ".join(text.split())[:_LONGEST_MESSAGE]
    said = f"vLLM-Omni answers {answer.status}: {text}"
    match answer.status:
        case HTTPStatus.BAD_REQUEST | HTTPStatus.UNPROCESSABLE_ENTITY:
            raise InvalidRequestError(text, param=param, code="engine_refused")
        case HTTPStatus.TOO_MANY_REQUESTS:
            raise OverloadedError(said, retry_after_s=1.0)
        case HTTPStatus.SERVICE_UNAVAILABLE:
            raise UnavailableError(said, retry_after_s=5.0)
    raise EngineError(said, code="engine_failed")
