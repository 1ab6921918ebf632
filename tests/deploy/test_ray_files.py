"""deploy/ray as Compose and Kubernetes read it: complete, hardened, and in step with the code.

With WRITE_DOCS=1 the Serve configs in it are written again.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest
import yaml

from ci import specs
from services.backends.sources import RayServe, source_of
from services.ray.config import ROLES, VARIABLES
from tests.deploy.deployment import RAY, ROOT, Deployment, commands, example

if TYPE_CHECKING:
    from pathlib import Path

CPU = "compose.yaml"
GPU = f"{CPU}:compose.gpu.yaml"
TLS = ":compose.tls.yaml"
NODES = ("head", "worker")
MANIFEST = RAY / "rayservice.yaml"
SERVE = RAY / "serve.yaml"
_HEADER = (
    "# What .env.example makes of the roles, as Ray Serve takes it; written by "
    "tests/deploy/test_ray_files.py.\n"
)
_EMBEDDED = re.compile(r"(?<=  serveConfigV2: \|\n)(?:(?: {4}.*)?\n)+?(?=  \S)")
# What deploy/compose has and Kubernetes gives otherwise.
_BY_THE_OPERATOR = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"}


@pytest.fixture
def files(compose_command: None, tmp_path: Path) -> Deployment:  # noqa: ARG001
    """A deployment that is looked at and not started."""
    deployment = Deployment(tmp_path, RAY)
    deployment.shell("cp .env.example .env")
    return deployment


@pytest.fixture
def services(files: Deployment) -> dict[str, Any]:
    found: dict[str, Any] = files.rendered(COMPOSE_FILE=GPU + TLS)["services"]
    return found


def serve_config(**settings: str) -> str:
    """Return what `python -m services.ray config` prints with settings and none of ours."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("BENTOVOX_")}
    command = [sys.executable, "-m", "services.ray", "config"]
    return subprocess.check_output(command, cwd=ROOT, env={**kept, **settings}, text=True)


def settings_of_the_head() -> dict[str, str]:
    """Return what the head gets of `.env.example`."""
    head = yaml.safe_load((RAY / CPU).read_text(encoding="utf-8"))["services"]["head"]
    named = [name for name, value in head["environment"].items() if str(value).startswith("${")]
    return {name: example(RAY)[name] for name in named}


def manifest() -> dict[tuple[str, str], dict[str, Any]]:
    objects = yaml.safe_load_all(MANIFEST.read_text(encoding="utf-8"))
    return {(one["kind"], one["metadata"]["name"]): one for one in objects}


def cluster() -> dict[str, Any]:
    found: dict[str, Any] = manifest()["RayService", "bentovox"]["spec"]["rayClusterConfig"]
    return found


def pods() -> dict[str, dict[str, Any]]:
    """Return the templates of all pods."""
    (worker,) = cluster()["workerGroupSpecs"]
    gateway = manifest()["Deployment", "bentovox-gateway"]["spec"]
    return {
        "head": cluster()["headGroupSpec"]["template"],
        "worker": worker["template"],
        "gateway": gateway["template"],
    }


def container(name: str) -> dict[str, Any]:
    (found,) = pods()[name]["spec"]["containers"]
    return dict(found)


# What is made from the settings


def test_serve_config_is_what_the_settings_say() -> None:
    made = _HEADER + serve_config(**settings_of_the_head())
    if os.environ.get("WRITE_DOCS"):
        SERVE.write_text(made, encoding="utf-8")
    assert SERVE.read_text(encoding="utf-8") == made, "run it again with WRITE_DOCS=1"


def test_manifest_has_the_same_serve_config_for_its_own_head() -> None:
    settings = {**settings_of_the_head(), "RAY_HEAD_HOST": "bentovox-head-svc"}
    made = textwrap.indent(serve_config(**settings), "    ")
    text = MANIFEST.read_text(encoding="utf-8")
    if os.environ.get("WRITE_DOCS"):
        text = _EMBEDDED.sub(made.replace("\\", r"\\"), text)
        MANIFEST.write_text(text, encoding="utf-8")
    assert _EMBEDDED.findall(text) == [made], "run it again with WRITE_DOCS=1"


@pytest.mark.parametrize("name", NODES)
def test_nodes_have_the_environment_that_ray_needs(services: dict[str, Any], name: str) -> None:
    environment = services[name]["environment"]
    assert VARIABLES.items() <= environment.items()
    assert environment["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_token"
    assert services[name]["working_dir"] == environment["PYTHONPATH"]


@pytest.mark.parametrize("name", NODES)
def test_manifest_gives_nodes_the_environment_of_compose(
    services: dict[str, Any], name: str
) -> None:
    wanted = services["worker"]["environment"].items()
    given = {one["name"]: one["value"] for one in container(name)["env"]}
    without = _BY_THE_OPERATOR | {"HF_TOKEN_PATH"}
    assert given == {variable: value for variable, value in wanted if variable not in without}
    assert container(name)["workingDir"] == services[name]["working_dir"]


def test_manifest_has_ray_as_it_is_locked_and_always_with_a_token() -> None:
    assert cluster()["rayVersion"] == specs.load("ray").requirements("cpu")["ray"]
    assert cluster()["authOptions"] == {"mode": "token", "secretName": "bentovox-ray"}


def test_gateways_ask_for_every_role_at_the_head(services: dict[str, Any]) -> None:
    in_kubernetes = {one["name"]: one.get("value") for one in container("gateway")["env"]}
    places = {"head": services["gateway"]["environment"], "bentovox-head-svc": in_kubernetes}
    for head, environment in places.items():
        for role in ROLES:
            (url,) = yaml.safe_load(environment[f"BENTOVOX_GATEWAY__{role.upper()}"])
            assert isinstance(source_of(url), RayServe)
            assert url == f"ray://{head}:8265/{role}"


# Compose


@pytest.mark.parametrize("chosen", [CPU, GPU, CPU + TLS, GPU + TLS])
def test_every_choice_of_files_is_valid(files: Deployment, chosen: str) -> None:
    found = files.rendered(COMPOSE_FILE=chosen)["services"]
    assert found.keys() == {"nginx", "gateway", *NODES}
    reserved = found["worker"]["deploy"]["resources"]["reservations"]
    assert ("devices" in reserved) == ("gpu" in chosen)


def test_lines_for_gpus_win_over_the_others_once_they_are_taken(files: Deployment) -> None:
    files.shell("sed 's/^#gpu //' .env.example > .env")
    found = files.rendered()["services"]
    assert [found[name]["image"] for name in NODES] == ["bentovox/ray:cuda13"] * 2
    options = yaml.safe_load(found["head"]["environment"]["BENTOVOX_RAY__OPTIONS"])
    assert options["speech"]["ray_actor_options"] == {"num_gpus": 0.5}
    (device,) = found["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


def test_services_may_do_nothing_that_they_need_not(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert [entry.split(":")[0] for entry in service["tmpfs"]] == ["/tmp"]  # noqa: S108
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}
        assert not {"cap_add", "privileged", "network_mode", "pid", "ipc"} & service.keys()


def test_only_nginx_publishes_ports_and_on_this_machine_until_somebody_decides(
    services: dict[str, Any],
) -> None:
    published = {
        name: [(port["host_ip"], port["published"]) for port in service["ports"]]
        for name, service in services.items()
        if "ports" in service
    }
    assert published == {"nginx": [("127.0.0.1", "9998"), ("127.0.0.1", "8265")]}


def test_nodes_are_in_the_network_of_the_cluster_only(services: dict[str, Any]) -> None:
    assert {name: sorted(service["networks"]) for name, service in services.items()} == {
        "nginx": ["back", "front"],
        "gateway": ["back", "front"],
        "head": ["back"],
        "worker": ["back"],
    }


def test_each_secret_is_a_file_for_who_needs_it_and_in_no_variable(
    services: dict[str, Any],
) -> None:
    got = {
        name: sorted(secret["source"] for secret in service["secrets"])
        for name, service in services.items()
    }
    assert got == {
        "nginx": ["dashboard_login", "ray_token", "tls_certificate", "tls_key"],
        "gateway": ["api_keys", "ray_token"],
        "head": ["hf_token", "ray_token"],
        "worker": ["hf_token", "ray_token"],
    }
    for service in services.values():
        for variable in service.get("environment", {}):
            secret = re.search(r"KEY|TOKEN|PASSWORD|SECRET", variable)
            assert not secret or variable.endswith(("_FILE", "_PATH")), variable


def test_nginx_gets_what_its_templates_ask_for(services: dict[str, Any]) -> None:
    text = (RAY / "nginx" / "dashboard.conf.template").read_text(encoding="utf-8")
    assert set(re.findall(r"\$\{(\w+)\}", text)) == {"NGINX_RAY_HEAD"}
    assert services["nginx"]["environment"]["NGINX_RAY_HEAD"] == "head"
    assert os.access(RAY / "nginx" / "token.sh", os.X_OK)  # the image's entrypoint runs no other


# Kubernetes


@pytest.mark.parametrize("version", ["1.30", "1.34", "1.37"])
def test_manifest_is_what_kubernetes_takes(version: str) -> None:
    """KubeRay's own definition is on no index of packages: of its object, the pods are checked."""
    objects = [one for (kind, _), one in manifest().items() if kind != "RayService"]
    objects += [{"apiVersion": "v1", "kind": "Pod", **pods()[name]} for name in NODES]
    for one in objects:
        one["metadata"].setdefault("name", "of-a-template")
        kubernetes_validate.validate(one, version, strict=True)


def test_pods_are_restricted() -> None:
    for name, pod in pods().items():
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container(name)["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        assert not any("hostPath" in volume for volume in spec["volumes"])


def test_pods_are_bounded_and_looked_after() -> None:
    for name in pods():
        one = container(name)
        assert "memory" in one["resources"]["limits"], name
        assert {"cpu", "memory"} <= one["resources"]["requests"].keys()
        ports = {port["name"] for port in one["ports"]}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert one[probe]["httpGet"]["port"] in ports
        mounts = {mount["name"] for mount in one["volumeMounts"]}
        assert mounts == {volume["name"] for volume in pods()[name]["spec"]["volumes"]}


def test_probes_of_nodes_are_the_health_checks_of_compose(services: dict[str, Any]) -> None:
    for name in NODES:
        _, _, url = services[name]["healthcheck"]["test"]
        ports = {port["name"]: port["containerPort"] for port in container(name)["ports"]}
        probe = container(name)["readinessProbe"]["httpGet"]
        assert url.partition(":")[2] == f"{ports[probe['port']]}{probe['path']}"


def test_token_and_keys_come_from_secrets() -> None:
    assert not [kind for kind, _ in manifest() if kind == "Secret"]
    variables = {one["name"]: one for one in container("gateway")["env"]}
    wanted = {"secretKeyRef": {"name": "bentovox-ray", "key": "auth_token"}}
    assert variables["RAY_AUTH_TOKEN"]["valueFrom"] == wanted
    keys = {volume["name"]: volume for volume in pods()["gateway"]["spec"]["volumes"]}["keys"]
    assert keys["secret"]["secretName"] == "bentovox-keys"


def test_readme_names_a_registry_and_prints_another_config() -> None:
    commands_ = commands("Kubernetes", RAY)
    (naming,) = re.findall(r"^sed .*(?= \| kubectl)", commands_, flags=re.MULTILINE)
    told = subprocess.check_output(["sh", "-c", naming], cwd=RAY, text=True)
    images = re.findall(r"image: (\S+)", told)
    assert set(images) == {
        f"ghcr.io/OWNER/bentovox/{name}:1.2.3-cpu" for name in ("ray", "gateway")
    }
    (printing,) = re.findall(r"^.*services.ray config$", commands_, flags=re.MULTILINE)
    *variables, _, _, _, _ = printing.split()
    made = yaml.safe_load(serve_config(**dict(one.split("=") for one in variables)))
    chat = made["applications"][0]
    assert chat["runtime_env"]["env_vars"]["BENTOVOX_PROFILE"] == "gpu"
    assert chat["deployments"][0]["autoscaling_config"]["max_replicas"] == 4


def test_ray_is_reached_by_itself_the_gateway_and_the_operator_only() -> None:
    policy = manifest()["NetworkPolicy", "bentovox-ray"]["spec"]
    labels = policy["podSelector"]["matchLabels"]
    for name in NODES:
        assert labels.items() <= pods()[name]["metadata"]["labels"].items()
    itself, gateway, operator = policy["ingress"]
    assert itself == {"from": [{"podSelector": {"matchLabels": labels}}]}
    (peer,) = gateway["from"]
    matching = peer["podSelector"]["matchLabels"].items()
    assert matching <= pods()["gateway"]["metadata"]["labels"].items()
    api = {"protocol": "TCP", "port": 8265}
    assert gateway["ports"] == [api, {"protocol": "TCP", "port": 30000, "endPort": 31000}]
    assert operator["ports"] == [api]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
