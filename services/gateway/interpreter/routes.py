"""POST /v1/audio/speech-translations: a recording in one language, its speech in another."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from services.gateway.calls import Caller
from services.gateway.interpreter.answer import Output, send_answer
from services.gateway.interpreter.hearing import Hearing, hear
from services.gateway.interpreter.items import Tally
from services.gateway.interpreter.likeness import sampled
from services.gateway.interpreter.pipes import fields_named, first_fault, piped
from services.gateway.interpreter.schema import SpeechTranslationFields, parse
from services.gateway.interpreter.sentences import into_sentences
from services.gateway.interpreter.speaking import Manner, preset, speak
from services.gateway.interpreter.translating import Languages, translate
from services.gateway.translation.languages import known_code, spoken
from services.gateway.translation.model import Model
from services.openai.forms import FormFields, read_form
from services.openai.hangup import ClientGoneError, until_hangup
from services.server.admission import Admission, Limits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Receive, Scope, Send

    from services.gateway.backends import Pools
    from services.openai.forms import Form

_AHEAD = 2  # sentences that a stage is ahead of the next
_SOUNDS_AHEAD = 16  # pieces of sound, each of at most `calls.HELD_BYTES`


class SpeechTranslationRoutes:
    """The path, before backends of all three roles."""

    def __init__(self, pools: Pools) -> None:
        """Interpret with the backends of `pools`."""
        gateway = pools.gateway
        slots = gateway.translation.speech_slots
        self._pools = pools
        self._chat_model = gateway.translation.model or None
        self._form = FormFields(
            frozenset(SpeechTranslationFields.model_fields), {"file": gateway.body_limit_bytes}
        )
        # Each holds its whole recording: fewer than the gateway's slots.
        self._admission = Admission(Limits(slots, slots, gateway.deadline_s))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, unless its client hangs up before that.

        Raises:
            ServiceError: what is wrong with it, or with a backend.
        """
        await self._admission.acquire()
        with self._admission.held(), suppress(ClientGoneError):
            form = await read_form(scope, receive, self._form)
            fields = parse(form)
            caller = Caller(self._pools, scope["bentovox.request_id"])
            await until_hangup(receive, self._interpret(fields, form, caller, send))

    async def _interpret(
        self, fields: SpeechTranslationFields, form: Form, caller: Caller, send: Send
    ) -> None:
        target = known_code(fields.language, "language")
        source = None
        if fields.source_language is not None:
            source = known_code(fields.source_language, "source_language")
        with fields_named({"model": "chat_model"}):
            model = Model(caller, fields.chat_model or self._chat_model)
        with fields_named({"model": "speech_model"}):
            speaks = caller.card("speech", fields.speech_model)["id"]
        hears = caller.card("transcription", fields.model)["id"]
        recording = form.file("file").data
        tally = Tally()
        voice: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        if fields.consent is None:
            named = fields.voice or await preset(caller, speaks, target)
            voice.set_result({"voice": named})
        hearing = Hearing(recording, hears, source and spoken(source), fields.prompt)
        try:
            async with asyncio.TaskGroup() as stages:
                segments = piped(stages, hear(caller, hearing, tally), _AHEAD)
                if fields.consent is not None:
                    segments = piped(
                        stages, sampled(segments, recording, fields.consent, voice), _AHEAD
                    )
                sentences = piped(stages, into_sentences(segments), _AHEAD)
                translated = piped(
                    stages, translate(sentences, model, Languages(source, target)), _AHEAD
                )
                manner = Manner(speaks, target, fields.manner)
                sound = piped(stages, speak(translated, caller, manner, voice), _SOUNDS_AHEAD)
                output = Output(fields.response_format, fields.stream_format == "sse", target)
                await send_answer(sound, output, tally, send)
        except ExceptionGroup as group:
            raise first_fault(group) from group
