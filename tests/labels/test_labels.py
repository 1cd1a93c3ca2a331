"""Labels as people draw and name them: what they say is heard, what is lost is said."""

import sqlite3
from contextlib import closing

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from pyproj import CRS, Transformer
from stores import write_masks
from tifs import write_tif

from geoseg.accuracy.evaluate import evaluate
from geoseg.core.classes import class_table
from geoseg.core.grid import Grid
from geoseg.errors import GeosegError, LabelsError
from geoseg.labels import UNLABELLED, open_labels
from geoseg.maps.cog import export
from geoseg.rasters.shapes import Shapes, in_pixels

UTM = CRS.from_epsg(32633).to_wkt()
LONLAT = CRS.from_epsg(4326).to_wkt()
GRID = Grid(
    crs=UTM, transform=Affine(10, 0, 400_000, 0, -10, 5_300_000), height=100, width=120
)
CLASSES = class_table(["water", "forest", "town"])


DOMAIN = """
CREATE TABLE gpkg_data_columns (table_name, column_name, constraint_name);
CREATE TABLE gpkg_data_column_constraints
  (constraint_name, constraint_type, value, description);
INSERT INTO gpkg_data_columns VALUES ('p', 'label', 'Cover');
INSERT INTO gpkg_data_column_constraints VALUES
  ('cover', 'enum', '10', 'forest'), ('cover', 'enum', '20', 'water'),
  ('other', 'enum', '30', 'town');
"""
"""Of GeoPackage's extension for schemas, by its specification."""


def at(column, row):
    return GRID.transform @ (column, row)


def square(column, row, side):
    x, y = at(column, row)
    return shapely.box(x, y - 10 * side, x + 10 * side, y)


def write(path, geometries, crs=UTM, **columns):
    geopandas.GeoDataFrame(columns, geometry=geometries, crs=crs).to_file(path)
    return path


def masks_of(path, values, classes=CLASSES):
    return write_masks(path, values, grid=GRID, table=classes)


def geotiff(path, values, nodata=255):
    return write_tif(
        path, values, dtype="uint8", crs=UTM, transform=GRID.transform, nodata=nodata
    )


@pytest.fixture
def values():
    return np.random.default_rng(3).integers(0, 3, (100, 120)).astype(np.uint8)


# --- names ----------------------------------------------------------------------------


def test_a_map_equals_itself_whatever_numbers_its_export_has(tmp_path, values):
    masks = masks_of(tmp_path / "m.zarr", values)
    tif = export(masks, tmp_path / "m.tif")
    turned = class_table(["town", "water", "forest"])
    other = masks_of(tmp_path / "o.zarr", np.choose(values, [1, 2, 0]), turned)
    for reference in (tif, other.path):
        found = evaluate(masks, reference)
        assert found.accuracy.overall.value == 1
        assert found.accuracy.names == ("water", "forest", "town")


def test_numbers_without_names_are_paired_and_said(tmp_path, values):
    masks = masks_of(tmp_path / "m.zarr", values)
    found = evaluate(masks, geotiff(tmp_path / "r.tif", values))
    assert found.accuracy.overall.value == 1
    assert any("0 = water, 1 = forest" in note for note in found.accuracy.notes)


def test_legends_that_do_not_look_alike_are_refused(tmp_path, values):
    masks = masks_of(tmp_path / "m.zarr", values)
    other = geotiff(tmp_path / "r.tif", values * 10 + 10)
    with pytest.raises(LabelsError, match=r"10, 20, 30.*--map 10=water"):
        evaluate(masks, other)
    with pytest.raises(LabelsError, match=r"1, 2, 3.*--map 3=water"):
        evaluate(masks, geotiff(tmp_path / "from_one.tif", values + 1))
    mapping = {"10": "water", "20": "forest", "30": "town"}
    assert evaluate(masks, other, mapping=mapping).accuracy.overall.value == 1
    named = masks_of(tmp_path / "n.zarr", values, class_table(["a", "b", "c"]))
    with pytest.raises(LabelsError, match="a, b, c"):
        evaluate(masks, named.path)


def test_a_mapping_that_nothing_has_is_an_error_with_a_hint(tmp_path, values):
    masks = masks_of(tmp_path / "m.zarr", values)
    polygons = write(tmp_path / "p.gpkg", [square(1, 1, 9)], label=["woods"])
    with pytest.raises(LabelsError, match="did you mean 'woods'"):
        evaluate(masks, polygons, mapping={"wood": "forest"})


def test_a_class_that_is_almost_one_of_the_table_is_doubted(tmp_path):
    polygons = write(tmp_path / "p.gpkg", [square(1, 1, 9)], label=["woods"])

    def notes(to):
        how = {"classes": CLASSES, "mapping": {"woods": to}}
        return " ".join(open_labels(polygons, GRID, **how).notes)

    assert "woods=forrest makes a class 'forrest' of its own; did you mean" in notes(
        "forrest"
    )
    assert not any("of its own" in notes(to) for to in ("Forest", "shrubs", "1"))
    masks = masks_of(tmp_path / "m.zarr", np.zeros((100, 120), np.uint8))
    with pytest.raises(LabelsError, match="did you mean 'forest'"):
        evaluate(masks, polygons, mapping={"woods": "forrest"})


def test_map_classes_are_merged_for_the_comparison(tmp_path, values):
    masks = masks_of(tmp_path / "m.zarr", values)
    coarse = np.where(values == 0, 0, 1).astype(np.uint8)
    two = class_table(["water", "land"])
    reference = masks_of(tmp_path / "r.zarr", coarse, two)
    merged = {"Forest": "land", "town": "land"}
    found = evaluate(masks, reference.path, map_classes=merged)
    assert found.accuracy.names == ("water", "land")
    assert found.accuracy.overall.value == 1
    with pytest.raises(GeosegError, match="did you mean 'forest'"):
        evaluate(masks, reference.path, map_classes={"forrest": "land"})
    with pytest.raises(GeosegError, match=r"neither.*did you mean 'land'"):
        evaluate(masks, reference.path, map_classes={"forest": "lnad"})


def test_the_column_is_said_and_doubted_where_each_is_its_own_class(tmp_path):
    shapes = [square(3 * i, 3 * i, 2) for i in range(25)]
    names = [f"parcel {i}" for i in range(25)]
    path = write(
        tmp_path / "p.gpkg", shapes, name=names, crop=["wheat", "rye"] * 12 + ["rye"]
    )
    with pytest.raises(LabelsError, match=r"column 'name'.*each of the 25 features"):
        open_labels(path, GRID)
    labels = open_labels(path, GRID, column="crop")
    assert {c.name for c in labels.classes} == {"wheat", "rye"}
    with pytest.warns(UserWarning, match="each of the 25"):
        open_labels(path, GRID, column="name")
    said = write(tmp_path / "q.gpkg", shapes, landcover=["wheat"] * 25)
    assert "'landcover'" in " ".join(open_labels(said, GRID).notes)
    with pytest.raises(LabelsError, match="did you mean 'landcover'"):
        open_labels(said, GRID, column="land_cover")


@pytest.mark.parametrize(
    ("column", "classes", "said"),
    [
        ([1.0, 2.0, np.nan], [(1, "1"), (2, "2")], ""),
        (["1.0", "2.0", "1"], [(1, "1"), (2, "2")], ""),
        ([True, False, True], [(0, "False"), (1, "True")], ""),
        (["Oak", "oak ", "elm"], [(0, "Oak"), (1, "elm")], "Oak, oak are taken for"),
        (["oak", "NULL", "oak"], [(0, "NULL"), (1, "oak")], "--map NULL=ignore"),
        (["a b", "a_b", "c"], [(0, "a b"), (1, "a_b"), (2, "c")], "--map 'a_b=a b'"),
    ],
)
def test_columns_of_any_type_hold_classes(tmp_path, column, classes, said):
    shapes = [square(9 * i, 0, 3) for i in range(3)]
    labels = open_labels(write(tmp_path / "p.gpkg", shapes, label=column), GRID)
    found = [(c.value, c.name) for c in labels.classes]
    assert found == classes
    assert said in " ".join(labels.notes)


@pytest.mark.parametrize("layer", [None, "p"])
def test_codes_have_the_names_of_their_domain(tmp_path, layer):
    shapes = [square(9 * i, 0, 3) for i in range(3)]
    path = write(tmp_path / "p.gpkg", shapes, label=[10, 20, 30])
    with closing(sqlite3.connect(path)) as file, file:
        file.executescript(DOMAIN)
    labels = open_labels(path, GRID, layer=layer)
    assert [c.name for c in labels.classes] == ["30", "forest", "water"]
    assert "names of its domain" in " ".join(labels.notes)
    found = labels.read(GRID.window)
    named = {c.value: c.name for c in labels.classes}
    at_centres = [named[found[1, 9 * i + 1]] for i in range(3)]
    assert at_centres == ["forest", "water", "30"]


def test_collections_are_their_areas(tmp_path):
    line = shapely.LineString([at(0, 50), at(90, 50)])
    both = shapely.GeometryCollection([square(0, 0, 5), line])
    labels = open_labels(
        write(tmp_path / "p.gpkg", [both, square(40, 0, 5)], label=["a", "b"]), GRID
    )
    found = labels.read(GRID.window)
    assert [(found == c.value).sum() for c in labels.classes] == [25, 25]


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("a.json", '{"images": [], "annotations": [], "categories": []}', "COCO"),
        ("a.json", '{"shapes": [], "imagePath": "a.png"}', "labelme"),
        ("a.txt", "0 0.1 0.2 0.30 0.4\n3 0.5 0.5 0.1 1.0\n", "YOLO"),
        ("a.xml", '<?xml version="1.0"?>\n<annotation><object/>', "Pascal VOC"),
    ],
)
def test_annotations_of_pictures_are_told_how_to_get_a_place(
    tmp_path, name, text, kind
):
    (tmp_path / name).write_text(text)
    with pytest.raises(LabelsError, match=rf"{kind}.*-a_ullr 400000 5300000 401200"):
        open_labels(tmp_path / name, GRID)


def test_a_table_of_points_is_told_how_to_become_one(tmp_path):
    (tmp_path / "p.csv").write_text("x,y,class\n400005,5299995,a\n")
    with pytest.raises(LabelsError, match="ogr2ogr -oo X_POSSIBLE_NAMES"):
        open_labels(tmp_path / "p.csv", GRID)


def test_names_in_the_only_column_of_texts_are_the_classes(tmp_path, values):
    path = geotiff(tmp_path / "a.tif", values)
    fields = (("Value", 0), ("Count", 0), ("Landcover", 2))
    table = "".join(
        f"<FieldDefn index='{i}'><Name>{n}</Name><Type>{t}</Type></FieldDefn>"
        for i, (n, t) in enumerate(fields)
    ) + "".join(
        f"<Row index='{v}'><F>{v}</F><F>9</F><F>{n}</F></Row>"
        for v, n in enumerate(("water", "forest", "town"))
    )
    (tmp_path / "a.tif.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1"><GDALRasterAttributeTable>'
        f"{table}</GDALRasterAttributeTable></PAMRasterBand></PAMDataset>"
    )
    labels = open_labels(path, GRID)
    assert {c.name for c in labels.classes} == {"water", "forest", "town"}


@pytest.mark.parametrize(
    ("column", "said"),
    [([1.5, 2.0], "fractions such as 1.5"), ([-1, 2], "-1 is outside.*-1=ignore")],
)
def test_columns_of_other_numbers_are_refused(tmp_path, column, said):
    path = write(tmp_path / "p.gpkg", [square(1, 1, 3), square(9, 1, 3)], label=column)
    with pytest.raises(LabelsError, match=said):
        open_labels(path, GRID)


@pytest.mark.parametrize("order", ["last", "first"])
def test_who_wins_where_classes_overlap_is_said(tmp_path, order):
    shapes = [square(0, 0, 9), square(5, 5, 9), square(9, 0, 3)]
    path = write(tmp_path / "p.gpkg", shapes, label=["oak", "elm", "elm"])
    told = " ".join(open_labels(path, GRID, order=order).notes)
    assert "1 pair of polygons of p.gpkg overlap" in told
    assert f"the {order} of the file counts" in told


def test_coordinates_of_another_crs_than_the_file_says(tmp_path):
    spare = write(tmp_path / "p.gpkg", [square(1, 1, 9)], LONLAT, label=["oak"])
    with pytest.raises(LabelsError, match=r"no degrees.*ogr2ogr -a_srs"):
        open_labels(spare, GRID)
    frame = geopandas.GeoSeries([square(1, 1, 9)], crs=UTM).to_crs(LONLAT)
    turned = shapely.transform(frame.to_numpy(), lambda points: points[:, ::-1])
    path = write(tmp_path / "q.gpkg", turned, LONLAT, label=["oak"])
    with pytest.raises(LabelsError, match=r"no label.*-swap_xy"):
        open_labels(path, GRID)


def test_lines_are_refused_with_the_way_on(tmp_path):
    line = shapely.LineString([at(1, 1), at(9, 9)])
    with pytest.raises(LabelsError, match="LineString; draw lines as areas"):
        open_labels(write(tmp_path / "p.gpkg", [line], label=["road"]), GRID)


# --- rasters --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filled", "dtype", "said"),
    [(255, "uint8", "--map 255=ignore"), (-1, "int16", "of -1 are unlabelled")],
)
def test_what_may_be_no_label_in_a_raster_is_said(
    tmp_path, values, filled, dtype, said
):
    raw = values.astype(dtype)
    raw[:5] = filled
    how = {"crs": UTM, "transform": GRID.transform}
    path = write_tif(tmp_path / "t.tif", raw, **how)
    assert said in " ".join(open_labels(path, GRID).notes)
    left = open_labels(
        path, GRID, mapping={str(filled): "ignore"} if filled > 0 else {}
    )
    assert (left.read(GRID.window)[:5] == UNLABELLED).all()
    assert not any(said in note for note in left.notes if filled > 0)


def test_a_raster_half_a_pixel_beside_says_so(tmp_path, values):
    beside = GRID.transform @ Affine.translation(0.5, 0)
    path = write_tif(tmp_path / "t.tif", values, crs=UTM, transform=beside)
    assert "0.5, 0 pixels (x, y) beside" in " ".join(open_labels(path, GRID).notes)


def test_colours_as_labels_are_numbers_by_the_advice(tmp_path, values):
    colours = np.stack([values * 100] * 3)
    how = {"crs": UTM, "transform": GRID.transform}
    path = write_tif(tmp_path / "t.tif", colours, photometric="RGB", **how)
    with pytest.raises(LabelsError, match=r"3 bands.*--map 16711680=CLASS"):
        open_labels(path, GRID)
    red, green, blue = colours.astype("uint32")
    made = write_tif(tmp_path / "n.tif", (red * 256 + green) * 256 + blue, **how)
    legend = {"0": "water", str(100 * 65793): "forest", str(200 * 65793): "town"}
    labels = open_labels(made, GRID, classes=CLASSES, mapping=legend)
    np.testing.assert_array_equal(labels.read(GRID.window), values)


def test_a_picture_of_labels_is_told_how_to_get_its_place(tmp_path, values):
    path = write_tif(tmp_path / "t.png", values, driver="PNG", crs=None,
                     transform=Affine(1, 0, 0, 0, 1, 0))  # fmt: skip
    said = r"does not overlap.*-a_ullr 400000 5300000 401200 5299000"
    with (
        pytest.warns(UserWarning, match="no coord"),
        pytest.raises(LabelsError, match=said),
    ):
        open_labels(path, GRID)


# --- geometries -----------------------------------------------------------------------


def test_spikes_and_collapsed_rings_label_nothing(tmp_path):
    x, y = at(20, 20)
    spike = shapely.Polygon(
        [(x, y), (x + 50, y), (x + 50, y - 25), (x + 900, y - 25), (x + 50, y - 25),
         (x + 50, y - 50), (x, y - 50)]
    )  # fmt: skip
    flat = shapely.Polygon([(x, y - 300), (x + 700, y - 300), (x, y - 300)])
    bow = shapely.Polygon([(x, y - 400), (x + 60, y - 460), (x + 60, y - 400),
                           (x, y - 460)])  # fmt: skip
    path = write(tmp_path / "p.gpkg", [spike, flat, bow], label=["a", "a", "b"])
    labels = open_labels(path, GRID)
    got = labels.read(GRID.window)
    columns, rows = np.meshgrid(np.arange(120) + 0.5, np.arange(100) + 0.5)
    centres = GRID.transform @ (columns.ravel(), rows.ravel())
    assert (got == 0).sum() == 25
    inside = shapely.contains_xy(shapely.make_valid(bow), *centres)
    assert abs(int((got == 1).sum()) - int(inside.sum())) <= 12  # centres on its edge
    assert not (got[:, 60:] != UNLABELLED).any()
    assert any("a 1 of 2" in note for note in labels.notes)


def test_polygons_without_a_pixel_centre_are_counted_and_their_class_named(tmp_path):
    rng = np.random.default_rng(1)
    places = rng.integers(0, 90, (30, 2))
    crowns = [shapely.Point(*at(c, r)).buffer(2) for c, r in places]
    path = write(
        tmp_path / "p.gpkg",
        [*crowns, square(50, 50, 9)],
        label=["tree"] * 30 + ["field"],
    )
    with pytest.warns(UserWarning, match="no polygon of class tree"):
        labels = open_labels(path, GRID)
    assert any("tree 30 of 30" in note for note in labels.notes)
    assert (labels.read(GRID.window) != UNLABELLED).sum() == 81


def test_edges_stay_where_they_were_drawn_in_another_crs(tmp_path):
    """A parallel is straight in degrees, and curved on a map of a whole country."""
    crs = CRS.from_epsg(3035).to_wkt()
    grid = Grid(
        crs=crs, transform=Affine(1000, 0, 3_000_000, 0, -1000, 3_600_000),
        height=1200, width=2500,
    )  # fmt: skip
    path = write(
        tmp_path / "p.gpkg", [shapely.box(0, 48, 25, 52)], crs=4326, label=["band"]
    )
    got = open_labels(path, grid).read(grid.window) != UNLABELLED
    back = Transformer.from_crs(crs, 4326, always_xy=True)
    columns, rows = np.meshgrid(np.arange(2500) + 0.5, np.arange(1200) + 0.5)
    lon, lat = back.transform(*(grid.transform @ (columns, rows)))
    want = (lon > 0) & (lon < 25) & (lat > 48) & (lat < 52)
    wrong = got != want
    assert wrong.sum() < 0.002 * want.sum()
    assert not wrong[1:-1][wrong[:-2] & wrong[2:]].any()  # nowhere two pixels deep


# --- what is opened -------------------------------------------------------------------

VRT = """<OGRVRTDataSource><OGRVRTLayer name="p"><SrcDataSource>{0}</SrcDataSource>
</OGRVRTLayer></OGRVRTDataSource>"""
STREAMED = """{{"type": "gdal_streamed_alg", "command_line": "gdal vector read {0}"}}"""


@pytest.mark.parametrize(
    "area",
    [shapely.box(-180, -90, 180, 90), shapely.box(-60, -80, 100, 80)],
    ids=["the Earth", "beyond what the CRS can show"],
)
def test_an_area_far_larger_than_the_raster_is_cut_around_it(tmp_path, area):
    south = shapely.Polygon([(-180, -90), (180, -90), (180, -60), (-180, -60)])
    columns = {"class": ["forest", "ice"]}
    file = write(tmp_path / "world.gpkg", [area, south], 4326, **columns)
    labels = open_labels(file, GRID)
    assert [c.name for c in labels.classes] == ["forest", "ice"]
    assert (labels.read(GRID.window) == labels.classes[0].value).all()
    shapes = Shapes(geometries=np.array([area, south], object), crs=LONLAT, columns={})
    around, ice = in_pixels(shapes, GRID, "world.gpkg")
    raster = shapely.box(0, 0, GRID.width, GRID.height)
    assert around.contains(raster)
    assert not ice.intersects(raster)


@pytest.mark.parametrize("text", [VRT, "\ufeff \n" + VRT, STREAMED])
@pytest.mark.parametrize("ending", [".gpkg", ".geojson", ".shp", ".vrt", ".json"])
def test_files_that_name_other_sources_are_refused(tmp_path, text, ending, values):
    secret = write(tmp_path / "secret.gpkg", [square(1, 1, 9)], label=["a"])
    path = tmp_path / f"labels{ending}"
    path.write_text(text.format(secret), encoding="utf-8")
    masks = masks_of(tmp_path / "m.zarr", values)
    with pytest.raises(LabelsError, match="virtual layer"):
        open_labels(path, GRID)
    with pytest.raises(LabelsError, match="virtual layer"):
        evaluate(masks, secret, within=path, mapping={"a": "town"})


@pytest.mark.parametrize(
    "name", ["PG:host=db password=x", "WFS:https://host/wfs", "<OGRVRTDataSource/>"]
)
def test_databases_and_services_are_not_opened(name):
    with pytest.raises(LabelsError, match="is not a file") as caught:
        open_labels(name, GRID)
    assert "password=x" not in str(caught.value)


def test_regions_in_parquet_are_labels_too(tmp_path):
    frame = geopandas.GeoDataFrame(
        {"class_name": ["a"]}, geometry=[square(2, 2, 5)], crs=UTM
    )
    frame.to_parquet(tmp_path / "r.parquet")
    got = open_labels(tmp_path / "r.parquet", GRID).read(GRID.window)
    assert (got != UNLABELLED).sum() == 25
