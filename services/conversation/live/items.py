"""The items of a conversation: what was said, called and answered so far."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from services.errors import ConflictError, NotFoundError, ServiceError, shown
from services.openai.answers import new_id
from services.openai.conversation import ItemFields
from services.openai.reading import invalid, missing

MOST_ITEMS: Final = 1000
MOST_CHARACTERS: Final = 1 << 20
"""What a conversation keeps at most; then the oldest items are forgotten."""

ROOT: Final = "root"
"""The id that stands for the place before the first item."""

_NEEDED: Final = {
    "message": ("role", "content"),
    "function_call": ("name", "arguments"),
    "function_call_output": ("call_id", "output"),
    "item_reference": ("id",),
}
_PARTS: Final = {
    "user": ("input_text", "input_audio"),
    "system": ("input_text",),
    "assistant": ("output_text", "output_audio"),
}


@dataclass(frozen=True)
class Clause:
    """A part of an answer's transcript, and where its audio begins."""

    text: str
    start_ms: float


@dataclass
class Item:
    """One item; `heard` is set once the text of a user's audio is known, or known to be lost."""

    shown: dict[str, Any]  # the item as the client sees it
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    fault: ServiceError | None = None  # why it was lost
    clauses: list[Clause] = field(default_factory=list)  # of an answer's audio, in order
    audio_ms: float = 0.0  # how much audio of it was sent

    @classmethod
    def of(cls, kind: str, status: str = "completed", id_: str | None = None, **more: Any) -> Item:
        """Return an item whose text is known, of a type, with a fresh id unless it has one."""
        own = {"id": id_ or new_id("item"), "object": "realtime.item", "type": kind}
        item = cls({**own, "status": status, **more})
        item.heard.set()
        return item

    @property
    def id(self) -> str:
        """Its id."""
        return str(self.shown["id"])

    @property
    def text(self) -> str:
        """The text of a message; its parts are joined by line breaks."""
        texts = (
            part.get("text") or part.get("transcript") for part in self.shown.get("content", ())
        )
        return "\n".join(text for text in texts if text)

    @property
    def size(self) -> int:
        """Its characters."""
        if self.shown["type"] == "message":
            return len(self.text)
        return len(self.shown.get("arguments") or self.shown.get("output") or "")

    def hear(self, transcript: str) -> None:
        """Set the text of a user's audio."""
        self.shown["content"][0]["transcript"] = transcript
        self.heard.set()

    def lose(self, fault: ServiceError) -> None:
        """Note that the text of a user's audio will not come."""
        self.fault = fault
        self.heard.set()

    def truncate(self, end_ms: int) -> None:
        """Keep the text of the first `end_ms` of its audio; a cut clause keeps its whole words."""
        parts = self.shown.get("content") or [{}]
        if self.shown.get("role") != "assistant" or parts[0].get("type") != "output_audio":
            raise invalid("item_id", f"{shown(self.id)} is no answer with audio")
        if end_ms > math.ceil(self.audio_ms):
            why = f"{end_ms} is after the end of the audio, {self.audio_ms:.0f} ms"
            raise invalid("audio_end_ms", why)
        ends = [*(one.start_ms for one in self.clauses[1:]), self.audio_ms]
        text = ""
        for clause, clause_end_ms in zip(self.clauses, ends, strict=True):
            if clause_end_ms <= end_ms:
                text += clause.text
            elif clause.start_ms < end_ms:
                share = (end_ms - clause.start_ms) / (clause_end_ms - clause.start_ms)
                text += _whole_words(clause.text, int(share * len(clause.text)))
        parts[0]["transcript"] = text.strip()
        self.audio_ms = end_ms
        self.clauses = [one for one in self.clauses if one.start_ms < end_ms]


def _whole_words(text: str, end: int) -> str:
    """Return the words before `end`; scripts without spaces are cut anywhere."""
    cut = text[:end]
    if not text[end:] or text[end].isspace():
        return cut
    words, space, _ = cut.rpartition(" ")
    return words if space or text.isascii() else cut


def item_from(fields: ItemFields, place: str) -> Item:
    """Return the item that a client describes, in the field `place`."""
    for name in _NEEDED[fields.type]:
        if getattr(fields, name) is None:
            raise missing(f"{place}.{name}")
    given = fields.model_dump(exclude_none=True, exclude={"type", "id", "object", "status"})
    for number, part in enumerate(given.get("content", ())):
        _check_part(part, _PARTS[given["role"]], f"{place}.content.{number}")
    if fields.type == "function_call":
        given.setdefault("call_id", new_id("call"))
    return Item.of(fields.type, fields.status or "completed", fields.id, **given)


def _check_part(part: dict[str, Any], kinds: tuple[str, ...], place: str) -> None:
    kind: str = part["type"]
    if kind not in kinds:
        why = f"{kind!r} does not fit the role; send {' or '.join(kinds)}"
        raise invalid(f"{place}.type", why)
    name = "transcript" if kind.endswith("audio") else "text"
    if "audio" in part and name not in part:
        why = (
            "recordings are heard through input_audio_buffer.append and .commit; an item takes "
            "their transcript"
        )
        raise invalid(f"{place}.audio", why, "unsupported_value")
    part.pop("audio", None)
    if name not in part:
        raise missing(f"{place}.{name}")


class Items(list[Item]):
    """The items in order, bounded."""

    def __init__(self) -> None:
        """Begin with none."""
        super().__init__()
        self.id = new_id("conv")

    def add(self, item: Item, after: str | None = None) -> str | None:
        """Add an item at the end, or after another; return the id of the one before it."""
        if any(one.id == item.id for one in self):
            raise ConflictError(
                f"there is an item {shown(item.id)} already",
                param="item.id",
                code="item_create_duplicate_item_id",
            )
        place = len(self)
        if after is not None:
            before = None if after == ROOT else self.find(after, "previous_item_id")
            place = 0 if before is None else self.index(before) + 1
        self.insert(place, item)
        return self[place - 1].id if place else None

    def find(self, id_: str, param: str = "item_id", doing: str = "") -> Item:
        """Return an item, or raise NotFoundError.

        The field `param` named it, of an event that is `doing` something with items: `retrieve`.
        """
        for item in reversed(self):
            if item.id == id_:
                return item
        raise NotFoundError(
            f"there is no item {shown(id_)} in the conversation",
            param=param,
            code=f"item_{doing}_invalid_item_id" if doing else "item_not_found",
        )

    def before(self, item: Item) -> str | None:
        """Return the id of the one before an item, None if it is the first or was deleted."""
        place = self.index(item) if item in self else 0
        return self[place - 1].id if place else None

    def delete(self, id_: str) -> None:
        """Remove an item; who waits for its text waits no more."""
        item = self.find(id_, doing="delete")
        self.remove(item)
        item.heard.set()

    def surplus(self) -> list[Item]:
        """Remove and return the oldest items, as many as there are too many."""
        size = sum(one.size for one in self)
        gone: list[Item] = []
        while len(self) > MOST_ITEMS or size > MOST_CHARACTERS:
            gone.append(self.pop(0))
            gone[-1].heard.set()
            size -= gone[-1].size
        return gone


def messages_of(items: Iterable[Item]) -> list[dict[str, Any]]:
    """Return items as the messages of a chat request; what was lost or is blank is left out."""
    messages: list[dict[str, Any]] = []
    for item in items:
        told = item.shown
        if told["type"] == "message":
            if text := item.text.strip():
                messages.append({"role": told["role"], "content": text})
        elif told["type"] == "function_call_output":
            result = {"tool_call_id": told["call_id"], "content": told["output"]}
            messages.append({"role": "tool", **result})
        else:
            function = {"name": told["name"], "arguments": told["arguments"]}
            call = {"id": told["call_id"], "type": "function", "function": function}
            if messages and "tool_calls" in messages[-1]:  # several at once are one message
                messages[-1]["tool_calls"].append(call)
            else:
                messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
    return messages
