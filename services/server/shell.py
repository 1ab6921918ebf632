"""The shell around every role: one ASGI layer between uvicorn and the role's own routes.

It gives each request an id, refuses what is too large or too much, answers the health and metrics
paths, turns every error (ours, the framework's, a library's) into OpenAI's error object, and
keeps the metrics.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from services.server.exchange import Exchange
from services.server.serving import RoleApp, Serving
from services.server.websocket import WebSocket

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.applications import Starlette
    from starlette.types import Receive, Scope, Send

log = logging.getLogger("bentovox")


class Shell(Serving):
    """The outermost ASGI application of a role's process."""

    def __init__(
        self,
        app: RoleApp,
        bento: Starlette | None = None,
        *,
        strict: bool = False,
        hosts: Sequence[str] = (),
    ) -> None:
        """Wrap `app`; of `bento`, BentoML's own application, only the lifespan is used."""
        super().__init__(app, strict=strict, hosts=hosts)
        self._bento = bento

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's scope: lifespan, request or WebSocket."""
        if scope["type"] == "http":
            await Exchange(self, scope, receive, send).run()
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await WebSocket(self, scope, receive, send).run()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        async with AsyncExitStack() as stack:
            try:
                if self._bento is not None:
                    await stack.enter_async_context(
                        self._bento.router.lifespan_context(self._bento)
                    )
                await stack.enter_async_context(self.app.lifespan())
                if self.idle:
                    stack.callback(asyncio.create_task(self.idle.watch()).cancel)
            except Exception as exc:
                log.exception("start of the %s role failed", self.app.role)
                await send({"type": "lifespan.startup.failed", "message": str(exc)})
                return
            # What was loaded at start stays: the garbage collector need not scan it again.
            gc.collect()
            gc.freeze()
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})
