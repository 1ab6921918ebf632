"""One response: it waits for what was said, asks for an answer, and has it spoken meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
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


@dataclass(eq=False)
class Response:
    """One response of a session: it answers `given`, or else the conversation, in a task."""

    caller: Caller
    send: Callable[[str], Awaitable[None]]  # sends an event
    items: Items  # the conversation
    answering: Answering
    model: str
    given: Sequence[Item] | None = None
    in_conversation: bool = True  # whether its items become part of the conversation
    metadata: dict[str, str] | None = None
    patience_s: float = 0.0  # after half a sentence, to wait for its rest, which cancels this

    def __post_init__(self) -> None:
        self.id = new_id("resp")
        self.ended = False  # whether response.done was sent
        self._outputs: list[Output] = []
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
        answering = self.answering
        return {
            "id": self.id,
            "object": "realtime.response",
            "status": status,
            "status_details": {"type": status, **details} if details else None,
            "output": [one.item.shown for one in self._outputs],
            "conversation_id": self.items.id if self.in_conversation else None,
            "output_modalities": [answering.modality],
            "audio": {"output": answering.output_shown()},
            "max_output_tokens": answering.max_output_tokens or "inf",
            "metadata": self.metadata,
            "usage": self._usage,
        }

    async def _run(self) -> None:
        try:
            await self.send(server_event("response.created", response=self.shown()))
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
        heard = list(self.items if self.given is None else self.given)
        for item in heard:
            await item.heard.wait()
        if heard and heard[-1].fault is not None:
            raise heard[-1].fault
        messages = messages_of(heard)
        answered = not messages or messages[-1]["role"] == "assistant"
        if answered and heard and not messages_of(heard[-1:]):
            return  # a noise was heard: there is nothing to say
        if self.patience_s and heard and not is_whole(heard[-1].text):
            await asyncio.sleep(self.patience_s)
        card = await self.caller.card("chat", self.model)
        await self._write(think(self.caller, card, self.answering, messages))

    async def _write(self, thoughts: AsyncGenerator[Thought, None]) -> None:
        """Tell what the model answers, and have it spoken meanwhile."""
        spoken = self.answering.modality == "audio"
        live_format = self.answering.live_format if spoken else None
        texts: asyncio.Queue[str | None] = asyncio.Queue()  # to be spoken
        message: Message | None = None
        calls: dict[int, FunctionCall] = {}
        async with asyncio.TaskGroup() as group, aclosing(thoughts) as those:
            async for thought in those:
                if thought.text:
                    if message is None:
                        message = Message(len(self._outputs), self._tell, live_format)
                        await self._begin(message)
                        await message.begin()
                        if spoken:
                            group.create_task(self._speak(message, texts))
                    await message.write(thought.text)
                    texts.put_nowait(thought.text)
                for index, call_id, name, arguments in thought.calls:
                    if index not in calls:
                        calls[index] = FunctionCall(len(self._outputs), self._tell, call_id, name)
                        await self._begin(calls[index])
                    await calls[index].write(arguments)
                self._reason = thought.reason or self._reason
                self._usage = thought.usage or self._usage
            texts.put_nowait(None)
            if message is not None and not spoken:
                await message.end(self._status)
            for call in calls.values():
                await call.end(self._status)

    @property
    def _status(self) -> str:
        return "incomplete" if self._reason in _INCOMPLETE else "completed"

    async def _speak(self, message: Message, texts: asyncio.Queue[str | None]) -> None:
        async def pieces() -> AsyncGenerator[str, None]:
            while (piece := await texts.get()) is not None:
                yield piece

        async with aclosing(speak(self.caller, self.answering, pieces())) as sounds:
            async for sound in sounds:
                if self.ended:  # and this task is about to be cancelled
                    return
                await message.speak(sound)
        await message.finish()
        await message.end(self._status)

    async def _begin(self, output: Output) -> None:
        self._outputs.append(output)
        await self._tell("output_item.added", output_index=output.index, item=output.item.shown)

    async def _tell(self, kind: str, **fields: Any) -> None:
        await self.send(server_event(f"response.{kind}", response_id=self.id, **fields))
        if self.in_conversation and kind.startswith("output_item."):
            item = self._outputs[fields["output_index"]].item
            before = self.items.add if kind.endswith("added") else self.items.before
            kind = kind.replace("output_", "conversation.")
            await self.send(server_event(kind, previous_item_id=before(item), item=item.shown))

    async def _end(self, status: str, **details: Any) -> None:
        """Tell the end of what is open, and of the response."""
        if self.ended:
            return
        self.ended = True
        for output in self._outputs:
            await output.end("completed" if status == "completed" else "incomplete")
        done = self.shown(status, **details)
        await self.send(server_event("response.done", response=done))
