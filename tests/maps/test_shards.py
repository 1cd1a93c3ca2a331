"""One object per block: the same map in few objects, for whoever reads Zarr 3."""

import json

import numpy as np
import pytest
import rasterio
import small
import xarray as xr
import zarr
from tifs import write_tif

from geoseg.cli import run as cli
from geoseg.errors import MasksError
from geoseg.maps.store import open_masks
from geoseg.maps.verify import verify
from geoseg.testing import LocalModel, MemorySource, identity_card

PIXELS = np.random.default_rng(0).random((3, 200, 330), np.float32)


def segment(out, **more):
    model = LocalModel(card=identity_card(3, window=48, overlap=12))
    how = {"chunk": 36, "block": 144, "probabilities": True, "shards": True, **more}
    return small.segment(MemorySource(values=PIXELS), model=model, out=out, **how)


def contents(masks):
    return {n: masks.read(n, masks.grid.window).tobytes() for n in masks.arrays}


@pytest.fixture(scope="module")
def chunked(tmp_path_factory):
    """Return the map whose chunks are objects of their own."""
    out = tmp_path_factory.mktemp("chunked") / "m.zarr"
    segment(out, shards=False, block=72)
    return contents(open_masks(str(out)))


def test_an_object_for_each_block_and_layer(tmp_path, chunked):
    out = tmp_path / "m.zarr"
    segment(out)
    masks = open_masks(str(out))
    objects = [n for n in masks.storage.walk() if "/c/" in n and n[0] not in "xys"]
    assert len(objects) == 6 * (1 + 3)
    assert contents(masks) == chunked
    assert masks.zarr_format == 3
    assert masks.array("classes").shards == (144, 144)
    assert verify(str(out)).whole
    whole = np.frombuffer(chunked["classes"], np.uint8).reshape(200, 330)
    for found in (xr.open_zarr(out)["classes"], zarr.open_group(out)["classes"]):
        assert (np.asarray(found) == whole).all()


def test_a_flipped_byte_and_a_missing_object_are_made_again(tmp_path, chunked):
    out = tmp_path / "m.zarr"
    segment(out)
    one, other = (out / "classes" / "c" / at for at in ("0/1", "1/2"))
    data = bytearray(one.read_bytes())
    data[len(data) // 2] ^= 0x10
    one.write_bytes(data)
    other.unlink()
    assert set(verify(str(out)).damaged) == {(0, 1), (1, 2)}
    assert verify(str(out), repair=True)
    segment(out, block=36)  # it keeps its own
    assert contents(open_masks(str(out))) == chunked


def test_part_of_an_object_is_not_written(tmp_path):
    segment(tmp_path / "m.zarr")
    masks = open_masks(str(tmp_path / "m.zarr"))
    block = masks.grid.window
    half = type(block)(y=0, x=0, height=36, width=36)
    with pytest.raises(MasksError, match="not whole chunks of 144 px"):
        masks.write("classes", half, np.zeros((36, 36), np.uint8))


def test_objects_are_found_in_it_too(tmp_path):
    disc = np.hypot(*np.ogrid[-100:100, -165:165]) < 90
    source = MemorySource(values=np.stack([disc, ~disc, disc]).astype(np.float32))
    model = LocalModel(card=identity_card(3, window=48, overlap=12))
    how = {"model": model, "task": "panoptic", "chunk": 36, "things": ["class 0"]}
    found = []
    for shards, block in ((True, 144), (False, 72)):
        out = tmp_path / f"{shards}.zarr"
        how["things"] = [model.card.classes[0].name]
        small.segment(source, out=out, shards=shards, block=block, **how)
        found.append(contents(open_masks(str(out))))
    assert found[0] == found[1]


def test_from_the_command_line_to_polygons_and_a_file(tmp_path):
    path = tmp_path / "a.tif"
    pixels = (PIXELS[:1] > 0.5).astype(np.uint8) * 100 + 1
    write_tif(path, pixels)
    out = str(tmp_path / "m.zarr")
    assert (
        cli(
            [
                "segment",
                str(path),
                "--model",
                "threshold:1>50",
                "--out",
                out,
                "--shards",
                "--json",
            ]
        )
        == 0
    )
    assert json.loads((tmp_path / "m.zarr" / "zarr.json").read_text())
    cog = str(tmp_path / "m.tif")
    assert cli(["export", out, "--out", cog]) == 0
    with rasterio.open(cog) as file:
        assert ((file.read(1) == 1) == (pixels[0] > 50)).all()
    assert cli(["vectorize", out, "--out", str(tmp_path / "m.gpkg")]) == 0
    assert cli(["export", out, "--out", cog, "--overwrite"]) == 0
