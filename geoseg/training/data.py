"""Opening what there is to learn from: rasters, labels, and what is held out."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.core.classes import Class
from geoseg.core.text import counted
from geoseg.errors import GeosegError, LabelsError
from geoseg.labels import Labels, open_labels
from geoseg.labels.names import check_mapping_used
from geoseg.rasters.open import Source, at_resolution, for_training, open_source
from geoseg.training.architectures import CLASSICAL
from geoseg.training.holdout import Split, split_blocks
from geoseg.training.options import Paths, TrainOptions
from geoseg.training.scenes import (
    LabelledRaster,
    check_classes,
    count_cells,
    make_scenes,
    object_places,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

# How labels are read, of all options.
_READING = {
    "column", "layer", "mapping", "constant", "background", "boundary", "order",
    "strict",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingData:
    """What there is to learn from."""

    scenes: tuple[LabelledRaster, ...]
    """Rasters with labels."""
    classes: tuple[Class, ...]
    """Those with labelled pixels, by value."""
    cells: tuple[NDArray[np.int64], ...]
    """For each scene, labelled pixels by cell and class."""
    split: Split | None
    """What is held out; None for nothing."""
    folds: int
    """In how many folds the labelled blocks are dealt; 0 for none."""
    objects: NDArray[np.int64] | None = None
    """(object,) place in the class table of each, where objects are learned."""


def open_training_data(rasters: Paths, options: TrainOptions) -> TrainingData:
    """Open rasters and labels, and hold blocks out.

    Raises:
        LabelsError: Labels and rasters do not go together, or too little is labelled.
    """
    pairs, table = _open_pairs(_open_sources(rasters, options), options)
    gap = options.gap
    if gap is None and options.arch in CLASSICAL:
        gap = options.features.reach
    return hold_out(
        pairs, table, options.validation, options.block, gap, options.seed,
        objects=options.task == "instance",
    )  # fmt: skip


def _open_sources(rasters: Paths, options: TrainOptions) -> list[Source]:
    """Return the rasters with the same bands, at about the same pixel size."""
    each = _several(rasters)
    if options.dates_from == "names":  # files of one place at many dates
        each = [each]
    found = [open_source(one, **options.of_source) for one in each]
    if not found:
        raise GeosegError("no raster to train on")
    found = for_training(found)
    first = found[0]
    for other in found[1:]:
        if len(other.bands) != len(first.bands):
            raise GeosegError(
                f"{other.name} has {counted(len(other.bands), 'band')}, {first.name} "
                f"{len(first.bands)}: choose the same with --bands"
            )
    for note in dict.fromkeys(n for s in found for n in s.notes):
        warnings.warn(note, UserWarning, stacklevel=2)
    size = options.resolution or metres_of(first)
    if size is None:
        return found
    return [_sized(s, size, always=options.resolution is not None) for s in found]


def metres_of(source: Source) -> float | None:
    """Return the side of a source's pixels in metres, None where it has no place."""
    size = source.grid.pixel_size_m
    return float(np.sqrt(size[0] * size[1])) if size else None


def _sized(source: Source, metres: float, *, always: bool) -> Source:
    own = metres_of(source)
    near = own is not None and 0.8 <= own / metres <= 1.25
    return source if near and not always else at_resolution(source, metres)


def _several(paths: Paths) -> list[Any]:
    return [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)


def _open_pairs(
    sources: Sequence[Source], options: TrainOptions
) -> tuple[list[tuple[Source, Labels]], tuple[Class, ...]]:
    """Return each raster with its labels, and the class table of them all."""
    given = _several(options.labels)
    paths = given * len(sources) if len(given) == 1 else given
    if len(paths) != len(sources):
        raise LabelsError(
            f"{len(paths)} labels for {len(sources)} rasters: give one for each, in "
            "the same order, or one for all"
        )
    how = options.model_dump(include=_READING)
    pairs: list[tuple[Source, Labels]] = []
    table, missed = tuple(options.classes), None
    for source, path in zip(sources, paths, strict=True):
        try:
            opened = open_labels(os.fspath(path), source.grid, classes=table, **how)
        except LabelsError as error:
            if len(given) > 1 or len(sources) == 1:
                raise
            missed = error  # one file for several rasters need not cover them all
            continue
        table = opened.classes
        pairs.append((source, opened))
    if not pairs and missed is not None:
        raise missed
    check_mapping_used([labels.pairing for _, labels in pairs])
    return pairs, table


def hold_out(
    pairs: Sequence[tuple[Source, Labels]],
    table: Sequence[Class],
    validation: float,
    block: int | None,
    gap: int | None,
    seed: int,
    *,
    objects: bool = False,
) -> TrainingData:
    """Count labels, leave out classes without any, and hold blocks out."""
    counted = [count_cells(s, len(table)) for s in make_scenes(pairs, table)]
    total = np.sum([c.sum(axis=(0, 1)) for c in counted], axis=0)
    check_classes(total, table, least=1 if objects else 2)
    kept = np.flatnonzero(total).tolist()
    order = sorted(kept, key=lambda i: table[i].value)
    classes = tuple(table[i] for i in order)
    cells = tuple(c[:, :, order] for c in counted)
    # A forest is tested on every fold in turn, a network on one of so many.
    folds = max(2, round(1 / validation)) if validation else 0
    split = None
    if folds:
        split = split_blocks(cells, folds, side=block, gap=gap, seed=seed)
    return TrainingData(
        scenes=make_scenes(pairs, classes, objects=objects),
        classes=classes,
        cells=cells,
        split=split,
        folds=folds,
        objects=object_places(pairs, classes) if objects else None,
    )
