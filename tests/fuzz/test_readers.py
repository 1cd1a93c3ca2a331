"""What is read of strangers, spoiled: it is read, or refused on one line, and quickly.

A longer run: `pytest tests/fuzz --hypothesis-profile=long`. What that finds is kept
here, as an example of the test that found it.
"""

import copy
import io
import json
import resource
import sqlite3
import time
import warnings
import zipfile
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import pytest
from affine import Affine
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tifs import write_tif

import geoseg
from geoseg.core.grid import Grid
from geoseg.errors import GeosegError
from geoseg.labels import open_labels
from geoseg.maps.complete import incomplete
from geoseg.maps.open import open_classes
from geoseg.maps.provenance import facts_of
from geoseg.models.load import model_recipe
from geoseg.models.networks.safe_program import load_program
from geoseg.models.plain import card_from_dict
from geoseg.pipeline.settings import read_pipeline

MOST_SECONDS = 1.0
"""Of processor time, as a machine may be busy; good inputs take hardly any."""
MOST_BYTES = 200_000_000
fuzzed = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(-2, 300)
    | st.sampled_from([2**31, 2**63, 10**400, -(10**20), 1e308, float("nan"), -0.5])
    | st.text(max_size=8)
    | st.sampled_from(["red", "/etc/passwd", "../x", "NaN", "a" * 5000, "<f8", "|O"])
)
ANYTHING = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


def places(value, so_far=()):
    """Return the way to everything in nested JSON."""
    found = [so_far]
    if isinstance(value, dict):
        inner = value.items()
    else:
        inner = enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        found += places(each, (*so_far, key))
    return found


@st.composite
def spoiled(draw, value):
    """Return nested JSON with one or two things in it replaced, or gone."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 2))):
        way = draw(st.sampled_from(places(value)))
        if not way:
            return draw(ANYTHING)
        *above, last = way
        parent = value
        for key in above:
            parent = parent[key]
        if draw(st.integers(0, 4)) == 0:
            del parent[last]
        else:
            parent[last] = draw(ANYTHING)
    return value


def read_or_refused(read, *arguments):
    """Call; whatever is raised must be ours, one line, and soon.

    What takes long is read again: the first time may be that of the imports.
    """
    for last in (False, True):
        begun, held, answer = time.process_time(), _most_held(), None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                answer = read(*arguments)
        except GeosegError as error:
            assert "\n" not in str(error)  # noqa: PT017 - others go through
            assert len(str(error)) < 4100  # noqa: PT017
        took, grown = time.process_time() - begun, _most_held() - held
        if took < MOST_SECONDS and grown < MOST_BYTES:
            break
        assert not last, f"{took:.1f} s, {grown / 1e6:.0f} MB"
    return answer


def _most_held():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# --- cards ----------------------------------------------------------------------------

CARD = {
    "name": "net",
    "bands": [{"name": "red", "scale": 255, "offset": 0, "clip": [0, 1]}, "nir"],
    "classes": [{"value": 0, "name": "water", "color": "#0072B2"}, "land"],
    "window": 64,
    "overlap": 16,
    "resolution": 10,
    "dtypes": ["uint8"],
    "value_range": [0, 255],
    "nodata": 0,
    "output": "logits",
    "framework": {"family": "smp", "arch": "Unet", "arguments": {"encoder_depth": 3}},
}


@fuzzed
@example(card=None)
@given(card=spoiled(CARD))
def test_cards(card):
    read_or_refused(lambda: card_from_dict(card, name="net"))


@fuzzed
@example(card={**CARD, "framework": {"family": []}}, cut=3000)
@given(card=spoiled(CARD), cut=st.integers(0, 3000))
def test_folders_of_models(tmp_path, card, cut):
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    (folder / "card.json").write_text(json.dumps(card)[:cut])
    read_or_refused(model_recipe, folder)


# --- stores ---------------------------------------------------------------------------

FILES = (".zattrs", ".zmetadata", ".geoseg/run.json", "classes/.zarray",
         "classes/.zattrs", "x/.zarray", "spatial_ref/.zattrs")  # fmt: skip


@pytest.fixture(scope="module")
def store(make_store, tmp_path_factory):
    labels = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64) % 4
    return make_store(tmp_path_factory.mktemp("s") / "m.zarr", labels).path


def look(path):
    reader = open_classes(path, partial=True)
    incomplete(reader)
    facts_of(reader)
    reader.read("classes", reader.grid.window)
    geoseg.open_masks(path)
    geoseg.verify(path)


@pytest.mark.parametrize("crs", [1e308, "", ["EPSG:32633"]])
def test_stores_without_a_crs_that_is_one(store, crs):
    file = Path(store) / ".zattrs"
    before = file.read_bytes()
    try:
        file.write_text(json.dumps(json.loads(before) | {"proj:wkt2": crs}))
        read_or_refused(look, store)
    finally:
        file.write_bytes(before)


def test_stores_whose_numbers_do_not_fit(store):
    file = Path(store) / "classes/.zarray"
    before = file.read_bytes()
    try:
        file.write_text(json.dumps(json.loads(before) | {"fill_value": -1}))
        with pytest.raises(GeosegError, match="its metadata"):
            geoseg.open_masks(store)
    finally:
        file.write_bytes(before)


@fuzzed
@given(data=st.data(), name=st.sampled_from(FILES))
def test_stores(store, data, name):
    file = Path(store) / name
    before = file.read_bytes()
    try:
        if data.draw(st.booleans()):
            file.write_bytes(before[: data.draw(st.integers(0, len(before)))])
        else:
            file.write_text(json.dumps(data.draw(spoiled(json.loads(before)))))
        read_or_refused(look, store)
    finally:
        file.write_bytes(before)


# --- tables of features, items, pipelines ---------------------------------------------

GRID = Grid(
    crs="EPSG:32633", transform=Affine(10, 0, 5e5, 0, -10, 5e6), height=64, width=64
)
FEATURES = {
    "type": "FeatureCollection",
    "name": "labels",
    "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}},
    "features": [
        {
            "type": "Feature",
            "properties": {"class": name},
            "geometry": {
                "type": "Polygon",
                "coordinates": [
                    [[5e5 + x, 5e6 - y] for x, y in ((9, 9), (99, 9), (9, 99), (9, 9))]
                ],
            },
        }
        for name in ("water", "land")
    ],
}


OPEN_RING = copy.deepcopy(FEATURES)
OPEN_RING["features"][0]["geometry"]["coordinates"][0].pop()


LISTS = copy.deepcopy(FEATURES)
LISTS["features"][0]["properties"]["class"] = ["water"]


@fuzzed
@example(features=OPEN_RING, cut=3000)
@example(features=LISTS, cut=3000)
@given(features=spoiled(FEATURES), cut=st.integers(0, 3000))
def test_labels(tmp_path, features, cut):
    path = tmp_path / "labels.geojson"
    path.write_text(json.dumps(features)[:cut])
    read_or_refused(open_labels, path, GRID)


ITEM = {
    "type": "Feature",
    "stac_version": "1.0.0",
    "id": "a",
    "properties": {"datetime": "2024-01-01T00:00:00Z", "proj:epsg": 32633},
    "geometry": None,
    "links": [],
    "assets": {
        "red": {
            "href": "./red.tif",
            "roles": ["data"],
            "eo:bands": [{"name": "B04", "common_name": "red"}],
            "raster:bands": [{"nodata": 0, "scale": 1e-4, "offset": -0.1}],
        }
    },
}


@fuzzed
@example(item={**ITEM, "type": "a" * 5000})
@given(item=spoiled(ITEM))
def test_items(tmp_path, item):
    if not (tmp_path / "red.tif").exists():
        red_raster(tmp_path / "red.tif")
    (tmp_path / "item.json").write_text(json.dumps(item))
    read_or_refused(geoseg.open_source, tmp_path / "item.json")


TOML = """
out = "job"
[segment]
raster = "scene.tif"
model = "otsu:nir"
block = 512
[vectorize]
simplify = 10.0
classes = ["above"]
[report]
title = "A map"
"""


@fuzzed
@given(
    at=st.integers(0, len(TOML)),
    new=st.text(max_size=6) | st.sampled_from(['"', "[[", "= 1e999", "\0", "{", "'''"]),
    gone=st.integers(0, 20),
)
@example(at=0, new="\ud800".encode("utf-8", "replace").decode(), gone=0)
def test_pipelines(tmp_path, at, new, gone):
    path = tmp_path / "p.toml"
    path.write_text(TOML[:at] + new + TOML[at + gone :], encoding="utf-8")
    read_or_refused(read_pipeline, path)


@pytest.mark.parametrize("text", [
    f"a = {'[' * 100_000}", f"{'.'.join('a' * 50_000)} = 1", f"a = {'9' * 5000}",
])  # fmt: skip
def test_pipelines_that_never_end(tmp_path, text):
    path = tmp_path / "p.toml"
    path.write_text(text)
    with pytest.raises(GeosegError, match="is not TOML"):
        read_pipeline(path)


# --- VRTs -----------------------------------------------------------------------------


def element(tag, attributes=None, *children, text=""):
    return {"tag": tag, "at": attributes or {}, "in": [*children], "text": text}


def as_xml(value):
    """Return the text of elements, whatever has become of them."""
    if not isinstance(value, dict) or "tag" not in value:
        return escape(str(value))
    found = value.get("at")
    at = "".join(
        f" {key or 'x'}={quoteattr(str(each))}"
        for key, each in (found if isinstance(found, dict) else {}).items()
    )
    inner = value.get("in")
    inside = "".join(map(as_xml, inner)) if isinstance(inner, list) else as_xml(inner)
    text = escape(str(value.get("text")))
    return f"<{value['tag']}{at}>{inside}{text}</{value['tag']}>"


def rectangle(tag):
    return element(tag, {"xOff": 0, "yOff": 0, "xSize": 8, "ySize": 8})


VRT = element(
    "VRTDataset",
    {"rasterXSize": 8, "rasterYSize": 8},
    element("SRS", text="EPSG:32633"),
    element("GeoTransform", text="500000, 10, 0, 5000000, 0, -10"),
    element(
        "VRTRasterBand",
        {"dataType": "Byte", "band": 1},
        element("NoDataValue", text="0"),
        element("Description", text="red"),
        element(
            "ComplexSource",
            {},
            element("SourceFilename", {"relativeToVRT": 1}, text="red.tif"),
            element("SourceBand", text="1"),
            element("SourceProperties", {"RasterXSize": 8, "RasterYSize": 8,
                                         "DataType": "Byte", "BlockXSize": 8}),
            rectangle("SrcRect"),
            rectangle("DstRect"),
            element("ScaleRatio", text="1"),
            element("LUT", text="0:0,255:255"),
        ),
    ),
    element("MaskBand", {}, element("VRTRasterBand", {"dataType": "Byte"})),
    element("GDALWarpOptions", {}, element("WarpMemoryLimit", text="6.7e7")),
)  # fmt: skip


def red_raster(path):
    write_tif(path, np.ones((1, 8, 8), np.uint8), transform=GRID.transform)


@pytest.fixture(scope="module")
def rasters(tmp_path_factory):
    """Return a folder with a raster; another one lies beside it, which is not named."""
    folder = tmp_path_factory.mktemp("vrt") / "own"
    folder.mkdir()
    red_raster(folder / "red.tif")
    red_raster(folder.parent / "red.tif")
    return folder


PLACES = ("../red.tif", "/vsimem/x", "/vsisubfile/0_9,red.tif", "/vsizip/red.tif",
          "red.vrt", "/vsistdin/", "GTIFF_DIR:1:red.tif", "red.tif/../../red.tif",
          "vrt://red.tif", "https://127.0.0.1:9/x.tif")  # fmt: skip


def look_at_raster(path):
    source = geoseg.open_source(path)
    if source.grid.height * source.grid.width <= 1_000_000 and len(source.bands) < 9:
        source.read(source.grid.window)
    return source


@fuzzed
@example(vrt=VRT, place=None)
@example(vrt=element("VRTDataset", {}, element("é" * 99)), place=None)
@given(vrt=spoiled(VRT), place=st.none() | st.sampled_from(PLACES))
def test_vrts(rasters, vrt, place):
    path = rasters / "red.vrt"
    text = as_xml(vrt)
    if place is not None and ">red.tif<" in text:
        text = text.replace("red.tif", place, 1)
    path.write_text(text, encoding="utf-8", errors="replace")
    before = listing(rasters)
    source = read_or_refused(look_at_raster, path)
    assert listing(rasters) == before
    assert source is None or place is None or f">{place}<" not in text


def listing(folder):
    return {p: p.stat().st_mtime_ns for p in folder.parent.rglob("*")}


# --- GeoPackages ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpkg")
    path = folder / "good.geojson"
    path.write_text(json.dumps(FEATURES))
    geoseg_frame = open_labels(path, GRID)
    assert geoseg_frame is not None
    import geopandas

    geopandas.read_file(path).to_file(folder / "good.gpkg", engine="pyogrio")
    return (folder / "good.gpkg").read_bytes()


TABLES = ("gpkg_contents", "gpkg_geometry_columns", "gpkg_spatial_ref_sys", "good",
          "rtree_good_geom_node", "gpkg_extensions", "sqlite_master")  # fmt: skip
SCALARS = (
    st.none()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(max_size=9).filter(str.isprintable)
    | st.binary(max_size=60)
    | st.sampled_from(["good", "../x", "a" * 5000, b"GP\0\1" + b"\xff" * 40])
)


@fuzzed
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@given(
    spoiled=st.lists(
        st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=4
    ),
    cut=st.integers(0, 1 << 20),
    change=st.none() | st.tuples(st.sampled_from(TABLES), st.integers(0, 12), SCALARS),
)
def test_packages(tmp_path, package, spoiled, cut, change):
    """All is drawn before: what rasterio logs of odd names it cannot decode."""
    for left in tmp_path.iterdir():  # a log of what was read before; and who reads it
        left.unlink()
    path = tmp_path / "labels.gpkg"
    content = bytearray(package)
    if change is None:
        for place, value in spoiled:
            content[place % len(content)] = value
        del content[cut % (2 * len(content)) :]
    path.write_bytes(content)
    if change is not None:
        _change(path, *change)
    read_or_refused(open_labels, path, GRID)


def _change(path, table, column, value):
    """Change all of a column of a table, by the column's number."""
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA writable_schema=ON")
        named = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        for (name,) in file.execute(named).fetchall():
            file.execute(f'DROP TRIGGER "{name}"')  # they call functions of GDAL's
        rows = file.execute(f"PRAGMA table_info({table})").fetchall()
        columns = [row[1] for row in rows] or ["sql"]
        with suppress(sqlite3.Error, OverflowError, UnicodeEncodeError):
            what = f'UPDATE {table} SET "{columns[column % len(columns)]}" = ?'
            file.execute(what, (value,))  # the database holds what it may
            file.commit()


# --- exported networks ----------------------------------------------------------------


@pytest.fixture(scope="module")
def program():
    """Return the entries of an exported network."""
    import torch
    from torch import nn

    net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU()).eval()
    file = io.BytesIO()
    sides = {0: torch.export.Dim("n", min=1, max=9)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(
            torch.export.export(
                net, (torch.zeros(2, 1, 64, 64),), dynamic_shapes=(sides,)
            ),
            file,
        )
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@fuzzed
@given(data=st.data())
def test_programs(tmp_path, program, data):
    path = tmp_path / "net.pt2"
    entries = dict(program)
    name = data.draw(st.sampled_from(sorted(entries)))
    if name.endswith(".json") and data.draw(st.integers(0, 3)):
        other = data.draw(spoiled(json.loads(entries[name])))
        entries[name] = json.dumps(other).encode()
    else:
        at = data.draw(st.integers(0, len(entries[name])))
        more = data.draw(st.binary(max_size=9))
        gone = data.draw(st.integers(0, 20))
        entries[name] = entries[name][:at] + more + entries[name][at + gone :]
    with zipfile.ZipFile(path, "w") as archive:
        for entry, content in entries.items():
            archive.writestr(zipfile.ZipInfo(entry), content)
    if data.draw(st.integers(0, 4)) == 0:
        content = bytearray(path.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= 0x41
        path.write_bytes(content)
    read_or_refused(load_program, path)
    assert Counter(p.name for p in tmp_path.iterdir()) == {"net.pt2": 1}
