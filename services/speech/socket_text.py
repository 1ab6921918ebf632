"""An utterance's text while its client is still writing it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from services.errors import DeadlineError, InvalidRequestError, ServiceError
from services.openai.body import ClientGoneError
from services.speech.socket_messages import Signal, parse_message

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from services.server.live import Inbox
    from services.speech.socket_messages import ClientMessage

UTTERANCE_CHARACTERS: Final = 32 * 1024
"""The most in one utterance, about half an hour of speech."""

TEXT_S: Final = 30.0
"""A client that sends neither text nor `input.done` for this long loses its slot."""


class Writing:
    """The pieces of one utterance, as an async iterator.

    An unacceptable message is answered with an error event and skipped. The iterator never raises,
    because the engine reads from it and could not handle the error; `fault` says why it ended
    early.

    Attributes:
        text: what came so far.
        fault: the error that ended the utterance early, to raise once the text before it is spoken.
        closing: whether the client ended the session.
    """

    def __init__(
        self, first: str, inbox: Inbox, tell: Callable[[ServiceError], Awaitable[None]]
    ) -> None:
        """Begin with the utterance's first piece; `tell` sends an error event."""
        self.text = ""
        self.fault: ServiceError | None = None
        self.closing = False
        self._first: str | None = first
        self._ended = False
        self._inbox = inbox
        self._tell = tell

    def __aiter__(self) -> Writing:
        return self

    async def __anext__(self) -> str:
        if self._first is not None:
            self.text, self._first = self._first, None
            return self.text
        while not self._ended:
            try:
                async with asyncio.timeout(TEXT_S):
                    message = parse_message(await self._inbox.next())
                    if message is Signal.CANCEL:
                        await asyncio.Future()  # whoever watches for it ends this utterance
                piece = self._piece(message)
            except TimeoutError:
                self.fault = DeadlineError(
                    f"neither text nor input.done came within {TEXT_S:g} s", code="idle_timeout"
                )
                self._ended = True
            except InvalidRequestError as error:
                await self._say(error)
            else:
                if piece:
                    self.text += piece
                    return piece
        raise StopAsyncIteration

    async def skip(self) -> None:
        """Read the rest of the utterance without speaking it."""
        async for _ in self:
            pass

    def _piece(self, message: ClientMessage) -> str:
        if isinstance(message, str):
            if len(self.text) + len(message) > UTTERANCE_CHARACTERS:
                raise InvalidRequestError(
                    f"an utterance may have at most {UTTERANCE_CHARACTERS} characters; this text "
                    "was skipped. Send input.done and begin another",
                    param="text",
                    code="string_above_max_length",
                )
            return message
        if isinstance(message, Signal):
            self.closing = message is Signal.CLOSE
            self._ended = True
            return ""
        raise InvalidRequestError(
            "session.config must wait until the current utterance has ended; send input.done first",
            param="type",
            code="utterance_in_progress",
        )

    async def _say(self, error: ServiceError) -> None:
        try:
            await self._tell(error)
        except ClientGoneError:
            self._ended = True
