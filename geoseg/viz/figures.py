"""Pictures of results, by matplotlib (extra `plot`), without a screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geoseg.core.discretion import discreet
from geoseg.core.extras import require
from geoseg.core.files import made_folder, written

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from geoseg.accuracy.calibration import Calibration
    from geoseg.accuracy.evaluation import Evaluation


@discreet
def draw_evaluation(evaluation: Evaluation, folder: str | Path) -> list[Path]:
    """Draw the confusion matrix, the areas and, where known, the reliability diagram.

    Args:
        evaluation: what to draw.
        folder: where `confusion.png`, `areas.png` and `reliability.png` go.

    Returns:
        The files written.

    Raises:
        MissingExtraError: matplotlib is not installed.
        GeosegError: The folder cannot be made.
    """
    place = made_folder(folder)
    k = len(evaluation.classes)
    drawn = [_saved(_confusion(evaluation, k), place / "confusion.png")]
    if np.isfinite(evaluation.area_m2):
        drawn.append(_saved(_areas(evaluation, k), place / "areas.png"))
    if evaluation.calibration is not None:
        figure = _reliability(evaluation.calibration)
        drawn.append(_saved(figure, place / "reliability.png"))
    return drawn


def draw_curves(
    columns: Mapping[str, Sequence[float]], path: str | Path, *, best: int | None = None
) -> Path:
    """Draw training curves: losses on the left, validation figures on the right.

    Args:
        columns: what was logged at each epoch, by name; `epoch` is the x axis.
        path: the PNG to write.
        best: the epoch that was kept.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure, axes = _figure(2, (9, 3.6))
    losses = [n for n in columns if n.endswith("loss")]
    rest = [n for n in columns if n not in (*losses, "epoch", "seconds", "lr")]
    for ax, names, title in zip(
        axes, (losses, rest), ("loss", "validation"), strict=True
    ):
        for name in names:
            ax.plot(columns["epoch"], columns[name], marker=".", label=name)
        if best is not None:
            ax.axvline(best, color="0.7", linewidth=1)
        ax.set_xlabel("epoch")
        ax.set_title(title)
        if names:
            ax.legend(frameon=False)
    return _saved(figure, Path(path))


def _figure(columns: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    require("matplotlib", what="drawing", extra="plot")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(np.atleast_1d(figure.subplots(1, columns)))


def _saved(figure: Figure, path: Path) -> Path:
    with written(path) as part:
        figure.savefig(part, dpi=150)
    return path


def _confusion(evaluation: Evaluation, k: int) -> Figure:
    side = max(4.0, 0.6 * k + 2)
    figure, (ax,) = _figure(1, (side, side))
    counts = evaluation.accuracy.counts
    share = counts / np.maximum(counts.sum(axis=0, keepdims=True), 1)
    ax.imshow(share, vmin=0, vmax=1, cmap="Blues")
    names = evaluation.accuracy.names
    ax.set_xticks(range(k), names, rotation=45, ha="right")
    ax.set_yticks(range(k), names)
    ax.set_xlabel("reference")
    ax.set_ylabel("map")
    for row, column in np.ndindex(k, k):
        color = "white" if share[row, column] > 0.5 else "black"
        text = f"{share[row, column]:.2f}"
        ax.text(column, row, text, ha="center", va="center", color=color, fontsize=8)
    ax.set_title("share of each reference class")
    return figure


def _areas(evaluation: Evaluation, k: int) -> Figure:
    figure, (ax,) = _figure(1, (6, 0.45 * k + 1.5))
    areas = [a.scaled(1e-6) for a in evaluation.areas_m2()]
    rows = np.arange(k)
    ax.barh(
        rows,
        [a.value for a in areas],
        xerr=np.nan_to_num(
            [[a.value - a.low for a in areas], [a.high - a.value for a in areas]]
        ),
        color=[c.color for c in evaluation.classes],
        capsize=3,
    )
    if evaluation.accuracy.estimator != "census":
        mapped = evaluation.mapped_m2 * 1e-6
        ax.plot(mapped, rows, "k|", markersize=14, label="mapped")
        ax.legend(frameon=False)
    ax.set_yticks(rows, [c.name for c in evaluation.classes])
    ax.invert_yaxis()
    ax.set_xlabel("km², estimated, with interval")
    return figure


def _reliability(calibration: Calibration) -> Figure:
    figure, (ax,) = _figure(1, (4.5, 4.5))
    filled = calibration.n > 0
    ax.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    ax.plot(calibration.confidence[filled], calibration.accuracy[filled], marker="o")
    ax.bar(
        calibration.confidence[filled],
        calibration.n[filled] / calibration.n.sum(),
        width=0.03,
        color="0.85",
        label="share of pixels",
    )
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    ax.set_xlabel("confidence")
    ax.set_ylabel("accuracy")
    ax.set_title(f"expected calibration error {calibration.ece:.3f}")
    ax.legend(frameon=False)
    return figure
