"""What is taken of upstream's code, and the hashes that it must have.

The hash is of the files themselves, so that it does not matter how they came: in an archive that
was compressed anew, a checkout, or a copy made before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

Files = dict[str, bytes]
"""Contents by path, such as `cosyvoice/llm/llm.py`."""

COSYVOICE_COMMIT: Final = "ace7c47f41bbd303aa6bf1ea80e6f9fbd595cd40"
MATCHA_COMMIT: Final = "dd9105b34bf2be2230f4aa1e4769fb586a3c824e"
"""The commit of upstream's submodule third_party/Matcha-TTS at COSYVOICE_COMMIT."""

WHEEL: Final = "xinference"
WHEEL_VERSION: Final = "4.1.0"
WHEEL_SHA256: Final = "40dd71d79e85a86f85c0d8b435fe51111fcf2c09227350d4a452229709528f2d"


@dataclass(frozen=True)
class Origin:
    """Where a package was published; the hash of its files tells."""

    source: str  # `github` or `pypi`
    version: str  # the commit, or the release of the wheel
    families: tuple[int, ...]  # of models, which this code can run


COSYVOICE: Final = {
    "015652631f467511c0494d7207564c1c8a8f196eb66f38bf8fb2c0e8ed8dd67d": Origin(
        "github", COSYVOICE_COMMIT, (1, 2, 3)
    ),
    "e196459cab866cd8ae3098f9443f41001154503b8c41acce620b49061ef5a39d": Origin(
        "pypi", WHEEL_VERSION, (1, 2)
    ),
}
"""The accepted `cosyvoice` packages, by the hash of their files."""

MATCHA: Final = {
    "b559d23db916092dfa58c14db61f6ebcf33f2e455176e2605ebf3545c08b5933",  # the commit's
    "cf7c59f2c66172bd48a6e5b1720397a8f465ec7752baaa847b752ff8febe5134",  # the wheel's
}
"""The accepted `matcha` packages, likewise. PyPI's `matcha-tts` 0.0.7.2 is like the commit."""

# What Matcha's layers and mel spectrogram need; the rest is for training, and differs by release.
_MATCHA_PARTS: Final = (
    "matcha/__init__.py",
    "matcha/hifigan/",
    "matcha/models/__init__.py",
    "matcha/models/components/",
    "matcha/utils/__init__.py",
    "matcha/utils/audio.py",
)


def is_kept(path: str) -> bool:
    """Tell whether inference needs a file; no other is kept."""
    parts = PurePosixPath(path).parts
    if path.startswith("/") or ".." in parts or "\\" in path:
        return False
    if path.startswith("cosyvoice/"):
        return path.endswith((".py", ".tiktoken")) and parts[1] != "bin"
    return path.endswith(".py") and path.startswith(_MATCHA_PARTS)


def tree_hash(files: Mapping[str, bytes], package: str) -> str:
    """Return the SHA-256 over path and content of each kept file of `package`, in path order."""
    digest = hashlib.sha256()
    for path in sorted(files):
        if is_kept(path) and path.startswith(f"{package}/"):
            digest.update(f"{path}\0{hashlib.sha256(files[path]).hexdigest()}\n".encode())
    return digest.hexdigest()
