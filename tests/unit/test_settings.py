from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from services import settings as module
from services.errors import ConfigurationError
from services.settings import leaves, load, profiles, provenance, variable
from services.settings.__main__ import table
from services.settings.sections import DOCUMENTED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
KEY_LINE = "anna:" + "0a" * 32


@pytest.fixture(autouse=True)
def in_an_empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have no `.env` and none of our variables, and forget what was read."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("BENTOVOX_")]:
        monkeypatch.delenv(name)
    module.settings.cache_clear()
    yield
    module.settings.cache_clear()


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return `env(CHAT__MODEL="x")`, which sets our variables."""

    def put(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(f"BENTOVOX_{name}", value)
        module.settings.cache_clear()

    return put


def printed(*arguments: str, **values: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, **{f"BENTOVOX_{k}": v for k, v in values.items()}}
    return subprocess.run(
        [sys.executable, "-m", "services.settings", *arguments],
        env={**environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


# Where a value comes from


def test_the_profile_is_demo_unless_another_is_chosen(env: Any) -> None:
    assert load().chat.model == "bentovox-demo"
    env(PROFILE="cpu")
    assert load().chat.model == profiles()["cpu"]["chat"]["model"]
    assert load().chat.slots == profiles()["cpu"]["chat"]["slots"]


def test_environment_wins_over_dotenv_over_profile_over_default(env: Any, tmp_path: Path) -> None:
    def seen() -> tuple[int, str]:
        module.settings.cache_clear()
        return load().chat.slots, provenance("chat.slots")

    assert load().gateway.slots == 512
    assert provenance("gateway.slots") == "default"
    assert seen() == (64, "profile demo")
    (tmp_path / ".env").write_text("BENTOVOX_CHAT__SLOTS=7\n")
    assert seen() == (7, ".env BENTOVOX_CHAT__SLOTS")
    env(CHAT__SLOTS="9")
    assert seen() == (9, "environment BENTOVOX_CHAT__SLOTS")
    assert load().chat.queue == 64  # the rest of the section stays


def test_the_profile_may_be_chosen_in_dotenv(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("BENTOVOX_PROFILE=cpu\n")
    assert load().chat.model == "Qwen/Qwen3-0.6B"
    assert provenance("chat.model") == "profile cpu"


def test_other_programs_variables_in_dotenv_are_none_of_ours(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("HF_TOKEN=x\nBENTO=1\n")
    load()


def test_lists_and_tables_are_json(env: Any) -> None:
    env(GATEWAY__CHAT='["http://a:1", "http://b:2"]', SPEECH__VOICES='{"nova": "en"}')
    assert load().gateway.chat == ["http://a:1", "http://b:2"]
    assert load().speech.voices == {"nova": "en"}
    env(CHAT__ARGS="[]")
    assert load().chat.args == []  # wins over the profile's


def test_one_entry_of_a_table_may_stand_alone(env: Any) -> None:
    env(SPEECH__VOICES__nova="en-gb")
    assert load().speech.voices == {"nova": "en-gb"}
    assert provenance("speech.voices").startswith("environment")


def test_an_entry_wins_over_its_table_and_the_environment_over_both_in_dotenv(
    env: Any, tmp_path: Path
) -> None:
    env(SPEECH__VOICES__NOVA="one", SPEECH__VOICES='{"nova": "other", "echo": "en"}')
    assert load().speech.voices == {"nova": "one", "echo": "en"}
    (tmp_path / ".env").write_text("BENTOVOX_SPEECH__VOICES__ECHO=de\n")
    assert load().speech.voices == {"nova": "one", "echo": "en"}


# What is refused


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("CHAT__MODLE", "BENTOVOX_CHAT__MODEL"),
        ("CHAT__SLOT", "BENTOVOX_CHAT__SLOTS"),
        ("GATEWAY__KEY", "BENTOVOX_GATEWAY__KEYS"),
        ("PROFIL", "BENTOVOX_PROFILE"),
        ("CHAT_MODEL", "BENTOVOX_CHAT__MODEL"),
        ("CHAT__ARGS__0", "BENTOVOX_CHAT__ARGS"),
        ("GATEWAY__TRANSLATION__CHAR_LIMIT", "BENTOVOX_CONVERSATION__TRANSLATION__CHAR_LIMIT"),
        ("GATEWY__SLOTS", "BENTOVOX_GATEWAY__SLOTS"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(env: Any, name: str, nearest: str) -> None:
    env(**{name: "x"})
    with pytest.raises(ConfigurationError, match=rf"{name} .*did you mean {nearest}\?") as refused:
        load()
    assert "\n" not in refused.value.message


def test_an_unknown_key_in_dotenv_is_refused_and_the_file_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("BENTOVOX_CHAT__MODLE=x\n")
    with pytest.raises(ConfigurationError, match=r"\(\.env\)"):
        load()


@pytest.mark.parametrize("name", ["BENTOVOX_QUITE_DIFFERENT", "BENTOVOX_"])
def test_an_unknown_key_far_from_any_is_refused_too(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "x")
    with pytest.raises(ConfigurationError, match="is not a setting"):
        load()


def test_an_unknown_profile_names_those_that_exist(env: Any) -> None:
    env(PROFILE="dmeo")
    with pytest.raises(ConfigurationError, match=r"did you mean demo\?.*multi-gpu") as refused:
        load()
    assert "\n" not in refused.value.message


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("CHAT__SLOTS", "many", "BENTOVOX_CHAT__SLOTS: .*integer"),
        ("CHAT__SLOTS", "0", "BENTOVOX_CHAT__SLOTS: .*greater than or equal to 1"),
        ("GATEWAY__DEADLINE_S", "-1", "greater than 0"),
        ("GATEWAY__CHAT", "http://a:1", r'is not JSON; a list looks like \["a", "b"\]'),
        ("GATEWAY__CHAT", '"http://a:1"', "BENTOVOX_GATEWAY__CHAT: .*list"),
        ("GATEWAY__CHAT", "[1]", "BENTOVOX_GATEWAY__CHAT: .*string"),
        ("LOG__LEVEL", "LOUD", "'DEBUG', 'INFO'"),
        ("SPEECH__STORE", "", "BENTOVOX_SPEECH__STORE: it is empty; name a folder"),
        ("SPEECH__STORE", " ", "BENTOVOX_SPEECH__STORE: it is empty; name a folder"),
    ],
)
def test_a_value_that_does_not_fit_is_one_line_that_names_it(
    env: Any, name: str, value: str, said: str
) -> None:
    env(**{name: value})
    with pytest.raises(ConfigurationError, match=said) as refused:
        load()
    assert "\n" not in refused.value.message


def test_settings_do_not_change_under_way() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().chat.slots = 3  # type: ignore[misc]


# Documentation and printing


@pytest.mark.parametrize(("key", "field"), [*leaves()], ids=[key for key, _ in leaves()])
def test_every_setting_is_documented(key: str, field: Any) -> None:
    assert field.description
    assert field.description[0].isupper() or field.description.startswith(("vLLM's", "`"))
    assert field.description.endswith((".", "413.", "429."))
    assert variable(key).startswith("BENTOVOX_")


def dotted(tree: dict[str, Any], path: str = "") -> Iterator[str]:
    known = {key for key, _ in leaves()}
    for key, value in tree.items():
        if isinstance(value, dict) and f"{path}{key}" not in known:
            yield from dotted(value, f"{path}{key}.")
        else:
            yield f"{path}{key}"


@pytest.mark.parametrize("name", [*profiles()])
def test_every_profile_is_described_and_holds_settings_only(name: str, env: Any) -> None:
    profile = profiles()[name]
    assert profile["description"]
    known = {key for key, _ in leaves()}
    assert set(dotted(profile)) - {"description"} <= known
    env(PROFILE=name)
    load()


def test_the_table_tells_value_source_and_description(env: Any) -> None:
    env(CHAT__SLOTS="9")
    rows = {row["key"]: row for row in table()}
    assert set(rows) == {key for key, _ in leaves()}
    assert rows["chat.slots"]["value"] == "9"
    assert rows["chat.slots"]["source"] == "environment BENTOVOX_CHAT__SLOTS"
    assert rows["chat.queue"]["source"] == "profile demo"
    assert rows["log.level"]["source"] == "default"


def test_printing_masks_secrets(tmp_path: Path) -> None:
    done = printed(GATEWAY__KEYS=KEY_LINE)
    assert done.returncode == 0, done.stderr
    assert "BENTOVOX_GATEWAY__KEYS = ********" in done.stdout
    assert "0a0a" not in done.stdout + done.stderr
    (tmp_path / ".env").write_text(f"BENTOVOX_GATEWAY__KEYS={KEY_LINE}\n")
    assert "0a0a" not in printed().stdout


def test_no_error_shows_a_secret() -> None:
    done = printed(GATEWAY__KEYS=KEY_LINE, GATEWAY__KEY=KEY_LINE, CHAT__SLOTS="many")
    assert done.returncode == 2
    assert done.stderr.startswith("bentovox: BENTOVOX_GATEWAY__KEY ")
    assert done.stderr.count("\n") == 1
    assert "0a0a" not in done.stdout + done.stderr


def test_a_fault_is_one_line_and_exit_code_2() -> None:
    done = printed(PROFILE="none")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("bentovox: BENTOVOX_PROFILE='none' is no profile")


# Names that deployments on Ray use


def test_a_documented_name_sets_what_ours_does(
    monkeypatch: pytest.MonkeyPatch, env: Callable[..., None]
) -> None:
    given = {
        "MODEL_ID": ("chat.model", "org/model"),
        "TENSOR_PARALLEL_SIZE": ("chat.tensor_parallel_size", 2),
        "PIPELINE_PARALLEL_SIZE": ("chat.pipeline_parallel_size", 3),
        "ACCELERATOR_TYPE": ("ray.accelerator_type", "H100"),
        "MIN_REPLICAS": ("ray.min_replicas", 2),
        "MAX_REPLICAS": ("ray.max_replicas", 4),
        "TARGET_ONGOING_REQUESTS": ("ray.target_ongoing_requests", 2.5),
        "RAY_HEAD_HOST": ("ray.head_host", "ray-head"),
        "RAY_API_PORT": ("ray.api_port", 9998),
        "RAY_DASHBOARD_PORT": ("ray.dashboard_port", 8266),
    }
    assert {name: key for name, (key, _) in given.items()} == DOCUMENTED
    for name, (_, value) in given.items():
        monkeypatch.setenv(name, str(value))
    env()
    rows = {row["key"]: row for row in table()}
    for name, (key, value) in given.items():
        assert rows[key]["value"] == (value if isinstance(value, str) else json.dumps(value))
        assert rows[key]["source"] == f"environment {name}"


def test_two_names_with_two_values_are_refused(
    monkeypatch: pytest.MonkeyPatch, env: Callable[..., None]
) -> None:
    monkeypatch.setenv("MODEL_ID", "org/one")
    env(CHAT__MODEL="org/two")
    with pytest.raises(
        ConfigurationError, match=r"org/(one|two) and .*=org/(one|two) are the same setting"
    ):
        load()
    env(CHAT__MODEL="org/one")
    assert load().chat.model == "org/one"


def test_the_environment_wins_over_the_other_name_in_dotenv(env: Callable[..., None]) -> None:
    Path(".env").write_text("MODEL_ID=org/dotenv\nMAX_REPLICAS=3\n", encoding="utf-8")
    env(CHAT__MODEL="org/environment")
    assert load().chat.model == "org/environment"
    assert load().ray.max_replicas == 3
    assert provenance("ray.max_replicas") == ".env MAX_REPLICAS"


def test_a_wrong_value_is_told_by_the_name_it_was_given_by(
    monkeypatch: pytest.MonkeyPatch, env: Callable[..., None]
) -> None:
    monkeypatch.setenv("MAX_REPLICAS", "many")
    env()
    with pytest.raises(ConfigurationError, match=r"\AMAX_REPLICAS: "):
        load()
