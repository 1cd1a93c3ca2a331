"""Training curves as CSV and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from geoseg.core.files import write_text
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
    table = pd.DataFrame(rows)
    table = table[[name for name in _COLUMNS if name in table]]
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / CSV, table.to_csv(index=False))
    try:
        draw_curves(table.to_dict("list"), folder / PNG, best=best)
    except MissingExtraError:
        return  # the numbers are written; a picture needs the extra
