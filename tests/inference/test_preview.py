"""What a plan says of the store that a run would write."""

import json

import numpy as np
import pytest
from tifs import write_tif

from geoseg.cli import run


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    values = np.random.default_rng(0).integers(1, 255, (2, 90, 80), np.uint8)
    path = tmp_path_factory.mktemp("scene") / "scene.tif"
    return str(write_tif(path, values, names=("red", "nir"), nodata=0))


def store_of(capsys, scene, out, *more, model="threshold:ndvi>0.1"):
    """Return what `plan` says of a store."""
    asked = [scene, "--model", model, "--out", str(out), "--json", *more]
    status = run(["plan", *asked])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    return json.loads(printed.out)["store"]


def test_a_plan_takes_a_command_of_segment_and_writes_nothing(scene, tmp_path, capsys):
    out = tmp_path / "masks.zarr"
    more = ("--shards", "--zarr-format", "3", "-q")
    assert store_of(capsys, scene, out, *more) == "a new store"
    assert not [*tmp_path.iterdir()]


def test_a_plan_tells_a_store_that_is_there(scene, tmp_path, capsys):
    out = tmp_path / "masks.zarr"
    command = [scene, "--model", "threshold:ndvi>0.1", "--out", str(out), "-q"]
    assert run(["segment", *command]) == 0
    assert "complete already" in store_of(capsys, scene, out)
    assert "begun again" in store_of(capsys, scene, out, "--overwrite")
    record = out / ".geoseg" / "run.json"
    killed = json.loads(record.read_text()) | {"complete": False}
    record.write_text(json.dumps(killed))
    assert store_of(capsys, scene, out) == "resumed, 1 of 1 block done"
    before = record.read_bytes()
    # What `segment` would refuse is refused in the same words.
    other = [scene, "--model", "threshold:ndvi>0.3", "--out", str(out)]
    told = []
    for name in ("plan", "segment"):
        assert run([name, *other]) == 2
        told.append(capsys.readouterr().err)
    assert told[0] == told[1]
    assert "other settings" in told[0]
    assert run(["plan", *command[:4], str(tmp_path), "-q"]) == 2
    assert "did not make it" in capsys.readouterr().err
    assert record.read_bytes() == before
