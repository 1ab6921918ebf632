"""What every image promises, whichever it is: run as it will be run, does it do its work?

By default these are the CPU images of this checkout. `nox -s test-image -- chat --image IMAGE` asks
one image as it is. It is started hardened: read-only, no capabilities, no new privileges, a small
/tmp; what needs no container is for `python -m ci layers`. If an image needs a GPU and there is
none, its server is not started. Transcription uses the model that it is given, else it fetches one.
"""

from __future__ import annotations

import dataclasses
import http
from typing import TYPE_CHECKING, Any, Final

import pytest

from ci import base, build, docker, platforms, specs
from tests.container import ASKING, BACKEND_CODE, HARDENED, MODEL, Container, settings, silence
from tests.whisper import trained

if TYPE_CHECKING:
    from pathlib import Path

    from ci.platforms import Platform
    from ci.specs import Spec

NAMES: Final = ("gateway", "conversation", "speech", "transcription", "chat", "stack")
QUESTIONS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "chat": (
        "/v1/chat/completions",
        {"model": "bentovox-demo", "messages": [{"role": "user", "content": "Hello"}]},
    ),
    "speech": ("/v1/audio/speech", {"model": "tts-1", "voice": "alloy", "input": "Hello."}),
}
HEARING: Final = "transcription"


@dataclasses.dataclass(frozen=True)
class Asked:
    """One image that is asked; `model` is a folder with a CTranslate2 model, for transcription."""

    spec: Spec
    platform: Platform
    image: str
    model: Path | None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    named = metafunc.config.getoption("--bento", None)
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", [named] if named else NAMES, scope="module")


@pytest.fixture(scope="module")
def asked(request: pytest.FixtureRequest, name: str) -> Asked:
    option = request.config.getoption
    if not option("--bento", None):
        image = request.getfixturevalue("built")(name).names[0]
        model = trained() if name == HEARING else None
        return Asked(specs.load(name), platforms.get("cpu"), image, model)
    spec = specs.load(name)
    platform = platforms.get(option("--platform") or spec.platforms[0])
    image = option("--image") or f"{build.repository(name)}:{platform.name}"
    docker.ready()
    if docker.inspect(image) is None:
        docker.call("pull", "--quiet", image)
    return Asked(spec, platform, image, option("--model"))


def inside(asked: Asked, *words: str) -> str:
    entry = f"--entrypoint={words[0]}"
    return docker.call("run", "--rm", "--network=none", *HARDENED, entry, asked.image, *words[1:])


def test_nothing_but_tmp_can_be_written(asked: Asked) -> None:
    places = (
        "for d in / /app /opt /usr /etc /tmp; do touch $d/.w 2>/dev/null && echo $d; done; true"
    )
    assert inside(asked, "sh", "-c", places).split() == ["/tmp"]  # noqa: S108  the container's


def test_the_environment_as_a_whole_is_what_is_locked(asked: Asked) -> None:
    lock = "/app/env/python/requirements.txt"
    inside(asked, "/opt/venv/bin/python", "/usr/local/bin/wheels.py", "check", lock)


def test_its_service_can_be_imported(asked: Asked) -> None:
    module, _, name = asked.spec.data["service"].partition(":")
    code = f"import sys; sys.path.insert(0, 'src'); from {module} import {name}; print({name}.name)"
    inside(asked, "/opt/venv/bin/python", "-c", code)


def test_it_turns_healthy_answers_and_ends_by_itself(asked: Asked) -> None:
    spec, cuda = asked.spec, bool(asked.platform.cuda)
    gpu = cuda and "nvidia" in (docker.ask("info", "--format={{json .Runtimes}}") or "")
    # What has torch for CUDA needs a GPU; Whisper's image works without one, slowly.
    if cuda and not gpu and base.find(spec.base(asked.platform.name), asked.platform).has_torch:
        pytest.skip("the image is for a GPU and there is none")
    mounted = [f"--volume={asked.model.resolve()}:{MODEL}:ro"] if asked.model else []
    with Container(asked.image, *mounted, gpu=gpu, **settings(spec, asked.model)) as container:
        if spec.name in ASKING:
            docker.call("exec", "--detach", container.name, "python3", "-c", BACKEND_CODE)
        container.wait("healthy")
        for name in QUESTIONS if spec.name == specs.STACK else (spec.name,):
            status, said = answer(name, container)
            assert status == http.HTTPStatus.OK, said[-300:]
        container.stop()


def answer(name: str, container: Container) -> tuple[int, bytes]:
    if name in QUESTIONS:
        return container.request("POST", *QUESTIONS[name])
    if name == HEARING:
        return container.request("POST", "/v1/audio/transcriptions", *form())
    return container.request("GET", "/v1/models")


def form() -> tuple[bytes, str]:
    """Return a form that asks for a transcript of silence, and its content type."""
    parts = (
        b'--end\r\ncontent-disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n',
        b'--end\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\n',
        silence(),
        b"\r\n--end--\r\n",
    )
    return b"".join(parts), "multipart/form-data; boundary=end"
