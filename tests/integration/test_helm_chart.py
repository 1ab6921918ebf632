"""The chart as helm renders it: valid, hardened, whole, and refused where it could not work."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest
import yaml

from services.backends.sources import Kubernetes, source_of
from services.openai.paths import OPENAPI, ROUTES, SOCKETS
from services.server.serving import ALIVE, METRICS, READY
from tests.helm import helm

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "bentovox"
SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
ROLES = ("gateway", "chat", "speech", "transcription", "conversation")
GIVEN = {
    "image": {"repository": "ghcr.io/me/bentovox", "tag": "1.2.3"},
    "keys": {"secret": "bentovox-keys"},
}
SCALED = {
    "kind": "keda",
    "minReplicas": 0,
    "maxReplicas": 4,
    "prometheus": "http://prometheus:9090",
}
SHARED = {"persistence": {"accessMode": "ReadWriteMany"}}
CHOICES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "digests": {"image": {"tag": "", "digests": dict.fromkeys(ROLES, "sha256:" + "ab" * 32)}},
    "gpus": {
        "profile": "gpu",
        "chat": {"gpu": {"count": 2, "product": "NVIDIA-H100-80GB-HBM3"}, "shm": "4Gi"},
        "speech": {"gpu": {"count": 1}, "runtimeClassName": "nvidia"},
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
        "nodeSelector": {"zone": "a"},
    },
    "models": {"chat": {"models": [
        {"name": "small", "model": "Qwen/Qwen3-0.6B", "settings": {"BENTOVOX_CHAT__SLOTS": 8}},
        {"name": "large", "model": "Qwen/Qwen3-32B", "gpu": {"count": 4}, "replicas": 2},
    ]}, "models": SHARED},
    "keda": {"chat": {"autoscaling": SCALED}, "models": SHARED},
    "hpa": {
        "transcription": {"autoscaling": {"kind": "hpa", "minReplicas": 1, "maxReplicas": 3}},
        "models": SHARED,
        "gateway": {"autoscaling": {"enabled": True}},
    },
    "front": {
        "ingress": {"enabled": True, "host": "ai.example", "tlsSecret": "t", "className": "nginx"},
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "httpRoute": {"enabled": True, "gateway": "main", "host": "ai.example"},
        "networkPolicy": {"monitoringNamespace": "monitoring", "from": [{"podSelector": {}}]},
    },
    "little": {
        "chat": {"enabled": False},
        "transcription": {"enabled": False},
        "conversation": {"enabled": False},
        "models": {"persistence": {"enabled": False}},
        "speech": {"voices": {"existingClaim": "mine"}},
        "keys": {"secret": "", "openToAll": True},
        "hub": {"tokenSecret": "hub"},
        "networkPolicy": {"enabled": False},
    },
}  # fmt: skip
every_choice = pytest.mark.parametrize("name", CHOICES)
# Their schemas are not in Kubernetes' own.
CUSTOM = {"ScaledObject", "HTTPRoute", "ServiceMonitor"}


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    both = {**one, **other}
    for key in one.keys() & other.keys():
        if isinstance(one[key], dict) and isinstance(other[key], dict):
            both[key] = merged(one[key], other[key])
    return both


def run(values: dict[str, Any], *, kubernetes: str = "1.34.0") -> subprocess.CompletedProcess[str]:
    return _run(json.dumps(values), kubernetes)


@cache
def _run(values: str, kubernetes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(helm(), "template", "r", str(CHART), "--namespace", "ai", "--values", "-"),
            *("--kube-version", kubernetes),
        ],
        input=values,
        capture_output=True,
        text=True,
        check=False,
    )


def rendered(values: dict[str, Any]) -> list[dict[str, Any]]:
    done = run(merged(GIVEN, values))
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.load_all(done.stdout, yaml.CSafeLoader) if one]


def of_kind(kind: str, objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in objects if one["kind"] == kind}


def pods(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        name: one["spec"]["template"]["spec"]
        for name, one in of_kind("Deployment", objects).items()
    }


def env(pod: dict[str, Any]) -> dict[str, Any]:
    listed = pod["containers"][0]["env"]
    assert len({one["name"] for one in listed}) == len(listed)
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in listed}


@every_choice
@pytest.mark.parametrize("version", ["1.30", "1.34", "1.37"])
def test_it_is_what_kubernetes_takes(name: str, version: str) -> None:
    for one in rendered(CHOICES[name]):
        if one["kind"] not in CUSTOM:
            kubernetes_validate.validate(one, version, strict=True)


@every_choice
def test_names_are_unique_and_everything_belongs_to_the_release(name: str) -> None:
    objects = rendered(CHOICES[name])
    names = [(one["kind"], one["metadata"]["name"]) for one in objects]
    assert len(set(names)) == len(names)
    for one in objects:
        assert one["metadata"]["labels"]["app.kubernetes.io/instance"] == "r"


@every_choice
def test_pods_may_do_nothing_that_they_need_not(name: str) -> None:
    for part, pod in pods(rendered(CHOICES[name])).items():
        assert pod["securityContext"]["runAsNonRoot"], part
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        assert not any("hostPath" in volume for volume in pod["volumes"])
        asks = container["name"] in {"gateway", "conversation"}
        assert pod["automountServiceAccountToken"] is asks
        assert pod["serviceAccountName"] == ("r-asks" if asks else "r-engine")


@every_choice
def test_pods_are_bounded_and_looked_after(name: str) -> None:
    for pod in pods(rendered(CHOICES[name])).values():
        (container,) = pod["containers"]
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert "memory" in container["resources"]["limits"]
        paths = {
            probe: container[probe]["httpGet"]["path"]
            for probe in ("startupProbe", "readinessProbe", "livenessProbe")
        }
        # What only asks others is let in although a role is down: the others are served.
        ready = "/livez" if container["name"] in {"gateway", "conversation"} else "/readyz"
        assert paths == {
            "startupProbe": "/livez",
            "readinessProbe": ready,
            "livenessProbe": "/livez",
        }
        startup = container["startupProbe"]
        assert startup["periodSeconds"] * startup["failureThreshold"] == 3600  # a download
        drain_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert 0 < drain_s < pod["terminationGracePeriodSeconds"] - 20
        mounts = {mount["name"] for mount in container["volumeMounts"]}
        assert mounts == {volume["name"] for volume in pod["volumes"]}


@every_choice
def test_images_are_named_by_what_does_not_move(name: str) -> None:
    for pod in pods(rendered(CHOICES[name])).values():
        image = pod["containers"][0]["image"]
        assert re.fullmatch(
            r"ghcr\.io/me/bentovox/[a-z]+(@sha256:[0-9a-f]{64}|:1\.2\.3-(cpu|cuda13))", image
        )


@every_choice
def test_whoever_asks_finds_services_that_are_there(name: str) -> None:
    objects = rendered(CHOICES[name])
    services = of_kind("Service", objects)
    (rule,) = of_kind("Role", objects)["r-asks"]["rules"]
    assert rule == {
        "apiGroups": ["discovery.k8s.io"],
        "resources": ["endpointslices"],
        "verbs": ["list", "watch"],
    }
    asked: set[str] = set()
    for part, pod in pods(objects).items():
        for variable, value in env(pod).items():
            if not str(value).startswith('["k8s://'):
                continue
            for url in json.loads(value):
                assert isinstance(source_of(url), Kubernetes)
                service, _, port = url.removeprefix("k8s://").partition(":")
                assert port in {one["name"] for one in services[service]["spec"]["ports"]}
                assert services[service]["spec"]["clusterIP"] == "None"
                asked |= {service} if part == "r-gateway" else set()
                assert variable.rpartition("__")[2].lower() in service
    assert asked == services.keys() - {"r-gateway"}


@every_choice
def test_every_service_has_pods(name: str) -> None:
    objects = rendered(CHOICES[name])
    labels = [
        one["spec"]["template"]["metadata"]["labels"]
        for one in of_kind("Deployment", objects).values()
    ]
    for service in of_kind("Service", objects).values():
        matching = [one for one in labels if service["spec"]["selector"].items() <= one.items()]
        assert len(matching) == 1


@every_choice
def test_settings_are_ours(name: str) -> None:
    for part, pod in pods(rendered(CHOICES[name])).items():
        ours = frozenset((k, v) for k, v in env(pod).items() if k.startswith("BENTOVOX_"))
        assert fault_of(ours) == "", part


@cache
def fault_of(ours: frozenset[tuple[str, str]]) -> str:
    """Return what is wrong with settings, in the environment of a process that reads them."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("BENTOVOX_")}
    done = subprocess.run(
        [sys.executable, "-m", "services.settings"],
        env={**kept, **dict(ours)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr if done.returncode else ""


def test_no_secret_is_in_what_is_rendered() -> None:
    objects = rendered({"hub": {"tokenSecret": "hub"}})
    assert not of_kind("Secret", objects)
    for pod in pods(objects).values():
        for name, value in env(pod).items():
            if re.search("TOKEN|KEY|PASSWORD", name) and isinstance(value, str):
                assert value.startswith("/run/secrets/")


# Who reaches whom


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    for one in selector.get("matchExpressions", ()):
        inside = labels.get(one["key"]) in one["values"]
        if inside is not (one["operator"] == "In"):
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()


def test_engines_are_reached_by_those_who_ask_only() -> None:
    objects = rendered({})
    policies = list(of_kind("NetworkPolicy", objects).values())
    labels = {
        one["spec"]["template"]["metadata"]["labels"]["bentovox/role"]: one["spec"]["template"][
            "metadata"
        ]["labels"]
        for one in of_kind("Deployment", objects).values()
    }

    def comes_in(role: str) -> Iterator[dict[str, Any]]:
        for policy in policies:
            if "Ingress" in policy["spec"]["policyTypes"] and selects(
                policy["spec"]["podSelector"], labels[role]
            ):
                yield from policy["spec"].get("ingress", ())

    for role in labels.keys() - {"gateway"}:
        (rule,) = comes_in(role)
        (peer,) = rule["from"]
        allowed = {other for other in labels if selects(peer["podSelector"], labels[other])}
        assert allowed == {"gateway", "conversation"}
    (rule,) = comes_in("gateway")
    assert "from" not in rule


def test_only_those_who_find_pods_reach_the_ports_of_the_clusters_api() -> None:
    objects = rendered({})
    open_: dict[str, set[int]] = {}
    for one in of_kind("Deployment", objects).values():
        labels = one["spec"]["template"]["metadata"]["labels"]
        open_[labels["bentovox/role"]] = {
            port["port"]
            for policy in of_kind("NetworkPolicy", objects).values()
            if selects(policy["spec"]["podSelector"], labels)
            for rule in policy["spec"].get("egress", ())
            for port in rule["ports"]
        }
    for role in ("chat", "speech", "transcription"):
        assert open_[role] == {53, 5353, 443}
    for role in ("gateway", "conversation"):
        assert open_[role] >= {6443, 3000}


# Scaling


def test_what_is_scaled_has_no_fixed_number() -> None:
    objects = rendered(CHOICES["keda"])
    deployments = of_kind("Deployment", objects)
    assert "replicas" not in deployments["r-chat-main"]["spec"]
    assert deployments["r-speech"]["spec"]["replicas"] == 1
    scaled = of_kind("ScaledObject", objects)["r-chat-main"]["spec"]
    assert scaled["scaleTargetRef"]["name"] == "r-chat-main"
    assert (scaled["minReplicaCount"], scaled["maxReplicaCount"]) == (0, 4)
    assert 'bentovox_asked_requests{asked="chat"' in scaled["triggers"][0]["metadata"]["query"]
    # Somebody has to wait for the first pod, and the gateway is the one who can.
    assert env(pods(objects)["r-gateway"])["BENTOVOX_GATEWAY__HOLD_S"] == "3600"


@pytest.mark.parametrize(
    ("gateway", "ahead"),
    [
        ({}, "4"),
        ({"replicas": 1}, "8"),
        ({"autoscaling": {"enabled": True, "maxReplicas": 16}}, "0"),
        ({"settings": {"BENTOVOX_GATEWAY__AFFINITY_AHEAD": 3}}, "3"),
    ],
)
def test_gateways_share_out_what_affinity_may_do(gateway: dict[str, Any], ahead: str) -> None:
    made = env(pods(rendered({"gateway": gateway}))["r-gateway"])
    assert made["BENTOVOX_GATEWAY__AFFINITY_AHEAD"] == ahead


def test_without_zero_nobody_waits() -> None:
    assert "BENTOVOX_GATEWAY__HOLD_S" not in env(pods(rendered(CHOICES["hpa"]))["r-gateway"])


def test_a_volume_for_one_pod_goes_from_the_old_one_to_the_new() -> None:
    deployments = of_kind("Deployment", rendered({}))
    assert deployments["r-speech"]["spec"]["strategy"] == {"type": "Recreate"}
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    assert deployments["r-gateway"]["spec"]["strategy"] == rolling


def test_voices_stay_when_the_release_goes() -> None:
    claims = of_kind("PersistentVolumeClaim", rendered({}))
    kept = {n for n, one in claims.items() if "annotations" in one["metadata"]}
    assert kept == {"r-speech-voices"}


def test_gpus_are_asked_for_and_used() -> None:
    found = pods(rendered(CHOICES["gpus"]))
    chat, gateway = found["r-chat-main"], found["r-gateway"]
    assert chat["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 2
    arguments = json.loads(env(chat)["BENTOVOX_CHAT__ARGS"])
    assert arguments[arguments.index("--tensor-parallel-size") + 1] == "2"
    assert chat["containers"][0]["image"].endswith(":1.2.3-cuda13")
    assert chat["nodeSelector"] == {"zone": "a", "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
    assert {one["key"] for one in chat["tolerations"]} == {"dedicated", "nvidia.com/gpu"}
    assert found["r-speech"]["runtimeClassName"] == "nvidia"
    assert gateway["containers"][0]["image"].endswith(":1.2.3-cpu")
    assert gateway["nodeSelector"] == {"zone": "a"}


def test_what_a_model_sets_goes_before_what_chat_sets_even_if_it_is_nothing() -> None:
    one = {"name": "one", "replicas": 0, "gpu": {"count": 0}}
    objects = rendered({
        "chat": {"replicas": 2, "gpu": {"count": 2}, "models": [one, {"name": "two"}]},
        "models": SHARED,
    })  # fmt: skip
    deployments = of_kind("Deployment", objects)
    replicas = [deployments[f"r-chat-{name}"]["spec"]["replicas"] for name in ("one", "two")]
    images = [pods(objects)[f"r-chat-{name}"]["containers"][0]["image"] for name in ("one", "two")]
    assert replicas == [0, 2]
    assert [image.rpartition("-")[2] for image in images] == ["cpu", "cuda13"]


def test_settings_arrive_as_they_were_given() -> None:
    given = {
        "BENTOVOX_CONVERSATION__TRANSLATION__TOTAL_LIMIT": (3_000_000, "3000000"),
        "BENTOVOX_CHAT__SLOTS": (8, "8"),
        "BENTOVOX_GATEWAY__CONNECT_TIMEOUT_S": (0.5, "0.5"),
        "BENTOVOX_GATEWAY__PLAYGROUND": (False, "false"),
        "BENTOVOX_PROFILE": ("cpu", "cpu"),
    }
    settings = {name: value for name, (value, _) in given.items()}
    for pod in pods(rendered({"settings": settings})).values():
        assert env(pod).items() >= {name: text for name, (_, text) in given.items()}.items()


def test_a_role_may_be_asked_elsewhere() -> None:
    """Once in the environment: Kubernetes refuses to apply a name that is there twice."""
    chat = '["http://elsewhere:3000"]'
    objects = rendered({"gateway": {"settings": {"BENTOVOX_GATEWAY__CHAT": chat}}})
    assert env(pods(objects)["r-gateway"])["BENTOVOX_GATEWAY__CHAT"] == chat


def test_a_rollout_is_given_the_time_of_a_start_and_the_gpus_that_are_there() -> None:
    deployments = of_kind("Deployment", rendered(CHOICES["models"]))
    for one in deployments.values():
        assert one["spec"]["progressDeadlineSeconds"] > 3600
    rolling = {n: d["spec"]["strategy"].get("rollingUpdate") for n, d in deployments.items()}
    assert rolling["r-chat-large"] == {"maxSurge": 0, "maxUnavailable": 1}
    assert rolling["r-chat-small"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_a_new_version_of_the_chart_alone_restarts_nobody() -> None:
    for one in of_kind("Deployment", rendered({})).values():
        labels = one["spec"]["template"]["metadata"]["labels"]
        assert not labels.keys() & {"helm.sh/chart", "app.kubernetes.io/version"}


def test_models_in_an_image_are_hidden_by_no_volume_that_begins_empty() -> None:
    objects = rendered({"models": {"persistence": {"enabled": False}}})
    for pod in pods(objects).values():
        empty = {one["name"] for one in pod["volumes"] if "emptyDir" in one}
        mounts = {
            mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]
        }
        assert "/models" not in mounts
        if "shm" in mounts.values():  # an engine
            assert {mounts["/models/huggingface"], mounts["/models/vllm"]} <= empty


# What is served to the world


def test_an_ingress_serves_all_paths_but_the_metrics() -> None:
    (ingress,) = of_kind("Ingress", rendered(CHOICES["front"])).values()
    (rule,) = ingress["spec"]["rules"]
    open_ = [one["path"] for one in rule["http"]["paths"]]
    assert {one["pathType"] for one in rule["http"]["paths"]} == {"Prefix"}
    served = {OPENAPI, *ALIVE, *READY}
    served |= {path for routes in ROUTES.values() for _, path in routes} | {*SOCKETS}
    for path in served:
        assert any(path == one or path.startswith(f"{one}/") for one in open_), path
    assert not any(METRICS.startswith(one) for one in open_)


def test_a_route_serves_all_paths_but_the_metrics() -> None:
    (route,) = of_kind("HTTPRoute", rendered(CHOICES["front"])).values()
    metrics, rest = route["spec"]["rules"]
    assert metrics == {"matches": [{"path": {"type": "Exact", "value": METRICS}}]}
    assert rest["backendRefs"] == [{"name": "r-gateway", "port": 3000}]
    assert "matches" not in rest


def test_without_keys_it_may_be_called_by_the_name_that_it_is_published_under() -> None:
    """Else it would refuse every request from outside (`host_not_allowed`)."""
    objects = rendered({
        **CHOICES["front"],
        "keys": {"secret": "", "openToAll": True},
        "gateway": {"hosts": ["other.example"]},
    })  # fmt: skip
    hosts = json.loads(env(pods(objects)["r-gateway"])["BENTOVOX_HOSTS"])
    assert hosts == ["other.example", "ai.example"]


def test_each_model_is_a_deployment_of_its_own() -> None:
    found = pods(rendered(CHOICES["models"]))
    small, large = env(found["r-chat-small"]), env(found["r-chat-large"])
    assert (small["BENTOVOX_CHAT__MODEL"], small["BENTOVOX_CHAT__SLOTS"]) == (
        "Qwen/Qwen3-0.6B",
        "8",
    )
    assert large["BENTOVOX_CHAT__MODEL"] == "Qwen/Qwen3-32B"
    assert "BENTOVOX_CHAT__SLOTS" not in large
    urls = json.loads(env(found["r-gateway"])["BENTOVOX_GATEWAY__CHAT"])
    assert urls == ["k8s://r-chat-small:http", "k8s://r-chat-large:http"]


# What cannot work


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"image": {"repository": ""}}, "image.repository is needed"),
        ({"image": {"tag": ""}}, "image.digests.gateway is needed, or image.tag"),
        ({"keys": {"secret": ""}}, "keys.secret is needed"),
        ({"speech": {"replicas": 2}}, "ReadWriteOnce volume takes one"),
        ({"chat": {"autoscaling": SCALED}}, "ReadWriteOnce volume takes one"),
        ({"ingress": {"enabled": True}}, "ingress.host is needed"),
        ({"httpRoute": {"enabled": True}}, "httpRoute.gateway is needed"),
        (
            {"chat": {"autoscaling": {**SCALED, "prometheus": ""}}, "models": SHARED},
            "chat.autoscaling.prometheus is needed",
        ),
        (
            {**CHOICES["models"], "chat": {**CHOICES["models"]["chat"], "autoscaling": SCALED}},
            "chat.autoscaling needs one model",
        ),
        ({"replicas": 3}, "replicas"),
        ({"chat": {"model": "Qwen/Qwen3-8B"}}, "model"),
        ({"chat": {"gpu": 1}}, "gpu"),
        ({"speech": {"settings": {"SLOTS": 4}}}, "SLOTS"),
        ({"settings": {"HF_TOKEN": "hf_secret"}}, "HF_TOKEN"),
        ({"drainSeconds": 0}, "drainSeconds"),
        ({"drainSeconds": 90}, "drainSeconds is part of graceSeconds"),
        ({"profile": "huge"}, "profile"),
        ({"chat": {"models": []}}, "models"),
        ({"chat": {"autoscaling": {"kind": "keda"}}}, "minReplicas"),
        ({"image": {"digests": {"chat": "latest"}}}, "digests"),
    ],
)
def test_what_cannot_work_is_refused_in_words(values: dict[str, Any], says: str) -> None:
    done = run(merged(GIVEN, values))
    assert done.returncode
    assert says in done.stderr


def test_an_older_kubernetes_is_refused() -> None:
    assert "1.30" in run(GIVEN, kubernetes="1.29.0").stderr


# The values themselves


def described(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, one in schema.get("properties", {}).items():
        yield f"{path}{name}", one
        yield from described(one, f"{path}{name}.")
        yield from described(one.get("items", {}), f"{path}{name}[].")


def test_every_value_is_described_and_every_default_is_one_of_them() -> None:
    known = dict(described(SCHEMA))
    for name, one in known.items():
        assert one["description"].endswith("."), name

    def leaves(values: dict[str, Any], path: str = "") -> Iterator[str]:
        for name, one in values.items():
            yield f"{path}{name}"
            if isinstance(one, dict) and "properties" in known[f"{path}{name}"]:
                yield from leaves(one, f"{path}{name}.")

    defaults = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    assert set(leaves(defaults)) <= known.keys()


def test_lint_has_nothing_to_say() -> None:
    done = subprocess.run(
        [helm(), "lint", "--strict", str(CHART), "--values", "-"],
        input=json.dumps(GIVEN),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_notes_say_what_to_do_next() -> None:
    done = subprocess.run(
        [
            *(helm(), "install", "r", str(CHART), "--dry-run=client", "--namespace", "ai"),
            *("--values", "-"),
        ],
        input=json.dumps(GIVEN),
        capture_output=True,
        text=True,
        check=False,
    )
    notes = done.stdout.partition("NOTES:")[2]
    assert "port-forward svc/r-gateway" in notes
    assert "a key of the Secret bentovox-keys" in notes
