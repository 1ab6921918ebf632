"""Where a backend listens."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from services.errors import ConfigurationError


@dataclass(frozen=True)
class Address:
    """Where a backend listens.

    `path` is set for a Unix socket; `prefix` is what stands before the path of every request.
    """

    host: str
    port: int
    path: str | None
    tls: bool
    prefix: str = ""

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read `http://host:port`, `https://host:port/prefix` or BentoML's `file:///path/to.sock`.

        Raises:
            ConfigurationError: any other form.
        """
        parts = urlsplit(url)
        if parts.scheme in {"file", "unix"}:
            return cls("localhost", 0, unquote(parts.path), tls=False)
        try:
            port = -1 if parts.port == 0 else parts.port
        except ValueError:
            port = -1
        rest = parts.query or parts.fragment or parts.username
        known = parts.scheme in {"http", "https", "tcp"} and parts.hostname
        if not known or parts.hostname is None or rest or port == -1:
            raise ConfigurationError(
                f"backend {url!r} is no URL such as http://speech:3000 or https://host:443."
            )
        tls = parts.scheme == "https"
        prefix = parts.path.rstrip("/")
        return cls(parts.hostname, port or (443 if tls else 80), None, tls, prefix)

    @property
    def authority(self) -> bytes:
        """Return the value of the Host header, RFC 9110, section 7.2."""
        if self.path is not None:
            return b"localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = self.port == (443 if self.tls else 80)
        return (host if usual else f"{host}:{self.port}").encode()
