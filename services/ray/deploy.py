"""How a running cluster is brought to a Serve config, so that no mistake ends what it serves.

Ray's own `serve deploy` takes the name of a file that is not there for an import path, and replaces
every application by it.
"""

from __future__ import annotations

import json
import os
import time
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final

import yaml

from services.errors import ConfigurationError
from services.settings import settings

_PATH: Final = "/api/serve/applications/"
_ANSWER_S: Final = 120.0  # the first one starts Serve's controller
_AGAIN_S: Final = 1.0


def read_config(path: str) -> dict[str, Any]:
    """Return a Serve config that was written to a file.

    Raises:
        ConfigurationError: there is no such file, or it names no application.
    """
    try:
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigurationError(f"{path}: {exc.strerror}.") from exc
    except (UnicodeDecodeError, yaml.YAMLError) as exc:
        raise ConfigurationError(f"{path} is no YAML.") from exc
    applications = config.get("applications") if isinstance(config, dict) else None
    if not (isinstance(applications, list) and applications):
        raise ConfigurationError(
            f"{path} has no applications; `python -m services.ray config` prints such a file."
        )
    return dict(config)


def deploy(config: dict[str, Any]) -> None:
    """Hand a Serve config to the head at RAY_HEAD_HOST, which leaves alone what is unchanged.

    Raises:
        ConfigurationError: the head cannot be reached, or refuses.
    """
    _ask("PUT", json.dumps(config))


def until_answers(within_s: float) -> None:
    """Wait until the head's API answers.

    Raises:
        ConfigurationError: it has not in that time.
    """
    end_s = time.monotonic() + within_s
    while True:
        try:
            _ask("GET")
        except ConfigurationError:
            if time.monotonic() > end_s:
                raise
        else:
            return
        time.sleep(_AGAIN_S)


def until_running(config: dict[str, Any]) -> None:
    """Wait until every application of a Serve config runs, however long its model loads.

    Raises:
        ConfigurationError: one failed, or the head does not answer any more.
    """
    names = {one["name"] for one in config["applications"]}
    while names:
        told = json.loads(_ask("GET"))["applications"]
        for name in sorted(names & told.keys()):
            if told[name]["status"] == "DEPLOY_FAILED":
                raise ConfigurationError(f"{name} failed on Ray: {told[name]['message'].strip()}")
            if told[name]["status"] == "RUNNING":
                names.remove(name)
        time.sleep(_AGAIN_S)


def _ask(method: str, body: str | None = None) -> str:
    ray = settings().ray
    headers = {"content-type": "application/json"}
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        headers["authorization"] = f"Bearer {token}"
    connection = HTTPConnection(ray.head_host, ray.dashboard_port, timeout=_ANSWER_S)
    try:
        connection.request(method, _PATH, body, headers)
        answer = connection.getresponse()
        said = answer.read().decode(errors="replace")
    except (OSError, HTTPException) as exc:
        raise ConfigurationError(
            f"Ray's head does not answer at {ray.head_host}:{ray.dashboard_port}: {exc}."
        ) from exc
    finally:
        connection.close()
    if answer.status != HTTPStatus.OK:
        raise ConfigurationError(f"Ray's head refuses ({answer.status}): {said.strip()}")
    return said
