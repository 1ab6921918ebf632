"""CosyVoice as a speech engine: upstream's modules, shared by requests that own their state."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn

from services.audio.pcm import Samples
from services.errors import (
    EngineError,
    InvalidRequestError,
    NotFoundError,
    ServiceError,
    UnavailableError,
    shown,
)
from services.speech.engines.cosyvoice import download, upstream_code
from services.speech.engines.cosyvoice.split import segments_in_tokens
from services.speech.engines.cosyvoice.text import (
    is_sayable,
    language_of,
    lexicon_in,
    normalise,
    refuse_control_tokens,
)
from services.speech.engines.protocol import (
    Capability,
    ConversionRequest,
    SynthesisRequest,
    Voice,
    VoiceReference,
    murmur,
)
from services.tasks import in_daemon

if TYPE_CHECKING:
    from services.speech.engines.cosyvoice.prompt import Prompt
    from services.speech.engines.cosyvoice.stages import Stages
    from services.speech.engines.cosyvoice.utterance import Utterance

log = logging.getLogger("bentovox.speech")

_AT_ONCE: Final = 3  # that say it when everything is warm, to see what that takes
_WARM_UP: Final = "Hello there, this is the first sentence after the start."


class CosyVoiceEngine:
    """Speaks, clones and converts with one CosyVoice model; see `SpeechEngine` for the promises.

    A process holds one model: upstream keeps a mel filter bank for all of them.
    """

    name = "cosyvoice"
    capabilities = frozenset(Capability)
    lack = ""
    loading = False

    def __init__(
        self,
        *,
        model: str,
        revision: str = "",
        cache: str = "",
        llm: str = download.LLM,
        lexicon: str = "",
        code: str = "",
        device: Literal["auto", "cpu", "cuda"] = "auto",
        fp16: bool = False,
        tensorrt: bool = False,
    ) -> None:
        """Check that it can work; nothing heavy is imported or loaded before `start`.

        Raises:
            ConfigurationError: upstream's code is not there, the model directory lacks a file, or
                the file `lexicon` is none.
        """
        code_root = Path(code).expanduser() if code else None
        upstream_code.find(code_root)
        self._lexicon = lexicon_in(Path(lexicon).expanduser()) if lexicon else None
        also = (llm, *(["flow.decoder.estimator.fp32.onnx"] if tensorrt else []))
        download.named(model, also)
        folder = Path(cache).expanduser() if cache else None
        self._locate = partial(download.locate, model, revision=revision, cache=folder, also=also)
        self._how: dict[str, Any] = {"code_root": code_root, "device": device, "llm": llm}
        self._how |= {"fp16": fp16, "tensorrt": tensorrt}
        self.models = (model, Path(model).name) if Path(model).name != model else (model,)
        self.sample_rate_hz = 24_000
        self._stages: Stages | None = None
        self._held: int | None = None

    @property
    def ready(self) -> bool:
        """Whether the model is loaded."""
        return self._stages is not None

    @property
    def streams(self) -> int | None:
        """How many it makes without a gap, at least one; while it is unloaded, as before."""
        return self._stages.streams if self._stages else self._held

    async def start(self) -> None:
        """Download what is missing, load it and speak a sentence; the log tells how far it is.

        Raises:
            ConfigurationError: there is no such model, or it does not fit.
        """
        self._stages = stages = await in_daemon(self._load)
        self.sample_rate_hz = stages.checkpoint.sample_rate_hz
        request = SynthesisRequest(_WARM_UP, None, reference=murmur(self.sample_rate_hz))

        async def speak() -> int:
            return len([frame.size async for frame in self.synthesise(request)])

        began = time.monotonic()
        made = await speak()  # the first request is to find every kernel ready
        log.info("warmed up in %.1f s, %d frames", time.monotonic() - began, made)
        stages.forget()
        await asyncio.gather(*(speak() for _ in range(_AT_ONCE)))
        stages.measure()
        log.info("streams at once without a gap, about: %d", stages.streams)

    async def close(self) -> None:
        """Stop all work and free the model."""
        stages, self._stages = self._stages, None
        if stages is None:
            return
        self._held = stages.streams
        await asyncio.to_thread(stages.close)
        if stages.checkpoint.device.type == "cuda":
            import torch  # noqa: PLC0415  heavy

            del stages
            gc.collect()
            torch.cuda.empty_cache()

    def voices(self) -> tuple[Voice, ...]:
        """Return none: these models speak like a recording only."""
        return ()

    def voice(self, voice_id: str) -> NoReturn:
        """Find none.

        Raises:
            NotFoundError: always (`voice_not_found`).
        """
        raise NotFoundError(
            f"voice {shown(voice_id)} does not exist: POST /v1/audio/voices adds one",
            param="voice",
            code="voice_not_found",
        )

    def check(self, request: SynthesisRequest) -> None:
        """Raise unless this can be said; see `SpeechEngine.check`."""
        family = self._loaded().checkpoint.family
        if request.reference is None:
            self.voice(request.voice or "")
        if request.language is not None:
            language_of(request.language, family)
        if request.instructions:
            refuse_control_tokens(request.instructions, "instructions")
        if request.reference.text:
            refuse_control_tokens(request.reference.text, "ref_text")
        if isinstance(request.text, str):
            refuse_control_tokens(request.text, "input")
            if not is_sayable(request.text):
                raise InvalidRequestError(
                    "input holds nothing to say: a letter or a digit is expected",
                    param="input",
                    code="blank_input",
                )

    async def prepare(self, reference: VoiceReference) -> None:
        """Compute the features of a recording; see `SpeechEngine.prepare`."""
        from services.speech.engines.cosyvoice import prompt  # noqa: PLC0415  imports torch

        await asyncio.to_thread(prompt.features_of, self._loaded().checkpoint, reference)

    def forget(self, voice_id: str) -> None:
        """Do nothing: features are in the voice's folder only."""

    async def synthesise(self, request: SynthesisRequest) -> AsyncGenerator[Samples, None]:
        """Yield audio in chunks that grow, or segment by segment; see `SpeechEngine`."""
        self.check(request)
        checkpoint = self._loaded().checkpoint
        tag = None if request.language is None else language_of(request.language, checkpoint.family)
        from services.speech.engines.cosyvoice import prompt  # noqa: PLC0415  imports torch

        given = await asyncio.to_thread(prompt.prompt_of, checkpoint, request, tag)
        segments = segments_in_tokens(
            # With no words before them, segments carry the family's mark themselves.
            checkpoint,
            request.text,
            tag,
            marked=not given.text,
            lexicon=self._lexicon,
        )
        async with aclosing(self._made(given, request, segments)) as frames:
            async for frame in frames:
                yield frame

    async def convert(self, request: ConversionRequest) -> AsyncGenerator[Samples, None]:
        """Yield the recording in the other voice; see `SpeechEngine.convert`."""
        from services.speech.engines.cosyvoice import prompt  # noqa: PLC0415  imports torch

        checkpoint = self._loaded().checkpoint
        given, said = await asyncio.to_thread(prompt.conversion_of, checkpoint, request)
        async with aclosing(self._made(given, request, said)) as frames:
            async for frame in frames:
                yield frame

    async def _made(
        self,
        prompt: Prompt,
        request: SynthesisRequest | ConversionRequest,
        said: AsyncGenerator[list[int], None] | list[int],
    ) -> AsyncGenerator[Samples, None]:
        """Yield the audio of segments of text, in tokens, or of speech tokens."""
        from services.speech.engines.cosyvoice.utterance import Utterance  # noqa: PLC0415  torch

        stages = self._loaded()
        utterance = Utterance(stages.checkpoint, prompt, request)
        feeding = None
        if isinstance(said, list):
            utterance.convert(said)
        else:
            feeding = asyncio.create_task(_feed(stages, utterance, said))
        stages.begin(utterance)
        try:
            async with aclosing(utterance.handover.items()) as frames:
                async for frame in frames:
                    with stages.change():
                        utterance.heard(frame)
                    yield frame
            self._loaded()  # what `close` cut short is not a whole answer
        except ServiceError:
            raise
        except Exception as error:
            self._look_at(error)
            raise EngineError("CosyVoice failed", code="engine_failed") from error
        finally:
            stages.end(utterance)
            if feeding is not None:
                feeding.cancel()
                await asyncio.gather(feeding, return_exceptions=True)

    def _loaded(self) -> Stages:
        if self._stages is None:
            raise UnavailableError("the cosyvoice engine is not running", retry_after_s=1.0)
        return self._stages

    def _load(self) -> Stages:
        began = time.monotonic()
        directory = self._locate()
        log.info("loading %s", directory)
        from services.speech.engines.cosyvoice import checkpoint, stages  # noqa: PLC0415  torch

        loaded = checkpoint.load(directory, **self._how)
        for language in ("zh", "en"):
            normalise("1", language)  # loads the rules
        took_s = time.monotonic() - began
        log.info("loaded CosyVoice family %d on %s in %.0f s", loaded.family, loaded.device, took_s)
        return stages.Stages(loaded)

    def _look_at(self, error: BaseException) -> None:
        """End the process, to be restarted, after an error that a GPU does not recover from."""
        import torch  # noqa: PLC0415  heavy

        log.error("synthesis failed", exc_info=error)
        if isinstance(error, torch.AcceleratorError):
            self._stages = None
            log.critical("the GPU's state is lost; this process ends and is started again")
            os.kill(os.getpid(), signal.SIGTERM)


async def _feed(
    stages: Stages, utterance: Utterance, said: AsyncGenerator[list[int], None]
) -> None:
    """Give an utterance its text as it comes; an error there ends it."""
    try:
        async with aclosing(said):
            async for tokens in said:
                if tokens:
                    with stages.change():
                        utterance.texts.append(tokens)
        with stages.change():
            utterance.is_written = True
    except Exception as error:  # noqa: BLE001  it is raised where the frames are taken
        stages.end(utterance, error)
