"""Messages of a client that may take back what it said: `input.cancel` goes ahead of the rest."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from services.errors import InvalidRequestError
from services.openai.inbox import Inbox
from services.speech.messages import InputCancel, parse_message

if TYPE_CHECKING:
    from starlette.types import Message, Receive


class CancellableInbox(Inbox):
    """Messages in their order; `input.cancel` is noticed as it comes and stands in it as well.

    What stands before it is what it takes back.

    Attributes:
        cancelled: set while an `input.cancel` has come and nobody has taken it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cancelled = asyncio.Event()
        self._cancels = 0

    async def fill(self, receive: Receive) -> None:
        """Take messages until the client hangs up; see `Inbox.fill`."""

        async def noticing() -> Message:
            message = await receive()
            if _is_cancel(message.get("text")):
                self._cancels += 1
                self.cancelled.set()
            return message

        await super().fill(noticing)

    async def next(self) -> str | bytes:
        """Wait for the next message; nothing is lost if that is cancelled."""
        said = await super().next()
        if _is_cancel(said):
            self._cancels -= 1
            if not self._cancels:
                self.cancelled.clear()
        return said


def _is_cancel(said: str | bytes | None) -> bool:
    if not isinstance(said, str) or "input.cancel" not in said:
        return False
    try:
        return isinstance(parse_message(said), InputCancel)
    except InvalidRequestError:
        return False
