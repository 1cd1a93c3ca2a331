"""Two class maps on any two grids, against counting by hand."""

import json

import numpy as np
import pytest
from affine import Affine
from pyproj import CRS
from stores import write_masks
from tifs import write_tif

import geoseg
from geoseg.cli import run
from geoseg.core.classes import class_table
from geoseg.core.geodesy import PixelAreas
from geoseg.core.grid import Grid
from geoseg.errors import GeosegError

GRID = Grid(
    crs=CRS.from_epsg(4326).to_wkt(),
    transform=Affine(0.5, 0, 10, 0, -0.5, 70),
    height=120,
    width=90,
)


@pytest.fixture
def values():
    values = np.random.default_rng(4).integers(0, 3, (120, 90)).astype(np.uint8)
    values[:9] = 255
    return values


@pytest.fixture
def masks(tmp_path, values):
    table = class_table(["a", "b", "c"])
    return write_masks(tmp_path / "m.zarr", values, grid=GRID, table=table, chunk=32)


def raster(path, values, transform, crs="EPSG:4326"):
    return write_tif(
        path, values, dtype="uint8", crs=crs, transform=transform, nodata=99
    )


@pytest.mark.parametrize("block", [32, 64, 2048])
def test_a_coarser_raster_is_looked_up_at_pixel_centres(tmp_path, masks, values, block):
    coarse = np.array([[5, 6], [7, 5]], np.uint8)
    path = raster(tmp_path / "c.tif", coarse, Affine(22.5, 0, 10, 0, -30, 70))
    found = geoseg.compare(masks, path, block=block)
    there = np.kron(coarse, np.ones((60, 45), np.uint8))
    want = [[((values == i) & (there == j)).sum() for j in (5, 6, 7)] for i in range(3)]
    assert found.pixels.tolist() == want
    assert [c.name for c in found.columns] == ["class_5", "class_6", "class_7"]
    row = PixelAreas.of(GRID).measure.areas_of(GRID.window)
    area = (((values == 1) & (there == 6)) * row).sum()
    assert found.areas_m2[1, 1] == pytest.approx(area)
    assert found.agreement == 0
    assert found.only_other == 9 * 90


def test_a_map_agrees_with_itself_by_area(masks):
    found = geoseg.compare(masks, masks.path)
    assert found.agreement == 1
    assert found.only_one == found.only_other == 0
    table = found.to_dataframe(areas=True)
    assert table.loc["a", "b"] == 0
    assert table.attrs["agreement"] == 1


def test_the_command_prints_and_writes(tmp_path, masks, capsys):
    out = tmp_path / "pairs.csv"
    assert run(["compare", masks.path, masks.path, "--csv", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["agreement"] == 1
    lines = out.read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[:2] for line in lines[1:]] == [
        ["a", "a"], ["b", "b"], ["c", "c"],
    ]  # fmt: skip
    assert run(["compare", masks.path, masks.path]) == 0
    assert "100.0%" in capsys.readouterr().out


def test_maps_that_do_not_meet_are_refused(tmp_path, masks):
    far = raster(
        tmp_path / "f.tif", np.ones((4, 4), np.uint8), Affine(1, 0, 90, 0, -1, 0)
    )
    with pytest.raises(GeosegError, match="do not overlap"):
        geoseg.compare(masks, far)
