"""Who is let in: API keys, and client secrets made of them.

Keys are stored as SHA-256 hashes; one round is enough for 256 random bits. They are sent as bearer
tokens, as `x-api-key`, or by browsers, which cannot set headers of a WebSocket, as a subprotocol
like in OpenAI's API: `openai-insecure-api-key.YOUR_KEY`. `python -m services.gateway.keys NAME`
makes one.

Client secrets are for browsers, for minutes and one kind of session; POST
/v1/realtime/client_secrets and its like make them. A secret has the time of its end and the
settings of a session, signed by HMAC-SHA-256. So the gateway keeps none, and any gateway with the
same keys accepts it.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import json
import re
import secrets
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

from services.errors import (
    AuthenticationError,
    ConfigurationError,
    InvalidRequestError,
    TooLargeError,
)
from services.openai.answers import Call, new_id
from services.openai.body import expect_json, whole
from services.openai.conversation import TRANSLATES, ClientSecret, SecretBody
from services.openai.paths import LIVE_TRANSLATION, REALTIME, TRANSLATION
from services.openai.reading import read
from services.settings.sections import GatewaySettings

_LINE = re.compile(r"(?P<name>[\w.-]+):(?P<hash>[0-9a-f]{64})")
_SUBPROTOCOL = "openai-insecure-api-key."
_HINT = "make one with `python -m services.gateway.keys NAME`"

PREFIX: Final = b"ek_"
SESSION_BYTES: Final = 4096  # the largest settings: a secret is sent in a header
_BODY_BYTES: Final = 64 << 10
_DEFAULT_S: Final = 600
_SIGNATURE_BYTES: Final = 32

KINDS: Final[dict[str, dict[str, dict[str, object]]]] = {
    REALTIME: {
        "realtime": {"object": "realtime.session"},
        "transcription": {"object": "realtime.transcription_session"},
    },
    LIVE_TRANSLATION: {"translation": {"model": TRANSLATES, "audio": {}}},
}
"""The types of session by path, the default first, and what is shown beside its settings."""


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
    """The known keys, and the secrets made of them. If there are no keys, everybody is let in."""

    def __init__(self, hashes: dict[str, bytes]) -> None:
        """Store the SHA-256 digest of each key by the name of its owner."""
        self._hashes = hashes
        known = b"client secrets" + b"".join(sorted(hashes.values()))
        # Servers with the same keys share it.
        self._signing_key = hashlib.sha256(known).digest() if hashes else secrets.token_bytes(32)

    @classmethod
    def from_settings(cls, gateway: GatewaySettings) -> Keys:
        """Read the keys in the environment and in the keys file, or raise ConfigurationError."""
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
        hashes: dict[str, bytes] = {}
        for number, line in enumerate(lines, 1):
            if not (text := line.partition("#")[0].strip()):
                continue
            match = _LINE.fullmatch(text)
            if match is None:
                # The line itself is not shown: it may be an unhashed key.
                raise ConfigurationError(f"API key {number} is not `name:sha256-hash`; {_HINT}.")
            if match["name"] in hashes:
                raise ConfigurationError(f"two API keys are named {match['name']!r}.")
            hashes[match["name"]] = bytes.fromhex(match["hash"])
        return cls(hashes)

    def __len__(self) -> int:
        return len(self._hashes)

    def check(self, key: bytes | None) -> None:
        """Check that the key is known, or raise AuthenticationError."""
        if not self._hashes:
            return
        if key is None:
            raise AuthenticationError(
                "You didn't provide an API key. Send it as `Authorization: Bearer YOUR_KEY`."
            )
        digest = hashlib.sha256(key).digest()
        # All of them, so that the time reveals nothing.
        if not sum([hmac.compare_digest(digest, one) for one in self._hashes.values()]):
            raise AuthenticationError(
                "Incorrect API key provided. Ask the operator of this server for a key."
            )

    def let_in(self, scope: Any, keyless: Collection[str]) -> None:
        """Let a request or a WebSocket in; a client secret's settings go into `bentovox.session`.

        `keyless` are the paths (templates) that need no key. One in a body is checked with it.
        """
        if scope["bentovox.route"] in keyless or has_key_in_body(scope):
            return
        key, path = key_of(scope), scope["path"]
        if scope["type"] == "websocket" and path in KINDS and key and key.startswith(PREFIX):
            scope["bentovox.session"] = self._session(key, path)
        else:
            self.check(key)

    async def secret(self, path: str, call: Call) -> ClientSecret:
        """Return the answer, with a secret for the sessions at `path`."""
        expect_json(call.scope)
        body = read(SecretBody, await whole(call.scope, call.receive, _BODY_BYTES))
        kinds = KINDS[path]
        session = {"type": next(iter(kinds)), **(body.session or {})}
        kind = session["type"]
        if not isinstance(kind, str) or kind not in kinds:
            raise InvalidRequestError(
                f"session.type is not {' or '.join(kinds)}",
                param="session.type",
                code="invalid_value",
            )
        lasts_s = body.expires_after.seconds if body.expires_after is not None else _DEFAULT_S
        expires_at = int(time.time()) + lasts_s
        payload = json.dumps([expires_at, session], separators=(",", ":")).encode()
        if len(payload) > SESSION_BYTES:
            raise TooLargeError(
                f"session is over {SESSION_BYTES} bytes; send the rest with session.update",
                param="session",
            )
        signed = base64.urlsafe_b64encode(self._signature(payload) + payload)
        value = PREFIX + signed.rstrip(b"=")  # which no subprotocol may contain
        shown = {"id": new_id("sess"), "expires_at": expires_at, **kinds[kind], **session}
        return {"value": value.decode(), "expires_at": expires_at, "session": shown}

    def _session(self, secret: bytes, path: str) -> dict[str, Any]:
        """Return the settings in a secret; AuthenticationError if it is not valid here and now."""
        try:
            data = base64.urlsafe_b64decode(secret[len(PREFIX) :] + b"==")
        except ValueError:
            data = b""
        signature, payload = data[:_SIGNATURE_BYTES], data[_SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, self._signature(payload)):
            raise AuthenticationError("This client secret is not one of this server's.")
        expires_at, session = json.loads(payload)
        if time.time() >= expires_at:
            raise AuthenticationError("This client secret has expired; create another.")
        if session["type"] not in KINDS[path]:
            raise AuthenticationError("This client secret is for another kind of session.")
        return dict(session)

    def _signature(self, payload: bytes) -> bytes:
        return hmac.digest(self._signing_key, payload, "sha256")


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
