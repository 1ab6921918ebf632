"""What a response asks of other roles: the model's words, and a voice for them.

Chat streams a completion. Speech has a WebSocket that takes text as it is written: it cuts the text
into clauses and speaks the first while the others are still to be written. A role that cannot be
reached, refuses or breaks off raises its `ServiceError`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, Final

from websockets.exceptions import ConnectionClosed

from services.audio.formats import LIVE_RATE_HZ, MEDIA_TYPES, LiveFormat
from services.backends.client import Caller, Question
from services.conversation.live.settings import Answering
from services.conversation.translation.chat_model import PATH
from services.errors import BackendError, InvalidRequestError, TooLargeError
from services.openai.errors import error_told
from services.openai.paths import SPEECH_STREAM
from services.openai.speech import INPUT_CHARACTERS

_TOO_LONG: Final = "context_length_exceeded"
_PROMPT: Final = ("input_text", "input_tokens")  # vLLM's names for a prompt that is too long
_FORMATS: Final = {media_type: name for name, media_type in MEDIA_TYPES.items()}


@dataclass(frozen=True)
class Thought:
    """What a chunk of the model's answer brings.

    Pieces of calls are their index, id and function's name, in the first piece, and more arguments.
    """

    text: str
    calls: list[tuple[int, str | None, str | None, str]]
    reason: str | None  # why the model ended: `stop`, `length`, `tool_calls` or `content_filter`
    usage: dict[str, Any] | None  # of the request and its answer, as the realtime API tells it


async def think(
    caller: Caller, card: Mapping[str, Any], answering: Answering, messages: list[dict[str, Any]]
) -> AsyncGenerator[Thought, None]:
    """Yield what the model answers to `messages`.

    If they do not fit into its context, the older half is left out, and again until they do.
    """
    first = [{"role": "system", "content": answering.instructions}]
    while True:
        body = _body(card, answering, [*(first if answering.instructions else ()), *messages])
        question = Question.of("chat", PATH, body, model=card["id"])
        try:
            async with caller.answer(question) as answer, aclosing(answer.events()) as chunks:
                async for chunk in chunks:
                    yield _read(chunk)
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


def _read(chunk: Mapping[str, Any]) -> Thought:
    """Return what a chunk of a streamed chat completion has."""
    try:
        choice: dict[str, Any] = next(iter(chunk["choices"]), {"delta": {}})
        delta = choice["delta"]
        calls = []
        for call in delta.get("tool_calls") or ():
            function = call.get("function") or {}
            name, arguments = function.get("name"), function.get("arguments") or ""
            calls.append((call["index"], call.get("id"), name, arguments))
        usage = chunk.get("usage") and _usage(chunk["usage"])
        return Thought(delta.get("content") or "", calls, choice.get("finish_reason"), usage)
    except (LookupError, TypeError, AttributeError) as exc:
        raise BackendError("The chat service's answer cannot be read.") from exc


def _usage(used: Mapping[str, Any]) -> dict[str, Any]:
    prompt, said = used["prompt_tokens"], used["completion_tokens"]
    cached = (used.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    given = {"text_tokens": prompt, "audio_tokens": 0, "cached_tokens": cached}
    return {
        "total_tokens": prompt + said,
        "input_tokens": prompt,
        "output_tokens": said,
        "input_token_details": given,
        "output_token_details": {"text_tokens": said, "audio_tokens": 0},
    }


def duration_ms(size: int, live_format: LiveFormat) -> float:
    """Return how long so many bytes of a format sound."""
    sample_bytes = 2 if live_format == "audio/pcm" else 1
    return 1000 * size / (LIVE_RATE_HZ[live_format] * sample_bytes)


async def speak(
    caller: Caller, answering: Answering, texts: AsyncIterator[str]
) -> AsyncGenerator[str | bytes, None]:
    """Say `texts` as they come; yield the text of each clause, and then its audio as it is made.

    Closing it stops the engine.
    """
    manner = {
        "response_format": _FORMATS[answering.live_format],
        "speed": answering.speed,
        "stream_audio": True,
        "split_granularity": "clause",
        "voice": answering.voice,
    }
    async with caller.socket("speech", SPEECH_STREAM) as connection:

        async def say() -> None:
            with suppress(ConnectionClosed):  # what is read tells why
                await connection.send(json.dumps({"type": "session.config", **manner}))
                async for text in texts:
                    for begin in range(0, len(text), INPUT_CHARACTERS):
                        piece = text[begin : begin + INPUT_CHARACTERS]
                        await connection.send(json.dumps({"type": "input.text", "text": piece}))
                await connection.send(json.dumps({"type": "input.done"}))

        saying = asyncio.create_task(say())
        try:
            with suppress(ConnectionClosed):
                async for message in connection:
                    if isinstance(message, bytes):
                        yield message
                        continue
                    event: dict[str, Any] = json.loads(message)
                    if event["type"] == "audio.start":
                        yield str(event["sentence_text"])
                    elif event["type"] == "error":
                        raise error_told(event["error"])
                    elif event["type"] == "session.done":
                        return
        finally:
            saying.cancel()
        raise BackendError("The speech service broke off.")


async def check_voice(caller: Caller, answering: Answering) -> None:
    """Raise the speech role's error unless it can speak like this."""

    async def nothing() -> AsyncGenerator[str, None]:
        return
        yield

    async for _ in speak(caller, answering, nothing()):
        pass
