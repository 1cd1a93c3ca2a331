"""Steps of tasks that are still at work, such as windows of a block, counted meanwhile.

A block may take minutes, and a step a second. Every process counts its own; workers of
Dask tell theirs as events, once a second at most.
"""

from __future__ import annotations

import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed import Client

_TOPIC = "geoseg-steps"
_EVERY = 1.0
"""Seconds between two events of a worker."""


@dataclass(slots=True)
class Count:
    """Steps of this process."""

    total: int = 0
    """So many since it began."""
    _told: int = 0
    _told_at: float = -1e9
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, steps: int) -> None:
        """Count steps; called in the task's own thread."""
        with self._lock:
            self.total += steps
            if "distributed" not in sys.modules:
                self._told = self.total  # nobody is to be told
                return
            now, new = time.monotonic(), self.total - self._told
            if now - self._told_at < _EVERY:
                return
            self._told, self._told_at = self.total, now
        from distributed import get_worker

        with suppress(ValueError):  # this is no worker
            get_worker().log_event(_TOPIC, new)


COUNT = Count()
"""Of this process."""


class Heard:
    """Steps that the workers of a cluster tell of, as long as one listens."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.total = 0
        client.subscribe_topic(_TOPIC, self._hear)

    def _hear(self, event: tuple[float, Any]) -> None:
        _, steps = event
        self.total += int(steps)

    def close(self) -> None:
        """Listen no more."""
        if self._client.status == "running":
            self._client.unsubscribe_topic(_TOPIC)
