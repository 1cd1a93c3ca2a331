"""Clouds by a model: the mask of a scene is what `segment` would say of the scene."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from geoseg.core.grid import Window
from geoseg.core.scene_masks import PREFIX
from geoseg.core.tiling import Block
from geoseg.errors import ModelError
from geoseg.inference.memory import NETWORKS
from geoseg.inference.semantic import segment_block
from geoseg.inference.windows import tiling_of
from geoseg.models.check import check_fit
from geoseg.models.load import ModelRecipe, model_recipe
from geoseg.rasters.bands import matched
from geoseg.rasters.numbers import in_numbers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.rasters.open import Source

_MEANT: Final = ("cloud", "shadow", "cirrus", "haze")
_NOT: Final = ("free", "no ", "no_", "non", "without")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMask:
    """Masks the pixels of some classes of a model."""

    model: ModelRecipe
    values: tuple[int, ...]
    """Which classes, by their values."""

    @property
    def wants(self) -> tuple[str, ...]:
        """Names of the bands that it looks at."""
        return tuple(b.common_name or b.name for b in self.model.card.bands)

    @property
    def identity(self) -> Mapping[str, Any]:
        """The model's hash, and the classes."""
        return {"model": self.model.hash, "classes": list(self.values)}

    def working_bytes(self, side: int) -> float:
        """Return how many bytes it takes to look at a square, beside the answer."""
        card = self.model.card
        reach = (side + 4 * card.window) ** 2
        pixel = 8 * len(card.bands) + 4 * len(card.classes) + 8
        model = self.model.load()
        libraries = NETWORKS * (model.precision != "own")
        return reach * pixel + float(model.working_bytes()) + libraries

    def masked(self, scene: Source, window: Window) -> NDArray[np.bool_]:
        """Return which pixels (y, x) of a window are masked; none depends on it."""
        card = self.model.card
        source = in_numbers(matched(scene, card.bands), card.numbers)
        check_fit(card, source)
        part = _part(self.model, source, window)
        model: Any = self.model.load()
        found = segment_block(source, model, part, batch=model.batch).arrays["classes"]
        inside = found[window.relative_to(part.window).slices]
        return np.isin(inside, self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part(Block):
    """Some cells, with what their windows say alone: right where no other reaches."""

    rows: range
    cols: range

    @property
    def cells(self) -> tuple[range, range]:
        """Its rows and its columns of cells."""
        return self.rows, self.cols

    @property
    def window(self) -> Window:
        """The pixels of its cells."""
        tiling = self.tiling
        first = tiling.cell_window(self.rows[0], self.cols[0])
        last = tiling.cell_window(self.rows[-1], self.cols[-1])
        whole = Window.spanning(first.y, last.bottom, first.x, last.right)
        inside = whole.intersection(tiling.raster)
        assert inside is not None
        return inside

    @property
    def neighbours(self) -> tuple[Block, ...]:
        """None: nothing is handed over."""
        return ()


def _part(model: ModelRecipe, source: Source, window: Window) -> _Part:
    """Return all cells whose windows say anything of a window's pixels."""
    tiling = tiling_of(source.grid, model.card)
    seen = window.pad(tiling.margin)
    rows = _cells(seen.y, seen.bottom, tiling.stride, tiling.cell_rows)
    cols = _cells(seen.x, seen.right, tiling.stride, tiling.cell_cols)
    return _Part(tiling=tiling, row=0, col=0, rows=rows, cols=cols)


def _cells(first: int, after: int, side: int, count: int) -> range:
    return range(max(0, first // side), min(count, -(-after // side)))


def mask_of(name: str) -> ModelMask:
    """Return what `model:MODEL` or `model:MODEL:class,class` stands for.

    Raises:
        ModelError: There is no such model or class, or it is none for scenes.
    """
    spec, wanted = _split(name.removeprefix(PREFIX))
    # On the processor: beside it the card's memory is the mapping model's.
    recipe = model_recipe(spec, device="cpu")
    card = recipe.card
    if card.task != "semantic" or card.times is not None:
        raise ModelError(
            f"--mask {name}: {card.name!r} is no model of classes of one date"
        )
    if not card.bands or any(band.name.isdigit() for band in card.bands):
        raise ModelError(
            f"--mask {name}: the card of {card.name!r} must name its bands (red, nir)"
        )
    if recipe.load().fits:
        raise ModelError(
            f"--mask {name}: {card.name!r} learns from each raster anew: use a "
            "threshold, or a model that was trained"
        )
    return ModelMask(model=recipe, values=_values(name, card.classes, wanted))


def _split(text: str) -> tuple[str, list[str] | None]:
    """Return a model and the classes that are named after it, if any are."""
    spec, _, names = text.rpartition(":")
    # `file.py:factory`, `threshold:…` and a drive have a colon of their own.
    named = os.path.exists(spec) and not spec.endswith(".py")  # noqa: PTH110 - any text
    if not named and ":" not in spec:
        return text, None
    return spec, [name.strip() for name in names.split(",")]


def _values(
    name: str, classes: Sequence[Any], wanted: Sequence[str] | None
) -> tuple[int, ...]:
    """Return the values of the classes that are masked."""
    known = {c.name.casefold(): c.value for c in classes}
    meant = [
        word
        for word in known
        if any(m in word for m in _MEANT) and not any(n in word for n in _NOT)
    ]
    chosen = meant if wanted is None else [word.casefold() for word in wanted]
    missing = [word for word in chosen if word not in known]
    if missing or not chosen:
        what = f"has no class {missing[0]}" if missing else "has no class of clouds"
        raise ModelError(
            f"--mask {name}: the model {what}: name some of "
            f"{', '.join(c.name for c in classes)}, as in {PREFIX}FOLDER:cloud,shadow"
        )
    return tuple(sorted(known[word] for word in chosen))
