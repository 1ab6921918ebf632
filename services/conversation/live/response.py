"""One response: it waits for what was said, asks for an answer, and has it spoken meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, Final

from services.backends.client import Caller
from services.conversation.live.asking import Thought, speak, think
from services.conversation.live.items import Item, Items, messages_of
from services.conversation.live.output import FunctionCall, Message, Output
from services.conversation.live.settings import Answering
from services.conversation.speech_translation.stages import first_fault, is_whole
from services.errors import BackendError, ServiceError
from services.openai.answers import new_id
from services.openai.body import ClientGoneError
from services.openai.errors import INTERNAL_MESSAGE, fault_of
from services.openai.realtime import server_event

log = logging.getLogger("bentovox.conversation")

_INCOMPLETE: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}


class Response:
    """One response of a session."""

    def __init__(
        self,
        caller: Caller,
        send: Callable[[str], Awaitable[None]],
        items: Items,
        answering: Answering,
        *,
        model: str,
        given: Sequence[Item] | None = None,
        in_conversation: bool = True,
        metadata: dict[str, str] | None = None,
        patience_s: float = 0.0,
    ) -> None:
        """Answer `given`, or else the conversation's `items`, in a task; `send` sends an event.

        If these end within a sentence, wait `patience_s` for the rest, which cancels this response.
        """
        self.id = new_id("resp")
        self.ended = False  # whether response.done was sent
        self.in_conversation = in_conversation  # whether its items become part of the conversation
        self._caller = caller
        self._model = model
        self._send = send
        self._answering = answering
        self._items = items
        self._given = given
        self._metadata = metadata
        self._patience_s = patience_s
        self._outputs: list[Output] = []
        self._calls: dict[int, FunctionCall] = {}
        self._message: Message | None = None
        self._usage: dict[str, Any] | None = None
        self._reason = "stop"
        self.task = asyncio.create_task(self._run())

    async def cancel(self, reason: str = "client_cancelled") -> None:
        """End it now, and tell the client; model and voice stop."""
        self.task.cancel()
        await self._end("cancelled", reason=reason)

    async def stop(self) -> None:
        """End it at once; nobody is told."""
        self.ended = True
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    def shown(self, status: str = "in_progress", **details: Any) -> dict[str, Any]:
        """Return OpenAI's response object; `details` say why it ended."""
        answering = self._answering
        return {
            "id": self.id,
            "object": "realtime.response",
            "status": status,
            "status_details": {"type": status, **details} if details else None,
            "output": [one.item.shown for one in self._outputs],
            "conversation_id": self._items.id if self.in_conversation else None,
            "output_modalities": [answering.modality],
            "audio": {"output": answering.output_shown()},
            "max_output_tokens": answering.max_output_tokens or "inf",
            "metadata": self._metadata,
            "usage": self._usage,
        }

    async def _run(self) -> None:
        try:
            await self._send(server_event("response.created", response=self.shown()))
            await self._answer()
        except Exception as error:
            cause = first_fault(error) if isinstance(error, ExceptionGroup) else error
            if isinstance(cause, ClientGoneError):
                return  # the session ends
            if not isinstance(cause, ServiceError):
                log.exception("a response of a conversation broke off")
                cause = BackendError(INTERNAL_MESSAGE, code="internal_error")
            # Told in `response.done` alone: after an `error` event, Pipecat reads no more.
            fault = fault_of(cause)
            told = {name: fault[name] for name in ("type", "code", "message")}
            await self._end("failed", error=told)
        else:
            why = _INCOMPLETE.get(self._reason)
            await self._end(self._status, **({"reason": why} if why else {}))

    async def _answer(self) -> None:
        heard = list(self._items if self._given is None else self._given)
        for item in heard:
            await item.heard.wait()
        if heard and heard[-1].fault is not None:
            raise heard[-1].fault
        messages = messages_of(heard)
        answered = not messages or messages[-1]["role"] == "assistant"
        if answered and heard and not messages_of(heard[-1:]):
            return  # a noise was heard: there is nothing to say
        if self._patience_s and heard and not is_whole(heard[-1].text):
            await asyncio.sleep(self._patience_s)
        card = await self._caller.card("chat", self._model)
        thoughts = think(self._caller, card, self._answering, messages)
        if self._answering.modality == "text":
            await self._write(thoughts, None)
            return
        texts: asyncio.Queue[str | None] = asyncio.Queue()
        async with asyncio.TaskGroup() as stages:
            stages.create_task(self._write(thoughts, texts))
            stages.create_task(self._speak(texts))

    async def _write(
        self, thoughts: AsyncGenerator[Thought, None], texts: asyncio.Queue[str | None] | None
    ) -> None:
        """Tell what the model answers; text that is to be spoken goes into `texts`."""
        async with aclosing(thoughts) as those:
            async for thought in those:
                if self.ended:  # and this task is about to be cancelled
                    return
                if thought.text:
                    message = self._message or await self._begin_message()
                    await message.write(thought.text)
                    if texts is not None:
                        texts.put_nowait(thought.text)
                for index, call_id, name, arguments in thought.calls:
                    if index not in self._calls:
                        call = FunctionCall(len(self._outputs), self._tell, call_id, name)
                        self._calls[index] = call
                        await self._begin(call)
                    await self._calls[index].write(arguments)
                self._reason = thought.reason or self._reason
                self._usage = thought.usage or self._usage
        if texts is not None:
            texts.put_nowait(None)
        elif self._message is not None:
            await self._message.end(self._status)
        for call in self._calls.values():
            await call.end(self._status)

    @property
    def _status(self) -> str:
        return "incomplete" if self._reason in _INCOMPLETE else "completed"

    async def _speak(self, texts: asyncio.Queue[str | None]) -> None:
        first = await texts.get()
        if first is None:
            return

        async def pieces() -> AsyncGenerator[str, None]:
            piece: str | None = first
            while piece is not None:
                yield piece
                piece = await texts.get()

        message = self._message
        assert message is not None  # noqa: S101  it began with the text
        async with aclosing(speak(self._caller, self._answering, pieces())) as sounds:
            async for sound in sounds:
                if self.ended:
                    break
                await message.speak(sound)
        await message.finish()
        await message.end(self._status)

    async def _begin_message(self) -> Message:
        written = self._answering.modality == "text"
        live_format = None if written else self._answering.live_format
        self._message = message = Message(len(self._outputs), self._tell, live_format)
        await self._begin(message)
        await message.begin()
        return message

    async def _begin(self, output: Output) -> None:
        self._outputs.append(output)
        item = output.item
        await self._tell("output_item.added", output_index=output.index, item=item.shown)
        if self.in_conversation:
            before = self._items.add(item)
            added = server_event(
                "conversation.item.added", previous_item_id=before, item=item.shown
            )
            await self._send(added)

    async def _tell(self, kind: str, **fields: Any) -> None:
        await self._send(server_event(f"response.{kind}", response_id=self.id, **fields))
        if kind == "output_item.done" and self.in_conversation:
            item = self._outputs[fields["output_index"]].item
            before = self._items.before(item)
            done = server_event("conversation.item.done", previous_item_id=before, item=item.shown)
            await self._send(done)

    async def _end(self, status: str, **details: Any) -> None:
        """Tell the end of what is open, and of the response."""
        if self.ended:
            return
        self.ended = True
        for output in self._outputs:
            await output.end("completed" if status == "completed" else "incomplete")
        done = self.shown(status, **details)
        await self._send(server_event("response.done", response=done))
