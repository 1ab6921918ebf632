"""Upstream's CosyVoice code: where it is, and how it is imported.

It is on no package index, so `python -m ci cosyvoice` puts it into a folder, and this module alone
looks there. What upstream imports but inference does not need is kept out: Matcha's training tools,
and a torchaudio that was built for another torch.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import sys
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from services.errors import ConfigurationError


@dataclass(frozen=True)
class Code:
    """Upstream's code in a folder."""

    root: Path  # contains the packages `cosyvoice` and `matcha`
    version: str  # upstream's commit, or the release that a copy was taken from
    families: tuple[int, ...]  # of models, which it can run


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
            "in BENTOVOX_SPEECH__COSYVOICE__CODE"
        ) from error


def load(root: Path | None = None) -> Code:
    """Make `import cosyvoice` and `import matcha` find the code, in this process and for good.

    Code that was loaded before is returned, whatever `root` says.

    Raises:
        ConfigurationError: it is not there.
        ImportError: a library that it needs is not installed.
    """
    loaded = sys.modules.get("cosyvoice")
    if loaded is not None:
        return find(Path(loaded.__path__[0]).parent)
    code = find(root)
    # First, as there is an unrelated `cosyvoice` on PyPI; nothing else is in the folder.
    sys.path.insert(0, str(code.root))
    _load_matcha(code.root)
    _load_torchaudio()
    _keep_logging()
    return code


def _load_matcha(root: Path) -> None:
    """Import Matcha without what trains it: `matcha.utils` imports lightning, hydra and gdown.

    Only its module `audio` is needed, and a logger.
    """
    tools = stand_in("matcha.utils", __path__=[str(root / "matcha" / "utils")])
    stand_in("matcha.utils.pylogger", get_pylogger=logging.getLogger)
    importlib.import_module("matcha").utils = tools  # type: ignore[attr-defined]


def _load_torchaudio() -> None:
    """Import torchaudio, or replace it with empty modules: upstream imports it, we do not use it.

    PyPI's build needs CUDA, so CPU environments leave it out.
    """
    try:
        importlib.import_module("torchaudio")
    except (ImportError, OSError):
        for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
            del sys.modules[name]
        for name in ("torchaudio", "torchaudio.compliance", "torchaudio.compliance.kaldi"):
            stand_in(name)


def stand_in(name: str, **contents: Any) -> ModuleType:
    """Put a module with these contents in the place of the one of that name, and return it."""
    module = sys.modules[name] = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None, is_package=True)
    vars(module).update({"__path__": [], **contents})
    return module


def _keep_logging() -> None:
    """Import the module of upstream that configures the root logger, and undo that."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    with contextlib.redirect_stdout(sys.stderr):
        importlib.import_module("cosyvoice.utils.file_utils")
    root.handlers[:] = handlers
    root.setLevel(level)
