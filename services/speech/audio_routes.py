"""The paths that answer with audio: audio/speech and audio/voice-conversion."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from services.audio.decode import decode_as_is
from services.audio.encode import open_encoder
from services.errors import InvalidRequestError, UnavailableError, shown
from services.languages import tag_of
from services.openai.audio_stream import audio_tokens
from services.openai.body import expect_json, whole
from services.openai.forms import FormFields, read_form
from services.openai.hangup import until_hangup
from services.openai.reading import read
from services.openai.refusals import missing
from services.openai.speech import REFERENCE_CHARACTERS, ConversionFields
from services.speech.audio_answer import AudioAnswer
from services.speech.engines.protocol import (
    Capability,
    ConversionRequest,
    SynthesisRequest,
    unsupported,
)
from services.speech.recordings import MAX_BYTES, MAX_SECONDS, read_recording
from services.speech.schema import check_alone, instructions_for, parse_speech_body

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.types import Receive, Scope, Send

    from services.audio.pcm import Samples
    from services.openai.forms import Form
    from services.openai.models import Models
    from services.openai.speech import SpeechBody
    from services.speech.audio_answer import OnAudioSeconds
    from services.speech.engines.protocol import VoiceReference
    from services.speech.speakers import Speakers

# Twice 4096 characters of at most 12 bytes each (\uXXXX\uXXXX in JSON), and the other fields.
_BODY_BYTES: Final = 128 * 1024
_BODY_WITH_RECORDING_BYTES: Final = REFERENCE_CHARACTERS + _BODY_BYTES

SOURCE_BYTES: Final = 25 * 1024 * 1024
"""The largest file to convert: OpenAI's limit for audio uploads."""

_WHOLE_BYTES: Final = 64 << 20
"""The most of a wav that is buffered to complete its header, if `stream` is false."""

_PADDING_S: Final = 0.1  # that mp3 and aac add at the end
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
        body = parse_speech_body(await whole(scope, receive, most_bytes))
        self._models.check(body.model)
        await until_hangup(receive, self._speak(body, send))

    async def _speak(self, body: SpeechBody, send: Send) -> None:
        if body.ref_audio is None:
            speaker = await self._speakers.named(body.voice_id)
        else:
            speaker = await self._speakers.recorded(
                body.ref_audio, text=body.ref_text, consent=body.consent
            )
        request = SynthesisRequest(
            text=body.input,
            voice=speaker.voice,
            speed=body.speed,
            instructions=instructions_for(self._engine, body.instructions),
            seed=body.seed,
            language=tag_of(body.language),
            reference=speaker.reference,
            one_pass=not body.stream,
        )
        self._engine.check(request)
        answer = self._answer(
            body,
            self._engine.synthesise(request),
            input_tokens=len(body.input) + len(body.instructions or ""),
            nothing_made=InvalidRequestError(
                "input contains nothing that this voice can say", param="input", code="blank_input"
            ),
        )
        await answer.send_to(send)

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
        samples, sample_rate_hz = await asyncio.to_thread(_source, form.file("file").data)
        request = ConversionRequest(
            samples=samples,
            sample_rate_hz=sample_rate_hz,
            reference=reference,
            speed=fields.speed,
            seed=fields.seed,
            one_pass=not fields.stream,
        )
        self._engine.check_conversion(request)
        answer = self._answer(
            fields,
            self._engine.convert(request),
            input_tokens=audio_tokens(samples.size, sample_rate_hz),
            nothing_made=InvalidRequestError(
                "file contains no speech to convert", param="file", code="blank_input"
            ),
        )
        await answer.send_to(send)

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
        if speaker.reference is None:
            self._engine.voice(speaker.voice or "")
            raise InvalidRequestError(
                f"voice {shown(fields.voice)} is not a registered voice; a recording can only be "
                "converted to one of those, or to ref_audio",
                param="voice",
                code="unsupported_voice",
            )
        return speaker.reference

    def _answer(
        self,
        asked: SpeechBody | ConversionFields,
        frames: AsyncGenerator[Samples, None],
        *,
        input_tokens: int,
        nothing_made: InvalidRequestError,
    ) -> AudioAnswer:
        engine = self._engine
        if not engine.ready:
            raise UnavailableError(f"the {engine.name} engine is not ready", retry_after_s=1.0)
        return AudioAnswer(
            frames=frames,
            engine=engine.name,
            sample_rate_hz=engine.sample_rate_hz,
            input_tokens=input_tokens,
            nothing_made=nothing_made,
            encoder=open_encoder(
                asked.response_format,
                engine.sample_rate_hz,
                to_hz=asked.sample_rate,
                whole_bytes=0 if asked.stream else _WHOLE_BYTES,
            ),
            audio_format=asked.response_format,
            as_events=asked.stream_format == "sse",
            on_audio_seconds=self._on_audio_seconds,
        )


def _source(data: bytes) -> tuple[Samples, int]:
    sound = decode_as_is(
        data, max_seconds=MAX_SECONDS + _PADDING_S, max_bytes=SOURCE_BYTES, param="file"
    )
    return sound.samples[: int(MAX_SECONDS * sound.sample_rate_hz)], sound.sample_rate_hz
