"""From scenes of many dates to steps, and straight into a network that takes them."""

from __future__ import annotations

import numpy as np
import pytest
from dated_scenes import Scenes, whole

import geoseg
from geoseg.errors import GeosegError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
CARD = {
    "bands": ["red", "nir"],
    "classes": ["never", "once", "twice", "thrice", "always"],
    "times": {"count": 4, "every": "month"},
    "layout": "tcyx",
    "inputs": ["dates"],
    "output": "labels",
    "window": 32,
    "overlap": 0,
    "numbers": "reflectance",
    "fill": -9.0,
}


def how_often(pixels, dates):
    """Return at how many steps both bands are there: (n, step, band, y, x) in."""
    assert dates[0].tolist() == [[2022, 121], [2022, 152], [2022, 182], [2022, 213]]
    return (pixels > -5).all(axis=2).sum(axis=1).astype(np.uint8)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Three months with clouds, and a fourth of which there is no scene."""
    rng, made = np.random.default_rng(3), Scenes(tmp_path_factory.mktemp("scenes"))
    seen = []
    for n in range(3):
        bands = {name: whole(rng, (40, 50)) for name in ("B04", "B08")}
        scl = rng.choice(np.array([4, 9], np.uint8), (20, 25), p=[0.7, 0.3])
        made.add(f"s{n}", f"2022-0{n + 5}-10T10:00:00Z", bands,
                 quality=("SCL", scl, 20), collection="sentinel-2-l2a",
                 properties={"s2:processing_baseline": "04.00"})  # fmt: skip
        seen.append(np.kron(scl, np.ones((2, 2))) == 4)
    return made.save(), np.array(seen)


def test_months_go_straight_into_a_network_that_takes_them(scenes, tmp_path):
    path, seen = scenes
    asked = {"every": "month", "dates": "2022-05/2022-08"}
    array = geoseg.compose(path, bands=["red", "nir"], **asked)
    maps = []
    for name, source, how in (("array", array, {}), ("scenes", path, asked)):
        masks = geoseg.segment(source, model=(CARD, how_often), progress=False,
                               out=str(tmp_path / f"{name}.zarr"), **how)  # fmt: skip
        maps.append(masks["classes"].values)
    count = seen.sum(axis=0)
    expected = np.where(count == 0, 255, count)
    for found in maps:
        np.testing.assert_array_equal(found, expected)


def test_a_month_that_was_not_asked_for_is_named(scenes, tmp_path):
    path, _ = scenes
    with pytest.raises(GeosegError, match="lacks the date 2022-08"):
        geoseg.segment(
            path,
            every="month",
            dates="2022-05/2022-07",
            model=(CARD, how_often),
            out=str(tmp_path / "m.zarr"),
        )
