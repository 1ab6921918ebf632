"""Fields of OpenAI's API that vLLM does not declare.

They pass: SDKs send them as a matter of course, and vLLM ignores them. Those that ask for something
are refused by `services.chat.wishes`.
"""

from __future__ import annotations

OPENAI_FIELDS: dict[str, frozenset[str]] = {
    "/v1/chat/completions": frozenset(
        [
            "audio",
            "function_call",
            "functions",
            "metadata",
            "modalities",
            "moderation",
            "prediction",
            "prompt_cache_key",
            "prompt_cache_options",
            "prompt_cache_retention",
            "reasoning_effort",
            "safety_identifier",
            "service_tier",
            "store",
            "user",
            "verbosity",
            "web_search_options",
        ]
    ),
    "/v1/completions": frozenset({"best_of", "user"}),
    "/v1/responses": frozenset(
        [
            "background",
            "client_metadata",
            "context_management",
            "conversation",
            "include",
            "instructions",
            "max_tool_calls",
            "metadata",
            "moderation",
            "prompt",
            "prompt_cache_key",
            "prompt_cache_options",
            "prompt_cache_retention",
            "reasoning",
            "safety_identifier",
            "service_tier",
            "store",
            "stream_options",
            "text",
            "user",
            "verbosity",
        ]
    ),
    "/v1/embeddings": frozenset({"user"}),
}
"""By openai-python 3.57, and what its Codex sends beside."""

FOREIGN: frozenset[str] = frozenset(
    ["models", "reasoning_format", "repetition_penalty_range", "thinking_budget", "top_a"]
)
"""Fields of other servers that are no slips of ours, however near: ignored, and named."""
