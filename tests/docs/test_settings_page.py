"""`docs/settings.md` is generated from the settings; `WRITE_DOCS=1` rewrites it."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, get_args

from dotenv import dotenv_values
from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from services import settings
from services.settings.sections import DOCUMENTED
from tests.docs.pages import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

PAGE = ROOT / "docs" / "settings.md"
_SECTIONS = {
    "": "General",
    "chat": "Chat",
    "speech": "Speech",
    "speech.cosyvoice": "Speech: the engine cosyvoice",
    "speech.kokoro": "Speech: the engine kokoro",
    "speech.vllm_omni": "Speech: the engine vllm_omni",
    "transcription": "Transcription",
    "transcription.faster_whisper": "Transcription: the engine faster_whisper",
    "conversation": "Conversation",
    "conversation.translation": "Conversation: translation",
    "conversation.realtime": "Conversation: live",
    "gateway": "Gateway",
    "ray": "Ray Serve",
    "log": "Logging",
}
_INTRO = """\
# Settings

Made from `sections.py` and `profiles.toml` of `services/settings/` by
`tests/docs/test_settings_page.py`; not edited by hand.

A setting is an environment variable, or a line of `.env` in the folder you start from. The
environment wins over `.env`, `.env` over the profile, the profile over the default. Lists and
tables are JSON. A `BENTOVOX_` variable that is not here is refused, with the nearest name that is.
Where a setting has two names, two values in one place are refused.

`.nox/stack/bin/python -m services.settings` prints what is in force and where it came from.
"""


def test_settings_page_is_what_the_settings_say() -> None:
    page = _page()
    if os.environ.get("WRITE_DOCS"):
        PAGE.write_text(page, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page, "run it again with WRITE_DOCS=1"


def test_every_setting_has_a_description() -> None:
    for key, field in settings.leaves():
        assert field.description, key


def test_example_names_settings_that_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    told = "\n".join(line.removeprefix("# ") for line in lines if line.startswith("# BENTOVOX_"))
    (tmp_path / ".env").write_text(told, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert len(dotenv_values(".env")) > 5
    assert settings.load().speech.voices == {"narrator": "en-gb+m3"}


def _page() -> str:
    rows: dict[str, list[str]] = {}
    for key, field in settings.leaves():
        section, _, _ = key.rpartition(".")
        names = [settings.variable(key), *(name for name, one in DOCUMENTED.items() if one == key)]
        names = [f"`{name}`" for name in names]
        cells = (" or ".join(names), _accepts(field), _default(field), field.description)
        rows.setdefault(section, []).append(_row(cells))
    parts = [_INTRO]
    for section, lines in rows.items():
        head = [
            f"## {_SECTIONS[section]}\n",
            _row(("variable", "takes", "default", "what it does")),
        ]
        parts.append("\n".join([*head, "|---|---|---|---|", *lines]) + "\n")
    parts.append("## Profiles\n")
    for name, profile in settings.profiles().items():
        lines = [
            f"### {name}\n",
            f"{profile['description']}\n",
            "| variable | value |",
            "|---|---|",
        ]
        lines += [f"| `{settings.variable(key)}` | `{value}` |" for key, value in _flat(profile)]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def _accepts(field: Any) -> str:
    annotation = field.annotation
    if choices := get_args(annotation):
        named = str(annotation)
        if named.startswith("list"):
            return "JSON list"
        if named.startswith("dict"):
            return "JSON table"
        return ", ".join(f"`{choice}`" for choice in choices)
    kind = {int: "whole number", float: "number", bool: "`true`, `false`", SecretStr: "secret"}
    bounds = [
        f"{words} {bound:g}"
        for entry in field.metadata
        for name, words in (("ge", "from"), ("gt", "above"), ("le", "to"), ("lt", "below"))
        if (bound := getattr(entry, name, None)) is not None
    ]
    return " ".join([kind.get(annotation, "text"), *bounds])


def _default(field: Any) -> str:
    value = field.default
    if value is PydanticUndefined:
        value = field.default_factory()
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value in ("", [], {}):
        return "empty"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _flat(tree: dict[str, Any], path: str = "") -> list[tuple[str, str]]:
    found = []
    known = {key for key, _ in settings.leaves()}
    for name, value in tree.items():
        key = f"{path}.{name}" if path else name
        if isinstance(value, dict) and key not in known:
            found += _flat(value, key)
        elif key != "description":
            found.append((key, value if isinstance(value, str) else json.dumps(value)))
    return found
