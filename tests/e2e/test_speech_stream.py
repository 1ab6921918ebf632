"""Speech over a WebSocket, through gateway and speech role: text in as it is written, audio out."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from services.audio.resample import Resampler
from tests.e2e.server import Server, eventually
from tests.hearing import HEARING_RATE_HZ, four_digits_heard

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RATE_HZ = 24_000
PATH = "/v1/audio/speech/stream"
STREAMED = {"voice": "alloy", "stream_audio": True, "response_format": "pcm"}
SENTENCE = "The server answers every request that it accepts, one sentence after another. "


@contextmanager
def door(home: Path) -> Iterator[tuple[Server, Server]]:
    """Give a gateway and the speech role behind it, without chat, which takes longest to start."""
    with (
        Server(home, "services.speech.service:Speech") as speech,
        Server(
            home,
            "services.gateway.service:Gateway",
            BENTOVOX_GATEWAY__SPEECH=f'["{speech.url}"]',
        ) as gateway,
    ):
        yield gateway, speech


@pytest.fixture(scope="module")
def front(home: Path) -> Iterator[Server]:
    with door(home) as (gateway, _):
        yield gateway


class Talk:
    """The client's side of a connection."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    def say(self, kind: str, **fields: Any) -> None:
        self.connection.send(json.dumps({"type": kind, **fields}))

    def until(self, kind: str) -> tuple[list[dict[str, Any]], bytes]:
        """Return the events up to the first of a kind, and the audio between them."""
        events: list[dict[str, Any]] = []
        audio = b""
        while not events or events[-1]["type"] != kind:
            data = self.connection.recv(timeout=30)
            if isinstance(data, bytes):
                audio += data
            else:
                events.append(json.loads(data))
        return events, audio

    def close_code(self) -> int | None:
        with pytest.raises(ConnectionClosed):
            self.connection.recv(timeout=30)
        return self.connection.protocol.close_code


@contextmanager
def talking(server: Server, **config: Any) -> Iterator[Talk]:
    url = server.url.replace("http", "ws") + PATH
    with connect(url, proxy=None, max_size=None) as connection:
        talk = Talk(connection)
        talk.say("session.config", **{**STREAMED, **config})
        yield talk


def test_audio_comes_while_the_text_is_still_being_written(front: Server) -> None:
    with talking(front) as talk:
        for word in SENTENCE.split():
            talk.say("input.text", text=f"{word} ")
        talk.say("input.text", text="And the next one ")
        talk.until("audio.start")
        said = b""
        while len(said) < RATE_HZ * 2:  # a second of it, and the utterance has no end yet
            piece = talk.connection.recv(timeout=30)
            assert isinstance(piece, bytes)
            said += piece
        talk.say("input.text", text="ends here.")
        talk.say("input.done")
        events, rest = talk.until("session.done")
    assert [event["type"] for event in events] == ["audio.done", "session.done"]
    assert events[0]["total_bytes"] == len(said + rest)
    assert 5 < len(said + rest) / 2 / RATE_HZ < 15


@pytest.mark.parametrize("granularity", ["none", "sentence", "clause"])
def test_a_recogniser_hears_the_digits_that_were_written_in_pieces(
    front: Server, granularity: str
) -> None:
    with talking(front, split_granularity=granularity) as talk:
        for piece in ("se", "ven thr", "ee nin", "e o", "ne"):
            talk.say("input.text", text=piece)
        talk.say("input.done")
        _, audio = talk.until("session.done")
    resampler = Resampler(RATE_HZ, HEARING_RATE_HZ)
    heard = resampler.feed(np.frombuffer(audio, "<i2").astype(np.float32) / 32_768)
    assert four_digits_heard(np.concatenate([heard, resampler.finish()])) == "seven three nine one"


def test_it_goes_through_the_stack_with_its_unix_sockets(stack: Server) -> None:
    with talking(stack) as talk:
        talk.say("input.text", text=SENTENCE)
        talk.say("input.done")
        _, audio = talk.until("session.done")
    assert len(audio) / 2 / RATE_HZ > 2


def test_a_client_that_hangs_up_frees_its_slot_and_the_gateway_lends_none(front: Server) -> None:
    assert front.sample("bentovox_slots_in_use", role="speech") == 0
    with talking(front) as talk:
        talk.say("input.text", text=SENTENCE * 40)
        talk.until("audio.start")
        assert front.sample("bentovox_slots_in_use", role="speech") == 1
        assert front.sample("bentovox_slots_in_use", role="gateway") == 0
    eventually(
        lambda: front.sample("bentovox_slots_in_use", role="speech") == 0, 5, "the slot is free"
    )


def test_a_cancelled_utterance_frees_its_slot_and_the_next_one_is_spoken(front: Server) -> None:
    with talking(front) as talk:
        talk.say("input.text", text=SENTENCE * 40)
        talk.until("audio.start")
        talk.say("input.cancel")
        events, cut = talk.until("session.done")
        assert [event["cancelled"] for event in events] == [True, True]
        assert len(cut) / 2 / RATE_HZ < 100  # of some 180 s
        eventually(
            lambda: front.sample("bentovox_slots_in_use", role="speech") == 0,
            10,
            "the slot is free",
        )
        talk.say("input.text", text="It goes on.")
        talk.say("input.done")
        events, audio = talk.until("session.done")
    assert (events[-1]["utterance_index"], "cancelled" in events[-1]) == (1, False)
    assert 0.5 < len(audio) / 2 / RATE_HZ < 3


def test_who_listens_at_the_pace_of_speech_hears_all_of_it(front: Server) -> None:
    """The engine is hundreds of times quicker: what waits is held back, and nothing is lost."""
    with talking(front, speed=0.5) as talk:
        for _ in range(40):
            talk.say("input.text", text=SENTENCE)
        talk.say("input.done")
        talk.until("audio.start")
        time.sleep(3)  # the listener's pace
        events, audio = talk.until("session.done")
    assert events[0]["total_bytes"] == len(audio)
    assert len(audio) / 2 / RATE_HZ > 200


def test_an_unknown_voice_is_told_with_its_field(front: Server) -> None:
    with talking(front, voice="nobody") as talk:
        (event,), _ = talk.until("error")
        assert event["error"]["param"] == "voice"
        assert talk.close_code() == 1008


def test_a_worker_that_dies_is_told_and_the_next_one_serves(home: Path) -> None:
    with door(home) as (gateway, speech):
        with talking(gateway) as talk:
            talk.say("input.text", text=SENTENCE * 2)
            talk.until("audio.start")
            speech.worker("speech").kill()
            events, _ = talk.until("error")
            assert events[-1]["error"]["type"] == "server_error"
            assert talk.close_code() == 1011
        eventually(lambda: gateway.status() == "ready", 90, "the gateway is ready again")
        with talking(gateway) as talk:
            talk.say("input.text", text="Still here.")
            talk.say("input.done")
            talk.until("session.done")


def test_at_the_end_an_utterance_is_finished(home: Path) -> None:
    with Server(home, "services.speech.service:Speech") as speech, talking(speech) as talk:
        talk.say("input.text", text=SENTENCE * 2)
        talk.until("audio.start")
        speech.worker("speech").terminate()
        talk.say("input.done")
        talk.until("session.done")
        assert talk.close_code() == 1012
