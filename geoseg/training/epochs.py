"""How a training goes, for people: on a terminal or in a notebook; quiet elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    import lightning as L  # noqa: N812 - as its documentation calls it


class EpochBar(Callback):  # type: ignore[misc]
    """Epoch, loss and validation figures, and how long it will take at most."""

    def __init__(self, console: Console | None = None) -> None:
        """Take note of where to draw; on standard error by default."""
        self._console = console or Console(stderr=True)
        shown = self._console.is_terminal or self._console.is_jupyter
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            TextColumn("{task.fields[figures]} ·"),
            TimeElapsedColumn(),
            TextColumn("·"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self._console,
            disable=not shown,
        )
        self._task = self._bar.add_task("train", total=None, epoch="-", figures="")
        self._figures = "starting"

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to the processes that train together, where it is drawn."""
        return EpochBar, ()

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:  # noqa: ANN401
        """Show the bar, in the first of several processes."""
        total = trainer.max_epochs * trainer.num_training_batches
        done = trainer.current_epoch * trainer.num_training_batches
        self._bar.update(self._task, total=total, completed=done)
        if trainer.is_global_zero:
            self._bar.start()

    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:  # noqa: ANN401
        """Say which epoch begins."""
        epoch = f"{trainer.current_epoch + 1} of {trainer.max_epochs}"
        self._bar.update(self._task, epoch=epoch, figures=self._figures)

    def on_train_batch_end(self, *_: Any) -> None:  # noqa: ANN401
        """One step more."""
        self._bar.advance(self._task)

    def on_train_epoch_end(self, trainer: L.Trainer, *_: Any) -> None:  # noqa: ANN401
        """Say what the epoch has brought."""
        found = trainer.callback_metrics
        # One figure: with more, 80 columns have no room for the time that is left.
        names = {"train_loss": "loss", "mean_iou": "mean IoU", "ap50": "AP50"}
        self._figures = ", ".join(
            f"{shown} {float(found[name]):.3f}"
            for name, shown in names.items()
            if name in found
        )
        self._bar.update(self._task, figures=self._figures)

    def on_fit_end(self, *_: Any) -> None:  # noqa: ANN401
        """Leave the bar as it is."""
        self._bar.stop()

    def on_exception(self, *_: Any) -> None:  # noqa: ANN401
        """Give the terminal back."""
        self._bar.stop()
