"""How many tasks this process is at."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class Tasks:
    """What a process is at: while it works, more windows may come to its device."""

    count: int = 0
    bringing: int = 0
    """Those that bring windows, or have brought them."""
    more: bool = True
    """Whether others that bring windows may follow those."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def expected(self) -> int:
        """How many tasks may bring windows, or be followed by one that does."""
        return self.count if self.more else self.bringing

    @contextmanager
    def one_more(self, *, brings: bool = True, more: bool = True) -> Iterator[None]:
        """Count one meanwhile.

        Args:
            brings: Whether it brings windows.
            more: Where it does: whether others that do may follow.
        """
        self._add(1, brings)
        if brings:
            self.more = more
        try:
            yield
        finally:
            self._add(-1, brings)

    def _add(self, one: int, brings: bool) -> None:
        with self._lock:
            self.count += one
            self.bringing += one * brings
