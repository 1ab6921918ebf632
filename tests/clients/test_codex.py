"""OpenAI's Codex CLI: `codex exec` with its own home."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.clients.driving import node, node_modules, ran

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.server import Server

CODEX = "OpenAI's Codex CLI"
# All that fills its prompt beyond what the demo model has room for is left out.
CONFIG = """\
model = "bentovox-demo"
model_provider = "bentovox"
model_instructions_file = "instructions.md"
check_for_update_on_startup = false
include_permissions_instructions = false
include_apps_instructions = false
include_collaboration_mode_instructions = false
include_environment_context = false

[analytics]
enabled = false

[agents]
enabled = false

[skills]
include_instructions = false

[skills.bundled]
enabled = false

[features]
goals = false
view_image = false

[model_providers.bentovox]
name = "Bentovox"
base_url = "URL/v1"
wire_api = "responses"
request_max_retries = 0
stream_max_retries = 0
"""


@pytest.fixture
def codex(stack: Server, tmp_path: Path) -> Any:
    """Return `codex(*arguments)`: the events of a run."""
    home, work = tmp_path / "codex", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    (home / "config.toml").write_text(CONFIG.replace("URL", stack.url), encoding="utf-8")
    (home / "instructions.md").write_text("Answer.", encoding="utf-8")
    script = node_modules() / "@openai" / "codex" / "bin" / "codex.js"

    def exec_(*arguments: str) -> list[dict[str, Any]]:
        command = [str(node()), str(script), "exec", "--json", "--skip-git-repo-check"]
        path = f"{node().parent}{os.pathsep}{os.environ['PATH']}"
        environ = {"CODEX_HOME": str(home), "HOME": str(home), "PATH": path}
        done = ran([*command, *arguments], cwd=work, **environ)
        told = [json.loads(line) for line in done.stdout.splitlines()]
        assert done.returncode == 0, [*told[-2:], done.stderr[-2000:]]
        return told

    return exec_


@pytest.mark.works(CODEX, "`codex exec` over responses, streamed, and resumed")
def test_codex_takes_a_turn_and_another(codex: Any) -> None:
    for arguments in (("Hello",), ("resume", "--last", "Good morning")):
        told = codex(*arguments)
        kinds = [event["type"] for event in told]
        assert "turn.completed" in kinds, told
        assert "turn.failed" not in kinds
        (said,) = [
            event["item"]
            for event in told
            if event["type"] == "item.completed" and event["item"]["type"] == "agent_message"
        ]
        assert said["text"]
