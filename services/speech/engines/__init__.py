"""Speech engines: each is one module behind the Protocol, named in the registry."""

from __future__ import annotations
