"""Dynamic World: Google's weights in our network, and what TensorFlow says."""

import numpy as np
import pytest
import torch

from geoseg.errors import ModelError
from geoseg.models.check import check_fit
from geoseg.models.load import load_model
from geoseg.models.networks.dynamic_world import CARD, import_folder
from geoseg.models.networks.tensor_bundle import _unsnapped, _varint, read_bundle
from geoseg.rasters.open import match_bands, open_source

# Logits that TensorFlow 2.21 computed with the published SavedModel and the published
# scaling, for reflectances ((37 b + 11 y + 7 x) mod 97) * 40 of 48 x 64 pixels.
BY_TENSORFLOW = {
    (0, 0): [-4.9260, -4.5969, -4.9843, -5.5485, -5.2384, -4.9661, -3.3771, -4.3166,
             -5.0181],
    (17, 40): [-6.5422, -6.8265, -6.7389, -6.6801, -6.5159, -6.6753, -3.6581, -6.0860,
               -6.8860],
    (47, 63): [-6.7741, -6.6879, -6.7049, -6.4616, -6.2284, -6.2101, -4.6916, -6.1672,
               -6.6889],
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(shared, tmp_path_factory):
    saved_model = shared / "models" / "dynamicworld_forward"
    return import_folder(saved_model, tmp_path_factory.mktemp("dw") / "model")


@pytest.fixture(scope="module")
def scene(shared):
    path = shared / "sen1floods11" / "S2" / "Spain_7370579_S2Hand.tif"
    source = open_source(str(path))
    check_fit(CARD, source)
    return source.select(match_bands(source, CARD.bands))


def test_it_computes_what_tensorflow_does(folder):
    model = load_model(folder, device="cpu", precision="fp32")
    assert model.card == CARD
    b, y, x = np.mgrid[:9, :48, :64]
    pixels = (((37 * b + 11 * y + 7 * x) % 97) * 40).astype(np.uint16)[None]
    logits = model.predict(pixels)[0]
    for (row, column), expected in BY_TENSORFLOW.items():
        np.testing.assert_allclose(logits[:, row, column], expected, atol=2e-4)


def test_water_is_where_a_human_saw_it(folder, scene, shared):
    """Hand labels of a flood: the network calls parts of it grass and crops."""
    rasterio = pytest.importorskip("rasterio")
    path = shared / "sen1floods11" / "Labels" / "Spain_7370579_LabelHand.tif"
    with rasterio.open(path) as file:
        truth = file.read(1)
    pixels, valid = scene.read(scene.grid.window)
    labels = load_model(folder, device="cpu").predict(pixels[None]).argmax(1)[0].numpy()
    known = valid & (truth >= 0)
    both = (labels == 0) & (truth == 1) & known
    either = ((labels == 0) | (truth == 1)) & known
    assert both.sum() / either.sum() > 0.62


def test_low_precision_keeps_the_labels(folder, scene):
    pixels = scene.read(scene.grid.window)[0][None, :, 100:228, 100:228]
    exact, rough = (
        load_model(folder, device="cpu", precision=p).predict(pixels).float()
        for p in ("fp32", "bf16")
    )
    best = exact.softmax(1).topk(2, dim=1).values
    sure = best[:, 0] - best[:, 1] > 0.05
    same = exact.argmax(1) == rough.argmax(1)
    assert same[sure].float().mean() > 0.99
    assert load_model(folder).precision == "fp32"  # for those that are not sure


def test_scores_are_finite_for_any_pixel(folder):
    pixels = np.full((1, 9, 64, 64), 65535, np.uint16)
    pixels[..., :32] = 0
    assert torch.isfinite(load_model(folder).predict(pixels)).all()
    negative = np.full((1, 9, 64, 64), -5000, np.int16)
    assert torch.isfinite(load_model(folder).predict(negative)).all()


def test_what_is_not_the_network_is_refused(tmp_path, shared):
    with pytest.raises(ModelError, match="index is missing: name the one called for"):
        import_folder(tmp_path, tmp_path / "out")
    variables = tmp_path / "variables"
    variables.mkdir()
    origin = shared / "models" / "dynamicworld_forward" / "variables"
    data = (origin / "variables.data-00000-of-00001").read_bytes()
    index = (origin / "variables.index").read_bytes()
    for name, content in (
        ("short", index[:-20]),
        ("empty", b""),
        ("flipped", index[:100] + bytes(50) + index[150:]),
    ):
        (variables / "variables.index").write_bytes(content)
        (variables / "variables.data-00000-of-00001").write_bytes(data)
        with pytest.raises(ModelError):
            import_folder(tmp_path, tmp_path / name)
        assert not (tmp_path / name).exists()
    (variables / "variables.index").write_bytes(index)
    (variables / "variables.data-00000-of-00001").write_bytes(data[:1000])
    with pytest.raises(ModelError, match="outside the data file"):
        read_bundle(variables)


def test_snappy():
    literal = bytes([11, 10 << 2]) + b"hello world"
    assert _unsnapped(literal) == b"hello world"
    # "ab", then eight bytes copied from two back (tag 1), then four (tag 2)
    copies = bytes([14, 1 << 2]) + b"ab" + bytes([4 << 2 | 1, 2, 3 << 2 | 2, 2, 0])
    assert _unsnapped(copies) == b"ab" * 7
    with pytest.raises(ValueError, match="from before its beginning"):
        _unsnapped(bytes([9, 4 << 2 | 1, 2]))
    assert _varint(bytes([0x96, 0x01]), 0) == (150, 2)
