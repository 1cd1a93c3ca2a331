"""Scenes of known objects, and models that see their truth through a window."""

from dataclasses import dataclass
from zlib import crc32

import numpy as np
from affine import Affine
from scipy import ndimage

from geoseg.core.classes import class_table
from geoseg.core.grid import Grid
from geoseg.models.card import Band, Card
from geoseg.models.contract import AnyModel, Objects
from geoseg.rasters.source import SourceBand


@dataclass(frozen=True)
class Scene:
    """A source whose one band holds the true id of every pixel."""

    truth: np.ndarray
    valid: np.ndarray | None = None
    name: str = "scene"

    @property
    def grid(self):
        height, width = self.truth.shape
        return Grid(
            crs="EPSG:32633",
            transform=Affine(1, 0, 4e5, 0, -1, 5e6),
            height=height,
            width=width,
        )

    @property
    def bands(self):
        return (SourceBand(name="1"),)

    @property
    def dtype(self):
        return self.truth.dtype

    @property
    def identity(self):
        return {"shape": list(self.truth.shape), "sum": int(self.truth.sum())}

    notes = ()

    def read(self, window):
        values = self.truth[window.slices][None].copy()
        valid = np.ones(values.shape[1:], bool)
        if self.valid is not None:
            valid = self.valid[window.slices].copy()
        return values, valid

    def select(self, _):
        return self


def card(window=64, overlap=16, task="instance", classes=("thing", "other"), **kw):
    kw = {"multiple": 1, **kw}
    return Card(
        name="oracle",
        bands=(Band(name="1"),),
        classes=class_table(classes),
        task=task,
        window=window,
        overlap=overlap,
        **kw,
    )


class Oracle(AnyModel):
    """Sees the truth inside its window, cut at the window.

    pieces: 4 or 8: each connected piece is an object; None: each true id is.
    classes: how many classes there are; an id's class is the id modulo that.
    """

    def __init__(self, card, pieces=None, classes=1):
        self.card, self.pieces, self.classes = card, pieces, classes
        self.windows = 0

    def predict(self, pixels):
        self.windows += len(pixels)
        return [self.see(window[0].astype(np.int64)) for window in pixels]

    def see(self, truth):
        ids, labels = np.unique(truth, return_inverse=True)
        labels = labels.reshape(truth.shape) + int(ids[0] != 0)
        ids = ids[ids != 0]
        if self.pieces:
            labels, owner = connected(labels, self.pieces)
            ids = ids[owner - 1]
        return Objects(
            labels=labels.astype(np.int32),
            classes=ids % self.classes,
            scores=np.full(len(ids), 0.9),
        )


def connected(labels, neighbours):
    """Return connected pieces of equal labels, and the label of each."""
    out = np.zeros(labels.shape, np.int64)
    owner = []
    structure = ndimage.generate_binary_structure(2, 1 if neighbours == 4 else 2)
    for label, box in enumerate(ndimage.find_objects(labels), 1):
        if box is None:
            continue
        pieces, n = ndimage.label(labels[box] == label, structure)
        out[box][pieces > 0] = pieces[pieces > 0] + len(owner)
        owner += [label] * n
    return out, np.array(owner, np.int64)


def numbered(truth):
    """Return the truth with ids 1 … N in the order of first pixels."""
    ids, first = np.unique(truth, return_index=True)
    first = first[ids != 0]
    ids = ids[ids != 0]
    out = np.zeros(int(truth.max()) + 1, np.uint32)
    out[ids[np.argsort(first)]] = np.arange(1, len(ids) + 1)
    return out[truth]


# --- scenes ---------------------------------------------------------------------------


def discs(height, width, n, radius=(2, 6), gap=1, seed=0):
    """Place up to n discs that keep a gap from each other."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((height, width), np.uint32)
    last = 0
    for _ in range(n):
        r = int(rng.integers(radius[0], radius[1] + 1))
        y, x = int(rng.integers(0, height)), int(rng.integers(0, width))
        y0, x0 = max(0, y - r - gap), max(0, x - r - gap)
        near = truth[y0 : y + r + gap + 1, x0 : x + r + gap + 1]
        if near.any():
            continue
        yy, xx = np.ogrid[y0 : y0 + near.shape[0], x0 : x0 + near.shape[1]]
        last += 1
        near[(yy - y) ** 2 + (xx - x) ** 2 <= r * r] = last
    return truth


def mosaic(height, width, n, seed=0):
    """Fill the scene with touching cells (Voronoi, made 4-connected)."""
    from scipy.spatial import cKDTree

    rng = np.random.default_rng(seed)
    sites = rng.random((n, 2)) * (height, width)
    yx = np.indices((height, width)).reshape(2, -1).T
    nearest = cKDTree(sites).query(yx)[1].reshape(height, width) + 1
    return connected(nearest, 4)[0].astype(np.uint32)


def snakes(height, width, step=6, thick=2):
    """One snake back and forth over everything, and another between its turns."""
    truth = np.zeros((height, width), np.uint32)
    for i, y in enumerate(range(1, height - thick, step)):
        truth[y : y + thick, 2 : width - 2] = 1
        x = 2 if i % 2 else width - 2 - thick
        if y + step < height - thick:
            truth[y : y + step + thick, x : x + thick] = 1
    free = ndimage.binary_erosion(truth == 0, np.ones((3, 3)), border_value=0)
    pieces, _ = ndimage.label(free)
    return np.where(truth, truth, np.where(pieces > 0, pieces + 1, 0)).astype(np.uint32)


def rings(height, width, step=9):
    """Concentric rings around the middle: the largest spans everything."""
    y, x = np.ogrid[:height, :width]
    far = np.maximum(abs(y - height // 2), abs(x - width // 2))
    truth = np.where(far % step < step - 1, far // step + 1, 0)
    return connected(truth, 4)[0].astype(np.uint32)


def dense_grid(height, width, side=3):
    """Squares one pixel apart."""
    y, x = np.ogrid[:height, :width]
    across = -(-width // (side + 1))
    inside = (y % (side + 1) < side) & (x % (side + 1) < side)
    ids = (y // (side + 1)) * across + x // (side + 1) + 1
    return np.where(inside, ids, 0).astype(np.uint32)


def diagonals(height, width, step=5):
    """Lines one pixel thin that are connected over corners only."""
    y, x = np.ogrid[:height, :width]
    truth = np.where((y + x) % step == 0, (y + x) // step + 1, 0)
    return truth.astype(np.uint32)


class NoisyOracle(Oracle):
    """Sees each object shifted by up to `shift` pixels, some eroded by one, some not at
    all, and some twice; anew in every window, by what the window holds."""

    def __init__(self, card, *, shift=2, eroded=0.3, missing=0.1, doubled=0.1):
        super().__init__(card)
        self.noise = (shift, eroded, missing, doubled)

    def see(self, truth):
        shift, eroded, missing, doubled = self.noise
        rng = np.random.default_rng(crc32(np.ascontiguousarray(truth)))
        ids, labels = np.unique(truth, return_inverse=True)
        labels = labels.reshape(truth.shape) + int(ids[0] != 0)
        out = np.zeros(truth.shape, np.int32)
        seen = []
        for label, box in enumerate(ndimage.find_objects(labels), 1):
            for _ in range(1 + (rng.random() < doubled)):
                dy, dx = rng.integers(-shift, shift + 1, 2)
                thin = rng.random() < eroded
                if rng.random() < missing:
                    continue
                seen.append((rng.random(), label, box, dy, dx, thin))
        kept = []
        for score, label, box, dy, dx, thin in sorted(seen, key=lambda s: -s[0]):
            mask = np.pad(labels[box] == label, 1)
            if thin:
                mask = ndimage.binary_erosion(mask)
            y, x = np.nonzero(mask)
            y, x = y + box[0].start - 1 + dy, x + box[1].start - 1 + dx
            inside = (y >= 0) & (x >= 0) & (y < out.shape[0]) & (x < out.shape[1])
            y, x = y[inside], x[inside]
            free = out[y, x] == 0
            if not free.any() or free.sum() < len(y) / 2:
                continue
            kept.append(score)
            out[y[free], x[free]] = len(kept)
        return Objects(
            labels=out, classes=np.zeros(len(kept), int), scores=np.array(kept)
        )
