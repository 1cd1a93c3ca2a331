"""Objects from raster to store: workers, kills, failures, bad input, splitting."""

import json
import textwrap
from dataclasses import replace

import numpy as np
import oracles
import pytest
import small
from affine import Affine
from oracles import Oracle, Scene, card, numbered
from scipy import ndimage
from tifs import write_tif

import geoseg
from geoseg.cli import run as cli
from geoseg.core.classes import class_table
from geoseg.errors import BlocksFailedError, GeosegError, ModelError
from geoseg.maps.storage import Storage
from geoseg.maps.store import open_masks
from geoseg.models.card import Band, Card
from geoseg.models.contract import Objects

TRUTH = oracles.discs(300, 330, 250, radius=(3, 30))


def segment(out, model=None, source=None, **kw):
    model = model or Oracle(card(64, 16), classes=2)
    kw = {"chunk": 96, "block": 96, **kw}
    return small.segment(source or Scene(TRUTH), model=model, out=out, **kw)


def contents(path):
    masks = open_masks(str(path))
    arrays = {n: masks.read(n, masks.grid.window).tobytes() for n in masks.arrays}
    return arrays | {n: c.tobytes() for n, c in masks.objects().items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return what one block of everything gives."""
    out = tmp_path_factory.mktemp("whole") / "masks.zarr"
    segment(out, block=480)
    return contents(out)


OWN = """
    import numpy as np
    from scipy import ndimage
    from geoseg.models.contract import Objects

    def factory():
        card = {"bands": ["grey"], "classes": ["ground", "stone"], "window": 64}
        card |= {"overlap": 32, "task": "instance", "things": ["stone"]}

        def predict(pixels):
            labels = [ndimage.label(window[0] > 100) for window in pixels]
            return [
                Objects(labels=found, classes=np.ones(k, int), scores=np.ones(k))
                for found, k in labels
            ]

        return card, predict
"""


def test_somebodys_own_code_finds_objects(tmp_path):
    """As the README says: a card and a function in a file."""
    (tmp_path / "own.py").write_text(textwrap.dedent(OWN))
    values = np.where(TRUTH > 0, 200, 0).astype(np.uint8)[None]
    scene = str(tmp_path / "scene.tif")
    write_tif(scene, values, transform=Affine(1, 0, 4e5, 0, -1, 5e6))
    line = ["segment", scene, "--model", f"{tmp_path / 'own.py'}:factory", "-q"]
    line += ["--bands", "grey", "--out", str(tmp_path / "m.zarr")]
    assert cli(line) == 0
    masks = open_masks(str(tmp_path / "m.zarr"))
    ids = masks.read("instances", masks.grid.window)
    assert np.array_equal(ids > 0, values[0] > 0)
    lone, _ = ndimage.label(values[0])
    small = [
        ids[place][lone[place] == i]
        for i, place in enumerate(ndimage.find_objects(lone), start=1)
        if max(side.stop - side.start for side in place) <= 32
    ]
    assert len(small) > 10
    assert all((part == part[0]).all() for part in small)
    assert len({part[0] for part in small}) == len(small)


def test_the_store_holds_the_truth_and_its_table(tmp_path, whole):
    data = segment(tmp_path / "m.zarr", scores=True)
    ids = data["instances"].to_numpy()
    want = numbered(TRUTH)
    assert ids.dtype == np.uint32
    assert np.array_equal(ids, want)
    table = open_masks(str(tmp_path / "m.zarr")).objects()
    assert np.array_equal(table["instance_id"], np.arange(1, want.max() + 1))
    assert np.array_equal(table["pixels"], np.bincount(want.ravel())[1:])
    assert np.allclose(table["score"], 0.9, atol=1e-4)
    first = np.unique(want, return_index=True)[1][1:]
    assert np.array_equal(table["class_id"], TRUTH.ravel()[first] % 2)
    for box, *edges in zip(
        ndimage.find_objects(want.astype(int)),
        *(table[n] for n in ("top", "left", "bottom", "right")),
        strict=True,
    ):
        assert edges == [box[0].start, box[1].start, box[0].stop, box[1].stop]
    names = {c.name: c.value for c in open_masks(str(tmp_path / "m.zarr")).classes}
    classes = data["classes"].to_numpy()
    assert np.array_equal(classes == names["background"], want == 0)
    assert np.array_equal(classes[want > 0], TRUTH[want > 0] % 2)


def test_blocks_threads_and_workers_change_nothing(tmp_path, whole):
    from distributed import Client, LocalCluster

    segment(tmp_path / "blocks.zarr", block=192)
    assert contents(tmp_path / "blocks.zarr") == whole
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        segment(tmp_path / "workers.zarr", client=client)
    assert contents(tmp_path / "workers.zarr") == whole


class _Killed(BaseException):
    pass


def test_killed_at_any_write_it_ends_the_same(tmp_path, monkeypatch):
    source = Scene(TRUTH[:190, :190].copy())  # four blocks
    segment(tmp_path / "whole.zarr", source=source, block=288)
    whole = contents(tmp_path / "whole.zarr")
    puts, limit = 0, 10**9
    original = Storage.put

    def put(self, name, data):
        nonlocal puts
        puts += 1
        if puts > limit:
            raise _Killed
        original(self, name, data)

    monkeypatch.setattr(Storage, "put", put)
    segment(tmp_path / "counted.zarr", source=source)
    total, tried = puts, 0
    for stop in [*range(3, total, total // 9), total - 1]:
        puts, limit = 0, stop
        out = tmp_path / f"{stop}.zarr"
        with pytest.raises(_Killed):
            segment(out, source=source)
        limit = 10**9
        segment(out, source=source)
        assert contents(out) == whole, stop
        tried += 1
        left = {p.stem for p in (out / ".geoseg" / "objects").iterdir()}
        assert left <= {
            "written",
            "all-joined",
            "all-numbered",
        }
    assert tried > 5


def test_a_complete_store_is_left_alone(tmp_path):
    segment(tmp_path / "m.zarr")
    model = Oracle(card(64, 16), classes=2)
    segment(tmp_path / "m.zarr", model)
    assert model.windows == 0


def test_overwriting_begins_anew(tmp_path, whole):
    other = Scene(np.rot90(TRUTH).copy())
    segment(tmp_path / "m.zarr", source=other)
    segment(tmp_path / "m.zarr", overwrite=True)
    assert contents(tmp_path / "m.zarr") == whole


class _Sick(Scene):
    """A raster of which one place cannot be read, until it is well."""

    ill = True

    def read(self, window):
        here = window.y <= 150 < window.bottom and window.x <= 150 < window.right
        if _Sick.ill and here:
            raise geoseg.errors.RasterError("tile 3 is damaged")
        return super().read(window)


def test_beside_a_failed_block_the_rest_is_written(tmp_path, whole, monkeypatch):
    monkeypatch.setattr(geoseg.inference.worker, "WAITS", ())
    monkeypatch.setattr(_Sick, "ill", True)
    with pytest.raises(BlocksFailedError, match="tile 3 is damaged"):
        segment(tmp_path / "m.zarr", source=_Sick(TRUTH))
    masks = open_masks(str(tmp_path / "m.zarr"))
    ids = masks.read("instances", masks.grid.window)
    assert len(np.unique(ids)) > 0.7 * len(np.unique(TRUTH))
    assert not ids[96:192, 96:192].any()
    assert len(masks.objects()["pixels"]) == ids.max()
    monkeypatch.setattr(_Sick, "ill", False)
    segment(tmp_path / "m.zarr", source=_Sick(TRUTH))
    assert contents(tmp_path / "m.zarr") == whole


# --- bad input ------------------------------------------------------------------------


class _Wrong:
    def __init__(self, answer):
        self.card, self._answer = card(64, 16), answer

    def predict(self, pixels):
        return [self._answer(w[0]) for w in pixels]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda w: w, "not geoseg.models.contract.Objects"),
        (lambda w: objects(w[:3] > 0, 1), "as the objects of a window"),
        (lambda w: objects(w, 0), "but gave 0 classes"),
        (lambda w: objects(w > 0, 1, value=9), r"classes \[9\]"),
        (lambda w: objects(w > 0, 1, score=np.nan), "NaN"),
    ],
)
def test_nonsense_of_a_model_is_told_in_a_line(tmp_path, answer, message):
    with pytest.raises(ModelError, match=message):
        segment(tmp_path / "m.zarr", _Wrong(answer))


def objects(labels, k, value=0, score=0.5):
    return Objects(
        labels=labels.astype(np.int32),
        classes=np.full(k, value),
        scores=np.full(k, score),
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "semantic"}, "is for the task instance"),
        ({"instances": "components"}, "leave them out"),
        ({"probabilities": True}, "no probabilities"),
    ],
)
def test_tasks_that_a_model_cannot_do(tmp_path, settings, message):
    with pytest.raises(GeosegError, match=message):
        segment(tmp_path / "m.zarr", **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"instances": "magic"}, "not a way to find objects"),
        ({"instances": "watershed:x"}, "not a way to find objects"),
        ({"instances": "boundary:fence"}, "no class 'fence'"),
        ({"things": ["cow"]}, "no class 'cow'"),
        ({"model": 3}, "--things"),
    ],
)
def test_ways_to_split_that_there_are_not(tmp_path, settings, message):
    settings = {"task": "instance", **settings}
    model = Map(class_table(["no", "yes", "edge"][: settings.pop("model", 2)]))
    with pytest.raises(GeosegError, match=message):
        segment(tmp_path / "m.zarr", model, **settings)


# --- from a map of classes ------------------------------------------------------------


class Map:
    """A model of classes that answers its pixels."""

    def __init__(self, classes):
        self.card = Card(
            name="map",
            bands=(Band(name="1"),),
            classes=classes,
            output="labels",
            window=64,
            overlap=0,
            multiple=1,
        )

    def predict(self, pixels):
        return np.minimum(pixels[:, 0], len(self.card.classes) - 1).astype(np.uint8)


OVERLAPPING = (oracles.discs(400, 350, 900, radius=(4, 12), gap=-5) > 0).astype("u1")


@pytest.mark.parametrize("neighbours", [4, 8])
def test_components_are_those_of_the_whole_map(tmp_path, neighbours):
    structure = ndimage.generate_binary_structure(2, 1 if neighbours == 4 else 2)
    want = numbered(ndimage.label(OVERLAPPING, structure)[0])
    for block in (128, 512):
        data = segment(
            tmp_path / f"{block}.zarr",
            Map(class_table(["no", "yes"])),
            Scene(OVERLAPPING),
            block=block,
            task="instance",
            instances=f"components:{neighbours}",
        )
        assert np.array_equal(data["instances"], want)
        assert np.array_equal(data["classes"], OVERLAPPING)


def test_components_wind_through_all_windows(tmp_path):
    truth = oracles.snakes(400, 350)
    data = segment(
        tmp_path / "m.zarr",
        Map(class_table(["no", "yes"])),
        Scene((truth > 0).astype("u1")),
        block=128,
        task="panoptic",
    )
    want = numbered(ndimage.label(truth > 0)[0])
    assert np.array_equal(data["instances"], want)


def test_a_watershed_tells_touching_discs_apart(tmp_path):
    pytest.importorskip("skimage")
    yx = [(20 + 18 * i, 20 + 18 * j) for i in range(19) for j in range(17)]
    truth = np.zeros((400, 350), np.uint32)
    rows, cols = np.ogrid[:400, :350]
    for n, (y, x) in enumerate(yx, 1):
        truth[(rows - y) ** 2 + (cols - x) ** 2 <= 100] = n
    results = []
    for block in (128, 512):
        data = segment(
            tmp_path / f"{block}.zarr",
            Map(class_table(["no", "yes"])),
            Scene((truth > 0).astype("u1")),
            block=block,
            task="instance",
            instances="watershed:6",
        )
        results.append(data["instances"].to_numpy())
    assert np.array_equal(*results)
    assert results[0].max() == len(yx)
    assert ndimage.label(truth > 0)[1] == 1


def test_a_boundary_class_separates_fields(tmp_path):
    pytest.importorskip("skimage")
    fields = oracles.mosaic(300, 300, 60)
    edge = ndimage.grey_dilation(fields, 3) != ndimage.grey_erosion(fields, 3)
    data = segment(
        tmp_path / "m.zarr",
        Map(class_table(["none", "field", "edge"])),
        Scene(np.where(edge, 2, 1).astype("u1")),
        block=128,
        task="instance",
        instances="boundary:edge",
        things=["field"],
    )
    ids = data["instances"].to_numpy()
    assert (ids > 0).all()
    inside = ndimage.label(~edge)[1]
    assert ids.max() == inside
    assert (np.unique(ids[~edge & (ids == 1)]) == [1]).all()
    table = open_masks(str(tmp_path / "m.zarr")).objects()
    assert (table["class_id"] == 1).all()


def test_scores_of_split_objects_are_the_mean_confidence(tmp_path):
    class Unsure(Map):
        def predict(self, pixels):
            p = pixels[:, 0].astype(np.float32) / 100
            return np.stack([1 - p, p], 1)

    model = Unsure(class_table(["no", "yes"]))
    model.card = replace(model.card, output="probabilities", overlap=16)
    values = np.zeros((200, 200), np.uint8)
    values[10:50, 10:50], values[100:160, 30:190] = 80, 60
    segment(tmp_path / "m.zarr", model, Scene(values), scores=True, task="instance")
    table = open_masks(str(tmp_path / "m.zarr")).objects()
    assert table["score"].tolist() == pytest.approx([0.8, 0.6], abs=0.005)


# --- the command line -----------------------------------------------------------------


def test_the_command_line(tmp_path, capsys):
    write_tif(
        tmp_path / "scene.tif",
        TRUTH.astype(np.uint16),
        transform=Affine(1, 0, 4e5, 0, -1, 5e6),
    )
    command = ["segment", str(tmp_path / "scene.tif"), "--model", "threshold:1>0"]
    out = str(tmp_path / "m.zarr")
    assert cli([*command, "--out", out, "--task", "instance", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["objects"] == TRUTH.max()
    assert cli([*command, "--out", f"{out}2", "--instances", "components"]) == 2
    assert "--task instance" in capsys.readouterr().err
