"""Progress for people: on a terminal or in a notebook; quiet elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

from geoseg.core.views import in_notebook
from geoseg.execution.notebook_progress import Tell, clock, line


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a run is; given to whoever shows it."""

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


@contextmanager
def bar(title: str, *, quiet: bool = False) -> Iterator[Callable[[Progress], None]]:
    """Show blocks, Mpx/s and time left; nothing where nobody looks.

    Args:
        title: What is at work, such as the device and precision.
        quiet: Nothing anywhere.
    """
    if not quiet and in_notebook():
        with line(title) as tell:
            yield _blocks_teller(tell)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
    )
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    shown = not quiet and console.is_terminal
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("blocks · {task.fields[speed]} ·"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    timer = _timer()

    def show(now: Progress) -> None:
        seconds, left = timer(now)
        lines.update(
            task,
            total=now.total,
            completed=now.blocks,
            speed=_speed(now, seconds),
            left="" if left is None else f"· about {clock(left)} left",
        )

    with Bar(*columns, console=console, disable=not shown) as lines:
        task = lines.add_task(title, total=None, speed="starting", left="")
        yield show


def _timer() -> Callable[[Progress], tuple[float, float | None]]:
    """Return what tells the seconds so far, and how many are left where that is known.

    Blocks are done in lumps, once their neighbours are inferred; so it is by those that
    are inferred that the time is reckoned, while there are any to infer.
    """
    begun, first = perf_counter(), None

    def told(now: Progress) -> tuple[float, float | None]:
        nonlocal first
        first = now if first is None else first
        seconds = perf_counter() - begun
        for then, here in ((first.inferred, now.inferred), (first.blocks, now.blocks)):
            if then < here < now.total:
                return seconds, seconds / (here - then) * (now.total - here)
        return seconds, None

    return told


def _speed(now: Progress, seconds: float) -> str:
    if not now.pixels:
        return "starting"
    failed = f" · {now.failed} failed" if now.failed else ""
    return f"{now.pixels / 1e6 / max(seconds, 1e-9):.1f} Mpx/s{failed}"


def _blocks_teller(tell: Tell) -> Callable[[Progress], None]:
    """Return what tells a line how many blocks are done, how fast, how long yet."""
    timer = _timer()

    def show(now: Progress) -> None:
        seconds, left = timer(now)
        words = [f"{now.blocks:,} of {now.total:,} blocks", _speed(now, seconds)]
        words.append(clock(seconds))
        if left is not None:
            words.append(f"about {clock(left)} left")
        tell(now.blocks, now.total, " · ".join(words))

    return show


@contextmanager
def steps(title: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Show how many of how many steps are done; nothing where nobody looks.

    Args:
        title: What is at work.
        quiet: Nothing anywhere.
    """
    if not quiet and in_notebook():
        with line(title) as tell:
            yield lambda done, total: tell(done, total, f"{done:,} of {total:,}")
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    shown = not quiet and console.is_terminal
    with Bar(console=console, disable=not shown, transient=True) as lines:
        task = lines.add_task(title, total=None)
        yield lambda done, total: lines.update(task, completed=done, total=total)
