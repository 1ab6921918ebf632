"""audio/speech/stream: text in while a language model writes it, audio out at the same time.

A WebSocket with vLLM-Omni's messages (`vllm_omni/entrypoints/openai/serving_speech_stream.py`), so
that clients of either work with the other. The client sends

    {"type": "session.config", "voice": ..., ...}   first, and again between utterances
    {"type": "input.text", "text": ...}             any number of times
    {"type": "input.done"}                          ends the utterance
    {"type": "input.cancel"}                        cancels the text sent before it
    {"type": "session.close"}                       ends the connection, as hanging up does

and gets for each utterance

    {"type": "audio.start", "utterance_index", "sentence_index", "sentence_text", "format", ...}
    binary messages, or a single one if `stream_audio` is false
    {"type": "audio.done", "utterance_index", "sentence_index", "total_bytes", "error"}
    {"type": "session.done", "utterance_index", "total_sentences"}

`input.cancel`, which vLLM-Omni does not have, stops the sound at once: audio.done, if one is due,
and session.done have `cancelled` true. Waiting text is dropped, and the next message may begin
another utterance. Between utterances it has no effect.

With `split_granularity` none there is one start and one done, and the engine gets each piece of
text at once; `sentence_text` is then the text that came before the first sound. With sentence or
clause, each unit has its own start and done.

A slot is held from an utterance's first text to its last sound, not between utterances. A client
that gets no slot gets an error and close code 1013. A client's mistake is an error event, and the
connection goes on; it ends if there was no valid session.config yet, or if the engine failed
(`services.server.websocket` has the close codes; 3008 means that nothing came for too long).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Final

from starlette.types import Receive, Scope, Send

from services.audio.encode import Encoder, encode, output_rate_hz
from services.audio.formats import OnAudioSeconds
from services.audio.pcm import Samples, duration_s
from services.errors import EngineError, InvalidRequestError, OverloadedError, ServiceError
from services.openai.body import ClientGoneError
from services.openai.errors import kind_of
from services.openai.models import Models
from services.openai.speech import SessionConfig
from services.server.live import LiveSession
from services.speech.engines.protocol import SynthesisRequest
from services.speech.engines.segments import Segmenter, segments_as_written
from services.speech.socket_text import CancellableInbox, Signal, Writing, parse_message
from services.speech.speakers import Speakers
from services.tasks import racing

log = logging.getLogger("bentovox.speech")

IDLE_S: Final = 300.0
"""How long a client may send nothing between utterances; it holds no slot then."""

WHOLE_BYTES: Final = 16 << 20
"""The largest answer in one message, if `stream_audio` is false."""

_BARE: Final = ("pcm", "ulaw", "alaw")  # formats without a header for the rate
_SERVER_FAULT: Final = 500
_ANY_TEXT: Final = "a"  # with which the rest of a request is checked before its text is there


@dataclass(frozen=True)
class SpeechSocket:
    """The application of the WebSocket, for `RoleApp.sockets`."""

    speakers: Speakers  # and the engine, which the caller starts and closes
    models: Models
    on_audio_seconds: OnAudioSeconds  # called once for each synthesis that made audio

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection to its end."""
        self.speakers.demand_ready()
        await send({"type": "websocket.accept"})
        await _Session(self, scope, send).serve(receive)


class _Session(LiveSession):
    """One connection: its configuration and its utterances, one after another."""

    inbox: CancellableInbox

    def __init__(self, socket: SpeechSocket, scope: Scope, send: Send) -> None:
        super().__init__(scope, send, CancellableInbox())
        self._socket = socket
        self._config: SessionConfig | None = None
        # The request that `_config` makes, without the text; set with it.
        self._template = SynthesisRequest(text="", voice=None)
        self._utterance = 0
        self._sentence = 0
        self._unit: _Unit | None = None

    async def run(self) -> None:
        cut_off = False  # by an `input.cancel`, up to which text is dropped
        while (message := await self._next()) not in (None, Signal.CLOSE):
            if message is Signal.DONE and not cut_off:
                await self._end_utterance()
            elif isinstance(message, str) and message and not cut_off:
                # In this order, as the second may take the message that the first waits for.
                async with racing(self.inbox.cancelled.wait(), self._speak(message)) as (_, said):
                    cut_off = not said.done()
                    if not cut_off and said.result():
                        return
                if not cut_off:
                    await self._end_utterance()
                elif self._unit is not None:
                    await self._unit.cancelled()
            if cut_off and not self.inbox.cancelled.is_set():
                await self._end_utterance(cancelled=True)
                cut_off = False

    async def _end_utterance(self, **more: bool) -> None:
        place = {"utterance_index": self._utterance, "total_sentences": self._sentence}
        await self.send(_event("session.done", **place, **more))
        self._utterance += 1
        self._sentence = 0
        self._unit = None  # it and the session hold each other

    async def _next(self) -> str | Signal | None:
        """Return the next text or signal, None when the server ends; apply configurations.

        The first must be one. Later mistakes are told, and leave the one before in force.
        """
        while True:
            if (message := await self.next_message(IDLE_S)) is None:
                return None
            try:
                parsed = parse_message(message, recordings=self._socket.speakers.clones)
                if isinstance(parsed, SessionConfig):
                    if parsed.model is not None:
                        self._socket.models.check(parsed.model)
                    self._template = await self._socket.speakers.request(parsed, _ANY_TEXT)
                    self._config = parsed
                elif self._config is not None:
                    return parsed
                else:
                    raise InvalidRequestError(
                        "the first message must be session.config",
                        param="type",
                        code="session_not_configured",
                    )
            except ServiceError as error:
                if self._config is None:
                    raise
                await self.tell(error)

    async def _speak(self, first: str) -> bool:
        """Speak what the client writes, until it is done; return whether it is closing."""
        assert self._config is not None  # noqa: S101  `_next` has checked
        config = self._config
        writing = Writing(first, self.inbox, self.tell)
        try:
            if config.ref_audio is None:  # the voice may have been deleted meanwhile
                self._template = await self._socket.speakers.request(config, _ANY_TEXT)
            async with self.slot():
                if config.split_granularity == "none":
                    await self._synthesise(writing, writing, config)
                else:
                    await self._synthesise_apart(writing, config)
        except ServiceError as error:
            if isinstance(error, OverloadedError) or kind_of(error).status >= _SERVER_FAULT:
                raise
            await self.tell(error)
            await writing.skip()
        if writing.fault is not None:
            raise writing.fault
        return writing.closing

    async def _synthesise_apart(self, writing: Writing, config: SessionConfig) -> None:
        """Speak each sentence or clause by itself."""
        segmenter = Segmenter(clauses=config.split_granularity == "clause")
        async with aclosing(segments_as_written(writing, segmenter)) as units:
            async for text in units:
                if writing.closing:
                    break
                await self._synthesise(text, writing, config)

    async def _synthesise(
        self, text: str | Writing, writing: Writing, config: SessionConfig
    ) -> None:
        """Speak one unit, sending every frame as it is made, until the client closes."""
        place = {"utterance_index": self._utterance, "sentence_index": self._sentence}
        engine = self._socket.speakers.engine
        unit = self._unit = _Unit(self.send, config, engine.sample_rate_hz, place)
        try:
            request = replace(self._template, text=text)
            async with aclosing(engine.synthesise(request)) as frames:
                async for frame in frames:
                    if writing.closing:
                        break
                    await unit.feed(frame, text if isinstance(text, str) else text.text)
            await unit.end()
        except ClientGoneError:
            raise
        except Exception as error:
            if unit.made:  # vLLM-Omni's fields tell clients to discard the partial audio
                await unit.done(error=True, partial_audio=True, action="discard")
            elif isinstance(error, InvalidRequestError) and error.code == "blank_input":
                return  # nothing to say is not an error here
            if isinstance(error, ServiceError):
                raise
            log.exception("speech broke off after %d samples", unit.made)
            raise EngineError(f"the {engine.name} engine failed", code="engine_failed") from error
        finally:
            if unit.made:
                seconds = duration_s(unit.made, engine.sample_rate_hz)
                self._socket.on_audio_seconds(seconds, config.response_format)
        self._sentence += unit.made > 0


@dataclass
class _Unit:
    """One synthesis on its way to the client: audio.start, its bytes, audio.done."""

    send: Callable[[str | bytes], Awaitable[None]]
    config: SessionConfig
    sample_rate_hz: int
    place: dict[str, int]
    made: int = 0  # samples so far
    _open: bool = False  # audio.start was sent, and audio.done was not
    _bytes: int = 0
    _held: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._encoder = Encoder(
            self.config.response_format,
            self.sample_rate_hz,
            to_hz=self.config.sample_rate,
            whole_bytes=0 if self.config.stream_audio else WHOLE_BYTES,
        )

    async def feed(self, samples: Samples, text: str) -> None:
        """Send samples; the first ones begin the audio of `text`."""
        if not self.made:
            audio_format = self.config.response_format
            rate_hz = output_rate_hz(audio_format, self.config.sample_rate)
            rate = {"sample_rate": rate_hz} if audio_format in _BARE else {}
            start = {"sentence_text": text, "format": audio_format, **rate}
            await self.send(_event("audio.start", **self.place, **start))
            self._open = True
        self.made += samples.size
        await encode(samples, self.sample_rate_hz, self._encoder, self._audio)

    async def end(self) -> None:
        """Send the rest, if there was any audio."""
        if self.made:
            await self._audio(self._encoder.finish())
            if self._held:
                await self.send(b"".join(self._held))
            await self.done(error=False)

    async def cancelled(self) -> None:
        """Tell the client that it was cancelled, if audio.start was sent."""
        if self._open:
            self._bytes *= self.config.stream_audio  # buffered audio is not sent
            await self.done(error=False, cancelled=True)

    async def _audio(self, data: bytes) -> None:
        if not data:
            return
        self._bytes += len(data)
        if self.config.stream_audio:
            await self.send(data)
        elif self._bytes > WHOLE_BYTES:
            raise InvalidRequestError(
                f"the audio is over {WHOLE_BYTES} bytes, too much for one message; set "
                "stream_audio to true, or choose a compressed response_format",
                param="stream_audio",
                code="audio_too_long",
            )
        else:
            self._held.append(data)

    async def done(self, **fields: object) -> None:
        self._open = False
        await self.send(_event("audio.done", **self.place, total_bytes=self._bytes, **fields))


def _event(kind: str, **fields: object) -> str:
    return json.dumps({"type": kind, **fields})
