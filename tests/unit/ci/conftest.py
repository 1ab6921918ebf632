from __future__ import annotations

from types import SimpleNamespace

import nox
import pytest

from ci.paths import ROOT


@pytest.fixture
def noxfile(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.setattr(nox.registry, "_REGISTRY", {})
    source = compile((ROOT / "noxfile.py").read_text(), ROOT / "noxfile.py", "exec")
    names: dict[str, object] = {"__name__": "noxfile", "__file__": str(ROOT / "noxfile.py")}
    exec(source, names)  # noqa: S102 - a noxfile is no importable module
    return SimpleNamespace(**names)
