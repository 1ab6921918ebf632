"""The speech role's paths: speech and conversion here, voices and consents in `voice_routes`.

A handler raises `ServiceError` for what it refuses, and the shell turns that into HTTP. A request
is validated before the first byte, and the first frame is made before the headers are sent; a
failure after that breaks the connection off.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from starlette.types import Receive, Scope, Send

from services.audio.encode import Encoder
from services.audio.formats import OnAudioSeconds
from services.audio.pcm import Samples, duration_s
from services.errors import EngineError, InvalidRequestError, ServiceError, shown
from services.openai.answers import Handlers, document, of_models
from services.openai.audio_stream import AudioStream, audio_tokens
from services.openai.body import expect_json, until_hangup, whole
from services.openai.forms import Form, FormFields, read_form
from services.openai.models import Models
from services.openai.reading import missing, read
from services.openai.speech import REFERENCE_CHARACTERS, ConversionFields, SpeechBody, check_alone
from services.speech.engines.protocol import (
    Capability,
    ConversionRequest,
    VoiceReference,
    unsupported,
)
from services.speech.recordings import MAX_BYTES, read_recording, sound_in
from services.speech.speakers import Speakers
from services.speech.voice_routes import voice_handlers

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


def handlers_of(speakers: Speakers, models: Models, on_audio_seconds: OnAudioSeconds) -> Handlers:
    """Return the table of the role's paths; the caller starts and closes the speakers' engine.

    Args:
        speakers: the voices, and the engine.
        models: the model names to accept.
        on_audio_seconds: called once for each request that made audio, with its duration in
            seconds and its format, even if the client hung up.
    """
    audio = _AudioRoutes(speakers, models, on_audio_seconds)
    return {
        **of_models(models.cards, models.missing),
        ("GET", "/v1/audio/models"): document(lambda _: models.named()),
        ("POST", "/v1/audio/speech"): audio.speak,
        ("POST", "/v1/audio/voice-conversion"): audio.convert,
        **voice_handlers(speakers),
    }


@dataclass(frozen=True)
class _AudioRoutes:
    """The paths that answer with audio."""

    speakers: Speakers
    models: Models
    on_audio_seconds: OnAudioSeconds

    async def speak(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer POST /v1/audio/speech; when the client hangs up, the engine stops."""
        expect_json(scope)
        large = self.speakers.clones and self.speakers.ref_audio != "off"
        most_bytes = _BODY_WITH_RECORDING_BYTES if large else _BODY_BYTES
        body = read(SpeechBody, await whole(scope, receive, most_bytes))
        self.models.check(body.model)

        async def work() -> None:
            request = await self.speakers.request(body, body.input, one_pass=not body.stream)
            made = self.speakers.engine.synthesise(request)
            tokens = len(body.input) + len(body.instructions or "")
            await self._answer(send, body, made, tokens, param="input")

        await until_hangup(receive, work())

    async def convert(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer POST /v1/audio/voice-conversion; when the client hangs up, the engine stops."""
        engine = self.speakers.engine
        if Capability.CONVERSION not in engine.capabilities:
            raise unsupported(engine, "file")
        form = await read_form(scope, receive, _FORM)
        fields = read(ConversionFields, form.texts)
        if fields.model is not None:
            self.models.check(fields.model)
        file = form.file("file").data

        async def work() -> None:
            reference = await self._target(fields, form)
            sound = await asyncio.to_thread(sound_in, file, param="file", min_seconds=0.0)
            request = ConversionRequest(
                samples=sound.samples,
                sample_rate_hz=sound.sample_rate_hz,
                reference=reference,
                speed=fields.speed,
                seed=fields.seed,
                one_pass=not fields.stream,
            )
            tokens = audio_tokens(sound.samples.size, sound.sample_rate_hz)
            await self._answer(send, fields, engine.convert(request), tokens, param="file")

        await until_hangup(receive, work())

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
            await self.speakers.permit(fields.consent)
            return await asyncio.to_thread(
                read_recording, recording.data, param="ref_audio", text=None
            )
        if fields.voice is None:
            raise missing("voice")
        check_alone("consent", fields.consent)
        speaker = await self.speakers.named(fields.voice)
        if isinstance(speaker, str):
            self.speakers.engine.voice(speaker)
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
        input_tokens: int,
        *,
        param: str,
    ) -> None:
        """Send headers once there is a first frame, then every frame made of the field `param`.

        If this raises after the headers, the answer is incomplete, and the connection must not end
        as if it were complete.
        """
        engine, rate_hz = self.speakers.engine, self.speakers.engine.sample_rate_hz
        self.speakers.demand_ready()
        encoder = Encoder(
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
                raise InvalidRequestError(  # noqa: TRY301  handled like the engine's own errors
                    f"{param} contains nothing that this voice can say",
                    param=param,
                    code="blank_input",
                )
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
                self.on_audio_seconds(seconds, asked.response_format)
