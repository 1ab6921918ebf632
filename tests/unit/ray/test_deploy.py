"""No mistake in a command ends what a cluster serves."""

from __future__ import annotations

import json
import os
import sys
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from services import settings as module
from services.errors import ConfigurationError
from services.ray import config as deploying
from services.ray.config import deploy, read_config, serve_config, until_answers, until_running

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # bentoml's own, as it is imported
    from services.ray.__main__ import main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Command = Callable[..., tuple[int, str, str]]

TOKEN = "t" * 32


class _Head(BaseHTTPRequestHandler):
    """Answers as Ray's head does."""

    asked: ClassVar[list[tuple[str, str | None, Any]]] = []
    refuses: ClassVar[str] = ""
    states: ClassVar[list[dict[str, Any]]] = []
    starts: ClassVar[int] = 0  # requests for which it is still starting

    def do_PUT(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.asked.append((self.path, self.headers["authorization"], body))
        self._answer(400 if self.refuses else 200, self.refuses)

    def do_GET(self) -> None:
        if _Head.starts:
            _Head.starts -= 1
            self._answer(500, "starting")
            return
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        self._answer(200, json.dumps({"applications": state}))

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@pytest.fixture
def head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Head]]:
    _Head.asked, _Head.refuses, _Head.states = [], "", [{}]
    with ThreadingHTTPServer(("127.0.0.1", 0), _Head) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("RAY_DASHBOARD_PORT", str(server.server_port))
        monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
        monkeypatch.setattr(deploying, "_AGAIN_S", 0.01)
        module.settings.cache_clear()
        yield _Head
        server.shutdown()
    module.settings.cache_clear()


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Return what runs `python -m services.ray`: it gives the exit code, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        with monkeypatch.context() as here:
            here.setattr(os, "environ", os.environ.copy())
            here.setattr(sys, "argv", ["services.ray", *arguments])
            return (main(), *capsys.readouterr())

    return run


def state(status: str, message: str = "") -> dict[str, Any]:
    return {
        one["name"]: {"status": status, "message": message}
        for one in serve_config()["applications"]
    }


def test_a_file_that_is_not_there_reaches_no_cluster(head: type[_Head], command: Command) -> None:
    said = command("deploy", "wrong/path.yaml")
    assert said == (1, "", "bentovox: wrong/path.yaml: No such file or directory.\n")
    assert head.asked == []


@pytest.mark.parametrize(
    "text",
    ["", "import_path: a:b\n", "applications: []\n", "- a\n", "{", "applications: 3\n"],
)
def test_a_file_without_applications_reaches_no_cluster(
    head: type[_Head], tmp_path: Path, text: str
) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"serve\.yaml"):
        read_config(str(path))
    assert head.asked == []


def test_what_config_prints_is_what_deploy_sends(
    head: type[_Head], tmp_path: Path, command: Command
) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text(command("config")[1], encoding="utf-8")
    head.states = [state("RUNNING")]
    assert command("deploy", str(path)) == (0, "", "")
    assert command("deploy") == (0, "", "")
    assert (
        head.asked
        == [
            ("/api/serve/applications/", f"Bearer {TOKEN}", serve_config()),
        ]
        * 2
    )


def test_it_waits_until_all_run_however_long_that_takes(head: type[_Head]) -> None:
    head.states = [*[state("DEPLOYING")] * 50, state("RUNNING")]
    until_running(serve_config())
    assert len(head.states) == 1


def test_the_api_of_a_head_that_starts_is_waited_for(head: type[_Head]) -> None:
    head.starts = 3
    until_answers(60)
    assert head.starts == 0
    head.starts = 3
    with pytest.raises(ConfigurationError, match="starting"):
        until_answers(0)
    head.starts = 0


def test_an_application_that_fails_is_told(head: type[_Head]) -> None:
    head.states = [state("DEPLOYING"), state("DEPLOY_FAILED", "no such model\n")]
    with pytest.raises(ConfigurationError, match=r"chat failed on Ray: no such model\Z"):
        until_running(serve_config())


def test_what_the_head_refuses_is_told(head: type[_Head]) -> None:
    head.refuses = "no such option"
    with pytest.raises(ConfigurationError, match=r"refuses \(400\): no such option"):
        deploy(serve_config())


@pytest.mark.usefixtures("head")
def test_no_head_is_one_line(monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    monkeypatch.setenv("RAY_DASHBOARD_PORT", "1")
    module.settings.cache_clear()
    code, _, said = command("deploy")
    assert code == 1
    assert said.startswith("bentovox: Ray's head does not answer at 127.0.0.1:1: ")
    assert len(said.splitlines()) == 1


@pytest.mark.usefixtures("head")
@pytest.mark.parametrize("token", ["", None])
def test_a_head_without_a_token_is_refused(
    monkeypatch: pytest.MonkeyPatch, command: Command, token: str | None
) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    if token is not None:
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    code, _, said = command("head")
    assert code == 1
    assert said.startswith("bentovox: RAY_AUTH_TOKEN is not set")


def test_a_token_may_be_in_a_file(
    head: type[_Head], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: Command
) -> None:
    head.states = [state("RUNNING")]
    path = tmp_path / "token"
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    assert command("deploy") == (
        1,
        "",
        f"bentovox: RAY_AUTH_TOKEN_PATH={path}: No such file or directory.\n",
    )
    path.write_text("another\n", encoding="utf-8")
    assert command("deploy")[0] == 0
    ((_, token, _),) = head.asked
    assert token == "Bearer another"
