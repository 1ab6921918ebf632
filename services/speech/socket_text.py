"""What the client of audio/speech/stream sends, with vLLM-Omni's names, and the text in it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, TypeAlias

from services.audio.encode import output_rate_hz
from services.errors import DeadlineError, InvalidRequestError, ServiceError
from services.openai.body import ClientGoneError
from services.openai.reading import parse_object, read, sift
from services.openai.speech import INPUT_CHARACTERS, REFERENCE_CHARACTERS, SessionConfig
from services.server.live import Inbox
from services.speech.engines.segments import printable

MESSAGE_CHARACTERS: Final = 128 * 1024
"""The most in a message without a recording: twice its texts, escaped as JSON."""

UTTERANCE_CHARACTERS: Final = 32 * 1024
"""The most in one utterance, about half an hour of speech."""

TEXT_S: Final = 30.0
"""A client that sends neither text nor `input.done` for this long loses its slot."""

# Fields of vLLM-Omni for other models or for unsupported features; false and null are accepted.
_NOT_OFFERED: Final = frozenset(
    {
        "initial_codec_chunk_frames",
        "max_new_tokens",
        "non_streaming_mode",
        "speaker_embedding",
        "task_type",
        "word_timestamps",
        "x_vector_only_mode",
    }
)


class Signal(Enum):
    """A message without fields: the end of an utterance or of the session, or a change of mind."""

    DONE = "input.done"
    CANCEL = "input.cancel"
    CLOSE = "session.close"


ClientMessage: TypeAlias = SessionConfig | str | Signal
"""A text is a piece of an utterance; pieces are joined without a space."""


def parse_message(data: str | bytes, *, recordings: bool = False) -> ClientMessage:
    """Return the parsed message; with `recordings`, it may be large enough for one.

    InvalidRequestError if it is not a JSON object with a known `type` and valid fields.
    """
    if isinstance(data, bytes):
        raise InvalidRequestError(
            "binary messages are not accepted; send JSON as text", code="invalid_message"
        )
    most = MESSAGE_CHARACTERS + REFERENCE_CHARACTERS * recordings
    if len(data) > most:  # before it is parsed
        raise InvalidRequestError(
            f"the message has {len(data)} characters; at most {most} are accepted",
            code="message_too_large",
        )
    fields = parse_object(data, "the message")
    kind = fields.pop("type", None)
    if kind == "session.config":
        return _config(fields)
    if kind == "input.text":
        return _text(fields)
    with suppress(ValueError):
        signal = Signal(kind)
        sift(fields, ())
        return signal
    raise InvalidRequestError(
        "type is not one of session.config, input.text, input.done, input.cancel, session.close",
        param="type",
        code="invalid_value",
    )


def _text(fields: dict[str, Any]) -> str:
    sift(fields, ("text",))
    text = fields.get("text")
    if not isinstance(text, str):
        raise InvalidRequestError("text is not a string", param="text", code="invalid_type")
    if len(text) > INPUT_CHARACTERS:
        raise InvalidRequestError(
            f"text has {len(text)} characters; a message may have at most {INPUT_CHARACTERS}",
            param="text",
            code="string_above_max_length",
        )
    return printable(text)


def _config(fields: dict[str, Any]) -> SessionConfig:
    given = {name: value for name, value in fields.items() if value is not None}
    for name in _NOT_OFFERED & given.keys():
        if given.pop(name) is not False:
            raise InvalidRequestError(
                f"{name} is not supported; leave it out", param=name, code="unsupported_parameter"
            )
    if "voice" not in given and "speaker" in given:  # vLLM-Omni's other name for it
        given["voice"] = given.pop("speaker")
    config = read(SessionConfig, given, "the message")
    output_rate_hz(config.response_format, config.sample_rate)  # refuses unsupported combinations
    return config


class CancellableInbox(Inbox):
    """An inbox that notices `input.cancel`, which cancels the messages before it, on arrival."""

    def __init__(self) -> None:
        super().__init__()
        self.cancelled = asyncio.Event()  # set while it contains an `input.cancel`

    def put(self, message: str | bytes) -> None:
        """Add a message."""
        super().put(message)
        if _is_cancel(message):
            self.cancelled.set()

    def take(self) -> str | bytes:
        """Remove and return the oldest message; there must be one."""
        message = super().take()
        if _is_cancel(message) and not any(map(_is_cancel, self._messages)):
            self.cancelled.clear()
        return message


def _is_cancel(data: str | bytes) -> bool:
    """Return whether a message is `input.cancel`; most need no parsing to tell."""
    if not isinstance(data, str) or "input.cancel" not in data:
        return False
    try:
        return parse_message(data) is Signal.CANCEL
    except InvalidRequestError:
        return False


@dataclass
class Writing:
    """The pieces of one utterance, as an async iterator, while its client is still writing it.

    An unacceptable message is answered with an error event and skipped. The iterator never raises,
    because the engine reads from it and could not handle the error.
    """

    first: str  # the first piece
    inbox: Inbox
    tell: Callable[[ServiceError], Awaitable[None]]  # sends an error event
    text: str = ""  # what came so far
    fault: ServiceError | None = None  # to raise once the text before it is spoken
    closing: bool = False  # whether the client ended the session
    _ended: bool = False

    def __aiter__(self) -> Writing:
        return self

    async def __anext__(self) -> str:
        piece, self.first = self.first, ""
        while not piece and not self._ended:
            try:
                async with asyncio.timeout(TEXT_S):
                    message = parse_message(await self.inbox.next())
                    if message is Signal.CANCEL:
                        await asyncio.Future()  # whoever watches for it ends this utterance
                piece = self._piece(message)
            except TimeoutError:
                self.fault = DeadlineError(
                    f"neither text nor input.done came within {TEXT_S:g} s", code="idle_timeout"
                )
                self._ended = True
            except InvalidRequestError as error:
                try:
                    await self.tell(error)
                except ClientGoneError:
                    self._ended = True
        if not piece:
            raise StopAsyncIteration
        self.text += piece
        return piece

    async def skip(self) -> None:
        """Read the rest of the utterance without speaking it."""
        async for _ in self:
            pass

    def _piece(self, message: ClientMessage) -> str:
        if isinstance(message, SessionConfig):
            raise InvalidRequestError(
                "session.config must wait until the current utterance has ended; send input.done "
                "first",
                param="type",
                code="utterance_in_progress",
            )
        if isinstance(message, Signal):
            self.closing = message is Signal.CLOSE
            self._ended = True
            return ""
        if len(self.text) + len(message) > UTTERANCE_CHARACTERS:
            raise InvalidRequestError(
                f"an utterance may have at most {UTTERANCE_CHARACTERS} characters; this text "
                "was skipped. Send input.done and begin another",
                param="text",
                code="string_above_max_length",
            )
        return message
