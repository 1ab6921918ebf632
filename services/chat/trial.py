"""Compiles constraints in a separate process, within a time limit, before the engine does.

xgrammar cannot be interrupted, and a short expression can keep it busy for minutes, in threads of
the engine that everybody's JSON mode needs as well. So whatever does not certainly compile quickly
is first compiled, and applied to some tokens, in a process that is killed if it takes too long.
Small constraints have their own process, so that they do not wait behind large ones. Results are
remembered.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import math
import re
import sys
import time
from asyncio.subprocess import Process
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.chat.constraints import Constraint
from services.errors import EngineError, InvalidRequestError, OverloadedError
from services.openai.reading import invalid
from services.server.admission import Admission, Limits

_SCRIPT: Final = Path(__file__).with_name("trial_process.py")
_START_S: Final = 60.0
_IDLE_S: Final = 60.0
_SMALL_S: Final = 3.0
"""The time limit for a small one, which is then tried among the large ones."""

_REMEMBERED: Final = 4096
_REFUSED_S: Final = 600.0
"""How long a fault is remembered; the machine may have been busy."""

_LINE_BYTES: Final = 1 << 20
_WHERE: Final = re.compile(r"\[[\d:]+\] \S+:\d+: ")
"""xgrammar's messages begin with the time and a line of its source."""


class Trial:
    """Two processes that compile, and their results."""

    def __init__(
        self,
        tokenizer: Callable[[], str],
        parse: Callable[[Constraint], object],
        *,
        limit_s: float,
        wait_s: float,
        waiting: int,
        command: Sequence[str] = (sys.executable, str(_SCRIPT)),
    ) -> None:
        """Compile for `tokenizer`, which returns the model's, serialised by xgrammar.

        `parse` raises at once for a malformed schema. Each process has a queue of `waiting`
        requests, which wait at most `wait_s`.
        """
        self._parse = parse
        self._limit_s = limit_s
        limits = Limits(1, waiting, wait_s)
        self._small = _Process(tokenizer, command, min(_SMALL_S, limit_s), Admission(limits))
        self._large = _Process(tokenizer, command, limit_s, Admission(limits))
        self._found: dict[bytes, tuple[str, float]] = {}

    async def check(self, constraints: Sequence[Constraint]) -> None:
        """Check that each of them compiles in time.

        Raises:
            InvalidRequestError: one does not; `param` is its field.
            OverloadedError: too many requests wait, or this one has waited for too long.
        """
        for constraint in constraints:
            key = hashlib.sha256(f"{constraint.kind} {constraint.text}".encode()).digest()
            fault = self._remembered(key)
            if fault is None:
                fault = "" if constraint.is_plain else await self._try(key, constraint)
                if not fault and constraint.kind == "json":
                    try:
                        await asyncio.to_thread(self._parse, constraint)
                    except Exception as error:
                        raise _refusal(constraint, str(error)) from error
                self._found.pop(key, None)
                self._found[key] = fault, time.monotonic() + _REFUSED_S if fault else math.inf
                if len(self._found) > _REMEMBERED:
                    self._found.pop(next(iter(self._found)))
            if fault:
                raise _refusal(constraint, fault)

    async def close(self) -> None:
        """End both processes."""
        await self._small.close()
        await self._large.close()

    def _remembered(self, key: bytes) -> str | None:
        fault, until = self._found.get(key, ("", 0.0))
        return fault if time.monotonic() < until else None

    async def _try(self, key: bytes, constraint: Constraint) -> str:
        """Return what is wrong with a constraint, or ""."""
        for process in (self._small, self._large) if constraint.is_small else (self._large,):
            try:
                async with process.admission.slot():
                    found = self._remembered(key)  # another request may have tried it meanwhile
                    if found is None:
                        found = await process.ask(constraint)
            except OverloadedError as error:
                raise OverloadedError(
                    f"{constraint.field}: those of other requests are being compiled",
                    retry_after_s=process.limit_s,
                ) from error
            if found is not None:
                return found
        return (
            f"takes over {self._limit_s:g} s to compile (BENTOVOX_CHAT__GRAMMAR_S); use fewer or "
            "shorter repetitions"
        )


@dataclass
class _Process:
    """A process that compiles; it starts when it is first needed and ends when it is idle."""

    tokenizer: Callable[[], str]
    command: Sequence[str]
    limit_s: float
    admission: Admission
    _process: Process | None = None
    _idle: asyncio.TimerHandle | None = None

    async def ask(self, constraint: Constraint) -> str | None:
        """Return what is wrong with a constraint, or ""; None if it takes too long."""
        kind: str = constraint.kind
        text = constraint.text
        lines = (re.sub(r"(#|//).*$", "", line).strip() for line in text.split("\n"))
        if kind == "grammar" and not any("::=" in line for line in lines):
            kind = "lark"  # as in vLLM
        if self._idle is not None:
            self._idle.cancel()
        asked, fault = json.dumps({"kind": kind, "text": text}), None
        try:
            process = self._process or await self._start()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.limit_s):
                    fault = str(json.loads(await _exchange(process, asked)))
            return fault
        finally:
            if fault is None:
                await self.close()  # it is still busy
            else:
                # It takes some 300 MB, so it ends once it stays idle.
                self._idle = asyncio.get_running_loop().call_later(_IDLE_S, self._kill)

    async def close(self) -> None:
        """End the process."""
        if process := self._kill():
            await process.wait()

    async def _start(self) -> Process:
        tokenizer = await asyncio.to_thread(self.tokenizer)
        self._process = process = await asyncio.create_subprocess_exec(
            *self.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LINE_BYTES,
        )
        async with asyncio.timeout(_START_S):
            await _exchange(process, json.dumps(tokenizer))
        return process

    def _kill(self) -> Process | None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        return process


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
    return invalid(constraint.field, _WHERE.sub("", fault).strip()[:500])
