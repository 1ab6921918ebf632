"""Stand-ins for the platforms' images, made from Debian's archive if no registry answers.

They are for tests and measurements, and are not shipped. `debian:bookworm-slim` is almost the real
one. The stand-in for PyTorch's image has a fake torch: metadata and a version.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ci import docker
from ci.errors import CiError
from ci.terminal import last_line, ran, say

if TYPE_CHECKING:
    from ci.platforms import Platform

DEBIAN: Final = "debian:bookworm-slim"
_ARCHIVE: Final = "http://deb.debian.org/debian"
_CERTIFICATES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
_NEEDED_BYTES: Final = 2_000_000_000
"""Debian, and an archive of it, several times over."""
_CHANGES: Final = (
    f"ENV SSL_CERT_FILE={_CERTIFICATES}",
    f"ENV PIP_CERT={_CERTIFICATES}",
    f"ENV REQUESTS_CA_BUNDLE={_CERTIFICATES}",
    'CMD ["bash"]',
)
_TORCH: Final = """
FROM debian:bookworm-slim
RUN apt-get update && apt-get install --yes --no-install-recommends gcc python3 \
 && rm -rf /var/lib/apt/lists/*
ARG TORCH PYTHON
RUN site=/usr/local/lib/python$PYTHON/dist-packages \
 && mkdir -p $site/torch $site/torch-$TORCH.dist-info \
 && echo "__version__ = '$TORCH'" > $site/torch/__init__.py \
 && head -c 5000000 /dev/urandom > $site/torch/libtorch.so \
 && printf 'Metadata-Version: 2.1\\nName: torch\\nVersion: %s\\n' $TORCH \
    > $site/torch-$TORCH.dist-info/METADATA
"""


def debian(home: Path) -> str:
    """Make `debian:bookworm-slim` from the archive unless it is here; return its name.

    It trusts the certificates that this machine trusts.

    Raises:
        CiError: the archive does not answer, or the engine does not take it.
    """
    if docker.inspect(DEBIAN) is not None:
        return DEBIAN
    say(f"Making a stand-in for {DEBIAN} from Debian's archive")
    with tempfile.TemporaryDirectory(dir=_room(home)) as folder:
        tar = Path(folder, "debian.tar")
        program = ["perl", str(home / "bin" / "mmdebstrap"), "--quiet", "--variant=minbase"]
        trusted = f"--customize-hook=upload {_CERTIFICATES} {_CERTIFICATES}"
        done = ran(
            *(*program, "--include=ca-certificates", trusted, "bookworm", tar, _ARCHIVE),
            env={**os.environ, "TMPDIR": folder},
        )
        if done.returncode:
            raise CiError(f"no Debian could be made: {last_line(done.stderr)}")
        docker.call("import", *(f"--change={line}" for line in _CHANGES), str(tar), DEBIAN)
    return DEBIAN


def _room(home: Path) -> Path:
    """Return where to make it: in memory if there is room, which takes half the time."""
    memory = Path("/dev/shm")  # noqa: S108  a folder of a random name is made in it
    has_room = memory.is_dir() and shutil.disk_usage(memory).free > _NEEDED_BYTES
    return memory if has_room else home


def pytorch(platform: Platform, torch: str = "") -> str:
    """Make an image under a platform's own name that holds a torch by name only; return the name.

    Raises:
        CiError: the engine cannot build it.
    """
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "Dockerfile").write_text(_TORCH, encoding="utf-8")
        arguments = {"TORCH": torch or f"{platform.torch}+cu130", "PYTHON": platform.python}
        build(platform.reference, Path(folder), *docker.variables(arguments, "--build-arg"))
    return platform.reference


def build(name: str, folder: Path, *options: str) -> None:
    """Build an image for tests from a folder's Dockerfile; its layers are not compressed.

    Raises:
        CiError: the engine cannot build it.
    """
    output = f'--output=type=image,unpack=true,"name={name}",compression=uncompressed'
    quiet = ("--quiet", "--provenance=false", "--network=host")
    docker.call("buildx", "build", *quiet, output, *options, str(folder))
