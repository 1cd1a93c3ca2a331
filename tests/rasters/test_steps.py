"""Sources with time: the bands of each step one after the other, oldest first."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

from geoseg.core.grid import Grid, Window
from geoseg.errors import RasterError
from geoseg.rasters.aoi import clipped
from geoseg.rasters.bands import choose
from geoseg.rasters.mosaic import mosaic, stack
from geoseg.rasters.numbers import as_reflectance
from geoseg.rasters.open import open_source, resampled
from geoseg.rasters.source import Renamed, Source, noted, steps_of

STEPS = ("2025-04-01", "2025-05-01", "2025-06-01")


def whole(source: Source):
    return source.read(source.grid.window)


def dated(source: Source, step: str) -> Source:
    names = tuple(replace(band, step=step) for band in source.bands)
    return Renamed(source=source, names=names)


@pytest.fixture
def series(tmp_path):
    """A source of three steps of bands red and nir, as 6 bands of one file."""
    import rasterio
    from affine import Affine

    pixels = np.arange(6 * 8 * 9, dtype="float32").reshape(6, 8, 9)
    path = tmp_path / "series.tif"
    place = Affine(10, 0, 500000, 0, -10, 5000000)
    profile = {"count": 6, "dtype": "float32", "crs": "EPSG:32633", "transform": place}
    with rasterio.open(path, "w", "GTiff", 9, 8, **profile) as file:
        file.write(pixels)
        file.descriptions = ["red", "nir", "b3", "b4", "b5", "b6"]
    source = open_source(path)
    names = [(step, source.bands[i]) for step in STEPS for i in range(2)]
    bands = tuple(replace(b, step=step, scale=0.5) for step, b in names)
    return Renamed(source=source, names=bands)


def told(source: Source):
    return [(b.step, b.name) for b in source.bands]


def test_steps_go_where_their_bands_go(series, tmp_path):
    assert steps_of(series.bands) == STEPS
    area = tmp_path / "area.geojson"
    area.write_text(
        '{"type": "Polygon", "coordinates": [[[14, 44], [16, 44], [16, 46], [14, 46],'
        "[14, 44]]]}"
    )
    coarse = series.grid.resampled(y_factor=2, x_factor=3)
    for source in (
        noted(series, "something"),
        as_reflectance(series),
        resampled(series, coarse),
        clipped(series, area),
        mosaic([series, series], "two"),
        pickle.loads(pickle.dumps(series)),
    ):
        assert told(source) == told(series)
        assert told(source.select([5, 0])) == [(STEPS[2], "nir"), (STEPS[0], "red")]


def test_bands_are_chosen_at_each_step(series):
    pixels, _ = whole(series)
    chosen = choose(series, ["nir"])
    assert told(chosen) == [(step, "nir") for step in STEPS]
    np.testing.assert_array_equal(whole(chosen)[0], pixels[1::2])
    swapped = choose(series, ["2", "1"])
    assert told(swapped) == [(s, n) for s in STEPS for n in ("nir", "red")]
    assert all(band.by_number for band in swapped.bands)
    named = choose(series, ["blue", "green"])
    assert told(named) == [(s, n) for s in STEPS for n in ("blue", "green")]
    assert {b.common_name for b in choose(series, ["swir16=2"]).bands} == {
        "red",
        "swir16",
    }
    with pytest.raises(RasterError, match="has no band swir22"):
        choose(series, ["swir22"])


def test_what_has_no_step_is_chosen_once(series):
    bands = series.bands[:4]
    relief = replace(series.bands[4], name="elevation", common_name=None, step=None)
    source = Renamed(source=series.select([*range(5)]), names=(*bands, relief))
    assert told(choose(source, ["nir", "elevation"])) == [
        (STEPS[0], "nir"),
        (STEPS[1], "nir"),
        (None, "elevation"),
    ]
    assert told(choose(source, ["red"])) == [(s, "red") for s in STEPS[:2]]


def test_a_stack_keeps_steps(series):
    layers = [dated(series.select([0]), step) for step in STEPS]
    assert told(stack(layers, "stacked")) == [(step, "red") for step in STEPS]


def test_a_mosaic_is_of_the_same_steps(series):
    later = [replace(b, step="2024-01-01") for b in series.bands]
    other = Renamed(source=series, names=tuple(later))
    with pytest.raises(RasterError, match=r"same steps in time.*2024-01-01"):
        mosaic([series, other], "two")


def test_a_window_of_a_series_is_a_part_of_it(series):
    pixels, valid = whole(series)
    window = Window(y=2, x=3, height=4, width=5)
    part, part_valid = series.read(window)
    np.testing.assert_array_equal(part, pixels[(slice(None), *window.slices)])
    np.testing.assert_array_equal(part_valid, valid[window.slices])
    assert isinstance(series.grid, Grid)
