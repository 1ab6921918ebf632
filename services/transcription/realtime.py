"""/v1/realtime, the WebSocket for sessions of type transcription: audio in, text out meanwhile.

Its messages are those of OpenAI's realtime API (openai-python, `openai/types/realtime/`). The
client sends

    {"type": "session.update", "session": {...}}       at any time; settings left out stay
    {"type": "input_audio_buffer.append", "audio"}     any number of times
    {"type": "input_audio_buffer.commit"}              ends a turn; with server_vad, early
    {"type": "input_audio_buffer.clear"}               forgets the current turn

and gets session.created, session.updated, and for each turn

    input_audio_buffer.speech_started, .speech_stopped           with server_vad
    conversation.item.input_audio_transcription.delta            while it lasts, and after
    input_audio_buffer.committed, conversation.item.added, conversation.item.done
    conversation.item.input_audio_transcription.completed        or .failed

A client's mistake is answered with an `error` event, which names the event that caused it, and the
session goes on. It also goes on after a turn on which the engine failed.

A slot is held from the first speech of a turn until its text, not while nobody speaks. If there is
none, the session gets an error and close code 1013 (`services.server.websocket` has the codes; 3008
means that the client was silent for too long).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from services.errors import DeadlineError, ServiceError, UnavailableError
from services.openai.events import new_id
from services.openai.realtime import (
    BUFFER_EVENTS,
    AppendEvent,
    ClearEvent,
    CommitEvent,
    accept,
    event_id_of,
    fault_event,
    parse_event,
    query_of,
    read_fields,
    server_event,
)
from services.openai.refusals import invalid
from services.racing import racing
from services.server.live import LiveSession
from services.transcription.live.input_buffer import InputBuffer
from services.transcription.live.session import Session, SessionUpdate, updated
from services.transcription.live.transcriber import Transcriber

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Receive, Scope, Send

    from services.openai.models import Models
    from services.openai.realtime import ClientEvent
    from services.transcription.engines.protocol import TranscriptionEngine

IDLE_S: Final = 300.0
"""How long a client may be silent between turns, when it holds no slot."""

TURN_S: Final = 30.0
"""How long a client may be silent within a turn, during which it holds a slot."""

_EVENTS: Final[dict[str, type[ClientEvent]]] = {"session.update": SessionUpdate, **BUFFER_EVENTS}


@dataclass(frozen=True)
class RealtimeSocket:
    """The application of the WebSocket, for `RoleApp.sockets`.

    Attributes:
        engine: what transcribes; the caller starts and closes it.
        models: the names that it answers to.
        on_audio_seconds: called once a turn with the seconds heard.
    """

    engine: TranscriptionEngine
    models: Models
    on_audio_seconds: Callable[[float], None]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection until it ends.

        Raises:
            ServiceError: it cannot start, or cannot go on.
        """
        query = query_of(scope)
        intent = query.get("intent", ["transcription"])[0]
        if intent != "transcription":
            why = f"{intent!r} is not served here; connect with intent=transcription"
            raise invalid("intent", why, "unsupported_value")
        model = query.get("model", self.models.names)[0]
        self.models.check(model)
        if not self.engine.ready:
            raise UnavailableError(self.engine.status, retry_after_s=1.0)
        await accept(scope, send)
        await _Talk(self, Session(new_id("sess"), model), scope, send).serve(receive)


class _Talk(LiveSession):
    """One connection: its messages, and when it ends."""

    def __init__(self, socket: RealtimeSocket, session: Session, scope: Scope, send: Send) -> None:
        super().__init__(scope, send)
        self._engine = socket.engine
        self._models = socket.models
        self._transcriber = Transcriber(
            socket.engine, self.send, self.slot, socket.on_audio_seconds
        )
        self._buffer = InputBuffer(socket.engine, session, self._transcriber, self.send)

    async def run(self) -> None:
        """Serve the session until the server ends, or it cannot go on."""
        async with racing(self._transcriber.run(), self._listen()) as (hearing, listening):
            if hearing.done():
                await hearing
            fault = await listening
            self._transcriber.finish()
            await hearing
            if fault is not None:
                raise fault

    async def _listen(self) -> ServiceError | None:
        """Handle the client's messages; return what ended that, None if the server is ending."""
        fault: ServiceError | None = None
        await self.send(server_event("session.created", session=self._buffer.session.shown()))
        try:
            while True:
                patience_s = TURN_S if self._buffer.speaking else IDLE_S
                if (message := await self.next_message(patience_s)) is None:
                    break
                await self._answer(message)
        except DeadlineError as error:
            fault = error
        await self._buffer.finish()
        return fault

    async def _answer(self, said: str | bytes) -> None:
        event_id = None
        try:
            fields = read_fields(said)
            event_id = event_id_of(fields)
            await self._do(parse_event(fields, _EVENTS))
        except ServiceError as error:
            await self.send(fault_event(error, event_id))

    async def _do(self, event: ClientEvent) -> None:
        if isinstance(event, AppendEvent):
            await self._buffer.append(event.data())
        elif isinstance(event, CommitEvent):
            await self._buffer.commit()
        elif isinstance(event, ClearEvent):
            await self._buffer.clear()
        elif isinstance(event, SessionUpdate):
            session = updated(self._buffer.session, event.session, self._engine, self._models)
            await self._buffer.follow(session)
            await self.send(server_event("session.updated", session=session.shown()))
