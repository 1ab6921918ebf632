"""The part of vLLM-Omni's HTTP API that is used, and what its answers mean here.

From the source of vLLM-Omni 0.30.0: raw audio needs `stream_format: "audio"` (`stream` alone gives
events); a stream with a `speed` other than 1 is refused; the status is sent before the first sample
is made, so a stage that dies breaks the body off after a 200.
"""

from __future__ import annotations

import contextlib
import json
import re
from contextlib import aclosing
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from services.audio.pcm import from_pieces
from services.errors import (
    EngineError,
    InvalidRequestError,
    OverloadedError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from services.audio.pcm import Samples

SAMPLE_RATE_HZ: Final = 24_000

SILENT_S: Final = 60.0
"""A stream may be long, but not silent for this long."""

_CONNECT_S: Final = 5.0
_HEALTH: Final = aiohttp.ClientTimeout(total=5.0)
_VOICES: Final = aiohttp.ClientTimeout(total=30.0, sock_connect=_CONNECT_S)
_LONGEST_MESSAGE: Final = 300
_MARKER: Final = re.compile(r"<\|[^|<>]*\|>")  # such as <|endofprompt|>, which steers the model
_PARAMS: Final = frozenset({"input", "ref_audio", "ref_text"})
_WAV_HEADER_BYTES: Final = 44
_WAV_RATE: Final = slice(24, 28)


class OmniClient:
    """One vLLM-Omni server, as long as it lives at this address."""

    def __init__(self, session: aiohttp.ClientSession, url: str, api_key: str) -> None:
        self._session = session
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    async def health(self) -> None:
        """Raise `UnavailableError` unless the server says that all of its stages live."""
        async with self._answer("GET", "/health", _HEALTH) as answer:
            if answer.status != HTTPStatus.OK:
                raise UnavailableError(
                    f"the vLLM-Omni server answers GET /health with {answer.status}: its engine "
                    "is dead, or not there yet",
                    retry_after_s=5.0,
                )

    async def speech(self, text: str, voice: Mapping[str, str]) -> AsyncGenerator[Samples, None]:
        """Yield what is made of `text`, at most 2048 tokens of it, float32 [N] as it comes.

        `voice` are the fields of the request that say how.

        Raises:
            InvalidRequestError: the server refuses the text or the recording.
            EngineError: it failed, broke off, or made no sample.
            UnavailableError: it cannot be reached, or fell silent.
        """
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

    async def trial(self, voice: Mapping[str, str]) -> None:
        """Have it say a word, which loads what is loaded late, in Fun-CosyVoice3's sample rate."""
        head = b""
        async with aclosing(self._pieces("Hello.", voice, "wav")) as pieces:
            async for piece in pieces:
                head = (head + piece)[:_WAV_HEADER_BYTES]
        if not head.startswith(b"RIFF") or len(head) < _WAV_HEADER_BYTES:
            raise EngineError("vLLM-Omni made no audio", code="engine_failed")
        rate_hz = int.from_bytes(head[_WAV_RATE], "little")
        if rate_hz != SAMPLE_RATE_HZ:
            raise EngineError(
                f"the server speaks at {rate_hz} Hz, which is not Fun-CosyVoice3's "
                f"{SAMPLE_RATE_HZ}: is it another model?",
                code="engine_failed",
            )

    async def upload(self, name: str, wav: bytes, text: str) -> None:
        """Have the server keep a recording as the voice `name`, instead of an older one.

        It may refuse this one (`InvalidRequestError`), or any (`EngineError`).
        """
        form = aiohttp.FormData()
        form.add_field("name", name)
        form.add_field("consent", "bentovox")  # consents are kept in our own store
        form.add_field("ref_text", text)
        form.add_field("audio_sample", wav, filename="voice.wav", content_type="audio/wav")
        async with self._answer("POST", "/v1/audio/voices", _VOICES, data=form) as answer:
            await _raise_for(answer)

    async def forget(self, name: str) -> None:
        """Have the server delete a voice; one that it does not know counts as deleted."""
        async with self._answer("DELETE", f"/v1/audio/voices/{name}", _VOICES) as answer:
            if answer.status != HTTPStatus.NOT_FOUND:
                await _raise_for(answer)

    async def _pieces(
        self, text: str, voice: Mapping[str, str], audio_format: str
    ) -> AsyncGenerator[bytes, None]:
        body = {
            **voice,
            "input": unmarked(text),
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
        try:
            async with self._session.request(
                method, self._url + path, headers=self._headers, timeout=limits, **body
            ) as answer:
                yield answer
        except (aiohttp.ClientConnectorError, TimeoutError) as error:
            why = str(error)[:_LONGEST_MESSAGE] or "no word in time"
            raise UnavailableError(
                f"the vLLM-Omni server cannot be reached: {why}", retry_after_s=5.0
            ) from error
        except aiohttp.ClientError as error:
            raise EngineError("vLLM-Omni broke off", code="engine_failed") from error


def unmarked(text: str) -> str:
    """Return `text` without markers that steer the model."""
    return _MARKER.sub(" ", text)


async def _raise_for(answer: aiohttp.ClientResponse) -> None:
    """Raise what a status other than 2xx means.

    A 400 is about what the client sent: the rest of the request is ours.
    """
    status = answer.status
    if status < HTTPStatus.MULTIPLE_CHOICES:
        return
    message, param = await _error_of(answer)
    said = f"vLLM-Omni answers {status}: {message}"
    if status in {HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY}:
        raise InvalidRequestError(message, param=param, code="engine_refused")
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        raise OverloadedError(said, retry_after_s=1.0)
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        raise UnavailableError(said, retry_after_s=5.0)
    raise EngineError(said, code="engine_failed")


async def _error_of(answer: aiohttp.ClientResponse) -> tuple[str, str | None]:
    """Return the message and the field at fault of an error in OpenAI's form, or of any other."""
    data = await answer.content.read(1 << 16)
    text = data.decode("utf-8", "replace")
    param = None
    with contextlib.suppress(ValueError, TypeError, KeyError):
        error = json.loads(text)["error"]
        text = str(error["message"])
        named = str(error.get("param") or "").rpartition(".")[2]
        param = named if named in _PARAMS else None
    return " ".join(text.split())[:_LONGEST_MESSAGE], param
