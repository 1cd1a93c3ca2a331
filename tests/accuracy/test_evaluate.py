"""Evaluation of a whole store: any reference, any blocks, one truth."""

import io
import json

import geopandas
import numpy as np
import pytest
import shapely
import torch
from affine import Affine
from pyproj import CRS
from rasterio.warp import Resampling, reproject
from rich.console import Console
from stores import write_masks
from tifs import write_tif

from geoseg.accuracy.accuracy import estimate
from geoseg.accuracy.boundary import count_boundaries, halo
from geoseg.accuracy.calibration import calibrate
from geoseg.accuracy.evaluate import evaluate
from geoseg.core.classes import class_table
from geoseg.core.grid import Grid, Window
from geoseg.core.lookup import nearest_pixels
from geoseg.errors import GeosegError, LabelsError, MasksError
from geoseg.labels import UNLABELLED, open_labels
from geoseg.maps.group import OBJECT_COLUMNS, create_objects
from geoseg.viz.figures import draw_evaluation

UTM = CRS.from_epsg(32633).to_wkt()
CLASSES = class_table(["water", "forest", "town"])
GRID = Grid(
    crs=UTM,
    transform=Affine(10.0, 0, 400_000, 0, -10.0, 5_300_000),
    height=300,
    width=420,
)


def patches(shape, seed, classes=3):
    """Class values in blobs."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, classes, (shape[0] // 20 + 2, shape[1] // 20 + 2))
    big = np.kron(coarse, np.ones((20, 20), int))
    dy, dx = rng.integers(0, 20, 2)
    return big[dy : dy + shape[0], dx : dx + shape[1]].astype(np.uint8)


def store(path, classes, *, grid=GRID, table=CLASSES, chunk=64, **arrays):
    return write_masks(path, classes, grid=grid, table=table, chunk=chunk, **arrays)


def geotiff(path, values, grid=GRID, nodata=None):
    return write_tif(
        path, values, crs=grid.crs, transform=grid.transform, nodata=nodata
    )


@pytest.fixture
def scene(tmp_path):
    truth = patches((300, 420), 1)
    mapped = np.where(np.random.default_rng(2).random(truth.shape) < 0.8, truth, 1)
    mapped = mapped.astype(np.uint8)
    mapped[:30, :50] = 255
    return truth, mapped, store(tmp_path / "m.zarr", mapped), tmp_path


def expected(mapped, truth, k=3):
    valid = (mapped < k) & (truth < k)
    out = np.zeros((k, k), int)
    np.add.at(out, (mapped[valid], truth[valid]), 1)
    return out


def test_raster_on_the_same_grid_is_counted_pixel_by_pixel(scene):
    truth, mapped, masks, tmp = scene
    got = evaluate(masks.path, geotiff(tmp / "r.tif", truth), strict=True)
    assert np.array_equal(got.accuracy.counts, expected(mapped, truth))
    assert got.accuracy.estimator == "census"
    assert got.accuracy.overall.margin == 0
    assert got.coverage == 1
    pixel = np.prod(GRID.pixel_size_m)
    assert got.area_m2 == pytest.approx(got.accuracy.n * pixel, rel=1e-3)


@pytest.mark.parametrize("side", [64, 128, 2048])
@pytest.mark.parametrize("threads", [1, 3])
def test_blocks_and_threads_do_not_matter(scene, side, threads):
    truth, _, masks, tmp = scene
    reference = geotiff(tmp / "r.tif", truth)
    one = evaluate(masks.path, reference, boundary=2.0).to_dict()
    other = evaluate(
        masks.path, reference, boundary=2.0, threads=threads, block=side
    ).to_dict()
    assert one == other


@pytest.mark.parametrize(
    ("crs", "size", "shape"),
    [
        ("EPSG:32633", 7.3, (420, 600)),
        ("EPSG:32633", 31.0, (110, 150)),
        ("EPSG:3035", 10.0, (420, 560)),
        ("EPSG:4326", 0.0001, (400, 700)),
    ],
)
def test_raster_on_another_grid_is_what_gdal_finds_at_pixel_centres(
    scene, crs, size, shape
):
    _, mapped, masks, tmp = scene
    left, top = geopandas.GeoSeries(
        [shapely.box(*GRID.bounds)], crs=UTM
    ).to_crs(crs).total_bounds[[0, 3]]  # fmt: skip
    grid = Grid(
        crs=CRS.from_user_input(crs).to_wkt(),
        transform=Affine(size, 0, left + 4 * size, 0, -size, top - 3 * size),
        height=shape[0],
        width=shape[1],
    )
    values = patches(shape, 5)
    path = geotiff(tmp / "r.tif", values, grid)
    theirs = np.full((GRID.height, GRID.width), 255, np.uint8)
    reproject(
        values, theirs, src_crs=grid.crs, src_transform=grid.transform, dst_nodata=255,
        dst_crs=GRID.crs, dst_transform=GRID.transform, resampling=Resampling.nearest,
        tolerance=0, init_dest_nodata=True,
    )  # fmt: skip
    got = evaluate(masks.path, path).accuracy.counts
    want = expected(mapped, theirs)
    # Centres that fall on an edge within rounding may go either way.
    assert abs(got - want).sum() <= 0.001 * want.sum()
    assert got.sum() == pytest.approx(want.sum(), rel=0.001)


def test_lookup_across_a_projection_is_within_its_tolerance():
    other = Grid(
        crs=CRS.from_epsg(4326).to_wkt(),
        transform=Affine(1e-4, 0, 13.5, 0, -1e-4, 47.9),
        height=4000,
        width=4000,
    )
    window = Window(y=3, x=7, height=250, width=333)
    found = nearest_pixels(GRID, window, other)
    from geoseg.core.lookup import _exact

    rows, columns = _exact(
        GRID, other, np.arange(3, 253) + 0.5, np.arange(7, 340) + 0.5
    )
    assert abs(found.rows + found.span.y + 0.5 - rows).max() < 0.53
    assert abs(found.columns + found.span.x + 0.5 - columns).max() < 0.53


def frame_of_squares(values, column="class", crs=UTM):
    """Polygons with corners on pixel corners, from (row, col, side, class)."""
    boxes = []
    for row, col, side, _ in values:
        x, y = GRID.transform @ (col, row)
        boxes.append(shapely.box(x, y - 10 * side, x + 10 * side, y))
    data = {column: [v[3] for v in values]}
    return geopandas.GeoDataFrame(data, geometry=boxes, crs=UTM).to_crs(crs)


SQUARES = [(40, 60, 30, "Water"), (50, 70, 30, "town"), (200, 300, 50, "FOREST")]


def burnt(order):
    truth = np.full((300, 420), 255, np.uint8)
    value = {"water": 0, "forest": 1, "town": 2}
    for row, col, side, name in order:
        truth[row : row + side, col : col + side] = value[name.lower()]
    return truth


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:4326"])
@pytest.mark.parametrize("column", ["class", "Classname", "landcover"])
def test_polygons_in_any_crs_by_name_whatever_the_case(scene, crs, column):
    _, mapped, masks, tmp = scene
    frame = frame_of_squares(SQUARES, column, crs)
    frame.to_file(tmp / "p.gpkg")
    got = evaluate(masks.path, tmp / "p.gpkg")
    want = expected(mapped, burnt(SQUARES))
    assert abs(got.accuracy.counts - want).sum() <= (0 if crs == "EPSG:32633" else 20)
    assert got.kind == "polygons"
    assert any("of the mapped pixels" in n for n in got.accuracy.notes)


@pytest.mark.parametrize(
    ("order", "painted"),
    [("last", SQUARES), ("first", SQUARES[::-1]), ("smallest", SQUARES)],
)
def test_overlapping_polygons_have_a_defined_order(scene, order, painted):
    _, mapped, masks, tmp = scene
    frame_of_squares(SQUARES).to_file(tmp / "p.gpkg")
    got = evaluate(masks.path, tmp / "p.gpkg", order=order)
    assert np.array_equal(got.accuracy.counts, expected(mapped, burnt(painted)))


def test_smallest_is_on_top_wherever_it_comes(scene):
    _, mapped, masks, tmp = scene
    nested = [(60, 60, 10, "town"), (40, 40, 60, "water")]
    frame_of_squares(nested).to_file(tmp / "p.gpkg")
    got = evaluate(masks.path, tmp / "p.gpkg", order="smallest")
    assert np.array_equal(got.accuracy.counts, expected(mapped, burnt(nested[::-1])))


def test_mapping_constant_background_within(scene):
    _, mapped, masks, tmp = scene
    frame = frame_of_squares([(40, 60, 30, 50), (90, 90, 20, 80), (9, 200, 9, 99)])
    frame.to_file(tmp / "p.gpkg")
    got = evaluate(
        masks.path,
        tmp / "p.gpkg",
        mapping={"50": "town", "80": "water", "99": "ignore"},
    )
    want = burnt([(40, 60, 30, "town"), (90, 90, 20, "water")])
    assert np.array_equal(got.accuracy.counts, expected(mapped, want))

    x0, y1 = GRID.transform @ (50, 30)
    x1, y0 = GRID.transform @ (100, 80)
    got = evaluate(
        masks.path, tmp / "p.gpkg", constant="town", background="forest",
        within=(x0, y0, x1, y1),
    )  # fmt: skip
    want = np.full((300, 420), 1, np.uint8)
    want[40:70, 60:90] = 2
    want[90:110, 90:110] = 2
    inside = np.full_like(want, 255)
    inside[30:80, 50:100] = want[30:80, 50:100]
    assert np.array_equal(got.accuracy.counts, expected(mapped, inside))
    with pytest.raises(GeosegError, match=r"--background forst.*mean 'forest'"):
        evaluate(masks.path, tmp / "p.gpkg", constant="town", background="forst")
    with pytest.raises(GeosegError, match=r"nothing: neither .* water, forest, town$"):
        evaluate(masks.path, tmp / "p.gpkg", constant="town", background="nothing")
    named, numbered = (
        evaluate(masks.path, tmp / "p.gpkg", constant="town", background=background)
        for background in ("forest", "1")
    )
    assert np.array_equal(named.accuracy.counts, numbered.accuracy.counts)


def test_classes_that_only_the_reference_has_are_errors_of_the_map(scene):
    _, _, masks, tmp = scene
    frame_of_squares([(40, 60, 30, "glacier"), (90, 90, 20, "town")]).to_file(
        tmp / "p.gpkg"
    )
    got = evaluate(masks.path, tmp / "p.gpkg")
    assert got.accuracy.names == ("water", "forest", "town", "glacier")
    assert got.accuracy.counts[:, 3].sum() == 900
    assert got.accuracy.per_class[3].producers.value == 0
    assert any(
        "'glacier' is in the reference, but not" in n for n in got.accuracy.notes
    )


def alike(one, other):
    """Whether estimates are the same but for UTM's pixels, which differ by 1e-4."""
    return one.value == pytest.approx(
        other.value, rel=1e-3
    ) and one.standard_error == pytest.approx(other.standard_error, rel=1e-3)


def points_at(rows, columns, **data):
    x, y = GRID.transform @ (np.asarray(columns) + 0.5, np.asarray(rows) + 0.5)
    return geopandas.GeoDataFrame(
        data, geometry=geopandas.points_from_xy(x, y), crs=UTM
    )


def test_points_are_poststratified_by_the_map_and_say_what_they_assume(scene):
    truth, mapped, masks, tmp = scene
    rng = np.random.default_rng(3)
    rows, columns = rng.integers(0, 300, 500), rng.integers(0, 420, 500)
    names = np.array(["water", "forest", "town"])[truth[rows, columns]]
    points_at(rows, columns, label=names).to_crs(4326).to_file(tmp / "p.gpkg")
    got = evaluate(masks.path, tmp / "p.gpkg")
    kept = mapped[rows, columns] < 3
    counts = np.zeros((3, 3), int)
    np.add.at(counts, (mapped[rows, columns][kept], truth[rows, columns][kept]), 1)
    sizes = np.bincount(mapped[mapped < 3], minlength=3)
    want = estimate(counts, names=["a", "b", "c"], strata=sizes)
    assert np.array_equal(got.accuracy.counts, counts)
    assert alike(got.accuracy.overall, want.overall)
    assert got.accuracy.estimator == "poststratified"
    assert any("picked by hand" in note for note in got.accuracy.notes)
    assert any("left out" in note for note in got.accuracy.notes)
    assert got.area_m2 == pytest.approx(
        sizes.sum() * np.prod(GRID.pixel_size_m), rel=1e-3
    )


def test_points_with_strata_of_their_own_are_weighed_by_those(scene):
    """The strata are two halves of the map, not its classes (Stehman 2014)."""
    truth, mapped, masks, tmp = scene
    rng = np.random.default_rng(8)
    rows = rng.integers(30, 300, 400)
    columns = np.r_[rng.integers(0, 100, 300), rng.integers(100, 420, 100)]
    west = columns < 100
    frame = points_at(
        rows, columns,
        label=truth[rows, columns].astype(int),
        stratum=np.where(west, "west", "east"),
        stratum_pixels=np.where(west, 100 * 300, 320 * 300),
    )  # fmt: skip
    frame.to_file(tmp / "p.gpkg")
    got = evaluate(masks.path, tmp / "p.gpkg", column="label")
    counts = np.zeros((2, 3, 3), int)
    np.add.at(
        counts, (west.astype(int), mapped[rows, columns], truth[rows, columns]), 1
    )
    want = estimate(counts, names="abc", strata=[320 * 300, 100 * 300])
    assert got.accuracy.estimator == "stratified"
    assert alike(got.accuracy.overall, want.overall)
    for one, other in zip(got.accuracy.per_class, want.per_class, strict=True):
        assert alike(one.area, other.area)
    frame.loc[0, "stratum_pixels"] = 7
    frame.to_file(tmp / "q.gpkg")
    with pytest.raises(LabelsError, match="disagree on how large"):
        evaluate(masks.path, tmp / "q.gpkg", column="label")


def test_calibration_counts_right_and_wrong_by_level(tmp_path):
    truth = patches((300, 420), 1)
    rng = np.random.default_rng(0)
    level = rng.integers(85, 255, truth.shape).astype(np.uint8)
    right = rng.random(truth.shape) < level / 254
    mapped = np.where(right, truth, (truth + 1) % 3).astype(np.uint8)
    masks = store(tmp_path / "m.zarr", mapped, confidence=level)
    got = evaluate(masks, geotiff(tmp_path / "r.tif", truth)).calibration
    assert got.n.sum() == truth.size
    assert got.ece < 0.01  # drawn so that confidence is right
    sure = calibrate(np.r_[np.zeros(254), 60], np.r_[np.zeros(254), 40])
    assert sure.ece == pytest.approx(0.4)
    assert sure.bias == pytest.approx(0.4)


def test_boundary_counts_know_a_shift():
    truth = np.zeros((60, 80), np.uint8)
    truth[20:40, 20:60] = 1
    shifted = np.roll(truth, 2, axis=1)
    whole = slice(0, 60), slice(0, 80)
    near = count_boundaries(shifted, truth, [0, 1], 2.0, whole)[1]
    far = count_boundaries(shifted, truth, [0, 1], 1.0, whole)[1]
    assert near[0] == near[1] == near[2] == near[3] == 2 * (20 + 40) - 4
    assert far[1] < far[0]
    assert halo(2.5) == 4


@pytest.mark.filterwarnings("ignore:organizePolygons")
def panoptic_quality(classes, ids, true_classes, true_ids):
    """Things (class 2), stuff (the others), and all, by torchmetrics."""
    from torchmetrics.detection import PanopticQuality

    judge = PanopticQuality(things={2}, stuffs={0, 1}, return_per_class=True)
    ours, theirs = (
        torch.from_numpy(np.stack(pair, axis=-1).astype(np.int64))[None]
        for pair in ((classes, ids), (true_classes, true_ids))
    )
    town, *stuff = judge(ours, theirs).numpy().ravel().tolist()
    return town, np.mean(stuff), np.mean([town, *stuff])


def test_objects_are_scored_against_polygons(tmp_path):
    grid = GRID
    frame = frame_of_squares(
        [(10, 10, 20, "town"), (10, 90, 20, "town"), (90, 9, 8, "town")]
    )
    frame.to_file(tmp_path / "p.gpkg")
    classes = np.zeros((300, 420), np.uint8)
    classes[:250] = 1
    ids = np.zeros((300, 420), np.uint32)
    for k, (row, col, side) in enumerate(
        [(10, 10, 20), (14, 90, 20), (200, 200, 9)], 1
    ):
        ids[row : row + side, col : col + side] = k
        classes[row : row + side, col : col + side] = 2
    masks = store(tmp_path / "m.zarr", classes, grid=grid, instances=ids)
    found = evaluate(
        masks, tmp_path / "p.gpkg", background="forest", objects=True, order="first"
    )
    truth = np.zeros_like(ids)
    for k, (row, col, side) in enumerate([(10, 10, 20), (10, 90, 20), (90, 9, 8)], 1):
        truth[row : row + side, col : col + side] = k
    expected = panoptic_quality(classes, ids, np.where(truth, 2, 1), truth)
    quality = found.panoptic_quality()
    assert list(quality.values()) == pytest.approx(expected, abs=1e-6)
    assert found.to_dict()["objects"]["pq_all"] == quality["all"]
    got = found.objects
    assert got.names == ("town",)
    (town,) = got.per_class
    assert (town.true, town.mapped, town.matched) == (3, 3, 2)
    assert town.sq == pytest.approx((1 + 16 / 24) / 2)
    # With a table of objects, their classes and scores are the model's own.
    append = create_objects(masks.path)
    rows = {name: np.zeros(3) for name in OBJECT_COLUMNS}
    append(rows | {"instance_id": [1, 2, 3], "class_id": [2] * 3, "score": [1, 0, 0.5]})
    (ranked,) = evaluate(
        masks, tmp_path / "p.gpkg", background="forest", objects=True
    ).objects.per_class
    # Found, missed, found: precision 1, 1/2, 2/3 at recalls 1/3, 1/3, 2/3.
    assert ranked.ap50 == pytest.approx((34 * 1 + 33 * 2 / 3) / 101)
    with pytest.raises(LabelsError, match="need polygons"):
        evaluate(masks, geotiff(tmp_path / "r.tif", classes), objects=True)


def test_objects_that_the_image_cannot_show_are_nobodys_miss(tmp_path):
    squares = [(10, 10, 20), (60, 30, 20), (200, 40, 20), (120, 200, 30)]
    frame_of_squares([(*s, "town") for s in squares]).to_file(tmp_path / "p.gpkg")
    classes = np.ones((300, 420), np.uint8)
    ids = np.zeros((300, 420), np.uint32)
    for k, (row, col, side) in enumerate(squares[:3], 1):
        ids[row : row + side, col : col + side] = k
        classes[row : row + side, col : col + side] = 2
    classes[:, 50:] = 255  # the last object wholly, others in part
    ids[:, 50:] = 0
    masks = store(tmp_path / "m.zarr", classes, instances=ids)
    (town,) = evaluate(masks, tmp_path / "p.gpkg", objects=True).objects.per_class
    assert (town.true, town.mapped, town.matched, town.pq) == (3, 3, 3, 1)


def test_results_are_written_whole(scene):
    truth, _, masks, tmp = scene
    got = evaluate(masks, geotiff(tmp / "r.tif", truth), boundary=1.5)
    read = json.loads(got.to_json(tmp / "e.json").read_text())
    assert read["overall_accuracy"]["value"] == got.accuracy.overall.value
    assert "kappa" not in read
    assert "kappa" in got.to_dict(kappa=True)
    lines = got.to_csv(tmp / "e.csv").read_text().splitlines()
    assert len(lines) == 4
    assert lines[0].startswith(
        "value,class,users_accuracy,users_accuracy_standard_error"
    )
    assert got.confusion_to_csv(tmp / "c.csv").read_text().count("\n") == 4
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(got.tables())
    text = console.export_text()
    assert "overall accuracy" in text
    assert "no sampling error" in text
    assert [p.name for p in draw_evaluation(got, tmp / "figures")] == [
        "confusion.png", "areas.png",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"column": "nope"}, "has no column 'nope'; it has class"),
        ({"within": (0, 0, 1, 1)}, "no label of the area lies on the raster"),
        ({"objects": True}, "holds no instances"),
    ],
)
def test_bad_settings_are_one_line(scene, change, words):
    _, _, masks, tmp = scene
    frame_of_squares(SQUARES).to_file(tmp / "p.gpkg")
    with pytest.raises((LabelsError, MasksError), match=words) as caught:
        evaluate(masks, tmp / "p.gpkg", **change)
    assert "\n" not in str(caught.value)


def test_bad_references_are_one_line(scene):
    _, _, masks, tmp = scene
    away = frame_of_squares(SQUARES).translate(1e6)
    geopandas.GeoDataFrame({"class": "town"}, index=range(3), geometry=away).to_file(
        tmp / "away.gpkg"
    )
    empty = frame_of_squares(SQUARES)
    empty.loc[1, "geometry"] = shapely.Polygon()
    empty.to_file(tmp / "empty.gpkg")
    lines = frame_of_squares(SQUARES).set_geometry(frame_of_squares(SQUARES).boundary)
    lines.to_file(tmp / "lines.gpkg")
    null = frame_of_squares(SQUARES)
    null["class"] = [None, None, None]
    null.to_file(tmp / "null.gpkg")
    two = frame_of_squares(SQUARES)
    two["k"], two["q"] = 1, 2
    two.drop(columns="class").to_file(tmp / "two.gpkg")
    geotiff(tmp / "half.tif", np.full((300, 420), 0.5, np.float32))
    geotiff(tmp / "none.tif", np.full((300, 420), 255, np.uint8), nodata=255)
    (tmp / "text.tif").write_text("not a raster")
    for name, words in {
        "away.gpkg": "lies on the raster",
        "empty.gpkg": "1 of 3 features .* empty geometry",
        "lines.gpkg": "all points or all polygons",
        "null.gpkg": "is empty in every feature",
        "two.gpkg": "which column .*--constant.* with --background",
        "half.tif": "holds fractions such as 0.5",
        "none.tif": "nothing to evaluate",
        "text.tif": "neither points, polygons nor a raster",
        "missing.gpkg": "neither points, polygons nor a raster",
    }.items():
        with pytest.raises(GeosegError, match=words) as caught:
            evaluate(masks, tmp / name)
        assert "\n" not in str(caught.value)


def test_strict_refuses_another_grid(scene):
    truth, _, masks, tmp = scene
    smaller = GRID[Window(y=0, x=0, height=300, width=419)]
    path = geotiff(tmp / "r.tif", truth[:, :419], smaller)
    with pytest.raises(LabelsError, match="is not on the raster's grid"):
        evaluate(masks, path, strict=True)
    assert evaluate(masks, path).accuracy.n > 0


def test_labels_without_a_table_make_one(tmp_path):
    frame_of_squares(SQUARES).to_file(tmp_path / "names.gpkg")
    labels = open_labels(tmp_path / "names.gpkg", GRID)
    assert [(c.value, c.name) for c in labels.classes] == [
        (0, "FOREST"), (1, "Water"), (2, "town"),
    ]  # fmt: skip
    frame_of_squares([(1, 1, 9, 40), (9, 9, 9, 7)]).to_file(tmp_path / "values.gpkg")
    labels = open_labels(tmp_path / "values.gpkg", GRID, background="rest")
    assert [(c.value, c.name) for c in labels.classes] == [
        (7, "7"), (40, "40"), (41, "rest"),
    ]  # fmt: skip
    window = Window(y=0, x=0, height=4, width=4)
    assert labels.read(window)[0, 0] == 41
    bare = open_labels(tmp_path / "values.gpkg", GRID)
    assert bare.read(window)[0, 0] == UNLABELLED


def test_reading_labels_does_not_depend_on_the_window(tmp_path):
    rng = np.random.default_rng(6)
    squares = [
        (int(r), int(c), int(s), int(k))
        for r, c, s, k in zip(
            rng.integers(0, 250, 60), rng.integers(0, 380, 60),
            rng.integers(2, 40, 60), rng.integers(0, 3, 60), strict=True,
        )
    ]  # fmt: skip
    frame = frame_of_squares(squares)
    frame.geometry = frame.rotate(17)
    frame.to_file(tmp_path / "p.gpkg")
    labels = open_labels(tmp_path / "p.gpkg", GRID)
    whole = labels.read(GRID.window)
    for y, x, h, w in [(0, 0, 7, 400), (33, 21, 100, 90), (299, 419, 1, 1)]:
        window = Window(y=y, x=x, height=h, width=w)
        assert np.array_equal(labels.read(window), whole[window.slices])
