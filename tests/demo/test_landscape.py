"""The generated landscape: any window fits the whole, and the demo's model knows it."""

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from landscape.scene import (
    BANDS,
    CLASSES,
    NODATA,
    SEED,
    TRUTH_NODATA,
    Scene,
    write_scene,
)
from landscape.train import (
    _FIRST_HELD_OUT_SEED,
    _FIRST_TRAINING_SEED,
    Settings,
    demo_card,
    evaluate,
    evaluate_colours,
    held_out,
    train,
)

import geoseg
from geoseg.core.grid import Window
from geoseg.demo.example import example
from geoseg.errors import RasterError

MODEL = example().model
SCENE = Scene(height=700, width=900, seed=5)


@pytest.fixture(scope="module")
def whole():
    return SCENE.read(SCENE.grid.window)


@settings(max_examples=20)
@given(
    y=st.integers(0, 699), x=st.integers(0, 899), h=st.integers(1, 90),
    w=st.integers(1, 90),
)  # fmt: skip
def test_any_window_is_a_piece_of_the_whole(whole, y, x, h, w):
    window = Window(y=y, x=x, height=min(h, 700 - y), width=min(w, 900 - x))
    pixels, truth = SCENE.read(window)
    assert np.array_equal(pixels, whole[0][:, *window.slices])
    assert np.array_equal(truth, whole[1][window.slices])


@pytest.mark.parametrize("side", [113, 256])
def test_tiles_of_any_size_reassemble_the_whole(whole, side):
    pixels, truth = np.empty_like(whole[0]), np.empty_like(whole[1])
    seen = np.zeros(whole[1].shape, int)
    for tile in SCENE.tiles(side):
        pixels[:, *tile.slices], truth[tile.slices] = SCENE.read(tile)
        seen[tile.slices] += 1
    assert (seen == 1).all()
    assert np.array_equal(pixels, whole[0])
    assert np.array_equal(truth, whole[1])


def test_a_larger_scene_shows_the_same_landscape(whole):
    """Only the swath's edge depends on the size of the scene."""
    window = Window(y=0, x=0, height=300, width=500)
    larger = Scene(height=1 << 20, width=1 << 20, seed=SCENE.seed)
    assert np.array_equal(larger.read(window)[0], whole[0][:, *window.slices])


def test_seeds_are_different_landscapes(whole):
    window = SCENE.grid.window
    other = Scene(height=700, width=900, seed=SCENE.seed + 1).read(window)[1]
    valid = other != TRUTH_NODATA
    assert (other[valid] == whole[1][valid]).mean() < 0.6


def test_pixels_are_nodata_exactly_where_the_truth_is(whole):
    pixels, truth = whole
    outside = truth == TRUTH_NODATA
    assert 0.04 < outside.mean() < 0.12
    assert ((pixels == NODATA).all(0) == outside).all()
    assert ((pixels == NODATA).any(0) == outside).all()
    edge = outside.argmax(1)
    assert (np.diff(edge) >= 0).all()  # the swath's edge slants
    assert edge[-1] - edge[0] > 40


def test_all_classes_occur_in_sane_shares():
    plane = Scene(height=1 << 18, width=1 << 18, seed=77)
    counts = np.zeros(256, np.int64)
    for y in range(0, 1 << 17, 1 << 14):
        for x in range(0, 1 << 17, 1 << 15):
            truth = plane.read(Window(y=y, x=x, height=192, width=192))[1]
            counts += np.bincount(truth.ravel(), minlength=256)
    shares = dict(zip((c.name for c in CLASSES), counts / counts.sum(), strict=False))
    assert counts[len(CLASSES) :].sum() == 0
    assert min(shares.values()) > 0.005
    assert max(shares.values()) < 0.6
    assert shares["forest"] > shares["town"]


def test_reflectance_is_believable(whole):
    pixels, truth = whole
    mean = {
        c.name: pixels[:, truth == c.value].mean(1)
        for c in CLASSES
        if (truth == c.value).any()
    }
    blue, green, red, nir = mean["forest"]
    assert nir > 2 * max(blue, green, red)
    assert pixels.max() <= 10_000
    if "water" in mean:
        assert mean["water"][3] < nir / 2


def test_files_hold_what_the_scene_says(tmp_path, whole):
    told = []
    scene = write_scene(
        tmp_path / "scene.tif", tmp_path / "truth.tif", 700, 900, 5, threads=2,
        progress=lambda *done: told.append(done),
    )  # fmt: skip
    assert scene == SCENE
    assert told[-1] == (1, 1)
    assert {p.name for p in tmp_path.iterdir()} == {"scene.tif", "truth.tif"}
    with rasterio.open(tmp_path / "scene.tif") as file:
        assert np.array_equal(file.read(), whole[0])
        assert file.descriptions == BANDS
        assert file.nodata == NODATA
        assert file.crs.to_epsg() == 32633
        assert file.transform == SCENE.grid.transform
        assert file.block_shapes[0] == (512, 512)
        assert file.compression.name == "deflate"
    with rasterio.open(tmp_path / "truth.tif") as file:
        assert np.array_equal(file.read(1), whole[1])
        assert file.nodata == TRUTH_NODATA
        assert {c.value: file.colormap(1)[c.value][:3] for c in CLASSES} == {
            c.value: c.rgb for c in CLASSES
        }


def test_an_interrupted_write_leaves_no_file(tmp_path):
    def stop(_done, _total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_scene(tmp_path / "s.tif", tmp_path / "t.tif", 64, 64, 1, progress=stop)
    assert not list(tmp_path.iterdir())


def test_senseless_scenes_are_refused(tmp_path):
    with pytest.raises(RasterError, match="at least 1"):
        Scene(height=0, width=5, seed=1)
    with pytest.raises(RasterError, match="seed"):
        Scene(height=5, width=5, seed=-1)
    with pytest.raises(RasterError, match="cannot be written"):
        write_scene(tmp_path / "no" / "s.tif", tmp_path / "t.tif", 8, 8, 1)


def test_the_model_is_small_and_its_card_is_the_one_that_was_trained():
    weights = MODEL / "weights.safetensors"
    assert weights.stat().st_size < 2_000_000
    card = geoseg.load_model(MODEL, device="cpu").card
    assert card.classes == CLASSES
    assert card.bands == demo_card().bands
    assert card.framework == demo_card().framework


def test_training_never_sees_the_landscapes_that_are_shown_or_held_out():
    assert SEED < _FIRST_TRAINING_SEED
    assert _FIRST_TRAINING_SEED + (1 << 16) < _FIRST_HELD_OUT_SEED


def test_the_model_sees_more_than_colours():
    """It must beat the best guess by a pixel's colour clearly, on other landscapes."""
    network = geoseg.load_model(MODEL, device="cpu", precision="fp32")._module
    pairs = held_out(count=3)
    found, baseline = evaluate(network, pairs), evaluate_colours(pairs, count=60)
    assert found["accuracy"] > 0.9
    assert found["accuracy"] > baseline["accuracy"] + 0.08
    assert baseline["accuracy"] > 0.5  # a baseline, not a straw man


def test_bf16_and_fp32_agree():
    pixels, truth = held_out(count=1)[0]
    labels = [
        geoseg.load_model(MODEL, device="cpu", precision=precision)
        .predict(pixels[None])
        .argmax(1)[0]
        .numpy()
        for precision in ("fp32", "bf16")
    ]
    assert (labels[0] == labels[1])[truth != TRUTH_NODATA].mean() > 0.998


def test_training_is_repeatable_and_learns():
    import torch

    threads = torch.get_num_threads()
    try:
        short = Settings(steps=4, batch=2, side=64)
        first, second = train(short).state_dict(), train(short).state_dict()
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(mode=False)
    assert all(torch.equal(first[k], second[k]) for k in first)
