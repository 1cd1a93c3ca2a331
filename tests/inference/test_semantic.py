"""Laws 1, 2, 3, 5, 10 and 12 on blocks in memory: no scheduler, no files."""

from dataclasses import replace
from threading import Barrier

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoseg.core.classes import nodata_value
from geoseg.core.grid import Window
from geoseg.core.tiling import Tiling
from geoseg.errors import ModelError
from geoseg.inference.semantic import NotFiniteError, finish_block, segment_block
from geoseg.inference.windows import read_windows, reflect
from geoseg.models.contract import AnyModel
from geoseg.testing import IdentityModel, LocalModel, MemorySource, identity_card


class Identity(IdentityModel, AnyModel):
    """As it is when it is loaded."""


class Local(LocalModel, AnyModel):
    """As it is when it is loaded."""


def segment(source, model, *, blocks=1, order=None, batch=1, names=("classes",)):
    """Run all blocks in an order, then finish them; returns arrays of the raster."""
    card = model.card
    sides = {
        "height": source.grid.height,
        "width": source.grid.width,
        "window": card.window,
        "overlap": card.overlap,
        "multiple": card.multiple,
    }
    tiling = Tiling(**sides, chunk=CHUNK)
    tiling = replace(tiling, block=blocks * tiling.chunk)
    todo = list(tiling.each_block())
    if order is not None:
        np.random.default_rng(order).shuffle(todo)
    found = {
        block.key: segment_block(source, model, block, arrays=names, batch=batch)
        for block in todo
    }
    shape = (tiling.height, tiling.width)
    out = {name: np.zeros(shape, np.uint8) for name in names}
    for block in todo:
        around = [found[n.key].halo for n in block.neighbours]
        halo = [sums[block.key] for sums in around if sums]
        arrays = finish_block(found[block.key], halo, card, block)
        for name in names:
            out[name][block.window.slices] = arrays[name]
    return out, tiling, found


CHUNK = 32  # pixels, so that small rasters have many blocks


@st.composite
def scenes(draw):
    height, width = draw(st.integers(1, 200)), draw(st.integers(1, 200))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    values = rng.random((3, height, width), np.float32)
    mask = rng.random((height, width)) > draw(st.sampled_from([0.0, 0.3, 0.99]))
    mask[: draw(st.integers(0, height))] = draw(st.booleans())
    window = draw(st.sampled_from([16, 33, 48]))
    card = identity_card(
        3,
        window=window,
        overlap=2 * draw(st.integers(0, window // 4)),
        multiple=draw(st.sampled_from([None, 1, 8])),
    )
    return MemorySource(values=values, mask=mask), card


@given(scenes(), st.integers(1, 3), st.integers(1, 5))
@settings(max_examples=60)
def test_an_identity_model_gives_back_its_input(scene, blocks, batch):
    source, card = scene
    names = ("classes", "confidence")
    out, _, _ = segment(
        source, Identity(card=card), blocks=blocks, batch=batch, names=names
    )
    scores = (source.values * np.float32(65535) + np.float32(0.5)).astype(np.int64)
    best = scores.max(0)
    valid = source.mask
    assert (out["classes"] == np.where(valid, scores.argmax(0), 255)).all()
    confidence = (best * 508 + 65535) // 131070
    assert (out["confidence"] == np.where(valid, confidence, 255)).all()


@given(scenes(), st.integers(1, 3), st.integers(0, 100), st.integers(1, 4))
@settings(max_examples=40)
def test_blocks_order_and_batches_never_change_the_answer(scene, blocks, order, batch):
    source, card = scene
    model = Local(card=card)
    names = ("classes", "confidence")
    one, _, _ = segment(source, model, names=names)
    two, _, _ = segment(
        source, model, blocks=blocks, order=order, batch=batch, names=names
    )
    for name in names:
        assert one[name].tobytes() == two[name].tobytes()


@given(scenes(), st.integers(1, 3))
def test_every_window_with_data_is_inferred_once(scene, blocks):
    source, card = scene
    model = Identity(card=card)
    _, tiling, found = segment(source, model, blocks=blocks)
    with_data = sum(
        bool(source.mask[inside.slices].any())
        for i in range(tiling.cell_rows)
        for j in range(tiling.cell_cols)
        if (inside := tiling.model_window(i, j).intersection(tiling.raster))
    )
    assert model.seen == with_data
    assert sum(block.windows for block in found.values()) == with_data


@given(scenes())
@settings(max_examples=30)
def test_pixels_under_nodata_never_matter(scene):
    source, card = scene
    other = source.values.copy()
    other[:, ~source.mask] = 1e30
    one, _, _ = segment(source, Local(card=card))
    two, _, _ = segment(MemorySource(values=other, mask=source.mask), Local(card=card))
    assert one["classes"].tobytes() == two["classes"].tobytes()
    assert ((one["classes"] == 255) == ~source.mask).all()


def test_blending_hides_what_windows_do_at_their_edges():
    """The effect of windows on labels shrinks when they overlap."""
    rng = np.random.default_rng(0)
    values = 0.5 + rng.normal(0, 0.02, (2, 200, 200)).astype(np.float32)
    values[0] += 0.1
    source = MemorySource(values=values)

    def confidence(overlap):
        card = identity_card(2, window=48, overlap=overlap)
        out, _, _ = segment(
            source, Local(card=card, bump=0.4), names=("classes", "confidence")
        )
        return out["confidence"].astype(float)

    def roughness(overlap):
        means = confidence(overlap)[40:160].mean(0)
        return np.abs(np.diff(means)).max()

    assert roughness(24) < 0.5 * roughness(0)


def test_labels_of_windows_are_cropped_to_their_cells():
    class Where(AnyModel):
        card = identity_card(3, output="labels", window=16, overlap=4)

        def predict(self, pixels):
            labels = pixels.argmax(1).astype(np.uint8)
            labels[:, :2] = labels[:, -2:] = 77
            labels[..., :2] = labels[..., -2:] = 77
            return labels

    values = np.random.default_rng(0).random((3, 50, 61), np.float32)
    out, _, _ = segment(MemorySource(values=values), Where(), blocks=2)
    assert (out["classes"] == values.argmax(0)).all()


def test_windows_of_other_shapes_keep_no_thread_waiting():
    values = np.random.default_rng(0).random((3, 42, 25), np.float32)
    both, shapes = Barrier(2), set()

    class Pair(AnyModel):
        card = identity_card(3, window=16, overlap=4, multiple=4)
        abreast = 2

        def predict(self, pixels):
            shapes.add(pixels.shape)
            both.wait(20)  # raises where the other thread has none
            return pixels

    out, tiling, _ = segment(MemorySource(values=values), Pair(), blocks=2, batch=4)
    assert tiling.windows == 12
    assert len(shapes) == 4
    assert all(shape[0] == 1 for shape in shapes)
    assert (out["classes"] == values.argmax(0)).all()


def test_probabilities_of_every_class():
    values = np.random.default_rng(0).dirichlet(np.ones(3), (40, 30))
    source = MemorySource(values=values.transpose(2, 0, 1).astype(np.float32))
    model = Identity(card=identity_card(3, window=16, overlap=4))
    tiling = Tiling(height=40, width=30, window=16, overlap=4, chunk=CHUNK)
    block = tiling.block_at(0, 0)
    names = ("classes", "probabilities")
    partial = segment_block(source, model, block, arrays=names)
    exact = values[:36, :30].transpose(2, 0, 1) * 254
    inner = (slice(None), slice(0, 30), slice(0, 28))
    found = partial.arrays["probabilities"]
    assert found.shape == (3, block.window.height, 30)
    assert np.abs(found[inner] - exact[inner]).max() <= 0.51


def test_nan_names_the_block():
    class Broken(Identity):
        def predict(self, pixels):
            scores = super().predict(pixels)
            scores[0, 0, 3, 3] = np.nan
            return scores

    source = MemorySource(values=np.zeros((3, 40, 60), np.float32))
    model = Broken(card=identity_card(3, window=16, overlap=4))
    tiling = Tiling(height=40, width=60, window=16, overlap=4, chunk=CHUNK)
    assert tiling.block_cols > 1
    with pytest.raises(NotFiniteError, match=r"block 0,1 \(rows 0"):
        segment_block(source, model, tiling.block_at(0, 1))


def test_a_model_that_contradicts_its_card():
    class Wrong(Identity):
        def predict(self, pixels):
            return super().predict(pixels)[:, :2]

    source = MemorySource(values=np.zeros((3, 20, 20), np.float32))
    with pytest.raises(ModelError, match=r"gave scores \(1, 2, .* promises"):
        segment(source, Wrong(card=identity_card(3, window=16, overlap=4)))


def test_more_than_254_classes_are_sixteen_bit():
    card = identity_card(300, window=16, overlap=0)
    assert nodata_value(card.classes) == 65535
    values = np.zeros((300, 16, 16), np.float32)
    values[299] = 1
    tiling = Tiling(height=16, width=16, window=16, overlap=0)
    partial = segment_block(
        MemorySource(values=values), Identity(card=card), tiling.block_at(0, 0)
    )
    assert partial.arrays["classes"].dtype == np.uint16
    assert (partial.arrays["classes"] == 299).all()


@given(st.integers(-500, 500), st.integers(0, 600), st.integers(1, 90))
def test_reflection_is_that_of_numpy(first, count, length):
    indices = reflect(first, first + count, length)
    pad = (max(0, -first), max(0, first + count - length))
    whole = np.pad(np.arange(length), pad, mode="reflect" if length > 1 else "edge")
    assert (indices == whole[first + pad[0] : first + pad[0] + count]).all()


@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_a_block_is_read_with_what_is_reflected_around_it(height, width, data):
    def side(length):
        inside = data.draw(st.integers(0, length - 1))
        first = inside - data.draw(st.integers(0, 20))
        return first, inside + 1 + data.draw(st.integers(0, 20))

    (y, bottom), (x, right) = side(height), side(width)
    values = np.arange(2 * height * width, dtype=np.uint16).reshape(2, height, width)
    mask = values[0] % 3 > 0
    source, card = MemorySource(values=values, mask=mask), identity_card(2, fill=77.0)
    pixels = read_windows(source, card, Window.spanning(y, bottom, x, right))
    rows, cols = reflect(y, bottom, height)[:, None], reflect(x, right, width)
    assert (pixels.valid == mask[rows, cols]).all()
    if pixels.valid.any():  # else no window is looked at
        assert (pixels.values == np.where(mask, values, 77)[:, rows, cols]).all()
