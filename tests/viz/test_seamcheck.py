"""The seam check: seen where there are seams, quiet where there are none."""

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from landscape.scene import Scene
from tifs import write_tif

import geoseg
from geoseg.core.grid import Window
from geoseg.maps.store import open_masks
from geoseg.testing import identity_card
from geoseg.viz.seamcheck import REACH, LineCounts, compare_borders, count_changes
from geoseg.viz.seams import check_seams

NODATA = 255


@given(st.integers(2, 12), st.integers(2, 12), st.integers(0, 2**32 - 1))
def test_counts_are_those_of_a_loop(height, width, seed):
    labels = np.random.default_rng(seed).choice([0, 1, NODATA], (height, width))
    rows, columns = count_changes(labels, NODATA)
    for counts, table in ((rows, labels), (columns, labels.T)):
        for i in range(len(table) - 1):
            pairs = [
                (a, b)
                for a, b in zip(table[i], table[i + 1], strict=True)
                if NODATA not in (a, b)
            ]
            assert counts.pairs[i] == len(pairs)
            assert counts.changes[i] == sum(a != b for a, b in pairs)


def test_blocks_add_up_to_the_whole():
    labels = np.random.default_rng(0).integers(0, 3, (40, 50))
    rows, columns = count_changes(labels, NODATA)
    total = LineCounts.empty(39)
    for x in (0, 20):
        for y in (0, 10, 25):
            bottom = {0: 11, 10: 26, 25: 40}[y]
            part = labels[y:bottom, x : 20 if x == 0 else 50]
            total.add(y, count_changes(part, NODATA)[0])
    np.testing.assert_array_equal(total.changes, rows.changes)
    np.testing.assert_array_equal(total.pairs, rows.pairs)
    assert len(columns.changes) == 49


class EdgeModel:
    """Scores are the band, but wrong towards the window's edges, as networks are."""

    def __init__(self):
        self.card = identity_card(2, window=96, overlap=32)

    def predict(self, windows):
        n, _, height, width = windows.shape
        random = np.random.default_rng(int(windows.sum() * 1e3) % 2**32)
        tilt = random.normal(0, 0.35, (n, 4, 1, 1)).astype(np.float32)
        y = np.linspace(0, 1, height, dtype=np.float32)[:, None]
        x = np.linspace(0, 1, width, dtype=np.float32)[None, :]
        edge = sum(
            t * np.exp(-ramp / 0.12)
            for t, ramp in zip(
                np.moveaxis(tilt, 1, 0), (y, 1 - y, x, 1 - x), strict=True
            )
        )
        score = np.clip(windows[:, 0] + edge, 0, 1)
        return np.stack([1 - score, score], axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def land(tmp_path_factory):
    """A smooth landscape with noise: its label changes everywhere, a little."""
    pixels, _ = Scene(height=1300, width=2000, seed=5).read(
        Window(y=0, x=0, height=1300, width=1400)
    )
    near = pixels[3].astype(np.float32)
    scaled = np.clip((near - 1000) / 3000, 0, 1)
    path = tmp_path_factory.mktemp("land") / "land.tif"
    return write_tif(
        path,
        np.stack([scaled, 1 - scaled]),
        dtype="float32",
        transform=Affine(10, 0, 480_000, 0, -10, 5_460_000),
    )


def checked(land, out, overlap):
    """Return the check at borders of windows, by the numbers and by the map's own."""
    data = geoseg.segment(
        land, model=EdgeModel(), out=out, overlap=overlap, progress=False
    )
    labels = data["classes"].to_numpy()
    stride = open_masks(str(out)).record()["settings"]["window"] - overlap
    assert len(np.unique(labels)) == 2
    found = compare_borders("windows", count_changes(labels, NODATA), stride)
    assert found in check_seams(out)
    return found


def test_seams_stand_out_without_overlap_and_not_with_the_default(land, tmp_path):
    bare = checked(land, tmp_path / "bare.zarr", 0)
    blended = checked(land, tmp_path / "blended.zarr", 32)
    assert bare.stands_out
    assert bare.excess > 0.3
    assert not blended.stands_out
    assert abs(blended.excess) < 0.1


def test_no_false_alarm_on_land_without_any_borders():
    _, truth = Scene(height=1400, width=3000, seed=3).read(
        Window(y=0, x=0, height=1400, width=1400)
    )
    counts = count_changes(truth, NODATA)
    for period in (64, 96, 150, 224, 448):
        assert not compare_borders("windows", counts, period).stands_out


def test_nothing_to_say_of_a_raster_without_borders_or_of_one_class():
    counts = count_changes(np.zeros((100, 100), np.uint8), NODATA)
    assert compare_borders("windows", counts, 100) is None
    assert compare_borders("windows", counts, 2 * REACH) is None
    flat = compare_borders("windows", counts, 40)
    assert flat.borders == 4
    assert flat.excess == 0
    assert not flat.stands_out
    empty = count_changes(np.full((100, 100), NODATA), NODATA)
    assert compare_borders("windows", empty, 40) is None
