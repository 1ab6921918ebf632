"""Limits on what one request may cost, checked before vLLM sees it.

vLLM allows 16,384 answers to one prompt and any number of prompts, and validates a body on the
event loop, which takes about 0.3 ms for each item of /v1/responses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from services.errors import InvalidRequestError, TooLargeError
from services.openai.reading import invalid
from services.settings.sections import ChatSettings

DEPTH: Final = 64
_BYTES_PER_TOKEN: Final = 16
"""Bytes of JSON; English has about 5, escaped Chinese 6."""

_BYTES_BESIDE: Final = 256 << 10
"""Allowed for the rest of a body: tools, schemas, names."""

_POOLED_PER_SLOT: Final = 16
"""Texts to embed or score that cost as much as one generated answer."""

_BEAM: Final = 8
"""The cost of a beam in answers: vLLM's beam search runs on the event loop, token by token."""

_SHORT_LISTS: Final = {
    "stop": 64,
    "stop_token_ids": 256,
    "bad_words": 256,
    "logit_bias": 1024,
}
_TOKENS: Final = frozenset(
    {"prompt", "input", "tokens", "allowed_token_ids", "stop_token_ids", "logprob_token_ids"}
)
_MEDIA: Final = frozenset({"data", "file_data"})
"""Images and audio in base64, which the limit of bytes covers."""

_BATCHED: Final = {
    "/v1/embeddings": ("input", "messages"),
    "/v1/score": ("queries", "documents", "text_1", "text_2", "data_1", "data_2", "items"),
    "/v1/rerank": ("documents",),
}


@dataclass(frozen=True)
class Bounds:
    """The limits of one request: the settings', and bytes of one field's texts and of the body."""

    chat: ChatSettings
    text_bytes: int
    body_bytes: int

    @classmethod
    def of(cls, chat: ChatSettings, max_model_len: int, *, multimodal: bool) -> Bounds:
        """Return the bounds for a model with a context of `max_model_len` tokens."""
        text = max_model_len * _BYTES_PER_TOKEN + _BYTES_BESIDE
        return cls(
            chat, text, chat.body_limit_bytes if multimodal else min(text, chat.body_limit_bytes)
        )

    def cost(self, path: str, body: Mapping[str, Any]) -> int:
        """Return how many slots a request takes.

        InvalidRequestError if it exceeds a limit, which the message names; TooLargeError if its
        texts are longer than the model's context.
        """
        for name, most in _SHORT_LISTS.items():
            value = body.get(name)
            if isinstance(value, list | dict) and len(value) > most:
                raise _over(name, len(value), most, "entries")
        for name, value in body.items():
            self._check_items(name, value)
        if path in _BATCHED:
            return self._pooled(body, _BATCHED[path])
        return self._sequences(body)

    def _check_items(self, name: str, value: Any) -> None:
        """Count the objects and texts of a field, which vLLM makes objects of."""
        items, text, most = 0, 0, self.chat.request_items
        for node in nodes(name, value):
            if isinstance(node, str):
                text += 0 if node.startswith("data:") else len(node)
            elif isinstance(node, dict):
                items += 1
            else:
                if name in _TOKENS:
                    _check_tokens(name, node)
                items += sum(isinstance(inner, str) for inner in node)
            if items > most:
                raise _over(name, f"over {most}", most, "items", "REQUEST_ITEMS")
        if text > self.text_bytes:
            raise TooLargeError(
                f"{name}: {text} characters, more than fit in this model's context",
                param=name,
                code="context_length_exceeded",
            )

    def _sequences(self, body: Mapping[str, Any]) -> int:
        answers = max(1, _whole(body.get("n")), _whole(body.get("best_of")))
        prompts = max(_count(body.get("prompt")), _count(body.get("prompt_embeds")))
        sequences = answers * prompts * (_BEAM if body.get("use_beam_search") else 1)
        most = self.chat.request_sequences
        if sequences > most:
            name = "n" if answers > 1 or prompts == 1 else "prompt"
            raise _over(name, sequences, most, "answers", "REQUEST_SEQUENCES")
        return sequences

    def _pooled(self, body: Mapping[str, Any], names: tuple[str, ...]) -> int:
        counts = {name: _count(body.get(name)) for name in names}
        most = self.chat.request_batch
        for name, count in counts.items():
            if count > most:
                raise _over(name, count, most, "texts", "REQUEST_BATCH")
        return -(-max(counts.values()) // _POOLED_PER_SLOT)


def nodes(field: str, root: Any) -> Iterator[Any]:
    """Yield every object, list and text of a field, level by level, without images and audio.

    InvalidRequestError if it is nested too deeply.
    """
    level = [root]
    for _ in range(DEPTH):
        level = [node for node in level if isinstance(node, str | dict | list)]
        yield from level
        level = [inner for node in level for inner in _inside(node)]
    if any(isinstance(node, str | dict | list) for node in level):
        raise invalid(field, f"nested more than {DEPTH} levels deep")


def _inside(node: Any) -> list[Any]:
    if isinstance(node, dict):
        return [v for key, v in node.items() if not (key in _MEDIA and isinstance(v, str))]
    return node if isinstance(node, list) else []


def _check_tokens(name: str, values: list[Any]) -> None:
    """Refuse a list that begins with a number but is no list of tokens.

    Validation would list an error for every item.
    """
    if values and isinstance(values[0], int | float):
        for value in values:
            if not isinstance(value, int) or value < 0:
                raise invalid(name, "tokens must be whole numbers from 0")


def _whole(value: Any) -> int:
    """Return the whole number that vLLM's schema reads from `value`; 0 if it refuses it."""
    try:
        return int(float(value)) if isinstance(value, int | float | str) else 0
    except (ValueError, OverflowError):
        return 0


def _count(value: Any) -> int:
    """Return how many prompts `value` has: a list of numbers is one."""
    if not isinstance(value, list) or not value or isinstance(value[0], int | float):
        return 1
    return len(value)


def _over(name: str, given: object, most: int, what: str, setting: str = "") -> Exception:
    return too_many(name, f"{given} {what}; at most {most} are allowed in one request", setting)


def too_many(field: str, why: str, setting: str) -> InvalidRequestError:
    """Return the error for exceeding a limit, with the setting that raises it."""
    named = f" (BENTOVOX_CHAT__{setting})" if setting else ""
    return invalid(field, f"{why}{named}", "array_above_max_length")
