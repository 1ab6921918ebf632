"""Upstream's CosyVoice code: where it is, and how it is imported.

It is on no package index, so `python -m ci cosyvoice` puts it into a folder, and this module is the
one place that looks there. What upstream imports and inference does not need is kept out: Matcha's
training tools, and a torchaudio that was built for another torch.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import sys
import threading
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Final

from services.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

_PACKAGES: Final = frozenset({"cosyvoice", "matcha"})
_GUARD = threading.Lock()


@dataclass(frozen=True)
class Code:
    """The code that is there.

    Attributes:
        root: the folder that holds the packages `cosyvoice` and `matcha`.
        version: upstream's commit, or the release that a copy was taken from.
        families: the model families that it can run.
    """

    root: Path
    version: str
    families: tuple[int, ...]


def default_root() -> Path:
    """Return where `python -m ci cosyvoice` puts the code unless told otherwise."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "bentovox" / "cosyvoice"


def find(root: Path | None = None) -> Code:
    """Return the code in `root`, or in `default_root()`.

    Raises:
        ConfigurationError: it is not there; the message says how to get it.
    """
    root = root or default_root()
    try:
        source = json.loads((root / "source.json").read_text(encoding="utf-8"))
        return Code(root, str(source["version"]), tuple(source["families"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"CosyVoice's code is not in {root}: run `python -m ci cosyvoice`, or name its folder "
            "in BENTOVOX_SPEECH__COSYVOICE__CODE",
            param="engine",
        ) from error


def load(root: Path | None = None) -> Code:
    """Make `import cosyvoice` and `import matcha` find the code, in this process and for good.

    Raises:
        ConfigurationError: it is not there.
        ImportError: a library that it needs is not installed.
    """
    with _GUARD:
        for finder in sys.meta_path:
            if isinstance(finder, _Finder):
                return finder.code
        code = find(root)
        sys.meta_path.insert(0, _Finder(code))
        _load_matcha(code.root)
        _load_torchaudio()
        _keep_logging()
        return code


class _Finder(MetaPathFinder):
    """Finds the two packages in the code's folder and nowhere else.

    An unrelated `cosyvoice` is on PyPI; it is never what is meant.
    """

    def __init__(self, code: Code) -> None:
        self.code = code

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of `cosyvoice` or `matcha`; what is inside them is found as usual."""
        del path, target
        if fullname not in _PACKAGES:
            return None
        return PathFinder.find_spec(fullname, [str(self.code.root)])


def _load_matcha(root: Path) -> None:
    """Import Matcha without what trains it: `matcha.utils` imports lightning, hydra and gdown.

    Its module `audio` is wanted, and of the rest only a logger.
    """
    tools = ModuleType("matcha.utils")
    tools.__path__ = [str(root / "matcha" / "utils")]
    pylogger = ModuleType("matcha.utils.pylogger")
    pylogger.get_pylogger = logging.getLogger  # type: ignore[attr-defined]
    sys.modules["matcha.utils"] = tools
    sys.modules["matcha.utils.pylogger"] = pylogger
    importlib.import_module("matcha").utils = tools  # type: ignore[attr-defined]


def _load_torchaudio() -> None:
    """Import torchaudio, or put empty modules in its place: upstream imports it and we use none.

    PyPI's build wants CUDA, so a CPU's environment leaves it out.
    """
    try:
        importlib.import_module("torchaudio")
    except (ImportError, OSError):
        for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
            del sys.modules[name]
        for name in ("torchaudio", "torchaudio.compliance", "torchaudio.compliance.kaldi"):
            empty = ModuleType(name)
            empty.__spec__ = ModuleSpec(name, None, is_package=True)
            empty.__path__ = []
            sys.modules[name] = empty


def _keep_logging() -> None:
    """Import the module of upstream that sets up the root logger, and undo that."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    with contextlib.redirect_stdout(sys.stderr):
        importlib.import_module("cosyvoice.utils.file_utils")
    root.handlers[:] = handlers
    root.setLevel(level)
