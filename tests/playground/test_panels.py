"""The page in a real browser, used as a person would, with engines that are quick."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx
import pytest
from pydantic import SecretStr

from tests.contract.conftest import KEY, Stack
from tests.e2e.server import eventually
from tests.playground.conftest import panel
from tests.ports import free_port
from tests.speech_app import RECORDING

expect = pytest.importorskip("playwright.sync_api").expect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Page

TABS = ("Chat", "Speech", "Transcription", "Conversation", "Translation", "Voices", "Status")
WIDTHS = (360, 768, 1280)


def say(page: Page, text: str) -> Page:
    chat = panel(page, "Chat")
    chat.get_by_label("Message").fill(text)
    chat.get_by_role("button", name="Send").click()
    return chat


def test_the_address_of_the_server_leads_to_the_page(
    visit: Callable[..., Page], fakes: Stack
) -> None:
    page = visit(fakes.url)
    assert page.url == f"{fakes.url}/playground/#chat"
    assert visit(f"{fakes.url}/playground").url == page.url
    expect(page).to_have_title("Chat · Bentovox playground")


def test_chat_streams_an_answer_and_tells_how_long_it_took(
    visit: Callable[..., Page], fakes: Stack
) -> None:
    page = visit(fakes.url)
    chat = say(page, "one two three")
    expect(chat.locator(".assistant p")).to_have_text("onetwothree")
    expect(chat.locator(".figures")).to_have_text(re.compile(r"first token \d+.*3 tokens"))
    say(page, "four")
    expect(chat.locator(".assistant p")).to_have_text(["onetwothree", "four"])
    expect(panel(page, "Status").get_by_role("table")).to_contain_text("Chat: first token")


def test_what_is_refused_is_said_in_words_and_the_question_stays(
    visit: Callable[..., Page], fakes: Stack
) -> None:
    page = visit(fakes.url)
    fakes.chat.refusals = [7.0]
    chat = say(page, "hello")
    expect(chat.get_by_role("alert")).to_contain_text("try again in a moment")
    expect(chat.get_by_label("Message")).to_have_value("hello")
    chat.get_by_role("button", name="Send").click()
    expect(chat.get_by_role("alert")).to_be_empty()
    expect(chat.locator(".assistant p")).to_have_text("hello")


@pytest.mark.parametrize("audio_format", ["mp3", "opus", "aac", "flac", "wav", "pcm"])
def test_speech_is_heard_and_downloaded(
    visit: Callable[..., Page], fakes: Stack, audio_format: str
) -> None:
    speech = panel(visit(fakes.url), "Speech")
    speech.get_by_label("Text").fill("hello")
    speech.get_by_label("Voice").select_option("echo")
    speech.get_by_label("Format").select_option(audio_format)
    speech.get_by_label("Speed").fill("0.5")
    speech.get_by_role("button", name="Speak").click()
    link = speech.get_by_role("link", name=f"Download speech.{audio_format}")
    expect(link).to_be_visible()
    sound = speech.locator("audio")
    heard_s = """one => new Promise(heard => {
        const tell = () => one.ended && heard(one.currentTime);
        one.onended = tell;
        tell();
    })"""
    assert sound.evaluate(heard_s) == pytest.approx(1.0, abs=0.2)  # five characters, half as fast
    with speech.page.expect_download() as download:
        link.click()
    assert download.value.path().stat().st_size > 500
    expect(speech.locator(".figures")).to_contain_text("first audio")


def test_a_dropped_file_is_read_with_times_that_play_it(
    visit: Callable[..., Page], fakes: Stack, tones: Path
) -> None:
    page = visit(fakes.url)
    hearing = panel(page, "Transcription")
    hearing.get_by_role("button", name="Transcribe").click()
    expect(hearing.get_by_role("alert")).to_contain_text("choose a file")
    transfer = page.evaluate_handle(
        """async data => {
            const made = new DataTransfer();
            const bytes = Uint8Array.from(atob(data), one => one.charCodeAt(0));
            made.items.add(new File([bytes], "tones.wav", { type: "audio/wav" }));
            return made;
        }""",
        base64.b64encode(tones.read_bytes()).decode(),
    )
    hearing.locator(".drop").dispatch_event("drop", {"dataTransfer": transfer})
    hearing.get_by_role("button", name="Transcribe").click()
    line = hearing.get_by_role("listitem")
    expect(line).to_contain_text("open the door of the house please")
    play = hearing.get_by_role("button", name=re.compile("Play from 0:01.0"))
    play.click()
    assert hearing.locator("audio").evaluate("one => one.currentTime") >= 1.0


def test_a_recording_is_made_and_read(
    visit: Callable[..., Page], fakes: Stack, tones: Path
) -> None:
    hearing = panel(visit(fakes.url, hears=tones), "Transcription")
    hearing.get_by_role("button", name="Record: Recording").click()
    expect(hearing.locator(".chosen")).to_have_text("Recording: 5 s")
    hearing.get_by_role("button", name="Record: Recording").click()
    expect(hearing.locator(".chosen")).to_contain_text("recording.wav")
    hearing.get_by_role("button", name="Transcribe").click()
    expect(hearing.get_by_role("status").last).to_have_text("Done.")
    assert hearing.get_by_role("listitem").count()


def test_a_conversation_answers_and_stops_when_it_is_interrupted(
    visit: Callable[..., Page], fakes: Stack, tones: Path
) -> None:
    talk = panel(visit(fakes.url, hears=tones), "Conversation")
    sent = []
    talk.page.on("websocket", lambda one: one.on("framesent", lambda data: sent.append(data)))  # noqa: PLW0108  it takes no builtin
    talk.get_by_role("button", name="Start talking").click()
    asked, answer = (talk.locator(f".message.{one} p").first for one in ("user", "assistant"))
    expect(answer).to_contain_text("please")
    said = asked.text_content().replace(" ", "")  # the fake chat leaves out spaces
    assert answer.text_content() == said
    assert said.startswith("openthedoor")
    expect(talk.locator(".message.cut").first).to_be_visible()
    (cut, *_) = [
        one for one in map(json.loads, sent) if one["type"] == "conversation.item.truncate"
    ]
    assert 0 < cut["audio_end_ms"] < 9000
    talk.get_by_role("button", name="End").click()
    expect(talk.get_by_role("status")).to_have_text("Ended.")
    expect(talk.locator(".figures")).to_contain_text("end of turn to first sound")


def test_speech_is_translated_while_it_goes_on(
    visit: Callable[..., Page], fakes: Stack, tones: Path
) -> None:
    page = panel(visit(fakes.url, hears=tones), "Translation")
    page.get_by_label("Into").select_option("fr")
    page.get_by_role("button", name="Start translating").click()
    expect(page.get_by_role("log", name="You said")).to_contain_text("please")
    expect(page.get_by_role("log", name="Translation")).not_to_be_empty()
    expect(page.locator(".figures")).to_contain_text("first words to first sound")
    page.get_by_role("button", name="End").click()
    expect(page.get_by_role("status")).to_have_text("Ended.")
    expect(page.get_by_role("alert")).to_be_empty()


def test_a_voice_is_added_with_its_consent_tried_and_deleted(
    visit: Callable[..., Page], fakes: Stack, tmp_path: Path
) -> None:
    page = visit(fakes.url)
    page.on("dialog", lambda dialog: dialog.accept())
    voices = panel(page, "Voices")
    file = tmp_path / "anna.wav"
    file.write_bytes(RECORDING)
    voices.get_by_label("Choose a file: Consent").set_input_files(file)
    voices.get_by_label("Choose a file: Sample").set_input_files(file)
    voices.get_by_label("Person").fill("Anna")
    voices.get_by_label("Name of the voice").fill("anna's")
    voices.get_by_label("What is said in it").fill("These words.")
    voices.get_by_label("its owner agreed").check()
    voices.get_by_role("button", name="Add the voice").click()
    expect(voices.locator(".state")).to_have_text("The voice anna's can speak now.")
    assert [(one.name, one.text) for one in fakes.store.voices()] == [("anna's", "These words.")]
    voices.get_by_role("button", name="Try anna's").click()
    expect(voices.locator(".figures")).to_contain_text("first audio")
    voices.get_by_role("button", name="Add the voice").click()
    expect(voices.get_by_role("alert")).to_contain_text("choose another name")
    consents = voices.locator(".consent-list li")
    expect(consents).to_have_count(1)  # the one for the voice that was refused is gone
    voices.get_by_role("button", name="Delete anna's").click()
    expect(voices.locator(".state")).to_have_text("anna's was deleted.")
    voices.get_by_role("button", name="Delete Anna", exact=True).click()
    expect(consents).to_have_text("None yet.")
    assert not fakes.store.voices()


def test_the_code_shown_is_the_call_that_was_made(
    visit: Callable[..., Page], fakes: Stack, tmp_path: Path
) -> None:
    speech = panel(visit(fakes.url), "Speech")
    speech.get_by_label("Text").fill('it\'s a "test"')
    speech.get_by_text("The same call as code").click()
    speech.get_by_label("Format").select_option("wav")
    curl, python = (speech.locator("pre").nth(at).text_content() for at in (0, 1))
    subprocess.run(["bash", "-c", curl], check=True, cwd=tmp_path, capture_output=True)
    by_curl = (tmp_path / "speech.wav").read_bytes()
    assert fakes.engine.requests[-1].text == 'it\'s a "test"'
    exec(compile(python.replace('"speech.wav"', f'"{tmp_path}/python.wav"'), "sample", "exec"), {})  # noqa: S102
    assert (tmp_path / "python.wav").read_bytes()[44:] == by_curl[44:]


@pytest.mark.parametrize("name", TABS)
def test_every_panel_has_code_that_compiles(
    visit: Callable[..., Page], fakes: Stack, name: str
) -> None:
    shown = panel(visit(fakes.url), name)
    shown.get_by_text("The same call as code").click()
    curl, python = (shown.locator("pre").nth(at).text_content() for at in (0, 1))
    assert fakes.url in curl
    assert fakes.url in python
    compile(python, name, "exec")
    subprocess.run(["bash", "-n", "-c", curl], check=True)


def test_tabs_are_walked_by_keys_and_shown_by_the_address(
    visit: Callable[..., Page], fakes: Stack
) -> None:
    page = visit(f"{fakes.url}/playground/#voices")
    expect(page.get_by_role("tabpanel", name="Voices")).to_be_visible()
    page.get_by_role("tab", name="Voices").focus()
    for key, name in (
        ("ArrowRight", "Status"),
        ("ArrowRight", "Chat"),
        ("End", "Status"),
        ("Home", "Chat"),
        ("ArrowLeft", "Status"),
    ):
        page.keyboard.press(key)
        expect(page.get_by_role("tab", name=name)).to_be_focused()
        expect(page.get_by_role("tabpanel")).to_have_count(1)
        expect(page.get_by_role("tabpanel", name=name)).to_be_visible()


def test_a_chat_is_held_with_the_keyboard_alone(visit: Callable[..., Page], fakes: Stack) -> None:
    page = visit(fakes.url)
    page.get_by_role("tab", name="Chat").focus()
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "chat-text":
            break
    page.keyboard.type("hello")
    page.keyboard.press("Enter")
    expect(page.locator(".assistant p")).to_have_text("hello")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(visit: Callable[..., Page], fakes: Stack, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe  # noqa: PLC0415

    page = visit(fakes.url, color_scheme=scheme)
    say(page, "hello")
    expect(page.locator(".assistant p")).to_have_text("hello")
    for name in TABS:
        shown = panel(page, name)
        shown.get_by_text("The same call as code").click()
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_screen(
    visit: Callable[..., Page], fakes: Stack, width: int
) -> None:
    page = visit(fakes.url, viewport={"width": width, "height": 800})
    for name in TABS:
        panel(page, name).get_by_text("The same call as code").click()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name


def test_a_microphone_that_is_denied_is_explained(visit: Callable[..., Page], fakes: Stack) -> None:
    talk = panel(visit(fakes.url, may=()), "Conversation")
    talk.get_by_role("button", name="Start talking").click()
    expect(talk.get_by_role("alert")).to_contain_text("Allow it in the site's settings")


def test_an_insecure_origin_is_explained(visit: Callable[..., Page], fakes: Stack) -> None:
    url = fakes.url.replace("127.0.0.1", "box.lan")
    talk = panel(visit(url, may=()), "Conversation")
    talk.get_by_role("button", name="Start talking").click()
    alert = talk.get_by_role("alert")
    expect(alert).to_contain_text("HTTPS")
    expect(alert).to_contain_text("ssh -L")


@contextmanager
def under_a_path(nginx: str, url: str, folder: Path) -> Iterator[str]:
    """Serve a gateway under /ai/ by nginx, as an operator would."""
    port = free_port()
    (folder / "nginx.conf").write_text(f"""\
daemon off; master_process off; error_log stderr; pid {folder}/pid;
events {{}}
http {{
  access_log off; client_body_temp_path {folder}; proxy_temp_path {folder};
  fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
  map $http_upgrade $hop {{ "" ""; default upgrade; }}
  server {{
    listen 127.0.0.1:{port};
    location /ai/ {{
      proxy_pass {url}/; proxy_http_version 1.1; proxy_buffering off;
      proxy_set_header Host $http_host;
      proxy_set_header Connection $hop; proxy_set_header Upgrade $http_upgrade;
    }}
  }}
}}
""")
    command = [nginx, "-p", str(folder), "-c", str(folder / "nginx.conf")]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        try:
            ready = f"http://127.0.0.1:{port}/ai/readyz"

            def answers() -> bool:
                try:
                    return httpx.get(ready).status_code == 200
                except httpx.TransportError:
                    return False

            eventually(answers, 20, "nginx answers")
            yield f"http://127.0.0.1:{port}/ai/"
        finally:
            process.terminate()


def test_it_works_under_a_path_behind_nginx_and_with_keys(
    visit: Callable[..., Page], nginx: str, tones: Path, tmp_path: Path
) -> None:
    keys = SecretStr(f"anna:{hashlib.sha256(KEY.encode()).hexdigest()}")
    with Stack(talks=True, keys=keys) as served, under_a_path(nginx, served.url, tmp_path) as url:
        page = visit(url, hears=tones)
        assert page.url == f"{url}playground/#chat"
        expect(page.get_by_role("alert").first).to_contain_text("Put a key of this server")
        page.get_by_label("API key").fill(KEY)
        page.get_by_label("API key").press("Enter")
        expect(page.get_by_role("alert").first).to_be_empty()
        chat = say(page, "hello")
        expect(chat.locator(".assistant p")).to_have_text("hello")
        chat.get_by_text("The same call as code").click()
        assert KEY not in page.content()
        talk = panel(page, "Conversation")
        talk.get_by_role("button", name="Start talking").click()
        expect(talk.locator(".message.assistant p").first).not_to_be_empty()
        talk.get_by_role("button", name="End").click()
        assert page.evaluate("localStorage.length") == 0
        page.reload()
        expect(page.get_by_label("API key")).to_have_value(KEY)
