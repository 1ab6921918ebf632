"""Logging for every role: one line per event, with the request's id, to standard error."""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar

request_id_var: ContextVar[bytes] = ContextVar("request_id", default=b"-")


class _RequestId(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id_var.get().decode()
        return True


def configure(role: str, *, level: str = "INFO", access: bool = True) -> None:
    """Send `bentovox` loggers to standard error as `time level [role] [request id] message`."""
    logger = logging.getLogger("bentovox")
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_RequestId())
    handler.setFormatter(
        logging.Formatter(
            f"%(asctime)s %(levelname)-7s [{role}] [%(request_id)s] %(message)s",
            "%Y-%m-%dT%H:%M:%S%z",
        )
    )
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(level)
    logging.getLogger("bentovox.access").setLevel(level if access else "WARNING")
    logging.getLogger("bentovox.audit").setLevel("INFO")  # kept whatever the level
