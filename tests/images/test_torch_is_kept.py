"""The torch in a platform's image is never installed again, tested on a stand-in.

The stand-in is Debian, with its Python, and a torch and a Triton by name only. The rest of the GPU
platform, the bases' Dockerfile and the images' are what is shipped.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import shutil
from typing import TYPE_CHECKING

import pytest

from ci import base, docker, image, platforms, specs
from ci.errors import CiError
from ci.layers.image import diff_ids, read
from ci.paths import BUILT
from tests import standin
from tests.container import HARDENED
from tests.engine import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ci.image import Image

PLATFORM = dataclasses.replace(platforms.get("cuda13"), python="3.11")
SITE = "/usr/local/lib/python3.11/dist-packages"
VENV = "/opt/venv/lib/python3.11/site-packages"
LOCK = "tests/images/kept/requirements.cuda13.txt"
GROUPS = {
    "torch": {"torch": "2.13.0", "triton": "3.7.1"},
    "numeric": {"numpy": "2.3.5"},
    **{name: {} for name in ("shared", "toolchains", "vllm", "speech", "whisper")},
}
DRIVER = "#include <Python.h>\nPyMODINIT_FUNC PyInit_cuda_utils(void) { return NULL; }\n"
WITH_TRITON = f"""
FROM {PLATFORM.reference}
COPY driver.c {SITE}/triton/backends/nvidia/driver.c
RUN printf 'Metadata-Version: 2.1\\nName: triton\\nVersion: 3.7.1\\n' > /tmp/METADATA \\
 && mkdir {SITE}/triton-3.7.1.dist-info && mv /tmp/METADATA {SITE}/triton-3.7.1.dist-info/
"""


@pytest.fixture(scope="module")
def _stand_ins(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:  # noqa: ARG001
    """Make the platform's two images; bases are made of what is locked here."""
    folder = tmp_path_factory.mktemp("triton")
    (folder / "driver.c").write_text(DRIVER)
    (folder / "Dockerfile").write_text(WITH_TRITON)
    standin.pytorch(PLATFORM)
    standin.build(PLATFORM.reference, folder)
    docker.call("tag", PLATFORM.reference, PLATFORM.devel_reference)  # it has a compiler
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "requirements", lambda *_: GROUPS)
        yield
    for reference in (PLATFORM.reference, PLATFORM.devel_reference):
        docker.ask("image", "rm", reference)


@pytest.fixture(scope="module")
def kept(_stand_ins: None) -> Iterator[Image]:
    """Build a small bento's image on a base for GPUs."""
    gateway = specs.load("gateway")
    labels = {**gateway.data["labels"], "bentovox.base": "cosyvoice"}
    labels["bentovox.platforms"] = "cuda13"
    spec = dataclasses.replace(
        gateway,
        name="kept",
        data={
            **gateway.data,
            "name": "bentovox-kept",
            "labels": labels,
            "python": {**gateway.data["python"], "requirements_txt": LOCK},
        },
    )
    made = image.make(spec, PLATFORM, OPTIONS)
    yield made
    for name in (*made.names, made.base.reference, made.base.moving):
        docker.ask("image", "rm", name)
    for name in ("kept-cuda13", "base-cosyvoice-cuda13"):
        shutil.rmtree(BUILT / name)


def run(made: Image, *words: str) -> str:
    entry = f"--entrypoint={words[0]}"
    return docker.call("run", "--rm", "--network=none", entry, made.names[0], *words[1:])


@pytest.fixture(scope="module")
def above(kept: Image) -> Callable[[str], set[str]]:
    """Return a function that gives the files in the layers that the image has above another."""
    layers = read(kept.names[0]).layers

    def files(below: str) -> set[str]:
        under = diff_ids(below)
        assert [layer.diff_id for layer in layers[: len(under)]] == under, "it stands on them"
        return {file.path for layer in layers[len(under) :] for file in layer.files}

    return files


def test_there_is_one_torch_and_it_is_the_platforms(kept: Image) -> None:
    found = run(
        kept, "find", "/usr", "/opt", "/app", "-name", "torch*", "-path", "*-packages/torch*"
    )
    assert sorted(found.splitlines()) == [f"{SITE}/torch", f"{SITE}/torch-2.13.0+cu130.dist-info"]


def test_no_layer_above_the_platforms_holds_any_of_torch(
    above: Callable[[str], set[str]],
) -> None:
    files = above(PLATFORM.reference)
    assert [path for path in files if re.search(r"/(lib)?torch[./-]", path)] == []
    assert f"{SITE}/numpy/__init__.py".lstrip("/") in files, "what it lacked is there"


def test_the_bentos_own_layers_hold_what_the_base_lacks_only(
    kept: Image, above: Callable[[str], set[str]]
) -> None:
    found = {
        re.match(rf"{VENV[1:]}/([^/]*)-[^/]*\.dist-info/", p) for p in above(kept.base.reference)
    }
    assert {one[1] for one in found if one} == {"h11", "bentoml"}, "BentoML adds itself to a lock"


def test_the_base_names_torch_among_what_is_not_installed_again(kept: Image) -> None:
    assert "torch" in run(kept, "cat", "/etc/uv/base-excludes.txt").splitlines()
    held = run(kept, "cat", "/etc/uv/base-held.txt").splitlines()
    assert {"torch==2.13.0+cu130", "triton==3.7.1", "numpy==2.3.5"} <= set(held)


def test_the_bentos_environment_imports_the_platforms_torch(kept: Image) -> None:
    code = "import h11, numpy, torch; print(torch.__version__, torch.__file__, h11.__file__)"
    assert run(kept, "python", "-c", code).split() == [
        "2.13.0+cu130",
        f"{SITE}/torch/__init__.py",
        f"{VENV}/h11/__init__.py",
    ]


@pytest.mark.usefixtures("_stand_ins")
def test_a_base_that_needs_no_torch_stands_on_the_plain_image_and_holds_none() -> None:
    docker.call("tag", standin.DEBIAN, PLATFORM.plain_reference)
    below = base.find("whisper", PLATFORM)
    base.ensure(below, dataclasses.replace(OPTIONS, compression="uncompressed"), again=True)
    try:
        under = diff_ids(standin.DEBIAN)
        assert diff_ids(below.reference)[: len(under)] == under
        held = docker.call(
            "run", "--rm", "--entrypoint=cat", below.reference, "/etc/uv/base-held.txt"
        )
        assert "numpy==2.3.5" in held.splitlines()
        assert "torch" not in held
    finally:
        for name in (below.reference, below.moving, PLATFORM.plain_reference):
            docker.ask("image", "rm", name)
        shutil.rmtree(BUILT / "base-whisper-cuda13")


@pytest.mark.usefixtures("_stand_ins")
def test_a_platform_with_another_torch_is_refused_in_a_line_that_says_what_to_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = dataclasses.replace(PLATFORM, tag="another-torch")
    standin.pytorch(other, "2.14.0+cu130")
    below = base.find("cosyvoice", other)
    with pytest.raises(CiError) as refused:
        base.ensure(below, OPTIONS, again=True)
    assert str(refused.value).endswith(
        ": the image holds torch 2.14.0+cu130, platforms.toml and the locks say 2.13.0: vllm dies "
        "at import with another; choose the image's tag that holds it"
    )
    assert "Traceback" not in capsys.readouterr().err
    assert docker.inspect(below.reference) is None
    docker.ask("image", "rm", other.reference)


def test_what_triton_compiles_is_handed_out_where_there_is_no_compiler(
    kept: Image, tmp_path: Path
) -> None:
    made = f"/usr/local/lib/prebuilt/{hashlib.sha256(DRIVER.encode()).hexdigest()}.so"
    (tmp_path / "main.c").write_text(DRIVER)
    (tmp_path / "other.c").write_text("int x;\n")
    script = f"""
        set -e
        for c in gcc g++ cc c++ clang nvcc; do if command -v $c; then exit 1; fi; done
        cp /sources/main.c /tmp/ && cd /tmp
        $CC main.c -O3 -shared -fPIC -Wno-psabi -o cuda_utils.so -lcuda -I/usr/include
        cmp cuda_utils.so {made} && head -c 4 cuda_utils.so | tail -c 3
        ! $CC /sources/other.c -o other.so && test ! -e other.so
    """
    tmp_path.chmod(0o755)
    said = docker.call(
        *("run", "--rm", "--network=none", "--entrypoint=sh", *HARDENED),
        *(f"--volume={tmp_path}:/sources:ro", kept.names[0], "-c", script),
    )
    assert said == "ELF"
