"""The compose files as Compose reads them: complete, valid, hardened, without secrets."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from services.openai.errors import ERROR_TABLE
from services.server.websocket import DRAIN_S
from services.settings.sections import ChatSettings, GatewaySettings, TranscriptionSettings
from tests.deploy.deployment import CPU, GPU, OURS, PROFILES, RAY, ROOT, SOURCE, example

if TYPE_CHECKING:
    from pathlib import Path

    from tests.deploy.deployment import Deployment

FILES = [CPU, GPU, f"{CPU}:compose.tls.yaml", f"{GPU}:compose.tls.yaml"]
OF_OTHERS = ("nginx", "prometheus", "grafana", "registry-cache")
EVERYTHING = {"COMPOSE_FILE": f"{GPU}:compose.tls.yaml", "COMPOSE_PROFILES": PROFILES[-1]}
TEMPLATE = (SOURCE / "nginx" / "nginx.conf.template").read_text(encoding="utf-8")
COMPUTING = ("chat", "speech", "transcription")
SECRETS = {
    "gateway": ["api_keys"],
    "chat": ["hf_token"],
    "speech": ["hf_token"],
    "transcription": ["hf_token"],
    "nginx": ["tls_certificate", "tls_key"],
    "grafana": ["grafana_password"],
}

every_source = pytest.mark.parametrize("source", [SOURCE, RAY], ids=lambda source: source.name)
every_service = pytest.mark.parametrize("name", [*OURS, *OF_OTHERS])


@pytest.fixture
def everything(files: Deployment) -> dict[str, Any]:
    services: dict[str, Any] = files.rendered(**EVERYTHING)["services"]
    return services


def _uses(source: Path) -> dict[str, set[str]]:
    """Return the variables of all compose files, each with what follows its name."""
    found: dict[str, set[str]] = {}
    for path in {*source.glob("compose*.yaml"), SOURCE / "parts.yaml"}:
        for name, how in re.findall(r"\$\{(\w+)([^}]*)\}", path.read_text(encoding="utf-8")):
            found.setdefault(name, set()).add(how)
    return found


def _seconds(duration: str) -> float:
    units = {"h": 3600, "m": 60, "s": 1}
    return sum(float(n) * units[unit] for n, unit in re.findall(r"([\d.]+)([hms])", duration))


@pytest.mark.parametrize("profiles", PROFILES, ids=lambda given: given or "none")
@pytest.mark.parametrize("chosen", FILES)
def test_every_choice_of_files_and_profiles_is_valid(
    files: Deployment, chosen: str, profiles: str
) -> None:
    services = files.rendered(COMPOSE_FILE=chosen, COMPOSE_PROFILES=profiles)["services"]
    further = {"monitoring": {"prometheus", "grafana"}, "registry-cache": {"registry-cache"}}
    asked = set[str]().union(*(further[name] for name in profiles.split(",") if name))
    assert services.keys() == {"nginx", *OURS} | asked
    with_gpu = [n for n in services if "devices" in _resources(services[n]).get("reservations", {})]
    assert with_gpu == (list(COMPUTING) if "gpu" in chosen else [])


def test_files_follow_the_compose_specification() -> None:
    schema = ["--builtin-schema", "vendor.compose-spec"]
    paths = [*map(str, sorted(SOURCE.parent.glob("*/compose*.yaml"))), str(SOURCE / "parts.yaml")]
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", *schema, *paths],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@every_source
def test_every_variable_is_in_the_example_and_every_one_there_is_used(source: Path) -> None:
    read_by_compose = {"COMPOSE_FILE", "COMPOSE_PROFILES"}
    assert _uses(source).keys() == example(source).keys() - read_by_compose


@every_source
def test_a_variable_must_be_set_unless_it_may_be_empty(source: Path) -> None:
    for name, how in _uses(source).items():
        may_be_empty = example(source)[name] == ""
        assert how == ({":-"} if may_be_empty else {":?see .env.example"}), name


def test_a_variable_that_is_missing_is_refused_by_name(files: Deployment) -> None:
    files.shell("sed -i /^CHAT_MEMORY=/d .env")
    said = files.shell("docker compose config 2>&1 || true")
    assert "required variable CHAT_MEMORY is missing a value: see .env.example" in said


def test_lines_for_a_gpu_win_over_the_others_once_they_are_taken(files: Deployment) -> None:
    files.shell("sed 's/^#gpu //' .env.example > .env")
    services = files.rendered()["services"]
    assert [services[name]["image"] for name in COMPUTING] == [
        f"bentovox/{name}:cuda13" for name in COMPUTING
    ]
    assert services["gateway"]["image"] == "bentovox/gateway:cpu"
    assert services["chat"]["environment"]["BENTOVOX_PROFILE"] == "gpu"
    device = {"driver": "nvidia", "device_ids": ["0"], "capabilities": ["gpu"]}
    assert _resources(services["chat"])["reservations"]["devices"] == [device]


def test_gpus_are_the_ones_that_were_named(files: Deployment) -> None:
    chosen = {"CHAT_GPUS": "0,1", "SPEECH_GPUS": "2", "TRANSCRIPTION_GPUS": "3"}
    services = files.rendered(COMPOSE_FILE=GPU, **chosen)["services"]
    named = [
        _resources(services[name])["reservations"]["devices"][0]["device_ids"] for name in COMPUTING
    ]
    assert named == [["0,1"], ["2"], ["3"]]


@every_source
def test_every_value_has_a_comment_above_it(source: Path) -> None:
    for block in (source / ".env.example").read_text(encoding="utf-8").split("\n\n"):
        if re.search(r"^[A-Z_]+=", block, flags=re.MULTILINE):
            assert block.lstrip("\n").startswith("#"), block


@every_service
def test_service_is_hardened(everything: dict[str, Any], name: str) -> None:
    service = everything[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert [entry.split(":")[0] for entry in service["tmpfs"]] == ["/tmp"]  # noqa: S108
    assert "size=" in service["tmpfs"][0]
    granted = {"cap_add", "privileged", "network_mode", "pid", "ipc", "devices"}
    assert not granted & service.keys()
    assert not [v for v in service.get("volumes", []) if "docker.sock" in v["target"]]


@every_service
def test_service_is_bounded_and_started_again(everything: dict[str, Any], name: str) -> None:
    service = everything[name]
    limits = _resources(service)["limits"]
    assert float(limits["cpus"]) > 0
    assert int(limits["memory"]) >= 256 << 20
    assert limits["pids"] > 0
    assert service["restart"] == "unless-stopped"
    assert service["logging"]["driver"] == "json-file"
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert "start_period" in service["healthcheck"]


@pytest.mark.parametrize("name", ["nginx", *OURS])
def test_service_of_the_stack_keeps_some_memory_when_the_machine_runs_short(
    everything: dict[str, Any], name: str
) -> None:
    resources = _resources(everything[name])
    assert 0 < int(resources["reservations"]["memory"]) <= int(resources["limits"]["memory"])


@pytest.mark.parametrize("name", ["nginx", *OURS])
def test_stop_leaves_time_for_running_answers(everything: dict[str, Any], name: str) -> None:
    drain_s = max(ChatSettings().shutdown_s, DRAIN_S)
    assert _seconds(everything[name]["stop_grace_period"]) >= 2 * drain_s


def test_only_nginx_publishes_a_port_beyond_this_machine(everything: dict[str, Any]) -> None:
    published = {
        name: [port.get("host_ip", "") for port in service["ports"]]
        for name, service in everything.items()
        if "ports" in service
    }
    only_here = ["127.0.0.1"]
    assert published == {"nginx": only_here, "grafana": only_here, "registry-cache": only_here}
    assert example()["BIND"] == "127.0.0.1"  # until somebody decides
    assert "${BIND" in str((SOURCE / CPU).read_text(encoding="utf-8"))


def test_roles_that_ask_for_no_key_are_reached_by_the_gateway_alone(
    everything: dict[str, Any],
) -> None:
    behind = {name for name, service in everything.items() if "back" in service["networks"]}
    assert behind == set(OURS)
    for name in COMPUTING:
        assert list(everything[name]["networks"]) == ["back"]


def test_dead_role_keeps_no_other_from_starting(everything: dict[str, Any]) -> None:
    assert everything["gateway"]["depends_on"] == {
        role: {"condition": "service_started", "required": False}
        for role in (*COMPUTING, "conversation")
    }
    assert everything["nginx"]["depends_on"]["gateway"]["condition"] == "service_started"


def test_no_secret_is_in_a_variable(everything: dict[str, Any]) -> None:
    for name, service in everything.items():
        for variable in service.get("environment", {}):
            secret = re.search(r"KEY|TOKEN|PASSWORD|SECRET", variable)
            assert not secret or variable.endswith(("_FILE", "_PATH")), f"{name}: {variable}"


def test_each_secret_goes_to_who_needs_it(everything: dict[str, Any]) -> None:
    got = {
        name: [secret["source"] for secret in service["secrets"]]
        for name, service in everything.items()
        if "secrets" in service
    }
    assert got == SECRETS


def test_templates_of_secrets_hold_none_and_the_real_ones_are_ignored() -> None:
    for path in SOURCE.parent.glob("*/.secrets.example/*"):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert [line for line in lines if not line.startswith("#")] == [], path.name
    names = (".env", "settings.env", ".secrets/hf_token")
    private = [f"deploy/{folder}/{name}" for folder in ("compose", "ray") for name in names]
    command = ["git", "check-ignore", *private]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 128:
        pytest.skip("not a git checkout")
    assert done.stdout.split() == private


@pytest.mark.parametrize("name", OF_OTHERS)
def test_image_of_others_is_an_exact_version(everything: dict[str, Any], name: str) -> None:
    assert re.search(r":v?\d+\.\d+\.\d+(-\w+)?(@sha256:[0-9a-f]{64})?$", everything[name]["image"])


def test_nginx_gets_what_its_template_asks_for(everything: dict[str, Any]) -> None:
    asked = set(re.findall(r"\$\{(NGINX_\w+)\}", TEMPLATE))
    given = {name for name in everything["nginx"]["environment"] if "ENVSUBST" not in name}
    assert asked == given
    assert not re.search(r"\$\{(?!NGINX_)", TEMPLATE)


def test_nginx_and_gateway_agree_on_sizes_and_times() -> None:
    gateway = GatewaySettings()
    assert float(example()["BODY_LIMIT_MIB"]) == gateway.body_limit_mib
    assert gateway.body_limit_mib == TranscriptionSettings().body_limit_mib
    (timeout_s,) = re.findall(r"proxy_read_timeout (\d+)s;", TEMPLATE)
    assert int(timeout_s) > gateway.answer_timeout_s
    both_ways = 2 * (gateway.slots + gateway.queue)
    assert int(example()["NGINX_CONNECTIONS"]) >= both_ways


def test_nginx_calls_errors_what_the_services_call_them() -> None:
    ours = {kind.status: (kind.type, kind.code) for kind in ERROR_TABLE.values()}
    theirs = re.findall(r"(\d{3}) +'.*\"type\": \"(\w+)\", .*\"code\": \"?(\w+)\"?'", TEMPLATE)
    assert {int(status) for status, _, _ in theirs} >= {400, 404, 405, 413, 502, 503, 504}
    for status, type_, code in theirs:
        if int(status) in ours and status != "404":  # 404 is an unknown URL there, with its code
            expected_type, expected_code = ours[int(status)]
            assert (type_, code) == (expected_type, expected_code or "null"), status


def _resources(service: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = service["deploy"]["resources"]
    return found
