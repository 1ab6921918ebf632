"""What `benchmarks/cosyvoice_gpu.py` does on a GPU, tried on this CPU with a tiny model."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.cosyvoice import tiny_yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.speech.engines.cosyvoice.upstream_code import Code

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(600)
def test_a_dry_run_measures_everybody_and_goes_on_without_who_fails(
    upstream: Code, tmp_path: Path
) -> None:
    cache = tmp_path / "cache" / "bentovox"
    cache.mkdir(parents=True)
    (cache / "cosyvoice").symlink_to(upstream.root)
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache.parent)}
    environment["COSYVOICE_PYTHON"] = sys.executable
    command = [sys.executable, "-m", "benchmarks", "cosyvoice-gpu", "--dry-run", "--rounds=1"]
    done = subprocess.run(
        [*command, f"--out={tmp_path}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "benchmarks-cosyvoice-gpu.md").read_text(encoding="utf-8")
    assert "A dry run with a tiny model" in page
    for streams in (1, 2):
        for name in ("Bentovox", "Bentovox, whole", "bare upstream call"):
            assert f"| {name} | {streams} | 1 |" in page, done.stdout
    assert re.search("- Bentovox, fp16 is out; its log ends with: .* that needs a GPU", page)


def test_the_full_size_changes_sizes_only() -> None:
    from ruamel.yaml import YAML  # noqa: PLC0415  HyperPyYAML's

    tiny, full = (YAML().load(tiny_yaml.whole(3, sizes)) for sizes in ({}, tiny_yaml.FULL))
    assert set(_places(tiny)) == set(_places(full))
    assert (tiny["llm_input_size"], full["llm_input_size"]) == (16, 896)


def _places(tree: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the place of each value, and the class or function that is named there."""
    yield at, str(getattr(tree, "tag", ""))
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _places(value, (*at, key))
