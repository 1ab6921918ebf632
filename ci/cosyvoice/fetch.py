"""Gets one file over HTTP with the standard library, through the environment's proxies."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from typing import Final

from ci.errors import CiError
from ci.terminal import say

_LIMIT_BYTES: Final = 256 << 20


def fetch(url: str, *, timeout_s: float) -> bytes:
    """Return what `url` answers; `timeout_s` bounds each wait, not the whole.

    Raises:
        CiError: it cannot be reached, refuses, breaks off or sends too much.
    """
    if not url.startswith(("https://", "http://")):
        raise CiError(f"{url} is no http or https address")
    say(f"Fetching {url}")
    request = urllib.request.Request(url, headers={"User-Agent": "bentovox"})  # noqa: S310  above
    opener = urllib.request.build_opener()  # reads the proxies of this moment
    try:
        with opener.open(request, timeout=timeout_s) as answer:
            total = answer.headers.get("Content-Length")
            data: bytes = answer.read(_LIMIT_BYTES)
    except urllib.error.HTTPError as error:
        with error:
            raise CiError(f"{url} answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise CiError(f"{url} cannot be reached: {reason or type(error).__name__}") from error
    if len(data) == _LIMIT_BYTES:
        raise CiError(f"{url} sends more than {_LIMIT_BYTES >> 20} MiB")
    if total is not None and str(len(data)) != total:
        raise CiError(f"{url} broke off after {len(data)} of {total} bytes")
    return data
