"""The Serve config is what the settings say, and a change restarts no more than it must."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from services import settings as module
from services.ray.config import ROLES, VARIABLES, backends, serve_config
from services.settings import settings, variable

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "sesame-0123456789"


@pytest.fixture(autouse=True)
def in_an_empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have no `.env` and none of our variables, and forget what was read."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("BENTOVOX_", "VLLM_"))]:
        monkeypatch.delenv(name)
    module.settings.cache_clear()
    yield
    module.settings.cache_clear()


def made(monkeypatch: pytest.MonkeyPatch, **given: str) -> dict[str, dict[str, Any]]:
    """Return the applications by name, made with these variables."""
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    module.settings.cache_clear()
    return {one["name"]: one for one in serve_config()["applications"]}


def env_of(application: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = application["runtime_env"]["env_vars"]
    return found


def options_of(application: dict[str, Any]) -> dict[str, Any]:
    (found,) = application["deployments"]
    return dict(found)


def test_every_role_but_the_gateway_is_an_application_with_a_prefix_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = made(monkeypatch)
    assert set(found) == set(ROLES)
    assert {one["route_prefix"] for one in found.values()} == {f"/{role}" for role in ROLES}


def test_each_application_has_the_settings_of_its_role_and_the_general_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = made(
        monkeypatch,
        BENTOVOX_PROFILE="cpu",
        BENTOVOX_CHAT__SLOTS="3",
        BENTOVOX_SPEECH__VOICES__ANNA="en",
        BENTOVOX_LOG__LEVEL="DEBUG",
    )
    assert env_of(found["speech"]) == {
        "BENTOVOX_LOG__LEVEL": "DEBUG",
        "BENTOVOX_PROFILE": "cpu",
        "BENTOVOX_SPEECH__VOICES__ANNA": "en",
    }
    assert env_of(found["chat"])["BENTOVOX_CHAT__SLOTS"] == "3"


def test_no_secret_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made(
        monkeypatch,
        BENTOVOX_GATEWAY__KEYS=f"anna:{'0a' * 32}",
        BENTOVOX_SPEECH__VLLM_OMNI__API_KEY=SECRET,
        RAY_AUTH_TOKEN=SECRET,
    )
    text = json.dumps(serve_config())
    assert SECRET not in text
    assert "anna" not in text


def test_a_change_of_one_role_changes_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    before = made(monkeypatch)
    after = made(monkeypatch, BENTOVOX_SPEECH__SLOTS="2")
    assert [role for role in ROLES if before[role] != after[role]] == ["speech"]


def test_scaling_changes_nothing_that_restarts_a_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    before = made(monkeypatch)
    after = made(monkeypatch, MIN_REPLICAS="2", MAX_REPLICAS="5", TARGET_ONGOING_REQUESTS="4")
    for role in ROLES:
        assert options_of(after[role]).pop("autoscaling_config") == {
            "min_replicas": 2,
            "max_replicas": 5,
            "target_ongoing_requests": 4,
        }
        for name in ("args", "runtime_env", "import_path"):
            assert after[role][name] == before[role][name]


def test_an_update_starts_new_replicas_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {options_of(one)["max_surge_percent"] for one in made(monkeypatch).values()} == {100}


def test_options_of_a_role_go_over_the_common_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"speech": {"autoscaling_config": {"max_replicas": 7}, "max_surge_percent": 0}}
    found = made(monkeypatch, BENTOVOX_RAY__OPTIONS=json.dumps(asked))
    speech = options_of(found["speech"])
    assert speech["autoscaling_config"] == {
        "min_replicas": 1,
        "max_replicas": 7,
        "target_ongoing_requests": 8,
    }
    assert speech["max_surge_percent"] == 0
    assert options_of(found["transcription"])["max_surge_percent"] == 100


def gpus(application: dict[str, Any]) -> float:
    of_chat = application["args"].get("ray_actor_options")
    actor = of_chat or options_of(application)["ray_actor_options"]
    return float(actor.get("num_gpus", 0))


def test_what_computes_on_a_gpu_gets_one_and_nothing_else_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = made(
        monkeypatch,
        ACCELERATOR_TYPE="H100",
        BENTOVOX_SPEECH__ENGINE="cosyvoice",
        BENTOVOX_TRANSCRIPTION__FASTER_WHISPER__DEVICE="cpu",
    )
    assert {role: gpus(one) for role, one in found.items()} == {
        "chat": 1,
        "speech": 1,
        "transcription": 0,
        "conversation": 0,
    }
    assert found["chat"]["args"]["accelerator_type"] == "H100"
    assert env_of(found["chat"])["BENTOVOX_CHAT__DEVICE"] == "cuda"


@pytest.mark.parametrize("engine", ["espeak", "kokoro", "vllm_omni"])
def test_an_engine_that_needs_no_gpu_here_gets_none(
    monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    found = made(monkeypatch, ACCELERATOR_TYPE="H100", BENTOVOX_SPEECH__ENGINE=engine)
    assert gpus(found["speech"]) == 0


def test_without_a_gpu_nobody_asks_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    found = made(monkeypatch, BENTOVOX_CHAT__DEVICE="cpu", BENTOVOX_SPEECH__ENGINE="cosyvoice")
    assert {gpus(one) for one in found.values()} == {0}


def test_the_profile_for_one_gpu_shares_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = made(monkeypatch, BENTOVOX_PROFILE="gpu")
    assert gpus(found["chat"]) > gpus(found["speech"]) > 0
    assert 0 < sum(gpus(one) for one in found.values()) <= 1
    assert env_of(found["chat"])["BENTOVOX_CHAT__DEVICE"] == "cuda"


def test_conversation_asks_the_replicas_that_the_gateway_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = made(monkeypatch, RAY_HEAD_HOST="ray-head", RAY_DASHBOARD_PORT="8300")
    there = backends(settings())
    for role in ("chat", "speech", "transcription"):
        asked = json.loads(env_of(found["conversation"])[variable(f"conversation.{role}")])
        assert asked == there[role] == [f"ray://ray-head:8300/{role}"]


@pytest.mark.parametrize(
    ("head", "listens"),
    [("127.0.0.1", "127.0.0.1"), ("localhost", "127.0.0.1"), ("ray-head", "0.0.0.0")],  # noqa: S104
)
def test_replicas_listen_for_others_only_in_a_cluster(
    monkeypatch: pytest.MonkeyPatch, head: str, listens: str
) -> None:
    made(monkeypatch, RAY_HEAD_HOST=head)
    assert serve_config()["http_options"]["host"] == listens


def test_a_load_of_hours_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    assert int(env_of(made(monkeypatch)["chat"])["RAYLLM_ENGINE_START_TIMEOUT_S"]) > 4 * 3600


def test_a_token_is_always_asked_for() -> None:
    assert VARIABLES["RAY_AUTH_MODE"] == "token"
