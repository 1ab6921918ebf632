"""The turns of one session, heard one after another: partial text while one lasts, then its text.

While somebody speaks, the engine is asked what they seem to have said, and asked again when it has
answered and enough more was said. What two guesses agree on goes out and is never taken back: later
guesses, and the final text, have to begin with it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from services.audio.pcm import duration_s
from services.errors import EngineError, OverloadedError, ServiceError, UnavailableError
from services.openai.errors import fault_of
from services.openai.realtime import server_event
from services.racing import racing
from services.server.websocket import HungUpError
from services.transcription.answers import logprobs_of
from services.transcription.engines.protocol import SAMPLE_RATE_HZ
from services.transcription.partials import StableText, continues, gap

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from services.audio.pcm import Samples
    from services.transcription.engines.protocol import Hypothesis, Token, TranscriptionEngine
    from services.transcription.turn import Turn

log = logging.getLogger("bentovox.transcription")

FIRST_SAMPLES: Final = SAMPLE_RATE_HZ
"""How much of a piece has to be there before the engine is asked: of less it makes anything."""

GUESS_SAMPLES: Final = int(0.4 * SAMPLE_RATE_HZ)
"""How much has to be new before the engine is asked again."""

HELD_SAMPLES: Final = 60 * SAMPLE_RATE_HZ
"""How much a session may be ahead of the engine; its client is read no further then."""

_PROMPT_CHARACTERS: Final = 200  # of a long turn's text, before its next piece
_KIND: Final = "conversation.item.input_audio_transcription."


@dataclass
class _Transcript:
    """What a turn came to so far.

    Attributes:
        turn: the turn.
        text: of the pieces that are heard.
        language: once it is known; that of the session counts before.
        logprobs: of the text, where they are wanted.
    """

    turn: Turn
    text: str
    language: str | None
    logprobs: list[Token]

    @property
    def prompt(self) -> str:
        """What the next piece follows."""
        return f"{self.turn.session.prompt} {self.text[-_PROMPT_CHARACTERS:]}".strip()


class Transcriber:
    """Hears the turns that `begin` was given; holds a slot while there is one to hear."""

    def __init__(
        self,
        engine: TranscriptionEngine,
        send: Callable[[str], Awaitable[None]],
        slot: Callable[[], AbstractAsyncContextManager[None]],
        on_audio_seconds: Callable[[float], None],
    ) -> None:
        self._engine = engine
        self._send = send
        self._slot = slot
        self._on_audio_seconds = on_audio_seconds
        self._turns: deque[Turn] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._finishing = False
        self._work: asyncio.Task[None] | None = None

    def begin(self, turn: Turn) -> None:
        """Hear this turn after those before it; its sound may still be coming."""
        self._turns.append(turn)
        self._news.set()

    def drop(self, turn: Turn) -> None:
        """Hear this turn no further; nothing more is said of it."""
        turn.drop()
        if self._work is not None and self._turns[0] is turn:
            self._work.cancel()

    def finish(self) -> None:
        """Have `run` return after the turns that there are."""
        self._finishing = True
        self._news.set()

    async def room(self) -> None:
        """Wait until no more than `HELD_SAMPLES` are still to be heard."""
        while sum(turn.held for turn in self._turns) > HELD_SAMPLES:
            self._room.clear()
            await self._room.wait()

    async def run(self) -> None:
        """Hear turns until `finish`.

        Raises:
            OverloadedError: no slot.
            UnavailableError: the engine is ready no more.
            HungUpError: the client has gone.
        """
        while await self._due():
            async with self._slot():
                while self._turns and self._turns[0].due:
                    if not self._turns[0].dropped:
                        await self._hear_unless_dropped(self._turns[0])
                    self._turns.popleft()
                    self._room.set()

    async def _due(self) -> bool:
        """Wait until there is something to hear; False if that will not be."""
        while not self._turns:
            if self._finishing:
                return False
            self._news.clear()
            await self._news.wait()
        await self._turns[0].until_due()
        return True

    async def _hear_unless_dropped(self, turn: Turn) -> None:
        self._work = asyncio.ensure_future(self._hear(turn))
        try:
            await self._work
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not turn.dropped or (task is not None and task.cancelling()):
                raise
        finally:
            self._work = None

    async def _hear(self, turn: Turn) -> None:
        try:
            await self._say(turn)
        except (HungUpError, OverloadedError):
            raise
        except ServiceError as error:
            await self._failed(turn, error)
            if isinstance(error, UnavailableError):
                raise
        except Exception:
            log.exception("live transcription broke off after %d samples", turn.samples)
            engine = self._engine.name
            await self._failed(
                turn, EngineError(f"the {engine} engine failed", code="engine_failed")
            )

    async def _failed(self, turn: Turn, error: ServiceError) -> None:
        turn.drop()
        await self._tell("failed", turn, error=fault_of(error))

    async def _say(self, turn: Turn) -> None:
        said = _Transcript(turn, "", None, [])
        while True:
            stable = StableText()
            if not turn.session.logprobs:  # they are known of the final text only
                await self._guess(said, stable)
            await turn.until_complete()
            piece = turn.take()
            self._room.set()
            if piece is None:
                break
            if not piece.speech:  # a model makes words of silence
                continue
            text, logprobs = await self._final(said, stable, piece.samples)
            said.logprobs += logprobs
            if rest := text[len(stable.text) :]:
                lead = "" if stable.text else gap(said.text, rest)
                more = {"logprobs": logprobs_of(logprobs)} if turn.session.logprobs else {}
                await self._tell("delta", turn, delta=lead + rest, **more)
            said.text += gap(said.text, text) + text
        seconds = duration_s(turn.samples, SAMPLE_RATE_HZ)
        more = {"logprobs": logprobs_of(said.logprobs)} if turn.session.logprobs else {}
        self._on_audio_seconds(seconds)
        await self._tell(
            "completed",
            turn,
            transcript=said.text,
            usage={"type": "duration", "seconds": round(seconds, 3)},
            **more,
        )

    async def _guess(self, said: _Transcript, stable: StableText) -> None:
        """Say what is stable of the piece that comes, until it is complete."""
        turn = said.turn
        before = seen = 0
        size = FIRST_SAMPLES
        while True:
            # What was said last is guessed at twice, and then no more until more is said.
            await turn.until_grown(size, since=before)
            if turn.complete:
                return
            sound = turn.sound()
            before, seen = seen, sound.size
            began = time.monotonic()
            guess = await self._unless_complete(said, stable, sound)
            if guess is None:
                return
            # Half of the time at most: a queue of guesses would only make all of them late.
            took = int((time.monotonic() - began) * SAMPLE_RATE_HZ)
            size = seen + max(GUESS_SAMPLES, 2 * took)
            is_first = not stable.text
            if new := stable.add(guess.text):
                said.language = guess.language
                lead = gap(said.text, new) if is_first else ""
                await self._tell("delta", turn, delta=lead + new)

    async def _unless_complete(
        self, said: _Transcript, stable: StableText, sound: Samples
    ) -> Hypothesis | None:
        """Return a guess, or None when the piece is complete first: then it comes too late."""
        work = (self._asked(said, stable, sound), said.turn.until_complete())
        async with racing(*work) as (guessing, _):
            return guessing.result() if guessing.done() else None

    async def _asked(self, said: _Transcript, stable: StableText, sound: Samples) -> Hypothesis:
        return await self._engine.guess(
            said.turn.session.guess(sound, stable.text, said.prompt, said.language)
        )

    async def _final(
        self, said: _Transcript, stable: StableText, piece: Samples
    ) -> tuple[str, list[Token]]:
        """Return the text of a piece, which continues what is stable of it, and its tokens."""
        request = said.turn.session.request(piece, said.prompt, said.language)
        texts: list[str] = []
        logprobs: list[Token] = []
        async with aclosing(self._engine.transcribe(request)) as segments:
            async for segment in segments:
                texts.append(segment.text)
                logprobs += segment.logprobs
        text = "".join(texts).strip()
        if continues(text, stable.text):
            return text, logprobs
        text = (await self._asked(said, stable, piece)).text.strip()
        return (text if continues(text, stable.text) else stable.text), []

    async def _tell(self, kind: str, turn: Turn, **fields: object) -> None:
        await self._send(server_event(_KIND + kind, item_id=turn.id, content_index=0, **fields))
