"""The pages in docs/ are what the benchmarks write: the templates, with figures."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TEMPLATES = sorted((ROOT / "benchmarks" / "pages").glob("*.md"))
# One is written where there is a GPU and perhaps nothing else, one has tables only.
WITHOUT_PLOT = {"benchmarks-cosyvoice-gpu", "capacity"}


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_a_page_has_the_form_of_its_template(template: Path) -> None:
    parts = re.split(r"\{[^}]*\}", template.read_text(encoding="utf-8"))
    form = ".+?".join(map(re.escape, parts))
    page = (ROOT / "docs" / template.name).read_text(encoding="utf-8")
    assert re.fullmatch(form, page, re.DOTALL)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_a_page_shows_its_own_plot(template: Path) -> None:
    if template.stem in WITHOUT_PLOT:
        return
    assert f"]({template.stem}.svg)" in template.read_text(encoding="utf-8")
    assert (ROOT / "docs" / f"{template.stem}.svg").is_file()
