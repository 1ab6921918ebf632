"""What the chart asks of KEDA, the Gateway API and Prometheus' operator, by their definitions.

Here because the definitions come from npm, as some clients do.
"""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.clients.driving import HERE, node, node_modules, ran
from tests.integration.test_helm_chart import CHOICES, CUSTOM, rendered

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def faults(tmp_path: Path) -> Callable[[list[dict[str, Any]]], list[dict[str, str]]]:
    """Return a function that says what is wrong with custom resources."""
    (tmp_path / "node_modules").symlink_to(node_modules())
    script = tmp_path / "custom_resources.mjs"
    script.write_bytes((HERE / "node" / script.name).read_bytes())

    def checked(objects: list[dict[str, Any]]) -> list[dict[str, str]]:
        (tmp_path / "objects.json").write_text(json.dumps(objects), encoding="utf-8")
        done = ran([str(node()), str(script), str(tmp_path / "objects.json")])
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return checked


def custom() -> list[dict[str, Any]]:
    return [one for values in CHOICES.values() for one in rendered(values) if one["kind"] in CUSTOM]


def test_custom_resources_are_what_their_definitions_want(faults: Any) -> None:
    objects = custom()
    assert {one["kind"] for one in objects} == CUSTOM
    assert faults(objects) == []


def test_the_definitions_find_a_fault(faults: Any) -> None:
    objects = copy.deepcopy(custom())
    for one in objects:
        one["spec"] = {"scaleTargetRef": {}, "selector": 1, "rules": "x"}
    assert {one["kind"] for one in faults(objects)} == CUSTOM
