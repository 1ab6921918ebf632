"""A model from ModelScope, over its plain HTTP API: list, download with resume, verify.

`…/repo/files` lists what there is (`listing`); `…/repo?FilePath=…` gives one file and honours
`Range`, sometimes with status 200 in the place of 206.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import http.client
import json
import logging
import os
import shutil
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode

from services.errors import ConfigurationError
from services.speech.engines.cosyvoice.hub import HubError
from services.speech.engines.cosyvoice.listing import Listing, RemoteFile, read_listing
from services.speech.engines.cosyvoice.meter import Meter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

log = logging.getLogger("bentovox.speech")

_DOMAIN: Final = "www.modelscope.cn"
_TRUE: Final = frozenset({"1", "ON", "TRUE", "YES"})
_ATTEMPTS: Final = 5
_CHUNK_BYTES: Final = 1 << 18
_LISTING_BYTES: Final = 16 << 20
_TIMEOUT_S: Final = 60.0
_TRANSPORT: Final = (
    urllib.error.URLError,
    TimeoutError,
    ConnectionError,
    ssl.SSLError,
    http.client.HTTPException,
)
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


class ModelScope:
    """One model on ModelScope; see `hub.Hub`. MODELSCOPE_CACHE and MODELSCOPE_DOMAIN count."""

    branch = "master"

    def __init__(
        self,
        model: str,
        cache: Path | None,
        *,
        url: str | None = None,
        backoff_s: float = 1.0,
    ) -> None:
        """Keep where it is and where it goes; nothing is read or written yet.

        Args:
            model: such as `iic/CosyVoice2-0.5B`.
            cache: the folder of all models; None: in that of ModelScope's own tools.
            url: of the hub; None: as MODELSCOPE_DOMAIN says.
            backoff_s: wait before the second attempt; doubled before each further one.
        """
        self._model = model
        own = Path(os.environ.get("MODELSCOPE_CACHE") or "~/.cache/modelscope").expanduser()
        url = url or f"https://{os.environ.get('MODELSCOPE_DOMAIN') or _DOMAIN}"
        self.cache = cache or own / "bentovox"
        self.is_offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in _TRUE
        self._home = self.cache / f"modelscope--{model.replace('/', '--')}"
        self._api = f"{url.rstrip('/')}/api/v1/models/{quote(model)}"
        self._backoff_s = backoff_s
        # Of this moment, so that the environment's proxies count.
        self._opener = urllib.request.build_opener()

    def cached(self, revision: str, wanted: Sequence[str]) -> Path | None:
        """Return the folder in the cache; see `hub.Hub.cached`."""
        try:
            ref = json.loads(self._ref(revision).read_text(encoding="utf-8"))
            files = [RemoteFile(*entry) for entry in ref["files"]]
            folder = self._home / str(ref["folder"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if ref.get("wanted") != list(wanted):
            return None
        return folder if all(_is_whole(folder / file.path, file) for file in files) else None

    def download(self, revision: str, wanted: Sequence[str]) -> Path:
        """Return the folder, filled; see `hub.Hub.download`. Each wait is tried several times."""
        listing = self._list(revision, wanted)
        folder = self._home / listing.folder
        log.info("%s at %s is commit %s", self._model, revision, listing.commit or "unknown")
        try:
            with self._alone():
                missing = [f for f in listing.files if not _is_whole(folder / f.path, f)]
                self._check_room(missing)
                meter = Meter(self._model, sum(file.size_bytes for file in missing))
                for file in missing:
                    self._get(revision, file, folder / file.path, meter)
                self._remember(revision, wanted, listing)
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise self._full(error) from error
            raise ConfigurationError(
                f"{self._home} cannot be written: {error.strerror}", param="cache"
            ) from error
        return folder

    def _list(self, revision: str, wanted: Sequence[str]) -> Listing:
        query = urlencode({"Revision": revision, "Recursive": "true"})
        answer = self._json(f"{self._api}/repo/files?{query}")
        found = read_listing(answer, revision, wanted)
        if found is None:
            raise ConfigurationError(
                f"ModelScope has no {self._model!r} at revision {revision!r}: "
                f"{answer.get('Message') or 'no files'}",
                param="revision",
            )
        return found

    def _json(self, url: str) -> dict[str, Any]:
        for wait_s in self._waits():
            try:
                with self._opener.open(url, timeout=_TIMEOUT_S) as response:
                    found = json.loads(response.read(_LISTING_BYTES))
            except urllib.error.HTTPError as error:
                self._refuse(error, url)
                reason: Exception = error
            except (OSError, http.client.HTTPException) as error:
                reason = error
            except ValueError as error:
                raise HubError(f"{url} answers no JSON") from error
            else:
                return found if isinstance(found, dict) else {}
            self._wait(reason, wait_s)
        raise AssertionError  # the last wait raises

    def _get(self, revision: str, file: RemoteFile, path: Path, meter: Meter) -> None:
        """Download one file beside its place, verify it and put it there."""
        query = urlencode({"Revision": revision, "FilePath": file.path})
        url = f"{self._api}/repo?{query}"
        part = path.with_name(path.name + ".part")
        path.parent.mkdir(parents=True, exist_ok=True)
        meter.add(part.stat().st_size if part.exists() else 0)
        for is_last in (False, True):
            self._fill(url, file, part, meter)
            found = _sha256(part) if file.sha256 else ""
            if found == file.sha256:
                part.replace(path)
                return
            part.unlink()
            meter.add(-file.size_bytes)
            fault = f"{file.path} of {self._model} hashes to {found[:12]}…, not {file.sha256[:12]}…"
            if is_last:
                raise ConfigurationError(f"{fault}; it was deleted", param="model")
            log.warning("%s: once more", fault)

    def _fill(self, url: str, file: RemoteFile, part: Path, meter: Meter) -> None:
        """Append to `part` until it has the size of `file`; each cut goes on where it was."""
        waits, most = self._waits(), 0
        while (have := part.stat().st_size if part.exists() else 0) != file.size_bytes:
            if have > file.size_bytes:
                part.unlink()
                meter.add(-have)
                continue
            request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"})  # noqa: S310  ours
            reason: Exception = HubError("it broke off")
            try:
                with self._opener.open(request, timeout=_TIMEOUT_S) as response:
                    goes_on = have > 0 and _goes_on(response, have, file.size_bytes)
                    meter.add(0 if goes_on else -have)
                    _append(response, part, "ab" if goes_on else "wb", file.size_bytes, meter)
            except urllib.error.HTTPError as error:
                self._refuse(error, url)
                reason = error
            except _TRANSPORT as error:
                reason = error
            now = part.stat().st_size if part.exists() else 0
            if most < now < file.size_bytes:
                waits, most = self._waits(), now  # it got on: as patient as at the start
            if now != file.size_bytes:
                self._wait(reason, next(waits))
        part.touch()  # an empty file has no bytes to ask for

    def _waits(self) -> Iterator[float | None]:
        """Yield how long to wait after each failure; None after the last."""
        for attempt in range(_ATTEMPTS - 1):
            yield self._backoff_s * 2**attempt
        yield None

    def _wait(self, reason: Exception, wait_s: float | None) -> None:
        told = getattr(reason, "reason", None) or reason
        if wait_s is None:
            raise HubError(f"ModelScope ({self._api}) failed {_ATTEMPTS} times: {told}") from reason
        log.warning("ModelScope: %s; once more in %.0f s", told, wait_s)
        time.sleep(wait_s)

    def _refuse(self, error: urllib.error.HTTPError, url: str) -> None:
        """Raise for an answer that will not change by asking again."""
        error.close()
        if error.code not in _PASSING:
            raise ConfigurationError(
                f"ModelScope answers {error.code} for {self._model!r} ({url})", param="model"
            ) from error

    def _check_room(self, missing: Sequence[RemoteFile]) -> None:
        needed = sum(file.size_bytes for file in missing)
        if needed > shutil.disk_usage(self._home).free:
            raise self._full(None, needed)

    def _full(self, error: OSError | None, needed_bytes: int = 0) -> ConfigurationError:
        need = f": {needed_bytes / 1e9:.1f} GB are needed" if needed_bytes else ""
        full = ConfigurationError(f"{self._home} has no room for the model{need}", param="cache")
        full.__cause__ = error
        return full

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold off other processes that download the same model."""
        self._home.mkdir(parents=True, exist_ok=True)
        with (self._home / ".lock").open("w") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            yield

    def _ref(self, revision: str) -> Path:
        return self._home / "refs" / f"{quote(revision, safe='')}.json"

    def _remember(self, revision: str, wanted: Sequence[str], listing: Listing) -> None:
        """Write, in one step, which folder a revision is in."""
        ref = self._ref(revision)
        ref.parent.mkdir(exist_ok=True)
        entry = {
            "folder": listing.folder,
            "commit": listing.commit,
            "wanted": list(wanted),
            "files": [[file.path, file.size_bytes, file.sha256] for file in listing.files],
        }
        part = ref.with_name(f"{ref.name}.{os.getpid()}.part")
        part.write_text(json.dumps(entry), encoding="utf-8")
        part.replace(ref)


def _is_whole(path: Path, file: RemoteFile) -> bool:
    return path.is_file() and path.stat().st_size == file.size_bytes


def _goes_on(response: Any, have: int, total: int) -> bool:
    """Tell whether an answer begins at byte `have`; the status alone does not say so."""
    told = str(response.headers.get("Content-Range") or "")
    if told:
        return told.replace("bytes", "").strip().startswith(f"{have}-")
    return str(response.headers.get("Content-Length")) == str(total - have)


def _append(response: Any, part: Path, mode: str, limit: int, meter: Meter) -> None:
    with part.open(mode) as file:
        while chunk := response.read(_CHUNK_BYTES):
            file.write(chunk)
            meter.add(len(chunk))
            if file.tell() > limit:
                return  # longer than listed: thrown away by who looks at the size


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
