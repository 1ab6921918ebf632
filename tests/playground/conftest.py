"""A browser with a microphone that hears a file, and what the page is tried on."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from services.audio.encode import to_wav
from tests.clients.conftest import recording, stack  # noqa: F401  fixtures
from tests.contract.conftest import Stack
from tests.e2e.conftest import answers, plain  # noqa: F401  fixtures
from tests.e2e.server import ROOT, need_stack
from tests.hearing_app import said

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome")
RATE_HZ = 48_000


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    need_stack(items, ROOT / "tests" / "playground" / "test_real_stack.py")


def bring(package: str, *programs: str) -> str:
    """Return the path of a program; on Debian and as root its package is installed if need be."""
    found = next(filter(None, map(shutil.which, programs)), None)
    is_debian = platform.freedesktop_os_release().get("ID") == "debian"
    if found is None and is_debian and os.geteuid() == 0:
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}  # no daemons
        install = ["apt-get", "install", "-qq", "--no-install-recommends", package]
        for command in (["apt-get", "update", "-qq"], install):
            subprocess.run(command, check=False, env=quiet, stdout=subprocess.DEVNULL)
        found = next(filter(None, map(shutil.which, programs)), None)
    if found is None:
        pytest.skip(f"no {package}: it is not installed, and is brought on Debian as root only")
    return found


@pytest.fixture(scope="session")
def chromium() -> str:
    return bring("chromium", *NAMES)


@pytest.fixture(scope="session")
def nginx() -> str:
    return bring("nginx-light", "nginx", "/usr/sbin/nginx")


def panel(page: Page, name: str) -> Page:
    """Choose a tab, and return its panel."""
    page.get_by_role("tab", name=name).click()
    return page.get_by_role("tabpanel", name=name)


class Visit:
    """Pages that were opened, and what was wrong with them."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self.wrong: list[str] = []

    def open(self, url: str, *, may: tuple[str, ...] = ("microphone",), **options: Any) -> Page:
        """Open a page that may use the microphone."""
        context = self._browser.new_context(**options)
        context.set_default_timeout(60_000)
        context.grant_permissions(list(may))
        page = context.new_page()
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("console", self._note)
        page.goto(url)
        return page

    def _note(self, message: Any) -> None:
        # What the server refused is a matter of each test.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            self.wrong.append(message.text)

    def end(self) -> None:
        for context in self._browser.contexts:
            context.close()
        assert self.wrong == [], "errors in the browser's console, or against the page's policy"


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Callable[..., Browser]]:
    """Return a function that starts a browser whose microphone hears a file, again and again.

    Of each module, since Playwright leaves an event loop running until it ends.
    """
    from playwright.sync_api import expect, sync_playwright  # noqa: PLC0415  only where it is used

    expect.set_options(timeout=60_000)
    with ExitStack() as ending:
        playwright = ending.enter_context(sync_playwright())
        started: dict[Path | None, Browser] = {}

        def start(heard: Path | None = None) -> Browser:
            if heard not in started:
                hears = [] if heard is None else [f"--use-file-for-fake-audio-capture={heard}"]
                made = playwright.chromium.launch(
                    executable_path=chromium,
                    args=[
                        *("--no-sandbox", "--disable-dev-shm-usage"),
                        "--use-fake-device-for-media-stream",
                        "--host-resolver-rules=MAP box.lan 127.0.0.1",
                        *hears,
                    ],
                )
                ending.callback(made.close)
                started[heard] = made
            return started[heard]

        yield start


@pytest.fixture
def visit(browser: Callable[..., Browser]) -> Iterator[Callable[..., Page]]:
    """Return `open(url, hears=FILE)`: a page, whose errors fail the test."""
    visits: list[Visit] = []

    def start(url: str, *, hears: Path | None = None, **options: Any) -> Page:
        visits.append(Visit(browser(hears)))
        return visits[-1].open(url, **options)

    yield start
    for one in visits:
        one.end()


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the fakes hear as words, and a pause that is shorter than their answer."""
    path = tmp_path_factory.mktemp("microphone") / "tones.wav"
    words = "|" * 10 + "open the door of the house please" + "|" * 10
    path.write_bytes(to_wav(said(words, RATE_HZ), RATE_HZ))
    return path


@pytest.fixture(scope="module")
def fakes() -> Iterator[Stack]:
    """The real gateway and audio roles, with engines that speak and hear tones."""
    with Stack(talks=True) as served:
        yield served
