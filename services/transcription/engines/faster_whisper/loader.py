"""Gets a model into memory in a thread of its own, and tries again where there is none yet."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Final

import numpy as np

from services.transcription.engines.faster_whisper import detector, gpu
from services.transcription.engines.faster_whisper.checkpoint import Checkpoint
from services.transcription.engines.faster_whisper.model_source import NoModelError

if TYPE_CHECKING:
    from services.transcription.engines.faster_whisper.model_source import ModelSource

log = logging.getLogger("bentovox.transcription")

_FIRST_RETRY_S: Final = 60.0
_LONGEST_RETRY_S: Final = 1800.0


class Loader:
    """A model on its way.

    Attributes:
        model: the model, once it has heard something.
        status: what is done now, or why there is no model and how to get one, in one line.
        settled: there is none, and the next try is some time away.
    """

    def __init__(
        self, source: ModelSource, *, device: str, compute_type: str, threads: int
    ) -> None:
        """Do nothing yet."""
        self.model: Checkpoint | None = None
        self.status = "not started"
        self.settled = False
        self._source = source
        self._device = device
        self._compute_type = compute_type
        self._threads = threads
        self._closed = threading.Event()

    def start(self) -> None:
        """Begin, in a daemon thread."""
        self._closed = threading.Event()  # a download that outlived `close` keeps its own
        arguments = (self._closed,)
        threading.Thread(
            target=self._run, args=arguments, name="whisper-loading", daemon=True
        ).start()

    def close(self) -> None:
        """Attempt no more, and let the model go."""
        self._closed.set()
        self.model = None
        self.status = "closed"

    def _run(self, closed: threading.Event) -> None:
        wait_s = _FIRST_RETRY_S
        while not closed.is_set():
            try:
                model = self._load()
            except NoModelError as error:
                self._settle(str(error), closed)
                if error.is_final:
                    return
            except Exception as error:
                log.exception("the model could not be loaded")
                self._settle(f"no model: {_line(error)}", closed)
            else:
                if not closed.is_set():
                    self.model, self.status, self.settled = model, "ready", False
                return
            closed.wait(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_RETRY_S)

    def _settle(self, status: str, closed: threading.Event) -> None:
        if closed.is_set():
            return
        if status != self.status:
            log.warning("%s", status)
        self.status, self.settled = status, True

    def _tell(self, status: str) -> None:
        self.status, self.settled = status, False

    def _load(self) -> Checkpoint:
        began = time.monotonic()
        if not self.settled:
            self._tell(f"looking for {self._source.names[0]}")
        # OpenMP's threads spin while they wait, by default so long that they take the cores from
        # each other as soon as the machine has other work. Read when CTranslate2's copy is loaded.
        if "OMP_WAIT_POLICY" not in os.environ:
            os.environ.setdefault("GOMP_SPINCOUNT", "1000")
        detector.session()  # live speech needs it at once
        folder = self._source.find(self._tell)
        device = self._device
        lacking = gpu.missing() if device != "cpu" and _has_gpu() else []
        if device == "cuda" and not _has_gpu():
            raise NoModelError("no model: device is cuda, and CTranslate2 finds no NVIDIA GPU")
        if lacking and device == "cuda":
            raise NoModelError(f"no model: device is cuda and {', '.join(lacking)} cannot be found")
        if lacking:
            log.warning("%s cannot be found: Whisper computes on the CPU", ", ".join(lacking))
            device = "cpu"
        self._tell(f"loading {self._source.names[0]}")
        try:
            model = Checkpoint(
                folder, device=device, compute_type=self._compute_type, threads=self._threads
            )
        except Exception as error:
            raise NoModelError(
                f"no model: {folder} cannot be loaded as a CTranslate2 Whisper: {_line(error)}"
            ) from error
        _warm_up(model)
        log.info(
            "loaded %s on %s in %.1f s",
            self._source.names[0],
            model.device,
            time.monotonic() - began,
        )
        return model


def _warm_up(model: Checkpoint) -> None:
    """Hear a second of silence, so that a model that cannot work is known at once."""
    encoded = model.encode([model.features(np.zeros(16_000, dtype=np.float32))])
    language = max(model.language_chances(encoded)[0])
    model.generate(
        encoded,
        [model.prompt((), language, "transcribe", times=False)],
        temperature=0.0,
        beam_size=1,
    )


def _has_gpu() -> bool:
    import ctranslate2  # noqa: PLC0415  heavy

    return bool(ctranslate2.get_cuda_device_count())


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
