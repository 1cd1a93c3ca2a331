"""Weights and integer sums: how overlapping windows become one map without seams.

Scores become 16-bit probabilities, weights are integers whose sum over all windows of a
pixel is exactly 2^14, and the products are added up in int32. Integer addition does not
care about order, so the sums and the labels from them are the same for any block size,
order of blocks, number of workers, or resume point. No division, no weight raster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, overload

import numpy as np
from numba import njit

from geoseg.core.grid import Window

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

WEIGHT_1D = 128
"""Weights of all windows along one axis add up to this at every pixel."""
WEIGHT = WEIGHT_1D * WEIGHT_1D
"""Weights of all windows add up to this at every pixel."""
SCORE = 65535
"""Probability 1 as an integer score. `SCORE * WEIGHT` < 2^30 fits int32."""

Activation = Literal["softmax", "sigmoid", "none"]


def ramp(side: int, overlap: int, *, before: bool, after: bool) -> NDArray[np.int32]:
    """Return the weights of a window along one axis.

    Args:
        side: Side of the window in pixels.
        overlap: Pixels shared with each neighbouring window.
        before: Whether there is a window before; the weights then ramp up over the
            first `overlap` pixels, else they start in full.
        after: Whether there is a window after; likewise at the end.

    Returns:
        (side,) int32. Where two windows overlap their weights add up to `WEIGHT_1D`.
    """
    weights = np.full(side, WEIGHT_1D, dtype=np.int32)
    up = (2 * np.arange(overlap) + 1) * WEIGHT_1D // (2 * max(overlap, 1))
    if before:
        weights[:overlap] = up
    if after:
        weights[side - overlap :] = WEIGHT_1D - up
    return weights


def add_window(
    sums: NDArray[np.int32] | torch.Tensor,
    scores: NDArray[np.float32] | torch.Tensor,
    *,
    at_y: int,
    at_x: int,
    weight_y: NDArray[np.int32],
    weight_x: NDArray[np.int32],
    activation: Activation,
) -> bool | torch.Tensor:
    """Add one window's weighted scores to the sums, in place.

    Args:
        sums: (class, y, x) int32, C-contiguous; a tensor where `scores` is one.
        scores: (class, y, x): logits, or probabilities where `activation` is `none`.
            float32 and C-contiguous as an array, any floating dtype as a tensor.
        at_y: Row of `sums` where the window begins; what lies outside is left out.
        at_x: Column likewise.
        weight_y: (y,) int32.
        weight_x: (x,) int32.
        activation: How scores become probabilities.

    Returns:
        Whether all scores were finite; where not, the sums are not to be used. On a
        GPU a 0-d tensor, so that nothing waits for the device until it is looked at.
    """
    top, left = max(0, -at_y), max(0, -at_x)
    bottom = min(scores.shape[1], sums.shape[1] - at_y)
    right = min(scores.shape[2], sums.shape[2] - at_x)
    if isinstance(sums, np.ndarray):
        inside = (top, bottom, left, right)
        return bool(
            _add_window(
                sums, scores, at_y, at_x, inside, weight_y, weight_x, activation
            )
        )
    return _add_window_torch(
        sums[:, at_y + top : at_y + bottom, at_x + left : at_x + right],
        scores[:, top:bottom, left:right],  # type: ignore[arg-type]
        weight_y[top:bottom],
        weight_x[left:right],
        activation,
    )


def _add_window_torch(
    sums: torch.Tensor,
    scores: torch.Tensor,
    weight_y: NDArray[np.int32],
    weight_x: NDArray[np.int32],
    activation: Activation,
) -> torch.Tensor:
    """Do the same on a GPU, where the scores already are."""
    import torch

    scores = scores.float()
    y = torch.from_numpy(weight_y).to(sums.device)
    x = torch.from_numpy(weight_x).to(sums.device)
    sums += shares_of(scores, activation, axis=0) * (y[:, None] * x)
    return torch.isfinite(scores).all()


def shares_of(
    scores: torch.Tensor, activation: Activation, *, axis: int
) -> torch.Tensor:
    """Return scores in fp32 as int32 shares 0 … `SCORE`.

    Args:
        scores: Of any shape, classes along `axis`.
        activation: How scores become probabilities.
        axis: Along which classes lie.
    """
    if activation == "softmax":
        probability = scores.softmax(axis)
    elif activation == "sigmoid":
        probability = scores.sigmoid()
    else:
        probability = scores.clamp(0, 1)
    return (probability * SCORE + 0.5).int()


def labels_of(
    sums: NDArray[np.int32] | torch.Tensor, inside: Window, values: NDArray[np.integer]
) -> tuple[NDArray[np.integer], NDArray[np.int32]]:
    """Return the winning class of every pixel, and its score.

    Args:
        sums: (class, y, x) int32, C-contiguous.
        inside: Which of its pixels to label; they must be complete.
        values: (class,) the class table's values, in channel order.

    Returns:
        Labels (y, x) in the dtype of `values`, the first of equal classes wins; and the
        winning sums (y, x) int32, `SCORE * WEIGHT` at most.
    """
    if isinstance(sums, np.ndarray):
        corner = (inside.y, inside.bottom, inside.x, inside.right)
        return _labels_of(sums, corner, values)  # type: ignore[no-any-return]
    # Of equal classes max() promises the first.
    best, first = sums[:, *inside.slices].max(0)
    return values[first.cpu().numpy()], best.cpu().numpy()


@overload
def probability_bytes(sums: NDArray[np.int32]) -> NDArray[np.uint8]: ...
@overload
def probability_bytes(sums: torch.Tensor) -> torch.Tensor: ...
def probability_bytes(
    sums: NDArray[np.int32] | torch.Tensor,
) -> NDArray[np.uint8] | torch.Tensor:
    """Return sums as probability x 254, rounded half up; 255 is left for nodata."""
    full = SCORE * WEIGHT
    if not isinstance(sums, np.ndarray):
        return ((sums.long() * 254 + full // 2) // full).byte()
    return ((sums.astype(np.int64) * 254 + full // 2) // full).astype(np.uint8)


@njit(cache=True, nogil=True, inline="always")
def _exp(x: np.float32) -> np.float32:
    """Return e^x for x <= 0 within 2 ulp; plain arithmetic, so LLVM vectorises it.

    2^t is split into an exponent, set as bits, and a polynomial on [0, 1) (Cephes).
    """
    x = x if x > np.float32(-87.0) else np.float32(-87.0)
    t = x * np.float32(1.4426950408889634)
    n = np.floor(t)
    f = t - n
    p = np.float32(1.5353362e-4)
    p = p * f + np.float32(1.3398874e-3)
    p = p * f + np.float32(9.6184370e-3)
    p = p * f + np.float32(5.5503324e-2)
    p = p * f + np.float32(2.4022649e-1)
    p = p * f + np.float32(6.9314720e-1)
    p = p * f + np.float32(1.0)
    bits = (np.int32(n) + np.int32(127)) << np.int32(23)
    return p * np.int32(bits).view(np.float32)  # type: ignore[no-any-return]


@njit(cache=True, nogil=True)
def _softmax_row(scores: NDArray[np.float32], y: int, out: NDArray[np.float32]) -> None:
    """Turn one row (class, x) of logits into 0 … 65535."""
    classes, _, width = scores.shape
    high = scores[0, y].copy()
    total = np.zeros(width, np.float32)
    for c in range(1, classes):
        for x in range(width):
            high[x] = high[x] if high[x] > scores[c, y, x] else scores[c, y, x]
    for c in range(classes):
        for x in range(width):
            e = _exp(scores[c, y, x] - high[x])
            out[c, x] = e
            total[x] += e
    for x in range(width):
        total[x] = np.float32(SCORE) / total[x]
    for c in range(classes):
        for x in range(width):
            out[c, x] *= total[x]


@njit(cache=True, nogil=True)
def _sigmoid_row(scores: NDArray[np.float32], y: int, out: NDArray[np.float32]) -> None:
    """Turn one row (class, x) of logits into 0 … 65535, every class by itself."""
    classes, _, width = scores.shape
    one = np.float32(1.0)
    for c in range(classes):
        for x in range(width):
            s = scores[c, y, x]
            p = one / (one + _exp(-abs(s)))
            out[c, x] = np.float32(SCORE) * (p if s >= 0 else one - p)


@njit(cache=True, nogil=True)
def _clamp_row(scores: NDArray[np.float32], y: int, out: NDArray[np.float32]) -> None:
    """Turn one row (class, x) of probabilities into 0 … 65535."""
    classes, _, width = scores.shape
    for c in range(classes):
        for x in range(width):
            p = scores[c, y, x]
            p = p if p > np.float32(0.0) else np.float32(0.0)
            out[c, x] = np.float32(SCORE) * (
                p if p < np.float32(1.0) else np.float32(1.0)
            )


@njit(cache=True, nogil=True)
def _add_window(
    sums: NDArray[np.int32],
    scores: NDArray[np.float32],
    at_y: int,
    at_x: int,
    inside: tuple[int, int, int, int],
    weight_y: NDArray[np.int32],
    weight_x: NDArray[np.int32],
    activation: str,
) -> bool:
    # Whole contiguous arrays and offsets, not views: LLVM vectorises along x only
    # where it knows that neighbours in x are neighbours in memory.
    classes, _, width = scores.shape
    top, bottom, left, right = inside
    row = np.empty((classes, width), np.float32)
    # 0 x finite = 0; NaN and infinities stay NaN. Per column, so that it vectorises.
    finite = np.zeros(width, np.float32)
    for y in range(top, bottom):
        if activation == "softmax":
            _softmax_row(scores, y, row)
        elif activation == "sigmoid":
            _sigmoid_row(scores, y, row)
        else:
            _clamp_row(scores, y, row)
        for c in range(classes):
            out = sums[c, at_y + y]
            for x in range(width):
                finite[x] += scores[c, y, x] * np.float32(0.0)
            for x in range(left, right):
                score = np.int32(row[c, x] + np.float32(0.5))
                out[at_x + x] += score * np.int32(weight_y[y] * weight_x[x])
    return not np.isnan(finite).any()


@njit(cache=True, nogil=True)
def _labels_of(
    sums: NDArray[np.int32],
    corner: tuple[int, int, int, int],
    values: NDArray[np.integer],
) -> tuple[NDArray[np.integer], NDArray[np.int32]]:
    top, bottom, left, right = corner
    width = right - left
    labels = np.empty((bottom - top, width), values.dtype)
    best = np.empty((bottom - top, width), np.int32)
    index = np.empty(width, np.int32)
    for y in range(bottom - top):
        index[:] = 0
        high = best[y]
        for x in range(width):
            high[x] = sums[0, top + y, left + x]
        for c in range(1, sums.shape[0]):
            for x in range(width):
                score = sums[c, top + y, left + x]
                better = score > high[x]
                high[x] = score if better else high[x]
                index[x] = c if better else index[x]
        for x in range(width):
            labels[y, x] = values[index[x]]
    return labels, best
