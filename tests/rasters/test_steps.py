"""Sources with time: the bands of each step one after the other, oldest first."""

from __future__ import annotations

import pickle
import tracemalloc
from dataclasses import replace

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import rioxarray  # noqa: F401 - gives arrays their .rio
import xarray as xr

from geoseg.core.grid import Grid, Window
from geoseg.errors import RasterError
from geoseg.models.plain import card_from_dict
from geoseg.rasters.aoi import clipped
from geoseg.rasters.bands import choose
from geoseg.rasters.mosaic import mosaic, stack
from geoseg.rasters.numbers import as_reflectance
from geoseg.rasters.open import for_model, open_source, resampled
from geoseg.rasters.source import Renamed, Source, noted, steps_of
from geoseg.testing import MemorySource

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
    np.testing.assert_array_equal(part, pixels[:, *window.slices])
    np.testing.assert_array_equal(part_valid, valid[window.slices])
    assert isinstance(series.grid, Grid)


# --- arrays ---


def array(pixels, dates=STEPS, *, dims=("time", "band", "y", "x"), **coords):
    """A DataArray of (time, band, y, x), in UTM at 10 m."""
    sizes = dict(zip(dims, pixels.shape, strict=True))
    found = {
        "time": np.array(dates, "datetime64[ns]"),
        "y": 5_000_000 - 10 * (np.arange(sizes["y"]) + 0.5),
        "x": 500_000 + 10 * (np.arange(sizes["x"]) + 0.5),
        **({"band": ["red", "nir"]} if "band" in sizes else {}),
        **coords,
    }
    return xr.DataArray(pixels, dims=dims, coords=found).rio.write_crs("EPSG:32633")


@pytest.fixture
def values():
    pixels = np.random.default_rng(0).random((3, 2, 11, 13), np.float32)
    pixels[0, :, :4] = np.nan  # a cloud in April
    pixels[1, 0, 2, :] = np.nan  # a line that is missing in one band of May
    pixels[:, :, 2, 5] = np.nan
    return pixels


def test_an_array_with_time_has_the_bands_of_each_step(values):
    source = open_source(array(values))
    assert told(source) == [(s, n) for s in STEPS for n in ("red", "nir")]
    assert {b.common_name for b in source.bands} == {"red", "nir"}
    pixels, valid = whole(source)
    np.testing.assert_array_equal(pixels, values.reshape(6, 11, 13))
    complete = np.isfinite(values).all(axis=1).any(axis=0)
    np.testing.assert_array_equal(valid, complete)
    assert not valid[2, 5]
    assert valid.sum() == valid.size - 1


@pytest.mark.parametrize("backed", ["numpy", "dask"])
def test_dims_come_in_any_order_and_under_other_names(values, backed):
    expected, valid = whole(open_source(array(values)))
    given = array(values).isel(time=[2, 0, 1]).transpose("band", "y", "time", "x")
    renamed = given.rename(band="channel", y="northing", x="easting", time="t")
    for one in (given, renamed):
        data = one.chunk(3) if backed == "dask" else one
        source = open_source(data)
        assert steps_of(source.bands) == STEPS
        pixels, found = whole(source)
        np.testing.assert_array_equal(pixels, expected)
        np.testing.assert_array_equal(found, valid)
        few = source.select([5, 0])
        window = Window(y=1, x=2, height=6, width=7)
        some = few.read(window)[0]
        at = (slice(None), *window.slices)
        np.testing.assert_array_equal(some, expected[[5, 0]][at])


@pytest.mark.parametrize("dates_of_a_chunk", [1, 12])
def test_dates_are_read_one_after_the_other(dates_of_a_chunk, monkeypatch):
    """Dask holds chunks beside what it makes of them: of few of them at once."""
    monkeypatch.setattr("geoseg.rasters.array._AT_ONCE", 1 << 20)
    dates = np.arange("2024-01", "2025-01", dtype="datetime64[M]")
    pixels = da.random.default_rng(0).random(
        (12, 2, 400, 400), dtype="float32", chunks=(dates_of_a_chunk, 2, 100, 100)
    )
    source = open_source(array(da.where(pixels < 0.1, np.nan, pixels), dates))
    whole(source)
    tracemalloc.start()
    try:
        read, _ = whole(source)
        assert tracemalloc.get_traced_memory()[1] < 1.6 * read.nbytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("chunks", [None, -1, {"time": 1, "y": 4}])
def test_what_is_read_is_a_copy(values, chunks):
    given = array(values.copy())
    given = given if chunks is None else given.chunk(chunks).persist()
    source = open_source(given)
    pixels, _ = whole(source)
    pixels[:] = 7
    np.testing.assert_array_equal(whole(source)[0], values.reshape(6, 11, 13))


def test_what_is_nodata_in_whole_numbers_is_missing():
    pixels = np.arange(1, 3 * 2 * 4 * 5 + 1, dtype="uint16").reshape(3, 2, 4, 5)
    pixels[1, :, 1, 1] = pixels[2, 0, 3, 3] = 0
    source = open_source(array(pixels), nodata=0)
    found, valid = whole(source)
    assert found.dtype == source.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(found), pixels.reshape(6, 4, 5) == 0)
    assert valid.all()
    single = open_source(array(pixels).isel(time=[1]), nodata=0)
    assert single.dtype == np.uint16
    assert steps_of(single.bands) == (STEPS[1],)
    assert (~whole(single)[1]).sum() == 1


def test_one_band_and_datasets_of_several(values):
    red = array(values).sel(band="red", drop=True)
    source = open_source(red)
    assert [b.step for b in source.bands] == [*STEPS]
    np.testing.assert_array_equal(whole(source)[0], values[:, 0])
    dataset = array(values).to_dataset("band")
    source = open_source(dataset)
    assert told(source) == [(s, n) for s in STEPS for n in ("red", "nir")]
    pixels, valid = whole(source)
    expected, expected_valid = whole(open_source(array(values)))
    np.testing.assert_array_equal(pixels, expected)
    np.testing.assert_array_equal(valid, expected_valid)
    few = whole(source.select([5, 2]))[0]
    np.testing.assert_array_equal(few, expected[[5, 2]])


def test_a_list_of_dated_arrays_is_the_series(values):
    given = array(values)
    expected, valid = whole(open_source(given))
    apart = [given.isel(time=i) for i in (1, 2, 0)]
    by_date = {
        "2025-04-01": given.isel(time=0, drop=True),
        "2025-06-01T10:00:00": given.isel(time=2, drop=True),
        "2025-05-01": given.isel(time=1, drop=True),
    }
    for source in (open_source(apart), open_source(by_date)):
        assert told(source) == [(s, n) for s in STEPS for n in ("red", "nir")]
        pixels, found = whole(source)
        np.testing.assert_array_equal(found, valid)
        # Of one date a pixel is nodata where any band is.
        gone = ~np.isfinite(values).all(axis=1).repeat(2, axis=0)
        np.testing.assert_array_equal(np.isnan(pixels), gone)
        np.testing.assert_array_equal(pixels[~gone], expected[~gone])
    with pytest.raises(RasterError, match="has no date"):
        open_source([given.isel(time=0, drop=True), given.isel(time=1)])
    with pytest.raises(RasterError, match="both of 2025-04-01"):
        open_source([given.isel(time=0), given.isel(time=0)])


def test_dates_on_other_grids_come_onto_the_finest(values):
    fine = array(values).isel(time=0)
    coarse = array(values[:, :, :5, :6]).isel(time=1)
    coarse = coarse.assign_coords(y=coarse.y * 2 - 5e6, x=coarse.x * 2 - 5e5)
    away = array(values).isel(time=2).rio.reproject("EPSG:32634")
    source = open_source([fine, coarse, away])
    assert source.grid == open_source(fine).grid
    pixels, valid = whole(source)
    shown = np.isfinite(pixels).reshape(3, 2, *valid.shape)
    assert (shown[:, 0] == shown[:, 1]).all()
    np.testing.assert_array_equal(valid, shown.all(axis=1).any(axis=0))
    assert shown.any(axis=(1, 2, 3)).all()
    np.testing.assert_array_equal(pixels[0][shown[0, 0]], values[0, 0][shown[0, 0]])


def test_a_period_is_labelled_by_its_start(values):
    months = pd.PeriodIndex(["2025-04", "2025-05", "2025-06"], freq="M")
    opened = open_source(array(values).assign_coords(time=months))
    assert [*steps_of(opened.bands)] == ["2025-04-01", "2025-05-01", "2025-06-01"]


def test_a_fake_of_a_series_is_a_series(values):
    real = open_source(array(values))
    fake = MemorySource(
        values=values.reshape(6, 11, 13),
        names=("red", "nir") * 3,
        steps=tuple(step for step in STEPS for _ in range(2)),
    )
    assert told(fake) == told(real)
    for ours, theirs in zip(whole(fake), whole(real), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert told(fake.select([4])) == told(real.select([4]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.drop_vars("time"), "dim time without dates"),
        (lambda a: a.isel(time=[0, 0, 1]), "2025-04-01 more than once"),
        (lambda a: a.assign_coords(time=a.time.shift(time=1)), "NaT is not a date"),
    ],
)
def test_arrays_whose_dates_are_not_told(values, change, message):
    with pytest.raises(RasterError, match=message):
        open_source(change(array(values)))


def test_a_coarser_series_is_the_mean_of_what_each_step_shows(values):
    source = open_source(array(values))
    coarse = resampled(source, source.grid.resampled(y_factor=2, x_factor=2))
    pixels, valid = whole(coarse)
    bands = values.reshape(6, 11, 13)
    cut = bands[:, :10, :12].reshape(6, 5, 2, 6, 2)
    share = np.isfinite(cut).mean(axis=(2, 4))
    mean = np.nansum(cut, axis=(2, 4)) / np.fmax(4 * share, 1)
    mean[share < 0.5] = np.nan
    np.testing.assert_allclose(pixels[:, :5, :6], mean, rtol=1e-6)
    dated = np.isfinite(pixels).reshape(3, 2, *valid.shape)
    np.testing.assert_array_equal(valid, dated.all(axis=1).any(axis=0))
    window = Window(y=1, x=2, height=3, width=4)
    part, part_valid = coarse.read(window)
    np.testing.assert_array_equal(part, pixels[:, *window.slices])
    np.testing.assert_array_equal(part_valid, valid[window.slices])


def test_in_a_mosaic_each_step_comes_from_who_shows_it(values):
    first, second = values.copy(), values[::-1].copy()
    first[1] = np.nan
    both = mosaic([open_source(array(v)) for v in (first, second)], "two")
    expected = np.where(np.isnan(first), second, first).reshape(6, 11, 13)
    np.testing.assert_array_equal(whole(both)[0], expected)


# --- what a model takes of it ---


def card(count=3, names=("red", "nir"), **more):
    return card_from_dict(
        {"bands": list(names), "classes": ["a", "b"], "times": {"count": count, **more}}
    )


def test_a_model_is_given_each_steps_bands_in_its_order(values):
    source = for_model(open_source(array(values)), card(names=["nir", "red"]))
    assert told(source) == [(s, n) for s in STEPS for n in ("nir", "red")]
    expected = values[:, ::-1].reshape(6, 11, 13)
    np.testing.assert_array_equal(whole(source)[0], expected)
    assert "3 dates, 2025-04-01, 2025-05-01, 2025-06-01" in source.notes[-1]
    again = for_model(source, card(names=["nir", "red"]))  # as planning asks twice
    np.testing.assert_array_equal(whole(again)[0], expected)
    assert again.notes == source.notes


def test_what_is_static_is_read_once(values):
    relief = np.full((3, 1, 11, 13), 7, np.float32)
    pixels = np.concatenate([values, relief], axis=1)
    given = array(pixels, band=["red", "nir", "elevation"])
    wanted = [{"name": "elevation", "static": True}, "red"]
    source = for_model(open_source(given), card(names=wanted))
    assert told(source) == [*((s, "red") for s in STEPS), (None, "elevation")]
    assert (whole(source)[0][3] == 7).all()
    assert told(for_model(source, card(names=wanted))) == told(source)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ({"count": 4}, r"lacks 1 of 4 dates: it shows 3 dates \(2025-04-01, "),
        ({"count": 2}, "shows 3 dates .*, the model takes 2 steps: choose them"),
        ({"count": 5, "every": "month"}, "lacks the dates 2025-07, 2025-08: "),
        ({"count": 3, "every": "16 days"}, "lacks the date.* 2025-04-17.*every 16"),
        ({"count": 2, "days": (95, 200)}, "lacks a date within 16 days of 18 July"),
    ],
)
def test_a_date_that_is_missing_is_named(values, times, message):
    with pytest.raises(RasterError, match=message):
        for_model(open_source(array(values)), card(**times))


def test_a_band_that_is_missing_is_named_with_its_date(values):
    source = open_source(array(values))
    with pytest.raises(RasterError, match=r"at 2025-04-01: .* lacks the band swir16"):
        for_model(source, card(names=["red", "swir16"]))
    plain = card_from_dict({"bands": ["red"], "classes": ["a", "b"]})
    with pytest.raises(RasterError, match=r"there are 3 dates of .* takes one"):
        for_model(source, plain)
    flat = open_source(array(values).isel(time=0, drop=True))
    with pytest.raises(RasterError, match="has no dates, but the model takes 3"):
        for_model(flat, card())
    assert len(for_model(flat, plain).bands) == 1


def test_steps_are_picked_by_the_day_of_the_year(values):
    wanted = card(2, days=(100, 150))
    source = for_model(open_source(array(values)), wanted)
    assert steps_of(source.bands) == (STEPS[0], STEPS[2])
    years = array(values, ["2024-04-02", "2025-04-02", "2025-06-01"])
    with pytest.raises(RasterError, match=r"of several years .*choose one year's"):
        for_model(open_source(years), wanted)


def test_a_month_is_of_the_calendar(values):
    dates = ["2024-12-31", "2025-01-01", "2025-02-28"]
    source = open_source(array(values, dates))
    assert steps_of(for_model(source, card(every="month")).bands) == tuple(dates)
