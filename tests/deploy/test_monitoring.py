"""Prometheus' targets and the dashboard's metrics exist in the services."""

from __future__ import annotations

import base64
import json
import re
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import pytest
import yaml
from prometheus_client import REGISTRY

from services.server import telemetry
from services.server.admission import Admission, Limits
from tests.deploy.deployment import SOURCE
from tests.integration import test_helm_chart as chart

if TYPE_CHECKING:
    from tests.deploy.deployment import Stack

MONITORING = SOURCE / "monitoring"
DASHBOARD: dict[str, Any] = json.loads(
    (MONITORING / "grafana" / "dashboards" / "bentovox.json").read_text(encoding="utf-8")
)
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:bentovox|process|vllm:)\w+", expression))


def _config(*path: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(MONITORING.joinpath(*path).read_text(encoding="utf-8"))
    return found


def test_dashboard_names_only_metrics_that_the_services_have() -> None:
    telemetry.RoleMetrics("test").observe("/", 200, 0.1, 0.1)
    telemetry.AUDIO_SECONDS.labels("test", "mp3").inc()
    telemetry.HEARD_SECONDS.labels("test").inc()
    telemetry.LAG_SECONDS.labels("test").observe(1)
    telemetry.RoleMetrics("test").watch(Admission(Limits(1, 0, 1)))
    known = {sample.name for family in REGISTRY.collect() for sample in family.samples}
    named = set().union(*map(metrics_in, EXPRESSIONS))
    assert len(named) > 8
    assert {name for name in named if not name.startswith("vllm:")} <= known


def test_dashboard_has_a_title_a_place_and_a_source_for_each_panel() -> None:
    panels = DASHBOARD["panels"]
    source = _config("grafana", "datasources", "bentovox.yaml")["datasources"][0]
    for panel in panels:
        assert panel["datasource"] == {"type": source["type"], "uid": source["uid"]}
        assert panel["title"]
        assert panel["description"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(places)


def test_provisioned_paths_and_names_are_those_of_the_compose_file() -> None:
    services = yaml.safe_load((SOURCE / "compose.yaml").read_text(encoding="utf-8"))["services"]
    provider = _config("grafana", "dashboards", "bentovox.yaml")["providers"][0]
    targets = [entry.split(":")[1] for entry in services["grafana"]["volumes"]]
    assert provider["options"]["path"] in targets
    source = _config("grafana", "datasources", "bentovox.yaml")["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
    prometheus = _config("prometheus.yml")
    assert source["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"]
    (job,) = prometheus["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["gateway:3000"]}]
    assert {"prometheus", "gateway"} <= services.keys()


@pytest.mark.filterwarnings("ignore:connect:DeprecationWarning")  # openai's own use of websockets
def test_prometheus_has_an_answer_to_every_question_of_dashboard_and_chart(stack: Stack) -> None:
    deployment = stack.deployment
    deployment.shell("sed -i 's/: 1[05]s/: 1s/' monitoring/prometheus.yml")  # not to wait a minute
    profile = {"COMPOSE_PROFILES": "monitoring"}
    deployment.compose("up --detach --wait --no-deps prometheus", **profile)
    _use(stack)
    load = chart.of_kind("ScaledObject", chart.rendered(chart.CHOICES["keda"]))["r-chat-main"]
    query = load["spec"]["triggers"][0]["metadata"]["query"].replace(
        ',namespace="ai",service="r-gateway"', ""
    )
    left = {*EXPRESSIONS, query}
    deadline = time.monotonic() + 60
    while left:
        assert time.monotonic() < deadline, f"no answer to {left}"
        _use(stack)
        left -= {expression for expression in left if _answers(stack, expression)}


def _use(stack: Stack) -> None:
    with stack.client() as client:
        client.chat.completions.create(
            model="bentovox-demo", messages=[{"role": "user", "content": "Hello"}]
        )
        text = "Hello from Bentovox."
        spoken = client.audio.speech.create(model="tts-1", voice="alloy", input=text)
        client.audio.transcriptions.create(model="whisper-1", file=("hello.mp3", spoken.content))
        said = client.audio.speech.create(
            model="tts-1", voice="alloy", input=text, response_format="pcm"
        )
        with client.realtime.translations.connect(model="gpt-realtime-translate") as live:
            audio = base64.b64encode(said.content + bytes(48_000)).decode()
            live.session.input_audio_buffer.append(audio=audio)
            live.session.close()
            assert all(event.type != "error" for event in live)


def _answers(stack: Stack, expression: str) -> bool:
    """Return whether each number of the answer is one, and there is at least one."""
    asked = quote(expression.replace("$__rate_interval", "1m"))
    said = stack.deployment.compose(
        f"exec -T prometheus wget -qO- 'http://127.0.0.1:9090/api/v1/query?query={asked}'",
        COMPOSE_PROFILES="monitoring",
    )
    answer = json.loads(said)
    assert answer["status"] == "success", answer
    values = [sample["value"][1] for sample in answer["data"]["result"]]
    return bool(values) and "NaN" not in values


def test_metrics_inside_name_each_backend(stack: Stack) -> None:
    said = stack.deployment.compose(
        "exec -T nginx wget -qO- http://gateway:3000/metrics",
    )
    assert {"chat-0", "speech-0", "transcription-0"} <= set(re.findall(r'backend="([\w-]+)"', said))
    assert httpx.get(f"{stack.url}/metrics").status_code == 404
