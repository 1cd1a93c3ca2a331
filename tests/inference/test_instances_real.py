"""Objects on real images, by thresholds and watersheds, against what people drew."""

import json

import pytest

from geoseg.cli import run


@pytest.fixture
def orthos(shared):
    return shared / "drone_aerial_rgb"


def test_dead_trees_on_a_drone_image(orthos, tmp_path, capsys):
    """Grey crowns among green ones: at 0.5 m the speckle of 5 cm pixels is gone."""
    image = orthos / "deadwood_finland" / "R70C21.tif"
    drawn = orthos / "deadwood_finland" / "R70C21_deadwood_polygons.gpkg"
    masks = str(tmp_path / "m.zarr")

    def standing(metres):
        line = ["segment", str(image), "--model", "threshold:red+blue-green>130"]
        line += ["--bands", "red,green,blue", "--resolution", metres, "--overwrite"]
        line += ["--task", "instance", "--instances", "watershed:4"]
        assert run([*line, "--things", "above", "--out", masks, "--quiet"]) == 0
        line = ["evaluate", masks, "--reference", str(drawn), "--objects", "--json"]
        line += ["--map", "Standing=above", "--map", "Fallen=ignore"]
        assert run([*line, "--background", "below"]) == 0
        return json.loads(capsys.readouterr().out)["objects"]

    coarse, fine = standing("0.5"), standing("native")
    assert coarse["pq"] > 0.35
    assert coarse["f1_50"] > 0.55
    assert fine["pq"] < 0.05
