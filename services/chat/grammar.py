"""xgrammar, which binds answers, as far as this process uses it beside vLLM."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from services.chat.constraints import Constraint

_UNREAD = (
    "has a feature that xgrammar does not read: multipleOf, uniqueItems, contains, an unknown "
    "format, several allOf, a length beside a pattern or format, or patternProperties or "
    "propertyNames beside others"
)


def tokenizer_json(tokenizer: Any, vocab_size: int) -> str:
    """Return a tokenizer as xgrammar writes it."""
    import xgrammar

    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=vocab_size)
    return str(info.serialize_json())


def parse(constraint: Constraint) -> None:
    """Raise unless a schema can be converted, which is quick; compiling it is not.

    Raises:
        Exception: it cannot; xgrammar raises what it likes.
    """
    import xgrammar
    from vllm.v1.structured_output.backend_xgrammar import has_xgrammar_unsupported_json_features

    # Those of tools are as their authors left them: vLLM binds calls as far as xgrammar reads them.
    lenient = constraint.field.startswith("tools")
    if not lenient and has_xgrammar_unsupported_json_features(json.loads(constraint.text)):
        raise ValueError(_UNREAD)
    xgrammar.Grammar.from_json_schema(constraint.text)
