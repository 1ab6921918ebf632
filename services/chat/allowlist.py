"""The paths of vLLM's server that are public API; every other one is 404.

vLLM's application also has paths that load adapters, profile, put the engine to sleep or bypass
the key (`/invocations`): none of them is reachable through a role.
"""

from __future__ import annotations

from services.openai.paths import CHAT, MODELS

GENERATING = frozenset(CHAT)
"""Paths whose requests take a slot."""

PATHS = {**CHAT, **MODELS}
