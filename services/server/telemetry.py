"""What operators see of every role: Prometheus metrics, and a log.

A role's `/metrics` covers its own process, including vLLM's families; the gateway adds those of its
backends, each sample labelled with its backend. The log goes to standard error, one line per event,
with the request's id.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections import defaultdict
from contextvars import ContextVar
from functools import cache
from typing import TypeVar

# BentoML has every process write each number to shared files, so that workers can answer for each
# other. A role of ours has one worker, and vLLM updates several numbers per token. This must happen
# before prometheus_client is imported.
os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from services.server.admission import Admission

_LAGS = (0.25, 0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 20, 30, 60)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

REQUESTS = Counter(
    "bentovox_requests", "Requests answered, by role, path and status.", ["role", "path", "status"]
)
REQUEST_SECONDS = Histogram(
    "bentovox_request_seconds",
    "Seconds from a request's arrival to the last byte of its answer.",
    ["role", "path"],
    buckets=_SECONDS,
)
FIRST_BYTE_SECONDS = Histogram(
    "bentovox_first_byte_seconds",
    "Seconds from a request's arrival to the first byte of its answer's body.",
    ["role", "path"],
    buckets=_SECONDS,
)
REJECTED = Counter("bentovox_rejected", "Requests refused with 429 for want of a slot.", ["role"])
IN_USE = Gauge("bentovox_slots_in_use", "Slots at work.", ["role"])
QUEUED = Gauge("bentovox_queue_length", "Requests waiting for a slot.", ["role"])
BACKENDS = Gauge(
    "bentovox_backends", "Backends of a role that is asked, by state.", ["asked", "state"]
)
HELD = Gauge(
    "bentovox_held_requests", "Requests that wait for a role without a ready backend.", ["asked"]
)
ASKED = Gauge(
    "bentovox_asked_requests",
    "Requests at work at a role that is called, or held for it.",
    ["asked"],
)
AUDIO_SECONDS = Counter("bentovox_audio_seconds", "Seconds of audio spoken.", ["role", "format"])
HEARD_SECONDS = Counter("bentovox_heard_seconds", "Seconds of audio heard.", ["role"])
LAG_SECONDS = Histogram(
    "bentovox_translation_lag_seconds",
    "Seconds from the end of a sentence to its translation, for a listener of a live translation.",
    ["role"],
    buckets=_LAGS,
)
LEFT_OUT = Counter(
    "bentovox_translation_left_out", "Sentences of live translations left out for lag.", ["role"]
)

CONTENT_TYPE = CONTENT_TYPE_LATEST
Labelled = TypeVar("Labelled", Counter, Histogram)


@cache
def _of(metric: Labelled, *labels: object) -> Labelled:
    """Return a metric's child; looking it up in the library takes longer than to count."""
    return metric.labels(*labels)


class RoleMetrics:
    """One role's metrics."""

    def __init__(self, role: str) -> None:
        self.role = role
        self.rejected = REJECTED.labels(role).inc

    def observe(self, path: str, status: int, total_s: float, first_byte_s: float | None) -> None:
        """Count one answered request; `first_byte_s` is None if no byte of a body was sent."""
        _of(REQUESTS, self.role, path, status).inc()
        _of(REQUEST_SECONDS, self.role, path).observe(total_s)
        if first_byte_s is not None:
            _of(FIRST_BYTE_SECONDS, self.role, path).observe(first_byte_s)

    def watch(self, admission: Admission) -> None:
        """Report the slots in use and the queue length whenever metrics are read."""
        IN_USE.labels(self.role).set_function(lambda: admission.in_use)
        QUEUED.labels(self.role).set_function(lambda: admission.waiting)


def render() -> bytes:
    """Return this process's metrics in Prometheus' text format."""
    return generate_latest(REGISTRY)


_METADATA = re.compile(r"# (?P<kind>HELP|TYPE) (?P<name>[a-zA-Z_:][\w:]*) ")
_LABEL = r"[a-zA-Z_]\w*=\"(?:[^\"\\]|\\.)*\""
# A sample may be followed by an exemplar (OpenMetrics), for which this format has no place.
_SAMPLE = re.compile(
    r"(?P<name>[a-zA-Z_:][\w:]*)"
    rf"(?:\{{(?P<labels>(?:{_LABEL},? *)*)\}})? +"
    r"(?P<value>[+-]?(?:\d+\.?\d*(?:[eE][+-]?\d+)?|Inf|NaN))(?![^\s#])(?: +-?\d+)?"
)
_LABELS = re.compile(_LABEL)
_SUFFIXES = ("_bucket", "_count", "_sum")


# By name: the lines HELP and TYPE, and those of samples.
_Families = defaultdict[str, tuple[dict[str, str], list[str]]]


def merge(own: bytes, of_backends: dict[str, bytes]) -> bytes:
    """Return `own` and the backends' text as one, families once, samples labelled `backend`.

    If a sample has that label already, from a backend's own backend, it becomes a path:
    `chat-0/chat-1`.
    """
    families: _Families = defaultdict(lambda: ({}, []))
    _collect(own.decode(), None, families)
    for name, text in of_backends.items():
        _collect(text.decode("utf-8", "replace"), name, families)
    lines = (line for about, samples in families.values() for line in (*about.values(), *samples))
    return "".join(f"{line}\n" for line in lines).encode()


def _collect(text: str, backend: str | None, families: _Families) -> None:
    declared = ""
    for line in text.splitlines():
        if metadata := _METADATA.match(line):
            declared = metadata["name"]
            families[declared][0].setdefault(metadata["kind"], line)
        elif sample := _SAMPLE.match(line):
            name = sample["name"]
            if name in {declared, *(declared + suffix for suffix in _SUFFIXES)}:
                name = declared
            told = _labelled(sample, backend) if backend else sample[0]
            families[name][1].append(told)


def _labelled(sample: re.Match[str], backend: str) -> str:
    labels = _LABELS.findall(sample["labels"] or "")
    key = 'backend="'
    way = next((label for label in labels if label.startswith(key)), None)
    if way is not None:
        labels.remove(way)
        backend = f"{backend}/{way[len(key) : -1]}"
    listed = ",".join([f'{key}{backend}"', *labels])
    return f"{sample['name']}{{{listed}}} {sample['value']}"


request_id_var: ContextVar[bytes] = ContextVar("request_id", default=b"-")


def _with_request_id(record: logging.LogRecord) -> bool:
    record.request_id = request_id_var.get().decode()
    return True


def configure_log(role: str, *, level: str = "INFO", access: bool = True) -> None:
    """Send `bentovox` loggers to standard error as `time level [role] [request id] message`."""
    logger = logging.getLogger("bentovox")
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_with_request_id)
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
