"""/v1/realtime, the WebSocket for sessions of type transcription: audio in, text out meanwhile.

Its messages are those of OpenAI's realtime API (openai-python, `openai/types/realtime/`), which
`docs/realtime-transcription.md` lists in their order.

A client's mistake is answered with an `error` event, which names the event that caused it, and the
session goes on. It also goes on after a turn on which the engine failed.

A slot is held from the first speech of a turn until its text, not while nobody speaks. If there is
none, the session gets an error and close code 1013 (`services.server.websocket` has the codes; 3008
means that the client was silent for too long).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from starlette.types import Receive, Scope, Send

from services.audio.decode import LiveDecoder
from services.audio.pcm import Samples
from services.errors import DeadlineError, InvalidRequestError, ServiceError, UnavailableError
from services.openai import realtime
from services.openai.answers import new_id
from services.openai.models import Models
from services.openai.reading import invalid
from services.server.live import LiveSession
from services.transcription.engines.protocol import SAMPLE_RATE_HZ, TranscriptionEngine
from services.transcription.live.session import TURNS, Session, SessionUpdate, updated
from services.transcription.live.transcriber import Transcriber
from services.transcription.live.turns import Sound, Started, Stopped, Turn, TurnDetector

IDLE_S: Final = 300.0
"""How long a client may be silent between turns, when it holds no slot."""

TURN_S: Final = 30.0
"""How long a client may be silent within a turn, during which it holds a slot."""

LEAST_MS: Final = 100
"""The least audio for `input_audio_buffer.commit`, as at OpenAI."""

_STEP_S: Final = 0.25  # of audio taken in at once: a few milliseconds of work

_EVENTS: Final[dict[str, type[realtime.ClientEvent]]] = {
    "session.update": SessionUpdate,
    **realtime.BUFFER_EVENTS,
}


@dataclass(frozen=True)
class RealtimeSocket:
    """The application of the WebSocket, for `RoleApp.sockets`."""

    engine: TranscriptionEngine  # what transcribes; the caller starts and closes it
    models: Models  # the names that it answers to
    on_audio_seconds: Callable[[float], None]  # called once a turn with the seconds heard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection until it ends."""
        query = realtime.query_of(scope)
        intent = query.get("intent", ["transcription"])[0]
        if intent != "transcription":
            why = f"{intent!r} is not served here; connect with intent=transcription"
            raise invalid("intent", why, "unsupported_value")
        model = query.get("model", self.models.names)[0]
        self.models.check(model)
        if not self.engine.ready:
            raise UnavailableError(self.engine.status, retry_after_s=1.0)
        await realtime.accept(scope, send)
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
        fault: ServiceError | None = None
        async with self._transcriber.working():
            shown = self._buffer.session.shown()
            await self.send(realtime.server_event("session.created", session=shown))
            try:
                while (message := await self.next_message(self._buffer.patience_s)) is not None:
                    await realtime.act_on(message, self._do, self.send)
            except DeadlineError as error:
                fault = error
            await self._buffer.finish()
        if fault is not None:
            raise fault

    async def _do(self, fields: dict[str, Any]) -> None:
        event = realtime.parse_event(fields, _EVENTS)
        if isinstance(event, realtime.AppendEvent):
            await self._buffer.append(event.data())
        elif event.type == "input_audio_buffer.commit":
            await self._buffer.commit()
        elif event.type == "input_audio_buffer.clear":
            await self._buffer.clear()
        elif isinstance(event, SessionUpdate):
            session = updated(self._buffer.session, event.session, self._engine, self._models)
            await self._buffer.follow(session)
            await self.send(realtime.server_event("session.updated", session=session.shown()))


class InputBuffer:
    """Makes turns of the incoming audio, and hands them to `transcriber`."""

    def __init__(
        self,
        engine: TranscriptionEngine,
        session: Session,
        transcriber: Transcriber,
        send: Callable[[str], Awaitable[None]],
    ) -> None:
        """Start a session; `send` sends an event."""
        self.session = session  # the settings in force
        self._engine = engine
        self._transcriber = transcriber
        self._send = send
        self._decoder = LiveDecoder(session.live_format, SAMPLE_RATE_HZ)
        self._taken = 0  # samples of the whole session
        self._detector = engine.detector()  # for turns that the client commits
        self._turn_detector = self._fresh_detector()
        self._turn: Turn | None = None
        self._previous: str | None = None

    @property
    def patience_s(self) -> float:
        """How long the client may be silent now."""
        return TURN_S if self._turn is not None and self._turn.audible else IDLE_S

    async def append(self, data: bytes) -> None:
        """Take in audio, no faster than it can be transcribed."""
        step = int(self._decoder.bytes_per_s * _STEP_S)
        for begin in range(0, len(data), step):
            await self._take(self._decoder.feed(data[begin : begin + step]))
            await self._transcriber.room()
            if len(data) > step:
                await asyncio.sleep(0)  # let other sessions run

    async def commit(self) -> None:
        """End the current turn; InvalidRequestError if there is none."""
        await self._take(self._decoder.finish())
        heard_ms = self._turn.samples * 1000 // SAMPLE_RATE_HZ if self._turn is not None else 0
        by_client = self._turn_detector is None
        if self._turn is not None and not (by_client and heard_ms < LEAST_MS):
            self._rest(self._turn)
            await self._end(self._turn)
            return
        why = "nobody is speaking, and server_vad commits what is spoken"
        if by_client:
            why = f"the buffer has {heard_ms} ms of sound, at least {LEAST_MS} are needed"
        raise InvalidRequestError(
            f"nothing to commit: {why}", code="input_audio_buffer_commit_empty"
        )

    async def clear(self) -> None:
        """Forget the current turn."""
        self._taken += self._decoder.finish().size
        if self._turn_detector is not None:
            self._turn_detector.cut()
        self._forget()
        await self._send(realtime.server_event("input_audio_buffer.cleared"))

    async def finish(self) -> None:
        """End the current turn if somebody has spoken in it, and forget it otherwise."""
        if self._turn is not None and self._turn.audible:
            self._rest(self._turn)
            await self._end(self._turn)
        self._forget()

    async def follow(self, session: Session) -> None:
        """Apply new settings; the current turn goes on if it can."""
        before, self.session = self.session, session
        if session.live_format != before.live_format:
            await self._take(self._decoder.finish())
            self._decoder = LiveDecoder(session.live_format, SAMPLE_RATE_HZ)
        if session.turns != before.turns:
            if session.turns is not None:
                await self.finish()
            elif self._turn is not None:  # the client is to commit what has begun
                self._rest(self._turn)
            self._detector = self._engine.detector()
            self._turn_detector = self._fresh_detector()
        if self._turn is not None and not self._turn.audible:
            self._turn.session = session

    def _fresh_detector(self) -> TurnDetector | None:
        turns = self.session.turns
        return None if turns is None else TurnDetector(self._engine.detector(), turns, self._taken)

    async def _take(self, samples: Samples) -> None:
        self._taken += samples.size
        if self._turn_detector is None:
            self._keep(samples)
            return
        for event in self._turn_detector.feed(samples):
            if isinstance(event, Started):
                turn = self._turn = self._begin(event.start_ms, audible=True)
                await self._tell("speech_started", turn, audio_start_ms=event.start_ms)
            elif self._turn is None:
                continue
            elif isinstance(event, Sound):
                self._turn.add(event.samples, speech=event.speech)
            elif isinstance(event, Stopped):
                await self._tell("speech_stopped", self._turn, audio_end_ms=event.end_ms)
                await self._end(self._turn)

    def _keep(self, samples: Samples) -> None:
        """Keep audio for the client's commit."""
        if not samples.size:
            return
        if self._turn is None:
            begin = self._taken - samples.size
            self._turn = self._begin(begin * 1000 // SAMPLE_RATE_HZ, audible=False)
        probability = max(self._detector.feed(samples), default=0.0)
        self._turn.add(samples, speech=probability >= TURNS.threshold)

    def _begin(self, start_ms: int, *, audible: bool) -> Turn:
        turn = Turn(self.session, audible=audible, start_ms=start_ms)
        self._transcriber.begin(turn)
        return turn

    def _rest(self, turn: Turn) -> None:
        """Add what the detector has held back, since it has not ended the turn."""
        if self._turn_detector is not None:
            turn.add(self._turn_detector.cut(), speech=False)

    async def _end(self, turn: Turn) -> None:
        """Announce that the turn is complete, and let its text be finished."""
        await self._tell("committed", turn, previous_item_id=self._previous)
        item = {
            "id": turn.id,
            "object": "realtime.item",
            "type": "message",
            "status": "completed",
            "role": "user",
            "content": [{"type": "input_audio", "transcript": None}],
        }
        for kind in ("conversation.item.added", "conversation.item.done"):
            await self._send(
                realtime.server_event(kind, previous_item_id=self._previous, item=item)
            )
        self._previous = turn.id
        self._turn = None
        turn.end()

    def _forget(self) -> None:
        if self._turn is not None:
            self._transcriber.drop(self._turn)
        self._turn = None

    async def _tell(self, kind: str, turn: Turn, **fields: object) -> None:
        await self._send(
            realtime.server_event(f"input_audio_buffer.{kind}", item_id=turn.id, **fields)
        )
