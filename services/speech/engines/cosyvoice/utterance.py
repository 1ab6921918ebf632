"""One request on its way through the model: text to speech tokens to audio, in two threads.

Upstream's own loop polls ten times a second, hangs for ever when its token thread fails, keeps the
grown chunk length for the next request, and leaks dictionaries when a stream is abandoned. This one
wakes at each token, passes errors on at once, and owns all of its state: the threads end as soon as
the request is stopped, and nothing is left of it.

The token thread runs at most one segment ahead, so that segments follow each other without a gap;
the audio thread makes chunks that grow, so that the first one comes early.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import torch

from services.audio.stretch import TimeStretch
from services.speech.engines.cosyvoice.checkpoint import CancelledError, cancellable
from services.speech.engines.cosyvoice.chunks import chunks, length
from services.speech.engines.cosyvoice.randomness import Sampler, drawing_from, seeded

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

    from services.audio.pcm import Samples
    from services.speech.engines.cosyvoice.checkpoint import Checkpoint
    from services.speech.engines.cosyvoice.modes import Prompt
    from services.speech.engines.protocol import ConversionRequest, SynthesisRequest

_SILENT_IN_A_ROW: Final = 5  # upstream's


@dataclass
class _Segment:
    """Speech tokens as they come."""

    tokens: list[int] = field(default_factory=list)
    complete: bool = False


class Utterance:
    """Makes the audio of one request.

    `on_frame` is called in the audio thread with each piece of audio, float32 [N]; it may block,
    and returns False to stop. `on_end` is called once, last, with the error that ended it or None.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        prompt: Prompt,
        request: SynthesisRequest | ConversionRequest,
        on_frame: Callable[[Samples], bool],
        on_end: Callable[[BaseException | None], None],
    ) -> None:
        self._checkpoint = checkpoint
        self._prompt = prompt
        self._request = request
        self._generator = seeded(request.seed, checkpoint.device)
        self._noise = _spawned(self._generator)
        self._on_frame = on_frame
        self._on_end = on_end
        self._changed = threading.Condition()
        self._texts: deque[list[int]] = deque()
        self._text_complete = False
        self._segments: deque[_Segment] = deque()
        self._segments_complete = False
        self._stopped = False
        self._error: BaseException | None = None

    def start(self, tokens: list[int] | None) -> None:
        """Start making audio of speech tokens, or of the text that `feed` is given."""
        work = {"audio": self._sound}
        if tokens is None:
            work["tokens"] = self._talk
        else:
            self._segments.append(_Segment(tokens, complete=True))
            self._segments_complete = True
        for name, target in work.items():
            threading.Thread(target=target, name=f"cosyvoice-{name}", daemon=True).start()

    async def feed(self, segments: AsyncGenerator[list[int], None]) -> None:
        """Take segments of text, as tokens, as they come; an error there ends the utterance."""
        try:
            async with aclosing(segments):
                async for tokens in segments:
                    with self._changed:
                        self._texts.append(tokens)
                        self._changed.notify_all()
            with self._changed:
                self._text_complete = True
                self._changed.notify_all()
        except Exception as error:  # noqa: BLE001  it is raised where the frames are taken
            self.fail(error)

    def stop(self) -> None:
        """Stop both threads: at the next token, the next step of the flow, or while they wait."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Stop with an error, the first of which counts."""
        with self._changed:
            self._error = self._error or error
            self._stopped = True
            self._changed.notify_all()

    def _wait_for(self, happened: Callable[[], bool]) -> None:
        """Wait, with `_changed` held.

        Raises:
            CancelledError: the request was stopped.
        """
        self._changed.wait_for(lambda: self._stopped or happened())
        if self._stopped:
            raise CancelledError

    # The token thread.

    def _talk(self) -> None:
        try:
            with _gpu_stream(self._checkpoint.device):
                sampler = Sampler(self._checkpoint.lm, self._generator)
                lm = self._checkpoint.session_lm(sampler)
                while (text := self._next_text()) is not None:
                    if text:
                        self._say(lm, text)
            with self._changed:
                self._segments_complete = True
                self._changed.notify_all()
        except CancelledError:
            pass
        except BaseException as error:  # noqa: BLE001  carried over to the request's task
            self.fail(error)

    def _next_text(self) -> list[int] | None:
        """Return the next segment's text, once the last segment but one was taken."""
        with self._changed:
            self._wait_for(lambda: bool(self._texts) or self._text_complete)
            self._wait_for(lambda: len(self._segments) < 2)  # noqa: PLR2004  one ahead
            return self._texts.popleft() if self._texts else None

    def _say(self, lm: Any, text: list[int]) -> None:
        segment = _Segment()
        with self._changed:
            self._segments.append(segment)
            self._changed.notify_all()
        for token in self._sounding(self._tokens(lm, text)):
            with self._changed:
                if self._stopped:
                    raise CancelledError
                segment.tokens.append(token)
                self._changed.notify_all()
        with self._changed:
            segment.complete = True
            self._changed.notify_all()

    def _tokens(self, lm: Any, text: list[int]) -> Iterator[int]:
        prompt, device = self._prompt, self._checkpoint.device
        half = self._checkpoint.accelerated.fp16 and not hasattr(lm, "vllm")
        with torch.autocast(device.type, enabled=half):
            yield from lm.inference(
                text=torch.tensor([text], dtype=torch.int32, device=device),
                text_len=length(len(text), device),
                prompt_text=prompt.text.to(device),
                prompt_text_len=length(prompt.text.shape[1], device),
                prompt_speech_token=prompt.lm_speech.to(device),
                prompt_speech_token_len=length(prompt.lm_speech.shape[1], device),
                embedding=prompt.lm_embedding.to(device),
                uuid=f"{id(self)}",
            )

    def _sounding(self, tokens: Iterator[int]) -> Iterator[int]:
        """Leave out all but five silent tokens in a row (family 3)."""
        silent = frozenset(getattr(self._checkpoint.vocoder, "silent_tokens", ()))
        in_a_row = 0
        for token in tokens:
            in_a_row = in_a_row + 1 if token in silent else 0
            if in_a_row <= _SILENT_IN_A_ROW:
                yield int(token)

    # The audio thread.

    def _sound(self) -> None:
        # In one pass upstream changes the speed itself.
        speed = 1.0 if self._request.one_pass else self._request.speed
        stretch = TimeStretch(self._checkpoint.sample_rate_hz, speed)
        try:
            with cancellable(lambda: self._stopped), drawing_from(self._noise):
                while (segment := self._next_segment()) is not None:
                    for frame in self._audio_of(segment):
                        self._hand_over(stretch.feed(frame))
                    with self._changed:
                        self._segments.popleft()
                        self._changed.notify_all()
            self._hand_over(stretch.finish())
        except CancelledError:
            pass
        except BaseException as error:  # noqa: BLE001  carried over to the request's task
            self.fail(error)
        finally:
            self.stop()
            self._on_end(self._error)

    def _hand_over(self, frame: Samples) -> None:
        if frame.size and not self._on_frame(frame):
            raise CancelledError

    def _next_segment(self) -> _Segment | None:
        with self._changed:
            self._wait_for(lambda: bool(self._segments) or self._segments_complete)
            return self._segments[0] if self._segments else None

    def _audio_of(self, segment: _Segment) -> Iterator[Samples]:
        made = chunks(self._checkpoint, self._prompt, self._noise)
        if self._request.one_pass:
            with self._changed:
                self._wait_for(lambda: segment.complete)
            if segment.tokens:
                yield made.rest(segment.tokens, self._request.speed)
            return
        while self._more_than(segment, made.needed):
            yield made.next(segment.tokens)
        if segment.tokens:
            yield made.rest(segment.tokens)

    def _more_than(self, segment: _Segment, count: int) -> bool:
        """Wait until there are `count` tokens, or all; return whether there are as many."""
        with self._changed:
            self._wait_for(lambda: segment.complete or len(segment.tokens) >= count)
            return len(segment.tokens) >= count


def _spawned(generator: torch.Generator) -> torch.Generator:
    """Return a second generator, for the other thread: two threads would race for one."""
    child = torch.Generator(generator.device)
    child.manual_seed(generator.initial_seed() ^ 0x5EED)
    return child


def _gpu_stream(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Let a GPU make tokens and audio at the same time, as upstream does."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    stream: contextlib.AbstractContextManager[object] = torch.cuda.stream(torch.cuda.Stream(device))
    return stream
