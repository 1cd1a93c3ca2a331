"""Progress: on a terminal or in a notebook; quiet elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import TypeVar

from geoseg.core.text import counted
from geoseg.core.views import in_notebook
from geoseg.execution.notebook_progress import Update, clock, line

T = TypeVar("T")
_SHORTEST = 0.05
"""Seconds of work of which a speed is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is."""

    blocks: int
    """Blocks that are done, those of earlier runs too."""
    total: int
    """All blocks."""
    pixels: int
    """Pixels of the blocks inferred by this run."""
    windows: int
    """Windows inferred by this run."""
    inferred: int = 0
    """Blocks that are inferred, done or not, those of earlier runs too."""
    failed: int = 0
    """Blocks that failed."""
    cells: int = 0
    """Windows of which the answers are there, also of blocks that are at work."""
    all_cells: int = 0
    """All windows; 0 where they are not counted."""
    gpu_share: float | None = None
    """Share of the time that GPUs were at work; None without any."""


def reported(
    items: Iterable[T], total: int, progress: Callable[[int, int], None] | None
) -> Iterator[T]:
    """Yield items, and tell after each how many of how many are done."""
    for done, item in enumerate(items, start=1):
        yield item
        if progress is not None:
            progress(done, total)


@contextmanager
def bar(title: str, *, quiet: bool = False) -> Iterator[Callable[[Progress], None]]:
    """Show blocks, Mpx/s and time left; nothing where neither terminal nor notebook is.

    Args:
        title: What is at work, such as the device and precision.
        quiet: Nothing anywhere.
    """
    with _line(title, quiet=quiet, transient=False) as update:
        timer = _timer()

        def show(now: Progress) -> None:
            seconds, left = timer(now)
            done, total = now.blocks, now.total
            words = [f"{done:,} of {counted(total, 'block')}", _speed(now, seconds)]
            if now.cells < now.all_cells > now.total:
                done, total = now.cells, now.all_cells
                words.insert(1, f"{done:,} of {total:,} windows")
            if left is not None:
                words.append(f"about {clock(left)} left")
            update(done, total, " · ".join(word for word in words if word))

        yield show


@contextmanager
def steps(title: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Show how many of how many steps are done, where `bar` would show blocks.

    Args:
        title: What is at work.
        quiet: Nothing anywhere.
    """
    with _line(title, quiet=quiet, transient=True) as update:
        yield lambda done, total: update(done, total, f"{done:,} of {total:,}")


@contextmanager
def _line(title: str, *, quiet: bool, transient: bool) -> Iterator[Update]:
    """Show a bar, the time since it began, and words; in a notebook as HTML."""
    if not quiet and in_notebook():
        with line(title) as update:
            yield update
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    hidden = quiet or not console.is_terminal
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[words]}"),
    )
    with Bar(*columns, console=console, disable=hidden, transient=transient) as lines:
        task = lines.add_task(title, total=None, words="starting")
        yield lambda done, total, words: lines.update(
            task, completed=done, total=total, words=words
        )


def _timer() -> Callable[[Progress], tuple[float, float | None]]:
    """Return a function of progress: the seconds so far, and those left if known.

    Blocks are done in lumps, once their neighbours are inferred; so the time left
    follows from their windows, or from those that are inferred, while there are any.
    """
    begun, first = perf_counter(), None

    def times(now: Progress) -> tuple[float, float | None]:
        nonlocal first
        first = now if first is None else first
        seconds = perf_counter() - begun
        for then, here, total in (
            (first.cells, now.cells, now.all_cells),
            (first.inferred, now.inferred, now.total),
            (first.blocks, now.blocks, now.total),
        ):
            if then < here < total:
                return seconds, seconds / (here - then) * (total - here)
        return seconds, None

    return times


def _speed(now: Progress, seconds: float) -> str:
    if not now.pixels:
        return "" if now.cells else "starting"
    failed = f" · {now.failed} failed" if now.failed else ""
    if seconds < _SHORTEST:  # nothing was seen of the work
        return failed.lstrip(" ·")
    used = "" if now.gpu_share is None else f" · GPU {now.gpu_share:.0%} used"
    return f"{now.pixels / 1e6 / seconds:.1f} Mpx/s{used}{failed}"
