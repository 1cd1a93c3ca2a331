"""`geoseg demo`: the shipped scene, the whole way, and scenes of one's own."""

import json
import subprocess
import sys

import numpy as np
import pyogrio
import pytest
import rasterio
from affine import Affine
from landscape import example as making
from landscape.scene import BANDS, CLASSES, NODATA, TRUTH_NODATA
from tifs import write_tif

import geoseg
from geoseg.demo.example import example
from geoseg.demo.run import FALLBACK, run_demo
from geoseg.errors import GeosegError
from geoseg.maps.open import open_classes


def test_the_shipped_scene_is_what_the_generator_makes():
    pixels, truth, grid = making.example()
    files = example()
    assert sum(f.stat().st_size for f in (files.scene, files.truth)) < 1.6e6
    with rasterio.open(files.scene) as file:
        assert np.array_equal(file.read(), pixels)
        assert file.descriptions == BANDS
        assert file.nodata == NODATA
        assert file.transform == grid.transform
    with rasterio.open(files.truth) as file:
        assert np.array_equal(file.read(1), truth)
        assert file.nodata == TRUTH_NODATA
    assert open_classes(files.truth).classes == CLASSES
    assert set(np.unique(truth)) == {c.value for c in CLASSES} | {TRUTH_NODATA}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    return run_demo(out / "demo", quiet=True)


def test_the_demo_makes_everything_it_says(demo):
    made = {"scene.tif", "truth.tif", "mask.zarr", "regions.gpkg", "map.png"}
    made.add("truth.tif.aux.xml")
    assert {p.name for p in demo.masks.parent.iterdir()} == made | {"summary.json"}
    told = json.loads(demo.summary.read_text("utf-8"))
    assert told.keys() == demo.to_dict().keys()
    assert told["masks"] == "mask.zarr"  # the folder can be given away
    assert str(demo.masks.parent) not in str(told)
    regions = pyogrio.read_dataframe(demo.regions, layer="regions")
    assert len(regions) == demo.polygons
    assert set(regions.class_name) <= {c.name for c in CLASSES}
    assert set(demo.seconds) == {
        "segment", "vectorize", "picture", "accuracy", "total",
    }  # fmt: skip
    assert 10e6 < demo.peak_memory_bytes < 8e9


def test_the_demo_tells_the_truth_about_its_accuracy(demo):
    masks = geoseg.open_masks(str(demo.masks))
    found = masks.read("classes", masks.grid.window)
    with rasterio.open(demo.truth) as file:
        truth = file.read(1)
    valid = truth != TRUTH_NODATA
    assert ((found == masks.nodata) == ~valid).all()
    assert demo.accuracy == pytest.approx((found == truth)[valid].mean(), abs=1e-4)
    assert demo.accuracy > 0.95
    for c in CLASSES:
        if c.name in demo.iou:
            both = ((found == c.value) & (truth == c.value))[valid].sum()
            either = ((found == c.value) | (truth == c.value))[valid].sum()
            assert demo.iou[c.name] == pytest.approx(both / either, abs=1e-4)
    assert sum(demo.area_km2.values()) == pytest.approx(valid.sum() * 1e-4, rel=2e-3)
    assert any("IoU" in line for line in str(demo).splitlines())


def test_a_scene_the_model_can_read_is_mapped_with_a_warning(demo, tmp_path):
    moved = tmp_path / "moved.tif"
    with rasterio.open(demo.scene) as file:
        profile, pixels, names = file.profile, file.read(), file.descriptions
    transform = profile["transform"] @ Affine.translation(0, 1000)
    with rasterio.open(moved, "w", **{**profile, "transform": transform}) as file:
        file.write(pixels)
        file.descriptions = names
    again = run_demo(tmp_path / "demo", scene=moved, quiet=True)
    assert again.truth is None
    assert again.accuracy is None
    assert "only ever seen generated landscapes" in again.note
    assert again.area_km2 == pytest.approx(demo.area_km2, rel=1e-3)
    assert not (tmp_path / "demo" / "scene.tif").exists()


def test_a_scene_the_model_cannot_read_is_clustered(tmp_path):
    path = tmp_path / "grey.tif"
    grid = making.example()[2]
    values = np.random.default_rng(0).integers(1, 255, (1, 60, 80), dtype=np.uint8)
    write_tif(path, values, crs=grid.crs, transform=grid.transform)
    summary = run_demo(tmp_path / "out", scene=path, quiet=True)
    assert FALLBACK in summary.note
    assert len(summary.area_km2) == 6
    assert summary.polygons > 0


def test_no_scene_is_one_line(tmp_path):
    with pytest.raises(GeosegError) as caught:
        run_demo(tmp_path / "out", scene=tmp_path / "absent.tif", quiet=True)
    assert "\n" not in str(caught.value)
    assert "absent.tif" in str(caught.value)
    (tmp_path / "file").write_text("")
    with pytest.raises(GeosegError, match="cannot be made"):
        run_demo(tmp_path / "file" / "demo", quiet=True)


def test_importing_the_example_imports_no_torch_and_no_numba():
    code = (
        "import sys, geoseg.demo.example; "
        "sys.exit(any(m in sys.modules for m in ('torch', 'numba', 'dask')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_model_is_a_toy_and_every_command_says_so(tmp_path, capsys):
    from geoseg.cli import run

    files = example()
    with rasterio.open(files.scene) as file:
        profile, pixels, names = file.profile, file.read(), file.descriptions
    profile["transform"] @= Affine.translation(500, 0)
    with rasterio.open(tmp_path / "mine.tif", "w", **profile) as file:
        file.write(pixels)
        file.descriptions = names
    for command in (["plan"], ["model", "check"]):
        for scene, told in ((files.scene, 0), (tmp_path / "mine.tif", 1)):
            line = [*command, str(files.model), str(scene)]
            if command == ["plan"]:
                line = ["plan", str(scene), "--model", str(files.model)]
            assert run(line) == 0
            said = capsys.readouterr()
            found = (said.out + said.err).count("only ever seen generated landscapes")
            assert found == told, line
