"""The page on the stack as it is served: vLLM, a voice, a Whisper that knows some sentences."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

from tests.e2e.server import ROOT
from tests.playground.conftest import panel
from tests.whisper import PLAIN

expect = pytest.importorskip("playwright.sync_api").expect

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.sync_api import Page

    from tests.e2e.server import Server


def picture(page: Page, name: str) -> None:
    """Make the README's picture again, if asked to."""
    if os.environ.get("WRITE_DOCS"):
        page.screenshot(path=ROOT / "docs" / f"playground-{name}.png")


def test_it_chats_speaks_and_hears_itself(
    visit: Callable[..., Page],
    demo: Server,
    plain: dict[str, str],
    tmp_path: Path,
) -> None:
    page = visit(demo.url, viewport={"width": 960, "height": 530})
    chat = panel(page, "Chat")
    question = "What is Bentovox?"
    chat.get_by_label("Message").fill(question)
    chat.get_by_role("button", name="Send").click()
    expect(chat.locator(".assistant p")).to_have_text(plain[question])
    picture(page, "chat")

    speech = panel(page, "Speech")
    speech.get_by_label("Text").fill(PLAIN)
    speech.get_by_label("Voice").select_option("echo")
    speech.get_by_label("Format").select_option("wav")
    speech.get_by_role("button", name="Speak").click()
    with page.expect_download() as download:
        speech.get_by_role("link", name="Download speech.wav").click()
    spoken = tmp_path / "speech.wav"
    download.value.save_as(spoken)

    hearing = panel(page, "Transcription")
    hearing.get_by_label("Choose a file: Recording").set_input_files(spoken)
    hearing.get_by_role("button", name="Transcribe").click()
    expect(hearing.get_by_role("listitem")).to_have_text(re.compile(re.escape(PLAIN)))

    status = panel(page, "Status")
    for role in ("chat", "speech", "transcription", "conversation"):
        expect(status.locator(".roles div", has_text=role)).to_contain_text("ready")
    for what in ("Chat: first token", "Speech: first audio", "Transcription: first words"):
        expect(status.get_by_role("table")).to_contain_text(what)


def test_it_answers_what_is_said_into_the_microphone(
    visit: Callable[..., Page], demo: Server, recording: Path
) -> None:
    phone = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"}
    talk = panel(visit(demo.url, hears=recording, **phone), "Conversation")
    talk.get_by_role("button", name="Start talking").click()
    expect(talk.locator(".message.user p").first).to_have_text(PLAIN)
    expect(talk.locator(".figures")).to_contain_text("end of turn to first sound")
    picture(talk.page, "conversation")
    talk.get_by_role("button", name="End").click()
    expect(talk.get_by_role("status")).to_have_text("Ended.")


def test_it_translates_what_is_said_into_the_microphone(
    visit: Callable[..., Page], demo: Server, recording: Path
) -> None:
    translation = panel(visit(demo.url, hears=recording), "Translation")
    translation.get_by_label("Into").select_option("de")
    translation.get_by_role("button", name="Start translating").click()
    expect(translation.get_by_role("log", name="You said")).to_contain_text(PLAIN)
    # Whatever the demo model makes of it.
    expect(translation.get_by_role("log", name="Translation")).not_to_be_empty()
    expect(translation.locator(".figures")).to_contain_text("first words to first sound")
    translation.get_by_role("button", name="End").click()
    expect(translation.get_by_role("status")).to_have_text("Ended.")
