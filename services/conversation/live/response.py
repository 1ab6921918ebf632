"""One response: it waits for what was said, asks for an answer, and has it spoken meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, Final

from services.backends.client import Caller
from services.conversation.live.asking import Thought, mouth, think
from services.conversation.live.items import Item, Items, messages_of
from services.conversation.live.output import FunctionCall, Output, SpokenMessage, TextMessage
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
        answering: Answering,
        items: Items,
        given: Sequence[Item] | None = None,
        *,
        in_conversation: bool = True,
        metadata: dict[str, str] | None = None,
        patience_s: float = 0.0,
    ) -> None:
        """Answer `given`, or else the conversation's `items`.

        If these end within a sentence, wait `patience_s` for the rest, which cancels this response.
        """
        self.id = new_id("resp")
        self.ended = False  # whether response.done was sent
        self.in_conversation = in_conversation  # whether its items become part of the conversation
        self._answering = answering
        self._items = items
        self._given = given
        self._metadata = metadata
        self._patience_s = patience_s
        self._outputs: list[Output] = []
        self._calls: dict[int, FunctionCall] = {}
        self._message: TextMessage | None = None
        self._usage: dict[str, Any] | None = None
        self._reason = "stop"
        self._send: Callable[[str], Awaitable[None]]
        self._task: asyncio.Task[None] | None = None

    def start(
        self,
        caller: Caller,
        model: str,
        send: Callable[[str], Awaitable[None]],
        then: Callable[[Response], None],
    ) -> None:
        """Begin in a task of its own; `send` sends an event, `then` is called at its end."""
        self._send = send
        self._task = asyncio.create_task(self._run(caller, model))
        self._task.add_done_callback(lambda _: then(self))

    async def cancel(self, reason: str = "client_cancelled") -> None:
        """End it now, and tell the client; model and voice stop."""
        if self.ended or self._task is None:
            return
        self._task.cancel()
        await self._end("cancelled", reason=reason)

    async def join(self, *, stop: bool = False) -> None:
        """Wait for its end; with `stop` it ends at once, and nobody is told."""
        if self._task is None:
            return
        if stop:
            self.ended = True
            self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

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

    async def _run(self, caller: Caller, model: str) -> None:
        try:
            await self._send(server_event("response.created", response=self.shown()))
            await self._answer(caller, model)
        except Exception as error:
            cause = first_fault(error) if isinstance(error, ExceptionGroup) else error
            if isinstance(cause, ClientGoneError):
                return  # the session ends
            if not isinstance(cause, ServiceError):
                log.exception("a response of a conversation broke off")
                cause = BackendError(INTERNAL_MESSAGE, code="internal_error")
            await self._fail(cause)
        else:
            if why := _INCOMPLETE.get(self._reason):
                await self._end("incomplete", reason=why)
            else:
                await self._end("completed")

    async def _answer(self, caller: Caller, model: str) -> None:
        heard = list(self._items if self._given is None else self._given)
        for item in heard:
            if item.pending:
                await item.heard.wait()
        if heard and heard[-1].fault is not None:
            raise heard[-1].fault
        messages = messages_of(heard)
        answered = not messages or messages[-1]["role"] == "assistant"
        if answered and heard and not messages_of(heard[-1:]):
            return  # a noise was heard: there is nothing to say
        if self._patience_s and heard and not is_whole(heard[-1].text):
            await asyncio.sleep(self._patience_s)
        card = await caller.card("chat", model)
        thoughts = think(caller, card, self._answering, messages)
        if self._answering.modality == "text":
            await self._write(thoughts, None)
            return
        texts: asyncio.Queue[str | None] = asyncio.Queue()
        async with asyncio.TaskGroup() as stages:
            stages.create_task(self._write(thoughts, texts))
            stages.create_task(self._speak(texts, caller))

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

    async def _speak(self, texts: asyncio.Queue[str | None], caller: Caller) -> None:
        text = await texts.get()
        if text is None:
            return
        message = self._message
        assert isinstance(message, SpokenMessage)  # noqa: S101  it began with the text
        async with mouth(caller, self._answering) as speaking, asyncio.TaskGroup() as both:

            async def say(piece: str | None) -> None:
                while piece is not None:
                    await speaking.say(piece)
                    piece = await texts.get()
                await speaking.finish()

            both.create_task(say(text))
            async with aclosing(speaking.sounds()) as sounds:
                async for sound in sounds:
                    if self.ended:
                        break
                    await message.speak(sound)
        await message.finish()
        await message.end(self._status)

    async def _begin_message(self) -> TextMessage:
        place = len(self._outputs)
        if self._answering.modality == "text":
            message = TextMessage(place, self._tell)
        else:
            message = SpokenMessage(place, self._tell, self._answering.live_format)
        self._message = message
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

    async def _fail(self, error: ServiceError) -> None:
        """Tell why in `response.done` alone: after an `error` event, Pipecat reads no more."""
        fault = fault_of(error)
        told = {name: fault[name] for name in ("type", "code", "message")}
        await self._end("failed", error=told)

    async def _end(self, status: str, **details: Any) -> None:
        """Tell the end of what is open, and of the response."""
        if self.ended:
            return
        self.ended = True
        for output in self._outputs:
            await output.end("completed" if status == "completed" else "incomplete")
        done = self.shown(status, **details)
        await self._send(server_event("response.done", response=done))
