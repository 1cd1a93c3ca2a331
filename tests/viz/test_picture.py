"""Figures of maps: the right colours in the right places, whatever the size."""

import importlib
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from tifs import write_tif

from geoseg.core.classes import class_table
from geoseg.core.grid import Grid, Window
from geoseg.errors import GeosegError, MissingExtraError
from geoseg.viz.closeup import draw_polygons, lively_window
from geoseg.viz.map_figure import draw_masks
from geoseg.viz.picture import open_image, round_length

CLASSES = class_table(["water", "forest", "field"])


def utm(height, width, pixel=10.0):
    transform = Affine(pixel, 0, 500_000, 0, -pixel, 5_400_000)
    return Grid(crs="EPSG:32633", transform=transform, height=height, width=width)


@dataclass(frozen=True)
class ArrayMap:
    """A class map in memory."""

    values: np.ndarray
    grid: Grid
    classes: tuple = CLASSES
    nodata: int = 255
    chunk: int = 256
    arrays: tuple = ("classes",)
    path: str = "in memory"

    def attributes(self):
        return {}

    def read(self, _, window):
        return self.values[window.slices]


def colours(path):
    with rasterio.open(path) as picture:
        assert picture.driver == "PNG"
        pixels = picture.read([1, 2, 3])
    red, green, blue = pixels.astype(int)
    seen = np.unique(red << 16 | green << 8 | blue)
    return pixels, {(c >> 16, c >> 8 & 255, c & 255) for c in seen.tolist()}


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_classes_are_drawn_in_their_colours_where_they_are(tmp_path):
    values = np.zeros((300, 400), np.uint8)
    values[:, 200:] = 1
    values[200:, :100] = 255
    out = draw_masks(ArrayMap(values, utm(300, 400)), tmp_path / "map.png")
    assert out == tmp_path / "map.png"
    assert [p.name for p in tmp_path.iterdir()] == ["map.png"]
    pixels, shown = colours(out)
    assert CLASSES[0].rgb in shown
    assert CLASSES[1].rgb in shown
    assert CLASSES[2].rgb not in shown  # not in the map, not in the legend
    where = [
        np.flatnonzero((pixels == np.array(c.rgb)[:, None, None]).all(0).any(0)).mean()
        for c in CLASSES[:2]
    ]
    assert where[0] < where[1]


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_north_is_where_the_grid_has_it(tmp_path):
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

    def arrow(transform):
        grid = Grid(crs="EPSG:32633", transform=transform, height=80, width=80)
        seen = []
        save = Figure.savefig

        def savefig(figure, *args, **how):
            seen.append(figure)
            save(figure, *args, **how)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Figure, "savefig", savefig)
            values = np.zeros((80, 80), np.uint8)
            draw_masks(ArrayMap(values, grid), tmp_path / "a.png")
        (found,) = (t for t in seen[0].axes[0].texts if isinstance(t, Annotation))
        head, tail = np.array(found.xy), np.array(found.xyann)
        return (head - tail) / np.hypot(*(head - tail))

    assert arrow(Affine(10, 0, 0, 0, -10, 0)) == pytest.approx([0, 1])
    assert arrow(Affine(10, 0, 0, 0, 10, 0)) == pytest.approx([0, -1])  # south-up
    east_up = Affine.rotation(90) @ Affine(10, 0, 0, 0, -10, 0)
    assert abs(arrow(east_up)[0]) == pytest.approx(1)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_without_a_place_on_the_earth_there_is_a_map_all_the_same(tmp_path):
    nowhere = Grid(crs=None, transform=Affine.identity(), height=5, width=900)
    values = np.ones((5, 900), np.uint8)
    out = draw_masks(ArrayMap(values, nowhere), tmp_path / "m.png")
    assert CLASSES[1].rgb in colours(out)[1]


@pytest.fixture
def raster(tmp_path):
    """Blue, green, red, nir; red grows to the right, blue down; a nodata corner."""
    y, x = np.mgrid[0:600, 0:900].astype(np.uint16)
    pixels = np.stack([y + 100, np.full_like(x, 300), x + 100, np.full_like(x, 900)])
    pixels[:, :100, :100] = 0
    grid = utm(600, 900)
    path = tmp_path / "raster.tif"
    return write_tif(
        path,
        pixels,
        names=("blue", "green", "red", "nir"),
        dtype="uint16",
        nodata=0,
        tiled=True,
        crs=grid.crs,
        transform=grid.transform,
    )


@pytest.mark.parametrize("overviews", [False, True])
def test_the_raster_is_shown_in_true_colour_with_its_nodata_clear(raster, overviews):
    if overviews:
        with rasterio.open(raster, "r+") as file:
            file.build_overviews([2, 4], rasterio.enums.Resampling.average)
    small = open_image(raster).small(150)
    assert small.shape == (100, 150, 4)
    assert (small[:15, :15, 3] == 0).all()
    assert (small[20:, 20:, 3] == 255).all()
    assert (np.diff(small[50, 20:, 0].astype(int)) >= 0).all()
    assert (np.diff(small[20:, 50, 2].astype(int)) >= 0).all()
    assert small[50, 20, 0] < 50
    assert small[50, 140, 0] > 200


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_raster_and_map_stand_side_by_side(raster, tmp_path):
    values = np.zeros((600, 900), np.uint8)
    land = ArrayMap(values, utm(600, 900))
    alone = draw_masks(land, tmp_path / "1.png")
    both = draw_masks(land, tmp_path / "2.png", raster=raster, title="Both")
    assert colours(both)[0].shape[2] > 1.7 * colours(alone)[0].shape[2]
    assert CLASSES[0].rgb in colours(both)[1]


@pytest.fixture(scope="module")
def blobs(make_store, tmp_path_factory):
    """A map of some borders on the left and many on the right, and its polygons."""
    from geoseg.vector.vectorize import vectorize

    labels = np.zeros((320, 480), np.uint8)
    labels[40:120, 40:200] = 1
    labels[60:80, 60:100] = 2  # a hole
    labels[160:, 240:] = np.kron(np.arange(120).reshape(10, 12) % 3, np.ones((16, 20)))
    folder = tmp_path_factory.mktemp("blobs")
    masks = make_store(folder / "m.zarr", labels, names=[c.name for c in CLASSES])
    return labels, masks, vectorize(masks, folder / "r.gpkg")


def test_a_close_up_shows_what_the_map_has_there(blobs):
    """Drawn polygons, holes and all, look like the classes under them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labels, masks, regions = blobs
    part = Window(y=30, x=20, height=100, width=200)
    figure = Figure(figsize=(8, 4), dpi=50)
    axes = figure.add_axes((0, 0, 1, 1))
    draw_polygons(axes, regions, masks.grid, part, masks.classes)
    axes.axis("off")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = np.asarray(canvas.buffer_rgba())[1::2, 1::2, :3]
    table = np.array([c.rgb for c in masks.classes])
    same = (drawn == table[labels[part.slices]]).all(-1)
    assert same.mean() > 0.93, "all but outlines"


def test_the_close_up_is_where_most_happens(blobs):
    labels, *_ = blobs
    part = lively_window(labels, 255, share=4)
    assert (part.height, part.width) == (80, 120)
    assert part.y >= 160
    assert part.x >= 240
    nothing = np.full((9, 9), 255)
    assert lively_window(nothing, 255).area == 1


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_polygons_stand_beside_the_map(blobs, tmp_path):
    _, masks, regions = blobs
    alone = draw_masks(masks, tmp_path / "1.png", size=200)
    both = draw_masks(masks, tmp_path / "2.png", size=200, regions=regions)
    assert colours(both)[0].shape[2] > 1.7 * colours(alone)[0].shape[2]


@given(length=st.floats(0.001, 1e7))
def test_scale_bars_have_round_lengths_that_fit(length):
    bar = round_length(length)
    assert 0.4 * length <= bar <= length
    assert f"{bar:.0e}"[0] in "125"


SMALL = ArrayMap(np.zeros((3, 3), np.uint8), utm(3, 3))


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(GeosegError, match="cannot be written"):
        draw_masks(SMALL, tmp_path / "no" / "m.png")


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"geoseg\[plot\]"):
        draw_masks(SMALL, tmp_path / "m.png")


def test_importing_the_module_imports_no_matplotlib():
    import subprocess

    code = "import sys, geoseg.viz.map_figure; sys.exit('matplotlib' in sys.modules)"
    assert importlib.util.find_spec("matplotlib")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
