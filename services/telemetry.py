"""Prometheus metrics of every role.

Under `bentoml serve` all processes of one machine write into one PROMETHEUS_MULTIPROC_DIR, vLLM's
engine included, so that any role's `/metrics` shows the families of all of them, each once.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

if TYPE_CHECKING:
    from services.admission import Admission

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
IN_USE = Gauge(
    "bentovox_slots_in_use", "Slots at work.", ["role"], multiprocess_mode="livesum"
)
QUEUED = Gauge(
    "bentovox_queue_length", "Requests waiting for a slot.", ["role"], multiprocess_mode="livesum"
)
AUDIO_SECONDS = Counter("bentovox_audio_seconds", "Seconds of audio spoken.", ["role", "format"])

CONTENT_TYPE = CONTENT_TYPE_LATEST


@dataclass(frozen=True)
class Observation:
    """One answered request; times in seconds, `first_byte_s` None where no body byte was sent."""

    path: str
    status: int
    total_s: float
    first_byte_s: float | None


class RoleMetrics:
    """One role's metrics, with label look-ups done once a path."""

    def __init__(self, role: str) -> None:
        self.role = role
        self._requests: dict[tuple[str, int], Counter] = {}
        self._seconds: dict[str, tuple[Histogram, Histogram]] = {}
        self._in_use = IN_USE.labels(role)
        self._queued = QUEUED.labels(role)
        self._rejected = REJECTED.labels(role)

    def observe(self, seen: Observation) -> None:
        """Count one answered request."""
        counter = self._requests.get((seen.path, seen.status))
        if counter is None:
            counter = REQUESTS.labels(self.role, seen.path, str(seen.status))
            self._requests[seen.path, seen.status] = counter
        counter.inc()
        pair = self._seconds.get(seen.path)
        if pair is None:
            pair = (
                REQUEST_SECONDS.labels(self.role, seen.path),
                FIRST_BYTE_SECONDS.labels(self.role, seen.path),
            )
            self._seconds[seen.path] = pair
        pair[0].observe(seen.total_s)
        if seen.first_byte_s is not None:
            pair[1].observe(seen.first_byte_s)

    def rejected(self) -> None:
        """Count one refusal for want of a slot."""
        self._rejected.inc()

    def load(self, admission: Admission) -> None:
        """Show how many slots are in use and how long the queue is."""
        self._in_use.set(admission.in_use)
        self._queued.set(admission.waiting)

    def audio_seconds(self, seconds: float, format_: str) -> None:
        """Count seconds of audio spoken in one format."""
        AUDIO_SECONDS.labels(self.role, format_).inc(seconds)


def render() -> bytes:
    """Return all families in Prometheus' text format: of this machine under BentoML, else ours."""
    directory = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if not directory:
        return generate_latest(REGISTRY)
    _forget_dead_processes(Path(directory))
    registry = CollectorRegistry()
    MultiProcessCollector(registry, directory)
    return generate_latest(registry)


def _forget_dead_processes(directory: Path) -> None:
    """Drop live gauges of processes that were killed, so that no queue is counted for ever."""
    for file in directory.glob("gauge_live*_*.db"):
        pid = file.stem.rpartition("_")[2]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            mark_process_dead(int(pid), str(directory))
