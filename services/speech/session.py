"""One connection of audio/speech/stream: its configuration, and its utterances in their order."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from services.errors import (
    DeadlineError,
    EngineError,
    InvalidRequestError,
    OverloadedError,
    ServiceError,
)
from services.languages import tag_of
from services.openai.errors import kind_of
from services.openai.models import Models
from services.server.websocket import HungUpError, error_event
from services.speech.engines.protocol import Capability, SynthesisRequest
from services.speech.engines.segments import is_speakable
from services.speech.messages import (
    InputCancel,
    InputDone,
    InputText,
    SessionClose,
    SessionConfig,
    parse_message,
)
from services.speech.refusals import instructions_for
from services.speech.unit import Unit, send_event
from services.speech.writing import Cutter, Writing

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.types import Scope, Send

    from services.audio.encode import AudioFormat
    from services.speech.cancelling import CancellableInbox
    from services.speech.engines.protocol import SpeechEngine
    from services.speech.messages import ClientMessage
    from services.speech.speakers import Speakers
    from services.speech.stream import OnAudioSeconds

log = logging.getLogger("bentovox.speech")

CONFIG_S: Final = 10.0
"""How long the first session.config may take."""

IDLE_S: Final = 300.0
"""How long a client may be silent between utterances; it holds no slot then."""

_SERVER_FAULT: Final = 500


def _untold(_seconds: float, _format: AudioFormat) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Speaking:
    """What sessions speak with.

    Attributes:
        engine: what speaks; starting and closing it is the caller's.
        speakers: tells who a `voice` or `ref_audio` is.
        models: the model names that it answers to.
        on_audio_seconds: told once a synthesis how many seconds were made, and in which format.
    """

    engine: SpeechEngine
    speakers: Speakers
    models: Collection[str]
    on_audio_seconds: OnAudioSeconds = _untold


class Session:
    """One connection: its configuration and its utterances, one after another."""

    def __init__(
        self, speaking: Speaking, inbox: CancellableInbox, scope: Scope, send: Send
    ) -> None:
        """Serve what comes to `inbox`; `scope` is the connection's."""
        self._speaking = speaking
        self._engine = speaking.engine
        self._inbox = inbox
        self._draining: asyncio.Event = scope["bentovox.draining"]
        self._slot = scope["bentovox.slot"]
        self._send = send
        self._config: SessionConfig | None = None
        self._utterance = 0
        self._sentence = 0
        self._unit: Unit | None = None
        # What `_config` came to, but for the text; set with it.
        self._template = SynthesisRequest(text="", voice=None)

    async def run(self) -> None:
        """Serve utterances until the client wants no more, or the server ends.

        Raises:
            ServiceError: the connection cannot go on.
            HungUpError: the client has gone.
        """
        while (message := await self._between()) is not None:
            if isinstance(message, SessionConfig):
                await self._configure(message)
                continue
            first = message.text if isinstance(message, InputText) else None
            if first == "":
                continue
            self._sentence = 0
            closing = cancelled = False
            if first is not None:
                closing, cancelled = await self._unless_cancelled(first)
            if closing:
                return
            await send_event(
                self._send,
                "session.done",
                utterance_index=self._utterance,
                total_sentences=self._sentence,
                **({"cancelled": True} if cancelled else {}),
            )
            self._utterance += 1

    async def _unless_cancelled(self, first: str) -> tuple[bool, bool]:
        """Say an utterance; return whether it wants no more at all, and took this back."""
        # In this order: the second may take the message that the first one waits for.
        cancelled = asyncio.ensure_future(self._inbox.cancelled.wait())
        speaking = asyncio.ensure_future(self._speak_utterance(first))
        try:
            await asyncio.wait({speaking, cancelled}, return_when=asyncio.FIRST_COMPLETED)
            if speaking.done():
                return speaking.result(), False
        finally:
            for task in (speaking, cancelled):
                task.cancel()
            await asyncio.gather(speaking, cancelled, return_exceptions=True)
        if self._unit is not None:
            await self._unit.cancelled(self._send)
        return await self._drop_what_was_taken_back(), True

    async def _drop_what_was_taken_back(self) -> bool:
        """Pass over text up to the client's `input.cancel`; return whether it wants no more."""
        while self._inbox.cancelled.is_set():
            try:
                message = self._parsed(await self._inbox.next())
            except InvalidRequestError as error:
                await self._tell(error)
                continue
            if isinstance(message, SessionConfig):
                await self._configure(message)
            elif isinstance(message, SessionClose):
                return True
        return False

    async def _between(self) -> ClientMessage | None:
        """Return the next message that can begin something; None at the end."""
        while (said := await self._said()) is not None:
            try:
                message = self._parsed(said)
                if self._config is None and not isinstance(message, SessionConfig):
                    raise InvalidRequestError(  # noqa: TRY301  caught with the others
                        "the first message has to be session.config",
                        param="type",
                        code="session_not_configured",
                    )
            except InvalidRequestError as error:
                if self._config is None:
                    raise
                await self._tell(error)
                continue
            if isinstance(message, InputCancel):  # what it takes back is over
                continue
            return message if isinstance(message, SessionConfig | InputText | InputDone) else None
        return None

    def _parsed(self, said: str | bytes) -> ClientMessage:
        recordings = Capability.REFERENCE in self._engine.capabilities
        return parse_message(said, recordings=recordings)

    async def _said(self) -> str | bytes | None:
        """Wait for the client's next word; None when the server ends first.

        Raises:
            DeadlineError: nothing came for too long.
        """
        limit_s = CONFIG_S if self._config is None else IDLE_S
        try:
            return await self._inbox.next_unless(self._draining, limit_s)
        except TimeoutError as error:
            what = "session.config" if self._config is None else "message"
            raise DeadlineError(
                f"no {what} came within {limit_s:g} s", code="idle_timeout"
            ) from error

    async def _configure(self, config: SessionConfig) -> None:
        try:
            self._check_model(config.model)
            template = await self._request(config)
        except ServiceError as error:
            if self._config is None:
                raise
            await self._tell(error)
            return
        self._config, self._template = config, template

    def _check_model(self, model: str | None) -> None:
        if model is not None:
            Models(self._speaking.models, role="speech").check(model)

    async def _request(self, config: SessionConfig) -> SynthesisRequest:
        """Return the request for every utterance, checked but for its text."""
        if config.ref_audio is not None:
            speaker = await self._speaking.speakers.recorded(
                config.ref_audio, text=config.ref_text, consent=config.consent
            )
        else:
            speaker = await self._speaking.speakers.named(config.voice_id)
        request = SynthesisRequest(
            text="a",
            voice=speaker.voice,
            reference=speaker.reference,
            speed=config.speed,
            instructions=instructions_for(self._engine, config.instructions),
            seed=config.seed,
            language=tag_of(config.language),
        )
        self._engine.check(request)
        return request

    async def _speak_utterance(self, first: str) -> bool:
        """Say what the client writes, until it is done; return whether it wants no more at all."""
        assert self._config is not None  # noqa: S101  `_between` has looked
        writing = Writing(first, self._inbox, self._tell)
        try:
            if self._config.ref_audio is None:  # the voice may have been deleted meanwhile
                self._template = await self._request(self._config)
            await self._say(writing, self._config)
        except ServiceError as error:
            if isinstance(error, OverloadedError) or kind_of(error).status >= _SERVER_FAULT:
                raise
            await self._tell(error)
            await writing.skip()
        if writing.fault is not None:
            raise writing.fault
        return writing.closing

    async def _say(self, writing: Writing, config: SessionConfig) -> None:
        if config.split_granularity != "none":
            async with self._slot():
                await self._say_units(writing, config, Cutter(config.split_granularity))
        elif Capability.STREAMING_TEXT in self._engine.capabilities:
            async with self._slot():
                await self._synthesise(None, writing, config)
        else:
            text = "".join([piece async for piece in writing])
            if is_speakable(text) and not writing.closing:
                async with self._slot():
                    await self._synthesise(text, writing, config)

    async def _say_units(self, writing: Writing, config: SessionConfig, cutter: Cutter) -> None:
        async for piece in writing:
            for unit in cutter.feed(piece):
                await self._synthesise(unit, writing, config)
        if not writing.closing:
            for unit in cutter.finish():
                await self._synthesise(unit, writing, config)

    async def _synthesise(self, text: str | None, writing: Writing, config: SessionConfig) -> None:
        """Say one unit; None for the text that is still being written."""
        unit = self._unit = Unit(config, self._utterance, self._sentence, text)
        request = replace(self._template, text=writing if text is None else text)
        try:
            async with aclosing(self._engine.synthesise(request)) as frames:
                rate_hz = self._engine.sample_rate_hz
                await unit.send_to(
                    self._send, frames, rate_hz, writing, self._speaking.on_audio_seconds
                )
        except InvalidRequestError as error:
            if error.code != "blank_input" or unit.made:  # nothing to say is no fault here
                raise
        except (ServiceError, HungUpError):
            raise
        except Exception as error:
            log.exception("speech broke off after %d samples", unit.made)
            raise EngineError(
                f"the {self._engine.name} engine failed", code="engine_failed"
            ) from error
        self._sentence += unit.made > 0

    async def _tell(self, error: ServiceError) -> None:
        await self._send({"type": "websocket.send", "text": error_event(error)})
