"""/v1/realtime/translations: sound comes in, and its translation goes out meanwhile.

The protocol is OpenAI's (openai-python, `openai/types/realtime/realtime_translation_*.py`). Sound
goes to the ear, and the text that comes back into the chain of speech translation, whose queues are
bounded. What the client has to say is not delayed by the chain, except by its backpressure.

A client's mistake is answered with an `error` event, and the session goes on; so it does after a
sentence on which an engine failed. `session.close` translates what was heard, and ends. A session
without an event for `IDLE_S` is closed with 3008.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from starlette.types import ASGIApp, Receive, Scope, Send

from services.audio.encode import OUTPUT_RATE_HZ
from services.audio.pcm import duration_s, to_int16
from services.backends.client import Caller
from services.backends.pools import Pools
from services.conversation.live.asking import check_voice
from services.conversation.live.ear import Ear
from services.conversation.live.settings import Answering
from services.conversation.live.socket import IDLE_S
from services.conversation.live.translation_hearing import LONGEST_S, MOST_LAG_S, Hearing, Pace
from services.conversation.speech_translation import stages
from services.conversation.speech_translation.speaking import interpreted, preset, spoken_aloud
from services.conversation.translation.chat_model import ChatModel
from services.conversation.translation.languages import known_code, known_or_none
from services.errors import DeadlineError, ServiceError
from services.languages import gap
from services.openai import conversation as sent
from services.openai import realtime
from services.openai.answers import new_id
from services.openai.errors import error_told
from services.openai.reading import ignore, invalid
from services.server import telemetry
from services.server.admission import Admission
from services.server.live import LiveSession

LASTS_S: Final = 24 * 3600
"""How long a session may last."""

_OUTPUT: Final = "session.audio.output"
_STEP_MS: Final = 200  # of `elapsed_ms`, as at OpenAI
_SAMPLE_BYTES: Final = 2
_NOTHING_SAID: Final = "input_audio_buffer_commit_empty"


@dataclass(frozen=True)
class Settings:
    """The settings in force."""

    id: str
    model: str  # the name by which the client asked for it
    speech_model: str  # that of the speech role
    expires_at: int  # when it ends at the latest, in Unix time
    target: str = "en"  # the language to translate into; as for audio/translations
    voice: str | None = None  # None for one that suits the language
    told: bool = False  # whether the client wants to know what was said

    def changed(self, given: sent.TranslationFields) -> Settings:
        """Return the settings with everything that a client's object changes."""
        if given.model not in (None, self.model, sent.TRANSLATES):
            raise invalid("session.model", "cannot change; name it in the URL", "unsupported_value")
        new: dict[str, Any] = {}
        audio = given.audio or sent.TranslationSoundFields()
        if audio.input is not None and "transcription" in audio.input.model_fields_set:
            new["told"] = audio.input.transcription is not None
        if audio.input is not None and audio.input.noise_reduction is not None:
            ignore("session.audio.input.noise_reduction")
        output = audio.output or sent.TargetFields()
        if output.language is not None:
            new["target"] = known_code(output.language, f"{_OUTPUT}.language")
        if output.voice is not None:
            new["voice"] = output.voice if isinstance(output.voice, str) else output.voice.id
        return replace(self, **new)

    def shown(self, heard: Mapping[str, Any]) -> dict[str, Any]:
        """Return OpenAI's session object; `heard` is `session.audio.input` of the ear's."""
        transcription = heard["transcription"] if self.told else None
        return {
            "id": self.id,
            "type": "translation",
            "model": self.model,
            "expires_at": self.expires_at,
            "audio": {
                "input": {"transcription": transcription, "noise_reduction": None},
                "output": {"language": self.target, "voice": self.voice},
            },
        }


def live_translations(pools: Pools, chat_model: str | None, admission: Admission) -> ASGIApp:
    """Return the application of the WebSocket.

    It translates with the backends of `pools`, by `chat_model` or the first one served.
    """

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        async with admission.slot():
            caller = Caller(pools, scope["bentovox.request_id"])
            named: str = realtime.query_of(scope).get("model", [sent.TRANSLATES])[0]
            wanted = chat_model if named.startswith(sent.TRANSLATES) else named
            model = ChatModel(caller, await caller.card("chat", wanted))
            speaks = (await caller.card("speech", None))["id"]
            settings = Settings(new_id("sess"), named, speaks, int(time.time()) + LASTS_S)
            await realtime.accept(scope, send)
            await _Talk(caller, settings, model, scope, send).serve(receive)

    return serve


class _Talk(LiveSession):
    """One connection."""

    def __init__(
        self,
        caller: Caller,
        settings: Settings,
        model: ChatModel,
        scope: Scope,
        send: Send,
    ) -> None:
        super().__init__(scope, send)
        self._caller = caller
        self._settings = settings
        self._model = model
        self._source: str | None = None  # the language that is spoken, if the client has told
        self._ear = Ear(caller, self._hear, self._deafen)
        self._hearing = Hearing()
        self._pace = Pace()
        self._presets: dict[str, str] = {}
        self._ears = 0  # how often the ear was opened, as far as known
        self._heard = self._spoken = ""  # what was told last, of each transcript
        self._paused = True
        self._closing = False

    async def run(self) -> None:
        """Translate until the client closes the session, the server ends, or time is up."""
        await self.send(realtime.server_event("session.created", session=self._shown()))
        speech_model = self._settings.speech_model
        try:
            async with asyncio.TaskGroup() as group:
                segments = self._hearing.segments()
                sentences = stages.piped(
                    group, stages.into_sentences(segments, LONGEST_S), stages.AHEAD
                )
                said = interpreted(sentences, self._model, self._languages, self._spared)
                translated = stages.piped(group, said, stages.AHEAD)
                aloud = spoken_aloud(
                    translated, self._caller, speech_model, self._manner, self._spared
                )
                sound = stages.piped(group, aloud, stages.SOUNDS_AHEAD)
                group.create_task(self._pass_on(sound))
                await self._listen()
                await self._finish()
        except ExceptionGroup as faults:
            raise stages.first_fault(faults) from faults
        finally:
            await self._ear.close()
        await self.send(realtime.server_event("session.closed"))

    # What the client says

    async def _listen(self) -> None:
        """Do what the client's events say, until it closes the session."""
        while (said := await self.next_message(IDLE_S)) is not None:
            if time.time() >= self._settings.expires_at:
                return
            await realtime.act_on(said, self._do, self.send)
            if self._closing:
                return

    async def _do(self, fields: dict[str, Any]) -> None:
        event = realtime.parse_event(fields, sent.TRANSLATION_EVENTS)
        self._closing = isinstance(event, sent.TranslationClose)
        if isinstance(event, sent.TranslationUpdate):
            await self._update(event.session)
        elif isinstance(event, realtime.AppendEvent):
            await self._append(event)

    async def _append(self, event: realtime.AppendEvent) -> None:
        seconds = duration_s(len(event.data()), OUTPUT_RATE_HZ * _SAMPLE_BYTES)
        begin_s = self._pace.heard_s
        self._pace.hear(seconds)
        await self._ear.send({"type": "input_audio_buffer.append", "audio": event.audio})
        if self._ear.opened != self._ears:
            self._ears, self._hearing.begin_s = self._ear.opened, begin_s

    async def _update(self, given: sent.TranslationFields) -> None:
        """Change the settings, all or none of them."""
        settings = self._settings.changed(given)
        with stages.fields_named({"voice": f"{_OUTPUT}.voice"}):
            if settings.voice != self._settings.voice and settings.voice is not None:
                await check_voice(self._caller, Answering(voice=settings.voice))
            elif settings.voice is None:
                await self._preset(settings.target)
        heard = given.audio.input.transcription if given.audio and given.audio.input else None
        if heard is not None:
            await self._ear.follow(realtime.InputFields(transcription=heard))
            self._source = known_or_none(heard.language)
        self._settings = settings
        await self.send(realtime.server_event("session.updated", session=self._shown()))

    async def _finish(self) -> None:
        """Let the chain end with what was heard."""
        if self._ear.opened:
            async with self._spared():
                await self._ear.send({"type": "input_audio_buffer.commit"})
                # This is answered after all that was sent before.
                await self._ear.follow(realtime.InputFields())
        await self._hearing.end()

    # What is heard

    async def _hear(self, event: dict[str, Any]) -> None:
        fault = event.get("error")
        if fault is not None and fault.get("code") != _NOTHING_SAID:  # of `_finish`
            await self.send(realtime.fault_event(error_told(fault)))
        segment = await self._hearing.take(event)
        if segment is not None and self._settings.told:
            lead = gap(self._heard, segment.text) if self._paused else ""
            self._heard, self._paused = segment.text, False
            await self._tell("input_transcript", lead + segment.text, segment.end_s)
        elif event["type"].endswith((".completed", ".failed")):
            self._paused = True

    async def _deafen(self, error: ServiceError) -> None:
        self._paused = True
        await self.send(realtime.fault_event(error))
        await self._hearing.lose()

    # What is spoken

    def _languages(self, sentence: stages.Sentence) -> tuple[str | None, str]:
        self._check_lag(sentence)
        return self._source, self._settings.target

    @asynccontextmanager
    async def _spared(self) -> AsyncIterator[None]:
        """Tell a fault, which costs a sentence and not the session."""
        try:
            yield
        except ServiceError as error:
            await self.send(realtime.fault_event(error))

    def _check_lag(self, sentence: stages.Sentence) -> None:
        """Leave out a sentence that would be heard too late."""
        if self._pace.lag_s(sentence.end_s) <= MOST_LAG_S:
            return
        telemetry.LEFT_OUT.labels("conversation").inc()
        raise DeadlineError(
            f"a sentence was left out: it would be heard over {MOST_LAG_S:g} s after it was said",
            code="translation_too_late",
        )

    async def _manner(self, translation: stages.Translation) -> Mapping[str, Any]:
        self._check_lag(translation.sentence)  # again: the translation took its time
        language = translation.language
        speed = self._pace.speed(translation.sentence.end_s)
        return {
            "voice": self._settings.voice or await self._preset(language),
            "language": language,
            **({"speed": speed} if speed > 1 else {}),
        }

    async def _preset(self, language: str) -> str:
        if language not in self._presets:
            self._presets[language] = await preset(
                self._caller, self._settings.speech_model, language
            )
        return self._presets[language]

    async def _pass_on(self, items: AsyncIterator[stages.Item]) -> None:
        speaking = None
        async for item in items:
            if isinstance(item, stages.Translation):
                lead, self._spoken = gap(self._spoken, item.text), item.text
                await self._tell("output_transcript", lead + item.text, item.sentence.end_s)
            elif isinstance(item, stages.Sound):
                if item.sentence is not speaking:
                    speaking = item.sentence
                    lag_s = self._pace.lag_s(speaking.end_s)
                    telemetry.LAG_SECONDS.labels("conversation").observe(lag_s)
                self._pace.speak(duration_s(item.samples.size, OUTPUT_RATE_HZ))
                data = to_int16(item.samples).astype("<i2").tobytes()
                await self._tell(
                    "output_audio",
                    base64.b64encode(data).decode("ascii"),
                    speaking.end_s,
                    format="pcm16",
                    sample_rate=OUTPUT_RATE_HZ,
                    channels=1,
                )

    async def _tell(self, what: str, delta: str, end_s: float, **fields: Any) -> None:
        elapsed_ms = int(end_s * 1000) // _STEP_MS * _STEP_MS
        event = realtime.server_event(
            f"session.{what}.delta", delta=delta, elapsed_ms=elapsed_ms, **fields
        )
        await self.send(event)

    def _shown(self) -> dict[str, Any]:
        return self._settings.shown(self._ear.heard)
