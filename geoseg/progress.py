"""Progress for people: on a terminal or in a notebook; quiet elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from geoseg.run import Progress


@contextmanager
def bar(title: str, *, quiet: bool = False) -> Iterator[Callable[[Progress], None]]:
    """Show blocks, Mpx/s and time left; nothing where nobody looks.

    Args:
        title: What is at work, such as the device and precision.
        quiet: Nothing anywhere.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    shown = not quiet and (console.is_terminal or console.is_jupyter)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("blocks · {task.fields[speed]} ·"),
        TimeElapsedColumn(),
        TextColumn("·"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Bar(*columns, console=console, disable=not shown) as lines:
        task = lines.add_task(title, total=None, speed="starting")
        begun = perf_counter()

        def show(now: Progress) -> None:
            speed = now.pixels / 1e6 / max(perf_counter() - begun, 1e-9)
            failed = f" · {now.failed} failed" if now.failed else ""
            lines.update(
                task,
                total=now.total,
                completed=now.blocks,
                speed=f"{speed:.1f} Mpx/s{failed}" if now.pixels else "starting",
            )

        yield show


@contextmanager
def steps(title: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Show how many of how many steps are done; nothing where nobody looks.

    Args:
        title: What is at work.
        quiet: Nothing anywhere.
    """
    from rich.console import Console
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    shown = not quiet and (console.is_terminal or console.is_jupyter)
    with Bar(console=console, disable=not shown, transient=True) as lines:
        task = lines.add_task(title, total=None)
        yield lambda done, total: lines.update(task, completed=done, total=total)
