"""Files of features: known formats from where the user said, and nothing else."""

import sqlite3

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from tifs import write_tif

from geoseg.core.grid import Grid
from geoseg.errors import RasterError
from geoseg.rasters.open import open_source
from geoseg.rasters.shapes import Shapes, in_pixels
from geoseg.rasters.vectors import open_vectors

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
