"""Test-time augmentation and ensembles: laws first."""

import pickle
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from geoseg.errors import ModelError
from geoseg.models.combine import ensemble_card
from geoseg.models.load import load_model, model_recipe
from geoseg.models.plain import card_from_dict

rng = np.random.default_rng(0)


def a_card(bands=("red", "nir"), classes=("a", "b", "c"), **more):
    return card_from_dict({"bands": bands, "classes": classes, "multiple": 4, **more})


def a_network(bands=2, classes=3, seed=0):
    torch.manual_seed(seed)
    return nn.Conv2d(bands, classes, 3, padding=1)


def loaded(card, net, **options):
    return load_model((card, net), device="cpu", precision="fp32", **options)


class TestTta:
    pixels = rng.random((2, 2, 32, 48)).astype("f4")

    @pytest.mark.parametrize("tta", ["d4", "flips"])
    def test_turning_the_window_turns_the_answer(self, tta):
        model = loaded(a_card(), a_network(), tta=tta)
        answer = model.predict(self.pixels)
        for turn in (0, 1, 2, 3) if tta == "d4" else (0, 2):
            for mirrored in (False, True):
                seen = np.rot90(self.pixels, turn, (2, 3))
                seen = seen[..., ::-1] if mirrored else seen
                expected = answer.rot90(turn, (2, 3))
                expected = expected.flip(-1) if mirrored else expected
                torch.testing.assert_close(model.predict(seen), expected)

    def test_a_model_that_looks_at_pixels_only_is_not_changed(self):
        net = nn.Conv2d(2, 3, 1)
        plain = loaded(a_card(), net).predict(self.pixels).softmax(1)
        turned = loaded(a_card(), net, tta="d4").predict(self.pixels)
        torch.testing.assert_close(turned, plain)

    def test_it_is_the_mean_of_eight(self):
        net = a_network()
        seen = [
            torch.from_numpy(np.rot90(p, k, (2, 3)).copy())
            for p in (self.pixels, self.pixels[..., ::-1])
            for k in range(4)
        ]
        with torch.inference_mode():
            parts = [net(x).softmax(1) for x in seen]
        parts = [p.rot90(-(i % 4), (2, 3)) for i, p in enumerate(parts)]
        parts = [p if i < 4 else p.flip(-1) for i, p in enumerate(parts)]
        found = loaded(a_card(), net, tta="d4").predict(self.pixels)
        torch.testing.assert_close(found, sum(parts) / 8)

    def test_recipes_know(self):
        spec = (a_card(), a_network())
        plain, turned = model_recipe(spec), model_recipe(spec, tta="d4")
        assert turned.card.output == "probabilities"
        assert plain.hash != turned.hash != model_recipe(spec, tta="flips").hash
        again = pickle.loads(pickle.dumps(turned)).load()
        assert again.card == turned.card
        assert again.working_bytes() > plain.load().working_bytes()

    @pytest.mark.parametrize(
        ("card", "tta", "message"),
        [
            (a_card(), "d5", "not one of d4, flips"),
            (a_card(output="labels"), "d4", "answers labels"),
            (a_card(task="instance"), "d4", "answers instance"),
        ],
    )
    def test_what_cannot_be(self, card, tta, message):
        with pytest.raises(ModelError, match=message):
            model_recipe((card, a_network()), tta=tta)


class TestScales:
    pixels = rng.random((2, 2, 32, 48)).astype("f4")

    def at(self, net, scale):
        """Return what the network says of pixels resized, brought back to pixels."""
        resize = partial(
            torch.nn.functional.interpolate, mode="bilinear", align_corners=False
        )
        size = tuple(int(side * scale) for side in self.pixels.shape[2:])
        with torch.inference_mode():
            seen = resize(torch.from_numpy(self.pixels), size=size)
            return resize(net(seen).softmax(1), size=self.pixels.shape[2:])

    def test_it_is_the_mean_of_what_is_seen_at_each(self):
        net = a_network()
        found = loaded(a_card(), net, scales=[0.5, 1, 2]).predict(self.pixels)
        expected = sum(self.at(net, scale) for scale in (0.5, 1, 2)) / 3
        torch.testing.assert_close(found, expected)

    def test_one_is_the_model_itself(self):
        net = a_network()
        found = loaded(a_card(), net, scales=[1]).predict(self.pixels)
        plain = loaded(a_card(), net).predict(self.pixels).softmax(1)
        torch.testing.assert_close(found, plain)

    def test_with_turns(self):
        net = nn.Conv2d(2, 3, 1)  # sees pixels only, so turns change nothing
        found = loaded(a_card(), net, scales=[0.5, 2], tta="d4").predict(self.pixels)
        expected = (self.at(net, 0.5) + self.at(net, 2)) / 2
        torch.testing.assert_close(found, expected)

    @pytest.mark.parametrize("scale", [0.5, 1.5, 2])
    def test_full_windows_slide(self, scale):
        """A network that takes one size only; what sees pixels only is not changed."""

        class OneSize(nn.Conv2d):
            def forward(self, x):
                assert x.shape[2:] == (32, 32)
                return super().forward(x)

        torch.manual_seed(0)
        net = OneSize(2, 3, 1)
        pixels = self.pixels[..., :32]
        card = a_card(multiple=None, window=32, overlap=8)
        found = loaded(card, net, scales=[scale]).predict(pixels)
        plain = nn.Conv2d(2, 3, 1)
        plain.load_state_dict(net.state_dict())
        size = tuple(int(side * scale) for side in (32, 32))
        resize = partial(
            torch.nn.functional.interpolate, mode="bilinear", align_corners=False
        )
        with torch.inference_mode():
            seen = resize(torch.from_numpy(pixels), size=size)
            expected = resize(plain(seen).softmax(1), size=(32, 32))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

    def test_recipes_know(self):
        spec = (a_card(), a_network())
        plain, several = model_recipe(spec), model_recipe(spec, scales=[1, 2])
        assert plain.hash != several.hash != model_recipe(spec, scales=[1, 0.5]).hash
        assert several.card.facts["scales"] == [1.0, 2.0]
        again = pickle.loads(pickle.dumps(several)).load()
        assert again.working_bytes() > 2 * plain.load().working_bytes()

    @pytest.mark.parametrize("scales", [[0.1], [1, 1], [9], [float("nan")]])
    def test_what_cannot_be(self, scales):
        with pytest.raises(ModelError, match="different numbers"):
            model_recipe((a_card(), a_network()), scales=scales)

    def test_labels_have_no_scores(self):
        with pytest.raises(ModelError, match=r"several scales.* answers labels"):
            model_recipe("threshold:ndwi", scales=[0.5, 1])


class TestEnsemble:
    pixels = rng.random((2, 3, 32, 32)).astype("f4")

    def test_the_mean_of_models_with_their_own_bands_and_orders(self):
        one = (a_card(("red", "nir"), ("a", "b", "c")), a_network(2, 3, 1))
        two = (a_card(("green", "red"), ("c", "a", "b")), a_network(2, 3, 2))
        both = load_model([one, two], device="cpu", precision="fp32")
        assert [b.name for b in both.card.bands] == ["red", "nir", "green"]
        assert [c.name for c in both.card.classes] == ["a", "b", "c"]
        x = torch.from_numpy(self.pixels)
        with torch.inference_mode():
            first = one[1](x[:, [0, 1]]).softmax(1)
            second = two[1](x[:, [2, 0]]).softmax(1)[:, [1, 2, 0]]
        torch.testing.assert_close(both.predict(self.pixels), (first + second) / 2)

    def test_twice_the_same_is_once(self):
        spec = (a_card(), a_network())
        twice = load_model([spec, spec], device="cpu", precision="fp32")
        once = loaded(*spec).predict(self.pixels[:, :2]).softmax(1)
        torch.testing.assert_close(twice.predict(self.pixels[:, :2]), once)

    def test_one_is_itself(self):
        assert load_model(["threshold:ndwi"]).card == load_model("threshold:ndwi").card

    def test_it_travels_and_has_its_own_hash(self):
        one, two = ((a_card(), a_network(seed=i)) for i in (1, 2))
        recipe = model_recipe([one, two], tta="d4")
        answer = recipe.load().predict(self.pixels[:, :2])
        again = pickle.loads(pickle.dumps(recipe))
        torch.testing.assert_close(again.load().predict(self.pixels[:, :2]), answer)
        assert again.hash == recipe.hash
        assert recipe.hash not in {
            model_recipe(one).hash,
            model_recipe([two, one]).hash,
        }

    @pytest.mark.parametrize(
        ("other", "message"),
        [
            (a_card(classes=("a", "b", "d")), "have different classes"),
            (a_card(output="labels"), "answers labels"),
            (replace(a_card(), window=256, multiple=None), "windows of 256 px only"),
        ],
    )
    def test_what_does_not_go_together(self, other, message):
        with pytest.raises(ModelError, match=message):
            ensemble_card([a_card(), other])

    def test_windows_and_overlaps_suit_all(self):
        other = replace(a_card(overlap=100), window=256, multiple=32)
        card = ensemble_card([a_card(overlap=32), other])
        assert (card.window, card.overlap, card.multiple) == (512, 100, 32)

    def test_none_is_an_error(self):
        with pytest.raises(ModelError, match="no model"):
            model_recipe([])
