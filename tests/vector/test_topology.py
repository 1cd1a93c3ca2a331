"""Nodes, arcs, faces: laws on random and real masks, whatever the blocks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from pyproj import CRS, Geod, Transformer
from rasterio.features import rasterize
from scipy import ndimage

import geoseg
from geoseg.core.classes import Class
from geoseg.core.geodesy import Measure, measure
from geoseg.core.grid import Grid, Window
from geoseg.errors import RegionsError
from geoseg.vector.arcs import NODE, corner_bytes
from geoseg.vector.rings import HEADER
from geoseg.vector.seams import Seams
from geoseg.vector.sieve import sieve
from geoseg.vector.simplify import Limits
from geoseg.vector.topology import TILE, Drawing, trace_block

NODATA = 255
SIDE = 30.0
UP = Affine(SIDE, 0, 1000, 0, -SIDE, 5000)


@dataclass(frozen=True, kw_only=True)
class ClassArray:
    """A class map in memory; any block will do."""

    values: Any
    grid: Grid
    classes: tuple[Class, ...]
    nodata: int | None
    chunk: int = 256
    arrays: tuple[str, ...] = ("classes",)

    def read(self, name: str, window: Window) -> Any:  # noqa: ARG002 - one
        return self.values[window.slices]


def a_mask(values: Any, crs: str = "EPSG:5070", transform: Affine = UP) -> ClassArray:
    values = np.ascontiguousarray(values, np.uint8)
    return ClassArray(
        values=values,
        grid=Grid(
            crs=CRS(crs).to_wkt(), transform=transform,
            height=values.shape[0], width=values.shape[1],
        ),
        classes=tuple(
            Class(value=int(v), name=f"c{v}", color="#112233")
            for v in np.unique(values) if v != NODATA
        ),
        nodata=NODATA,
    )  # fmt: skip


@dataclass(frozen=True)
class Region:
    value: int
    pixels: int
    area: float
    perimeter: float
    blob: bytes

    @property
    def shape(self) -> Any:
        return shapely.from_wkb(self.blob[HEADER:])


def regions(
    mask: ClassArray, block: int = 10_000, *, distance: float = 0.0,
    area: float | None = None, radius: float = 0.0, eight: bool = False,
) -> list[Region]:  # fmt: skip
    """Trace block by block, join, and sort by content, not by place in the file."""
    grid = mask.grid
    limits = Limits(distance**2 if area is None else area, distance, SIDE, SIDE, radius)
    drawing = Drawing(
        grid=grid, measure=measure(grid), values=tuple(c.value for c in mask.classes),
        limits=limits, eight=eight,
    )  # fmt: skip
    seams, found = Seams(drawing), []
    for y in range(0, grid.height, block):
        row = []
        for x in range(0, grid.width, block):
            window = Window(
                y=y, x=x, height=min(block, grid.height - y),
                width=min(block, grid.width - x),
            )  # fmt: skip
            done, rest = trace_block(mask, window, drawing)
            found.append(done)
            row.append(rest)
        found.append(seams.add_row(row))
    out = []
    for features in filter(None, found):
        shapes, facts = features.polygons, features.facts
        for i in range(len(features)):
            blob = shapes.blobs[shapes.start[i] : shapes.start[i + 1]].tobytes()
            out.append(
                Region(int(facts.value[i]), int(facts.pixels[i]),
                       float(shapes.area[i]), float(shapes.perimeter[i]), blob)
            )  # fmt: skip
    return sorted(out, key=lambda r: (r.value, r.pixels, r.blob))


@st.composite
def masks(draw: st.DrawFn) -> Any:
    """Noise, or noise of small rectangles: single pixels, corners, rings, nodata."""
    height, width = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    classes = draw(st.integers(2, 4))
    scale = draw(st.sampled_from([1, 1, 2, 3]))
    # By a seed: arrays of hypothesis are all but empty, with little to join or hide.
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    small = rng.integers(0, classes, (-(-height // scale), -(-width // scale)))
    values = np.kron(small, np.ones((scale, scale), np.uint8))[:height, :width]
    if draw(st.booleans()):
        values = np.where(values == classes - 1, NODATA, values)
    return values.astype(np.uint8)


def blobs(height: int, width: int, sigma: float, seed: int = 0) -> ClassArray:
    """Two classes with long lines between them, unlike noise."""
    noise = np.random.default_rng(seed).normal(size=(height, width))
    return a_mask(ndimage.gaussian_filter(noise, sigma) > 0)


WAYS = {
    "pixel edges": {},
    "simplified": {"distance": 60.0},
    "much simplified": {"distance": 100.0},
    "douglas-peucker": {"distance": 75.0, "area": np.inf},
    "smooth": {"radius": 30.0},
    "simplified and smooth": {"distance": 60.0, "radius": 60.0},
    "eight": {"eight": True, "distance": 45.0},
}


def components(values: Any, *, eight: bool = False) -> int:
    structure = np.ones((3, 3)) if eight else None
    return sum(
        ndimage.label(values == v, structure)[1]
        for v in np.unique(values)
        if v != NODATA
    )


@given(values=masks(), way=st.sampled_from(sorted(WAYS)), block=st.integers(1, 12))
def test_polygons_do_not_depend_on_blocks(values: Any, way: str, block: int) -> None:
    block = max(block, max(values.shape) // 6)
    mask = a_mask(values)
    assert regions(mask, block, **WAYS[way]) == regions(mask, **WAYS[way])


@pytest.mark.parametrize("way", sorted(WAYS))
def test_nor_do_polygons_larger_than_a_tile_of_corners(way: str) -> None:
    mask = blobs(3 << TILE, (3 << TILE) - 5, sigma=1.5)
    found = regions(mask, **WAYS[way])
    assert max(r.pixels for r in found) > (1 << TILE) ** 2
    for block in (33, 47):
        assert regions(mask, block, **WAYS[way]) == found


@given(values=masks(), block=st.integers(2, 30))
def test_rasterizing_gives_the_mask_back(values: Any, block: int) -> None:
    mask = a_mask(values)
    found = regions(mask, block)
    if found:
        again = rasterize(
            ((r.shape, r.value) for r in found), values.shape, fill=NODATA,
            transform=UP, dtype="uint8",
        )  # fmt: skip
        np.testing.assert_array_equal(again, values)
    assert sum(r.pixels for r in found) == (values != NODATA).sum()
    for region in found:
        assert region.shape.area == pytest.approx(region.pixels * SIDE**2)


@given(values=masks(), way=st.sampled_from(sorted(WAYS)))
def test_each_component_is_one_valid_polygon_of_a_coverage(
    values: Any, way: str
) -> None:
    found = regions(a_mask(values), 7, **WAYS[way])
    shapes = np.array([r.shape for r in found], object)
    eight = WAYS[way].get("eight", False)
    assert len(found) == components(values, eight=eight)
    assert shapely.is_valid(shapes).all(), shapely.is_valid_reason(shapes)
    assert not shapely.is_empty(shapes).any()
    assert (shapely.area(shapes) > 0).all()
    assert shapely.coverage_is_valid(shapely.get_parts(shapes))
    kind = "MultiPolygon" if eight else "Polygon"
    assert {s.geom_type for s in shapes} <= {kind}
    whole = shapely.area(shapes).sum()
    assert shapely.union_all(shapes).area == pytest.approx(whole)
    if NODATA not in values:
        assert whole == pytest.approx(values.size * SIDE**2)
        assert shapely.union_all(shapes).equals(
            shapely.box(*a_mask(values).grid.bounds)
        )
    for shape in shapely.get_parts(shapes):
        assert shape.exterior.is_ccw
        assert not any(hole.is_ccw for hole in shape.interiors)


def furthest(mask: ClassArray, **way: Any) -> float:
    """Return how far lines move, in metres."""
    lines, moved = (
        shapely.union_all([r.shape.boundary for r in found])
        for found in (regions(mask), regions(mask, **way))
    )
    return 0.0 if lines.is_empty else shapely.hausdorff_distance(lines, moved, 0.1)


@given(values=masks())
def test_lines_move_no_further_than_asked(values: Any) -> None:
    for way in ({"distance": 60.0}, {"distance": 60.0, "area": np.inf}):
        assert furthest(a_mask(values), **way) <= 60.06


def test_nor_do_lines_that_many_vertices_left() -> None:
    assert furthest(blobs(90, 90, sigma=1.0, seed=1), distance=45.0) <= 45.045


@given(values=masks(), east=st.integers(-3, 3), north=st.integers(-3, 3))
def test_moving_the_origin_moves_the_polygons(
    values: Any, east: int, north: int
) -> None:
    # Multiples of a power of two, so that not even rounding differs.
    dx, dy = 4096.0 * east, 4096.0 * north
    here = regions(a_mask(values), 9, distance=60.0)
    moved = a_mask(values, transform=Affine.translation(dx, dy) @ UP)
    there = regions(moved, 9, distance=60.0)
    expected = [
        shapely.transform(r.shape, lambda p: p + np.array([dx, dy])).wkb for r in here
    ]
    assert sorted(expected) == sorted(r.shape.wkb for r in there)


def test_a_diagonal_neighbour_touches_the_hole_but_not_itself() -> None:
    ring = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]])
    (one,) = [r for r in regions(a_mask(ring)) if r.value == 1]
    assert one.shape.is_valid
    assert len(one.shape.interiors) == 1  # it touches the exterior in one point
    assert one.shape.area == 7 * SIDE**2


def test_a_pixel_stays_a_square_however_much_is_simplified() -> None:
    values = np.zeros((9, 9))
    values[4, 4] = 1
    (pixel,) = [r for r in regions(a_mask(values), distance=1e4) if r.value == 1]
    assert pixel.shape.area == SIDE**2


@pytest.mark.parametrize("way", ["simplified", "much simplified", "douglas-peucker"])
def test_an_island_stays_a_triangle_at_least(way: str) -> None:
    values = np.zeros((12, 12), np.uint8)
    values[4:6, 4:6] = values[6, 4] = 1
    (island,) = (r for r in regions(a_mask(values), **WAYS[way]) if r.value)
    assert island.shape.is_valid
    assert island.shape.area > SIDE**2


def test_a_corner_with_an_island_in_it_stays_sharp() -> None:
    values = np.zeros((40, 40), np.uint8)
    values[20:, 20:] = 1
    free = regions(a_mask(values), radius=300.0)
    values[21, 21] = 2
    found = regions(a_mask(values), radius=300.0)
    assert shapely.coverage_is_valid([r.shape for r in found])
    corner = shapely.Point(UP @ (20, 20))
    assert shapely.dwithin(found[0].shape.boundary, corner, 1e-6)
    assert not shapely.dwithin(free[0].shape.boundary, corner, SIDE)


def test_two_regions_between_the_same_nodes_do_not_vanish() -> None:
    """Arcs with the same ends, one straight or both bent, never both become it."""
    for lens in ([3], [3, 4], [2, 3, 4], [2, 3]):
        values = np.zeros((7, 40), np.uint8)
        values[4:] = 1
        values[lens, 5:35] = 2
        for turned in (values, values[::-1], values.T, values.T[::-1]):
            found = regions(a_mask(turned), distance=500.0)
            assert len(found) == 3
            assert all(r.shape.area > 0 for r in found)
            assert shapely.coverage_is_valid([r.shape for r in found])


@pytest.mark.parametrize("pixels", [0.6, 0.75, 0.95, 1.2, 1.45, 2.1])
def test_no_region_vanishes_at_any_distance(pixels: float) -> None:
    """Where a line is near is no matter of whole pixels."""
    values = np.random.default_rng(4).integers(0, 4, (60, 60)).astype(np.uint8)
    for way in ({}, {"area": np.inf}):
        found = regions(a_mask(values), distance=pixels * SIDE, **way)
        assert len(found) == components(values)
        assert all(r.shape.is_valid and r.shape.area > 0 for r in found)


def test_stairs_become_straight() -> None:
    y, x = np.mgrid[:40, :40]
    before = regions(a_mask((x > y).astype(np.uint8)))
    found = regions(a_mask((x > y).astype(np.uint8)), distance=30.0)
    assert max(len(r.shape.exterior.coords) for r in before) > 80
    assert max(len(r.shape.exterior.coords) for r in found) <= 7


def test_douglas_peucker_is_shapelys_where_nothing_is_near() -> None:
    y, x = np.mgrid[:90, :200]
    values = (y > 45 + 20 * np.sin(x / 17) + 3 * np.sin(x)).astype(np.uint8)
    values = ndimage.median_filter(values, 5)
    mask = a_mask(values)
    (whole,) = [r.shape for r in regions(mask) if r.value == 1]
    (ours,) = [
        r.shape for r in regions(mask, distance=90.0, area=np.inf) if r.value == 1
    ]
    edge = shapely.line_merge(
        whole.boundary.difference(shapely.box(*mask.grid.bounds).boundary)
    )
    expected = shapely.simplify(edge, 90.0, preserve_topology=False)
    mine = shapely.line_merge(
        ours.boundary.difference(shapely.box(*mask.grid.bounds).boundary)
    )
    assert shapely.normalize(mine).equals_exact(shapely.normalize(expected), 1e-6)


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:4326", Affine(1e-3, 0, 6, 0, -1e-3, 3)),
        ("EPSG:4326", Affine(2e-3, 0, 20, 0, -1e-3, 68)),
        ("EPSG:32631", Affine(20, 0, 600_000, 0, -20, 4_900_020)),
        ("EPSG:3857", Affine(10, 0, 600_000, 0, -10, 8_900_020)),
        ("EPSG:2232", Affine(3.28, 0, 3_219_998, 0, -3.28, 1_740_001)),
        ("EPSG:3035", Affine(100, 0, 4_000_000, 0, -100, 3_000_000)),
        ("EPSG:3413", Affine(500, 0, -50_000, 0, -500, 50_000)),
        ("EPSG:32631", Affine(14, 14, 600_000, 14, -14, 4_900_020)),
        ("EPSG:32631", Affine(20, 0, 600_000, 0, 20, 4_900_020)),
    ],
)
@pytest.mark.parametrize("distance", [0.0, 300.0])
def test_areas_and_perimeters_are_those_on_the_ellipsoid(
    crs: str, transform: Affine, distance: float
) -> None:
    rng = np.random.default_rng(3)
    values = np.kron(rng.integers(0, 3, (12, 12)), np.ones((8, 8))).astype(np.uint8)
    mask = a_mask(values, crs, transform)
    geod = CRS(crs).get_geod()
    assert isinstance(geod, Geod)
    to_lonlat = Transformer.from_crs(crs, CRS(crs).geodetic_crs, always_xy=True)
    for region in regions(mask, 50, distance=distance):
        # Edges are straight in the CRS: cut them short before going to geodesics.
        short = shapely.segmentize(region.shape, abs(transform.a) + abs(transform.b))
        short = shapely.segmentize(short, (abs(transform.a) + abs(transform.b)) / 20)
        globe = shapely.transform(
            short, lambda p: np.stack(to_lonlat.transform(*p.T), 1)
        )
        area, perimeter = geod.geometry_area_perimeter(globe)
        # geographiclib itself is good to some 0.1 mm² per vertex
        assert region.area == pytest.approx(abs(area), rel=1e-6, abs=1e-3)
        assert region.perimeter == pytest.approx(perimeter, rel=1e-6)
        assert region.shape.exterior.is_ccw


def test_a_mask_without_a_place_on_earth_is_refused() -> None:
    grid = Grid(crs=None, transform=UP, height=2, width=2)
    with pytest.raises(RegionsError, match="no CRS"):
        measure(grid)
    far = Grid(
        crs=CRS("EPSG:32631").to_wkt(), transform=Affine(1e9, 0, 0, 0, -1e9, 0),
        height=9, width=9,
    )  # fmt: skip
    with pytest.raises(RegionsError, match="not wholly on the Earth"):
        measure(far)


FLAT = np.array([[1.0]])


def sieved(values: Any, least: int, side: int, folder: Any, *, eight: bool) -> Any:
    mask = a_mask(values)
    height, width = values.shape
    unit = Measure(
        density=FLAT, east=FLAT, south=FLAT, skew=0 * FLAT,
        half_x=width / 2, half_y=height / 2,
    )  # fmt: skip
    made = sieve(mask, least, unit, folder, side=side, eight=eight)
    return made.read("classes", mask.grid.window)


def sieved_slowly(values: Any, least: int, *, eight: bool) -> Any:  # noqa: C901
    """The rule of the module `sieve`, word by word, on the whole mask."""
    labels, count = np.zeros(values.shape, int), 0
    for v in np.unique(values[values != NODATA]):
        found, more = ndimage.label(values == v, np.ones((3, 3)) if eight else None)
        labels[found > 0] = found[found > 0] + count
        count += more
    flat = labels.reshape(-1)
    size = dict(enumerate(np.bincount(flat, minlength=count + 1)))
    first = {i: int(np.flatnonzero(flat == i)[0]) for i in range(1, count + 1)}
    value = {i: values.reshape(-1)[first[i]] for i in first}
    border: dict[int, dict[int, int]] = {i: {} for i in first}
    for one, other in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
        for a, b in zip(one.reshape(-1), other.reshape(-1), strict=True):
            if a and b and a != b:
                border[a][b] = border[a].get(b, 0) + 1
                border[b][a] = border[b].get(a, 0) + 1
    small, joined = {i for i in first if size[i] < least}, {}
    while small:
        i = min(small, key=lambda k: (size[k], first[k]))
        small.remove(i)
        near = border.pop(i)
        if not near:
            continue
        j = max(near, key=lambda k: (value[k] == value[i], near[k], size[k], -first[k]))
        joined[i] = j
        for k, length in near.items():
            del border[k][i]
            if k != j:
                border[j][k] = border[k][j] = border[j].get(k, 0) + length
        if j in small:
            size[j] += size[i]
            small = {k for k in small if size[k] < least}
    out = values.copy()
    for i in first:
        root = i
        while root in joined:
            root = joined[root]
        out[labels == i] = value[root]
    return out


@given(
    values=masks(),
    least=st.integers(2, 12),
    side=st.integers(3, 30),
    eight=st.booleans(),
)
def test_small_regions_join_by_the_rule_whatever_the_blocks(
    tmp_path_factory: Any, values: Any, least: int, side: int, eight: bool
) -> None:
    folder = tmp_path_factory.mktemp("sieve")
    expected = sieved_slowly(values, least, eight=eight)
    found = sieved(values, least, side, folder, eight=eight)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(expected == NODATA, values == NODATA)


@pytest.mark.parametrize("seed", range(5))
def test_of_neighbours_that_are_alike_the_first_is_joined(
    tmp_path: Path, seed: int
) -> None:
    values = np.random.default_rng(seed).integers(0, 3, (24, 24)).astype(np.uint8)
    for least, side in ((3, 30), (9, 7)):
        folder = tmp_path / str(side)
        folder.mkdir()
        found = sieved(values, least, side, folder, eight=False)
        expected = sieved_slowly(values, least, eight=False)
        np.testing.assert_array_equal(found, expected)


def test_borrowed_memory_is_each_threads_own_and_used_again() -> None:
    """Blocks of other sizes and dtypes in between, and threads, change nothing."""
    from concurrent.futures import ThreadPoolExecutor

    from geoseg.vector.scratch import borrowed

    one = borrowed("test", (3, 5), np.int32)
    assert borrowed("test", (2, 2), np.uint8).ctypes.data == one.ctypes.data
    assert borrowed("other", (3, 5), np.int32).ctypes.data != one.ctypes.data
    with ThreadPoolExecutor(1) as pool:
        there = pool.submit(borrowed, "test", (3, 5), np.int32).result()
    assert there.ctypes.data != one.ctypes.data
    rng = np.random.default_rng(8)
    masks_ = [a_mask(rng.integers(0, 3, (n, 90 - n))) for n in (60, 9, 41, 80)]
    alone = [regions(m, 17, distance=40.0) for m in masks_]
    with ThreadPoolExecutor(3) as pool:
        assert alone == list(pool.map(lambda m: regions(m, 17, distance=40.0), masks_))


def test_the_drawing_of_the_topology_is_what_is_traced() -> None:
    page = (Path(geoseg.__file__).parent / "vector" / "TOPOLOGY.md").read_text(
        encoding="utf-8"
    )
    lines = page[page.index("0   1   2") :].splitlines()[1:8]
    at = page.index("0   1   2") - page.rindex("\n", 0, page.index("0   1   2")) - 1
    letters = [[line[at + 4 * x + 2] for x in range(5)] for line in lines[1::2]]
    nodes = {
        (y, x) for y, line in enumerate(lines[::2]) for x in range(6)
        if line[at + 4 * x] == "●"
    }  # fmt: skip
    pixels = np.pad(np.vectorize(ord)(letters).astype(np.uint16), 1)
    corners = corner_bytes(pixels)[:, :6]
    traced = {(int(y), int(x)) for y, x in np.argwhere(corners & NODE)}
    assert traced | {(0, 0), (0, 5), (3, 0), (3, 5)} == nodes
    drawn = {
        (y, x) for y, line in enumerate(lines[1::2]) for x in range(6)
        if line[at + 4 * x] == "│"
    }  # fmt: skip
    assert drawn == {(int(y), int(x)) for y, x in np.argwhere(corners[:3] & 2)}
