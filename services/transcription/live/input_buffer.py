"""The input audio buffer of a session: what the client appends, commits and clears."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from services.audio.decode import LiveDecoder
from services.errors import InvalidRequestError
from services.openai.realtime import server_event
from services.transcription.engines.protocol import SAMPLE_RATE_HZ
from services.transcription.live.session import TURNS
from services.transcription.live.turn import Sound, Turn
from services.transcription.live.turn_detection import Started, Stopped, TurnDetector

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from services.audio.pcm import Samples
    from services.transcription.engines.protocol import TranscriptionEngine
    from services.transcription.live.session import Session
    from services.transcription.live.transcriber import Transcriber

LEAST_MS: Final = 100
"""The least audio for `input_audio_buffer.commit`, as at OpenAI."""

_STEP_S: Final = 0.25  # of audio taken in at once: a few milliseconds of work


class InputBuffer:
    """Makes turns of the incoming audio, and hands them to `transcriber`.

    Attributes:
        session: the settings in force.
    """

    def __init__(
        self,
        engine: TranscriptionEngine,
        session: Session,
        transcriber: Transcriber,
        send: Callable[[str], Awaitable[None]],
    ) -> None:
        """Start a session; `send` sends an event."""
        self.session = session
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
    def speaking(self) -> bool:
        """Whether somebody has spoken in the current turn."""
        return self._turn is not None and self._turn.audible

    async def append(self, data: bytes) -> None:
        """Take in audio, no faster than it can be transcribed."""
        step = int(self._decoder.bytes_per_s * _STEP_S)
        for begin in range(0, len(data), step):
            await self._take(self._decoder.feed(data[begin : begin + step]))
            await self._transcriber.room()
            if len(data) > step:
                await asyncio.sleep(0)  # let other sessions run

    async def commit(self) -> None:
        """End the current turn.

        Raises:
            InvalidRequestError: there is none (`input_audio_buffer_commit_empty`).
        """
        await self._take(self._decoder.finish())
        if self._turn_detector is None:
            heard_ms = self._turn.samples * 1000 // SAMPLE_RATE_HZ if self._turn is not None else 0
            if heard_ms < LEAST_MS:
                raise _nothing(
                    f"the buffer has {heard_ms} ms of sound, at least {LEAST_MS} are needed"
                )
        elif self._turn is None:
            raise _nothing("nobody is speaking, and server_vad commits what is spoken")
        if self._turn is not None:
            await self._end_here(self._turn)

    async def clear(self) -> None:
        """Forget the current turn."""
        self._taken += self._decoder.finish().size
        if self._turn_detector is not None:
            self._turn_detector.cut()
        self._forget()
        await self._send(server_event("input_audio_buffer.cleared"))

    async def finish(self) -> None:
        """End the current turn if somebody has spoken in it; no more audio comes."""
        if self._turn is not None and self._turn.audible:
            await self._end_here(self._turn)
        self._forget()

    async def follow(self, session: Session) -> None:
        """Apply new settings; the current turn goes on if it can."""
        before, self.session = self.session, session
        if session.live_format != before.live_format:
            await self._take(self._decoder.finish())
            self._decoder = LiveDecoder(session.live_format, SAMPLE_RATE_HZ)
        if session.turns != before.turns:
            await self._find_turns_anew(by_client=before.turns is None)
        if self._turn is not None and not self._turn.audible:
            self._turn.session = session

    async def _find_turns_anew(self, *, by_client: bool) -> None:
        if self._turn is not None and self.session.turns is None:
            self._rest(self._turn)
        elif self._turn is not None and by_client and not self._turn.audible:
            self._forget()
        elif self._turn is not None:
            await self._end_here(self._turn)
        self._detector = self._engine.detector()
        self._turn_detector = self._fresh_detector()

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
        """Add what the detector has held back."""
        if self._turn_detector is not None:
            turn.add(self._turn_detector.cut(), speech=False)

    async def _end_here(self, turn: Turn) -> None:
        """End the turn although the detector has not ended it."""
        self._rest(turn)
        await self._end(turn)

    async def _end(self, turn: Turn) -> None:
        """Announce that the turn is complete, and let its text be finished."""
        await self._tell("committed", turn, previous_item_id=self._previous)
        for kind in ITEM_EVENTS[turn.session.beta]:
            await self._send(server_event(kind, previous_item_id=self._previous, item=_shown(turn)))
        self._previous = turn.id
        self._turn = None
        turn.end()

    def _forget(self) -> None:
        if self._turn is not None:
            self._transcriber.drop(self._turn)
        self._turn = None

    async def _tell(self, kind: str, turn: Turn, **fields: object) -> None:
        await self._send(server_event(f"input_audio_buffer.{kind}", item_id=turn.id, **fields))


ITEM_EVENTS: Final = {
    False: ("conversation.item.added", "conversation.item.done"),
    True: ("conversation.item.created",),
}
"""The events for a new turn, by whether the client was written for the beta."""


def _nothing(why: str) -> InvalidRequestError:
    return InvalidRequestError(f"nothing to commit: {why}", code="input_audio_buffer_commit_empty")


def _shown(turn: Turn) -> dict[str, object]:
    """Return a turn as OpenAI's item of a user's message."""
    return {
        "id": turn.id,
        "object": "realtime.item",
        "type": "message",
        "status": "completed",
        "role": "user",
        "content": [{"type": "input_audio", "transcript": None}],
    }
