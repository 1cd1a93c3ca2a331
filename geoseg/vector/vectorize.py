"""From masks to polygons: `vectorize`, and `read_regions` to look at them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from geoseg._version import __version__
from geoseg.core.geodesy import measure
from geoseg.core.grid import squares
from geoseg.core.options import keywords
from geoseg.core.text import AreaUnit, did_you_mean
from geoseg.errors import RegionsError
from geoseg.maps.complete import incomplete
from geoseg.maps.geotiff import ClassRaster
from geoseg.maps.open import open_classes
from geoseg.vector.footprints import FIELDS, Squaring
from geoseg.vector.instance_layer import NAME as INSTANCES
from geoseg.vector.instance_layer import (
    InstanceRows,
    holds_objects_only,
    instance_fields,
    instance_reader,
)
from geoseg.vector.options import SimplifyMethod, VectorizeOptions
from geoseg.vector.regions import open_writer, read_regions, writing_file
from geoseg.vector.regularize import MIN_IOU
from geoseg.vector.seams import Seams
from geoseg.vector.simplify import Limits
from geoseg.vector.table import Field, RegionLayer, as_rows, fields, with_area
from geoseg.vector.topology import Drawing, trace_block

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import xarray as xr
    from distributed import Client

    from geoseg.core.grid import Grid, Window
    from geoseg.execution.progress import Progress
    from geoseg.maps.reader import ClassReader
    from geoseg.maps.store import Masks
    from geoseg.vector.table import Rows
    from geoseg.vector.topology import Features, Open

__all__ = ["read_regions", "vectorize"]

_BLOCK = 2048  # pixels: about 50 MB of work per thread
_FURTHEST = 4096  # pixels around a block that may be read with it
_NAME = 63  # characters a layer name may have


def write_regions(
    masks: str | Path | Masks | xr.Dataset | xr.DataArray,
    options: VectorizeOptions,
    client: Client | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Path:
    """Turn masks into polygons; as `vectorize`, with options as one object."""
    # which classes occur is seen on the way, where nothing asks before
    unseen = not (options.classes or options.min_area or options.regularize)
    reader = open_classes(masks, partial=options.partial, unseen=unseen)
    lacks = incomplete(reader)
    written = _chosen(reader, options.classes)
    layer = options.layer
    if layer is None:
        layer = INSTANCES if holds_objects_only(reader) else "regions"
    objects = instance_reader(reader) if layer == INSTANCES else None
    reader = objects or reader
    _check(layer, options)
    least_iou = _least_iou(options, several=objects is None and len(written) > 1)
    drawing = _drawing(reader, None if objects else written, options)
    side = _block_side(reader, drawing, options.block)
    min_area, unit = options.min_area, options.area_unit
    with (
        writing_file(
            Path(options.out), overwrite=options.overwrite, layer=options.layer
        ) as path,
        TemporaryDirectory(prefix=f"{path.name}-", dir=path.parent) as scratch,
    ):
        if min_area and objects is None:
            from geoseg.vector.sieve import sieve

            reader = sieve(
                reader, min_area, drawing.measure, Path(scratch), side=side,
                eight=drawing.eight, client=client,
            )  # fmt: skip
        statistics = None
        if options.stats is not None:
            from geoseg.vector.zonal_statistics import Statistics

            statistics = Statistics.of(os.fspath(options.stats), reader.grid)
        described = RegionLayer(
            name=layer,
            fields=(
                *(instance_fields() if objects else fields_of(reader)()),
                *([Field(name=f"area_{unit}", kind="real")] if unit else ()),
                *(FIELDS if least_iou is not None else ()),
                *(statistics.fields if statistics else ()),
            ),
            crs=str(reader.grid.crs),
            classes=tuple(c for c in reader.classes if c.value in written),
            only_present="geoseg" not in reader.attributes(),
            table=reader.table if unseen and isinstance(reader, ClassRaster) else None,
            multi=drawing.eight,
            provenance=_provenance(reader, options, least_iou, lacks),
        )
        features = _features(reader, drawing, side, client, progress)
        rows: Iterator[Rows] = (as_rows(some, described) for some in features)
        if objects is not None:
            rows = InstanceRows(
                masks=objects.masks, values=written, min_area=min_area or 0.0
            ).rows(features)
        if least_iou is not None:
            rows = Squaring(
                reader=reader,
                drawing=drawing,
                written=None if objects else tuple(written),
                min_iou=least_iou,
            ).rows(rows, client)
        if unit:
            rows = (with_area(some, unit) for some in rows)
        if statistics:
            rows = (statistics.added(some) for some in rows)
        _write(path, described, rows)
    return Path(options.out)


@keywords(VectorizeOptions, write_regions)
def vectorize(
    masks: str | Path | Masks | xr.Dataset | xr.DataArray,
    out: str | os.PathLike[str],
    *,
    simplify: float | None = None,
    method: SimplifyMethod = "visvalingam",
    smooth: bool | float = False,
    regularize: bool | float = False,
    min_area: float | None = None,
    classes: Sequence[str | int] | None = None,
    connectivity: Literal[4, 8] = 4,
    stats: str | os.PathLike[str] | None = None,
    area_unit: AreaUnit | None = None,
    layer: str | None = None,
    client: Client | None = None,
    block: int | None = None,
    overwrite: bool = False,
    partial: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Path:
    """Turn masks into polygons without seams, gaps or overlaps.

    Each 4-connected region of a class becomes exactly one polygon with its holes. Lines
    are shared by the regions on both sides of them: they are simplified once, and
    cannot cross, touch or vanish. The result does not depend on blocks, workers or
    order.

    Args:
        masks: What `geoseg.segment` made (its path, the `Masks` or its dataset), the
            path of a class raster that GDAL can read (uint8 or uint16), or a DataArray
            of classes.
        out: File to write; `.gpkg`, `.parquet` (GeoParquet), `.fgb` (FlatGeobuf) or
            `.geojson` (RFC 7946: longitude and latitude), `.shp` (field names are cut).
        simplify: Metres. Lines lose the vertices whose triangle is smaller than this
            squared, and never move by more than this. None keeps every pixel edge.
        method: `visvalingam` (Visvalingam & Whyatt 1993) or `douglas-peucker` (1973).
        smooth: Round corners; a number is how far before and after a corner the curve
            begins, in metres; True is `simplify`, or two pixels without it.
        regularize: Square footprints, as of buildings: straight walls and right angles
            where these fit the pixels, straight lines elsewhere. A number is what a
            footprint must share with its pixels, as intersection over union; True is
            0.85. Footprints never overlap. The fields `pixel_iou` (what it does share)
            and `squared` (1 or 0) tell how it went. For instances, and for regions of
            one class; instead of `simplify` and `smooth`.
        min_area: True m². Smaller regions join the neighbour with which they share the
            longest border, smallest first; see `geoseg.vector.sieve`. Nodata is no
            neighbour: what lies alone in it stays.
        classes: Names or values of the classes to write; default all.
        connectivity: 8 makes pixels that touch at a corner one region, a MultiPolygon.
        stats: A raster; its bands' mean, min and max inside each region become fields
            (needs `geoseg[stats]`).
        area_unit: Add a column `area_ha` or `area_km2`; `area_m2` stays.
        layer: Name of the layer. `instances` draws the objects of a store that has
            them, one row each; the default is that where the store was made with the
            task `instance`, else `regions`. Of objects, those below `min_area` are left
            out, and `connectivity` says nothing. Where it is given and `out` is a
            GeoPackage that is there, the layer is added to it, and `overwrite` replaces
            that layer only.
        client: Where to run; None is threads of this process.
        block: Side of a block in pixels; changes speed and memory, not the result.
        overwrite: Replace `out` where it exists, or the `layer` in it.
        partial: Take masks that are not complete as they are, with a warning.
        progress: Called after each block.

    Returns:
        The path of `out`.

    Raises:
        GeosegError: The input or arguments are wrong, or `out` cannot be written. There
            is no half-written file then.
    """
    raise NotImplementedError  # `write_regions` is what runs


def fields_of(reader: ClassReader) -> Callable[..., tuple[Field, ...]]:
    """Return what gives the attributes of regions."""
    return partial(fields, confidence="confidence" in reader.arrays)


def _chosen(reader: ClassReader, classes: Sequence[str | int] | None) -> set[int]:
    """Return the values to write; nodata is never one."""
    known = {c.name: c.value for c in reader.classes}
    values = set(known.values()) - {reader.nodata}
    if classes is None:
        return values
    wanted = set()
    for each in classes:
        value = known.get(str(each), each)
        if not isinstance(value, int) and str(value).isdigit():
            value = int(value)
        if value not in values:
            there = ", ".join(f"{name} ({v})" for name, v in list(known.items())[:20])
            raise RegionsError(
                f"there is no class {each!r}; there are: {there}"
                f"{did_you_mean(str(each), known)}"
            )
        wanted.add(int(value))
    return wanted


def _check(layer: str, options: VectorizeOptions) -> None:
    if not layer or len(layer) > _NAME or not layer.replace("_", "a").isalnum():
        raise RegionsError(
            f"layer name {layer!r}: use 1 to {_NAME} letters, digits and underscores"
        )
    reserved = ("gpkg_", "rtree_", "sqlite_", "layer_styles")
    if layer.lower().startswith(reserved):
        raise RegionsError(
            f"layer name {layer!r} is reserved in a GeoPackage: name another"
        )
    metres = {"simplify": options.simplify, "smooth": options.smooth}
    for name, value in {**metres, "min_area": options.min_area}.items():
        if value is not None and not 0 <= value < np.inf:
            raise RegionsError(f"{name} {value} must be 0 or more")


def _least_iou(options: VectorizeOptions, *, several: bool) -> float | None:
    """Return what squared footprints must share with their pixels; None for as is."""
    regularize = options.regularize
    if regularize is False:
        return None
    least = MIN_IOU if regularize is True else float(regularize)
    if not 0 < least <= 1:
        raise RegionsError(f"regularize {least:g}: an IoU is above 0 and at most 1")
    if options.simplify or options.smooth:
        raise RegionsError(
            "footprints are squared instead of simplified or smoothed: leave out "
            "--regularize, or --simplify and --smooth"
        )
    if several:
        raise RegionsError(
            "footprints are squared of instances, or of regions of one class: name "
            "that class, as in --classes building"
        )
    return least


def _drawing(
    reader: ClassReader,
    written: set[int] | None,
    options: VectorizeOptions,
) -> Drawing:
    """Return how lines are drawn; `written` is None where objects are."""
    smooth = options.smooth
    grid = reader.grid
    on_ground = measure(grid)
    # a pixel of 10 m is 10 m here too, where the projection makes 9.996 of them
    height, width = grid.pixel_size_m or (
        float(on_ground.south[0, 0]), float(on_ground.east[0, 0])
    )  # fmt: skip
    distance = float(options.simplify or 0)
    radius = 0.0
    if smooth:
        radius = (distance or 2 * max(height, width)) if smooth is True else smooth
    return Drawing(
        grid=grid,
        measure=on_ground,
        values=None if written is None else tuple(sorted(written)),
        limits=Limits(
            distance**2 if options.method == "visvalingam" else np.inf,
            distance, height, width, float(radius),
        ),
        eight=options.connectivity == 8 or written is None,
        srs=_srs(grid),
    )  # fmt: skip


def _srs(grid: Grid) -> int:
    from pyproj import CRS

    from geoseg.vector.formats.geopackage import authority

    return authority(CRS.from_user_input(grid.crs))[1]


def _block_side(reader: ClassReader, drawing: Drawing, block: int | None) -> int:
    """Return the side of blocks: whole chunks, and large against their apron."""
    if drawing.apron > _FURTHEST:
        raise RegionsError(
            f"--simplify and --smooth reach over {drawing.apron} pixels here, and at "
            f"most {_FURTHEST} are possible: ask for less, or use a coarser raster"
        )
    if block is not None:
        if block < 1:
            raise RegionsError(f"block {block} px must be at least 1")
        return block
    side = min(max(_BLOCK, 8 * drawing.apron), 2 * _BLOCK)
    chunk = max(1, reader.chunk)
    return -(-side // chunk) * chunk if chunk <= 2 * _BLOCK else side


def _features(
    reader: ClassReader,
    drawing: Drawing,
    side: int,
    client: Client | None,
    progress: Callable[[Progress], None] | None,
) -> Iterator[Features]:
    """Trace blocks anywhere, join them here; features come in the order of blocks."""
    from geoseg.execution.engine import unordered
    from geoseg.execution.progress import Progress

    grid = reader.grid
    windows = squares(grid, side)
    seams = Seams(drawing)
    traced: dict[Window, tuple[Features | None, Open]] = {}
    order = iter(windows)
    turn = next(order)
    row: list[Open] = []
    trace = partial(trace_block, reader, drawing=drawing)
    pixels = 0
    for count, (window, result) in enumerate(
        unordered(trace, windows, client=client, held=lambda: len(traced)), start=1
    ):
        traced[window] = result
        pixels += window.area
        while turn in traced:
            features, rest = traced.pop(turn)
            if features is not None:
                yield features
            row.append(rest)
            if turn.right == grid.width:
                joined = seams.add_row(row)
                row = []
                if joined is not None:
                    yield joined
            following = next(order, None)
            if following is None:
                break
            turn = following
        if progress is not None:
            progress(
                Progress(blocks=count, total=len(windows), pixels=pixels, windows=0)
            )


def _write(path: Path, layer: RegionLayer, rows: Iterator[Rows]) -> None:
    writer = open_writer(path, layer)
    try:
        for some in rows:
            writer.write(some)
        writer.close()
    except BaseException:
        writer.abandon()
        raise


def _provenance(
    reader: ClassReader,
    options: VectorizeOptions,
    least_iou: float | None,
    lacks: str | None,
) -> dict[str, Any]:
    """Return what the regions were made from, and how."""
    classes, stats = options.classes, options.stats
    settings = {
        "simplify_m": options.simplify,
        "method": options.method if options.simplify else None,
        "smooth": options.smooth,
        "regularize": least_iou,
        "min_area_m2": options.min_area,
        "connectivity": options.connectivity,
        "classes": list(classes) if classes is not None else None,
        "stats": Path(stats).name if stats is not None else None,
    }
    made = {
        "software": "geoseg",
        "version": __version__,
        "masks": Path(reader.path).name,
        "settings": {k: v for k, v in settings.items() if v not in (None, False)},
    }
    attributes = reader.attributes()
    if "geoseg" in attributes:
        made["masks_provenance"] = attributes["geoseg"]
    return made | ({"incomplete": lacks} if lacks else {})
