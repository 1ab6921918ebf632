"""/v1/realtime for sessions of type transcription: sound in as it is spoken, text out meanwhile.

A WebSocket with the messages of OpenAI's realtime API (openai-python, `openai/types/realtime/`).
The client sends

    {"type": "session.update", "session": {...}}       when it likes; what it leaves out stays
    {"type": "input_audio_buffer.append", "audio"}     any number of times
    {"type": "input_audio_buffer.commit"}              ends a turn; with server_vad, early
    {"type": "input_audio_buffer.clear"}               forgets the turn under way

and gets session.created, session.updated, for each turn

    input_audio_buffer.speech_started, .speech_stopped           with server_vad
    conversation.item.input_audio_transcription.delta            while it lasts, and after
    input_audio_buffer.committed, conversation.item.added, conversation.item.done
    conversation.item.input_audio_transcription.completed        or .failed

and `error`, which names the event that caused it. What a client does wrong is an error event, and
the session goes on. So it does after a turn on which the engine failed.

A slot is held from the first speech of a turn to its text, not while nobody speaks. A session that
does not get it gets an error and close code 1013 (`services.websocket` has the codes; 3008 says
that nothing came for too long).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

from services.audio.live import LIVE_RATE_HZ, LiveDecoder
from services.errors import (
    DeadlineError,
    InvalidRequestError,
    ServiceError,
    UnavailableError,
)
from services.openai.inbox import Inbox
from services.openai.models import Models
from services.openai.realtime import (
    BUFFER_EVENTS,
    SUBPROTOCOL,
    AppendEvent,
    ClearEvent,
    CommitEvent,
    event_id_of,
    fault_event,
    new_id,
    parse_event,
    read_fields,
    server_event,
)
from services.transcription.engines.protocol import SAMPLE_RATE_HZ
from services.transcription.hearing import Hearing
from services.transcription.item import Item
from services.transcription.session import TURNS, Session, SessionUpdate, updated
from services.transcription.turns import Sound, Started, Stopped, TurnDetector

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from starlette.types import Receive, Scope, Send

    from services.audio.pcm import Samples
    from services.openai.realtime import ClientEvent
    from services.transcription.engines.protocol import TranscriptionEngine

IDLE_S: Final = 300.0
"""How long a client may be silent between turns; it holds no slot then."""

TURN_S: Final = 30.0
"""A client that sends nothing for so long in the middle of a turn loses its slot."""

LEAST_MS: Final = 100
"""What `input_audio_buffer.commit` needs: OpenAI's bound."""

_STEP_S: Final = 0.25  # of an append that is taken in at once: a few milliseconds of work
_EVENTS: Final[dict[str, type[ClientEvent]]] = {"session.update": SessionUpdate, **BUFFER_EVENTS}


def _untold(_seconds: float) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class RealtimeSocket:
    """The application of the WebSocket, for `RoleApp.sockets`.

    Attributes:
        engine: what hears; starting and closing it is the caller's.
        models: the model names that it answers to.
        on_audio_seconds: told once a turn how many seconds were heard.
    """

    engine: TranscriptionEngine
    models: Collection[str]
    on_audio_seconds: Callable[[float], None] = _untold

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection to its end.

        Raises:
            ServiceError: it cannot begin, or cannot go on.
        """
        session = Session(new_id("sess"), _wanted(scope, Models(self.models)))
        if not self.engine.ready:
            raise UnavailableError(self.engine.status, retry_after_s=1.0)
        offered = SUBPROTOCOL in scope.get("subprotocols", ())
        await send({"type": "websocket.accept", "subprotocol": SUBPROTOCOL if offered else None})
        inbox = Inbox()
        talk = _Talk(self, session, inbox, scope, send)
        reading = asyncio.ensure_future(inbox.fill(receive))
        talking = asyncio.ensure_future(talk.run())
        try:
            await asyncio.wait({reading, talking}, return_when=asyncio.FIRST_COMPLETED)
            await (talking if talking.done() else reading)
        finally:
            for task in (reading, talking):
                task.cancel()
            await asyncio.gather(reading, talking, return_exceptions=True)


def _wanted(scope: Scope, models: Models) -> str:
    """Return the model that the address names, or the first.

    Raises:
        ServiceError: the address asks for something that is not served.
    """
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
    intent = query.get("intent", ["transcription"])[0]
    if intent != "transcription":
        raise InvalidRequestError(
            f"intent {intent!r} is not served here; connect with intent=transcription",
            param="intent",
            code="unsupported_value",
        )
    model: str = query.get("model", models.names)[0]
    models.check(model)
    return model


class _Talk:
    """One connection: what is said on it, and the turn that is under way."""

    def __init__(
        self, socket: RealtimeSocket, session: Session, inbox: Inbox, scope: Scope, send: Send
    ) -> None:
        self._engine = socket.engine
        self._models = Models(socket.models)
        self._inbox = inbox
        self._draining: asyncio.Event = scope["bentovox.draining"]
        self._sending = send
        self._hearing = Hearing(
            socket.engine, self._send, scope["bentovox.slot"], socket.on_audio_seconds
        )
        self._session = session
        self._decoder = LiveDecoder(session.live_format, SAMPLE_RATE_HZ)
        self._taken = 0  # samples of the whole session
        self._detector = socket.engine.detector()  # of speech where the client commits
        self._turns = self._fresh_turns()
        self._item: Item | None = None
        self._previous: str | None = None

    async def run(self) -> None:
        """Serve the session until the server ends, or it cannot go on.

        Raises:
            ServiceError: it cannot go on.
            HungUpError: the client has gone.
        """
        hearing = asyncio.ensure_future(self._hearing.run())
        listening = asyncio.ensure_future(self._listen())
        try:
            await asyncio.wait({hearing, listening}, return_when=asyncio.FIRST_COMPLETED)
            if hearing.done():
                await hearing
            fault = await listening
            self._hearing.finish()
            await hearing
            if fault is not None:
                raise fault
        finally:
            for task in (hearing, listening):
                task.cancel()
            await asyncio.gather(hearing, listening, return_exceptions=True)

    async def _listen(self) -> ServiceError | None:
        """Take what the client says; return why no more is taken, None when the server ends."""
        fault: ServiceError | None = None
        await self._send(server_event("session.created", session=self._session.shown()))
        try:
            while (said := await self._said()) is not None:
                await self._answer(said)
        except DeadlineError as error:
            fault = error
        if self._item is not None and self._item.audible:
            await self._commit(self._item)
        elif self._item is not None:
            self._forget(self._item)
        return fault

    async def _said(self) -> str | bytes | None:
        """Wait for the client's next word; None when the server ends first.

        Raises:
            DeadlineError: nothing came for too long.
        """
        limit_s = TURN_S if self._item is not None and self._item.audible else IDLE_S
        said = asyncio.ensure_future(self._inbox.next())
        draining = asyncio.ensure_future(self._draining.wait())
        try:
            await asyncio.wait(
                {said, draining}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED
            )
            if draining.done():
                return None
            if said.done():
                return said.result()
        finally:
            said.cancel()
            draining.cancel()
        raise DeadlineError(f"no message came within {limit_s:g} s", code="idle_timeout")

    async def _answer(self, said: str | bytes) -> None:
        event_id = None
        try:
            fields = read_fields(said)
            event_id = event_id_of(fields)
            await self._do(parse_event(fields, _EVENTS))
        except ServiceError as error:
            await self._send(fault_event(error, event_id))

    async def _do(self, event: ClientEvent) -> None:
        if isinstance(event, AppendEvent):
            await self._append(event.data())
        elif isinstance(event, CommitEvent):
            await self._end_turn()
        elif isinstance(event, ClearEvent):
            await self._clear()
        elif isinstance(event, SessionUpdate):
            await self._update(event)

    async def _update(self, event: SessionUpdate) -> None:
        before = self._session
        session = updated(before, event.session, self._engine, self._models)
        if session.live_format != before.live_format:
            await self._take(self._decoder.finish())
            self._decoder = LiveDecoder(session.live_format, SAMPLE_RATE_HZ)
        self._session = session
        if session.turns != before.turns:
            await self._find_turns_anew(by_client=before.turns is None)
        if self._item is not None and not self._item.audible:
            self._item.session = session
        await self._send(server_event("session.updated", session=session.shown()))

    async def _find_turns_anew(self, *, by_client: bool) -> None:
        """Begin with the session's way to find turns; what is under way goes on if it can."""
        if self._turns is not None and self._item is not None:
            self._item.add(self._turns.cut(), speech=False)
        if self._item is not None and self._session.turns is not None:
            if by_client and not self._item.audible:
                self._forget(self._item)
            else:
                await self._commit(self._item)
        self._detector = self._engine.detector()
        self._turns = self._fresh_turns()

    def _fresh_turns(self) -> TurnDetector | None:
        turns = self._session.turns
        return None if turns is None else TurnDetector(self._engine.detector(), turns, self._taken)

    async def _append(self, data: bytes) -> None:
        """Take in sound, no faster than it can be heard."""
        frame = 2 if self._session.live_format == "audio/pcm" else 1
        step = int(LIVE_RATE_HZ[self._session.live_format] * _STEP_S) * frame
        for begin in range(0, len(data), step):
            await self._take(self._decoder.feed(data[begin : begin + step]))
            await self._hearing.room()
            if len(data) > step:
                await asyncio.sleep(0)  # others talk too

    async def _take(self, samples: Samples) -> None:
        self._taken += samples.size
        if self._turns is None:
            self._keep(samples)
            return
        for event in self._turns.feed(samples):
            if isinstance(event, Started):
                item = self._item = self._begin(audible=True)
                await self._send(
                    server_event(
                        "input_audio_buffer.speech_started",
                        audio_start_ms=event.start_ms,
                        item_id=item.id,
                    )
                )
            elif self._item is None:
                continue
            elif isinstance(event, Sound):
                self._item.add(event.samples, speech=event.speech)
            elif isinstance(event, Stopped):
                await self._send(
                    server_event(
                        "input_audio_buffer.speech_stopped",
                        audio_end_ms=event.end_ms,
                        item_id=self._item.id,
                    )
                )
                await self._commit(self._item)

    def _keep(self, samples: Samples) -> None:
        """Keep sound for the client's commit."""
        if not samples.size:
            return
        if self._item is None:
            self._item = self._begin(audible=False)
        probability = max(self._detector.feed(samples), default=0.0)
        self._item.add(samples, speech=probability >= TURNS.threshold)

    def _begin(self, *, audible: bool) -> Item:
        item = Item(self._session, audible=audible)
        self._hearing.begin(item)
        return item

    async def _end_turn(self) -> None:
        """End the turn here, as the client wishes."""
        if self._turns is None:
            rest = self._decoder.finish()
            self._taken += rest.size
            self._keep(rest)
            heard_ms = self._item.samples * 1000 // SAMPLE_RATE_HZ if self._item is not None else 0
            if heard_ms < LEAST_MS:
                raise _nothing(
                    f"the buffer has {heard_ms} ms of sound, at least {LEAST_MS} are needed"
                )
        elif self._item is None:
            raise _nothing("nobody is speaking, and server_vad commits what is spoken")
        else:
            self._item.add(self._turns.cut(), speech=False)
        if self._item is not None:
            await self._commit(self._item)

    async def _clear(self) -> None:
        self._taken += self._decoder.finish().size
        if self._turns is not None:
            self._turns.cut()
        if self._item is not None:
            self._forget(self._item)
        await self._send(server_event("input_audio_buffer.cleared"))

    async def _commit(self, item: Item) -> None:
        """Tell that the item is whole, and have its text made."""
        about = {"previous_item_id": self._previous, "item_id": item.id}
        await self._send(server_event("input_audio_buffer.committed", **about))
        for kind in ("conversation.item.added", "conversation.item.done"):
            shown = _shown(item)
            await self._send(server_event(kind, previous_item_id=self._previous, item=shown))
        self._previous = item.id
        self._item = None
        item.end()

    def _forget(self, item: Item) -> None:
        self._item = None
        self._hearing.drop(item)

    async def _send(self, text: str) -> None:
        await self._sending({"type": "websocket.send", "text": text})


def _nothing(why: str) -> InvalidRequestError:
    return InvalidRequestError(f"nothing to commit: {why}", code="input_audio_buffer_commit_empty")


def _shown(item: Item) -> dict[str, object]:
    """Return an item as OpenAI has a user's message."""
    return {
        "id": item.id,
        "object": "realtime.item",
        "type": "message",
        "status": "completed",
        "role": "user",
        "content": [{"type": "input_audio", "transcript": None}],
    }
