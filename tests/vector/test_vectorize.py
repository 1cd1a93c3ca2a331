"""From real masks to files: laws 7 and 8, the options, and what is refused."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401 - the accessor
import shapely
import xarray as xr
from affine import Affine
from rasterio.enums import ColorInterp
from rasterio.windows import Window as RasterioWindow
from scipy import ndimage
from skimage.measure import label
from stores import write_masks
from tifs import write_tif

import geoseg
from geoseg import GeosegError, read_regions, vectorize
from geoseg.maps.geotiff import open_class_raster
from geoseg.vector.zonal_statistics import _field_names

RASTERS = [
    pytest.param("cci_landcover_2015_300m_amazon.tif", marks=pytest.mark.slow),
    pytest.param("drcog_2018_lulc_1m.tif", marks=pytest.mark.slow),
    "lcmap_hawaii_2020_LCPRI.tif",
    "nlcd_zion_EPSG26912.tif",
    "orthoseg_prediction_4096.tif",
    "sentinel2_T31TFJ_valid_mask_20m.tif",
    "usda_cdl_2021_subset_30m.tif",
]
WORLDCOVER = "ESA_WorldCover_10m_2021_v200_N00E006_Map.tif"


def write(path: Path, values: Any, **profile: Any) -> Path:
    values = np.atleast_3d(np.asarray(values).T).T
    return write_tif(path, values, **{"crs": "EPSG:32631", **profile})


def spots(side: int = 120, seed: int = 0) -> Any:
    noise = np.random.default_rng(seed).normal(size=(side, side))
    smooth = ndimage.gaussian_filter(noise, 2)
    return np.digitize(smooth, np.quantile(smooth, [0.25, 0.5, 0.75])).astype(np.uint8)


def painted(frame: Any, transform: Affine, height: int, width: int) -> Any:
    """Sum class + 1 over the regions that cover each pixel, exactly.

    GDAL's fill takes rows times vertices, too long for a region with 500 000 of them.
    Here each vertical edge adds its region to all pixels east of it, up or down.
    """
    shape, parts = shapely.get_rings(frame.geometry.values, return_index=True)
    xy, ring = shapely.get_coordinates(shape, return_index=True)
    columns, rows = ~transform @ (xy[:, 0], xy[:, 1])
    place = np.rint(np.stack([columns, rows], 1)).astype(np.int64)
    np.testing.assert_allclose(np.stack([columns, rows], 1), place, atol=1e-4)
    weight = frame.class_id.to_numpy()[parts][ring] + 1
    down = (ring[1:] == ring[:-1]) & (place[1:, 0] == place[:-1, 0])
    x = np.clip(place[:-1, 0][down], 0, width)
    y0, y1 = (
        np.clip(place[:-1, 1][down], 0, height),
        np.clip(place[1:, 1][down], 0, height),
    )
    sums = np.zeros((height + 1, width + 1), np.int32)
    np.add.at(sums, (y0, x), weight[:-1][down])
    np.add.at(sums, (y1, x), -weight[:-1][down])
    np.cumsum(sums, axis=0, out=sums)
    np.cumsum(sums, axis=1, out=sums)
    return sums[:-1, :-1]


def pieces(values: Any, nodata: float | None = None, connectivity: int = 4) -> int:
    """Return how many regions of like pixels there are, by scikit-image."""
    one_up = values.astype(np.int32) + 1
    if nodata is not None:
        one_up[values == nodata] = 0
    near = 1 if connectivity == 4 else 2
    return int(label(one_up, background=0, connectivity=near, return_num=True)[1])


def by_content(path: Path) -> Any:
    frame = read_regions(path)
    frame = frame.assign(key=frame.geometry.to_wkb(hex=True))
    return frame.drop(columns="geometry").sort_values("key").reset_index(drop=True)


def test_the_function_stays_a_function() -> None:
    assert callable(geoseg.vectorize)
    assert callable(geoseg.read_regions)


@pytest.mark.parametrize("name", RASTERS)
def test_rasterizing_gives_real_masks_back(
    shared: Path, tmp_path: Path, name: str
) -> None:
    path = shared / "landcover_rasters" / name
    frame = read_regions(vectorize(path, tmp_path / "r.gpkg"))
    with rasterio.open(path) as file:
        values, nodata, transform = file.read(1), file.nodata, file.transform
    again = painted(frame, transform, *values.shape)
    expected = np.where(values == nodata, 0, values.astype(np.int32) + 1)
    np.testing.assert_array_equal(again, expected)
    valid = values != nodata
    assert len(frame) == pieces(values, nodata)
    assert frame.pixels.sum() == valid.sum()
    np.testing.assert_allclose(
        frame.geometry.area, frame.pixels * abs(transform.determinant), rtol=1e-9
    )
    assert shapely.is_valid(frame.geometry.values).all()


def test_regions_that_touch_at_corners_come_back_too(
    shared: Path, tmp_path: Path
) -> None:
    path = shared / "landcover_rasters" / "nlcd_zion_EPSG26912.tif"
    frame = read_regions(vectorize(path, tmp_path / "r.gpkg", connectivity=8))
    with rasterio.open(path) as file:
        values, transform = file.read(1), file.transform
    assert len(frame) == pieces(values, connectivity=8)
    assert shapely.is_valid(frame.geometry.values).all()
    parts = frame.explode(index_parts=False)
    assert len(parts) == pieces(values)
    again = painted(parts, transform, *values.shape)
    np.testing.assert_array_equal(again, values.astype(np.int32) + 1)


@pytest.mark.slow
def test_worldcover_comes_back_window_by_window(shared: Path, tmp_path: Path) -> None:
    path = shared / "landcover_rasters" / WORLDCOVER
    out = vectorize(path, tmp_path / "r.gpkg")
    checked = 0
    with rasterio.open(path) as file:
        for y in range(0, 36000, 4500):
            for x in range(0, 36000, 4500):
                window = RasterioWindow(x, y, 4500, 4500)
                values = file.read(1, window=window)
                if not values.any():
                    continue
                some = geopandas.read_file(
                    out, layer="regions", bbox=file.window_bounds(window)
                )
                again = painted(some, file.window_transform(window), 4500, 4500)
                expected = np.where(values == 0, 0, values.astype(np.int32) + 1)
                np.testing.assert_array_equal(again, expected)
                checked += 1
    assert checked > 5


def unmatched(shapes: Any) -> Any:
    """Return the edges without their reverse, after checking that none is there twice.

    Valid polygons whose edges all match, and whose areas add up, are a coverage. GEOS's
    own check takes minutes for a region with thousands of holes.
    """
    xy, ring = shapely.get_coordinates(shapely.get_rings(shapes), return_index=True)
    along = ring[1:] == ring[:-1]
    points, each = np.unique(xy @ [1, 1j], return_inverse=True)
    one, other = each[:-1][along], each[1:][along]
    edges, reverse = one * len(points) + other, other * len(points) + one
    distinct, times = np.unique(np.concatenate([edges, reverse]), return_counts=True)
    assert times.max() <= 2
    assert len(np.unique(edges)) == len(edges)
    begin, end = (points[i] for i in divmod(distinct[times == 1], len(points)))
    return np.stack([begin.real, begin.imag, end.real, end.imag], axis=1)


@pytest.mark.parametrize(
    ("name", "simplify"),
    [("usda_cdl_2021_subset_30m.tif", 60), ("nlcd_zion_EPSG26912.tif", 45)],
)
def test_simplified_real_masks_have_no_gap_and_no_overlap(
    shared: Path, tmp_path: Path, name: str, simplify: float
) -> None:
    path = shared / "landcover_rasters" / name
    with rasterio.open(path) as file:
        values, box = file.read(1), shapely.box(*file.bounds)
        assert file.nodata is None or not (values == file.nodata).any()
        crop = values[:150, :150]
        profile = {"crs": file.crs, "transform": file.transform}
        expected = pieces(values)
    for method in ("visvalingam", "douglas-peucker"):
        out = tmp_path / f"{method}.gpkg"
        frame = read_regions(vectorize(path, out, simplify=simplify, method=method))
        lines = frame.geometry.values
        assert len(frame) == expected
        assert shapely.is_valid(lines).all()
        assert shapely.area(lines).sum() == pytest.approx(box.area, rel=1e-12)
        alone = unmatched(lines)  # each outer edge, there and back
        length = np.hypot(*(alone[:, :2] - alone[:, 2:]).T).sum() / 2
        assert length == pytest.approx(box.length)
        small = write(tmp_path / f"{method}.tif", crop, **profile)
        out = tmp_path / f"{method}.small.gpkg"
        some = read_regions(vectorize(small, out, simplify=simplify, method=method))
        assert shapely.coverage_is_valid(some.geometry.values)
    for options in ({"simplify": simplify}, {"min_area": 9000.0}):
        cut = vectorize(path, tmp_path / "b.gpkg", block=190, overwrite=True, **options)
        whole = vectorize(path, tmp_path / "c.gpkg", overwrite=True, **options)
        assert by_content(cut).equals(by_content(whole))


def test_network_output_against_another_tools_polygons(
    shared: Path, tmp_path: Path
) -> None:
    """orthoseg made its polygons of the same prediction in another way.

    It cuts them 32 m inside the tile (what overlaps the next tile is thrown away
    there), so regions are cut and lost at that line, where ours go on to the edge; and
    it simplifies each line by a tolerance, so corners differ by up to two pixels. It
    writes the foreground only, where ours also has the background's regions.
    """
    folder = shared / "landcover_rasters"
    theirs = geopandas.read_file(
        folder / "orthoseg_prediction_4096_expected_polygons.gpkg"
    )
    frame = read_regions(
        vectorize(folder / "orthoseg_prediction_4096.tif", tmp_path / "r.gpkg",
                  classes=["class_255"])
    )  # fmt: skip
    inner = shapely.box(*theirs.total_bounds)
    assert shapely.box(*frame.total_bounds).contains(inner)
    ours = shapely.coverage_union_all(frame.geometry.values)
    expected = shapely.union_all(theirs.geometry.values)
    cut = shapely.intersection(ours, inner)
    assert cut.intersection(expected).area / cut.union(expected).area > 0.99
    pixel = 0.25
    near_lines = shapely.buffer(ours.boundary, 2.5 * pixel, quad_segs=2)
    differs = shapely.difference(cut.symmetric_difference(expected), near_lines)
    assert differs.area < 1e-3 * expected.area


def test_options_reach_the_result(tmp_path: Path) -> None:
    path = write(tmp_path / "c.tif", spots(), nodata=9)
    plain = read_regions(vectorize(path, tmp_path / "plain.gpkg"))
    two = read_regions(vectorize(path, tmp_path / "two.gpkg", classes=["class_1", 2]))
    assert set(two.class_id) == {1, 2}
    kept = plain[plain.class_id.isin([1, 2])]
    assert sorted(two.geometry.to_wkb()) == sorted(kept.geometry.to_wkb())
    eight = read_regions(
        vectorize(path, tmp_path / "eight.gpkg", connectivity=8, layer="big")
    )
    assert set(eight.geom_type) == {"MultiPolygon"}
    assert len(eight) < len(plain)
    assert eight.pixels.sum() == plain.pixels.sum()
    smooth = read_regions(vectorize(path, tmp_path / "s.gpkg", smooth=True))
    assert shapely.coverage_is_valid(smooth.geometry.values)
    assert shapely.is_valid(smooth.geometry.values).all()
    assert smooth.perimeter_m.sum() < 0.95 * plain.perimeter_m.sum()
    assert smooth.geometry.area.sum() == pytest.approx(plain.geometry.area.sum())
    large = read_regions(vectorize(path, tmp_path / "m.gpkg", min_area=3000, block=33))
    assert 0 < len(large) < len(plain)
    assert large.area_m2.min() >= 3000
    assert large.geometry.area.sum() == pytest.approx(plain.geometry.area.sum())


def test_seen_blocks_are_reported(tmp_path: Path) -> None:
    path = write(tmp_path / "c.tif", spots())
    seen: list[Any] = []
    vectorize(path, tmp_path / "r.gpkg", block=50, progress=seen.append)
    assert [p.blocks for p in seen] == list(range(1, 10))
    assert {p.total for p in seen} == {9}


def test_a_slow_block_does_not_let_results_pile_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes after it waits in memory; so only a few more are begun."""
    from geoseg.execution.engine import cores
    from geoseg.vector import vectorize as vectors

    path = write(tmp_path / "c.tif", spots(), nodata=3)
    here = by_content(vectorize(path, tmp_path / "h.gpkg", block=8))
    trace, begun, late = vectors.trace_block, [], []

    def slow(reader: Any, window: Any, drawing: Any) -> Any:
        begun.append(window)
        if window.x == window.y == 0:
            time.sleep(0.5)
            late.append(len(begun))
        return trace(reader, window, drawing)

    monkeypatch.setattr(vectors, "trace_block", slow)
    there = vectorize(path, tmp_path / "t.gpkg", block=8)
    assert late[0] <= 3 * 2 * cores() + 1
    assert len(begun) == 225
    assert by_content(there).equals(here)


def test_a_cluster_makes_the_same_file(tmp_path: Path) -> None:
    from distributed import Client

    path = write(tmp_path / "c.tif", spots(), nodata=3)
    here = by_content(
        vectorize(path, tmp_path / "h.gpkg", simplify=25, min_area=900, block=40)
    )
    with Client(
        processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None
    ) as client:
        there = vectorize(
            path,
            tmp_path / "t.gpkg",
            simplify=25,
            min_area=900,
            block=50,
            client=client,
        )
    assert by_content(there).equals(here)


def test_statistics_are_those_of_the_pixels(tmp_path: Path) -> None:
    pytest.importorskip("exactextract")
    values = spots(60)
    path = write(tmp_path / "c.tif", values)
    bands = np.random.default_rng(1).normal(size=(2, 60, 60)).astype(np.float32)
    other = write(tmp_path / "b.tif", bands)
    with rasterio.open(other, "r+") as file:
        file.set_band_description(1, "NIR 8")
    frame = read_regions(vectorize(path, tmp_path / "r.gpkg", stats=other, block=25))
    labels, count = np.zeros((60, 60), int), 0
    for v in range(4):
        found, n = ndimage.label(values == v)
        labels[found > 0] = found[found > 0] + count
        count += n
    index = np.arange(1, count + 1)
    for name, band in (("nir_8", bands[0]), ("b2", bands[1])):
        for op, by in (("mean", ndimage.mean), ("min", ndimage.minimum),
                       ("max", ndimage.maximum)):  # fmt: skip
            expected = np.sort(by(band, labels, index))
            np.testing.assert_allclose(
                np.sort(frame[f"{name}_{op}"]), expected, rtol=1e-5
            )


@pytest.mark.parametrize("how", ["nodata", "mask", "alpha"])
def test_statistics_leave_out_what_a_raster_masks(tmp_path: Path, how: str) -> None:
    """A nodata value, a mask band and alpha say the same: the collar is no value."""
    pytest.importorskip("exactextract")
    path = write(tmp_path / "c.tif", np.ones((60, 60), np.uint8))
    values = np.random.default_rng(3).integers(90, 110, (60, 60)).astype(np.uint8)
    valid = np.ones((60, 60), bool)
    valid[:20] = False
    values[~valid] = 255
    with rasterio.open(path) as file:
        profile = {**file.profile, "nodata": 255 if how == "nodata" else None}
    other = tmp_path / "v.tif"
    if how == "alpha":
        profile |= {"count": 2, "alpha": "yes"}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(other, "w", **profile) as out,
    ):
        out.write(values, 1)
        if how == "alpha":
            out.write(valid * np.uint8(255), 2)
            out.colorinterp = [ColorInterp.gray, ColorInterp.alpha]
        if how == "mask":
            out.write_mask(valid)
    frame = read_regions(vectorize(path, tmp_path / "r.gpkg", stats=other))
    (mean,) = frame["b1_mean"]
    assert mean == pytest.approx(values[valid].mean())
    assert frame["b1_max"].max() < 110


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_statistics_of_a_raster_without_a_place_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("exactextract")
    path = write(tmp_path / "c.tif", np.ones((9, 9), np.uint8))
    other = tmp_path / "v.tif"
    write_tif(other, np.ones((1, 9, 9), np.uint8), crs=None, transform=None)
    assert "has no CRS" in refused(tmp_path, path, stats=other)


def test_field_names_of_bands_never_collide() -> None:
    names = _field_names(["NDVI", "ndvi", "b2", "3", "n d v i", "b4"])
    assert len(set(names)) == 6
    assert names[0] == "ndvi"


def test_the_minimum_area_counts_corners_where_regions_do(tmp_path: Path) -> None:
    """A river of pixels that touch at corners is one region, and large enough."""
    values = np.zeros((60, 60), np.uint8)
    values[np.arange(5, 55), np.arange(5, 55)] = 1
    values[40:42, 10:12] = 2
    path = write(tmp_path / "c.tif", values)
    options = {"min_area": 10 * 100.0, "block": 23}
    eight = read_regions(
        vectorize(path, tmp_path / "8.gpkg", connectivity=8, **options)
    )
    assert sorted(zip(eight.class_id, eight.pixels, strict=True)) == [
        (0, 3550), (1, 50),
    ]  # fmt: skip
    four = read_regions(vectorize(path, tmp_path / "4.gpkg", **options))
    assert set(four.class_id) == {0}


def test_a_store_gives_class_names_and_confidence(tmp_path: Path) -> None:
    masks, values, confidence = a_store(tmp_path)
    frame = read_regions(vectorize(masks, tmp_path / "r.gpkg", block=32))
    assert set(frame.class_name) <= {"water", "wood", "field", "never seen"}
    assert frame.pixels.sum() == (values != 255).sum()
    for class_id, name in ((0, "water"), (1, "wood")):
        some = frame[frame.class_id == class_id]
        assert set(some.class_name) == {name}
        mean = (some.confidence * some.pixels).sum() / some.pixels.sum()
        expected = confidence[values == class_id].mean() / 254
        assert mean == pytest.approx(expected, rel=1e-9)
    with closing(sqlite3.connect(tmp_path / "r.gpkg")) as db, db:
        (style,) = db.execute("SELECT styleQML FROM layer_styles").fetchone()
    assert "never seen" in style  # a legend does not depend on what occurs
    again = read_regions(vectorize(masks.dataset(), tmp_path / "d.gpkg"))
    assert sorted(again.geometry.to_wkb()) == sorted(frame.geometry.to_wkb())


def a_store(folder: Path) -> tuple[Any, Any, Any]:
    from pyproj import CRS

    from geoseg.core.classes import class_table
    from geoseg.core.grid import Grid

    values = np.where(spots(100) == 3, 255, spots(100)).astype(np.uint8)
    confidence = np.random.default_rng(2).integers(0, 255, (100, 100)).astype(np.uint8)
    confidence[values == 255] = 255
    grid = Grid(
        crs=CRS(32631).to_wkt(), transform=Affine(10, 0, 5e5, 0, -10, 5e6),
        height=100, width=100,
    )  # fmt: skip
    table = class_table(["water", "wood", "field", "never seen"])
    masks = write_masks(
        folder / "m.zarr", values, grid=grid, table=table, confidence=confidence
    )
    return masks, values, confidence


def test_arrays_in_memory_are_taken(tmp_path: Path) -> None:
    values = spots(40)
    array = xr.DataArray(
        values, dims=("y", "x"),
        coords={"y": 5e6 - 5 - 10 * np.arange(40), "x": 5e5 + 5 + 10 * np.arange(40)},
    ).rio.write_crs("EPSG:32631")  # fmt: skip
    frame = read_regions(vectorize(array, tmp_path / "a.gpkg"))
    path = write(tmp_path / "c.tif", values)
    same = read_regions(vectorize(path, tmp_path / "b.gpkg"))
    assert sorted(frame.geometry.to_wkb()) == sorted(same.geometry.to_wkb())


def test_names_come_from_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "c.tif", spots(20))
    (tmp_path / "c.tif.aux.xml").write_text(
        "<PAMDataset><PAMRasterBand band='1'><GDALRasterAttributeTable>"
        "<FieldDefn><Name>Value</Name><Type>0</Type><Usage>5</Usage></FieldDefn>"
        "<FieldDefn><Name>Land</Name><Type>2</Type><Usage>2</Usage></FieldDefn>"
        "<Row index='0'><F>1</F><F>Wood &amp; bush</F></Row>"
        "<Row index='1'><F>3</F><F>Lake</F></Row>"
        "</GDALRasterAttributeTable></PAMRasterBand></PAMDataset>"
    )
    names = {c.value: c.name for c in open_class_raster(str(path)).classes}
    assert [names[v] for v in range(4)] == ["class_0", "Wood & bush", "class_2", "Lake"]
    (tmp_path / "c.tif.aux.xml").write_text(
        "<PAMDataset><PAMRasterBand band='1'><CategoryNames><Category>None</Category>"
        "<Category>Sand</Category></CategoryNames></PAMRasterBand></PAMDataset>"
    )
    names = {c.value: c.name for c in open_class_raster(str(path)).classes}
    assert [names[v] for v in range(3)] == ["None", "Sand", "class_2"]


def test_a_class_raster_is_read_once_and_coloured_as_when_looked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "c.tif", spots(60) * 7, nodata=0)

    def looked_through(dataset: Any) -> Any:
        raise AssertionError("all pixels are read, only to see which classes occur")

    known = open_class_raster(str(path))
    with monkeypatch.context() as patch:
        patch.setattr("geoseg.maps.geotiff._rows", looked_through)
        out = vectorize(path, tmp_path / "r.gpkg")
    assert set(read_regions(out).class_name) == {c.name for c in known.classes}
    with closing(sqlite3.connect(out)) as db, db:
        (style,) = db.execute("SELECT styleQML FROM layer_styles").fetchone()
    for each in known.classes:
        rgb = ",".join(str(v) for v in bytes.fromhex(each.color[1:]))
        assert f'label="{each.name}"' in style
        assert rgb in style
    assert "class_1" not in style.replace("class_14", "")


@pytest.mark.parametrize("sigma", [0, 1.0, 4.0])
@pytest.mark.parametrize("crs", ["EPSG:32631", "EPSG:5070"])
def test_hardly_more_vertices_stay_than_in_coverage_simplify(
    tmp_path: Path, sigma: float, crs: str
) -> None:
    """Also where the tolerance is one pixel, whose true size is a little different."""
    noise = np.random.default_rng(5).normal(size=(120, 120))
    smooth = ndimage.gaussian_filter(noise, sigma)
    values = np.digitize(smooth, np.quantile(smooth, [0.25, 0.5, 0.75])).astype("u1")
    transform = Affine(30, 0, 5e5, 0, -30, 2e6)
    path = write(tmp_path / "c.tif", values, crs=crs, transform=transform)
    whole = read_regions(vectorize(path, tmp_path / "w.gpkg")).geometry.values
    ours = vectorize(path, tmp_path / "r.gpkg", simplify=30)
    kept = shapely.get_num_coordinates(read_regions(ours).geometry.values).sum()
    peer = shapely.get_num_coordinates(shapely.coverage_simplify(whole, 30)).sum()
    assert kept <= 1.05 * peer


@pytest.mark.parametrize("ending", ["gpkg", "parquet", "fgb"])
def test_nothing_but_nodata_is_an_empty_layer_with_the_right_fields(
    tmp_path: Path, ending: str
) -> None:
    path = write(tmp_path / "c.tif", np.full((9, 9), 7, np.uint8), nodata=7)
    frame = read_regions(vectorize(path, tmp_path / f"r.{ending}", simplify=5))
    assert len(frame) == 0
    assert [c for c in frame.columns if c not in ("geometry", "bbox")] == [
        "class_id", "class_name", "area_m2", "perimeter_m", "pixels",
    ]  # fmt: skip
    assert frame.crs == "EPSG:32631"


def test_sixteen_bits_and_many_classes(tmp_path: Path) -> None:
    values = np.arange(300, dtype=np.uint16).reshape(15, 20) * 200
    path = write(tmp_path / "c.tif", values, nodata=65535)
    frame = read_regions(vectorize(path, tmp_path / "r.gpkg", block=6))
    assert sorted(frame.class_id) == sorted(values.reshape(-1).tolist())
    assert set(frame.pixels) == {1}


def refused(tmp_path: Path, masks: Any, **kwargs: Any) -> str:
    with pytest.raises(GeosegError) as refusal:
        vectorize(masks, tmp_path / "r.gpkg", **kwargs)
    assert not (tmp_path / "r.gpkg").exists()
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.glob(".r.*"))
    return str(refusal.value)


def test_what_cannot_be_vectorized_is_refused_in_a_line(tmp_path: Path) -> None:
    values = spots(20)
    assert "no CRS" in refused(tmp_path, write(tmp_path / "n.tif", values, crs=None))
    floats = write(tmp_path / "f.tif", values.astype(np.float32))
    assert "float32" in refused(tmp_path, floats)
    signed = write(tmp_path / "i.tif", values.astype(np.int16) - 3)
    assert "class value -3" in refused(tmp_path, signed)
    bands = write(tmp_path / "b.tif", np.stack([values] * 3))
    assert "3 bands" in refused(tmp_path, bands)
    high = write(tmp_path / "h.tif", np.full((4, 4), 65535, np.uint16))
    assert "65535" in refused(tmp_path, high)
    assert "cannot open" in refused(tmp_path, tmp_path / "none.tif")
    assert "does not exist" in refused(tmp_path, tmp_path / "none.zarr")
    good = write(tmp_path / "g.tif", values)
    assert "no class 'sea'" in refused(tmp_path, good, classes=["sea"])
    assert "simplify -3" in refused(tmp_path, good, simplify=-3)
    assert "4096 are possible" in refused(tmp_path, good, simplify=1e6, block=9)
    assert "smooth -1" in refused(tmp_path, good, smooth=-1.0)
    assert "connectivity 6" in refused(tmp_path, good, connectivity=6)
    assert "layer name" in refused(tmp_path, good, layer='a"; drop')
    assert "method" in refused(tmp_path, good, method="magic")
    assert "cannot open" in refused(tmp_path, good, stats=tmp_path / "no.tif")


def test_a_damaged_raster_is_refused_not_half_written(tmp_path: Path) -> None:
    path = write(tmp_path / "c.tif", spots(400), compress="deflate", tiled=True,
                 blockxsize=64, blockysize=64)  # fmt: skip
    data = bytearray(path.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    path.write_bytes(data)
    refused(tmp_path, path)


def test_provenance_is_json(tmp_path: Path) -> None:
    path = write(tmp_path / "c.tif", spots(20))
    out = vectorize(path, tmp_path / "r.gpkg", simplify=3, smooth=True)
    with closing(sqlite3.connect(out)) as db, db:
        (text,) = db.execute("SELECT metadata FROM gpkg_metadata").fetchone()
    assert json.loads(text)["settings"] == {
        "simplify_m": 3, "method": "visvalingam", "smooth": True, "connectivity": 4,
    }  # fmt: skip
