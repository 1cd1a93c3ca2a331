"""Rasters that are placed by ground control points: where their pixels land."""

import numpy as np
import pytest
from pyproj import Transformer
from rasterio.control import GroundControlPoint
from rasterio.warp import Resampling, reproject
from tifs import write_tif

from geoseg.core.grid import Window
from geoseg.errors import LabelsError, RasterError
from geoseg.inference.workflow import segment
from geoseg.labels import open_labels
from geoseg.rasters.open import open_source

HEIGHT, WIDTH = 200, 300
SIZE = 10.0
MIDDLE = 13.0, 47.0


def ground(row, column, middle=MIDDLE):
    """Return longitude and latitude of a place in an image that is turned by 13°."""
    turn = np.radians(13)
    x, y = SIZE * (column - WIDTH / 2), SIZE * (HEIGHT / 2 - row)
    across = x * np.cos(turn) - y * np.sin(turn) + 3e-5 * y * y / SIZE
    down = x * np.sin(turn) + y * np.cos(turn)
    plane = f"+proj=laea +lon_0={middle[0]} +lat_0={middle[1]} +datum=WGS84"
    return Transformer.from_crs(plane, 4326, always_xy=True).transform(across, down)


def points(rows, columns, middle=MIDDLE):
    found = []
    for row in rows:
        for column in columns:
            x, y = ground(row, column, middle)
            found.append(
                GroundControlPoint(row=row, col=column, x=x, y=y, z=300.0 + column)
            )
    return found


def regular(middle=MIDDLE):
    return points(np.linspace(0, HEIGHT, 5), np.linspace(0, WIDTH, 7), middle)


def by_hand():
    rng = np.random.default_rng(0)
    places = zip(rng.uniform(0, HEIGHT, 30), rng.uniform(0, WIDTH, 30), strict=True)
    return [points([row], [column])[0] for row, column in places]


def write(path, pixels, gcps, crs="EPSG:4326"):
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_tif(str(path), pixels, gcps=gcps, crs=crs, transform=None)


def ramps():
    """Pixels that say where they are."""
    rows, columns = np.mgrid[0.5:HEIGHT, 0.5:WIDTH]
    return np.stack([rows, columns]).astype(np.float32)


@pytest.mark.parametrize("gcps", [regular(), by_hand()])
def test_pixels_land_where_the_points_say(tmp_path, gcps):
    source = open_source(write(tmp_path / "a.tif", ramps(), gcps))
    grid = source.grid
    assert "UTM zone 33N" in grid.crs
    assert grid.transform.a == pytest.approx(SIZE, rel=0.02)
    values, valid = source.read(grid.window)
    assert 0.6 < valid.mean() < 0.95  # turned, so corners are empty
    rows, columns = np.mgrid[0 : grid.height, 0 : grid.width]
    x, y = grid.transform @ (columns + 0.5, rows + 0.5)
    lon, lat = Transformer.from_crs(grid.crs, 4326, always_xy=True).transform(x, y)
    expected = ground(values[0], values[1])
    inner = valid & (values[0] > 1) & (values[0] < HEIGHT - 1)
    inner &= (values[1] > 1) & (values[1] < WIDTH - 1)
    metres = 111_000 * np.hypot((expected[0] - lon) * np.cos(np.radians(47)),
                                expected[1] - lat)  # fmt: skip
    assert metres[inner].max() < 0.05 * SIZE


@pytest.mark.parametrize("gcps", [regular(), by_hand()])
def test_a_pixel_does_not_depend_on_the_window(tmp_path, gcps):
    source = open_source(write(tmp_path / "a.tif", ramps(), gcps))
    whole, valid = source.read(source.grid.window)
    for y, x, height, width in ((0, 0, 50, 60), (37, 101, 90, 13), (111, 5, 1, 200)):
        part = source.read(Window(y=y, x=x, height=height, width=width))
        at = slice(y, y + height), slice(x, x + width)
        np.testing.assert_array_equal(part[0], whole[:, *at])
        np.testing.assert_array_equal(part[1], valid[at])


def test_it_is_as_gdal_has_it(tmp_path):
    gcps = by_hand()
    source = open_source(write(tmp_path / "a.tif", ramps(), gcps))
    values, valid = source.read(source.grid.window)
    expected = np.zeros_like(values)
    to = Transformer.from_crs(4326, source.grid.crs, always_xy=True)
    moved = [
        GroundControlPoint(g.row, g.col, *to.transform(g.x, g.y), z=0.0) for g in gcps
    ]
    reproject(
        ramps(), expected, gcps=moved, src_crs=source.grid.crs,
        dst_transform=source.grid.transform, dst_crs=source.grid.crs,
        resampling=Resampling.bilinear, tolerance=0,
    )  # fmt: skip
    both = valid & (expected > 0).all(axis=0)
    assert both.sum() > 0.98 * valid.sum()
    inner = both & (np.abs(expected[0] - HEIGHT / 2) < HEIGHT / 2 - 2)
    inner &= np.abs(expected[1] - WIDTH / 2) < WIDTH / 2 - 2
    assert np.abs(values - expected)[:, inner].max() < 0.1


def test_what_was_done_is_said(tmp_path):
    for gcps, how in ((regular(), "thin plate spline"), (by_hand(), "polynomial")):
        (note,) = open_source(write(tmp_path / "a.tif", ramps(), gcps)).notes
        assert f"{len(gcps)} ground control points" in note
        assert how in note
        assert "terrain is not corrected" in note


def test_sentinel1_opens_as_delivered(tmp_path):
    folder = tmp_path / "S1A_IW_GRDH_1SDV_20230105T052707.SAFE" / "measurement"
    rng = np.random.default_rng(0)
    pixels = rng.integers(20, 400, (2, 1, HEIGHT, WIDTH)).astype(np.uint16)
    pixels[:, :, :, :25] = 0
    for band, values in zip(("vv", "vh"), pixels, strict=True):
        name = f"s1a-iw-grd-{band}-20230105t052707-20230105t052732-046650-059758-001"
        write(folder / f"{name}.tiff", values, regular())
    for path in (folder.parent, folder):
        source = open_source(path)
        assert {b.name for b in source.bands} == {"VV", "VH"}
        notes = " ".join(source.notes)
        assert "0 is nodata" in notes
        assert "35 ground control points" in notes
        values, valid = source.read(source.grid.window)
        assert values[:, valid].min() >= 20
    data = segment(str(folder), model="threshold:VV>200", out=tmp_path / "m.zarr")
    np.testing.assert_array_equal(data["classes"].to_numpy() != 255, valid)


def test_the_antimeridian_makes_a_narrow_map(tmp_path):
    gcps = regular((179.99, -20.0))
    assert {g.x > 0 for g in gcps} == {True, False}
    source = open_source(write(tmp_path / "a.tif", ramps(), gcps))
    assert source.grid.width < 2 * WIDTH
    assert source.grid.transform.a == pytest.approx(SIZE, rel=0.02)


def test_points_that_place_nothing_are_refused(tmp_path):
    few = write(tmp_path / "a.tif", ramps(), by_hand()[:2])
    with pytest.raises(
        RasterError, match=r"2 of them do not fix its position: .*gdalwarp"
    ):
        open_source(few)
    for rows, columns in (([5.0] * 4, [9.0]), ([5.0], [1, 2, 9]), ([1, 9], range(4))):
        line = write(tmp_path / "b.tif", ramps(), points(rows, columns))
        with pytest.raises(RasterError, match="do not fix its position"):
            open_source(line)


def test_points_that_do_not_agree_are_refused(tmp_path):
    gcps = by_hand()
    gcps[3] = GroundControlPoint(gcps[3].row + 20, gcps[3].col, gcps[3].x, gcps[3].y)
    with pytest.raises(RasterError, match=r"misses by \d\d pixels: warp it first"):
        open_source(write(tmp_path / "a.tif", ramps(), gcps))


def test_labels_are_not_interpolated(tmp_path):
    classes = (ramps()[:1] > 50).astype(np.uint8)
    path = write(tmp_path / "a.tif", classes, regular())
    with pytest.raises(LabelsError, match="gdalwarp -r near"):
        open_labels(path, open_source(path).grid)
