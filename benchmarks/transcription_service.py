"""The transcription service as a contestant: recordings are uploaded as WAV, text streams back."""

from __future__ import annotations

import io
import time
import urllib.request
import wave
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import numpy as np

from benchmarks.servers import Server, free_port

if TYPE_CHECKING:
    from pathlib import Path

_RATE_HZ: Final = 16_000
_BOUNDARY: Final = "transcription-benchmark"


class Service:
    """`bentoml serve services.transcription.service:Transcription`, with the same model."""

    def __init__(self, python: str, folder: Path) -> None:
        """Start it and wait until it is ready."""
        port = free_port()
        service = "services.transcription.service:Transcription"
        settings = {
            "BENTOVOX_TRANSCRIPTION__FASTER_WHISPER__MODEL": str(folder),
            "BENTOVOX_TRANSCRIPTION__FASTER_WHISPER__DEVICE": "cpu",
            # The profile's int8 would be another model than the bare library's.
            "BENTOVOX_TRANSCRIPTION__FASTER_WHISPER__COMPUTE_TYPE": "default",
        }
        command = [python, "-m", "bentoml", "serve", service, "--port", str(port)]
        self._url = f"http://127.0.0.1:{port}/v1/audio/transcriptions"
        self._server = Server("transcription", command, port, "/readyz", settings)
        self._server.start()

    def turn(self, duration_s: int, count: int) -> dict[str, float]:
        """Return what a turn took; see `benchmarks.transcription_run.Turn`."""
        body = _form(duration_s)
        with ThreadPoolExecutor(count) as pool:
            began = time.perf_counter()
            firsts = list(pool.map(lambda _: self._hear(body, began), range(count)))
            took_s = time.perf_counter() - began
        return {"took_s": took_s, "first_s": max(firsts), "segments": 0}

    def stop(self) -> None:
        """End it and all it started."""
        self._server.stop()

    def _hear(self, body: bytes, began: float) -> float:
        request = urllib.request.Request(  # noqa: S310  it is our own
            self._url,
            body,
            {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"},
        )
        first_s = 0.0
        with urllib.request.urlopen(request, timeout=600) as answer:  # noqa: S310
            for line in answer:
                if b"transcript.text.delta" in line:
                    first_s = first_s or time.perf_counter() - began
        return first_s


def _form(duration_s: int) -> bytes:
    """Return the upload of a noise that lasts so long."""
    noise = 0.1 * np.random.default_rng(0).standard_normal(duration_s * _RATE_HZ)
    sound = io.BytesIO()
    with wave.open(sound, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(_RATE_HZ)
        file.writeframes((np.clip(noise, -1, 1) * 32767).astype("<i2").tobytes())
    fields = {"model": "gpt-4o-transcribe", "stream": "true", "language": "en"}
    parts = [
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    head = (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="noise.wav"\r\n'
        "Content-Type: audio/wav\r\n\r\n"
    )
    end = f"\r\n--{_BOUNDARY}--\r\n"
    return "".join(parts).encode() + head.encode() + sound.getvalue() + end.encode()
