"""Several layers in one GeoPackage: what others drew stays, whatever is replaced."""

import sqlite3
from contextlib import closing
from pathlib import Path

import geopandas
import numpy as np
import pyogrio
import pytest
import shapely
from geopandas.testing import assert_geodataframe_equal
from tifs import write_tif

from geoseg import read_regions, vectorize
from geoseg.errors import RegionsError


@pytest.fixture(scope="module")
def raster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("raster") / "classes.tif"
    values = np.kron(np.arange(1, 5).reshape(2, 2), np.ones((20, 20))).astype("u1")
    return write_tif(path, values, nodata=0, crs="EPSG:32631")


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """A GeoPackage of GDAL's, in which somebody has drawn."""
    path = tmp_path / "drawn.gpkg"
    frame = geopandas.GeoDataFrame(
        {"note": ["here", "there"]},
        geometry=[shapely.box(0, 0, 1, 1), shapely.box(2, 2, 3, 3)],
        crs="EPSG:4326",
    )
    pyogrio.write_dataframe(frame, path, layer="by hand")
    pyogrio.write_dataframe(frame[:1], path, layer="old", append=True)
    return path


def layers(path: Path) -> dict[str, str]:
    return {name: kind for name, kind in pyogrio.list_layers(path) if kind}


def checked(path: Path) -> None:
    """A sound database in which each layer has a row of each table, and an index."""
    with closing(sqlite3.connect(path)) as db, db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        names = [
            r[0] for r in db.execute("SELECT table_name FROM gpkg_geometry_columns")
        ]
        for name in names:
            for table in ("gpkg_contents", "gpkg_ogr_contents"):
                found = db.execute(
                    f"SELECT count(*) FROM {table} WHERE table_name = ?", (name,)
                )
                assert found.fetchone() == (1,), (table, name)
            rows = db.execute(f'SELECT count(*) FROM "{name}"').fetchone()
            indexed = db.execute(f'SELECT count(*) FROM "rtree_{name}_geom"').fetchone()
            assert rows == indexed
        count = "SELECT count(*) FROM gpkg_metadata"
        assert db.execute(count).fetchone()[0] <= len(names)


def test_a_layer_is_added_to_what_others_drew(raster: Path, drawn: Path) -> None:
    before = pyogrio.read_dataframe(drawn, layer="by hand")
    vectorize(raster, drawn, layer="forest", classes=["class_2"])
    vectorize(raster, drawn, layer="all_of_it")
    assert list(layers(drawn)) == ["by hand", "old", "forest", "all_of_it"]
    after = pyogrio.read_dataframe(drawn, layer="by hand")
    assert_geodataframe_equal(before, after)
    checked(drawn)
    assert len(read_regions(drawn, layer="forest")) == 1
    assert len(read_regions(drawn, layer="all_of_it")) == 4
    assert read_regions(drawn, layer="forest").crs.to_epsg() == 32631
    alone = vectorize(raster, drawn.with_name("alone.gpkg"))
    one, other = read_regions(alone), read_regions(drawn, layer="all_of_it")
    assert_geodataframe_equal(one, other)
    with closing(sqlite3.connect(drawn)) as db, db:
        styles = db.execute("SELECT f_table_name FROM layer_styles").fetchall()
    assert styles == [("forest",), ("all_of_it",)]
    # Others go on drawing.
    pyogrio.write_dataframe(before, drawn, layer="by hand", append=True)
    assert pyogrio.read_info(drawn, layer="by hand")["features"] == 4


def test_only_the_layer_is_replaced(raster: Path, drawn: Path) -> None:
    vectorize(raster, drawn, layer="forest", classes=["class_2"])
    with pytest.raises(RegionsError, match="has a layer forest: --overwrite replaces"):
        vectorize(raster, drawn, layer="forest")
    vectorize(raster, drawn, layer="Forest", overwrite=True)
    assert list(layers(drawn)) == ["by hand", "old", "Forest"]
    assert len(read_regions(drawn, layer="Forest")) == 4
    vectorize(raster, drawn, layer="old", overwrite=True)
    assert len(read_regions(drawn, layer="old")) == 4
    checked(drawn)
    with closing(sqlite3.connect(drawn)) as db, db:
        styles = db.execute("SELECT f_table_name FROM layer_styles").fetchall()
        counted = db.execute(
            "SELECT feature_count FROM gpkg_ogr_contents "
            "WHERE table_name = 'layer_styles'"
        ).fetchone()
    assert sorted(styles) == [("Forest",), ("old",)]
    assert counted == (2,)
    # Without a layer's name the whole file is meant, as ever.
    vectorize(raster, drawn, overwrite=True)
    assert list(layers(drawn)) == ["regions"]


def test_what_is_changed_meanwhile_stays(
    raster: Path, drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import geoseg.vector.vectorize as module

    write = module._write

    def draw(*args: object) -> None:
        write(*args)
        with closing(sqlite3.connect(drawn)) as db, db:
            db.execute('CREATE TABLE "more" (a TEXT)')

    monkeypatch.setattr(module, "_write", draw)
    with pytest.raises(RegionsError, match="was changed by another program meanwhile"):
        vectorize(raster, drawn, layer="forest")
    assert list(layers(drawn))[:2] == ["by hand", "old"]
    assert "forest" not in layers(drawn)
    assert [p.name for p in drawn.parent.iterdir()] == ["drawn.gpkg"]


def test_what_is_no_layer_of_features_is_refused(raster: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.gpkg"
    text.write_text("no database at all, though it is called one")
    with pytest.raises(RegionsError, match="is not a GeoPackage"):
        vectorize(raster, text, layer="forest")
    table = tmp_path / "table.gpkg"
    pyogrio.write_dataframe(
        geopandas.GeoDataFrame({"a": [1]}, geometry=[shapely.Point(0, 0)], crs=4326),
        table, layer="points",
    )  # fmt: skip
    with closing(sqlite3.connect(table)) as db, db:
        db.execute("CREATE TABLE pictures (id INTEGER)")
        db.execute(
            "INSERT INTO gpkg_contents (table_name, data_type, identifier) "
            "VALUES ('pictures', 'tiles', 'pictures')"
        )
    with pytest.raises(RegionsError, match="holds tiles and not features"):
        vectorize(raster, table, layer="pictures", overwrite=True)
    assert table.exists()
