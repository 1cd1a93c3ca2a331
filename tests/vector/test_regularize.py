"""Squared footprints: right angles where they fit, and never one on another."""

import json

import geopandas
import numpy as np
import oracles
import pytest
import rasterio
import rasterio.features
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import Oracle, Scene, card
from tifs import write_tif

import geoseg
import geoseg.vector.footprints
from geoseg.cli import run as cli
from geoseg.errors import RegionsError
from geoseg.vector.regularize import iou, square

UTM = Affine(1, 0, 4e5, 0, -1, 5e6)
NOTHING = np.zeros((0, 4, 2))


def drawn(shape, transform=UTM, side=120):
    """Return the outline of the pixels whose centres lie in a shape."""
    pixels = rasterio.features.rasterize(
        [shape], (side, side), transform=transform, dtype="uint8"
    )
    found = rasterio.features.shapes(pixels, pixels > 0, transform=transform)
    outlines = [shapely.geometry.shape(s) for s, _ in found]
    return max(outlines, key=lambda outline: outline.area)


def placed(points, degrees):
    """Return a polygon of points in metres, turned around the middle of a raster."""
    shape = shapely.affinity.rotate(shapely.Polygon(points), degrees, origin=(0, 0))
    return shapely.affinity.translate(shape, 4e5 + 60.3, 5e6 - 59.6)


RECTANGLE = [(-30, -18), (30, -18), (30, 18), (-30, 18)]
L_SHAPE = [(-30, -30), (30, -30), (30, 0), (0, 0), (0, 30), (-30, 30)]


def corner_angles(polygon):
    """Return the angles at a polygon's corners in degrees, 0 … 180."""
    steps = np.diff(np.array(polygon.exterior.coords), axis=0)
    after = np.roll(steps, -1, axis=0)
    cross = steps[:, 0] * after[:, 1] - steps[:, 1] * after[:, 0]
    return 180 - np.degrees(np.abs(np.arctan2(cross, (steps * after).sum(axis=1))))


@pytest.mark.parametrize("degrees", [0, 3, 17, 30, 45, 61, 88])
@pytest.mark.parametrize(("points", "corners"), [(RECTANGLE, 4), (L_SHAPE, 6)])
def test_a_building_gets_its_corners_back(degrees, points, corners):
    truth = placed(points, degrees)
    outline = drawn(truth)
    done = square(outline, 1.0, NOTHING)
    assert done.is_square
    assert len(done.polygon.exterior.coords) == corners + 1
    assert corner_angles(done.polygon) == pytest.approx(90, abs=1e-6)
    assert iou(done.polygon, truth) > 0.96
    (x, y), (u, v) = done.polygon.exterior.coords[:2]
    off = np.degrees(np.arctan2(v - y, u - x)) - degrees
    assert abs((off + 45) % 90 - 45) < 1.5


def test_a_courtyard_stays():
    court = [(x / 3, y / 2) for x, y in RECTANGLE]
    truth = placed(RECTANGLE, 20).difference(placed(court, 20))
    done = square(drawn(truth), 1.0, NOTHING)
    assert done.is_square
    assert len(done.polygon.interiors) == 1
    assert iou(done.polygon, truth) > 0.96


def test_what_is_no_building_keeps_what_it_must():
    star = [
        (r * np.cos(a), r * np.sin(a))
        for r, a in zip([50, 20] * 5, np.linspace(0, 2 * np.pi, 11), strict=False)
    ]
    outline = drawn(placed(star, 0))
    for least in (0.85, 0.97, 1.0):
        assert iou(square(outline, 1.0, NOTHING, least).polygon, outline) >= least
    assert square(outline, 1.0, NOTHING, 1.0).polygon.equals(outline)


def test_walls_step_back_before_what_is_taken():
    outline = drawn(placed(RECTANGLE, 17))
    free = square(outline, 1.0, NOTHING).polygon
    x, y = np.array(free.exterior.coords)[:2].mean(axis=0)  # the middle of a wall
    pixel = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) + np.floor([x, y])
    assert free.intersection(shapely.Polygon(pixel)).area > 0.05
    done = square(outline, 1.0, pixel[None].astype(float))
    assert done.is_square
    assert done.polygon.intersection(shapely.Polygon(pixel)).area < 1e-9
    assert iou(done.polygon, outline) > 0.85


# --- whole layers ---------------------------------------------------------------------


def town(side, seed, gap):
    """Return ids of houses, turned as their quarter is, `gap` pixels apart or more."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((side, side)) + 0.5
    angle, step = rng.uniform(0, np.pi), rng.uniform(14, 30)
    u = x * np.cos(angle) + y * np.sin(angle) + 2 * side
    v = y * np.cos(angle) - x * np.sin(angle) + 2 * side
    columns, rows = (u // step).astype(int), (v // (0.7 * step)).astype(int)
    inside = (u % step >= gap) & (v % (0.7 * step) >= gap)
    houses = np.where(inside, rows * 1000 + columns, 0)
    houses[rng.random(houses.shape) < 0.02] = 0  # holes and frayed walls
    lonely = rng.random(int(houses.max()) + 1) < 0.2
    return oracles.connected(np.where(lonely[houses], 0, houses), 4)[0].astype("u4")


def store_of(truth, path):
    geoseg.segment(
        Scene(truth), model=Oracle(card(128, 32)), out=path, progress=False,
        overwrite=True,
    )  # fmt: skip
    return path


def footprints(store, out, **options):
    path = geoseg.vectorize(store, out, regularize=True, overwrite=True, **options)
    return geopandas.read_file(path, layer="instances").sort_values("instance_id")


def overlap(frame):
    """Return the largest area that two rows share, and how many pairs are near."""
    i, j = frame.sindex.query(frame.geometry.buffer(2), predicate="intersects")
    near = i < j
    i, j = i[near], j[near]
    shapes = frame.geometry.to_numpy()
    return shapely.area(shapely.intersection(shapes[i], shapes[j])).max(initial=0), i


@given(st.integers(0, 2**31), st.sampled_from(["town", "mosaic", "discs"]),
       st.sampled_from([0.0, 1.0, 2.5]))  # fmt: skip
@settings(max_examples=8, deadline=None)
def test_neighbours_never_overlap(tmp_path_factory, seed, kind, gap):
    truth = {
        "town": lambda: town(80, seed, gap),
        "mosaic": lambda: oracles.mosaic(80, 70, 25, seed=seed),
        "discs": lambda: oracles.discs(80, 80, 50, radius=(1, 9), seed=seed),
    }[kind]()
    folder = tmp_path_factory.mktemp("town")
    rows = footprints(store_of(truth, folder / "m.zarr"), folder / "f.gpkg")
    assert len(rows) == len(np.unique(truth[truth > 0]))
    assert rows.geometry.is_valid.all()
    shared, near = overlap(rows)
    assert shared < 1e-6
    assert len(near)
    ids = geoseg.open_masks(str(folder / "m.zarr")).dataset()["instances"].to_numpy()
    pieces = {}
    for shape, value in rasterio.features.shapes(ids.astype("i4"), transform=UTM):
        pieces.setdefault(int(value), []).append(shapely.geometry.shape(shape))
    for row in rows.itertuples():
        pixels = shapely.union_all(pieces[row.instance_id])
        assert row.pixel_iou == pytest.approx(iou(row.geometry, pixels), abs=1e-6)
        assert row.pixel_iou >= 0.85
        assert row.pixels == pixels.area
        assert row.area_m2 == pytest.approx(row.geometry.area, rel=2e-3)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return store_of(town(170, 5, 1.5), tmp_path_factory.mktemp("town") / "m.zarr")


def test_most_of_a_town_is_squared_whatever_the_blocks(store, tmp_path):
    found = [
        footprints(store, tmp_path / f"{block}.gpkg", block=block)
        for block in (50, 1000)
    ]
    shapes = [[g.wkb for g in rows.geometry] for rows in found]
    assert shapes[0] == shapes[1]
    assert found[0].squared.mean() > 0.8
    assert 0.9 < found[0].pixel_iou.mean() < 1
    plain = geoseg.vectorize(store, tmp_path / "plain.gpkg")
    before = geopandas.read_file(plain, layer="instances").geometry
    vertices = [shapely.get_num_coordinates(g).mean() for g in
                (before.to_numpy(), found[0].geometry.to_numpy())]  # fmt: skip
    assert vertices[1] < vertices[0] / 4


def test_workers_change_nothing(store, tmp_path, monkeypatch):
    from distributed import Client, LocalCluster

    monkeypatch.setattr(geoseg.vector.footprints, "_SLICE", 9)

    here = footprints(store, tmp_path / "here.gpkg")
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        there = footprints(store, tmp_path / "there.gpkg", client=client)
    assert len(here) > 5 * 9  # several tasks
    assert here.geometry.to_wkb().tolist() == there.geometry.to_wkb().tolist()
    assert here.pixel_iou.tolist() == there.pixel_iou.tolist()


@pytest.fixture
def houses(tmp_path):
    """Return a class raster in degrees, far in the north: pixels are narrow there."""
    metre = 1 / 111_412  # degrees of latitude, at 60°
    transform = Affine(2 * metre, 0, 24.94, 0, -metre, 60.17)
    angle, path = np.deg2rad(30), tmp_path / "houses.tif"
    y, x = np.indices((160, 160)) + 0.5
    u, v = x - 80, 80 - y  # metres at 60°, where a degree is half as wide
    inside = (abs(u * np.cos(angle) + v * np.sin(angle)) < 40) & (
        abs(v * np.cos(angle) - u * np.sin(angle)) < 25
    )
    return write_tif(
        path, inside.astype("u1"), crs="EPSG:4326", transform=transform, nodata=255
    )


@pytest.mark.parametrize("ending", ["gpkg", "parquet", "fgb"])
def test_right_angles_are_right_on_the_ground(houses, tmp_path, ending, capsys):
    out = tmp_path / f"h.{ending}"
    command = ["vectorize", str(houses), "--out", str(out), "--classes", "1"]
    assert cli([*command, "--regularize", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)["footprints"]
    assert summary["count"] == summary["squared"] == 1
    assert summary["least_iou"] > 0.95
    (row,) = geoseg.read_regions(out).itertuples()
    flat = geopandas.GeoSeries([row.geometry], crs=4326).to_crs(32635)
    assert corner_angles(flat[0]) == pytest.approx([90] * 4, abs=0.5)
    assert row.area_m2 == pytest.approx(80 * 50, rel=0.02)
    assert row.area_m2 == pytest.approx(flat[0].area, rel=2e-3)
    assert row.perimeter_m == pytest.approx(2 * (80 + 50), rel=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--simplify", "2"], "leave out --regularize"),
        (["--smooth"], "leave out --regularize"),
        ([], "--classes building"),
    ],
)
def test_what_cannot_be_squared_is_refused(houses, tmp_path, capsys, options, message):
    out = tmp_path / "h.gpkg"
    assert cli(["vectorize", str(houses), "--out", str(out), "--regularize",
                *options]) == 2  # fmt: skip
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not out.exists()


@pytest.mark.parametrize("value", [0.0, -1, 1.5, np.nan])
def test_an_iou_is_a_share(houses, tmp_path, value):
    with pytest.raises(RegionsError, match="IoU"):
        geoseg.vectorize(houses, tmp_path / "h.gpkg", classes=[1], regularize=value)
