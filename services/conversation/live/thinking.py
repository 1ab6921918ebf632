"""What a response says and calls: a streamed chat request, as it is answered."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from services.backends.client import Question
from services.conversation.translation.chat_model import PATH
from services.errors import BackendError, InvalidRequestError, TooLargeError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from services.backends.client import Caller
    from services.conversation.live.settings import Answering

_TOO_LONG: Final = "context_length_exceeded"
_PROMPT: Final = ("input_text", "input_tokens")  # vLLM's names for a prompt that is too long


@dataclass(frozen=True)
class Said:
    """More text."""

    text: str


@dataclass(frozen=True)
class Called:
    """More of the call of that index; its first piece has the id and the function's name."""

    index: int
    call_id: str | None
    name: str | None
    arguments: str


@dataclass(frozen=True)
class Ended:
    """Why the model ended: `stop`, `length`, `tool_calls` or `content_filter`."""

    reason: str


@dataclass(frozen=True)
class Used:
    """The tokens of the request and of its answer."""

    input_tokens: int
    cached_tokens: int
    output_tokens: int


Thought: TypeAlias = Said | Called | Ended | Used


async def think(
    caller: Caller, card: Mapping[str, Any], answering: Answering, messages: list[dict[str, Any]]
) -> AsyncGenerator[Thought, None]:
    """Yield what the model answers to `messages`.

    If they do not fit into its context, the older half is left out, and again until they do.

    Raises:
        ServiceError: the chat backend refused or broke off.
    """
    first = [{"role": "system", "content": answering.instructions}]
    while True:
        body = _body(card, answering, [*(first if answering.instructions else ()), *messages])
        question = Question.of("chat", PATH, body, model=card["id"])
        try:
            async with caller.answer(question) as answer, aclosing(answer.events()) as chunks:
                async for chunk in chunks:
                    for thought in _read(chunk):
                        yield thought
        except (InvalidRequestError, TooLargeError) as error:
            if error.code != _TOO_LONG and error.param not in _PROMPT:
                raise
            shorter = messages[(len(messages) + 1) // 2 :]
            while shorter and shorter[0]["role"] == "tool":  # its call is left out
                shorter.pop(0)
            if not shorter:
                raise
            messages = shorter
        else:
            return


def _body(
    card: Mapping[str, Any], answering: Answering, messages: list[dict[str, Any]]
) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": card["id"],
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
        # For models that think first; the templates of others ignore it.
        "chat_template_kwargs": {"enable_thinking": False},
    }
    if answering.temperature is not None:
        body["temperature"] = answering.temperature
    if answering.max_output_tokens is not None:
        most = int(card.get("max_model_len") or 0) // 2 or answering.max_output_tokens
        body["max_tokens"] = min(answering.max_output_tokens, most)
    if answering.tools and answering.tool_choice != "none":
        body["tools"] = [
            {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}
            for tool in answering.tools
        ]
        choice = answering.tool_choice
        if isinstance(choice, dict):
            body["tool_choice"] = {"type": "function", "function": {"name": choice["name"]}}
        elif choice != "auto":
            body["tool_choice"] = choice
    return body


def _read(chunk: Mapping[str, Any]) -> list[Thought]:
    """Return what a chunk of a streamed chat completion has."""
    thoughts: list[Thought] = []
    try:
        for choice in chunk["choices"]:
            delta = choice["delta"]
            if text := delta.get("content"):
                thoughts.append(Said(text))
            for call in delta.get("tool_calls") or ():
                function = call.get("function") or {}
                name, arguments = function.get("name"), function.get("arguments") or ""
                thoughts.append(Called(call["index"], call.get("id"), name, arguments))
            if choice.get("finish_reason"):
                thoughts.append(Ended(choice["finish_reason"]))
        if usage := chunk.get("usage"):
            details = usage.get("prompt_tokens_details") or {}
            cached = details.get("cached_tokens") or 0
            thoughts.append(Used(usage["prompt_tokens"], cached, usage["completion_tokens"]))
    except (LookupError, TypeError, AttributeError) as exc:
        raise BackendError("The chat service's answer cannot be read.") from exc
    return thoughts
