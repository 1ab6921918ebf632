"""Frameworks for voice agents: LiveKit's and Pipecat's OpenAI services."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.clients.driving import HERE, Told, needed_python, python, ran
from tests.whisper import PLAIN

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.server import Server

LIVEKIT, PIPECAT = "LiveKit Agents (plugin openai)", "Pipecat (openai services)"
FORMATS = ("mp3", "opus", "aac", "flac", "wav", "pcm")
works = pytest.mark.works


@pytest.fixture(scope="module")
def livekit(stack: Server, recording: Path) -> Told:
    return python("drive_livekit.py", stack.url, str(recording))


@works(LIVEKIT, "speech in six formats, as bytes and as events")
def test_livekit_decodes_speech_in_each_format(livekit: Told) -> None:
    seconds = [livekit[f"speech in {one}"] for one in FORMATS]
    seconds += [livekit[f"speech as events in {one}"] for one in FORMATS]
    assert all(1 < one < 3 for one in seconds), seconds
    assert max(seconds) - min(seconds) < 0.2  # each format holds all of it


@works(LIVEKIT, "speech with instructions")
def test_livekit_sends_instructions_that_no_voice_follows(livekit: Told) -> None:
    assert livekit["instructions"] > 1


@works(LIVEKIT, "transcription")
def test_livekit_hears_a_file(livekit: Told) -> None:
    assert [livekit["whisper-1"], livekit["gpt-4o-mini-transcribe"]] == [PLAIN] * 2


@works(LIVEKIT, "live transcription, turns found by the server")
def test_livekit_hears_live(livekit: Told) -> None:
    told = livekit["live gpt-4o-mini-transcribe"]
    assert told["final"] == PLAIN
    assert told["interim"]


@works(LIVEKIT, "live transcription by `gpt-realtime-whisper`, turns found by its own VAD")
def test_livekit_commits_by_its_own_vad(livekit: Told) -> None:
    assert livekit["live gpt-realtime-whisper"]["final"] == PLAIN


@works(LIVEKIT, "live transcription by `gpt-live-transcribe` with languages and keywords")
def test_livekit_hears_live_with_its_newest_options(livekit: Told) -> None:
    assert livekit["live gpt-live-transcribe"]["final"] == PLAIN


def pipecat(kind: str, url: str, given: str) -> list[dict[str, Any]]:
    """Return the lines of the driver; none of them is an error."""
    driver = str(HERE / "python" / "drive_pipecat.py")
    done = ran([str(needed_python()), driver, kind, url, given])
    assert done.returncode == 0, done.stderr[-4000:]
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one for one in told if one["kind"] == "error"] == []
    return told


@works(PIPECAT, "speech")
@pytest.mark.parametrize("kind", ["speech", "instructed"])
def test_pipecat_speaks_with_and_without_instructions(stack: Server, kind: str) -> None:
    (told,) = pipecat(kind, stack.url, "Hello from the server.")
    assert told["bytes"] > 24_000 * 2


@works(PIPECAT, "transcription")
def test_pipecat_hears_a_turn(stack: Server, recording: Path) -> None:
    (final,) = pipecat("file", stack.url, str(recording))
    assert (final["kind"], final["text"]) == ("final", PLAIN)


@works(PIPECAT, "live transcription, turns found by the server")
def test_pipecat_hears_live(stack: Server, recording: Path) -> None:
    told = pipecat("server-vad", stack.url, str(recording))
    assert (told[-1]["kind"], told[-1]["text"]) == ("final", PLAIN)
    assert {"started", "interim", "stopped"} <= {one["kind"] for one in told}


@works(PIPECAT, "live transcription with `noise_reduction` and `delay`")
def test_pipecat_hears_live_with_its_newest_options(stack: Server, recording: Path) -> None:
    told = pipecat("newest", stack.url, str(recording))
    assert (told[-1]["kind"], told[-1]["text"]) == ("final", PLAIN)
