from __future__ import annotations

import os
import socket
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

from services import settings as settings_module
from services.errors import ConfigurationError

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # bentoml's own, as it is imported
    from bentoml_cli.serve import serve_command

    from services.server.role import preflight

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def in_an_empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have no `.env` and none of our variables, and forget what was read."""
    monkeypatch.chdir(tmp_path)
    for name in [n for n in os.environ if n.startswith(("BENTOVOX_", "BENTOML_"))]:
        monkeypatch.delenv(name)
    settings_module.settings.cache_clear()
    yield
    settings_module.settings.cache_clear()


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def serving(*options: str) -> click.Context:
    """Return what `bentoml serve` with these options runs in, without its logging."""
    parameters = serve_command.commands["serve"].params
    known = [one for one in parameters if one.name in {"bento", "host", "port"}]
    command = click.Command("serve", params=known)
    return command.make_context("serve", ["services.stack:Stack", *options])


@pytest.mark.parametrize("form", ["--port {}", "--port={}", "-p {}"])
def test_a_port_that_is_taken_ends_with_one_line_that_names_the_fix(taken: int, form: str) -> None:
    with (
        serving("--host", "127.0.0.1", *form.format(taken).split()),
        pytest.raises(SystemExit, match=f":{taken}: Address already in use; .* --port") as ended,
    ):
        preflight()
    assert "\n" not in str(ended.value)


def test_the_port_may_come_from_bentomls_variable(
    monkeypatch: pytest.MonkeyPatch, taken: int
) -> None:
    monkeypatch.setenv("BENTOML_PORT", str(taken))
    with serving("--host", "127.0.0.1"), pytest.raises(SystemExit, match="in use"):
        preflight()


def test_an_address_that_is_not_ours_is_refused() -> None:
    nobodys = "192.0.2.1"  # RFC 5737
    with (
        serving("--host", nobodys, "--port", "1"),
        pytest.raises(SystemExit, match=r"cannot listen on 192\.0\.2\.1:1"),
    ):
        preflight()


def test_a_port_is_looked_at_only_to_serve(monkeypatch: pytest.MonkeyPatch, taken: int) -> None:
    monkeypatch.setenv("BENTOML_PORT", str(taken))
    preflight()


def test_bad_settings_and_failed_checks_end_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing() -> None:
        raise ConfigurationError("no such model; give another.")

    with pytest.raises(SystemExit, match=r"^bentovox: no such model; give another\.$"):
        preflight(failing)
    monkeypatch.setenv("BENTOVOX_PROFILE", "none")
    settings_module.settings.cache_clear()
    with pytest.raises(SystemExit, match=r"^bentovox: BENTOVOX_PROFILE='none'"):
        preflight(failing)
