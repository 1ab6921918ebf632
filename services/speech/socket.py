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
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
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
from services.speech.engines.segments import Segmenter
from services.speech.socket_text import (
    CancellableInbox,
    ClientMessage,
    Signal,
    Writing,
    parse_message,
)
from services.speech.speakers import Speakers
from services.tasks import racing

log = logging.getLogger("bentovox.speech")

CONFIG_S: Final = 10.0
"""How long to wait for the first session.config."""

IDLE_S: Final = 300.0
"""How long a client may send nothing between utterances; it holds no slot then."""

WHOLE_BYTES: Final = 16 << 20
"""The largest answer in one message, if `stream_audio` is false."""

_BARE: Final = ("pcm", "ulaw", "alaw")  # formats without a header for the rate
_SERVER_FAULT: Final = 500
_ANY_TEXT: Final = "a"  # with which the rest of a request is checked before its text is there


@dataclass(frozen=True)
class SpeechSocket:
    """The application of the WebSocket, for `RoleApp.sockets`.

    Attributes:
        speakers: the voices, and the engine, which the caller starts and closes.
        models: the model names to accept.
        on_audio_seconds: called once for each synthesis, with its duration in seconds and its
            format.
    """

    speakers: Speakers
    models: Models
    on_audio_seconds: OnAudioSeconds

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
        self._speakers = socket.speakers
        self._engine = socket.speakers.engine
        self._models = socket.models
        self._on_audio_seconds = socket.on_audio_seconds
        self._config: SessionConfig | None = None
        # The request that `_config` makes, without the text; set with it.
        self._template = SynthesisRequest(text="", voice=None)
        self._utterance = 0
        self._sentence = 0
        self._unit: _Unit | None = None

    async def run(self) -> None:
        """Serve utterances until the client or the server ends the session."""
        cut_off = False  # by an `input.cancel`, up to which text is dropped
        while (message := await self._next()) not in (None, Signal.CLOSE):
            if isinstance(message, SessionConfig):
                await self._configure(message)
            elif message is Signal.DONE and not cut_off:
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

    async def _next(self) -> ClientMessage | None:
        """Return the next valid message, the first a session.config; None when the server ends."""
        configured = self._config is not None
        waiting = (IDLE_S,) if configured else (CONFIG_S, "session.config")
        while (message := await self.next_message(*waiting)) is not None:
            try:
                parsed = parse_message(message, recordings=self._speakers.clones)
            except InvalidRequestError as error:
                if not configured:
                    raise
                await self.tell(error)
                continue
            if not configured and not isinstance(parsed, SessionConfig):
                raise InvalidRequestError(
                    "the first message must be session.config",
                    param="type",
                    code="session_not_configured",
                )
            return parsed
        return None

    async def _configure(self, config: SessionConfig) -> None:
        try:
            if config.model is not None:
                self._models.check(config.model)
            template = await self._speakers.request(config, _ANY_TEXT)
        except ServiceError as error:
            if self._config is None:
                raise
            await self.tell(error)
            return
        self._config, self._template = config, template

    async def _speak(self, first: str) -> bool:
        """Speak what the client writes, until it is done; return whether it is closing."""
        assert self._config is not None  # noqa: S101  `_next` has checked
        config = self._config
        writing = Writing(first, self.inbox, self.tell)
        try:
            if config.ref_audio is None:  # the voice may have been deleted meanwhile
                self._template = await self._speakers.request(config, _ANY_TEXT)
            async with self.slot(), aclosing(_units(writing, config)) as units:
                async for text in units:
                    await self._synthesise(text, writing, config)
        except ServiceError as error:
            if isinstance(error, OverloadedError) or kind_of(error).status >= _SERVER_FAULT:
                raise
            await self.tell(error)
            await writing.skip()
        if writing.fault is not None:
            raise writing.fault
        return writing.closing

    async def _synthesise(
        self, text: str | Writing, writing: Writing, config: SessionConfig
    ) -> None:
        """Speak one unit, sending every frame as it is made, until the client closes."""
        place = {"utterance_index": self._utterance, "sentence_index": self._sentence}
        unit = self._unit = _Unit(self.send, config, self._engine.sample_rate_hz, place)
        try:
            async with aclosing(
                self._engine.synthesise(replace(self._template, text=text))
            ) as said:
                async for frame in said:
                    if writing.closing:
                        break
                    await unit.feed(frame, text if isinstance(text, str) else text.text)
            await unit.end()
        except ClientGoneError:
            raise
        except Exception as error:
            if unit.made:
                await unit.broke_off()
            elif isinstance(error, InvalidRequestError) and error.code == "blank_input":
                return  # nothing to say is not an error here
            if isinstance(error, ServiceError):
                raise
            log.exception("speech broke off after %d samples", unit.made)
            raise EngineError(
                f"the {self._engine.name} engine failed", code="engine_failed"
            ) from error
        finally:
            if unit.made:
                seconds = duration_s(unit.made, self._engine.sample_rate_hz)
                self._on_audio_seconds(seconds, config.response_format)
        self._sentence += unit.made > 0


async def _units(writing: Writing, config: SessionConfig) -> AsyncGenerator[str | Writing, None]:
    """Yield what is synthesised apart: the text as it is written, or each sentence or clause."""
    if config.split_granularity == "none":
        yield writing
        return
    segmenter = Segmenter(clauses=config.split_granularity == "clause")
    async for piece in writing:
        for unit in segmenter.feed(piece):
            yield unit
    if not writing.closing:
        for unit in segmenter.finish():
            yield unit


class _Unit:
    """One synthesis on its way to the client: audio.start, its bytes, audio.done.

    Attributes:
        made: samples so far.
    """

    def __init__(
        self,
        send: Callable[[str | bytes], Awaitable[None]],
        config: SessionConfig,
        sample_rate_hz: int,
        place: dict[str, int],
    ) -> None:
        self.made = 0
        self._send = send
        self._config = config
        self._rate_hz = sample_rate_hz
        self._place = place
        self._encoder = Encoder(
            config.response_format,
            sample_rate_hz,
            to_hz=config.sample_rate,
            whole_bytes=0 if config.stream_audio else WHOLE_BYTES,
        )
        self._open = False  # audio.start was sent, and audio.done was not
        self._bytes = 0
        self._held: list[bytes] = []

    async def feed(self, samples: Samples, text: str) -> None:
        """Send samples; the first ones begin the audio of `text`."""
        if not self.made:
            audio_format = self._config.response_format
            rate_hz = output_rate_hz(audio_format, self._config.sample_rate)
            rate = {"sample_rate": rate_hz} if audio_format in _BARE else {}
            start = {"sentence_text": text, "format": audio_format, **rate}
            await self._send(_event("audio.start", **self._place, **start))
            self._open = True
        self.made += samples.size
        await encode(samples, self._rate_hz, self._encoder, self._audio)

    async def end(self) -> None:
        """Send the rest, if there was any audio."""
        if self.made:
            await self._audio(self._encoder.finish())
            if self._held:
                await self._send(b"".join(self._held))
            await self._done(error=False)

    async def broke_off(self) -> None:
        # These fields are vLLM-Omni's: they tell clients to discard the partial audio.
        await self._done(error=True, partial_audio=True, action="discard")

    async def cancelled(self) -> None:
        """Tell the client that it was cancelled, if audio.start was sent."""
        if self._open:
            self._bytes *= self._config.stream_audio  # buffered audio is not sent
            await self._done(error=False, cancelled=True)

    async def _audio(self, data: bytes) -> None:
        if not data:
            return
        self._bytes += len(data)
        if self._config.stream_audio:
            await self._send(data)
        elif self._bytes > WHOLE_BYTES:
            raise InvalidRequestError(
                f"the audio is over {WHOLE_BYTES} bytes, too much for one message; set "
                "stream_audio to true, or choose a compressed response_format",
                param="stream_audio",
                code="audio_too_long",
            )
        else:
            self._held.append(data)

    async def _done(self, **fields: object) -> None:
        self._open = False
        await self._send(_event("audio.done", **self._place, total_bytes=self._bytes, **fields))


def _event(kind: str, **fields: object) -> str:
    return json.dumps({"type": kind, **fields})
