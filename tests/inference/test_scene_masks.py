"""Scenes masked by what a model sees of them."""

import textwrap

import numpy as np
import pytest
import xarray as xr
from dated_scenes import Scenes, whole
from scipy.ndimage import distance_transform_edt

import geoseg
from geoseg.cli import run as cli
from geoseg.core.grid import Window
from geoseg.core.series_options import SeriesOptions
from geoseg.errors import ModelError
from geoseg.rasters.open_scenes import open_asked

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
SHAPE = (90, 110)
MODEL = """
    import numpy as np
    from scipy.ndimage import uniform_filter

    def make():
        card = {"bands": ["red"], "classes": ["clear", "cloud", "cloud-free snow"],
                "window": 32, "overlap": 8, "output": "probabilities"}

        def predict(pixels):
            near = np.stack([uniform_filter(p[0], 3) for p in pixels])
            there = (near > 0.22).astype(np.float32)
            return np.stack([1 - there, there, 0 * there], axis=1)

        return card, predict
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dates")
    (folder / "clouds.py").write_text(textwrap.dedent(MODEL))
    rng, scenes = np.random.default_rng(7), Scenes(folder)
    pixels = [whole(rng, SHAPE) for _ in range(3)]
    for n, red in enumerate(pixels):
        scenes.add(f"s{n}", f"2022-0{n + 5}-10T10:00:00Z", {"B04": red},
                   collection="sentinel-2-l2a",
                   properties={"s2:processing_baseline": "03.00"})  # fmt: skip
    return scenes.save(), f"{folder / 'clouds.py'}:make", np.array(pixels) / 1e4


def median(pixels, hidden):
    stack = np.where(hidden, np.nan, pixels)
    with np.errstate(all="ignore"), pytest.warns(RuntimeWarning, match="All-NaN"):
        return np.nanmedian(stack, axis=0)


def test_it_is_what_segment_says_of_each_scene(made, tmp_path):
    path, model, pixels = made
    hidden = []
    for values in pixels:
        array = xr.DataArray(
            values[None].astype(np.float32),
            dims=("band", "y", "x"),
            coords={"band": ["red"], "y": 5.2e6 - 10 * np.arange(SHAPE[0]) - 5,
                    "x": 4e5 + 10 * np.arange(SHAPE[1]) + 5},
        )  # fmt: skip
        found = geoseg.segment(
            array, model=model, out=tmp_path / "a.zarr", overwrite=True, progress=False
        )
        hidden.append(found["classes"].to_numpy() == 1)
    hidden = np.array(hidden)
    assert 0.2 < hidden.mean() < 0.8
    found = geoseg.compose(path, bands=["red"], mask=[f"model:{model}"])
    want = median(pixels, hidden)
    assert np.allclose(found.to_numpy()[0], want, atol=1e-6, equal_nan=True)
    grown = [distance_transform_edt(~one) <= 2 for one in hidden]
    found = geoseg.compose(
        path, bands=["red"], mask=[f"model:{model}:cloud"], mask_buffer=20
    )
    want = median(pixels, np.array(grown))
    assert np.allclose(found.to_numpy()[0], want, atol=1e-6, equal_nan=True)


def test_a_pixel_does_not_depend_on_the_window(made):
    path, model, _ = made
    options = SeriesOptions(mask=[f"model:{model}"], mask_buffer=10)
    series = open_asked(path, options)
    assert series.reading_bytes > open_asked(path, SeriesOptions()).reading_bytes
    whole_map, _ = series.read(series.grid.window)
    for y, x, height, width in ((0, 0, 5, 7), (30, 41, 33, 60), (85, 100, 5, 10)):
        part = Window(y=y, x=x, height=height, width=width)
        found, _ = series.read(part)
        assert np.array_equal(found[0], whole_map[(0, *part.slices)], equal_nan=True)


def test_thresholds_and_what_is_no_model_of_clouds(made, tmp_path, capsys):
    path, model, _ = made
    out = str(tmp_path / "out.tif")
    line = ["compose", path, "--out", out, "-q", "--overwrite", "--mask"]
    assert cli([*line, "model:threshold:red>0.2"]) == 2
    assert "has no class of clouds" in capsys.readouterr().err
    assert cli([*line, f"model:{model}:fog"]) == 2
    assert "name some of clear, cloud, cloud-free snow" in capsys.readouterr().err
    assert cli([*line, f"model:{model}:clear,cloud-free snow"]) == 0
    with pytest.raises(ModelError, match="learns from each raster"):
        geoseg.compose(path, mask=["model:otsu:ndvi"])


def test_straight_into_a_model(made, tmp_path):
    path, model, _ = made
    how = {"dates": "2022", "mask": [f"model:{model}"], "quality": True}
    found = geoseg.segment(path, model="threshold:red>0.2", out=tmp_path / "m.zarr",
                           progress=False, **how)  # fmt: skip
    image = geoseg.compose(path, **how)
    counts = image.sel(band="observations").to_numpy()
    assert np.array_equal(found["observations"], counts)
    assert len(np.unique(counts)) == 4
