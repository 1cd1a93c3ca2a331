"""Areas are areas of the ground, on every grid, and weights of estimators are areas."""

import geopandas
import numpy as np
import pytest
from affine import Affine
from pyproj import CRS, Geod
from stores import write_masks

from geoseg.accuracy.accuracy import UnitAreas, estimate
from geoseg.accuracy.evaluate import evaluate
from geoseg.accuracy.sampling import sample
from geoseg.core.classes import class_table
from geoseg.core.geodesy import PixelAreas
from geoseg.core.grid import Grid, Window, squares
from geoseg.viz.statistics import map_statistics

CLASSES = class_table(["ice", "land", "sea"])
EARTH = Grid(
    crs=CRS.from_epsg(4326).to_wkt(),
    transform=Affine(0.5, 0, -180, 0, -0.5, 90),
    height=360,
    width=720,
)


def polar(side=200, pixel=25_000):
    """A grid whose pixels differ in area along rows and columns."""
    return Grid(
        crs=CRS.from_epsg(3995).to_wkt(),
        transform=Affine(pixel, 0, 0, 0, -pixel, 0),
        height=side,
        width=side,
    )


def store(path, values, grid, chunk=64):
    return write_masks(path, values, grid=grid, table=CLASSES, chunk=chunk)


def earth_map():
    """Ice towards the poles, land in a band, sea around it."""
    values = np.full((360, 720), 2, np.uint8)
    values[:, :240] = 1
    values[:60] = values[-60:] = 0
    return values


def true_m2(values, grid):
    """Areas by class from geodesic outlines of single pixels, by another library."""
    geod = Geod(ellps="WGS84")
    from pyproj import Transformer

    back = Transformer.from_crs(grid.crs, 4326, always_xy=True)
    rows, columns = np.mgrid[: grid.height + 1, : grid.width + 1]
    x, y = grid.transform @ (columns.ravel(), rows.ravel())
    lon, lat = (a.reshape(rows.shape) for a in back.transform(x, y))
    total = np.zeros(3)
    for r, c in np.ndindex(*values.shape):
        ring = [(r, c), (r + 1, c), (r + 1, c + 1), (r, c + 1)]
        area, _ = geod.polygon_area_perimeter(
            [lon[p] for p in ring], [lat[p] for p in ring]
        )
        total[values[r, c]] += abs(area)
    return total


def parallels_m2(values, grid):
    """Areas by class by the closed formula for the ellipsoid between parallels."""
    a, f = 6378137.0, 1 / 298.257223563
    e2 = f * (2 - f)
    e = np.sqrt(e2)

    def zone(lat):
        s = np.sin(np.deg2rad(lat))
        log = np.log((1 + e * s) / (1 - e * s)) / (2 * e)
        return a * a * (1 - e2) / 2 * (s / (1 - e2 * s * s) + log)

    edges = grid.transform.f + grid.transform.e * np.arange(grid.height + 1)
    row = (zone(edges[:-1]) - zone(edges[1:])) * np.deg2rad(grid.transform.a)
    return np.array([(row[:, None] * (values == k)).sum() for k in range(3)])


@pytest.mark.parametrize("chunk", [64, 96, 720])
def test_mapped_and_estimated_areas_of_a_world_map_are_true(tmp_path, chunk):
    values = earth_map()
    masks = store(tmp_path / "m.zarr", values, EARTH, chunk)
    found = evaluate(masks, masks.path)
    want = parallels_m2(values, EARTH)
    assert found.mapped_m2 == pytest.approx(want, rel=1e-4)
    assert [a.value for a in found.areas_m2()] == pytest.approx(want, rel=1e-4)
    assert map_statistics(masks).areas_m2.tolist() == found.mapped_m2.tolist()
    shares = [c.area.value for c in found.accuracy.per_class]
    assert shares == pytest.approx(want / want.sum(), rel=1e-4)


def test_areas_are_true_where_they_change_along_rows_and_columns(tmp_path):
    grid = polar(40, 100_000)
    values = np.random.default_rng(1).integers(0, 3, (40, 40)).astype(np.uint8)
    values[:, 20:] = np.maximum(values[:, 20:], 1)
    masks = store(tmp_path / "m.zarr", values, grid)
    want = true_m2(values, grid)
    assert evaluate(masks, masks.path).mapped_m2 == pytest.approx(want, rel=1e-3)


@pytest.mark.parametrize("grid", [EARTH, polar()])
@pytest.mark.parametrize("side", [1, 37, 64, 1000])
def test_sums_of_areas_do_not_depend_on_how_the_grid_is_cut(grid, side):
    grid = grid[Window(y=11, x=5, height=90, width=70)] if side == 1 else grid
    rng = np.random.default_rng(3)
    values = rng.integers(0, 3, (grid.height, grid.width)).astype(np.uint8)
    areas = PixelAreas.of(grid)
    whole = areas.by_value(values, grid.window, 3)
    parts = [areas.by_value(values[w.slices], w, 3) for w in squares(grid, side)]
    assert np.array_equal(np.sum(parts, axis=0), whole)


@pytest.mark.parametrize("grid", [EARTH, polar()])
def test_a_single_pixel_has_the_area_that_it_has_in_a_window(grid):
    areas, window = PixelAreas.of(grid), Window(y=11, x=5, height=9, width=7)
    rows, columns = np.mgrid[window.slices]
    single = areas.of_pixels(rows.ravel(), columns.ravel()).reshape(rows.shape)
    assert np.array_equal(single, np.broadcast_to(areas.of_window(window), rows.shape))


def test_a_right_share_of_the_ground_is_not_a_share_of_pixels(tmp_path):
    """Wrong only in the north, where pixels are small: accuracy weighs by area."""
    truth = earth_map()
    mapped = truth.copy()
    mapped[:30] = 2
    masks = store(tmp_path / "m.zarr", mapped, EARTH)
    reference = store(tmp_path / "r.zarr", truth, EARTH)
    overall = evaluate(masks, reference.path).accuracy.overall.value
    area = parallels_m2(np.where(mapped == truth, 1, 0), EARTH)
    assert overall == pytest.approx(area[1] / area.sum(), abs=1e-4)
    assert overall > (mapped == truth).mean() + 0.02


def labelled(path, truth):
    frame = geopandas.read_file(path, layer="samples")
    names = np.array([c.name for c in CLASSES])
    frame["class"] = names[truth[frame["row"], frame["col"]]]
    frame.to_file(path, layer="samples")
    return path


@pytest.mark.parametrize("design", ["stratified", "simple", "systematic"])
def test_samples_on_a_world_map_estimate_areas_of_the_ground(tmp_path, design):
    """Drawn nine times, their mean is the truth, within its own error."""
    rng = np.random.default_rng(5)
    truth = earth_map()
    wrong = rng.random(truth.shape) < np.abs(np.linspace(-0.8, 0.8, 360))[:, None]
    mapped = np.where(wrong, (truth + 1) % 3, truth).astype(np.uint8)
    masks = store(tmp_path / "m.zarr", mapped, EARTH)
    right = parallels_m2((mapped == truth).astype(int), EARTH)
    want = right[1] / right.sum()
    ice = parallels_m2(truth, EARTH)[0]
    found = []
    for seed in range(9):
        out = tmp_path / f"{seed}.gpkg"
        sample(masks, out, design=design, n=400, seed=seed)
        got = evaluate(masks, labelled(out, truth))
        overall = got.accuracy.overall
        found.append((overall.value, overall.standard_error, got.areas_m2()[0].value))
    value, error, area = np.array(found).T
    assert value.mean() == pytest.approx(want, abs=3 * error.mean() / 3)
    assert area.mean() == pytest.approx(ice, rel=0.05)
    # Not what the shares of points say.
    assert abs((mapped == truth).mean() - want) > 3 * error.mean() / 3


def test_units_of_equal_area_weigh_as_counts_do():
    rng = np.random.default_rng(2)
    counts = rng.integers(2, 40, (4, 3, 3))
    sizes = [5.0, 9.0, 100.0, 7.0]
    plain = estimate(counts, names="abc", strata=sizes)
    areas = UnitAreas(sums=counts * 7.0, squares=counts * 49.0)
    weighed = estimate(counts, names="abc", strata=sizes, areas=areas)
    for one, other in zip(plain.per_class, weighed.per_class, strict=True):
        assert one.iou.value == pytest.approx(other.iou.value)
        assert one.iou.standard_error == pytest.approx(other.iou.standard_error)


def test_a_map_without_a_place_is_compared_by_pixels(tmp_path):
    grid = Grid(crs=None, transform=Affine(1, 0, 0, 0, -1, 0), height=40, width=50)
    values = np.random.default_rng(1).integers(0, 3, (40, 50)).astype(np.uint8)
    masks = store(tmp_path / "m.zarr", values, grid)
    found = evaluate(masks, masks.path)
    assert found.accuracy.overall.value == 1
    assert np.isnan(found.mapped_m2).all()
    assert any("of pixels, not of areas" in n for n in found.accuracy.notes)
