"""Speech engines: each is one module behind the Protocol, named in `services.engines`."""

from __future__ import annotations
