"""One stack for most end-to-end tests, started as in the README."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.server import ON_RAY, ROOT, Server, need_stack, ray_python
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import openai


NO_RAY = "no Ray: RAY_PYTHON is unset, and there is no .nox/ray"
RAY_TOKEN = "made-for-this-test-and-nothing-else"
LAST = "test_at_the_end_"
IMPATIENT = {"chat": {"health_check_period_s": 1, "health_check_timeout_s": 5}}
"""Ray looks at chat's replica more often than its model takes to load."""

_ON_BOTH = {
    *("test_chat", "test_disconnect", "test_bad_input", "test_speech", "test_translation"),
    "test_what_the_server_says_in_any_format_it_hears",
    "test_what_is_no_sound_is_a_clear_400_and_the_next_is_heard",
    "test_a_conversation_with_the_demo_stack",
}
"""The modules and tests that hold the contract under BentoML as on Ray Serve.

The rest looks at processes, or does not differ.
"""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each test the stack, or both: one after the other, as the scope is the session."""
    if "stack" not in metafunc.fixturenames:
        return
    name = metafunc.module.__name__.rpartition(".")[2]
    found = {"test_ray": ["ray"]}.get(name, ["bentoml"])
    if {name, metafunc.function.__name__} & _ON_BOTH:
        found = ["bentoml", "ray"]
    metafunc.parametrize("stack", found, indirect=True, scope="session")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    need_stack(items, ROOT / "tests" / "e2e")
    items.sort(key=lambda item: item.name.startswith(LAST))  # it ends the stack


@pytest.fixture(scope="session")
def stack(home: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    """The stack on one machine: under BentoML, or on Ray Serve."""
    if request.param == "bentoml":
        yield request.getfixturevalue("demo")
        return
    if ray_python() is None:
        pytest.skip(NO_RAY)
    with Server(
        home,
        ON_RAY,
        RAY_DASHBOARD_PORT=str(free_port()),
        RAY_AUTH_TOKEN=RAY_TOKEN,
        BENTOVOX_RAY__OPTIONS=json.dumps(IMPATIENT),
    ) as server:
        yield server


@pytest.fixture
def client(stack: Server) -> Iterator[openai.OpenAI]:
    with stack.client() as client:
        yield client


@pytest.fixture(scope="session")
def answers() -> list[dict[str, Any]]:
    """The exact greedy answers that the demo model holds by heart."""
    path = ROOT / "services" / "chat" / "demo_model" / "answers.json"
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="session")
def plain(answers: list[dict[str, Any]]) -> dict[str, str]:
    """Question to answer, for all that are asked alone and answered in words."""
    return {
        entry["messages"][0]["content"]: entry["expected"]["content"]
        for entry in answers
        if len(entry["messages"]) == 1 and {"messages", "expected"} == set(entry)
    }
