"""A server that cannot start says why in one line and ends; it is not restarted for ever."""

from __future__ import annotations

import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.e2e.server import ROOT, environment, stack_python
from tests.ports import free_port

if TYPE_CHECKING:
    from pathlib import Path

STACK = "services.stack:Stack"
CHAT = "services.chat.service:Chat"
SPEECH = "services.speech.service:Speech"
GATEWAY = "services.gateway.service:Gateway"


def failed(home: Path, service: str, *options: str, **settings: str) -> str:
    """Return the one line of a server that refuses to start."""
    command = [str(stack_python()), "-m", "bentoml", "serve", service]
    command += options or ("--port", str(free_port()))
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(home, **settings),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode not in {0, -9}, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    lines = done.stderr.splitlines()  # before the last: what was chosen so far
    assert lines, done.stdout
    assert all(line.startswith("bentovox: ") for line in lines), done.stderr
    return lines[-1]


def test_a_taken_port_is_named_with_the_way_out(home: Path) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:  # noqa: S104  as the server listens
        port = str(taken.getsockname()[1])
        line = failed(home, STACK, "--port", port)
    assert port in line
    assert "--port" in line


@pytest.mark.parametrize("service", [STACK, CHAT])
def test_a_missing_model_directory_is_named(home: Path, service: str) -> None:
    line = failed(home, service, BENTOVOX_CHAT__MODEL="/no/such/model")
    assert "BENTOVOX_CHAT__MODEL=/no/such/model" in line


def test_a_directory_without_a_model_is_named(home: Path, tmp_path: Path) -> None:
    line = failed(home, STACK, BENTOVOX_CHAT__MODEL=str(tmp_path))
    assert "config.json" in line


@pytest.mark.parametrize("service", [STACK, SPEECH])
def test_an_unknown_profile_is_named_with_those_that_exist(home: Path, service: str) -> None:
    line = failed(home, service, BENTOVOX_PROFILE="dmeo")
    assert "dmeo" in line
    assert "did you mean demo" in line


def test_an_unknown_setting_is_named_with_the_nearest(home: Path) -> None:
    line = failed(home, STACK, BENTOVOX_CHAT__SLOT="3")
    assert "BENTOVOX_CHAT__SLOT " in line
    assert "did you mean BENTOVOX_CHAT__SLOTS" in line


def test_a_value_that_does_not_fit_is_named(home: Path) -> None:
    assert "BENTOVOX_CHAT__SLOTS" in failed(home, STACK, BENTOVOX_CHAT__SLOTS="many")


def test_an_unknown_speech_engine_is_named_with_those_that_exist(home: Path) -> None:
    assert "espeak" in failed(home, SPEECH, BENTOVOX_SPEECH__ENGINE="espeek")


def test_an_empty_folder_of_voices_is_refused(home: Path) -> None:
    assert "BENTOVOX_SPEECH__STORE: it is empty" in failed(home, SPEECH, BENTOVOX_SPEECH__STORE="")


@pytest.mark.parametrize("service", [STACK, GATEWAY])
def test_a_broken_keys_file_is_refused_without_showing_it(
    home: Path, tmp_path: Path, service: str
) -> None:
    path = tmp_path / "keys"
    path.write_text("sk-in-the-clear\n")
    chat = {"BENTOVOX_GATEWAY__CHAT": '["http://127.0.0.1:9"]'}
    line = failed(home, service, BENTOVOX_GATEWAY__KEYS_FILE=str(path), **chat)
    assert "services.gateway.keys" in line
    assert "sk-in-the-clear" not in line


def test_a_missing_keys_file_is_named(home: Path) -> None:
    line = failed(home, STACK, BENTOVOX_GATEWAY__KEYS_FILE="/no/such/keys")
    assert "/no/such/keys" in line


def test_a_gateway_without_backends_says_what_to_set(home: Path) -> None:
    line = failed(home, GATEWAY)
    assert "BENTOVOX_GATEWAY__CHAT" in line


def test_a_backend_that_is_no_url_is_named(home: Path) -> None:
    assert "chat:3000" in failed(home, GATEWAY, BENTOVOX_GATEWAY__CHAT='["chat:3000"]')
