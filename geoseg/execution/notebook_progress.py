"""Progress as a line of a notebook: HTML that is updated, without widgets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from time import monotonic

Update = Callable[[int, int | None, str], None]
"""Takes how much is done, of how much, and words beside the bar."""
_EVERY = 0.2  # seconds between two updates; more would only keep the browser busy


@contextmanager
def line(title: str, *, every: float = _EVERY) -> Iterator[Update]:
    """Show a bar with words under the cell, until the block ends; then its last state.

    Jupyter, VS Code and Colab show it as it is: it is HTML that is updated.
    """
    from IPython.display import HTML, display

    shown = display(HTML(bar_html(title, 0, None, "starting")), display_id=True)
    begun, last, latest = monotonic(), 0.0, ""

    def update(done: int, total: int | None, words: str) -> None:
        nonlocal last, latest
        latest = bar_html(title, done, total, f"{clock(monotonic() - begun)} · {words}")
        if monotonic() - last > every:
            last = monotonic()
            shown.update(HTML(latest))

    try:
        yield update
    finally:
        if latest:
            shown.update(HTML(latest))


def bar_html(title: str, done: int, total: int | None, words: str) -> str:
    """Return a bar as HTML; without a total it moves to and fro."""
    state = "" if total is None else f' max="{max(total, 1)}" value="{done}"'
    return (
        f'<div style="white-space:nowrap"><label>{escape(title)} '
        f'<progress{state} style="vertical-align:middle;width:220px"></progress>'
        f"</label> {escape(words)}</div>"
    )


def clock(seconds: float) -> str:
    """Return seconds as minutes, and hours where there are any.

    >>> clock(5), clock(125), clock(7300)
    ('0:05', '2:05', '2:01:40')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
