"""QGIS opens exported maps in class colours, with the classes' names."""

import ast
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from PIL import Image as Pillow

import geoseg
from geoseg.vector.vectorize import vectorize

SCRIPT = Path(__file__).parents[2] / "notebooks" / "draw_with_qgis.py"
NAMES = ["lake", "wood & fen", "field", "none here"]


@pytest.fixture
def exported(make_store, tmp_path):
    rows, columns = np.mgrid[:300, :300]
    labels = ((rows // 60 + columns // 60) % 3).astype(np.uint8)
    masks = make_store(tmp_path / "m.zarr", labels, names=NAMES)
    geoseg.export(masks, tmp_path / "map.tif")
    vectorize(masks, tmp_path / "regions.gpkg")
    return masks


def test_the_style_beside_the_raster_has_the_class_table(exported, tmp_path):
    entries = ET.parse(tmp_path / "map.qml").getroot().iter("paletteEntry")
    found = [(int(e.get("value")), e.get("label"), e.get("color")) for e in entries]
    assert found == [(c.value, c.name, c.color) for c in exported.classes]
    assert not list(tmp_path.glob(".geoseg-*"))


def test_qgis_draws_it(exported, tmp_path):
    python = shutil.which("python3", path="/usr/bin")
    has = python and subprocess.run([python, "-c", "import qgis.core"], check=False)
    if not has or has.returncode:
        pytest.skip("QGIS for Python is not installed (Debian: python3-qgis)")
    command = [python, SCRIPT, "map.tif", "regions.gpkg", "out.png"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=90
    )
    lines = [line for line in done.stdout.splitlines() if "EPSG:32633" in line]
    raster, vector = (ast.literal_eval(line[line.index("[") :]) for line in lines)
    assert raster == NAMES
    assert set(NAMES[:3]) <= set(vector)
    picture = np.asarray(Pillow.open(tmp_path / "out.png").convert("RGB"))
    for panel in (picture[:, :460], picture[:, 604:1064]):
        for c in exported.classes[:3]:
            share = (panel == c.rgb).all(axis=-1).mean()
            assert share > 0.2, (c.name, share)
