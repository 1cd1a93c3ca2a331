"""Training for objects: a class between them, and networks that find them."""

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import torch
from affine import Affine
from pyproj import CRS
from threadpoolctl import threadpool_limits

from geoseg.cli import run
from geoseg.evaluate import evaluate
from geoseg.grid import Grid, Window
from geoseg.labels import object_classes, open_labels, read_objects
from geoseg.models.folder import open_folder

SIDE = 192
TRANSFORM = Affine(10.0, 0, 400_000, 0, -10.0, 5_300_000)
GRID = Grid(crs="EPSG:32633", transform=TRANSFORM, height=SIDE, width=SIDE)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Networks this small only wait for each other's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(before)


def write(path, bands):
    with rasterio.open(
        path, "w", driver="GTiff", width=bands.shape[2], height=bands.shape[1],
        count=len(bands), dtype=bands.dtype, crs=CRS.from_epsg(32633).to_wkt(),
        transform=TRANSFORM,
    ) as out:  # fmt: skip
        out.write(bands)
    return path


def polygons(path, shapes, crop="field"):
    """Write shapes in pixel coordinates as polygons on the ground."""
    a, b, c, d, e, f = TRANSFORM[:6]
    moved = shapely.transform(
        shapes, lambda p: p @ np.array([[a, d], [b, e]]) + np.array([c, f])
    )
    frame = geopandas.GeoDataFrame(geometry=list(moved), crs="EPSG:32633")
    frame["crop"] = crop
    frame.to_file(path)
    return path


def inside(shape):
    """Return which pixels have their centre in a shape, and how far from its line."""
    within, far = np.zeros((SIDE, SIDE), bool), np.full((SIDE, SIDE), np.inf)
    x0, y0, x1, y1 = np.clip(shape.bounds, 0, SIDE).astype(int)
    y, x = np.mgrid[y0 : y1 + 1, x0 : x1 + 1] + 0.5
    points = shapely.points(x, y)[: SIDE - y0, : SIDE - x0]
    at = np.s_[y0 : y1 + 1, x0 : x1 + 1]
    within[at] = shapely.contains(shape, points)
    far[at] = shapely.distance(shape.boundary, points)
    return within, far


# --- a class between objects ----------------------------------------------------------


def fields(seed=0):
    """Fields that touch: a grid of streets without width, moved and turned a little."""
    rng = np.random.default_rng(seed)
    steps = np.arange(-1, 8) * 32.0
    y, x = np.meshgrid(steps, steps, indexing="ij")
    corners = np.stack([x, y], axis=-1) + rng.uniform(-8, 8, (*x.shape, 2))
    return np.array(
        [
            shapely.Polygon(
                [corners[i, j], corners[i, j + 1], corners[i + 1, j + 1],
                 corners[i + 1, j]]
            )
            for i in range(len(steps) - 1)
            for j in range(len(steps) - 1)
        ]
    )  # fmt: skip


@pytest.mark.parametrize("width", [1.0, 2.5])
def test_the_boundary_is_what_lies_near_the_outline(tmp_path, width):
    shapes = fields()[20:50]
    path = polygons(tmp_path / "f.gpkg", shapes, crop=["wheat", "maize"] * 15)
    plain = open_labels(path, GRID)
    labels = open_labels(path, GRID, boundary=width, background="other")
    names = {c.name: c.value for c in labels.classes}
    assert names.keys() == {"wheat", "maize", "boundary", "other"}
    read, painted = labels.read(GRID.window), plain.read(GRID.window)
    sure = np.ones_like(read, bool)
    for i, shape in enumerate(shapes):
        within, far = inside(shape)
        sure &= abs(far - width) > 1e-3  # the outline of an outline is a polygon too
        expected = np.where(far <= width, names["boundary"], painted)
        kept = within & sure
        assert np.array_equal(read[kept], expected[kept]), i
    nothing = painted == 65535
    assert (read[nothing] == names["other"]).all()
    corner = Window(y=70, x=35, height=50, width=61)
    assert np.array_equal(labels.read(corner), read[corner.slices])
    # Objects are whole still.
    whole = read_objects(labels, GRID.window)
    assert np.array_equal(whole, read_objects(plain, GRID.window))
    assert np.array_equal(object_classes(labels), object_classes(plain))


def test_no_object_is_lost_in_its_boundary(tmp_path):
    shapes = shapely.box([10, 40, 80], [10, 10, 10], [13, 46, 120], [14, 16, 50])
    path = polygons(tmp_path / "f.gpkg", shapes, crop=["a"] * 3)
    labels = open_labels(path, GRID, boundary=4)
    read = labels.read(GRID.window)
    seen = read_objects(labels, GRID.window)
    assert all((read[seen == i + 1] == 0).any() for i in range(3))
    assert (read[seen == 3] == 0).sum() == 32 * 32


def test_a_boundary_separates_fields_that_touch(tmp_path):
    rng = np.random.default_rng(3)
    shapes = fields()
    whole = shapely.within(shapes, shapely.box(0, 0, SIDE, SIDE))
    shapes = shapes[whole & (rng.random(len(shapes)) < 0.8)]
    pixels = rng.normal([[[150]], [[120]], [[90]]], 8, (3, SIDE, SIDE))
    for shape in shapes:
        within, far = inside(shape)
        green = np.array([-60, 30, -20]) + rng.normal(0, 5, 3)
        pixels[:, within] += green[:, None]
        pixels[:, within & (far < 1.5)] -= 50
    raster = write(tmp_path / "r.tif", pixels.clip(0, 255).astype(np.uint8))
    labels = polygons(tmp_path / "f.gpkg", shapes)
    found = {}
    for name, more, method in (
        ("with", ["--boundary", "1.5"], "boundary:boundary"),
        ("without", [], "components"),
    ):
        model, masks = str(tmp_path / name), str(tmp_path / f"{name}.zarr")
        command = ["train", str(raster), "--labels", str(labels), "--out", model, "-q"]
        command += ["--constant", "field", "--background", "other", "--arch", "forest"]
        command += ["--trees", "12", "--samples", "6000", "--validation", "0", *more]
        assert run(command) == 0
        how = ["--task", "instance", "--instances", method, "-q"]
        if name == "without":
            how += ["--things", "field"]
        command = ["segment", str(raster), "--model", model, "--out", masks, *how]
        assert run(command) == 0
        scored = evaluate(masks, labels, constant="field", objects=True)
        found[name] = scored.objects.f1
    assert found["with"] > 0.9
    assert found["without"] < 0.3
    card = open_folder(tmp_path / "with").card
    assert {c.name for c in card.classes} == {"field", "boundary", "other"}
    assert card.things == ("field",)


def test_objects_and_boundaries_need_polygons(tmp_path, capsys):
    raster = write(tmp_path / "r.tif", np.ones((1, SIDE, SIDE), np.uint8))
    command = ["train", str(raster), "--labels", str(raster), "--out"]
    command += [str(tmp_path / "m")]
    for more in (["--arch", "forest", "--boundary", "2"], ["--arch", "maskrcnn"]):
        assert run([*command, *more]) == 2
        said = capsys.readouterr().err
        assert "need polygons, one for each object; " in said
        assert "r.tif is of raster" in said
        assert said.count("\n") == 1
    for more, words in (
        (["--arch", "forest", "--boundary", "0"], "boundary 0.0 must be above 0"),
        (["--task", "instance"], "Unet cannot be trained for the task instance: use"),
        (["--arch", "maskrcnn", "--task", "semantic"], "use --task instance"),
        (["--arch", "maskrcnn", "--boundary", "1"], "leave out --boundary"),
        (["--arch", "maskrcnn", "--background", "a"], "leave out --background"),
    ):
        assert run([*command, *more]) == 2
        said = capsys.readouterr().err
        assert words in said
        assert said.count("\n") == 1
    assert not (tmp_path / "m").exists()
