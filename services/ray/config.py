"""What Ray Serve is told: every role as an application, from the settings in force.

`python -m services.ray config` prints it as YAML, which `serve deploy` and KubeRay's
`serveConfigV2` take. It holds every setting that was given, so nodes need none; secrets are left
out, and reach a replica through the environment of its node.

It is delivered here, too: Ray's own `serve deploy` takes the name of a file that is not there for
an import path, and replaces every application by it.
"""

from __future__ import annotations

import ipaddress
import json
import os
import time
from contextlib import suppress
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import SecretStr

from services.chat.arguments import environment, on_cpu
from services.errors import ConfigurationError
from services.settings import Settings, given, leaves, over, settings, variable

ROLES: Final = ("chat", "speech", "transcription", "conversation")
"""The roles that are applications; the gateway stays in front of them."""

VARIABLES: Final = {
    "RAY_AUTH_MODE": "token",  # without one, who reaches a port of Ray's runs code (CVE-2023-48022)
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
    "RAY_USAGE_STATS_ENABLED": "0",
    # How long nodes serve on without their head: Ray's own minute is less than a machine's restart.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
}
"""What every process of Ray's needs in its environment, beside RAY_AUTH_TOKEN."""

_LOAD_S: Final = "86400"  # a model may be downloaded first; Ray gives up after an hour
_CPUS: Final = 0.2  # what Ray counts; the engines' threads are bounded by their own settings

_PATH: Final = "/api/serve/applications/"
_ANSWER_S: Final = 120.0  # the first one starts Serve's controller
_AGAIN_S: Final = 1.0


def serve_config() -> dict[str, Any]:
    """Return the Serve config of all applications (Ray's `ServeDeploySchema`)."""
    chosen = settings()
    return {
        # The gateway asks each replica on its own port. Ray starts one proxy on the head anyway.
        "proxy_location": "Disabled",
        "http_options": {"host": "127.0.0.1" if is_local(chosen.ray.head_host) else "0.0.0.0"},  # noqa: S104  other nodes have other addresses
        "applications": [_application(role, chosen) for role in ROLES],
    }


def _application(role: str, chosen: Settings) -> dict[str, Any]:
    deployment = {"name": deployment_of(role), **_options(role, chosen)}
    args: dict[str, Any] = {"role": role}
    if role == "chat":  # Ray's LLMConfig makes of these what its replicas need
        args["accelerator_type"] = chosen.ray.accelerator_type
        args["ray_actor_options"] = deployment.pop("ray_actor_options")
    return {
        "name": role,
        "route_prefix": prefix_of(role),
        "import_path": f"services.ray.{'chat' if role == 'chat' else 'replica'}:build",
        "args": args,
        "runtime_env": {"env_vars": _environment(role, chosen)},
        "deployments": [deployment],
    }


def prefix_of(role: str) -> str:
    """Return the path under which Ray has a role: one application, one prefix."""
    return f"/{role}"


def deployment_of(role: str) -> str:
    """Return the name of the one deployment of a role's application."""
    return role.capitalize()


def _options(role: str, chosen: Settings) -> dict[str, Any]:
    """Return the options of a role's deployment, with those of `ray.options` over them.

    A change of most of them restarts no replica.
    """
    ray = chosen.ray
    found: dict[str, Any] = {
        # The role's own slots and queue bound it, and say so in OpenAI's words.
        "max_ongoing_requests": 10_000,
        "max_surge_percent": 100,  # an update starts the new replicas before it ends the old ones
        "graceful_shutdown_timeout_s": 60,
        "autoscaling_config": {
            "min_replicas": ray.min_replicas,
            "max_replicas": max(ray.min_replicas, ray.max_replicas),
            "target_ongoing_requests": ray.target_ongoing_requests,
        },
        "ray_actor_options": {"num_cpus": _CPUS}
        | ({"num_gpus": 1} if _on_gpu(role, chosen) else {}),
    }
    return dict(over(found, ray.options.get(role, {})))


def _on_gpu(role: str, chosen: Settings) -> bool:
    """Return whether a role's engine computes on a GPU, as far as its settings tell."""
    asked = chosen.ray.options.get(role, {}).get("ray_actor_options", {}).get("num_gpus")
    if asked is not None:
        return float(asked) > 0
    if role == "chat":
        return bool(chosen.ray.accelerator_type) or not on_cpu(chosen.chat)
    device = getattr(getattr(chosen, role), "options", {}).get("device")
    return _on_gpu("chat", chosen) if device == "auto" else bool(device == "cuda")


def backends(chosen: Settings) -> dict[str, list[str]]:
    """Return where a gateway finds the replicas of each role."""
    head = f"{chosen.ray.head_host}:{chosen.ray.dashboard_port}"
    return {role: [f"ray://{head}{prefix_of(role)}"] for role in ROLES}


def is_local(host: str) -> bool:
    """Return whether a host is this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _environment(role: str, chosen: Settings) -> dict[str, str]:
    """Return the variables of a role's replicas: the settings that were given, but no secret.

    A change of one restarts the role's replicas, so those of other roles stay out.
    """
    ours = {
        variable(key)
        for key, field in leaves()
        if key.partition(".")[0] in {key, role, "log"} and field.annotation is not SecretStr
    }
    found = {
        name: one.value
        for name, one in given().items()
        if any(name == our or name.startswith(f"{our}__") for our in ours)
    }
    if role == "chat":
        # Decided here: the node that builds the application may have no GPU.
        device = "cuda" if _on_gpu("chat", chosen) else "cpu"
        found |= environment(chosen.chat.model_copy(update={"device": device}))
        found |= {variable("chat.device"): device, "RAYLLM_ENGINE_START_TIMEOUT_S": _LOAD_S}
    if role == "conversation":
        there = backends(chosen)
        for asked, urls in chosen.conversation.backends.items():
            found[variable(f"conversation.{asked}")] = json.dumps(
                urls or chosen.gateway.backends[asked] or there[asked]
            )
    return dict(sorted(found.items()))


def read_config(path: str) -> dict[str, Any]:
    """Return a Serve config from a file; ConfigurationError if it names no application."""
    try:
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigurationError(f"{path}: {exc.strerror}.") from exc
    except (UnicodeDecodeError, yaml.YAMLError) as exc:
        raise ConfigurationError(f"{path} is no YAML.") from exc
    applications = config.get("applications") if isinstance(config, dict) else None
    if not applications or not isinstance(applications, list):
        raise ConfigurationError(
            f"{path} has no applications; `python -m services.ray config` prints such a file."
        )
    return dict(config)


def deploy(config: dict[str, Any]) -> None:
    """Hand a Serve config to the head at RAY_HEAD_HOST, which leaves alone what is unchanged.

    ConfigurationError if the head cannot be reached, or refuses.
    """
    _ask("PUT", json.dumps(config))


def until_answers(within_s: float) -> None:
    """Wait until the head's API answers; ConfigurationError if it does not in that time."""
    end_s = time.monotonic() + within_s
    while time.monotonic() < end_s:
        with suppress(ConfigurationError):
            _ask("GET")
            return
        time.sleep(_AGAIN_S)
    _ask("GET")


def until_running(config: dict[str, Any]) -> None:
    """Wait until every application of a Serve config runs, however long its model loads.

    ConfigurationError if one failed, or the head does not answer any more.
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
