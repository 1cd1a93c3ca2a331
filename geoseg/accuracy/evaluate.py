"""Compare a map with a reference: one pass over the map, block by block.

Figures are shares of the ground: pixels weigh by their true area. The module
`geoseg.accuracy.accuracy` says what that means for samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING

from geoseg.accuracy.calibration import calibrate
from geoseg.accuracy.evaluation import Evaluation
from geoseg.accuracy.options import Design, EvaluateOptions
from geoseg.accuracy.strata import boundary_score, estimated
from geoseg.accuracy.tally import EvaluationJob, Tally, count_block, masks_of
from geoseg.accuracy.true_objects import score
from geoseg.core.classes import Class
from geoseg.core.geodesy import pixel_areas
from geoseg.core.grid import Squares, squares
from geoseg.core.label_options import Order
from geoseg.core.options import keywords
from geoseg.core.text import did_you_mean, redact
from geoseg.errors import GeosegError
from geoseg.execution.engine import ordered
from geoseg.execution.progress import reported
from geoseg.execution.resources import cores
from geoseg.labels import open_labels
from geoseg.labels.names import Pairing, with_class
from geoseg.maps.open import ClassMap, open_classes
from geoseg.maps.reader import block_side

if TYPE_CHECKING:
    from distributed import Client


def evaluate_map(
    masks: ClassMap,
    options: EvaluateOptions,
    threads: int | None = None,
    client: Client | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Compare a map with a reference; as `evaluate`, with options as one object."""
    reader = open_classes(masks, partial=options.partial)
    table, counted_as = merged_classes(reader.classes, options.map_classes or {})
    labels = open_labels(
        options.reference,
        reader.grid,
        classes=table,
        within=options.within,
        **options.reading,
    )
    labels.pairing.check_alike(labels.name)
    _check_targets(options.map_classes or {}, reader.classes, labels.pairing)
    _check_background(options, reader.classes, labels.pairing)
    job = EvaluationJob(
        masks=reader,
        labels=labels,
        counted_as=counted_as,
        areas=pixel_areas(reader.grid),
        options=options,
    )
    if options.objects:
        masks_of(job)
    windows = squares(reader.grid, block_side(reader, options.block))
    total = _run(job, windows, threads, client, progress)
    accuracy = estimated(job, total)
    census = accuracy.estimator == "census"
    mapped_m2 = job.m2(total.mapped_area)
    compared_m2 = float(job.m2(total.compared_area).sum())
    return Evaluation(
        masks=redact(reader.path),
        reference=redact(str(options.reference)),
        kind=labels.kind,
        classes=labels.classes,
        accuracy=accuracy,
        area_m2=compared_m2 if census else float(mapped_m2.sum() * accuracy.covered),
        mapped_m2=mapped_m2,
        coverage=total.compared / max(1, int(total.mapped.sum())),
        calibration=calibrate(total.by_confidence[1], total.by_confidence[0]),
        boundary=boundary_score(job, total),
        objects=score(masks_of(job), total.objects, labels)
        if options.objects
        else None,
    )


@keywords(EvaluateOptions, evaluate_map)
def evaluate(
    masks: ClassMap,
    reference: str | Path,
    *,
    column: str | None = None,
    layer: str | None = None,
    mapping: Mapping[str, str] | None = None,
    map_classes: Mapping[str, str] | None = None,
    constant: str | None = None,
    background: str | None = None,
    order: Order = "last",
    within: str | Path | tuple[float, float, float, float] | None = None,
    strict: bool = False,
    design: Design = "auto",
    confidence: float = 0.95,
    finite_population: bool = False,
    boundary: float | None = None,
    objects: bool = False,
    threads: int | None = None,
    block: int = 2048,
    partial: bool = False,
    client: Client | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Compare a map with a reference of points, polygons or a class raster.

    The reference may be in any CRS and on any grid: polygons are burnt by the
    pixel-centre rule, rasters looked up at the mask's pixel centres. Classes are
    matched by name, whatever the case, or by value; classes of the reference that the
    map does not have stay in the matrix, as errors of the map.

    Args:
        masks: masks of geoseg (folder, URL or open store), a class raster, a Zarr of
            another tool, or a dataset or array of classes.
        reference: points, polygons or a class raster.
        column: column with class names or values; found by its usual names where None.
        layer: of a reference with several layers.
        mapping: from a name or value of the reference to a class of the map, or to
            `ignore`.
        map_classes: from a class of the map to the class that it counts as here, so
            that classes can be merged; objects keep theirs.
        constant: all features of the reference are of this class.
        background: pixels that the reference does not cover are of this class.
        order: which of overlapping polygons wins: the last, the first or the smallest.
        within: polygons, or left, bottom, right, top in the masks' CRS, to look inside.
        strict: refuse a reference raster on another grid.
        design: how the reference was drawn. `stratified`: at random in strata, which
            points name in the columns `stratum` and `stratum_pixels`, or in the map's
            classes; `random`: at random or by a grid, over the whole map; `census`:
            every pixel of it; `counts`: nothing is claimed beyond it. `auto`: what
            `sample` wrote into the points; else `random` for points and
            `census` for polygons and rasters.
        confidence: level of the intervals.
        finite_population: shrink standard errors by how much of a stratum was sampled.
        boundary: also score boundaries within this distance, in pixels.
        objects: also score the masks' instances against the reference's polygons.
        threads: how many blocks are read at a time, in this process.
        block: side of a block in pixels; changes speed and memory, not the figures.
        partial: take masks that are not complete as they are, with a warning.
        client: Dask client to count blocks on; the figures are the same.
        progress: called with blocks done and blocks in all.

    Returns:
        All figures, with the estimator that was used and why.

    Raises:
        LabelsError: the reference cannot be read or does not lie on the map.
        MasksError: there are no such masks, or they lack what was asked for.
        GeosegError: no labelled pixel lies on a valid map pixel.
    """
    raise NotImplementedError  # `evaluate_map` is what runs


def merged_classes(
    classes: Sequence[Class], merged: Mapping[str, str]
) -> tuple[tuple[Class, ...], dict[int, int]]:
    """Return a map's class table with classes merged, and what each value counts as.

    Raises:
        GeosegError: the map has no class of a name that is to be merged.
    """
    by_name = {c.name.casefold(): c for c in classes}
    for name in merged:
        if name.casefold() not in by_name:
            known = [c.name for c in classes]
            raise GeosegError(
                f"--map-class {name}=…: the map has no class {name!r}; it has "
                f"{', '.join(known)}{did_you_mean(name, known)}"
            )
    target = {name.casefold(): to for name, to in merged.items()}
    table = tuple(c for c in classes if c.name.casefold() not in target)
    for to in merged.values():
        table, _ = with_class(table, to)
    counted_as = {
        c.value: with_class(table, target.get(c.name.casefold(), c.name))[1]
        for c in classes
    }
    return table, counted_as


def _check_targets(
    merged: Mapping[str, str], classes: Sequence[Class], reference: Pairing
) -> None:
    """Raise where map classes count as one that neither map nor reference has."""
    paired = {*reference.values.values()}
    known = [c.name for c in classes]
    known += [c.name for c in reference.classes if c.value in paired]
    there = {name.casefold() for name in known} | {str(c.value) for c in classes}
    for name, to in merged.items():
        if to.casefold() not in there:
            raise GeosegError(
                f"--map-class {name}={to}: neither the map nor the reference has a "
                f"class {to!r}; they have {', '.join(dict.fromkeys(known))}"
                f"{did_you_mean(to, known)}"
            )


def _check_background(
    options: EvaluateOptions, classes: Sequence[Class], reference: Pairing
) -> None:
    """Raise where the background is of a class that neither map nor reference has.

    Maps of one class, and of objects alone, have none for what lies around those.
    """
    name, paired = options.background, {*reference.values.values()}
    known = [c.name for c in classes]
    known += [c.name for c in reference.classes if c.value in paired]
    known = [*dict.fromkeys([*known, *(options.map_classes or {}).values()])]
    there = {k.casefold() for k in known} | {str(c.value) for c in classes}
    if name is None or name.casefold() in there:
        return
    meant = did_you_mean(name, known)
    if meant or (len(classes) > 1 and not options.objects):
        raise GeosegError(
            f"--background {name}: neither the map nor the reference has a class of "
            f"that name, and the map would be wrong wherever nothing is drawn; they "
            f"have {', '.join(known)}{meant}"
        )


def _run(
    job: EvaluationJob,
    windows: Squares,
    threads: int | None,
    client: Client | None,
    progress: Callable[[int, int], None] | None,
) -> Tally:
    if threads is None and client is None:
        threads = min(4, cores())
    tallies = ordered(
        partial(count_block, job), windows, client=client, in_flight=threads
    )
    return reduce(Tally.__add__, reported(tallies, len(windows), progress))
