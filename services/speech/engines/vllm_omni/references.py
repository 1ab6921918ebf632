"""Recordings to speak like, in the two ways that vLLM-Omni takes them.

As a data URL in each request, from which the server computes the voice's features every time, or
uploaded once and called by a name, whose features it keeps. Registered voices are uploaded if the
server allows it; everything else goes inline.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from services.audio.encode import open_encoder
from services.errors import InvalidRequestError, ServiceError, UnavailableError
from services.speech.engines.vllm_omni.client import SAMPLE_RATE_HZ, unmarked

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from services.audio.pcm import Samples
    from services.speech.engines.protocol import VoiceReference
    from services.speech.engines.vllm_omni.client import OmniClient

log = logging.getLogger("bentovox.speech.vllm_omni")

_MOST_BYTES: Final = 16 << 20  # of a recording, so that its header states its length


class References:
    """Which voices the server keeps, and which it should delete."""

    def __init__(self) -> None:
        """Begin with a server that keeps none."""
        self._kept: dict[str, bool] = {}  # False: it has refused
        self._unwanted: set[str] = set()
        self._changing = asyncio.Lock()  # one upload or deletion at a time

    async def speak(
        self, client: OmniClient, text: str, reference: VoiceReference
    ) -> AsyncGenerator[Samples, None]:
        """Yield `text` in the voice of `reference`; errors are those of `OmniClient.speech`."""
        voice_id = reference.id
        if voice_id is not None and await self._is_kept(client, reference, voice_id):
            try:
                async with aclosing(client.speech(text, {"voice": server_name(voice_id)})) as said:
                    async for frame in said:
                        yield frame
            except InvalidRequestError:  # before the first frame: it may have lost the voice
                self._kept.pop(voice_id, None)
            else:
                return
        recording = await asyncio.to_thread(inline, reference)
        async with aclosing(client.speech(text, recording)) as said:
            async for frame in said:
                yield frame

    def forget(self, voice_id: str) -> None:
        """Drop a registered voice here, and at the server with the next `clean`."""
        self._kept.pop(voice_id, None)
        self._unwanted.add(voice_id)

    async def clean(self, client: OmniClient) -> None:
        """Have the server delete the voices that were forgotten; what fails is tried next time."""
        async with self._changing:
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
        self._kept.clear()

    async def _is_kept(self, client: OmniClient, reference: VoiceReference, voice_id: str) -> bool:
        """Return whether the server has a voice, which is uploaded if it is new."""
        if voice_id in self._kept:
            return self._kept[voice_id]
        async with self._changing:
            if voice_id not in self._kept:
                wav = await asyncio.to_thread(_wav, reference)
                try:
                    await client.upload(server_name(voice_id), wav, _transcript(reference))
                except ServiceError as error:
                    log.warning("voice %s is sent with each request: %s", voice_id, error)
                    if isinstance(error, UnavailableError):  # it did not refuse: try again
                        return False
                    self._kept[voice_id] = False
                else:
                    self._kept[voice_id] = True
                if voice_id in self._unwanted:  # forgotten meanwhile: `clean` waits to delete it
                    return self._kept.pop(voice_id)
            return self._kept[voice_id]


def demand_transcript(reference: VoiceReference) -> None:
    """Raise `InvalidRequestError` if a recording comes without its transcript."""
    if not _transcript(reference):
        raise InvalidRequestError(
            "ref_text is needed: the vllm_omni engine clones a voice only with what is said in "
            "its recording",
            param="ref_text",
            code="missing_required_parameter",
        )


def server_name(voice_id: str) -> str:
    """Return the server's name of a registered voice: it knows no upper case and no slashes."""
    return f"bentovox-{hashlib.sha256(voice_id.encode()).hexdigest()[:32]}"


def inline(reference: VoiceReference) -> dict[str, str]:
    """Return the fields of a request that carries a recording."""
    url = f"data:audio/wav;base64,{base64.b64encode(_wav(reference)).decode()}"
    return {"ref_audio": url, "ref_text": _transcript(reference)}


def _wav(reference: VoiceReference) -> bytes:
    """Return a recording as 16-bit mono WAV at the model's 24 kHz."""
    encoder = open_encoder(
        "wav", reference.sample_rate_hz, to_hz=SAMPLE_RATE_HZ, whole_bytes=_MOST_BYTES
    )
    return encoder.feed(reference.samples) + encoder.finish()


def _transcript(reference: VoiceReference) -> str:
    return unmarked(reference.text or "").strip()
