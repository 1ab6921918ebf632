"""Which headers are forwarded."""

from __future__ import annotations

# RFC 9110, section 7.6.1
_OF_A_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# What the gateway sets itself. The client's key stays here, and the origin of its page, which was
# checked.
NOT_FORWARDED = _OF_A_HOP | {
    b"host",
    b"origin",
    b"proxy-authorization",
    b"expect",
    b"authorization",
    b"x-api-key",
    b"content-length",
    b"x-request-id",
    b"x-forwarded-for",
    b"x-forwarded-proto",
    b"x-forwarded-host",
}
NOT_RETURNED = _OF_A_HOP | {b"date", b"server"}
_USUAL_CONNECTION = frozenset({b"keep-alive", b"close"})


def end_to_end(
    headers: list[tuple[bytes, bytes]], dropped: frozenset[bytes]
) -> list[tuple[bytes, bytes]]:
    """Return the headers to forward: without `dropped` and those that Connection lists."""
    for name, value in headers:
        if name == b"connection" and value.lower() not in _USUAL_CONNECTION:
            dropped |= {token.strip().lower() for token in value.split(b",")}
    return [pair for pair in headers if pair[0] not in dropped]
