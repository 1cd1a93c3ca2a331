"""Overviews: the vote of pixels, any size, and that nobody else notices them."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st

from geoseg.core.grid import Grid, Window
from geoseg.errors import MasksError
from geoseg.maps.halving import halve_classes, halve_mean
from geoseg.maps.overviews import (
    Pyramid,
    build_overviews,
    create_levels,
    fill,
    open_pyramid,
    preview,
    regions,
)

NODATA = 255


def slow_vote(values, nodata):
    """The oracle: count votes pixel by pixel."""
    height, width = (s + s % 2 for s in values.shape)
    padded = np.pad(
        values, ((0, height - len(values)), (0, width - values.shape[1])), mode="edge"
    )
    out = np.full((height // 2, width // 2), nodata, values.dtype)
    for y, x in np.ndindex(out.shape):
        four = padded[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].ravel().tolist()
        valid = [v for v in four if v != nodata]
        if valid:
            out[y, x] = max(valid, key=lambda v: (valid.count(v), -four.index(v)))
    return out


@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(0, 2**32 - 1),
    st.sampled_from([np.uint8, np.uint16]),
)
def test_the_most_frequent_valid_value_wins(height, width, seed, dtype):
    nodata = np.iinfo(dtype).max
    random = np.random.default_rng(seed)
    values = random.choice(np.array([0, 1, 2, nodata], dtype), (height, width))
    got = halve_classes(values, int(nodata))
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, slow_vote(values, nodata))


def test_the_mean_is_rounded_and_leaves_out_nodata():
    values = np.array([[10, 255, 255, 255, 1, 2], [20, 31, 255, 255, 2, 2]], np.uint8)
    np.testing.assert_array_equal(halve_mean(values, 255), [[20, 255, 2]])


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_levels_are_halvings_of_all(tmp_path, make_store, monkeypatch, zarr_format):
    # Small squares, so that several of them meet in one chunk of the coarse levels.
    monkeypatch.setattr("geoseg.maps.overviews.REGION", 512)
    monkeypatch.setattr("geoseg.maps.overviews.COARSEST", 60)
    random = np.random.default_rng(1)
    labels = np.kron(random.integers(0, 4, (173, 119)), np.ones((7, 11))).astype("u1")
    labels[:300, :300] = NODATA
    confidence = random.integers(0, 255, labels.shape).astype("u1")
    masks = make_store(tmp_path / "m.zarr", labels, confidence, zarr_format=zarr_format)
    seen = []
    pyramid = build_overviews(masks, progress=lambda *s: seen.append(s))
    assert seen[-1] == (9, 9)
    assert len(pyramid.levels) == 5
    classes, sure = labels, confidence
    for depth, level in enumerate(pyramid.levels, start=1):
        classes = halve_classes(classes, NODATA)
        sure = halve_mean(sure, 255)
        window = level.grid.window
        np.testing.assert_array_equal(level.read("classes", window), classes)
        np.testing.assert_array_equal(level.read("confidence", window), sure)
        assert level.grid.transform.a == 10 * 2**depth
    assert build_overviews(masks) == pyramid, "there already: nothing to do"


def test_other_readers_see_the_same_as_before(tmp_path, make_store):
    labels = np.zeros((700, 600), np.uint8)
    path = tmp_path / "m.zarr"
    masks = make_store(path, labels)

    def seen_by_others():
        data = xr.open_zarr(path)
        with rasterio.open(path) as root, rasterio.open(f'ZARR:"{path}":/classes') as a:
            return (
                sorted(data.variables),
                root.shape,
                root.crs,
                root.subdatasets,
                a.shape,
                a.transform,
            )

    before = seen_by_others()
    build_overviews(masks)
    assert seen_by_others() == before
    with rasterio.open(f'ZARR:"{path}/overview_2":/classes') as half:
        assert half.shape == (350, 300)
        assert half.transform.a == 20
        assert half.crs.to_epsg() == 32633


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_multiscales_are_as_the_convention_has_them(tmp_path, make_store, zarr_format):
    path = tmp_path / "m.zarr"
    masks = make_store(path, np.zeros((700, 600), np.uint8), zarr_format=zarr_format)
    before = masks.attributes()
    build_overviews(masks)
    attributes = masks.attributes()
    layout = attributes["multiscales"]["layout"]
    assert [entry["asset"] for entry in layout] == ["classes", "overview_2/classes"]
    assert layout[1]["derived_from"] == "classes"
    assert layout[1]["transform"]["scale"] == [2.0, 2.0]
    assert layout[1]["spatial:shape"] == [350, 300]
    names = {c["name"] for c in attributes["zarr_conventions"]}
    assert names == {"spatial", "proj", "multiscales"}
    assert {k: attributes[k] for k in ("classes", "geoseg")} == {
        k: before[k] for k in ("classes", "geoseg")
    }
    assert xr.open_zarr(path).attrs["multiscales"] == attributes["multiscales"]
    if zarr_format == 2:
        document = json.loads((path / ".zmetadata").read_text())
        assert not any("overview" in name for name in document["metadata"])


def test_a_look_takes_its_level_and_reads_little(tmp_path, make_store, monkeypatch):
    monkeypatch.setattr("geoseg.maps.overviews._AT_ONCE", 4096)
    rows, columns = np.mgrid[:1500, :1300]
    labels = ((rows // 100 + columns // 100) % 4).astype("u1")
    masks = make_store(tmp_path / "m.zarr", labels)
    plain = Pyramid(base=masks)
    largest = []
    read = type(masks).read

    def noted(self, name, window):
        largest.append(window.area)
        return read(self, name, window)

    monkeypatch.setattr(type(masks), "read", noted)
    # Without overviews: strided, in pieces.
    got = plain.look("classes", masks.grid.window, 15, 13)
    np.testing.assert_array_equal(got, labels[50::100, 50::100])
    assert max(largest) <= 4096
    pyramid = build_overviews(masks)
    largest.clear()
    got = pyramid.look("classes", masks.grid.window, 15, 13)
    np.testing.assert_array_equal(got, labels[50::100, 50::100])
    assert sum(largest) <= 4 * 15 * 13 * 4 + 512 * 512
    # Past the raster there is nodata.
    beyond = pyramid.look(
        "classes", Window(y=1400, x=-200, height=200, width=400), 2, 4
    )
    assert (beyond[:, :2] == NODATA).all()
    assert (beyond[1] == NODATA).all()
    assert beyond[0, 2:].tolist() == [labels[1450, 50], labels[1450, 150]]


def test_a_store_that_is_being_written_gets_none(tmp_path, make_store):
    masks = make_store(tmp_path / "m.zarr", np.zeros((700, 600), "u1"), done=False)
    with pytest.raises(MasksError, match="still being written"):
        build_overviews(masks)
    assert not list(Path(masks.path).glob("overview*"))
    assert open_pyramid(masks).levels == ()


def test_a_first_look_has_single_pixels_of_everything(
    tmp_path, make_store, monkeypatch
):
    """In coarse levels only, and what fills them afterwards is not changed by it."""
    monkeypatch.setattr("geoseg.maps.overviews.REGION", 512)
    monkeypatch.setattr("geoseg.maps.overviews.COARSEST", 100)
    monkeypatch.setattr("geoseg.maps.overviews._SEEN", 300)
    random = np.random.default_rng(2)
    labels = random.integers(0, 4, (1100, 900)).astype(np.uint8)
    masks = make_store(tmp_path / "m.zarr", labels)
    levels = create_levels(masks, str(tmp_path / "levels"))
    assert [level.grid.height for level in levels] == [550, 275, 138, 69]
    assert len(list(preview(masks, levels, regions(masks.grid)))) == 6
    fine = levels[0].read("classes", levels[0].grid.window)
    assert (fine == NODATA).all(), "left for later"
    for level, step in ((levels[1], 4), (levels[3], 16)):
        seen = level.read("classes", level.grid.window)
        rows, columns = (
            np.minimum(np.arange(n) * step + step // 2, last - 1)
            for n, last in zip(seen.shape, labels.shape, strict=True)
        )
        np.testing.assert_array_equal(seen, labels[np.ix_(rows, columns)])
    list(fill(masks, levels, regions(masks.grid)))
    whole = levels[3].read("classes", levels[3].grid.window)
    for _ in range(4):
        labels = halve_classes(labels, NODATA)
    np.testing.assert_array_equal(whole, labels)


def test_squares_that_were_touched():
    grid = Grid(crs=None, transform=Affine.identity(), height=9000, width=9000)
    assert len(regions(grid)) == 25
    touched = [Window(y=4000, x=0, height=200, width=10)]
    assert [(s.y, s.x) for s in regions(grid, touched)] == [(2048, 0), (4096, 0)]
