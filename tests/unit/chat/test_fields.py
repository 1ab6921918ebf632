"""Fields that vLLM would silently ignore are refused; what SDKs always send is accepted."""

from __future__ import annotations

from typing import Any

import pytest

from services.chat.intake import refuse_lost
from services.errors import InvalidRequestError
from services.openai import reading

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
LARK = {"type": "custom", "format": {"type": "grammar", "syntax": "lark", "definition": "a: b"}}
INNER = {"type": "namespace", "tools": [LARK]}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, {"modalities": ["text", "audio"]}, "modalities"),
        (CHAT, {"audio": {"voice": "alloy", "format": "wav"}}, "audio"),
        (CHAT, {"web_search_options": {"search_context_size": "low"}}, "web_search_options"),
        (CHAT, {"web_search_options": {}}, "web_search_options"),
        (CHAT, {"best_of": 4}, "best_of"),
        (CHAT, {"functions": [{"name": "f"}]}, "functions"),
        (CHAT, {"function_call": {"name": "f"}}, "function_call"),
        (CHAT, {"prediction": {"type": "content", "content": "x"}}, "prediction"),
        (CHAT, {"guided_json": {"type": "object"}}, "guided_json"),
        (COMPLETIONS, {"best_of": 4}, "best_of"),
        (COMPLETIONS, {"best_of": 4, "n": 2}, "best_of"),
        (COMPLETIONS, {"guided_choice": ["a"]}, "guided_choice"),
        (RESPONSES, {"conversation": "conv_1"}, "conversation"),
        (RESPONSES, {"previous_response_id": "resp_1"}, "previous_response_id"),
        (RESPONSES, {"background": True}, "background"),
        (RESPONSES, {"context_management": [{"type": "compaction"}]}, "context_management"),
        (RESPONSES, {"tools": [LARK]}, "tools[0].format"),
        (
            RESPONSES,
            {"tools": [{"type": "namespace", "tools": [LARK]}]},
            "tools[0].tools[0].format",
        ),
        (RESPONSES, {"prompt": {"id": "pmpt_1"}}, "prompt"),
        *[
            (RESPONSES, {"tools": [{"type": kind}]}, "tools[0].type")
            for kind in (
                "web_search",
                "web_search_preview",
                "file_search",
                "mcp",
                "computer_use_preview",
                "code_interpreter",
                "image_generation",
            )
        ],
    ],
)
def test_a_wish_that_would_be_lost_is_refused(path: str, body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        refuse_lost(path, body)
    assert (refused.value.param, refused.value.code) == (param, "unsupported_parameter")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"modalities": ["text"], "store": True, "service_tier": "auto", "metadata": {}}),
        (CHAT, {"functions": [], "function_call": "none", "audio": None, "user": "me"}),
        (CHAT, {"best_of": 1}),
        (COMPLETIONS, {"best_of": 1}),
        (COMPLETIONS, {"best_of": 2, "n": 2}),
        (RESPONSES, {"background": False, "store": True, "previous_response_id": None}),
        (RESPONSES, {"tools": [{"type": "function"}, {"type": "custom"}]}),
        (RESPONSES, {"tools": [{"type": "custom", "format": {"type": "text"}}]}),
        (RESPONSES, {"context_management": [], "service_tier": "default"}),
    ],
)
def test_a_default_is_no_wish(path: str, body: dict[str, Any]) -> None:
    refuse_lost(path, body)


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
def test_a_price_class_is_ignored_and_named(path: str) -> None:
    ignored = reading.watch(strict=False)
    refuse_lost(path, {"service_tier": "auto"})
    assert ignored.names == []
    refuse_lost(path, {"service_tier": "flex"})
    assert ignored.names == ["service_tier"]


def test_codexs_offline_search_is_ignored_and_named() -> None:
    ignored = reading.watch(strict=False)
    refuse_lost(RESPONSES, {"tools": [{"type": "web_search", "external_web_access": False}]})
    assert ignored.names == ["tools.web_search"]
