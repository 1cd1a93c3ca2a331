"""Files of features: known formats from where the user said, and nothing else."""

import gzip
import json
import sqlite3
import tarfile
import zipfile
from contextlib import closing

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from affine import Affine
from tifs import write_tif

from geoseg.core.grid import Grid
from geoseg.errors import RasterError, RegionsError
from geoseg.rasters.geojson_crs import crs_members
from geoseg.rasters.open import open_source
from geoseg.rasters.shapes import Shapes, in_pixels
from geoseg.rasters.vectors import open_vectors
from geoseg.viz.regions import open_regions

VRT = """<OGRVRTDataSource><OGRVRTLayer name="a"><SrcDataSource>{0}</SrcDataSource>
</OGRVRTLayer></OGRVRTDataSource>"""


@pytest.fixture
def square(tmp_path):
    path = tmp_path / "square.gpkg"
    shape = [shapely.box(20, -60, 60, -20)]
    geopandas.GeoDataFrame(geometry=shape, crs=32633).to_file(path)
    return path


@pytest.mark.parametrize("ending", [".gpkg", ".geojson", ".fgb", ".shp"])
def test_an_area_that_names_another_file_is_refused(tmp_path, square, ending):
    raster = tmp_path / "r.tif"
    write_tif(
        raster, np.ones((1, 9, 9), np.uint8), transform=Affine(10, 0, 0, 0, -10, 0)
    )
    assert open_source(raster, aoi=square).grid.width == 4
    virtual = tmp_path / f"area{ending}"
    virtual.write_text(VRT.format(square), encoding="utf-8")
    with pytest.raises(RasterError, match="virtual layer"):
        open_source(raster, aoi=virtual)


@pytest.mark.parametrize(
    ("ending", "driver"),
    [(".gpkg", "GPKG"), (".geojson", "GeoJSON"), (".fgb", "FlatGeobuf"),
     (".shp", "ESRI Shapefile"), (".parquet", None)],
)  # fmt: skip
def test_the_usual_formats_are_opened(tmp_path, ending, driver):
    frame = geopandas.GeoDataFrame(
        {"n": [1, 2]}, geometry=[shapely.box(0, 0, 1, 1)] * 2, crs=4326
    )
    path = tmp_path / f"f{ending}"
    if driver is None:
        frame.to_parquet(path)
    else:
        frame.to_file(path, driver=driver)
    opened = open_vectors(path)
    assert opened is not None
    assert len(opened.read(opened.only_layer())) == 2


@pytest.mark.parametrize("joined", [False, True], ids=["itself", "in a view"])
def test_a_table_of_a_geopackage_does_not_hold_another_file(tmp_path, square, joined):
    other = tmp_path / "other.csv"
    other.write_text("n,kept\n7,hidden\n", encoding="utf-8")
    table = f"CREATE VIRTUAL TABLE t USING VirtualText('{other}', 'UTF-8')"
    base = sqlite3.connect(square)
    base.execute("PRAGMA writable_schema = 1")
    base.execute("INSERT INTO sqlite_master VALUES ('table', 't', 't', 0, ?)", (table,))
    if joined:
        base.execute("CREATE VIEW v AS SELECT s.fid, s.geom, t.* FROM square s, t")
    for of in ("gpkg_contents", "gpkg_geometry_columns"):
        base.execute(f"UPDATE {of} SET table_name = ?", ("v" if joined else "t",))
    base.commit()
    base.close()
    opened = open_vectors(square)
    columns = [] if opened is None else opened.read(opened.only_layer()).columns
    assert not any("kept" in column for column in columns)


def test_formats_that_are_not_listed_are_named(tmp_path):
    """GML may fetch its schema: it is not read, whether OGR could or not."""
    path = tmp_path / "f.gml"
    text = '<gml:FeatureCollection xmlns:gml="http://www.opengis.net/gml"/>'
    path.write_text(text, encoding="utf-8")
    try:
        assert open_vectors(path) is None
    except RasterError as error:
        assert "not opened" in str(error)  # noqa: PT017 - where OGR was loaded before


def test_shapes_beyond_the_antimeridian_lie_on_a_raster_that_crosses_it():
    at = Affine(0.01, 0, 179.68, 0, -0.01, 10)
    grid = Grid(height=64, width=64, transform=at, crs="EPSG:4326")
    boxes = np.array([shapely.box(179.7, 9.5, 179.9, 9.8)] * 2, object)
    boxes[1] = shapely.box(-179.95, 9.5, -179.75, 9.8)
    shapes = Shapes(geometries=boxes, crs="EPSG:4326", columns={})
    found = shapely.bounds(in_pixels(shapes, grid, "a.gpkg"))
    np.testing.assert_allclose(found[:, [0, 2]], [[2, 22], [37, 57]], atol=1e-6)


@pytest.mark.parametrize("kind", ["link", "URL"])
@pytest.mark.parametrize("key", ["crs", r"\u0063rs"])
def test_a_crs_that_is_a_link_is_not_asked_for(tmp_path, kind, key):
    path = tmp_path / "labels.geojson"
    crs = f'"{key}": {{"properties": {{"href": "http://[::1]:9/c"}}, "type": "{kind}"}}'
    text = f'{{"type": "FeatureCollection", "features": [], {crs}}}'
    path.write_text(text)
    with pytest.raises(RasterError, match="links to its CRS"):
        open_vectors(path)
    path.write_text(text.replace(kind, "name"))
    open_vectors(path)


LINKED = (
    '{"type": "Feature", "crs": {"type": "link", "properties": {"href": '
    '"http://[::1]:9/c"}}, "properties": {}, '
    '"geometry": {"type": "Point", "coordinates": [1, 2]}}'
)


@pytest.mark.parametrize(
    ("plain", "spelled"),
    [
        ('"crs":', r'"\u0043rs":'),
        ('"crs":', '"crs"/* of the file */:'),
        ('"crs":', '"crs"// of the file\n:'),
        ('"crs":', '"crs":/**/'),
        ('"crs":', "'crs':"),
        ('"crs":', r'"crs\u0000x":'),
        ('"crs":', f'"crs"{" " * 3_000_000}:'),
        ('"type": "link"', r'"type": "name", "type\u0000": "link"'),
        ('"type": "link"', f'"x": "{"x" * 70_000}", "type": "link"'),
        ('{"type": "Feature"', f'{{"x": "{"x" * 2_000_000}", "type": "Feature"'),
        ('{"type": "Feature"', '/* a */{"type": "Feature"'),
    ],
)
def test_a_crs_that_is_a_link_is_found_however_it_is_spelled(tmp_path, plain, spelled):
    """GDAL's readers of JSON take comments, single quotes, and names up to a NUL."""
    path = tmp_path / "labels.geojson"
    path.write_text(LINKED.replace(plain, spelled))
    with pytest.raises(RasterError, match="links to its CRS"):
        open_vectors(path)


@pytest.mark.parametrize(
    "name", ["{}/a.zip", "zip://{}/a.zip!b.geojson", "/vsizip/{}/a.zip/b.geojson",
             "/vsigzip/{}/a.geojson.gz", "/vsitar/{}/a.tar/b.geojson",
             "file://{}/b.geojson", "/vsizip//vsigzip/{}/a.geojson.gz"],
)  # fmt: skip
@pytest.mark.parametrize("text", [LINKED, VRT.format("/etc/passwd")])
def test_what_is_in_an_archive_is_looked_into(tmp_path, name, text):
    (tmp_path / "b.geojson").write_text(text)
    (tmp_path / "a.geojson.gz").write_bytes(gzip.compress(text.encode()))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
        zipped.write(tmp_path / "b.geojson", "b.geojson")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "b.geojson", "b.geojson")
    with pytest.raises(RasterError, match=r"links to its CRS|virtual layer|in another"):
        open_vectors(name.format(tmp_path))


def test_a_file_that_shrinks_while_it_is_looked_into_kills_nobody(tmp_path):
    path = tmp_path / "a.geojson"
    path.write_bytes(b"[" + b" " * 5_000_000 + b"]")
    with path.open("rb") as file:
        head = file.read(9)
        path.write_bytes(b"")
        assert list(crs_members(file, head)) == []


# --- coordinate reference systems that name files, and files that name tables ---

SHIFTED = (
    'GEOGCS["x",DATUM["d",SPHEROID["s",6378137,298]],PRIMEM["Greenwich",0],UNIT['
    '"degree",0.0174532925199433],EXTENSION["PROJ4","+proj=longlat +ellps=bessel '
    '+nadgrids={0}"]]'
)


@pytest.mark.filterwarnings("ignore")  # of OGR, about those that it cannot parse
@pytest.mark.parametrize("ending", [".shp", ".gpkg", ".geojson", ".parquet"])
@pytest.mark.parametrize("crs", [SHIFTED, "+proj=longlat +nadgrids={0}", "+init={0}:x"])
def test_a_crs_that_names_a_file_is_refused(tmp_path, ending, crs):
    """One that is written so that GDAL makes nothing of it is none."""
    path, crs = tmp_path / f"a{ending}", crs.format(tmp_path / "grid.gsb")
    shape = geopandas.GeoDataFrame({"n": [1]}, geometry=[shapely.Point(9, 9)], crs=4326)
    if ending == ".parquet":
        shape.to_parquet(path)
        change_geo(path, crs)
    else:
        shape.to_file(path)
    if ending == ".shp":
        (tmp_path / "a.prj").write_text(crs)
    elif ending == ".geojson":
        named = {"type": "name", "properties": {"name": crs}}
        path.write_text(json.dumps({**json.loads(path.read_text()), "crs": named}))
    elif ending == ".gpkg":
        with closing(sqlite3.connect(path)) as base:
            base.execute(
                "UPDATE gpkg_spatial_ref_sys SET organization = 'x', definition = ?",
                (crs,),
            )
            base.commit()
    try:
        opened = open_vectors(path)
    except RasterError as error:
        assert "names a file by its path" in str(error)  # noqa: PT017
    else:
        assert crs != SHIFTED.format(tmp_path / "grid.gsb")
        assert opened.read(opened.only_layer()).crs is None


def change_geo(path, crs):
    table = pq.read_table(path)
    geo = json.loads(table.schema.metadata[b"geo"])
    geo["columns"]["geometry"]["crs"] = crs
    pq.write_table(table.replace_schema_metadata({b"geo": json.dumps(geo)}), path)


@pytest.mark.parametrize("geo", [None, b"{", b"[]", b'{"columns": {}}', "crs"])
def test_geoparquet_that_is_none_is_one_line(tmp_path, geo):
    path = tmp_path / "a.parquet"
    shape = geopandas.GeoDataFrame(geometry=[shapely.Point(9, 9)], crs=4326)
    shape.to_parquet(path)
    if geo is None:
        path.write_bytes(path.read_bytes()[:-20])
    elif geo == "crs":
        change_geo(path, {"type": "x"})
    else:
        table = pq.read_table(path).replace_schema_metadata({b"geo": geo})
        pq.write_table(table, path)
    for reader, error in ((open_vectors, RasterError), (opened_regions, RegionsError)):
        with pytest.raises(error, match="no GeoParquet") as refused:
            reader(path)
        assert "\n" not in str(refused.value)


def opened_regions(path):
    grid = Grid(crs=None, transform=Affine(1, 0, 0, 0, -1, 0), height=9, width=9)
    return open_regions(path, grid)


def test_shapes_of_geoparquet_that_are_none_are_one_line(tmp_path):
    path = tmp_path / "a.parquet"
    shape = geopandas.GeoDataFrame(geometry=[shapely.Point(9, 9)], crs=4326)
    shape.to_parquet(path)
    table = pq.read_table(path)
    spoiled = pa.table({"geometry": [b"no shape"]})
    pq.write_table(spoiled.replace_schema_metadata(table.schema.metadata), path)
    opened = open_vectors(path)
    with pytest.raises(RasterError, match="cannot read the features"):
        opened.read(opened.only_layer())


@pytest.mark.parametrize("text", [
    '!table\n!version 100\nopen table "../b.tab" Hide\nCreate View v As\nSelect a\n',
    '!table\n!version 300\nbegin_metadata\n"\\IsSeamless" = "TRUE"\nend_metadata\n',
])  # fmt: skip
def test_a_table_of_mapinfo_that_names_others_is_refused(tmp_path, text):
    (tmp_path / "a.tab").write_text(text)
    with pytest.raises(RasterError, match="names other sources"):
        open_vectors(tmp_path / "a.tab")
