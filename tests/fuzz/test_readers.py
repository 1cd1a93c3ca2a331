"""What is read of strangers, spoiled: it is read, or refused on one line, and quickly.

A longer run: `pytest tests/fuzz --hypothesis-profile=long`. What that finds is kept
here, as an example of the test that found it.
"""

import copy
import json
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import geoseg
from geoseg.core.grid import Grid
from geoseg.errors import GeosegError
from geoseg.labels import open_labels
from geoseg.maps.complete import incomplete
from geoseg.maps.open import open_classes
from geoseg.maps.provenance import facts_of
from geoseg.models.load import model_recipe
from geoseg.models.plain import card_from_dict
from geoseg.pipeline.settings import read_pipeline

MOST_SECONDS = 5.0
"""Of processor time: a machine may be busy."""
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
    """Call; whatever is raised must be ours, one line, and soon."""
    begun = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(*arguments)
    except GeosegError as error:
        assert "\n" not in str(error)  # noqa: PT017 - others go through
        assert len(str(error)) < 4100  # noqa: PT017
    assert time.process_time() - begun < MOST_SECONDS


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


@fuzzed
@example(features=OPEN_RING, cut=3000)
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
    red = tmp_path / "red.tif"
    if not red.exists():
        with rasterio.open(
            red, "w", driver="GTiff", count=1, height=8, width=8, dtype="uint8",
            crs="EPSG:32633", transform=GRID.transform,
        ) as file:  # fmt: skip
            file.write(np.ones((1, 8, 8), np.uint8))
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
