"""`python -m ci test-image`: run an image as it will be run, and see whether it does its work.

    python -m ci test-image speech --platform cpu
    python -m ci test-image chat --image ghcr.io/me/bentovox/chat@sha256:…
    python -m ci test-image transcription --platform cpu --model ~/models/whisper-tiny

It is started hardened: read-only, no capabilities, no new privileges, a small /tmp. The checks are
of what it can write, its environment as a whole, its health, an answer of its role, and how it
ends; what needs no container is for `python -m ci layers`. If the image needs a GPU and there is
none, its server is not started, which is reported. Transcription uses the model that it is given,
else it fetches one.
"""

from __future__ import annotations

import dataclasses
import http
import io
import wave
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ci import base, docker, naming, platforms, specs
from ci.container import HARDENED, Container
from ci.errors import CiError
from ci.terminal import result, say

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from ci.platforms import Platform
    from ci.specs import Spec

_BACKEND: Final = "http://127.0.0.1:3999"
_BACKEND_CODE: Final = """
from http.server import BaseHTTPRequestHandler, HTTPServer
class Backend(BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{"object": "list", "data": [], "status": "ready"}'
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
HTTPServer(("127.0.0.1", 3999), Backend).serve_forever()
"""
"""A backend that is always ready, in the same container: a role that asks others waits for one."""

_ASKING: Final = {
    "gateway": "BENTOVOX_GATEWAY__SPEECH",
    "conversation": "BENTOVOX_CONVERSATION__CHAT",
}

_QUESTIONS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "chat": (
        "/v1/chat/completions",
        {"model": "bentovox-demo", "messages": [{"role": "user", "content": "Hello"}]},
    ),
    "speech": ("/v1/audio/speech", {"model": "tts-1", "voice": "alloy", "input": "Hello."}),
}
_HEARING: Final = "transcription"
_MODEL: Final = "/models/given"


@dataclasses.dataclass
class Check:
    """One check: its name, whether it passed, and what was seen."""

    name: str
    passed: bool
    seen: str


def options(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes."""
    parser.add_argument("bento", help=f"one of {', '.join(specs.names())}")
    parser.add_argument("--platform", default="", help="default: the bentofile's own")
    parser.add_argument("--image", default="", help="default: bentovox/NAME:PLATFORM")
    parser.add_argument(
        "--model",
        type=Path,
        metavar="DIR",
        help="a CTranslate2 model for transcription (default: fetched from Hugging Face)",
    )


def work(given: argparse.Namespace) -> None:
    """Test one image; 1 if a check fails."""
    spec = specs.load(given.bento)
    if given.model and spec.name != _HEARING:
        raise CiError(f"--model is for {_HEARING}, not for {spec.name}")
    if given.model and not given.model.is_dir():
        raise CiError(f"--model {given.model}: is no folder")
    docker.ready()
    platform = platforms.get(given.platform or spec.platforms[0])
    image = given.image or f"{naming.repository(spec.name)}:{platform.name}"
    if docker.inspect(image) is None:
        say(f"Pulling {image}")
        docker.call("pull", "--quiet", image)
    checks = run(spec, platform, image, given.model)
    failed = [check.name for check in checks if not check.passed]
    if failed:
        raise CiError(f"{image}: {len(failed)} of {len(checks)} checks failed: {', '.join(failed)}")
    result(f"{image}: {len(checks)} checks passed")


def run(spec: Spec, platform: Platform, image: str, model: Path | None = None) -> list[Check]:
    """Check an image, reporting each check as it ends.

    `model` is a folder with a CTranslate2 model, for transcription; without one it is fetched.
    """
    checks: list[Check] = []

    def look(name: str, check: Callable[[], tuple[bool, str]]) -> None:
        try:
            passed, seen = check()
        except (CiError, OSError) as error:  # no container, or nothing listens in it
            passed, seen = False, str(error)
        checks.append(Check(name, passed, seen))
        say(f"    {'ok  ' if passed else 'FAIL'} {name}: {seen[:160]}")

    look("read-only", lambda: _read_only(image))
    look("environment", lambda: _environment(image))
    gpu = bool(platform.cuda) and has_gpu()
    # What has torch for CUDA needs a GPU; Whisper's image works without one, slowly.
    if platform.cuda and not gpu and base.find(spec.base(platform.name), platform).has_torch:
        look("imports", lambda: _imports(spec, image))
        say("    --   its server was not started: the image is for a GPU and there is none")
        return checks
    mounted = [f"--volume={model.resolve()}:{_MODEL}:ro"] if model else []
    settings = _settings(spec, model)
    with Container(image, *mounted, gpu=gpu, **settings) as container:
        look("health", lambda: _healthy(spec, container))
        look("answer", lambda: _answer(spec, container))
        look("end", container.ends)
    return checks


def has_gpu() -> bool:
    """Tell whether containers of this engine get a GPU."""
    return "nvidia" in (docker.ask("info", "--format={{json .Runtimes}}") or "")


def _in_container(image: str, *words: str) -> str:
    entry = f"--entrypoint={words[0]}"
    return docker.call("run", "--rm", "--network=none", *HARDENED, entry, image, *words[1:])


def _read_only(image: str) -> tuple[bool, str]:
    places = (
        "for d in / /app /opt /usr /etc /tmp; do touch $d/.w 2>/dev/null && echo $d; done; true"
    )
    found = _in_container(image, "sh", "-c", places).split()
    return found == ["/tmp"], f"can write to {' '.join(found) or 'nothing'}"  # noqa: S108


def _environment(image: str) -> tuple[bool, str]:
    lock = "/app/env/python/requirements.txt"
    _in_container(image, "/opt/venv/bin/python", "/usr/local/bin/wheels.py", "check", lock)
    return True, "is what is locked"


def _imports(spec: Spec, image: str) -> tuple[bool, str]:
    module, _, name = spec.service.partition(":")
    code = f"import sys; sys.path.insert(0, 'src'); from {module} import {name}; print({name}.name)"
    _in_container(image, "/opt/venv/bin/python", "-c", code)
    return True, f"{spec.service} loads"


def _settings(spec: Spec, model: Path | None = None) -> dict[str, str]:
    if spec.name in _ASKING:
        return {_ASKING[spec.name]: f'["{_BACKEND}"]'}
    return {"BENTOVOX_TRANSCRIPTION__FASTER_WHISPER__MODEL": _MODEL} if model else {}


def _healthy(spec: Spec, container: Container) -> tuple[bool, str]:
    if spec.name in _ASKING:
        docker.call("exec", "--detach", container.name, "python3", "-c", _BACKEND_CODE)
    return container.healthy()


def _answer(spec: Spec, container: Container) -> tuple[bool, str]:
    names = tuple(_QUESTIONS) if spec.name == specs.STACK else (spec.name,)
    answers = [_ask(name, container) for name in names]
    seen = [
        f"{status}, {len(said)} bytes"
        if status == http.HTTPStatus.OK
        else f"{status} {said[-300:].decode(errors='replace')}"
        for status, said in answers
    ]
    return all(status == http.HTTPStatus.OK for status, _ in answers), "; ".join(seen)


def _ask(name: str, container: Container) -> tuple[int, bytes]:
    if name in _QUESTIONS:
        return container.request("POST", *_QUESTIONS[name])
    if name == _HEARING:
        return container.request("POST", "/v1/audio/transcriptions", *_form())
    return container.request("GET", "/v1/models")


def silence() -> bytes:
    """Return a second of silence as wav."""
    made = io.BytesIO()
    with wave.open(made, "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(32_000))
    return made.getvalue()


def _form() -> tuple[bytes, str]:
    """Return a form that asks for a transcript of silence, and its content type."""
    parts = (
        b'--end\r\ncontent-disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n',
        b'--end\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\n',
        silence(),
        b"\r\n--end--\r\n",
    )
    return b"".join(parts), "multipart/form-data; boundary=end"
