"""vLLM behind BentoML's `__command__` proxy, the usual way to wrap it.

The proxy's tracing and access log are off, as in our own service: its best case.
"""

from __future__ import annotations

import json
import os

import bentoml


@bentoml.service(
    name="command-proxy",
    workers=1,
    traffic={"timeout": 600},
    endpoints={"livez": "/health", "readyz": "/health"},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
    http={"proxy_port": int(os.environ.get("PEER_VLLM_PORT", "8000"))},
)
class CommandProxy:
    """Forwards every path to the vLLM server that it starts."""

    def __command__(self) -> list[str]:
        """Return vLLM's command line."""
        return list(json.loads(os.environ["PEER_VLLM_COMMAND"]))
