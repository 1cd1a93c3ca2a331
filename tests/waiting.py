"""Waiting for what other threads, processes and pages do."""

import time


def until(condition, seconds=60, said=lambda: "it never came about"):
    """Wait until a condition holds, and fail where that takes longer."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, said()
        time.sleep(0.05)
