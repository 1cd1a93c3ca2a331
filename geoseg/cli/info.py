"""`geoseg info`."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoseg.cli.answers import area_lines, areas, step
from geoseg.cli.common import OutputOptions, print_summary
from geoseg.cli.options import command, takes
from geoseg.core.raster_options import BandsOptions
from geoseg.core.text import area_unit, counted, number, redact
from geoseg.errors import DamagedStoreError, GeosegError, MasksError, RasterError
from geoseg.models.families import FILES
from geoseg.rasters.addresses import is_collection
from geoseg.rasters.gdal import FEATURES
from geoseg.rasters.zarrs import is_zarr

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

_SUBDATASET = re.compile(r"[A-Z][A-Z0-9_]+:.*[./\\]")  # `NETCDF:file.nc:red`, of GDAL
Description = tuple[dict[str, Any], list[str]]


@command(
    "geoseg info scene.tif",
    "geoseg info masks.zarr",
    "geoseg info regions.gpkg",
    "geoseg info models/landcover",
)
@click.argument("thing")
@takes(BandsOptions, "read", only="trust")
@takes(OutputOptions, "output", only="as_json")
def info(*, thing: str, read: BandsOptions, output: OutputOptions) -> None:
    """Describe THING: a raster, scenes, masks, polygons, a model, a pipeline, a run.

    Masks are counted: areas by class, whether they are complete, how they were made.
    """
    facts, lines = _found(thing, read.trust or ())
    print_summary({"what": thing, **facts}, lines, output)


def _found(thing: str, trust: Sequence[str]) -> Description:
    path = Path(thing)
    if (path / "status.json").is_file():
        return _of_run(thing)
    if (path / "card.json").is_file() or path.suffix == ".json":
        return _of_json(path, thing, trust)
    if thing.rstrip("/").endswith(".zarr") or is_zarr(thing):
        return _of_zarr(thing, trust)
    for is_kind, describe in _KINDS:
        if is_kind(thing):
            return describe(thing)
    rasters = "://" in thing or any(c in thing for c in "*?") or path.exists()
    if rasters or _SUBDATASET.match(thing):
        with _known(path):
            return _of_raster(thing, trust)
    return _of_model(thing)


@contextmanager
def _known(path: Path) -> Iterator[None]:
    """Say of a file that is no raster what would be known."""
    try:
        yield
    except RasterError as error:
        if not path.is_file() or not str(error).endswith("supported file format."):
            raise
        what = "nothing that geoseg knows" if path.stat().st_size else "empty"
        code = "code of a model is named with its function, mine.py:make; "
        raise RasterError(
            f"{redact(str(path))} is {what}: {code if path.suffix == '.py' else ''}"
            "known are rasters that GDAL opens, masks (.zarr), vector files, models, "
            "lists of STAC items, pipelines (.toml) and folders of runs"
        ) from error


def _of_collection(thing: str) -> Description:
    name = thing.partition(":")[2]
    lines = [
        f"collection of scenes, {name}, in an archive",
        step("list", "search", name, "--aoi", "area.gpkg", "--dates", "2025-06"),
    ]
    return {"kind": "collection", "name": name}, lines


def _of_pipeline(path: str) -> Description:
    from geoseg.pipeline.settings import read_pipeline
    from geoseg.pipeline.stages import STAGES

    found = read_pipeline(path)
    stages = [name for name in STAGES if getattr(found, name) is not None]
    lines = [
        f"pipeline {found.name}: {', '.join(stages)}, into {redact(found.out)}",
        step("try", "run", path, "--check"),
    ]
    return {"kind": "pipeline", "name": found.name, "stages": stages}, lines


def _is_list(path: Path) -> bool:
    """Whether a file is a list of STAC items: of many, its first bytes tell."""
    if path.suffix != ".json" or not path.is_file():
        return False
    with path.open("rb") as file:
        return b'"FeatureCollection"' in file.read(1 << 12)


def _of_json(path: Path, thing: str, trust: Sequence[str]) -> Description:
    if _is_list(path):
        return _of_items(thing)
    # The card of a model is a STAC item too.
    scene = path.is_file() and b'"mlm:' not in path.read_bytes()
    return _of_raster(thing, trust) if scene else _of_model(thing)


def _of_zarr(path: str, trust: Sequence[str]) -> Description:
    try:
        return _of_masks(path)
    except DamagedStoreError:
        raise
    except (MasksError, RasterError):
        with suppress(GeosegError):  # images of other tools
            return _of_raster(path, trust)
        raise


def _of_items(path: str) -> Description:
    from geoseg.rasters.search_table import lines_of, search, total_bytes

    scenes = search(path)
    lines = [f"list of {counted(len(scenes), 'STAC item')}", *lines_of(scenes)]
    lines.append(step("an image of them", "compose", redact(path), "--out", "out.tif"))
    summary = {"kind": "items", "scenes": len(scenes)}
    summary["bytes"] = total_bytes(scenes.days)
    summary["days"] = [asdict(day) for day in scenes.days]
    return summary, lines


def _of_run(out: str) -> Description:
    from geoseg.pipeline.status import lines_of, read_status

    found = read_status(out)
    return found, list(lines_of(out, found))


def _of_model(spec: str) -> Description:
    from geoseg.models.describe import describe
    from geoseg.models.load import model_recipe
    from geoseg.models.stac import card_to_item

    try:
        card = model_recipe(spec).card
    except GeosegError as error:
        if Path(spec).exists():
            raise
        raise MasksError(
            f"there is no file {redact(spec)}, nor is it a model ({error})"
        ) from error
    return {"kind": "model", "card": card_to_item(card)}, describe(card).splitlines()


def _of_masks(masks: str) -> Description:
    from geoseg.maps.complete import incomplete
    from geoseg.maps.open import open_classes
    from geoseg.maps.provenance import facts_of, provenance

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it is the first that is told
        reader = open_classes(masks, partial=True)
    lacks = incomplete(reader)
    found = areas(reader, always=True) if lacks is None else {}
    grid = reader.grid
    facts = facts_of(reader)
    lines = [f"class map, {grid.width:,} x {grid.height:,} px, {lacks or 'complete'}"]
    lines += area_lines(found)
    lines += [f"{name:<28}{value}" for name, value in facts]
    notes = list(provenance(reader).get("notes", []))
    lines += [f"{'Note':<28}{note}" for note in notes]
    lines.append(step("look", "view", redact(masks)))
    summary = {
        "kind": "masks",
        "width": grid.width,
        "height": grid.height,
        "complete": lacks is None,
        **({} if lacks is None else {"incomplete": lacks}),
        "classes": {c.name: c.value for c in reader.classes},
        "areas": found,
        "facts": dict(facts),
        "notes": notes,
    }
    return summary, lines


def _of_raster(raster: str, trust: Sequence[str]) -> Description:
    from geoseg.maps.provenance import crs_name
    from geoseg.rasters.nodata import first_file, suspected
    from geoseg.rasters.numbers import formula
    from geoseg.rasters.open import open_source
    from geoseg.rasters.source import noted, unique

    source = open_source(raster, trust=trust)
    notes = unique(noted(source, suspected(source)).notes)
    grid, size = source.grid, source.grid.pixel_size_m
    metres = "" if size is None else f", {size[1]:.3g} x {size[0]:.3g} m"
    bands = [band.name for band in source.bands]
    scaled = [band for band in source.bands if band.is_scaled]
    file = first_file(source)
    given = file.nodata if file else ()
    alpha = file.alpha if file else None
    nodata = unique(f"{n:g}" for n in given if n is not None)
    lines = [
        f"raster, {grid.width:,} x {grid.height:,} px{metres}, {source.dtype}",
        f"bands   {', '.join(bands)}",
        f"CRS     {crs_name(grid)}",
        "bounds  " + ", ".join(f"{b:.10g}" for b in grid.bounds),
        *(["nodata  " + ", ".join(nodata)] if nodata else []),
        *([f"alpha   band {alpha} tells which pixels are valid"] if alpha else []),
        *([f"numbers {formula(scaled)}"] if scaled else []),
        *(f"note    {note}" for note in notes),
        step("classes", "classes", redact(raster))
        if len(bands) == 1 and source.dtype.kind in "ui"
        else step("try", "plan", redact(raster), "--model", "kmeans:6"),
    ]
    summary = {
        "kind": "raster",
        "width": grid.width,
        "height": grid.height,
        "bands": bands,
        "nodata": list(nodata),
        "dtype": str(source.dtype),
        "pixel_size_m": size,
        "crs": crs_name(grid),
        "bounds": list(grid.bounds),
        "notes": list(notes),
    }
    return summary, lines


def _kinds(frame: GeoDataFrame) -> str:
    """Return what geometries are, such as `polygons`."""
    kinds = {kind.removeprefix("Multi") for kind in frame.geom_type.dropna()}
    return " and ".join(f"{kind.lower()}s" for kind in sorted(kinds)) or "no geometries"


def _of_vectors(path: str) -> Description:
    from geoseg.rasters.vectors import open_vectors
    from geoseg.vector.vectorize import read_regions

    frame, file = read_regions(path), open_vectors(path)
    drawn = [name for name, kind in file.layers.items() if kind] if file else []
    crs = "no CRS" if frame.crs is None else frame.crs.name
    lines = [f"{_kinds(frame)}: {counted(len(frame), 'row')}, {crs}"]
    by_class: dict[str, Any] = {}
    if {"class_name", "area_m2"} <= {*frame.columns}:
        grouped = frame.groupby("class_name")["area_m2"].agg(["size", "sum"])
        scale, unit = area_unit(float(grouped["sum"].sum()))
        for name, (count, area) in zip(grouped.index, grouped.to_numpy(), strict=True):
            by_class[str(name)] = {"rows": int(count), "area_m2": float(area)}
            lines.append(
                f"  {name}: {counted(int(count), 'row')}, {number(area / scale)} {unit}"
            )
    lines.append(f"columns: {', '.join(map(str, frame.columns))}")
    if len(drawn) > 1:
        lines.append(f"layers: {', '.join(drawn)}; this is {drawn[0]}")
    summary = {"kind": "vectors", "rows": len(frame), "classes": by_class}
    return {**summary, "layers": drawn}, lines


def _is_pipeline(thing: str) -> bool:
    from geoseg.pipeline.settings import read_values

    is_toml = thing.endswith(".toml") and Path(thing).is_file()
    return is_toml and "segment" in read_values(thing)


def _is_network(thing: str) -> bool:
    path = Path(thing)
    return path.suffix.lower() in FILES or (path / "saved_model.pb").is_file()


_KINDS: tuple[tuple[Callable[[str], bool], Callable[[str], Description]], ...] = (
    (lambda thing: Path(thing).suffix.lower() in FEATURES, _of_vectors),
    (is_collection, _of_collection),
    (_is_pipeline, _of_pipeline),
    (_is_network, _of_model),
)
"""What is told by its name or beginning, and what describes it."""
