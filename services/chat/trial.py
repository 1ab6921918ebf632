"""Tries what binds an answer before the engine compiles it: bounded in time, one at a time.

xgrammar cannot be stopped, and a short expression can hold it for minutes, in threads of the engine
that everybody's JSON mode needs as well. So whatever does not surely compile at once is compiled in
a process apart first, which is killed when it takes too long, and followed for some tokens there.
What passed is remembered.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from services.errors import EngineError, InvalidRequestError, OverloadedError

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Callable, Sequence

    from services.chat.constraints import Constraint

_SCRIPT: Final = Path(__file__).with_name("trial_process.py")
_START_S: Final = 60.0
_IDLE_S: Final = 60.0
_REMEMBERED: Final = 4096
_LINE_BYTES: Final = 1 << 20
_WHERE: Final = re.compile(r"\[[\d:]+\] \S+:\d+: ")
"""xgrammar begins a fault with the time and its own source's line."""


class Trial:
    """The process that tries; it starts when it is first needed and ends when it is idle."""

    def __init__(
        self,
        tokenizer: Callable[[], str],
        parse: Callable[[Constraint], object],
        *,
        limit_s: float,
        wait_s: float,
        command: Sequence[str] = (sys.executable, str(_SCRIPT)),
    ) -> None:
        """Keep what is needed.

        `tokenizer` gives xgrammar's own, as JSON; `parse` raises for what is malformed, at once.
        """
        self._tokenizer = tokenizer
        self._parse = parse
        self._limit_s = limit_s
        self._wait_s = wait_s
        self._command = command
        self._turn = asyncio.Lock()
        self._process: Process | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._passed: dict[bytes, None] = {}

    async def check(self, constraints: Sequence[Constraint]) -> None:
        """Return when each of them compiles in time.

        Raises:
            InvalidRequestError: one does not, or at all; `param` names the field.
            OverloadedError: others were being tried for too long.
        """
        for constraint in constraints:
            key = hashlib.sha256(f"{constraint.kind} {constraint.text}".encode()).digest()
            if key not in self._passed:
                if not constraint.is_plain:
                    await self._try(constraint)
                await self._look(constraint)
                self._passed[key] = None
                if len(self._passed) > _REMEMBERED:
                    self._passed.pop(next(iter(self._passed)))

    async def _look(self, constraint: Constraint) -> None:
        if constraint.kind != "json":
            return
        try:
            await asyncio.to_thread(self._parse, constraint)
        except Exception as error:
            raise _refusal(constraint, str(error)) from error

    async def close(self) -> None:
        """End the process."""
        if self._idle is not None:
            self._idle.cancel()
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _try(self, constraint: Constraint) -> None:
        try:
            async with asyncio.timeout(self._wait_s):
                await self._turn.acquire()
        except TimeoutError as error:
            raise OverloadedError(
                f"{constraint.field}: others' are being compiled", retry_after_s=self._limit_s
            ) from error
        try:
            fault = await self._ask(constraint)
        except BaseException:
            await self.close()  # it is in the middle of something
            raise
        finally:
            self._turn.release()
        self._rest()
        if fault:
            raise _refusal(constraint, fault)

    async def _ask(self, constraint: Constraint) -> str:
        process = self._process or await self._start()
        asked = {"kind": _kind(constraint), "text": constraint.text}
        try:
            async with asyncio.timeout(self._limit_s):
                return str(json.loads(await _exchange(process, json.dumps(asked))))
        except TimeoutError as error:
            raise InvalidRequestError(
                f"{constraint.field}: takes over {self._limit_s:g} s to compile "
                "(BENTOVOX_CHAT__GRAMMAR_S); use fewer or shorter repetitions",
                param=constraint.field,
                code="invalid_value",
            ) from error

    async def _start(self) -> Process:
        tokenizer = await asyncio.to_thread(self._tokenizer)
        self._process = process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LINE_BYTES,
        )
        async with asyncio.timeout(_START_S):
            await _exchange(process, json.dumps(tokenizer))
        return process

    def _rest(self) -> None:
        """End the process when nobody asks for a while: it holds some 300 MB."""
        if self._idle is not None:
            self._idle.cancel()
        loop = asyncio.get_running_loop()
        self._idle = loop.call_later(_IDLE_S, self._end_if_idle)

    def _end_if_idle(self) -> None:
        if not self._turn.locked() and self._process is not None:
            self._process.kill()
            self._process = None


async def _exchange(process: Process, line: str) -> bytes:
    assert process.stdin is not None  # noqa: S101  both are pipes
    assert process.stdout is not None  # noqa: S101
    process.stdin.write(line.encode() + b"\n")
    with contextlib.suppress(ConnectionError):
        await process.stdin.drain()
    answer = await process.stdout.readline()
    if not answer:
        raise EngineError("the process that compiles grammars ended")
    return answer


def _refusal(constraint: Constraint, fault: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{constraint.field}: {_WHERE.sub('', fault).strip()[:500]}",
        param=constraint.field,
        code="invalid_value",
    )


def _kind(constraint: Constraint) -> str:
    """Return how xgrammar reads it: a grammar without `::=` is Lark's, as vLLM has it."""
    if constraint.kind != "grammar":
        return constraint.kind
    lines = (re.sub(r"(#|//).*$", "", line).strip() for line in constraint.text.split("\n"))
    return "grammar" if any("::=" in line for line in lines) else "lark"
