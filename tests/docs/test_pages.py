"""What the pages name exists: links, files, sessions, variables, functions."""

from __future__ import annotations

import ast
import re
from functools import cache
from typing import TYPE_CHECKING

import pytest

from services import settings
from services.gateway import routes as gateway_routes
from services.openai.paths import ROUTES
from services.settings.sections import GatewaySettings
from tests.docs.pages import PAGES, ROOT, anchors, blocks, codes, links, named

if TYPE_CHECKING:
    from pathlib import Path

each_page = pytest.mark.parametrize("page", PAGES, ids=named)

# fmt: off
_TOP = frozenset({
    "bentos", "services", "ci", "tests", "docs", "benchmarks", "noxfile.py",
    "bentofile.yaml", "pyproject.toml",
})
# fmt: on
# Set by the chat role for its engine, and read by tests; explained in decisions 0012 and 0021.
_NO_SETTINGS = {"BENTOVOX_", "BENTOVOX_SUPERVISOR", "BENTOVOX_TEST_ENGINE"}


@each_page
def test_every_link_to_this_repository_resolves(page: Path) -> None:
    for target in links(page):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        goal = (page.parent / path).resolve() if path else page
        assert goal.exists(), target
        if anchor:
            assert anchor in anchors(goal), target


@each_page
def test_every_file_and_folder_named_exists(page: Path) -> None:
    for code in codes(page):
        path = code.partition(" ")[0].rstrip("/")
        if "NAME" in path:  # whoever reads puts one there
            continue
        if path.partition("/")[0] in _TOP and re.fullmatch(r"[\w./-]+", path):
            assert (ROOT / path).exists(), code


@each_page
def test_every_module_named_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"(?<![/(])\b(?:services|ci|benchmarks)(?:\.\w+)+", text):
        path = ROOT.joinpath(*name.split("."))
        known = path.is_dir() or path.with_suffix(".py").is_file()
        assert known or (ROOT / name).exists() or _is_attribute(name), name


@each_page
def test_every_nox_session_named_exists(page: Path) -> None:
    for name in re.findall(r"nox -s ([\w-]+)", page.read_text(encoding="utf-8")):
        assert name in _sessions(), name


@each_page
def test_every_variable_named_is_a_setting(page: Path) -> None:
    known = {settings.variable(key) for key, _ in settings.leaves()}
    named_here = set(re.findall(r"\bBENTOVOX_[A-Z0-9_]*", page.read_text(encoding="utf-8")))
    assert named_here - known - _NO_SETTINGS == set()


@each_page
def test_no_page_names_paths_of_one_machine(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    # In an image `/opt/venv` and `/tmp` are the same for all.
    assert not re.search(r"(?<![\w.])/(?:work|opt(?!/venv)|tmp(?!/bentoml)|root|home)/", text)


def test_every_architecture_page_and_decision_is_linked() -> None:
    targets = {
        (page.parent / target.partition("#")[0]).resolve()
        for page in PAGES
        for target in links(page)
    }
    assert set(PAGES) - targets - {ROOT / "README.md", ROOT / "docs/decisions/README.md"} == set()


def test_readme_names_every_path_of_the_front_door() -> None:
    readme = " ".join(codes(ROOT / "README.md"))
    backends = {role: ["http://a"] for role in ROUTES}
    shell = gateway_routes.build(GatewaySettings(playground=False), backends)
    for path in [
        "/playground/",
        *(path for _, path in shell.handlers),
        "/livez",
        "/readyz",
        "/metrics",
    ]:
        assert re.sub(r"\{\*?\}", "{id}", path) in readme


def test_every_python_block_compiles() -> None:
    for page in PAGES:
        for block in blocks(page):
            if block.language == "python":
                compile(block.text, str(block), "exec")


def _is_attribute(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return re.search(rf"\b{attribute}\b", text) is not None


@cache
def _sessions() -> set[str]:
    tree = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in tree.body:
        for decorator in getattr(node, "decorator_list", ()):
            if "nox.session" in ast.unparse(decorator):
                keywords = {k.arg: k.value for k in getattr(decorator, "keywords", ())}
                given = keywords.get("name")
                names.add(given.value if given is not None else node.name)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "VERBS":
            names |= ast.literal_eval(node.value).keys()
    return names
