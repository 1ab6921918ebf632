"""A blob's bytes without their compression, as a stream.

Python 3.11 has no zstd, so that and gzip are left to the commands of those names: they also work on
another core while this one looks at what comes out.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
from typing import IO, TYPE_CHECKING, Final

from ci.errors import CiError

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK: Final = 1 << 20
_MAGIC: Final = {b"\x28\xb5\x2f\xfd": "zstd", b"\x1f\x8b": "gzip"}


def compression(head: bytes) -> str:
    """Return what a blob that begins so is compressed with: `zstd`, `gzip`, or nothing."""
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "")


@contextlib.contextmanager
def unpacked(blob: IO[bytes], command: str, what: str) -> Iterator[IO[bytes]]:
    """Give a blob's content; `command` is what `compression` said, `what` names it in errors.

    Raises:
        CiError: the command is not there, or finds the blob damaged.
    """
    if not command:
        yield blob
        return
    found = shutil.which(command)
    if found is None:
        raise CiError(f"{what} is compressed with {command}: install the package {command}")
    with subprocess.Popen(
        [found, "-dcq"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        if not (process.stdin and process.stdout and process.stderr):
            raise CiError(f"{command} was started without pipes")
        faults: list[Exception] = []
        feeding = threading.Thread(target=_feed, args=(blob, process.stdin, faults))
        feeding.start()
        try:
            yield process.stdout
        finally:
            process.stdout.close()
            feeding.join()
        said = process.stderr.read().decode(errors="replace").strip()
    if faults:
        raise CiError(f"{what} cannot be read: {faults[0]}") from faults[0]
    if process.returncode:
        raise CiError(f"{what} is damaged: {said or command}; build or pull the image again")


def _feed(blob: IO[bytes], sink: IO[bytes], faults: list[Exception]) -> None:
    try:
        with contextlib.suppress(BrokenPipeError), sink:
            shutil.copyfileobj(blob, sink, CHUNK)
    except Exception as error:  # noqa: BLE001  raised again by the thread that waits
        faults.append(error)
