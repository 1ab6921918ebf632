"""The sound of one session on its way into turns: what the client appends, commits and clears."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from services.audio.live import LIVE_RATE_HZ, LiveDecoder
from services.errors import InvalidRequestError
from services.openai.realtime import server_event
from services.transcription.engines.protocol import SAMPLE_RATE_HZ
from services.transcription.item import Item
from services.transcription.session import TURNS
from services.transcription.turns import Sound, Started, Stopped, TurnDetector

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from services.audio.pcm import Samples
    from services.transcription.engines.protocol import TranscriptionEngine
    from services.transcription.hearing import Hearing
    from services.transcription.session import Session

LEAST_MS: Final = 100
"""What `input_audio_buffer.commit` needs: OpenAI's bound."""

_STEP_S: Final = 0.25  # of an append that is taken in at once: a few milliseconds of work


class Intake:
    """Makes items of the sound that comes in, and hands them to `hearing`.

    Attributes:
        session: what is in force.
    """

    def __init__(
        self,
        engine: TranscriptionEngine,
        session: Session,
        hearing: Hearing,
        send: Callable[[str], Awaitable[None]],
    ) -> None:
        """Begin with a session that has no sound yet; `send` sends an event."""
        self.session = session
        self._engine = engine
        self._hearing = hearing
        self._send = send
        self._decoder = LiveDecoder(session.live_format, SAMPLE_RATE_HZ)
        self._taken = 0  # samples of the whole session
        self._detector = engine.detector()  # of speech where the client commits
        self._turns = self._fresh_turns()
        self._item: Item | None = None
        self._previous: str | None = None

    @property
    def speaking(self) -> bool:
        """Whether a turn is under way in which somebody was heard."""
        return self._item is not None and self._item.audible

    async def append(self, data: bytes) -> None:
        """Take in sound, no faster than it can be heard."""
        frame = 2 if self.session.live_format == "audio/pcm" else 1
        step = int(LIVE_RATE_HZ[self.session.live_format] * _STEP_S) * frame
        for begin in range(0, len(data), step):
            await self._take(self._decoder.feed(data[begin : begin + step]))
            await self._hearing.room()
            if len(data) > step:
                await asyncio.sleep(0)  # others talk too

    async def commit(self) -> None:
        """End the turn here, as the client wishes.

        Raises:
            InvalidRequestError: there is none (`input_audio_buffer_commit_empty`).
        """
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
        if self._item is not None:
            await self._end_here(self._item)

    async def clear(self) -> None:
        """Forget the turn under way."""
        self._taken += self._decoder.finish().size
        if self._turns is not None:
            self._turns.cut()
        self._forget()
        await self._send(server_event("input_audio_buffer.cleared"))

    async def finish(self) -> None:
        """End the turn under way, if somebody was heard in it: no more sound comes."""
        if self._item is not None and self._item.audible:
            await self._end_here(self._item)
        self._forget()

    async def follow(self, session: Session) -> None:
        """Go on as `session` says; the turn under way goes on, too, if it can."""
        before, self.session = self.session, session
        if session.live_format != before.live_format:
            await self._take(self._decoder.finish())
            self._decoder = LiveDecoder(session.live_format, SAMPLE_RATE_HZ)
        if session.turns != before.turns:
            await self._find_turns_anew(by_client=before.turns is None)
        if self._item is not None and not self._item.audible:
            self._item.session = session

    async def _find_turns_anew(self, *, by_client: bool) -> None:
        if self._item is not None and self.session.turns is None:
            self._rest(self._item)
        elif self._item is not None and by_client and not self._item.audible:
            self._forget()
        elif self._item is not None:
            await self._end_here(self._item)
        self._detector = self._engine.detector()
        self._turns = self._fresh_turns()

    def _fresh_turns(self) -> TurnDetector | None:
        turns = self.session.turns
        return None if turns is None else TurnDetector(self._engine.detector(), turns, self._taken)

    async def _take(self, samples: Samples) -> None:
        self._taken += samples.size
        if self._turns is None:
            self._keep(samples)
            return
        for event in self._turns.feed(samples):
            if isinstance(event, Started):
                item = self._item = self._begin(audible=True)
                await self._tell("speech_started", item, audio_start_ms=event.start_ms)
            elif self._item is None:
                continue
            elif isinstance(event, Sound):
                self._item.add(event.samples, speech=event.speech)
            elif isinstance(event, Stopped):
                await self._tell("speech_stopped", self._item, audio_end_ms=event.end_ms)
                await self._end(self._item)

    def _keep(self, samples: Samples) -> None:
        """Keep sound for the client's commit."""
        if not samples.size:
            return
        if self._item is None:
            self._item = self._begin(audible=False)
        probability = max(self._detector.feed(samples), default=0.0)
        self._item.add(samples, speech=probability >= TURNS.threshold)

    def _begin(self, *, audible: bool) -> Item:
        item = Item(self.session, audible=audible)
        self._hearing.begin(item)
        return item

    def _rest(self, item: Item) -> None:
        """Let the item have what the detector has held back."""
        if self._turns is not None:
            item.add(self._turns.cut(), speech=False)

    async def _end_here(self, item: Item) -> None:
        """End the item in the middle of speech."""
        self._rest(item)
        await self._end(item)

    async def _end(self, item: Item) -> None:
        """Tell that the item is whole, and have its text made."""
        await self._tell("committed", item, previous_item_id=self._previous)
        for kind in ITEM_EVENTS[item.session.beta]:
            await self._send(server_event(kind, previous_item_id=self._previous, item=_shown(item)))
        self._previous = item.id
        self._item = None
        item.end()

    def _forget(self) -> None:
        if self._item is not None:
            self._hearing.drop(self._item)
        self._item = None

    async def _tell(self, kind: str, item: Item, **fields: object) -> None:
        await self._send(server_event(f"input_audio_buffer.{kind}", item_id=item.id, **fields))


ITEM_EVENTS: Final = {
    False: ("conversation.item.added", "conversation.item.done"),
    True: ("conversation.item.created",),
}
"""What tells of a new item: now, and to clients of the beta."""


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
