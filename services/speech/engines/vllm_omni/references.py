"""Recordings to speak like, in the two ways that vLLM-Omni takes them.

With each request as a data URL, from which the server computes the voice's features every time;
or uploaded once and called by a name, whose features it keeps. Registered voices go the second way
where the server allows it, everything else the first.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import logging
import wave
from collections import OrderedDict
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from services.audio.pcm import to_bytes
from services.audio.resample import Resampler
from services.errors import InvalidRequestError, ServiceError, UnavailableError
from services.speech.engines.vllm_omni.client import SAMPLE_RATE_HZ, unmarked

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from services.audio.pcm import Samples
    from services.speech.engines.protocol import VoiceReference
    from services.speech.engines.vllm_omni.client import OmniClient

log = logging.getLogger("bentovox.speech.vllm_omni")

SHORTEST_S: Final = 1.0
LONGEST_S: Final = 30.0
_LOWEST_RATE_HZ: Final = 16_000
_KEPT: Final = 64  # data URLs of registered voices, at most 2 MB each


@dataclass(frozen=True)
class Recording:
    """A recording as it is sent: 16-bit mono WAV, at most 24 kHz, and what is said in it."""

    wav: bytes
    text: str

    def inline(self) -> dict[str, str]:
        """Return the fields of a request that carries it."""
        url = f"data:audio/wav;base64,{base64.b64encode(self.wav).decode()}"
        return {"ref_audio": url, "ref_text": self.text}


class References:
    """What is known of the recordings in use; see `speak`."""

    def __init__(self, *, upload: bool) -> None:
        """Upload registered voices, or send every recording with each request."""
        self._upload = upload
        self._recordings: OrderedDict[str, Recording] = OrderedDict()
        self._uploads: dict[str, asyncio.Task[bool]] = {}
        self._unwanted: set[str] = set()

    async def speak(
        self, client: OmniClient, text: str, reference: VoiceReference
    ) -> AsyncGenerator[Samples, None]:
        """Yield `text` in the voice of `reference`; errors are those of `OmniClient.speech`.

        A server that does not know an uploaded voice any more gets the recording itself.
        """
        fields = await self._named(client, reference)
        if fields is not None:
            begun = False
            try:
                async with aclosing(client.speech(text, fields)) as frames:
                    async for frame in frames:
                        begun = True
                        yield frame
            except InvalidRequestError:
                if begun:
                    raise
                self._uploads.pop(reference.id or "", None)
            else:
                return
        recording = await self._recording(reference)
        async with aclosing(client.speech(text, recording.inline())) as frames:
            async for frame in frames:
                yield frame

    async def keep(self, reference: VoiceReference) -> None:
        """Make ready what is sent of a recording."""
        await self._recording(reference)

    def forget(self, voice_id: str) -> None:
        """Drop a registered voice here, and at the server with the next `clean`."""
        self._recordings.pop(voice_id, None)
        self._uploads.pop(voice_id, None)
        if self._upload:
            self._unwanted.add(voice_id)

    async def clean(self, client: OmniClient) -> None:
        """Have the server delete the voices that were forgotten; what fails is tried next time."""
        for voice_id in tuple(self._unwanted):
            try:
                await client.forget(server_name(voice_id))
            except UnavailableError:
                return
            except ServiceError as error:
                log.warning("vLLM-Omni keeps voice %s for now: %s", voice_id, error)
            else:
                self._unwanted.discard(voice_id)

    def server_is_new(self) -> None:
        """Upload again when a voice is used next: this server may know none."""
        self._uploads.clear()

    async def close(self) -> None:
        """Stop uploading; nobody speaks any more."""
        uploads = tuple(self._uploads.values())
        self._uploads.clear()
        for upload in uploads:
            upload.cancel()
        await asyncio.gather(*uploads, return_exceptions=True)

    async def _named(self, client: OmniClient, reference: VoiceReference) -> dict[str, str] | None:
        """Return the fields that call an uploaded voice; None where there is none."""
        if not self._upload or reference.id is None:
            return None
        upload = self._uploads.get(reference.id)
        if upload is None:
            # One upload for all that ask at the same time; it goes on when the first one leaves.
            upload = asyncio.create_task(self._uploaded(client, reference, reference.id))
            self._uploads[reference.id] = upload
        if not await asyncio.shield(upload):
            return None
        return {"voice": server_name(reference.id)}

    async def _uploaded(self, client: OmniClient, reference: VoiceReference, voice_id: str) -> bool:
        recording = await self._recording(reference)
        self._unwanted.discard(voice_id)
        try:
            await client.upload(server_name(voice_id), recording.wav, recording.text)
        except ServiceError as error:
            log.warning("voice %s is sent with each request: %s", voice_id, error)
            if isinstance(error, UnavailableError):
                self._uploads.pop(voice_id, None)  # not said no: asked again
            return False
        if voice_id not in self._uploads:  # forgotten in the meantime
            self._unwanted.add(voice_id)
            await self.clean(client)
        return True

    async def _recording(self, reference: VoiceReference) -> Recording:
        kept = self._recordings.get(reference.id or "")
        if kept is None:
            kept = await asyncio.to_thread(recording_of, reference)
            if reference.id is not None:
                self._recordings[reference.id] = kept
                while len(self._recordings) > _KEPT:
                    self._recordings.popitem(last=False)
        return kept


def check_reference(reference: VoiceReference, param: str) -> None:
    """Raise unless a recording can be spoken like; `param` is the field that it came in.

    Raises:
        InvalidRequestError: too short, too long or too low a rate, or without its text.
    """
    length_s = reference.samples.size / reference.sample_rate_hz
    if not SHORTEST_S <= length_s <= LONGEST_S:
        raise InvalidRequestError(
            f"the recording lasts {length_s:.1f} s; {SHORTEST_S:g} to {LONGEST_S:g} s are needed",
            param=param,
            code="invalid_audio",
        )
    if reference.sample_rate_hz < _LOWEST_RATE_HZ:
        raise InvalidRequestError(
            f"the recording has {reference.sample_rate_hz} Hz; at least {_LOWEST_RATE_HZ} needed",
            param=param,
            code="invalid_audio",
        )
    if not (reference.text and unmarked(reference.text).strip()):
        raise InvalidRequestError(
            "ref_text is needed: the vllm_omni engine clones a voice only with what is said in "
            "its recording",
            param="ref_text",
            code="missing_required_parameter",
        )


def server_name(voice_id: str) -> str:
    """Return the server's name of a registered voice: it knows no upper case and no slashes."""
    return f"bentovox-{hashlib.sha256(voice_id.encode()).hexdigest()[:32]}"


def recording_of(reference: VoiceReference) -> Recording:
    """Return a recording as vLLM-Omni takes it."""
    samples, rate = reference.samples, reference.sample_rate_hz
    if rate > SAMPLE_RATE_HZ:  # the model hears no more than that
        resampler = Resampler(rate, SAMPLE_RATE_HZ)
        samples = np.concatenate([resampler.feed(samples), resampler.finish()])
        rate = SAMPLE_RATE_HZ
    return Recording(_wav(samples, rate), unmarked(reference.text or "").strip())


def _wav(samples: Samples, sample_rate_hz: int) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(sample_rate_hz)
        writer.writeframes(to_bytes(samples))
    return file.getvalue()
