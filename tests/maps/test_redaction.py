"""Who opens a class map or a raster beside it never prints what opens its door."""

import numpy as np
import pytest

from geoseg.cli import run
from geoseg.maps.open import open_classes
from geoseg.maps.provenance import facts_of, map_name

SECRETS = ("alice", "pa55word", "s1gnature")
AWAY = "https://alice:pa55word@127.0.0.1:9/x.{}?sig=s1gnature"
"""Nobody listens on port 9."""


def check(capsys, line, status=2):
    assert run(line) == status
    told = capsys.readouterr()
    text = told.out + told.err
    assert "127.0.0.1" in text
    assert not [secret for secret in SECRETS if secret in text]
    assert len(told.err.splitlines()) == 1


@pytest.mark.parametrize("kind", ["tif", "zarr"])
@pytest.mark.parametrize(
    "line",
    [
        ["vectorize", "{}", "--out", "r.gpkg"],
        ["export", "{}", "--out", "m.tif"],
        ["report", "{}", "--out", "r.html"],
        ["view", "{}", "--no-browser"],
        ["sample", "{}", "--out", "p.gpkg"],
        ["evaluate", "{}", "--reference", "p.gpkg"],
        ["verify", "{}"],
    ],
    ids=lambda line: line[0],
)
def test_openers_of_class_maps(tmp_path, monkeypatch, capsys, line, kind):
    monkeypatch.chdir(tmp_path)
    check(capsys, [word.format(AWAY.format(kind)) for word in line])


def test_openers_of_rasters_beside_a_map(tmp_path, capsys, make_store):
    pytest.importorskip("exactextract")
    masks = make_store(tmp_path / "m.zarr", np.zeros((64, 64), np.uint8))
    line = ["vectorize", masks.path, "--stats", AWAY.format("tif")]
    check(capsys, [*line, "--out", str(tmp_path / "r.gpkg")])


def test_what_a_map_says_of_its_place(tmp_path, make_store):
    masks = make_store(tmp_path / "m.zarr", np.zeros((64, 64), np.uint8))
    reader = open_classes(masks.path)
    object.__setattr__(reader, "path", f"file://{masks.path}?sig=s1gnature")
    assert map_name(reader) == "m.zarr"
    assert "s1gnature" not in reader.name
    told = facts_of(open_classes(masks.path))
    assert ("File", "m.zarr") in told  # nothing of the machine
