"""POST /v1/audio/speech-translations: a recording is spoken in another language."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from services.backends.client import Caller
from services.conversation.speech_translation.answer import send_answer
from services.conversation.speech_translation.listening import into_sentences, transcribe
from services.conversation.speech_translation.speaking import Interpreter, Speaker, preset
from services.conversation.speech_translation.stages import (
    AHEAD,
    SOUNDS_AHEAD,
    Tally,
    fields_named,
    first_fault,
    piped,
)
from services.conversation.speech_translation.voice_sample import sampled
from services.conversation.translation.chat_model import ChatModel
from services.conversation.translation.languages import known_code, spoken
from services.errors import InvalidRequestError
from services.openai.body import until_hangup
from services.openai.forms import FormFields, read_form
from services.openai.reading import read
from services.openai.translation import SpeechTranslationFields
from services.server.admission import Admission, Limits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Receive, Scope, Send

    from services.backends.pools import Pools
    from services.conversation.speech_translation.stages import Translation
    from services.settings.sections import ConversationSettings


class SpeechTranslation:
    """Answers the path with backends of chat, speech and transcription."""

    def __init__(self, pools: Pools, conversation: ConversationSettings) -> None:
        """Call the backends of `pools`."""
        slots = conversation.translation.speech_slots
        self._pools = pools
        self._chat_model = conversation.translation.model or None
        self._form = FormFields(
            frozenset(SpeechTranslationFields.model_fields),
            {"file": conversation.body_limit_bytes},
        )
        # They take minutes, so they have their own slots and do not delay translations of texts.
        self._admission = Admission(Limits(slots, slots, conversation.deadline_s))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            ServiceError: it is refused, or a backend failed.
            ClientGoneError: the client hung up.
        """
        form = await read_form(scope, receive, self._form)
        fields = read(SpeechTranslationFields, form.texts, "the form")
        recording = form.file("file").data
        if fields.voice is not None and fields.consent is not None:
            raise InvalidRequestError(
                "voice and consent are two voices: a consent stands for that of the recording; "
                "send one of them",
                param="voice",
                code="invalid_value",
            )
        caller = Caller(self._pools, scope["bentovox.request_id"])
        await until_hangup(receive, self._in_turn(fields, recording, caller, send))

    async def _in_turn(
        self, fields: SpeechTranslationFields, recording: bytes, caller: Caller, send: Send
    ) -> None:
        async with self._admission.slot():
            await self._translate(fields, recording, caller, send)

    async def _translate(
        self, fields: SpeechTranslationFields, recording: bytes, caller: Caller, send: Send
    ) -> None:
        target = known_code(fields.language, "language")
        source = None
        if fields.source_language is not None:
            source = known_code(fields.source_language, "source_language")
        with fields_named({"model": "chat_model"}):
            model = await ChatModel.served(caller, fields.chat_model or self._chat_model)
        with fields_named({"model": "speech_model"}):
            speaks = (await caller.card("speech", fields.speech_model))["id"]
        heard = {
            "model": (await caller.card("transcription", fields.model))["id"],
            "language": source and spoken(source),
            "prompt": fields.prompt,
        }
        tally = Tally()
        voice: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        if fields.consent is None:
            named = fields.voice or await preset(caller, speaks, target)
            voice.set_result({"voice": named})

        async def manner(_: Translation) -> Mapping[str, Any]:
            return {"language": target, **fields.manner, **await voice}

        interpreter = Interpreter(model, source, target)
        speaker = Speaker(caller, speaks, manner)
        try:
            async with asyncio.TaskGroup() as stages:
                segments = piped(stages, transcribe(caller, recording, heard, tally), AHEAD)
                if fields.consent is not None:
                    sample = sampled(segments, recording, fields.consent, voice)
                    segments = piped(stages, sample, AHEAD)
                sentences = piped(stages, into_sentences(segments), AHEAD)
                translated = piped(stages, interpreter.translate(sentences), AHEAD)
                sound = piped(stages, speaker.speak(translated), SOUNDS_AHEAD)
                await send_answer(sound, fields, tally, send)
        except ExceptionGroup as group:
            raise first_fault(group) from group
