"""Chunks are written as zarr-python would write them, byte for byte."""

import numpy as np
import pytest
import zarr
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st

from geoseg.core.classes import Class
from geoseg.core.grid import Grid, Window
from geoseg.maps.create import create_masks
from geoseg.maps.group import open_group

ARRAYS = ("classes", "confidence", "probabilities", "instances")
SMALL = (
    Class(value=0, name="a", color="#000000"),
    Class(value=1, name="b", color="#111111"),
)
WIDE = (*SMALL, Class(value=1000, name="c", color="#222222"))


def make(path, height, width, chunk, *, classes=SMALL, zarr_format=2):
    transform = Affine(10, 0, 500_000, 0, -10, 5_000_000)
    return create_masks(
        str(path),
        grid=Grid(crs=None, transform=transform, height=height, width=width),
        classes=classes,
        chunk=chunk,
        arrays=ARRAYS,
        settings={},
        block=chunk,
        provenance={"run": "r"},
        zarr_format=zarr_format,
    )


def objects(masks, name):
    """Return all objects of an array by name."""
    names = [n for n in masks.storage.walk() if n.startswith(f"{name}/")]
    return {n: masks.storage.get(n) for n in names}


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("classes", [SMALL, WIDE])
@settings(max_examples=15, deadline=None)
@given(
    chunks=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    cut=st.tuples(st.integers(0, 23), st.integers(0, 23)),
    chunk=st.integers(1, 24),
    seed=st.integers(0, 2**32 - 1),
)
def test_bytes_are_those_of_zarr_python(
    tmp_path_factory, zarr_format, classes, chunks, cut, chunk, seed
):
    # Few chunks, the last ones cut: zarr-python takes milliseconds for each.
    height, width = (n * chunk - c % chunk for n, c in zip(chunks, cut, strict=True))
    folder, rng = tmp_path_factory.mktemp("c"), np.random.default_rng(seed)
    how = {"classes": classes, "zarr_format": zarr_format}
    ours, theirs = (make(folder / n, height, width, chunk, **how) for n in "ab")
    window = ours.grid.window
    for name in ARRAYS:
        array = ours.array(name)
        values = rng.integers(0, 3, array.shape).astype(array.dtype)
        # Some chunks hold nothing but the fill, some begin with it.
        values[..., : height // 2, :] = array.fill_value
        values[..., 0, 0] = array.fill_value
        for top in range(0, height, chunk):
            row = Window(y=top, x=0, height=min(chunk, height - top), width=width)
            ours.write(name, row, values[..., row.y : row.bottom, :])
        whole = open_group(theirs.path, mode="r+")[name]
        assert isinstance(whole, zarr.Array)
        whole[...] = values
        assert objects(ours, name) == objects(theirs, name)
        bottom, right = rng.integers(1, height + 1), rng.integers(1, width + 1)
        top, left = rng.integers(0, bottom), rng.integers(0, right)
        part = Window.spanning(int(top), int(bottom), int(left), int(right))
        for masks, where in ((ours, window), (theirs, part)):
            read = masks.read(name, where)
            assert read.dtype == values.dtype
            assert (read == values[..., *where.slices]).all()


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_chunk_that_becomes_empty_goes(tmp_path, zarr_format):
    masks = make(tmp_path / "m.zarr", 40, 40, 20, zarr_format=zarr_format)
    whole = masks.write("classes", masks.grid.window, np.ones((40, 40), np.uint8))
    before = objects(masks, "classes")
    window = Window(y=0, x=20, height=20, width=20)
    masks.write("classes", window, np.full((20, 20), 255, np.uint8))
    (gone,) = before.keys() - objects(masks, "classes").keys()
    assert gone.endswith(("0.1", "0/1"))
    assert (masks.read("classes", window) == 255).all()
    assert masks.checksum("classes", masks.grid.window) != whole


def test_what_write_returns_is_the_checksum(tmp_path):
    masks = make(tmp_path / "m.zarr", 50, 30, 20)
    rng = np.random.default_rng(0)
    for name in ARRAYS:
        array = masks.array(name)
        values = rng.integers(0, 2, array.shape).astype(array.dtype)
        values[..., :20, :] = array.fill_value
        sums = masks.write(name, masks.grid.window, values)
        assert sums == masks.checksum(name, masks.grid.window)
        values[..., -1, -1] += 1
        assert masks.write(name, masks.grid.window, values) != sums


def test_a_chunk_in_the_place_of_another_is_told_by_the_checksum(tmp_path):
    masks = make(tmp_path / "m.zarr", 8, 16, 8)
    values = np.full((8, 16), masks.nodata, np.uint8)
    values[:, :8] = 1  # the other chunk is not stored
    written = masks.write("classes", masks.grid.window, values)
    assert masks.checksum("classes", masks.grid.window) == written
    storage = masks.storage
    storage.put("classes/0.1", storage.get("classes/0.0"))
    storage.discard("classes/0.0")
    assert masks.checksum("classes", masks.grid.window) != written
