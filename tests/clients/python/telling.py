"""Reports a driver's results: a line of JSON for each, with a value or an error.

Drivers run in their clients' environments, without this repository.
"""

from __future__ import annotations

import inspect
import json
import sys
import traceback
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


async def tell(doings: dict[str, Callable[[], Any]]) -> None:
    """Do each thing by its name; an error is told, and the next is done."""
    for name, do in doings.items():
        try:
            got = do()
            line = {"name": name, "got": await got if inspect.isawaitable(got) else got}
        except Exception:  # noqa: BLE001  whatever a client raises is what is asked for
            line = {"name": name, "error": traceback.format_exc(limit=-4)}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
