"""The transcription role, served for one test's live session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.fakes.transcription_engine import FakeEngine
from tests.live_app import ROOMY, Served

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.server.admission import Limits


@pytest.fixture
def served(serve: Any) -> Callable[..., Any]:
    """Return `await served(engine)`, a `Served`."""

    async def start(engine: FakeEngine | None = None, limits: Limits = ROOMY) -> Served:
        made = Served(engine or FakeEngine(), limits)
        await made.engine.start()
        made.url = await serve(made)
        return made

    return start
