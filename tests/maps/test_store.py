"""Law 6: masks open in the right place without geoseg; stores keep their settings."""

import json
import os
import pickle
import shutil
import subprocess
import warnings

import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine
from pyproj import CRS

from geoseg.core.classes import class_table
from geoseg.core.grid import Grid, Window
from geoseg.errors import MasksError
from geoseg.maps.create import create_masks
from geoseg.maps.state import HALO, PARTIAL
from geoseg.maps.storage import Storage
from geoseg.maps.store import open_masks

PLACES = {
    "utm": (Affine(10, 0, 500_000, 0, -10, 5_000_000), 32633),
    "south-up": (Affine(10, 0, 500_000, 0, 10, 5_000_000), 32633),
    "geographic, not square": (Affine(1e-4, 0, 12, 0, -2e-4, 48), 4326),
    "web mercator": (Affine(0.15, 0, 9.5e6, 0, -0.15, 3.2e6), 3857),
    "no CRS": (Affine(1, 0, 0, 0, -1, 0), None),
    "feet": (Affine(3, 0, 3e6, 0, -3, 1.6e6), 2232),
}


def make(path, place="utm", *, zarr_format=2, names=("water", "deep forest"), **more):
    transform, epsg = PLACES[place]
    grid = Grid(
        crs=CRS.from_epsg(epsg).to_wkt() if epsg else None,
        transform=transform,
        height=70,
        width=50,
    )
    settings = {
        "grid": grid,
        "classes": class_table(names),
        "chunk": 32,
        "arrays": ("classes", "confidence"),
        "settings": {"model": "a"},
        "block": 32,
        "provenance": {"run": "r"},
        "zarr_format": zarr_format,
    }
    return create_masks(str(path), **{**settings, **more})


def filled(masks):
    values = np.arange(70 * 50, dtype=np.uint8).reshape(70, 50) % 2
    values[40:, 40:] = 255
    masks.write("classes", masks.grid.window, values)
    return values


@pytest.mark.parametrize("place", PLACES)
def test_rasterio_opens_it_in_the_right_place(tmp_path, place):
    masks = make(tmp_path / "m.zarr", place)
    values = filled(masks)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no CRS, for one
        with rasterio.open(f'ZARR:"{masks.path}":/classes') as file:
            transform, epsg = PLACES[place]
            assert file.transform.almost_equals(transform, 1e-9)
            assert (file.crs and file.crs.to_epsg()) == epsg
            assert file.nodata == 255
            assert (file.read(1) == values).all()


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("place", PLACES)
def test_xarray_opens_it_in_the_right_place(tmp_path, place, zarr_format):
    import rioxarray  # noqa: F401 - registers the accessor

    masks = make(tmp_path / "m.zarr", place, zarr_format=zarr_format)
    values = filled(masks)
    data = xr.open_zarr(masks.path, decode_coords="all", mask_and_scale=False)
    transform, epsg = PLACES[place]
    assert data.rio.transform().almost_equals(transform, 1e-9)
    assert (data.rio.crs and data.rio.crs.to_epsg()) == epsg
    assert (data["classes"].to_numpy() == values).all()
    x, y = transform @ (0.5, 0.5)
    assert (float(data.x[0]), float(data.y[0])) == pytest.approx((x, y))
    assert data["classes"].attrs["flag_meanings"] == "water deep_forest"


@pytest.mark.skipif(shutil.which("gdalinfo") is None, reason="no gdalinfo here")
@pytest.mark.parametrize("place", ["utm", "south-up", "geographic, not square"])
def test_debians_gdal_opens_it_in_the_right_place(tmp_path, place):
    masks = make(tmp_path / "m.zarr", place)
    filled(masks)
    answer = subprocess.run(
        ["gdalinfo", "-json", f'ZARR:"{masks.path}":/classes'],
        capture_output=True,
        check=True,
        text=True,
    )
    info = json.loads(answer.stdout)
    transform, epsg = PLACES[place]
    assert info["geoTransform"] == pytest.approx(transform.to_gdal())
    assert CRS.from_wkt(info["coordinateSystem"]["wkt"]).to_epsg() == epsg
    assert info["bands"][0]["noDataValue"] == 255


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("place", PLACES)
def test_what_is_written_is_read(tmp_path, place, zarr_format):
    masks = make(tmp_path / "m.zarr", place, zarr_format=zarr_format)
    values = filled(masks)
    again = pickle.loads(pickle.dumps(open_masks(masks.path)))
    assert again == masks
    assert again.grid == masks.grid
    assert again.classes == class_table(["water", "deep forest"])
    window = Window(y=3, x=5, height=40, width=30)
    assert (again.read("classes", window) == values[window.slices]).all()
    assert (again.read("confidence", window) == 255).all()


def test_rotated_grids_are_told_by_the_transform(tmp_path):
    PLACES["rotated"] = (Affine(10, 1, 500_000, 2, -10, 5_000_000), 32633)
    try:
        masks = make(tmp_path / "m.zarr", "rotated")
    finally:
        transform, _ = PLACES.pop("rotated")
    assert open_masks(masks.path).grid.transform == transform
    import rioxarray  # noqa: F401 - registers the accessor

    data = xr.open_zarr(masks.path, decode_coords="all")
    assert data.rio.transform() == transform
    assert "x" not in data.coords


def test_writing_less_than_whole_chunks_is_refused(tmp_path):
    masks = make(tmp_path / "m.zarr")
    with pytest.raises(MasksError, match="not whole chunks of 32 px"):
        masks.write(
            "classes",
            Window(y=0, x=0, height=33, width=32),
            np.zeros((33, 32), np.uint8),
        )


def test_other_settings_are_refused_and_the_same_go_on(tmp_path):
    masks = make(tmp_path / "m.zarr")
    values = filled(masks)
    masks.mark_done((0, 1), {"windows": 3})
    again = make(tmp_path / "m.zarr", block=64)
    assert again.done() == {(0, 1)}
    assert again.done_info((0, 1)) == {"windows": 3}
    assert again.record()["block"] == 32
    assert (again.read("classes", again.grid.window) == values).all()
    with pytest.raises(MasksError, match=r"model: a there, b now.*--overwrite"):
        make(tmp_path / "m.zarr", settings={"model": "b"})
    new = make(tmp_path / "m.zarr", settings={"model": "b"}, overwrite=True)
    assert new.done() == set()
    assert (new.read("classes", new.grid.window) == 255).all()


def test_a_store_whose_creation_was_killed_is_created_again(tmp_path):
    masks = make(tmp_path / "m.zarr")
    record = {**masks.record(), "created": False}
    masks.storage.put(".geoseg/run.json", json.dumps(record).encode())
    shutil.rmtree(tmp_path / "m.zarr" / "x")
    again = make(tmp_path / "m.zarr")
    assert again.record()["created"]
    assert (tmp_path / "m.zarr" / "x").is_dir()


def test_what_geoseg_did_not_make_is_left_alone(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "cat.jpg").write_bytes(b"meow")
    for overwrite in (False, True):
        with pytest.raises(MasksError, match="geoseg did not make it"):
            make(folder, overwrite=overwrite)
    assert (folder / "cat.jpg").read_bytes() == b"meow"
    with pytest.raises(MasksError, match="does not exist"):
        open_masks(str(tmp_path / "nothing"))


def test_finishing_removes_what_was_kept_for_neighbours(tmp_path):
    masks = make(tmp_path / "m.zarr")
    masks.state.put(f"{PARTIAL}/0.0", b"part")
    masks.state.put(f"{HALO}/0.1/0.0", b"sums")
    masks.finish({"seconds": 1})
    assert masks.marked(PARTIAL) == set()
    assert not masks.storage.exists(HALO)
    assert masks.record()["complete"]
    assert masks.attributes()["geoseg"] == {"run": "r", "seconds": 1}


def test_nodata_chunks_take_no_space(tmp_path):
    masks = make(tmp_path / "m.zarr")
    masks.write("classes", masks.grid.window, np.full((70, 50), 255, np.uint8))
    chunks = {p.name for p in (tmp_path / "m.zarr" / "classes").iterdir()}
    assert chunks == {".zarray", ".zattrs"}


def test_an_object_that_others_read_is_replaced_when_they_let_go(tmp_path, monkeypatch):
    """On Windows a file that is open cannot be replaced."""
    storage, real, calls = Storage(str(tmp_path)), os.replace, []
    storage.put("a/b", b"old")

    def held_once(source, target):
        calls.append(target)
        if len(calls) == 1:
            raise PermissionError(13, "The process cannot access the file")
        real(source, target)

    monkeypatch.setattr(os, "replace", held_once)
    storage.put("a/b", b"new")
    assert storage.get("a/b") == b"new"
    assert len(calls) == 2
