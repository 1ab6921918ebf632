"""API keys: stored as SHA-256 hashes, compared in constant time.

They are sent as bearer tokens or as `x-api-key`. Browsers cannot set headers of a WebSocket; there
the key may be a subprotocol, as in OpenAI's API: `openai-insecure-api-key.YOUR_KEY`. It is not
forwarded.

A key is 256 random bits, so one round of SHA-256 is enough: a slow hash would only protect what can
be guessed. `python -m services.gateway.keys NAME` makes one.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import re
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.errors import AuthenticationError, ConfigurationError
from services.openai.paths import TRANSLATION

if TYPE_CHECKING:
    from collections.abc import Iterable

    from services.settings.sections import GatewaySettings

_LINE = re.compile(r"(?P<name>[\w.-]+):(?P<hash>[0-9a-f]{64})")
_SUBPROTOCOL = "openai-insecure-api-key."
_HINT = "make one with `python -m services.gateway.keys NAME`"


def is_key_subprotocol(name: str) -> bool:
    """Return whether an offered subprotocol is a key."""
    return name.startswith(_SUBPROTOCOL)


def key_of(scope: Any) -> bytes | None:
    """Return the first key in the headers of a request or WebSocket; None without one.

    It is empty if `authorization` has something other than a bearer token.
    """
    for name, value in scope["headers"]:
        if name == b"authorization" and value.strip():
            scheme, _, token = value.partition(b" ")
            return bytes(token.strip()) if scheme.lower() == b"bearer" else b""
    keys: list[bytes] = [value for name, value in scope["headers"] if name == b"x-api-key"]
    offered = scope["subprotocols"] if scope["type"] == "websocket" else ()
    keys += [name[len(_SUBPROTOCOL) :].encode() for name in offered if is_key_subprotocol(name)]
    return keys[0].strip() if keys else None


def has_key_in_body(scope: Any) -> bool:
    """Return whether a key may be in the body: LibreTranslate's clients send it as `api_key`."""
    return scope["path"] in TRANSLATION and key_of(scope) is None


class Keys:
    """The known keys. If there are none, everybody is let in."""

    def __init__(self, hashes: dict[str, bytes]) -> None:
        """Store the SHA-256 digest of each key by the name of its owner."""
        self._hashes = hashes

    @classmethod
    def from_settings(cls, gateway: GatewaySettings) -> Keys:
        """Read the keys in the environment and in the keys file.

        Raises:
            ConfigurationError: the file is missing, or a line is not `name:hash`.
        """
        lines = gateway.keys.get_secret_value().replace(",", "\n").splitlines()
        if gateway.keys_file:
            path = Path(gateway.keys_file).expanduser()
            try:
                lines += path.read_text(encoding="utf-8").splitlines()
            except OSError as exc:
                raise ConfigurationError(
                    f"BENTOVOX_GATEWAY__KEYS_FILE={path}: {exc.strerror}; {_HINT} and write the "
                    "line it prints into that file."
                ) from exc
        return cls(_parse(lines))

    def __bool__(self) -> bool:
        """Return whether there are any, so that requests need one."""
        return bool(self._hashes)

    def signing_key(self) -> bytes:
        """Return a secret that servers with the same keys share; without keys a random one."""
        if not self._hashes:
            return secrets.token_bytes(32)
        return hashlib.sha256(b"client secrets" + b"".join(sorted(self._hashes.values()))).digest()

    def summary(self) -> str:
        """Return a line that says who is let in."""
        if not self._hashes:
            return "no API keys are set: whoever reaches the port is let in"
        return f"API keys are required; {len(self._hashes)} are known"

    def check(self, key: bytes | None) -> None:
        """Check that the key is known.

        Raises:
            AuthenticationError: no key, or an unknown one.
        """
        if not self._hashes or (key is not None and self._knows(key)):
            return
        raise AuthenticationError(
            "You didn't provide an API key. Send it as `Authorization: Bearer YOUR_KEY`."
            if key is None
            else "Incorrect API key provided. Ask the operator of this server for a key."
        )

    def _knows(self, key: bytes) -> bool:
        digest = hashlib.sha256(key).digest()
        known = False
        for candidate in self._hashes.values():  # all of them, so that the time reveals nothing
            known |= hmac.compare_digest(digest, candidate)
        return known


def _parse(lines: Iterable[str]) -> dict[str, bytes]:
    hashes: dict[str, bytes] = {}
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = _LINE.fullmatch(text)
        if match is None:
            # The line itself is not shown: it may be an unhashed key.
            raise ConfigurationError(f"API key {number} is not `name:sha256-hash`; {_HINT}.")
        if match["name"] in hashes:
            raise ConfigurationError(f"two API keys are named {match['name']!r}.")
        hashes[match["name"]] = bytes.fromhex(match["hash"])
    return hashes


def main() -> int:
    """Make a key and print it with the line that the server stores."""
    parser = argparse.ArgumentParser(
        prog="python -m services.gateway.keys",
        description="Make an API key. The key is shown once; the server keeps only its hash, "
        "in BENTOVOX_GATEWAY__KEYS or in the file BENTOVOX_GATEWAY__KEYS_FILE.",
    )
    parser.add_argument("name", help="who holds the key: letters, digits, dot, dash, underscore")
    name: str = parser.parse_args().name
    if not re.fullmatch(r"[\w.-]+", name):
        parser.error(f"name {name!r} has other characters")
    key = "sk-" + secrets.token_urlsafe(32)
    sys.stdout.write(
        f"key (give it to {name}, it is not shown again): {key}\n"
        f"line for the server: {name}:{hashlib.sha256(key.encode()).hexdigest()}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
