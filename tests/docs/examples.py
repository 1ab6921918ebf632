"""The pages' examples that call a server, and what each must do; tests/e2e uses them, too.

`await check_example(block, url, folder)` runs one of `EXAMPLES` against the server at `url`, which
serves the demo profile. `CLONING` are those that need an engine that clones voices, the recordings
that they name, and a registered voice "anna". `HEARING` are those that need a transcription role
and `hello.wav`, and print its text.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
from typing import TYPE_CHECKING

import pytest

from ci.__main__ import VERBS
from services.chat.arguments import DEMO_DIRECTORY
from tests.decoding import decode
from tests.docs.pages import PAGES, ROOT, blocks

if TYPE_CHECKING:
    from pathlib import Path

    from tests.docs.pages import Block

COMMANDS = [block for page in PAGES for block in blocks(page) if block.language in {"sh", "python"}]
SERVER = "http://localhost:3000"
_SOCKETS = "ws://localhost:3000"
_RATE_HZ = 24_000


def _asks_a_server(block: Block) -> bool:
    return block.language == "python" or block.text.startswith("curl ")


def _clones(block: Block) -> bool:
    return re.search(r"audio[./]voice|\banna\b", block.text) is not None


def _is_about_images(block: Block) -> bool:
    verb = re.match(r"nox -s ([\w-]+) -- ", block.text)
    is_verb = verb is not None and verb[1] in VERBS
    return is_verb or block.text.startswith(("docker run", "bentoml build"))


IMAGES = [block for block in COMMANDS if _is_about_images(block)]
"""Commands that need docker: tests/images runs them."""


def _hears(block: Block) -> bool:
    return re.search(r"audio[./]trans|intent", block.text) is not None


def _translates(block: Block) -> bool:
    return (
        re.search(
            r"3000/translate|LibreTranslate|speech-translations|realtime\.translations", block.text
        )
        is not None
    )


EXAMPLES = [
    block
    for block in COMMANDS
    if _asks_a_server(block) and not (_clones(block) or _hears(block) or _translates(block))
]
TRANSLATING = [block for block in COMMANDS if _asks_a_server(block) and _translates(block)]
HEARING = [block for block in COMMANDS if _asks_a_server(block) and _hears(block)]
CLONING = [block for block in COMMANDS if _asks_a_server(block) and _clones(block)]


async def check_example(block: Block, url: str, folder: Path) -> None:
    """Run an example; it must print the answer or secret, or make the audio, that it promises."""
    if block.text.startswith("curl ") and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    said = await run_example(block, url, folder)
    if "client_secrets" in block.text:
        assert said.startswith("ek_")
        return
    answers = [answer for question, answer in held().items() if f'"{question}"' in block.text]
    made = re.search(r"\b\w+\.(mp3|wav)\b", block.text)
    assert answers or made, "an example asks for an answer or for audio"
    for answer in answers:
        assert answer in said
    if made:
        samples = decode((folder / made[0]).read_bytes(), sample_rate_hz=_RATE_HZ)
        assert samples.size > 0.5 * _RATE_HZ
        assert abs(samples).max() > 0.1


async def run_example(block: Block, url: str, folder: Path, before: str = "") -> str:
    """Run an example against the server at `url`, after the shell's line `before`."""
    text = block.text.replace(SERVER, url).replace(_SOCKETS, url.replace("http", "ws"))
    if block.language == "python":
        (folder / "example.py").write_text(text, encoding="utf-8")
        text = f"{sys.executable} example.py"
    return await run(f"{before}\n{text}", folder)


async def run(command: str, folder: Path) -> str:
    """Run a command line as a person would, and return what it printed."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("BENTOVOX_", "OPENAI_"))}
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-euc",
        command,
        cwd=folder,
        env={**inherited, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return said.decode()


def held() -> dict[str, str]:
    """Return the demo model's answer to each question that it holds by heart on its own."""
    conversations = json.loads((DEMO_DIRECTORY / "answers.json").read_text(encoding="utf-8"))
    return {
        conversation["messages"][0]["content"]: conversation["expected"]["content"]
        for conversation in conversations
        if len(conversation["messages"]) == 1 and "content" in conversation["expected"]
    }
