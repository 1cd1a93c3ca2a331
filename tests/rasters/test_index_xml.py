"""The XML of VRTs and tile indexes: what GDAL would take for a file's name, or code."""

import sqlite3
from contextlib import closing

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import shapely
from affine import Affine
from rasterio.vrt import WarpedVRT
from tifs import write_tif

from geoseg.cli import run
from geoseg.errors import RasterError
from geoseg.rasters.open import open_source

PLACE = {"crs": "EPSG:32633", "transform": Affine(10, 0, 5e5, 0, -10, 5e6)}
BOX = shapely.box(5e5, 5e6 - 80, 5e5 + 80, 5e6)
OWN = "<SourceFilename relativeToVRT='1'>own.tif</SourceFilename>"


@pytest.fixture
def secret(tmp_path):
    """Return a raster that nobody named; the working folder is another one."""
    (tmp_path / "mine").mkdir()
    write_tif(tmp_path / "mine/own.tif", np.ones((1, 8, 8), np.uint8), **PLACE)
    path = tmp_path / "secret.tif"
    return write_tif(path, np.full((1, 8, 8), 7, np.uint8), **PLACE)


def source(inside, at=""):
    return f"<SimpleSource{at}>{inside}<SourceBand>1</SourceBand></SimpleSource>"


def vrt(folder, *parts, at="", after="", srs="EPSG:32633"):
    path = folder / "a.vrt"
    path.write_text(
        f'<VRTDataset rasterXSize="8" rasterYSize="8"><SRS>{srs}</SRS>'
        "<GeoTransform>500000,10,0,5000000,0,-10</GeoTransform>"
        f'<VRTRasterBand dataType="Byte" band="1"{at}>{"".join(parts)}'
        f"</VRTRasterBand>{after}</VRTDataset>"
    )
    return path


@pytest.mark.parametrize("part", [
    "<SimpleSource><sourcefilename>{secret}</sourcefilename></SimpleSource>",
    "<SimpleSource SourceFilename='{secret}'/>",
    "<SimpleSource sourceFilename='/vsicurl/http://127.0.0.1:9/x.tif'/>",
    "<SimpleSource><SourceFilename><x/>{secret}</SourceFilename></SimpleSource>",
    "<SourceFilename>{secret}<!-- -->/../mine/own.tif</SourceFilename>",
    "<Overview><SourceFilename relativeToVRT='1x'>own.tif</SourceFilename></Overview>",
    "<SourceFilename relativeToVRT='1' relativetoVRT='0'>own.tif</SourceFilename>",
    "<Overview SourceFilename='{secret}'/>",
    "<simpleSource/>",
    "<PixelFunctionLanguage>C<!-- -->Python</PixelFunctionLanguage>",
    "<subClass>VRTRawRasterBand</subClass>",
])  # fmt: skip
def test_names_that_only_gdal_would_see_are_refused(secret, part):
    folder = secret.parent / "mine"
    path = vrt(folder, part.format(secret=secret), source(OWN))
    with pytest.raises(RasterError, match="is not known"):
        open_source(path)


@pytest.mark.parametrize("spelled", ["subclass", "SubClass", "subClass"])
def test_raw_bytes_are_not_read_however_that_is_spelled(secret, spelled):
    raw = "<SourceFilename relativeToVRT='1'>own.tif</SourceFilename>"
    path = vrt(secret.parent / "mine", raw, at=f" {spelled}='VRTRawRasterBand'")
    with pytest.raises(RasterError, match="can read any file"):
        open_source(path)


def test_names_in_a_namespace_are_refused(secret):
    path = vrt(
        secret.parent / "mine", source(f"<SourceFilename>{secret}</SourceFilename>")
    )
    path.write_text(path.read_text().replace("<VRTDataset", "<VRTDataset xmlns='a:b'"))
    with pytest.raises(RasterError, match="it is no VRTDataset"):
        open_source(path)


def test_another_encoding_than_gdals_is_refused(secret):
    path = vrt(secret.parent / "mine", source(OWN))
    path.write_bytes(path.read_text().encode("utf-16"))
    with pytest.raises(RasterError, match="no XML such as GDAL writes"):
        open_source(path)


def test_a_mask_names_nothing_outside(secret):
    inner = source("", f" SourceFilename='{secret}'")
    mask = (
        f"<MaskBand><VRTRasterBand dataType='Byte'>{inner}</VRTRasterBand></MaskBand>"
    )
    with pytest.raises(RasterError, match="SimpleSource SourceFilename"):
        open_source(vrt(secret.parent / "mine", source(OWN), after=mask))


RPC = "<RPCTransformer><DEMPath>{secret}</DEMPath></RPCTransformer>"
GEOLOCATION = "<GeoLocTransformer><Metadata/></GeoLocTransformer>"
SHIFT = "<Option key='COORDINATE_OPERATION'>+proj=hgridshift +grids={secret}</Option>"
HEIGHTS = "<VerticalShiftGrids><Grids>{secret}</Grids></VerticalShiftGrids>"


@pytest.mark.parametrize(("transformer", "why"), [
    (RPC, "is not below"), (GEOLOCATION, "GeoLocTransformer"), (SHIFT, "names a grid"),
    (HEIGHTS, "is not known"),
])  # fmt: skip
def test_what_a_warped_vrt_names_is_looked_at(secret, transformer, why):
    inner = f"<Transformer>{transformer.format(secret=secret)}</Transformer>"
    warped = f"<GDALWarpOptions>{inner}</GDALWarpOptions>"
    path = vrt(secret.parent / "mine", after=warped)
    with pytest.raises(RasterError, match=why):
        open_source(path)


def test_vrts_as_gdal_writes_them_are_opened(secret):
    own = secret.parent / "mine/own.tif"
    rasterio.shutil.copy(own, own.with_name("copied.vrt"), driver="VRT")
    with (
        rasterio.open(own) as file,
        WarpedVRT(file, crs="EPSG:4326", add_alpha=True, tolerance=0) as warped,
    ):
        rasterio.shutil.copy(warped, own.with_name("warped.vrt"), driver="VRT")
    for name in ("copied.vrt", "warped.vrt"):
        found = open_source(own.with_name(name))
        pixels, valid = found.read(found.grid.window)
        assert (pixels[:, valid] == 1).all()


# --- coordinate reference systems ---


@pytest.mark.parametrize("key", ["nadgrids", "geoidgrids", "init"])
def test_a_crs_of_a_vrt_that_names_a_file_is_refused(secret, key):
    srs = f"+proj=longlat +ellps=bessel +{key}={secret}"
    with pytest.raises(RasterError, match="names a grid by its path"):
        open_source(vrt(secret.parent / "mine", source(OWN), srs=srs))


def test_a_crs_of_any_raster_that_names_a_file_is_refused(tmp_path):
    (tmp_path / "a.asc").write_text(
        "ncols 2\nnrows 1\nxllcorner 9\nyllcorner 9\ncellsize 1\n1 2\n"
    )
    (tmp_path / "a.prj").write_text(
        'GEOGCS["x",DATUM["d",SPHEROID["s",6378137,298]],PRIMEM["Greenwich",0],UNIT['
        f'"degree",0.0174],EXTENSION["PROJ4","+proj=longlat +nadgrids={tmp_path}/g"]]'
    )
    with pytest.raises(RasterError, match=r"a\.asc: .* names a file by its path"):
        open_source(tmp_path / "a.asc")


def test_a_crs_that_proj_cannot_make_is_one_line(tmp_path, capfd):
    path = write_tif(tmp_path / "a.tif", np.ones((1, 8, 8), np.uint8))
    (tmp_path / "a.tif.aux.xml").write_text(
        f"<PAMDataset><SRS>+init={tmp_path}/none:x</SRS></PAMDataset>"
    )
    assert run(["info", str(path)]) == 2
    assert "Traceback" not in capfd.readouterr().err


# --- tile indexes ---


def index(path, more=None, layer="i", **columns):
    import geopandas

    frame = geopandas.GeoDataFrame(columns, geometry=[BOX], crs=PLACE["crs"])
    frame.to_file(path, layer=layer, driver="GPKG", layer_metadata=more, mode="a")
    return path


@pytest.mark.parametrize("more", [
    {"LOCATION_FIELD": "other"},
    {"OVERVIEW_0_DATASET": "secret.tif"},
])  # fmt: skip
def test_metadata_of_a_tile_index_name_nothing_else(secret, more):
    named = {"location": ["own.tif"], "other": [str(secret)]}
    path = index(secret.parent / "mine/a.gti.gpkg", more, **named)
    with pytest.raises(RasterError, match="gdaltindex"):
        open_source(path)


@pytest.mark.parametrize("text", [
    "<locationfield>other</locationfield>",
    "<Overview><Dataset>{secret}</Dataset></Overview>",
    "<SQL>SELECT other AS location</SQL>",
    "<IndexLayer>i<!-- -->j</IndexLayer>",
])  # fmt: skip
def test_a_tile_index_in_xml_names_nothing_else(secret, text):
    folder = secret.parent / "mine"
    table = index(folder / "i.gpkg", location=["own.tif"], other=[str(secret)])
    gti(folder / "a.gti", table, text.format(secret=secret))
    with pytest.raises(RasterError, match="is not known"):
        open_source(folder / "a.gti")


def test_the_layer_that_gdal_reads_is_looked_at(secret):
    folder = secret.parent / "mine"
    index(folder / "i.gpkg", location=["own.tif"])
    table = index(folder / "i.gpkg", layer="j", location=[str(secret)])
    layer = "<IndexLayer>{}</IndexLayer>"
    for name, why in (("j", "is not below"), ("k", "IndexLayer")):
        with pytest.raises(RasterError, match=why):
            open_source(gti(folder / "a.gti", table, layer.format(name)))
    with pytest.raises(RasterError, match="has layers i, j"):
        open_source(gti(folder / "a.gti", table))
    found = open_source(gti(folder / "a.gti", table, layer.format("i")))
    assert (found.read(found.grid.window)[0] == 1).all()


def test_a_tile_index_is_named_by_its_whole_path(secret):
    table = index(secret.parent / "mine/i.gpkg", location=["own.tif"])
    with pytest.raises(RasterError, match="write its whole path"):
        open_source(gti(table.with_name("a.gti"), table.name))


def test_a_tile_index_that_is_a_virtual_layer_is_refused(secret):
    table = secret.parent / "mine/i.shp"
    table.write_text("<OGRVRTDataSource/>")
    with pytest.raises(RasterError, match="virtual layer"):
        open_source(gti(table.with_name("a.gti"), table))


DOMAIN = "<GDALMultiDomainMetadata><Metadata {}/></GDALMultiDomainMetadata>"


@pytest.mark.parametrize("how", ["view", 'domain="xml:GTI"', "Domain='x'"])
def test_a_tile_index_that_is_computed_is_refused(secret, how):
    path = index(secret.parent / "mine/a.gti.gpkg", {"a": "b"}, location=["own.tif"])
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA writable_schema=ON")
        triggers = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        for (name,) in file.execute(triggers).fetchall():
            file.execute(f'DROP TRIGGER "{name}"')
        if how == "view":
            file.execute("CREATE TABLE t AS SELECT * FROM i")
            file.execute("DROP TABLE i")
            file.execute(
                "CREATE VIEW i AS SELECT fid, geom, CASE sqlite_version() WHEN '3' "
                f"THEN '{secret}' ELSE location END AS location FROM t"
            )
        else:
            file.execute("UPDATE gpkg_metadata SET metadata = ?", [DOMAIN.format(how)])
        file.commit()
    layer = "<IndexLayer>i</IndexLayer>"
    for each in (path, gti(path.with_name("b.gti"), path, layer)):
        with pytest.raises(RasterError, match=r"build the index|has layers"):
            open_source(each)
    with pytest.raises(RasterError, match="build the index"):
        open_source(each)


def gti(path, table, more=""):
    more = f"<IndexDataset>{table}</IndexDataset>{more}"
    path.write_text(f"<GDALTileIndexDataset>{more}</GDALTileIndexDataset>")
    return path
