"""Transcribing the turns of a live session, one after another, while they are spoken.

While somebody speaks, the engine guesses what was said so far, and guesses again once it has
answered and enough more was said. What two guesses agree on is sent and never taken back: later
guesses and the final text have to begin with it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from typing import Final

from services.audio.pcm import Samples, duration_s
from services.errors import EngineError, ServiceError, UnavailableError
from services.languages import UNSPACED, gap
from services.openai.body import ClientGoneError
from services.openai.errors import fault_of
from services.openai.realtime import server_event
from services.tasks import racing
from services.transcription.answers import logprobs_of
from services.transcription.engines import protocol
from services.transcription.live.turns import Turn

log = logging.getLogger("bentovox.transcription")

FIRST_SAMPLES: Final = protocol.SAMPLE_RATE_HZ
"""How much of a piece is needed for the first guess; guesses at less are arbitrary."""

GUESS_SAMPLES: Final = int(0.4 * protocol.SAMPLE_RATE_HZ)
"""How much more is needed for the next guess."""

HELD_SAMPLES: Final = 60 * protocol.SAMPLE_RATE_HZ
"""How far a session may be ahead of the engine before its client is not read any further."""

_PROMPT_CHARACTERS: Final = 200  # of a long turn's text, as context for its next piece
_KIND: Final = "conversation.item.input_audio_transcription."
# In scripts without spaces each character counts as a word.
_WORD: Final = re.compile(rf"\s*(?:[{UNSPACED}]|[^\s{UNSPACED}]+)")


class StableText:
    """The text of an unfinished turn as far as two guesses in a row agree; it only grows, by words.

    This is LocalAgreement from "Low-Latency Sequence-to-Sequence Speech Recognition" (Liu et al.
    2020, https://arxiv.org/abs/2005.11185), as in whisper_streaming.
    """

    def __init__(self) -> None:
        self.text = ""
        self._before: list[str] = []

    def add(self, guess: str) -> str:
        """Take the next guess at the whole text; return what became stable with it.

        A guess that does not continue the stable text is ignored, and so is the last word of every
        guess, which may be incomplete.
        """
        guess = guess.strip()
        if not continues(guess, self.text):
            self._before = []
            return ""
        words = _WORD.findall(guess[len(self.text) :])[:-1]
        pairs = zip(words, self._before, strict=False)
        agreed = [word for word, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]
        self._before = words[len(agreed) :]
        new = "".join(agreed)
        self.text += new
        return new


def continues(text: str, beginning: str) -> bool:
    """Return whether `text` begins with `beginning`, which does not end within a word."""
    if not text.startswith(beginning):
        return False
    if not beginning or text == beginning:
        return True
    last, first = beginning[-1], text[len(beginning)]
    inside = last.isalnum() and first.isalnum()
    return not inside or not gap(last, first)


@dataclass
class _Transcript:
    """A turn's text so far."""

    turn: Turn
    text: str = ""  # of the finished pieces
    sent: str = ""  # that, and the beginning of the current piece's
    language: str | None = None  # once it is known; until then the session's counts
    logprobs: list[protocol.Token] = field(default_factory=list)  # of the text, if wanted
    stable: StableText = field(default_factory=StableText)  # text of the current piece

    def guess(self, sound: Samples) -> protocol.GuessRequest:
        """Return the request for the text of the current piece, as far as it is there."""
        hints = self.turn.session.hints(self._prompt, self.language)
        return protocol.GuessRequest(sound, self.stable.text, **hints)

    def request(self, sound: Samples) -> protocol.TranscriptionRequest:
        """Return the request for the final text of the current piece."""
        return self.turn.session.request(sound, self._prompt, self.language)

    @property
    def _prompt(self) -> str:
        return f"{self.turn.session.prompt} {self.text[-_PROMPT_CHARACTERS:]}".strip()


class Transcriber:
    """Transcribes the turns given to `begin`, each in a task and in their order.

    It takes a slot when a turn is due, and keeps it until none is: a client that is ahead of the
    engine is not refused between two of its turns.
    """

    def __init__(
        self,
        engine: protocol.TranscriptionEngine,
        send: Callable[[str], Awaitable[None]],
        slot: Callable[[], AbstractAsyncContextManager[None]],
        on_audio_seconds: Callable[[float], None],
    ) -> None:
        self._engine = engine
        self._send = send
        self._slot = slot
        self._on_audio_seconds = on_audio_seconds
        self._group: asyncio.TaskGroup
        self._turns: dict[Turn, asyncio.Task[None]] = {}
        self._order = asyncio.Lock()
        self._held: AsyncExitStack | None = None  # the slot
        self._room = asyncio.Event()

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Transcribe during the block, which ends with the last turn.

        OverloadedError if there is no slot, UnavailableError if the engine is no longer ready, and
        ClientGoneError break it off.
        """
        try:
            async with asyncio.TaskGroup() as self._group:
                yield
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            await self._give_back()  # tasks that were cancelled before they began have not

    def begin(self, turn: Turn) -> None:
        """Transcribe this turn after those before it; its audio may still be arriving."""

        def gone(_: object) -> None:
            self._turns.pop(turn, None)
            turn.drop()
            self._room.set()

        self._turns[turn] = self._group.create_task(self._hear(turn))
        self._turns[turn].add_done_callback(gone)

    def drop(self, turn: Turn) -> None:
        """Stop transcribing this turn; no more events are sent for it."""
        if turn in self._turns:
            self._turns.pop(turn).cancel()

    async def room(self) -> None:
        """Wait until no more than `HELD_SAMPLES` wait to be transcribed."""
        while sum(turn.held for turn in self._turns) > HELD_SAMPLES:
            self._room.clear()
            await self._room.wait()

    async def _hear(self, turn: Turn) -> None:
        try:
            async with self._order:
                await turn.until(lambda: turn.due)
                if self._held is None:
                    held = AsyncExitStack()
                    await held.enter_async_context(self._slot())
                    self._held = held
                await self._say_or_fail(turn)
        finally:
            self._turns.pop(turn, None)
            await self._give_back()

    async def _give_back(self) -> None:
        """Free the slot unless a turn is due."""
        if self._held is not None and not any(turn.due for turn in self._turns):
            held, self._held = self._held, None
            await held.aclose()

    async def _say_or_fail(self, turn: Turn) -> None:
        try:
            await self._say(turn)
        except ClientGoneError:
            raise
        except ServiceError as error:
            await self._tell("failed", turn, error=fault_of(error))
            if isinstance(error, UnavailableError):
                raise
        except Exception:
            log.exception("live transcription broke off after %d samples", turn.samples)
            name = self._engine.name
            failed = EngineError(f"the {name} engine failed", code="engine_failed")
            await self._tell("failed", turn, error=fault_of(failed))

    async def _say(self, turn: Turn) -> None:
        said = _Transcript(turn)
        while True:
            said.stable = StableText()
            if not turn.session.logprobs:  # only the final text has them
                await self._guess(said)
            await turn.until(lambda: turn.complete)
            end_ms = turn.place_ms(turn.sound().size)
            piece = turn.take()
            self._room.set()
            if piece is None:
                break
            if not piece.speech:  # models hallucinate in silence
                continue
            text, logprobs = await self._final(said, piece.samples)
            said.logprobs += logprobs
            more = {"logprobs": logprobs_of(logprobs)} if turn.session.logprobs else {}
            await self._add(said, text, end_ms, **more)
            said.text = said.sent
        seconds = duration_s(turn.samples, protocol.SAMPLE_RATE_HZ)
        more = {"logprobs": logprobs_of(said.logprobs)} if turn.session.logprobs else {}
        self._on_audio_seconds(seconds)
        await self._tell(
            "completed",
            turn,
            transcript=said.text,
            usage={"type": "duration", "seconds": round(seconds, 3)},
            **more,
        )

    async def _guess(self, said: _Transcript) -> None:
        """Send the stable text of the current piece, until the piece is complete."""
        turn = said.turn
        before = seen = 0
        size = FIRST_SAMPLES
        while True:
            # After two guesses at the same speech, the next one waits for more speech.
            await turn.until(partial(turn.grown, size, before))
            if turn.complete:
                return
            sound = turn.sound()
            before, seen = seen, sound.size
            began = time.monotonic()
            complete = turn.until(lambda: turn.complete)
            async with racing(self._engine.guess(said.guess(sound)), complete) as (guessing, _):
                if not guessing.done():  # once the piece is complete, a guess is useless
                    return
                guess = guessing.result()
            # Guessing takes at most half the time: if guesses queued up, all would be late.
            took = int((time.monotonic() - began) * protocol.SAMPLE_RATE_HZ)
            size = seen + max(GUESS_SAMPLES, 2 * took)
            if said.stable.add(guess.text):
                said.language = guess.language
                # Both guesses had heard what was there at the first.
                await self._add(said, said.stable.text, turn.place_ms(before))

    async def _final(self, said: _Transcript, piece: Samples) -> tuple[str, list[protocol.Token]]:
        """Return the text of a piece, which begins with its stable text, and its tokens."""
        stable = said.stable.text
        async with aclosing(self._engine.transcribe(said.request(piece))) as segments:
            heard = [segment async for segment in segments]
        text = "".join(segment.text for segment in heard).strip()
        if continues(text, stable):
            return text, [token for segment in heard for token in segment.logprobs]
        text = (await self._engine.guess(said.guess(piece))).text.strip()
        return (text if continues(text, stable) else stable), []

    async def _add(self, said: _Transcript, text: str, end_ms: int, **more: object) -> None:
        """Send what is new in the `text` of the current piece, which was said before `end_ms`."""
        whole = said.text + gap(said.text, text) + text
        if delta := whole[len(said.sent) :]:
            said.sent = whole
            await self._tell("delta", said.turn, delta=delta, audio_end_ms=end_ms, **more)

    async def _tell(self, kind: str, turn: Turn, **fields: object) -> None:
        await self._send(server_event(_KIND + kind, item_id=turn.id, content_index=0, **fields))
