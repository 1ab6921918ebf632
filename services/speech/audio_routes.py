"""The paths that answer with audio: audio/speech and audio/voice-conversion."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from services.audio.encode import open_encoder
from services.audio.pcm import duration_s
from services.errors import (
    EngineError,
    InvalidRequestError,
    ServiceError,
    shown,
)
from services.openai.audio_stream import AudioStream, audio_tokens
from services.openai.body import expect_json, until_hangup, whole
from services.openai.forms import FormFields, read_form
from services.openai.reading import missing, read
from services.openai.speech import REFERENCE_CHARACTERS, ConversionFields, SpeechBody, check_alone
from services.speech.engines.protocol import Capability, ConversionRequest, unsupported
from services.speech.recordings import MAX_BYTES, read_recording, sound_in

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.types import Receive, Scope, Send

    from services.audio.formats import OnAudioSeconds
    from services.audio.pcm import Samples
    from services.openai.forms import Form
    from services.openai.models import Models
    from services.speech.engines.protocol import VoiceReference
    from services.speech.speakers import Speakers

log = logging.getLogger("bentovox.speech")

# Twice 4096 characters of at most 12 bytes each (\uXXXX\uXXXX in JSON), and the other fields.
_BODY_BYTES: Final = 128 * 1024
_BODY_WITH_RECORDING_BYTES: Final = REFERENCE_CHARACTERS + _BODY_BYTES

SOURCE_BYTES: Final = 25 * 1024 * 1024
"""The largest file to convert: OpenAI's limit for audio uploads."""

_WHOLE_BYTES: Final = 64 << 20
"""The most of a wav that is buffered to complete its header, if `stream` is false."""

_FORM: Final = FormFields(
    frozenset(ConversionFields.model_fields), {"file": SOURCE_BYTES, "ref_audio": MAX_BYTES}
)


class AudioRoutes:
    """Speech and conversion with one engine."""

    def __init__(
        self, speakers: Speakers, models: Models, on_audio_seconds: OnAudioSeconds
    ) -> None:
        """Serve the voices of `speakers` to requests for one of `models`."""
        self._speakers = speakers
        self._engine = speakers.engine
        self._models = models
        self._on_audio_seconds = on_audio_seconds

    async def speak(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer POST /v1/audio/speech.

        Raises:
            ServiceError: the request will not do, or the engine failed.
            ClientGoneError: the client hung up, and the engine has stopped.
        """
        expect_json(scope)
        large = self._speakers.takes_recordings
        most_bytes = _BODY_WITH_RECORDING_BYTES if large else _BODY_BYTES
        body = read(SpeechBody, await whole(scope, receive, most_bytes))
        self._models.check(body.model)
        await until_hangup(receive, self._speak(body, send))

    async def _speak(self, body: SpeechBody, send: Send) -> None:
        request = await self._speakers.request(body, body.input, one_pass=not body.stream)
        await self._answer(
            send,
            body,
            self._engine.synthesise(request),
            input_tokens=len(body.input) + len(body.instructions or ""),
            nothing_made=InvalidRequestError(
                "input contains nothing that this voice can say", param="input", code="blank_input"
            ),
        )

    async def convert(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer POST /v1/audio/voice-conversion.

        Raises:
            ServiceError: the request will not do, or the engine failed.
            ClientGoneError: the client hung up, and the engine has stopped.
        """
        if Capability.CONVERSION not in self._engine.capabilities:
            raise unsupported(self._engine, "file")
        form = await read_form(scope, receive, _FORM)
        fields = read(ConversionFields, form.texts)
        if fields.model is not None:
            self._models.check(fields.model)
        form.file("file")
        await until_hangup(receive, self._convert(fields, form, send))

    async def _convert(self, fields: ConversionFields, form: Form, send: Send) -> None:
        reference = await self._target(fields, form)
        sound = await asyncio.to_thread(
            sound_in,
            form.file("file").data,
            param="file",
            min_seconds=0.0,
            max_bytes=SOURCE_BYTES,
        )
        request = ConversionRequest(
            samples=sound.samples,
            sample_rate_hz=sound.sample_rate_hz,
            reference=reference,
            speed=fields.speed,
            seed=fields.seed,
            one_pass=not fields.stream,
        )
        await self._answer(
            send,
            fields,
            self._engine.convert(request),
            input_tokens=audio_tokens(sound.samples.size, sound.sample_rate_hz),
            nothing_made=InvalidRequestError(
                "file contains no speech to convert", param="file", code="blank_input"
            ),
        )

    async def _target(self, fields: ConversionFields, form: Form) -> VoiceReference:
        """Return the voice to convert to: a registered one, or a recording with its consent."""
        recording = form.files.get("ref_audio")
        if recording is not None:
            if fields.voice is not None:
                raise InvalidRequestError(
                    "voice and ref_audio both name a voice; send one of them",
                    param="voice",
                    code="invalid_value",
                )
            await self._speakers.permit(fields.consent)
            return await asyncio.to_thread(
                read_recording, recording.data, param="ref_audio", text=None
            )
        if fields.voice is None:
            raise missing("voice")
        check_alone("consent", fields.consent)
        speaker = await self._speakers.named(fields.voice)
        if isinstance(speaker, str):
            self._engine.voice(speaker)
            raise InvalidRequestError(
                f"voice {shown(fields.voice)} is not a registered voice; a recording can only be "
                "converted to one of those, or to ref_audio",
                param="voice",
                code="unsupported_voice",
            )
        return speaker

    async def _answer(
        self,
        send: Send,
        asked: SpeechBody | ConversionFields,
        made: AsyncGenerator[Samples, None],
        *,
        input_tokens: int,
        nothing_made: InvalidRequestError,
    ) -> None:
        """Send headers once there is a first frame, then every frame as it is made.

        Raises:
            ServiceError: the engine failed, or made nothing. If headers were sent already, the
                answer is incomplete and the connection must not end as if it were complete.
        """
        engine, rate_hz = self._engine, self._engine.sample_rate_hz
        self._speakers.demand_ready()
        encoder = open_encoder(
            asked.response_format,
            rate_hz,
            to_hz=asked.sample_rate,
            whole_bytes=0 if asked.stream else _WHOLE_BYTES,
        )
        stream = AudioStream(send, encoder, rate_hz, as_events=asked.stream_format == "sse")
        try:
            async with aclosing(made) as frames:
                async for frame in frames:
                    await stream.feed(frame)
            if not stream.samples:
                raise nothing_made  # noqa: TRY301  handled like the engine's own errors
            await stream.end(input_tokens)
        except Exception as error:
            if stream.begun:
                log.exception("speech broke off after %d samples", stream.samples)
            if isinstance(error, ServiceError):
                raise
            raise EngineError(f"the {engine.name} engine failed", code="engine_failed") from error
        finally:
            if stream.samples:
                seconds = duration_s(stream.samples, rate_hz)
                self._on_audio_seconds(seconds, asked.response_format)
