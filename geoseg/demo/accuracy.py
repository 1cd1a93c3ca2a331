"""How well classes agree with the truth, where the truth is known everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.demo.scene import CLASSES, TRUTH_NODATA

if TYPE_CHECKING:
    from numpy.typing import NDArray


def confusion(truth: NDArray[Any], found: NDArray[Any]) -> NDArray[np.int64]:
    """Count pixels by true class (rows) and found class (columns).

    Args:
        truth: class values of any shape; those outside the table are left out.
        found: class values of the same shape; where they are outside the table (nodata)
            and the truth is not, the last column counts them.

    Returns:
        (class, class + 1) int64.
    """
    n = len(CLASSES)
    valid = (truth != TRUTH_NODATA) & (truth < n)
    columns = np.minimum(found[valid].astype(np.int64), n)
    pair = truth[valid].astype(np.int64) * (n + 1) + columns
    return np.bincount(pair, minlength=n * (n + 1)).reshape(n, n + 1)


def agreement(counts: NDArray[np.int64]) -> dict[str, Any]:
    """Return overall accuracy and the intersection over union of each class.

    Args:
        counts: from `confusion`.

    Returns:
        `accuracy` 0 … 1, and `iou` by class name; None where a class is neither true
        nor found anywhere.
    """
    right = counts.diagonal()
    union = counts.sum(1) + counts[:, : len(CLASSES)].sum(0) - right
    iou = {
        c.name: round(int(r) / int(u), 4) if u else None
        for c, r, u in zip(CLASSES, right, union, strict=True)
    }
    return {
        "accuracy": round(int(right.sum()) / max(int(counts.sum()), 1), 4),
        "iou": iou,
    }
