"""Ctrl-C and SIGTERM where they do no harm.

Python raises wherever the main thread happens to be. That may be between taking a lock
and the code that gives it back (those of `threading` and `concurrent.futures` are taken
in Python), and then whoever waits for the lock waits for ever.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
Answer = Callable[[int, int, "InHand | None"], None]
_answers: list[Answer] = []


@dataclass(frozen=True, slots=True)
class InHand:
    """Tasks that are finished before a signal ends the program."""

    tasks: int
    seconds: float | None
    """How long the slowest of late took; None where none has ended yet."""


def answer_with(answer: Answer) -> None:
    """Let a program answer signals that are held back, at once.

    Args:
        answer: Called with the signal, how many came so far, and what is finished
            first; None where nothing is.
    """
    _answers[:] = [answer]


@contextmanager
def held_back(
    in_hand: Callable[[], InHand | None] = lambda: None,
) -> Iterator[Callable[[], None]]:
    """Hold SIGINT and SIGTERM back; yield what lets them through, at a safe place.

    One that comes while another is held back is let through at once. Signals that
    no Python code handles are left alone, and so are all in other threads than the
    main one, where they never come.

    Args:
        in_hand: Says what is finished first.
    """
    came: list[int] = []
    before = _handlers() if _is_main() else {}

    def note(number: int, frame: Any) -> None:  # noqa: ANN401 - a signal handler's
        came.append(number)
        for answer in _answers:
            answer(number, len(came), in_hand())
        if len(came) > 1:
            let_through(frame)

    def let_through(frame: Any = None) -> None:  # noqa: ANN401
        if came:
            number = came[-1]
            came.clear()
            restore()
            before[number](number, frame)

    def restore() -> None:
        for number, handler in before.items():
            if _is_main() and signal.getsignal(number) is note:
                signal.signal(number, handler)

    for number in before:
        signal.signal(number, note)
    try:
        yield let_through
    finally:
        restore()
    let_through()


def _handlers() -> dict[int, Callable[..., Any]]:
    """Return the functions that handle the signals, of those that are handled."""
    found = {number: signal.getsignal(number) for number in _SIGNALS}
    return {
        number: handler
        for number, handler in found.items()
        if callable(handler) and not isinstance(handler, signal.Handlers)
    }


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()
