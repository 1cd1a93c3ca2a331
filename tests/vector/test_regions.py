"""Files of regions: what is in them, who reads them, none is half written."""

from __future__ import annotations

import errno
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import geopandas
import numpy as np
import pyarrow.parquet as pq
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from tifs import write_tif

from geoseg import read_regions, vectorize
from geoseg.errors import GeosegError, RegionsError, UnwrittenError
from geoseg.vector.formats.geopackage import GeoPackage, _RTree


@pytest.fixture(scope="module")
def raster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many small regions of four classes in one strip of nodata."""
    rng = np.random.default_rng(5)
    values = np.kron(rng.integers(1, 5, (90, 70)), np.ones((2, 2))).astype(np.uint8)
    values[:, 60:64] = 0
    path = tmp_path_factory.mktemp("raster") / "classes.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=180, width=140, count=1, dtype="uint8",
        nodata=0, crs="EPSG:32631", transform=Affine(10, 0, 5e5, 0, -10, 5e6),
    ) as file:  # fmt: skip
        file.write(values, 1)
        file.write_colormap(1, {1: (0, 0, 255), 2: (0, 200, 0), 3: (9, 9, 9)})
    return path


@pytest.fixture(scope="module")
def made(raster: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("made")
    return {
        ending: vectorize(raster, folder / f"r.{ending}", simplify=8, block=64)
        for ending in ("gpkg", "parquet", "fgb")
    }


def by_content(frame: geopandas.GeoDataFrame) -> Any:
    frame = frame.assign(key=frame.geometry.to_wkb(hex=True))
    columns = ["class_id", "class_name", "area_m2", "perimeter_m", "pixels", "key"]
    return frame[columns].sort_values("key").reset_index(drop=True)


def test_three_formats_hold_the_same(made: dict[str, Path]) -> None:
    frames = [read_regions(path) for path in made.values()]
    for frame in frames:
        assert frame.crs == "EPSG:32631"
        assert by_content(frame).equals(by_content(frames[0]))
    assert len(frames[0]) > 1000


def test_geojson_is_as_the_rfc_has_it(made: dict[str, Path], raster: Path) -> None:
    """Longitude and latitude, rings counterclockwise; neighbours share corners."""
    path = vectorize(raster, made["gpkg"].with_name("r.geojson"), simplify=8, block=64)
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["type"] == "FeatureCollection"
    assert "crs" not in document
    frame, other = geopandas.read_file(path), read_regions(made["gpkg"])
    assert frame.crs.to_epsg() == 4326
    assert frame.is_valid.all()
    assert all(p.exterior.is_ccw for p in frame.geometry)
    assert not any(hole.is_ccw for p in frame.geometry for hole in p.interiors)
    facts = ["class_id", "class_name", "area_m2", "pixels"]
    keys = ["area_m2", "perimeter_m", "class_id"]
    found = frame.sort_values(keys)[facts].reset_index(drop=True)
    same = other.sort_values(keys)[facts].reset_index(drop=True)
    assert (found == same).all().all()
    back = frame.to_crs(other.crs)
    differ = back.union_all().symmetric_difference(other.union_all()).area
    assert differ < 1e-3 * other.union_all().length, "a millimetre along the outline"
    west, _, _, north = frame.total_bounds
    assert (west, north) == pytest.approx((3, 45.15), abs=0.1)
    assert shapely.coverage_is_valid(frame.geometry.to_numpy()), "no gaps, no overlaps"


def test_geojson_of_what_it_cannot_hold_is_refused(tmp_path: Path) -> None:
    write_tif(
        tmp_path / "m.tif",
        np.ones((8, 8), np.uint8),
        crs="EPSG:3832",
        transform=Affine(1000, 0, 3.336e6, 0, -1000, 0),
    )
    with pytest.raises(RegionsError, match="crosses the 180th meridian"):
        vectorize(tmp_path / "m.tif", tmp_path / "r.geojson")
    assert not (tmp_path / "r.geojson").exists()


def test_shapefiles_hold_the_same(
    made: dict[str, Path], raster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("geoseg.vector.formats.shapefile._MANY", 1000)
    path = vectorize(raster, tmp_path / "r.shp", simplify=8, block=64, area_unit="ha")
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {"r.shp", "r.dbf", "r.shx", "r.prj", "r.cpg"}
    frame, other = geopandas.read_file(path), read_regions(made["gpkg"])
    assert frame.crs.to_epsg() == other.crs.to_epsg()
    assert list(frame.columns) == [
        "class_id", "class_name", "area_m2", "perim_m", "pixels", "area_ha", "geometry",
    ]  # fmt: skip
    assert len(frame) == len(other)
    found = frame.assign(key=frame.geometry.normalize().to_wkb()).set_index("key")
    same = other.assign(key=other.geometry.normalize().to_wkb()).set_index("key")
    assert found["class_name"].sort_index().equals(same["class_name"].sort_index())
    assert np.allclose(found["area_m2"].sort_index(), same["area_m2"].sort_index())
    with pytest.raises(RegionsError, match="exists"):
        vectorize(raster, path, block=64)
    vectorize(raster, path, block=64, classes=[1], overwrite=True)
    assert {*geopandas.read_file(path).class_id} == {1}
    assert {p.name for p in tmp_path.iterdir()} == names


def test_areas_in_other_units(raster: Path, tmp_path: Path) -> None:
    for unit, factor in (("ha", 1e4), ("km2", 1e6)):
        path = vectorize(raster, tmp_path / f"{unit}.gpkg", area_unit=unit, block=64)
        frame = read_regions(path)
        assert np.allclose(frame[f"area_{unit}"] * factor, frame["area_m2"])
        assert frame["area_m2"].min() > 300


def test_regions_are_read_without_pyarrow(made: dict[str, Path]) -> None:
    """It is an extra, which `pip install '.[models,plot]'` does not bring."""
    code = (
        "import sys\n"
        "sys.modules['pyarrow'] = None\n"
        "import importlib.util as util\n"
        "real = util.find_spec\n"
        "util.find_spec = lambda n, *a: None if n == 'pyarrow' else real(n, *a)\n"
        "import geoseg\n"
        "print(len(geoseg.read_regions(sys.argv[1])))"
    )
    line = [sys.executable, "-c", code, str(made["gpkg"])]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(read_regions(made["gpkg"]))


def test_fields_are_typed(made: dict[str, Path]) -> None:
    info = pyogrio.read_info(made["gpkg"], layer="regions")
    found = dict(zip(info["fields"], info["dtypes"], strict=True))
    assert found == {
        "class_id": "int64", "class_name": "object", "area_m2": "float64",
        "perimeter_m": "float64", "pixels": "int64",
    }  # fmt: skip
    assert info["geometry_type"] == "Polygon"
    assert info["features"] == len(read_regions(made["gpkg"]))
    assert info["capabilities"]["fast_feature_count"]
    assert info["capabilities"]["fast_spatial_filter"]


def test_the_database_is_a_sound_geopackage(made: dict[str, Path]) -> None:
    with closing(sqlite3.connect(made["gpkg"])) as db, db:
        assert db.execute("PRAGMA application_id").fetchone() == (0x47504B47,)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        assert db.execute("SELECT rtreecheck('rtree_regions_geom')").fetchone() == (
            "ok",
        )
        box = db.execute(
            "SELECT min_x, min_y, max_x, max_y FROM gpkg_contents"
        ).fetchone()
        assert box == (5e5, 5e6 - 1800, 5e5 + 1400, 5e6)
        (text,) = db.execute("SELECT metadata FROM gpkg_metadata").fetchone()
    metadata = json.loads(text)
    assert metadata["software"] == "geoseg"
    assert metadata["masks"] == "classes.tif"
    assert metadata["settings"]["simplify_m"] == 8


def test_the_default_style_has_the_class_colours(made: dict[str, Path]) -> None:
    with closing(sqlite3.connect(made["gpkg"])) as db, db:
        layer, column, text, sld, default = db.execute(
            "SELECT f_table_name, f_geometry_column, styleQML, styleSLD, useAsDefault "
            "FROM layer_styles"
        ).fetchone()
    assert (layer, column, default) == ("regions", "geom", 1)
    root = ET.fromstring(text)
    names = [c.get("label") for c in root.iterfind(".//category")]
    assert names == ["class_1", "class_2", "class_3", "class_4"]
    colors = [
        option.get("value")
        for option in root.iterfind(".//symbol/layer/Option/Option[@name='color']")
    ]
    assert colors[:3] == ["0,0,255,255", "0,200,0,255", "9,9,9,255"]
    assert ET.fromstring(sld).tag.endswith("StyledLayerDescriptor")


def test_the_spatial_index_finds_what_is_there(made: dict[str, Path]) -> None:
    everything = read_regions(made["gpkg"])
    rng = np.random.default_rng(1)
    for _ in range(20):
        x, y = 5e5 + rng.uniform(0, 1400), 5e6 - rng.uniform(0, 1800)
        side = rng.uniform(1, 300)
        box = (x, y, x + side, y + side)
        found = pyogrio.read_dataframe(made["gpkg"], layer="regions", bbox=box)
        expected = everything[everything.intersects(shapely.box(*box))]
        assert sorted(found.geometry.to_wkb()) == sorted(expected.geometry.to_wkb())


@pytest.mark.parametrize("count", [0, 1, 51, 52, 2602, 9000])
def test_packed_index_of_any_size(count: int) -> None:
    rng = np.random.default_rng(count)
    low = rng.uniform(-1e6, 1e6, (count, 2))
    box = np.concatenate([low, low + rng.uniform(0, 100, (count, 2))], axis=1)
    with closing(sqlite3.connect(":memory:")) as db, db:
        tree = _RTree(db, "r")
        for first in range(0, count, 700):
            tree.add(first + 1, box[first : first + 700])
        tree.finish()
        assert db.execute("SELECT rtreecheck('r')").fetchone() == ("ok",)
        found = db.execute(
            "SELECT id FROM r WHERE maxx >= -1e5 AND minx <= 1e5 AND maxy >= 0"
        ).fetchall()
        inside = (box[:, 2] >= -1e5) & (box[:, 0] <= 1e5) & (box[:, 3] >= 0)
        assert {i for (i,) in found} >= set((np.flatnonzero(inside) + 1).tolist())
        db.execute("INSERT INTO r VALUES (100000, 0, 1, 0, 1)")  # others may go on
        assert db.execute("SELECT rtreecheck('r')").fetchone() == ("ok",)


def test_others_can_edit_the_geopackage(raster: Path, tmp_path: Path) -> None:
    path = vectorize(raster, tmp_path / "edited.gpkg")
    frame = read_regions(path)
    pyogrio.write_dataframe(frame.iloc[:3], path, layer="regions", append=True)
    assert pyogrio.read_info(path, layer="regions")["features"] == len(frame) + 3
    with closing(sqlite3.connect(path)) as db, db:
        assert db.execute("SELECT rtreecheck('rtree_regions_geom')").fetchone() == (
            "ok",
        )


def test_geoparquet_says_where_and_is_sorted(made: dict[str, Path]) -> None:
    file = pq.ParquetFile(made["parquet"])
    geo = json.loads(file.metadata.metadata[b"geo"])
    column = geo["columns"]["geometry"]
    assert geo["version"] == "1.1.0"
    assert column["covering"]["bbox"]["xmin"] == ["bbox", "xmin"]
    assert column["crs"]["id"]["code"] == 32631
    assert column["bbox"] == [5e5, 5e6 - 1800, 5e5 + 1400, 5e6]
    some = geopandas.read_parquet(
        made["parquet"], bbox=(5e5, 5e6 - 100, 5e5 + 100, 5e6)
    )
    assert 0 < len(some) < 200
    centres = read_regions(made["parquet"]).geometry.centroid
    steps = centres.distance(centres.shift())
    shuffled = centres.sample(frac=1, random_state=0).reset_index(drop=True)
    assert steps.mean() < 0.2 * shuffled.distance(shuffled.shift()).mean()


def test_a_target_is_not_replaced_by_accident(raster: Path, tmp_path: Path) -> None:
    out = vectorize(raster, tmp_path / "a.gpkg")
    with pytest.raises(RegionsError, match="exists"):
        vectorize(raster, out)
    before = out.stat().st_ino
    vectorize(raster, out, overwrite=True)
    assert out.stat().st_ino != before
    assert [p.name for p in tmp_path.iterdir()] == ["a.gpkg"]


def test_a_geopackage_in_use_is_left_alone(raster: Path, tmp_path: Path) -> None:
    out = vectorize(raster, tmp_path / "a.gpkg")
    other = sqlite3.connect(out, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(RegionsError, match="in use"):
        vectorize(raster, out, overwrite=True)
    other.execute("ROLLBACK")
    other.execute("PRAGMA journal_mode = WAL")  # as QGIS opens it
    other.execute("SELECT count(*) FROM regions").fetchone()
    with pytest.raises(RegionsError, match="in use"):
        vectorize(raster, out, overwrite=True)
    other.close()
    vectorize(raster, out, overwrite=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.kml", "must end in .gpkg"),
        ("none/a.gpkg", "does not exist"),
        ("folder.gpkg", "is a folder"),
    ],
)
def test_bad_targets_are_refused(
    raster: Path, tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "folder.gpkg").mkdir()
    with pytest.raises(RegionsError, match=message) as refusal:
        vectorize(raster, tmp_path / name)
    assert "\n" not in str(refusal.value)


def test_a_file_that_is_no_geopackage_is_not_overwritten(
    raster: Path, tmp_path: Path
) -> None:
    precious = tmp_path / "notes.gpkg"
    precious.write_text("my notes, " * 500)
    with pytest.raises(RegionsError, match="not a GeoPackage"):
        vectorize(raster, precious, overwrite=True)
    assert precious.read_text().startswith("my notes")


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_read_only_folder_is_refused(
    raster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(self: Path, *args: Any, **kwargs: Any) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "touch", denied)  # root may write anywhere
    with pytest.raises(RegionsError, match="cannot be written"):
        vectorize(raster, tmp_path / "a.gpkg")


@pytest.mark.parametrize(
    "error",
    [
        sqlite3.OperationalError("database or disk is full"),
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    ],
)
def test_a_full_disk_is_said_in_a_line(
    raster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*args: Any) -> None:
        raise error

    monkeypatch.setattr(GeoPackage, "write", full)
    with pytest.raises(
        UnwrittenError, match=r"cannot be written .*make room"
    ) as refusal:
        vectorize(raster, tmp_path / "a.gpkg")
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.iterdir())


_SLOW = """
import sys, time
from geoseg import vectorize
from geoseg.vector import regions
from geoseg.vector.formats.geopackage import GeoPackage
write = GeoPackage.write
def slowly(self, rows):
    write(self, rows)
    print("written", flush=True)
    time.sleep(60)
GeoPackage.write = slowly
vectorize(sys.argv[1], sys.argv[2], block=64)
"""


def test_a_killed_run_leaves_no_file_and_a_rerun_is_right(
    raster: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a.gpkg"
    run = subprocess.Popen(
        [sys.executable, "-c", _SLOW, str(raster), str(out)], stdout=subprocess.PIPE
    )
    assert run.stdout is not None
    assert run.stdout.readline() == b"written\n"
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()
    assert not out.exists()
    assert list(tmp_path.iterdir())  # what it left
    begun = time.monotonic()
    vectorize(raster, out)
    assert time.monotonic() - begun < 60  # nobody is waited for
    assert [p.name for p in tmp_path.iterdir()] == ["a.gpkg"]
    assert read_regions(out).pixels.sum() == 180 * 136


def test_reading_what_is_not_there_is_refused(made: dict[str, Path]) -> None:
    with pytest.raises(GeosegError, match="does not exist"):
        read_regions("nowhere.gpkg")
    with pytest.raises(GeosegError, match="no layer"):
        read_regions(made["gpkg"], layer="other")
