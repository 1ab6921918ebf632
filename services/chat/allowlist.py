"""The paths of vLLM's server that are public API; every other one is 404.

vLLM's application also has paths that load adapters, profile, put the engine to sleep or bypass
the key (`/invocations`): none of them is reachable through a role.
"""

from __future__ import annotations

_POST = frozenset({"POST"})
_GET = frozenset({"GET", "HEAD"})

GENERATING = {
    "/v1/chat/completions": _POST,
    "/v1/completions": _POST,
    "/v1/responses": _POST,
    "/v1/embeddings": _POST,
    "/v1/score": _POST,
    "/v1/rerank": _POST,
    "/tokenize": _POST,
    "/detokenize": _POST,
}
"""Paths whose requests take a slot."""

PATHS = {
    **GENERATING,
    "/v1/models": _GET,
    "/v1/models/{*}": _GET,
}
