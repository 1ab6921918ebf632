"""What a response puts out: a message or calls of functions, and the events that tell of them."""

from __future__ import annotations

import base64
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any

from services.audio.formats import LiveFormat
from services.conversation.live.asking import duration_ms
from services.conversation.live.items import Clause, Item
from services.openai.answers import new_id

Tell = Callable[..., Awaitable[None]]


class Output(ABC):
    """One item of a response while it is made."""

    def __init__(self, item: Item, index: int, tell: Tell) -> None:
        """`tell` sends an event of the response, given its type and fields."""
        self.item = item
        self.index = index  # its place in the response
        self.ended = False  # whether it is complete, or was given up
        self._tell = tell

    async def end(self, status: str) -> None:
        """Tell that no more comes; `status` is that of the item."""
        if self.ended:
            return
        self.ended = True
        self.item.shown["status"] = status
        await self._end()
        await self._tell("output_item.done", output_index=self.index, item=self.item.shown)

    @abstractmethod
    async def _end(self) -> None:
        """Tell what is in the item."""

    async def tell(self, kind: str, **fields: Any) -> None:
        """Send an event about the item."""
        await self._tell(kind, item_id=self.item.id, output_index=self.index, **fields)


class Message(Output):
    """An answer, written or spoken.

    A spoken one's transcript is told clause by clause, each before its audio. So it has nothing
    that was not spoken, if the answer is given up.
    """

    def __init__(self, index: int, tell: Tell, live_format: LiveFormat | None) -> None:
        """Begin an answer without text; without a format of audio it is written."""
        item = Item.of("message", "in_progress", role="assistant", content=[])
        super().__init__(item, index, tell)
        self._live_format = live_format
        self._kind, self._part, self._field = "output_text", "text", "text"
        if live_format is not None:
            self._kind, self._part, self._field = "output_audio_transcript", "audio", "transcript"
        self._written = ""
        self._told = 0

    async def begin(self) -> None:
        """Tell of the empty answer; the item itself has been told of."""
        part = {"type": self._part, self._field: ""}
        await self.tell("content_part.added", content_index=0, part=part)
        self.item.shown["content"].append({"type": f"output_{self._part}", self._field: ""})

    async def write(self, text: str) -> None:
        """Add text; if it is to be spoken, it is only noted."""
        self._written += text
        if self._live_format is None:
            await self._tell_text(text)

    async def speak(self, sound: str | bytes) -> None:
        """Tell the text of the next clause, or its audio."""
        if isinstance(sound, str):
            found = self._written.find(sound, self._told)
            # The voice leaves out what cannot be spoken.
            end = (found if found >= 0 else self._told) + len(sound)
            text, self._told = self._written[self._told : end], end
            await self._tell_text(text)
        elif self._live_format is not None:
            self.item.audio_ms += duration_ms(len(sound), self._live_format)
            delta = base64.b64encode(sound).decode()
            await self.tell("output_audio.delta", content_index=0, delta=delta)

    async def finish(self) -> None:
        """Tell the rest of the text, of which nothing can be spoken."""
        if rest := self._written[self._told :].rstrip():
            await self._tell_text(rest)

    async def _tell_text(self, text: str) -> None:
        if self._live_format is not None:
            self.item.clauses.append(Clause(text, self.item.audio_ms))
        self.item.shown["content"][0][self._field] += text
        await self.tell(f"{self._kind}.delta", content_index=0, delta=text)

    async def _end(self) -> None:
        if not self.item.shown["content"]:
            return
        text = {self._field: self.item.shown["content"][0][self._field]}
        if self._live_format is not None:
            await self.tell("output_audio.done", content_index=0)
        await self.tell(f"{self._kind}.done", content_index=0, **text)
        part = {"type": self._part, **text}
        await self.tell("content_part.done", content_index=0, part=part)


class FunctionCall(Output):
    """A call of one of the client's functions."""

    def __init__(self, index: int, tell: Tell, call_id: str | None, name: str | None) -> None:
        """Begin a call without arguments."""
        call = {"call_id": call_id or new_id("call"), "name": name or "", "arguments": ""}
        super().__init__(Item.of("function_call", "in_progress", **call), index, tell)

    async def write(self, arguments: str) -> None:
        """Add to the arguments, which are JSON."""
        if arguments:
            self.item.shown["arguments"] += arguments
            call_id = self.item.shown["call_id"]
            await self.tell("function_call_arguments.delta", call_id=call_id, delta=arguments)

    async def _end(self) -> None:
        call = {name: self.item.shown[name] for name in ("call_id", "name", "arguments")}
        await self.tell("function_call_arguments.done", **call)
