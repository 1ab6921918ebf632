"""POST /v1/realtime/client_secrets and its like: keys for browsers, for minutes and one purpose.

A secret has the time of its end and the settings of a session, signed by HMAC-SHA-256. So the
gateway keeps none, and any gateway with the same keys accepts it. It opens the path of its kind of
session and nothing else, and the session begins with its settings.
"""

from __future__ import annotations

import base64
import hmac
import json
import time
from typing import TYPE_CHECKING, Any, Final

from services.errors import AuthenticationError, InvalidRequestError, TooLargeError
from services.openai.body import expect_json, whole
from services.openai.conversation import ClientSecret, SecretBody
from services.openai.events import new_id
from services.openai.live_translation import TRANSLATES
from services.openai.paths import LIVE_TRANSLATION, REALTIME
from services.openai.reading import read

if TYPE_CHECKING:
    from services.openai.documents import Call

PREFIX: Final = b"ek_"
SESSION_BYTES: Final = 4096
"""The largest settings: a secret is sent in a header."""

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


class ClientSecrets:
    """Makes secrets, and reads them again."""

    def __init__(self, signing_key: bytes) -> None:
        """Sign with this key."""
        self._signing_key = signing_key

    async def create(self, path: str, call: Call) -> ClientSecret:
        """Return the answer, with a secret for the sessions at `path`.

        Raises:
            ServiceError: the body is refused.
        """
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

    def session(self, secret: bytes, path: str) -> dict[str, Any]:
        """Return the settings in a secret.

        Raises:
            AuthenticationError: it is not one of ours, is for another path, or has expired.
        """
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
