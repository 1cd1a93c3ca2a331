"""The layer `instances`: one row per object, its pixels, for any blocks."""

import numpy as np
import oracles
import pytest
import rasterio.features
import small
from oracles import Oracle, Scene, card

import geoseg
from geoseg.errors import RegionsError
from geoseg.maps.store import open_masks

geopandas = pytest.importorskip("geopandas")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Return a store of discs, some in parts: nodata cuts them."""
    truth = oracles.discs(300, 330, 300, radius=(3, 25))
    valid = np.ones(truth.shape, bool)
    valid[:, 60::61] = False
    valid[140:145] = False
    path = tmp_path_factory.mktemp("instances") / "m.zarr"
    model = Oracle(card(64, 16), classes=2)
    small.segment(Scene(truth, valid), model=model, out=path, chunk=96)
    return path


def read(path):
    return geopandas.read_file(path, layer="instances")


def test_rows_are_objects_and_polygons_their_pixels(store, tmp_path):
    masks = open_masks(str(store))
    ids, table = masks.read("instances", masks.grid.window), masks.objects()
    rows = read(geoseg.vectorize(store, tmp_path / "i.gpkg"))
    rows = rows.sort_values("instance_id").reset_index(drop=True)
    assert rows.instance_id.tolist() == table["instance_id"].tolist()
    assert rows.class_id.tolist() == table["class_id"].tolist()
    assert set(rows.class_name) == {"thing", "other"}
    assert rows.score.to_numpy() == pytest.approx(table["score"])
    assert rows.pixels.tolist() == table["pixels"].tolist()
    assert rows.geometry.is_valid.all()
    assert (rows.geometry.area == rows.pixels).all()  # pixels are 1 m squares
    assert rows.geometry.count_geometries().max() > 1
    back = rasterio.features.rasterize(
        zip(rows.geometry, rows.instance_id, strict=True),
        out_shape=ids.shape,
        transform=masks.grid.transform,
        dtype="uint32",
    )
    assert np.array_equal(back, ids)


@pytest.mark.parametrize("simplify", [None, 2.0])
def test_blocks_change_nothing(store, tmp_path, simplify):
    found = []
    for block in (50, 97, 1000):
        path = geoseg.vectorize(
            store, tmp_path / f"{block}.gpkg", block=block, simplify=simplify
        )
        rows = read(path).sort_values("instance_id")
        found.append([(r.instance_id, r.geometry.wkb) for r in rows.itertuples()])
    assert found[0] == found[1] == found[2]


def test_small_objects_and_other_classes_are_left_out(store, tmp_path):
    rows = read(
        geoseg.vectorize(store, tmp_path / "i.gpkg", min_area=100, classes=["other"])
    )
    table = open_masks(str(store)).objects()
    wanted = (table["pixels"] >= 100) & (table["class_id"] == 1)
    assert sorted(rows.instance_id) == table["instance_id"][wanted].tolist()


@pytest.mark.parametrize("ending", ["parquet", "fgb"])
def test_other_formats(store, tmp_path, ending):
    path = geoseg.vectorize(store, tmp_path / f"i.{ending}")
    rows = geopandas.read_parquet(path) if ending == "parquet" else None
    rows = geopandas.read_file(path) if rows is None else rows
    assert len(rows) == len(open_masks(str(store)).objects()["pixels"])
    assert rows.geometry.is_valid.all()


def test_regions_on_request_and_instances_only_where_there_are(store, tmp_path):
    path = geoseg.vectorize(store, tmp_path / "r.gpkg", layer="regions")
    rows = geopandas.read_file(path, layer="regions")
    assert set(rows.class_name) == {"thing", "other", "background"}
    data = geoseg.open_masks(str(store)).dataset()["classes"]
    with pytest.raises(RegionsError, match="--task instance"):
        geoseg.vectorize(data, tmp_path / "x.gpkg", layer="instances")
