"""Images: their build context, labels, and a job's outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ci import base, build, docker, image, platforms, specs
from ci.__main__ import main
from ci.cosyvoice import command, pins, sources
from ci.errors import CiError

if TYPE_CHECKING:
    from pathlib import Path

CPU = platforms.get("cpu")
LOCK = "bentoml==1.4.40\n"


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """Return a bento as `ci.bento` leaves it."""
    made = tmp_path / "chat-cpu" / "bento"
    files = {
        "bento.yaml": "name: x\n",
        "env/python/requirements.txt": LOCK,
        "src/services/chat/service.py": "x = 1\n",
        "src/services/chat/demo_model/model.safetensors": "weights",
    }
    for name, text in files.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(text)
    return made


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_context_holds_the_lock_and_the_bento_with_its_model_apart(packed: Path) -> None:
    context = image.write_context(packed, ())
    assert files(context) == {
        "lock/requirements.txt",
        "parts/models/app/src/services/chat/demo_model/model.safetensors",
        "bento/app/bento.yaml",
        "bento/app/env/python/requirements.txt",
        "bento/app/src/services/chat/service.py",
    }
    for part in ("models", "cosyvoice", "baked"):
        assert (context / "parts" / part).is_dir(), "the Dockerfile copies it, empty or not"


def test_the_bento_itself_stays_whole(packed: Path) -> None:
    before = files(packed)
    image.write_context(packed, ())
    assert files(packed) == before


def test_a_model_is_baked_under_its_folders_name_in_a_part_of_its_own(
    packed: Path, tmp_path: Path
) -> None:
    model = tmp_path / "Qwen3-0.6B"
    model.mkdir()
    (model / "config.json").write_text("{}")
    context = image.write_context(packed, (model,))
    assert files(context / "parts" / "baked") == {"models/Qwen3-0.6B/config.json"}
    assert files(image.write_context(packed, ()) / "parts" / "baked") == set(), "as it was before"


def test_cosyvoices_code_comes_with_the_locks_that_speak_with_it_only(
    packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = sources.Code({"cosyvoice/a.py": b""}, pins.Origin("github", "v", (3,)))
    monkeypatch.setattr(command, "bring", lambda: code)
    assert files(image.write_context(packed, ()) / "parts" / "cosyvoice") == set()
    (packed / "env/python/requirements.txt").write_text("conformer==0.3.2\n")
    assert files(image.write_context(packed, ()) / "parts" / "cosyvoice") == {
        "opt/cosyvoice/cosyvoice/a.py",
        "opt/cosyvoice/source.json",
    }


def test_a_model_that_is_no_folder_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    with pytest.raises(CiError, match=r"--bake .*/nowhere: is no folder"):
        image.make(specs.load("chat"), CPU, build.Options(), bake=(tmp_path / "nowhere",))


def test_an_image_is_labelled_with_what_checks_it() -> None:
    spec = specs.load("chat")
    below = base.find("vllm", CPU)
    told = image.labels(spec, CPU, below, "0123456789ab")
    assert told["org.opencontainers.image.base.name"] == below.reference
    assert told["org.opencontainers.image.version"] == "0123456789ab"
    assert told["org.opencontainers.image.title"] == "bentovox-chat"
    assert told["bentovox.torch"] == CPU.torch
    assert told["bentovox.budget-mib"] == str(spec.budget_mib("cpu"))
    assert (told["bentovox.bento"], told["bentovox.platform"]) == ("chat", "cpu")


def test_an_image_without_torch_says_so() -> None:
    spec = specs.load("gateway")
    assert image.labels(spec, CPU, base.find("slim", CPU), "0")["bentovox.torch"] == ""


def test_a_job_is_told_the_name_of_an_image_that_is_kept_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = image.Image(base.find("slim", CPU), ["bentovox/gateway:cpu"], 1.0)
    monkeypatch.setattr(image, "make", lambda *_, **__: made)
    monkeypatch.setattr(docker, "ready", lambda: None)
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    assert main(["image", "gateway", "--github"]) == 0
    assert (tmp_path / "output").read_text() == "image=bentovox/gateway:cpu\n"


def test_a_job_is_told_the_digest_of_an_image_that_is_pushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = image.Image(base.find("slim", CPU), ["ghcr.io/me/bentovox/gateway:cpu-0"], 1.0)
    monkeypatch.setattr(image, "make", lambda *_, **__: made)
    monkeypatch.setattr(docker, "ready", lambda: None)
    monkeypatch.setattr(docker, "digest", lambda _: "sha256:0")
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    assert main(["image", "gateway", "--github", "--push", "--registry=ghcr.io/me"]) == 0
    assert (tmp_path / "output").read_text().splitlines() == [
        "image=ghcr.io/me/bentovox/gateway@sha256:0",
        "repository=ghcr.io/me/bentovox/gateway",
        "digest=sha256:0",
    ]
