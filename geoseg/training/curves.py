"""Training curves as CSV and as a picture."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from geoseg.errors import MissingExtraError
from geoseg.viz.figures import draw_curves

CSV, PNG = "curves.csv", "curves.png"
_COLUMNS = (
    "epoch", "train_loss", "val_loss", "mean_iou", "overall", "ap50", "pq", "f1",
    "seconds",
)  # fmt: skip


def write_curves(
    rows: Sequence[dict[str, Any]], folder: Path, *, best: int | None = None
) -> None:
    """Write `curves.csv` and, where matplotlib is there, `curves.png`.

    Args:
        rows: one per epoch: losses and validation figures by name.
        folder: where.
        best: the epoch that was kept.
    """
    if not rows:
        return
    columns = [name for name in _COLUMNS if any(name in row for row in rows)]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / CSV).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    table = {name: [row.get(name, float("nan")) for row in rows] for name in columns}
    try:
        draw_curves(table, folder / PNG, best=best)
    except MissingExtraError:
        return  # the numbers are written; a picture needs the extra
