"""What networks answer: one channel, channels last, the middle of a window, names."""

import numpy as np
import pytest
import torch
from tifs import write_tif
from torch import nn

from geoseg.errors import ModelError
from geoseg.models.networks.answers import fit_channels, tensor_of
from geoseg.models.networks.device import ModelOptions
from geoseg.models.networks.torch_adapter import TorchModel
from geoseg.models.plain import card_from_dict

CPU = ModelOptions(device="cpu", precision="fp32")


def a_card(classes=("ground", "roof"), **more):
    plain = {"bands": ["red"], "classes": list(classes), "window": 32, "overlap": 8}
    return card_from_dict(plain | more)


def chance(scores, card):
    """Return the probability of the second class as the blend computes it."""
    if card.output == "probabilities":
        return scores[:, 1] / scores.sum(1)
    active = scores.softmax(1) if card.activation == "softmax" else scores.sigmoid()
    return active[:, 1]


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("output", ["logits", "probabilities"])
@pytest.mark.parametrize("shape", ["nchw", "nhwc", "nhw"])
@pytest.mark.parametrize("threshold", [None, 0.3, 0.9])
def test_one_channel_is_the_second_of_two_classes(activation, output, shape, threshold):
    card = a_card(activation=activation, output=output, threshold=threshold)
    logits = torch.linspace(-4, 4, 64).reshape(1, 1, 8, 8)
    given = logits if output == "logits" else logits.sigmoid()
    given = {"nchw": given, "nhwc": given.movedim(1, -1), "nhw": given[:, 0]}[shape]
    found = fit_channels(given, card)
    assert found.shape == (1, 2, 8, 8)
    expected = logits[:, 0].sigmoid() > (threshold or 0.5)
    assert torch.equal(found.argmax(1) == 1, expected)
    if threshold is None:
        torch.testing.assert_close(chance(found, card), logits[:, 0].sigmoid())


@pytest.mark.parametrize("output", ["logits", "probabilities"])
def test_a_threshold_parts_two_channels_too(output):
    card = a_card(output=output, threshold=0.2)
    logits = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    given = logits if output == "logits" else logits.softmax(1)
    found = fit_channels(given, card).argmax(1)
    assert torch.equal(found == 1, logits.softmax(1)[:, 1] > 0.2)
    with pytest.raises(ModelError, match="separates two classes, not 3"):
        a_card("abc", threshold=0.5)


def test_channels_may_come_last():
    card, scores = a_card("abc"), torch.randn(2, 3, 8, 8)
    assert torch.equal(fit_channels(scores.movedim(1, -1), card), scores)
    with pytest.raises(ModelError, match=r"\(n, 3, y, x\) is needed"):
        fit_channels(torch.zeros(2, 5, 8, 8), card)


def test_answers_with_names_are_chosen_by_name():
    scores, other = torch.zeros(1), torch.ones(1)
    assert tensor_of({"aux": other, "out": scores}, a_card()) is scores
    assert tensor_of(({"only": scores}, other), a_card()) is scores
    named = a_card(framework={"answer": "mask"})
    assert tensor_of({"edge": other, "mask": scores}, named) is scores
    with pytest.raises(ModelError, match=r'answers edge, mask: .*"answer": "edge"'):
        tensor_of({"edge": other, "mask": scores}, a_card())


class Unpadded(nn.Module):
    """A network whose answer is the middle of its window."""

    def __init__(self, border=3):
        super().__init__()
        self.border = border

    def forward(self, x):
        inner = x[..., self.border : -self.border, self.border : -self.border]
        return torch.cat([-inner, inner], 1)


class TestTheMiddle:
    def test_it_stays_where_it_is(self):
        model = TorchModel(Unpadded(), a_card(), CPU)
        pixels = np.random.default_rng(0).integers(1, 9, (2, 1, 32, 32), np.uint8)
        scores = model.predict(pixels)
        np.testing.assert_array_equal(
            scores[:, 1, 3:-3, 3:-3].numpy(), pixels[:, 0, 3:-3, 3:-3]
        )
        assert (scores[:, :, :3] == 0).all()
        assert (scores[..., -3:] == 0).all()

    def test_a_map_is_seamless(self, tmp_path):
        """Identity: every pixel is told by some window that sees it inside."""
        rasterio = pytest.importorskip("rasterio")
        import geoseg

        pixels = np.random.default_rng(1).integers(0, 2, (1, 75, 91), np.uint8)
        path = str(tmp_path / "a.tif")
        write_tif(
            path,
            pixels,
            transform=rasterio.Affine(1, 0, 500, 0, -1, 900),
        )
        card = a_card(mean=0.5, std=0.1)
        found = geoseg.segment(
            path, model=(card, Unpadded(4)), out=tmp_path / "m.zarr", progress=False,
            precision="fp32", device="cpu",
        )  # fmt: skip
        np.testing.assert_array_equal(found["classes"].to_numpy(), pixels[0])

    @pytest.mark.parametrize("border", [5, 7])
    def test_too_little_overlap_is_refused_before_the_run(self, border):
        model = TorchModel(Unpadded(border), a_card(), CPU)
        with pytest.raises(ModelError, match=rf'"overlap": {2 * border} or more'):
            model.working_bytes()


def test_what_a_network_does_not_take_is_said_before_the_run():
    class Picky(nn.Module):
        def forward(self, x):
            assert float(x.sum()) == 0
            assert x.shape[-1] == 64, "sides are 64"
            return torch.cat([x, x], 1)

    with pytest.raises(ModelError, match="sides are 64"):
        TorchModel(Picky(), a_card(), CPU).working_bytes()
    assert TorchModel(Picky(), a_card(window=64), CPU).working_bytes() > 0
