"""Scenes of this machine as STAC items: dates from their names, bands from their files.

A scene is a product's folder or archive, one file with all bands, or the single-band
files whose names differ in their band only.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from geoseg.core.dates import iso
from geoseg.core.text import redact
from geoseg.errors import RasterError
from geoseg.rasters.bands import band_in_file_name
from geoseg.rasters.file import FileHints, RasterFile
from geoseg.rasters.places import area_of_grid
from geoseg.rasters.product_files import (
    RASTER_SUFFIXES,
    bands_and_tiles,
    beside_pixels,
    files_in,
    product_of,
)
from geoseg.rasters.several import open_all

_MOMENT: Final = re.compile(
    r"(?<!\d)(?P<year>(?:19|20)\d{2})(?P<dash>[-_.]?)"
    r"(?:(?P<month>0[1-9]|1[0-2])(?P=dash)(?P<day>0[1-9]|[12]\d|3[01])"
    r"|(?P<of_year>[0-3]\d{2})(?=T\d{6}))"
    r"(?:[T_](?P<time>\d{6})(?!\d))?(?!\d)",
)
_QUALITY: Final = re.compile(
    r"(?:^|[_\-. ])(?P<name>SCL|QA_PIXEL|Fmask|(?:DN_)?udm2?)"
    r"(?:_(?P<size>[126]0)m|_clip)?$",
    re.IGNORECASE,
)
_PRODUCT: Final = (
    re.compile(
        r"(?P<platform>S2[A-D])_MSIL(?:1C|2A)_\d{8}T\d{6}_N(?P<baseline>\d{4})_"
        r"(?P<orbit>R\d{3})_T(?P<tile>\d{2}[A-Z]{3})_(?P<made>\d{8}T\d{6})"
    ),
    re.compile(
        r"L[COTE]0(?P<landsat>\d)_L\w{3}_(?P<path>\d{3})(?P<row>\d{3})_\d{8}_"
        r"(?P<made>\d{8})_02_(?:T1|T2|RT)"
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalScene:
    """What was seen at one time."""

    name: str
    files: tuple[str, ...]
    """What GDAL opens of it, pictures and quality files too."""


def scene_items(
    paths: Sequence[str], trust: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """Yield scenes as items, with the dates of their names.

    Args:
        paths: Files, folders, archives and globs.
        trust: What a VRT may name beside its own folder.

    Raises:
        RasterError: There are none, a name has no date, or one cannot be opened.
    """
    scenes = list(scenes_in(paths))
    if not scenes:
        raise RasterError(f"{', '.join(map(redact, paths))}: there are no scenes")
    for scene in scenes:
        yield _item(scene, tuple(trust))


def scenes_in(paths: Iterable[str]) -> Iterator[LocalScene]:
    """Yield the scenes of files, folders, archives and globs, in the order of names.

    Raises:
        RasterError: A path is not there, or an archive cannot be read.
    """
    loose: dict[tuple[str, str], list[str]] = {}
    for path in (each for one in paths for each in _meant(one)):
        product = product_of(path)
        if product is not None:
            yield LocalScene(name=_stem(product), files=tuple(files_in(product)))
        else:
            place = Path(path)
            loose.setdefault((str(place.parent), _scene_name(path)), []).append(path)
    for name, files in _with_their_masks(loose):
        yield LocalScene(name=name, files=tuple(files))


def _with_their_masks(
    loose: Mapping[tuple[str, str], list[str]],
) -> Iterator[tuple[str, list[str]]]:
    """Yield the scenes of loose files; pictures and masks alone are none of their own.

    They belong to the scenes whose names go on from theirs, as Planet has it:
    `20250501_…_3B_udm2.tif` beside `20250501_…_3B_AnalyticMS_SR.tif`.
    """
    groups = {key: [*files] for key, files in loose.items()}
    aside = {k for k, files in groups.items() if all(map(beside_pixels, files))}
    for folder, name in sorted(aside):
        if moment_in(name) is None:
            continue
        of = [
            key
            for key in groups.keys() - aside
            if key[0] == folder and re.match(rf"{re.escape(name)}[_\-. ]", f"{key[1]}.")
        ]
        for key in of:
            groups[key] += groups[folder, name]
        if of:
            del groups[folder, name]
    for (_, name), files in groups.items():
        yield name, files


def _meant(path: str) -> Iterator[str]:
    """Yield the products and files that a path stands for."""
    place = Path(path)
    if not place.exists():
        found = sorted(glob.glob(path, recursive=True)) if glob.has_magic(path) else []  # noqa: PTH207 - as typed
        if not found:
            raise RasterError(f"there is no file {redact(path)}")
        for each in found:
            yield from _meant(each)
    elif place.is_dir() and moment_in(place.name) is None:
        for child in sorted(place.iterdir()):
            raster = child.suffix.lower() in RASTER_SUFFIXES
            if raster or (moment_in(child.name) and product_of(str(child))):
                yield str(child)
    else:
        yield path


def _stem(path: str) -> str:
    name = Path(path).name
    return re.sub(
        r"\.(SAFE|zip|tar|tgz|gz|SAFE\.zip|tar\.gz)$", "", name, flags=re.IGNORECASE
    )


def _scene_name(path: str) -> str:
    """Return the name of a file without what says which band it is."""
    stem = Path(path).stem
    quality, band = _QUALITY.search(stem), band_in_file_name(path)
    if quality is not None:
        return stem[: quality.start()].rstrip(" ,_-.")
    if bare := beside_pixels(path):
        return bare
    if band is None:
        return stem
    at = stem.upper().rfind(band.upper())
    return (stem[:at] if at >= 0 else stem).rstrip(" ,_-.") or stem


def moment_in(name: str) -> datetime | None:
    """Return the first date in a name, with its time where that follows; in UTC.

    >>> moment_in("S2A_MSIL2A_20250503T101031_N0511_R022_T32TPS_20250503T144900.SAFE")
    datetime.datetime(2025, 5, 3, 10, 10, 31, tzinfo=datetime.timezone.utc)
    >>> moment_in("HLS.S30.T32TPS.2025123T101031.v2.0").date()
    datetime.date(2025, 5, 3)
    >>> moment_in("field_12345678.tif")
    """
    for found in _MOMENT.finditer(name):
        try:
            if found["of_year"]:
                days = timedelta(days=int(found["of_year"]) - 1)
                day = datetime(int(found["year"]), 1, 1, tzinfo=UTC) + days
                if day.year != int(found["year"]):
                    continue
            else:
                year, month, date = (int(found[k]) for k in ("year", "month", "day"))
                day = datetime(year, month, date, tzinfo=UTC)
            hours = found["time"] or "000000"
            return day.replace(
                hour=int(hours[:2]), minute=int(hours[2:4]), second=int(hours[4:])
            )
        except ValueError:  # the 31st of June
            continue
    return None


def _item(scene: LocalScene, trust: tuple[str, ...]) -> dict[str, Any]:
    moment = moment_in(scene.name)
    if moment is None:
        raise RasterError(
            f"the name of {redact(scene.name)} has no date such as 20250517 or "
            "2025-05-17, which --dates-from names takes from it"
        )
    bands = bands_and_tiles([f for f in scene.files if not _QUALITY.search(_bare(f))])
    quality = _finest_quality(scene.files)
    if not bands.paths:
        raise RasterError(f"scene {redact(scene.name)} has no bands among its files")
    opened = open_all([*bands.paths, *quality.values()], FileHints(trust=trust))
    pixels, masks = opened[: len(bands.paths)], opened[len(bands.paths) :]
    if pixels[0].grid.crs is None:
        raise RasterError(
            f"{pixels[0].name} has no coordinate reference system, which a series of "
            "scenes needs: set it with gdal_edit.py -a_srs"
        )
    footprint = area_of_grid(pixels[0].grid)
    assets: dict[str, Any] = {}
    for file in pixels:
        called = file.bands[0].name if len(file.bands) == 1 else "image"
        key = called if called not in assets else f"{called}-{len(assets)}"
        assets[key] = _asset(file, ["data"])
    for key, file in zip(quality, masks, strict=True):
        assets[key] = {"href": file.path, "roles": ["data-mask"]}
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": scene.name,
        "bbox": [*map(float, footprint.bounds)],
        "geometry": footprint.__geo_interface__,
        "properties": {"datetime": iso(moment), **_told_by(scene.name)},
        "links": [],
        "assets": assets,
    }


def _bare(path: str) -> str:
    return re.split(r"[/\\]", path)[-1].rpartition(".")[0]


def _finest_quality(files: Sequence[str]) -> dict[str, str]:
    """Return the quality files of a scene by what they are, each at its finest."""
    best: dict[str, tuple[int, str]] = {}
    for file in files:
        if found := _QUALITY.search(_bare(file)):
            name, size = found["name"].lower(), int(found["size"] or 0)
            if name not in best or size < best[name][0]:
                best[name] = size, file
    return {name: file for name, (_, file) in best.items()}


def _asset(file: RasterFile, roles: list[str]) -> dict[str, Any]:
    names, rules = [], []
    for band, nodata in zip(file.bands, file.nodata, strict=True):
        common = {"common_name": band.common_name} if band.common_name else {}
        names.append({"name": band.name, **common})
        rule = {"scale": band.scale, "offset": band.offset} if band.is_scaled else {}
        rules.append(rule | ({} if nodata is None else {"nodata": nodata}))
    return {
        "href": file.path,
        "roles": roles,
        "eo:bands": names,
        "raster:bands": rules,
    }


def _told_by(name: str) -> Mapping[str, Any]:
    """Return what a product's name tells of its satellite, place and processing."""
    sentinel, landsat = (pattern.search(name) for pattern in _PRODUCT)
    if sentinel is not None:
        baseline, made = sentinel["baseline"], moment_in(sentinel["made"])
        return {
            "platform": f"sentinel-{sentinel['platform'][1:].lower()}",
            "constellation": "sentinel-2",
            "s2:mgrs_tile": sentinel["tile"],
            "s2:processing_baseline": f"{baseline[:2]}.{baseline[2:]}",
            **({} if made is None else {"s2:generation_time": iso(made)}),
        }
    if landsat is not None:
        made = moment_in(landsat["made"])
        return {
            "platform": f"landsat-{landsat['landsat']}",
            "landsat:wrs_path": landsat["path"],
            "landsat:wrs_row": landsat["row"],
            **({} if made is None else {"created": iso(made)}),
        }
    return {}
