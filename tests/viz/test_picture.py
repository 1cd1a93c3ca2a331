"""The picture: the right colours in the right places, whatever the size."""

import importlib
import sys

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st

from geoseg.core.classes import class_table
from geoseg.core.grid import Grid, Window
from geoseg.errors import GeosegError, MissingExtraError
from geoseg.viz.closeup import draw_polygons, lively_place
from geoseg.viz.picture import (
    class_overview,
    draw_masks,
    raster_overview,
    round_length,
)

CLASSES = class_table(["water", "forest", "field"])


def utm(height, width, pixel=10.0):
    transform = Affine(pixel, 0, 500_000, 0, -pixel, 5_400_000)
    return Grid(crs="EPSG:32633", transform=transform, height=height, width=width)


@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    size=st.integers(1, 80),
    seed=st.integers(0, 999),
)
def test_each_square_shows_the_class_most_of_its_pixels_have(height, width, size, seed):
    values = np.random.default_rng(seed).choice([0, 1, 2, 255], (height, width))
    read = []

    def read_window(window):
        read.append(window)
        return values[window.slices]

    frame = Window(y=0, x=0, height=height, width=width)
    found, factor = class_overview(read_window, frame, CLASSES, size=size)
    assert max(found.shape) <= size
    assert sum(w.area for w in read) == values.size
    for y, x in np.ndindex(found.shape):
        square = values[y * factor : (y + 1) * factor, x * factor : (x + 1) * factor]
        counts = [(square == v).sum() for v in (0, 1, 2, 255)]
        winner = found[y, x] if found[y, x] >= 0 else 3
        assert counts[winner] == max(counts)


def test_no_more_than_a_tile_is_read_at_once():
    side = 40_000
    biggest = 0

    def read(window):
        nonlocal biggest
        biggest = max(biggest, window.area)
        return np.broadcast_to(np.uint8(1), (window.height, window.width))

    frame = Window(y=0, x=0, height=3_000, width=side)
    found, factor = class_overview(read, frame, CLASSES, size=1000)
    assert (found == 1).all()
    assert factor == 40
    assert biggest <= 2048**2


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
    out = draw_masks(values, tmp_path / "map.png", classes=CLASSES, grid=utm(300, 400))
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
    from matplotlib.text import Annotation

    from geoseg.viz import picture

    def arrow(transform):
        grid = Grid(crs="EPSG:32633", transform=transform, height=80, width=80)
        seen = []
        save = picture._save
        picture._save = lambda figure, path: seen.append(figure) or save(figure, path)
        try:
            values = np.zeros((80, 80), np.uint8)
            draw_masks(values, tmp_path / "a.png", classes=CLASSES, grid=grid)
        finally:
            picture._save = save
        (found,) = (t for t in seen[0].axes[0].texts if isinstance(t, Annotation))
        head, tail = np.array(found.xy), np.array(found.xyann)
        return (head - tail) / np.hypot(*(head - tail))

    assert arrow(Affine(10, 0, 0, 0, -10, 0)) == pytest.approx([0, 1])
    assert arrow(Affine(10, 0, 0, 0, 10, 0)) == pytest.approx([0, -1])  # south-up
    east_up = Affine.rotation(90) @ Affine(10, 0, 0, 0, -10, 0)
    assert abs(arrow(east_up)[0]) == pytest.approx(1)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_without_a_place_on_the_earth_there_is_a_map_all_the_same(tmp_path):
    out = draw_masks(np.ones((5, 900), np.uint8), tmp_path / "m.png", classes=CLASSES)
    assert CLASSES[1].rgb in colours(out)[1]


@pytest.fixture
def raster(tmp_path):
    """Blue, green, red, nir; red grows to the right, blue down; a nodata corner."""
    y, x = np.mgrid[0:600, 0:900].astype(np.uint16)
    pixels = np.stack([y + 100, np.full_like(x, 300), x + 100, np.full_like(x, 900)])
    pixels[:, :100, :100] = 0
    grid = utm(600, 900)
    path = tmp_path / "raster.tif"
    with rasterio.open(
        path, "w", driver="GTiff", count=4, dtype="uint16", nodata=0, tiled=True,
        height=600, width=900, crs=grid.crs, transform=grid.transform,
    ) as file:  # fmt: skip
        file.write(pixels)
        file.descriptions = ("blue", "green", "red", "nir")
    return path


@pytest.mark.parametrize("overviews", [False, True])
def test_the_raster_is_shown_in_true_colour_with_its_nodata_white(raster, overviews):
    if overviews:
        with rasterio.open(raster, "r+") as file:
            file.build_overviews([2, 4], rasterio.enums.Resampling.average)
    small = raster_overview(raster, 150)
    assert small.shape == (100, 150, 3)
    assert (small[:15, :15] == 255).all()
    assert (np.diff(small[50, 20:, 0].astype(int)) >= 0).all()
    assert (np.diff(small[20:, 50, 2].astype(int)) >= 0).all()
    assert small[50, 20, 0] < 50
    assert small[50, 140, 0] > 200


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_raster_and_map_stand_side_by_side(raster, tmp_path):
    values = np.zeros((600, 900), np.uint8)
    alone = draw_masks(values, tmp_path / "1.png", classes=CLASSES, grid=utm(600, 900))
    both = draw_masks(
        values, tmp_path / "2.png", classes=CLASSES, grid=utm(600, 900), raster=raster,
        title="Both",
    )  # fmt: skip
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
    part = lively_place(labels.astype(int), share=4)
    assert (part.height, part.width) == (80, 120)
    assert part.y >= 160
    assert part.x >= 240
    nothing = np.full((9, 9), -1)
    assert lively_place(nothing).area == 1


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


def test_an_array_without_classes_is_refused(tmp_path):
    with pytest.raises(GeosegError, match="classes="):
        draw_masks(np.zeros((3, 3), np.uint8), tmp_path / "m.png")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(GeosegError, match="cannot be written"):
        draw_masks(
            np.zeros((3, 3), np.uint8), tmp_path / "no" / "m.png", classes=CLASSES
        )


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"geoseg\[plot\]"):
        draw_masks(np.zeros((3, 3), np.uint8), tmp_path / "m.png", classes=CLASSES)


def test_importing_the_room_imports_no_matplotlib():
    import subprocess

    code = "import sys, geoseg.viz.picture; sys.exit('matplotlib' in sys.modules)"
    assert importlib.util.find_spec("matplotlib")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
