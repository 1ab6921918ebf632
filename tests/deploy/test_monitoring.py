"""What the dashboard draws is what the services say; test_stack asks a real Prometheus."""

from __future__ import annotations

import re
from typing import Any

import yaml
from prometheus_client import REGISTRY

from services import telemetry
from tests.deploy.deployment import DASHBOARD, EXPRESSIONS, MONITORING, SOURCE


def metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:bentovox|process|vllm:)\w+", expression))


def _config(*path: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(MONITORING.joinpath(*path).read_text(encoding="utf-8"))
    return found


def test_dashboard_names_only_metrics_that_the_services_have() -> None:
    telemetry.RoleMetrics("test").observe(telemetry.Observation("/", 200, 0.1, 0.1))
    telemetry.RoleMetrics("test").audio_seconds(1, "mp3")
    telemetry.RoleMetrics("test").heard_seconds(1)
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
