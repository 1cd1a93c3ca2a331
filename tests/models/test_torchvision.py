"""Networks of torchvision against the library itself."""

import json

import numpy as np
import pytest
import torch

from geoseg.core.grid import Window
from geoseg.errors import ModelError
from geoseg.models.load import load_model, model_recipe
from geoseg.models.objects import from_masks
from geoseg.models.plain import card_from_dict
from geoseg.rasters.open import open_source

pytest.importorskip("torchvision")

from geoseg.models.networks.torchvision_nets import build, save_model


def a_card(arch, bands=3, task="semantic", **more):
    return card_from_dict(
        {
            "bands": ["red", "green", "blue", "nir", "a", "b", "c", "d"][:bands],
            "classes": ["field", "house", "road"],
            "mean": 120.0,
            "std": 60.0,
            "task": task,
            "window": 128,
            "overlap": 32,
            "framework": {"family": "torchvision", "arch": arch},
            **more,
        }
    )


def saved(tmp_path, card):
    torch.manual_seed(0)
    net = build(card).eval()
    return net, save_model(net, card, tmp_path / "model")


@pytest.fixture(scope="module")
def pixels(shared):
    source = open_source(str(shared / "banepa_buildings" / "banepa_predict_rgb.tif"))
    return source.read(Window(y=700, x=600, height=128, width=128))[0][None]


@pytest.mark.parametrize(
    "arch",
    ["fcn_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"],
)
def test_parity(tmp_path, pixels, arch):
    net, folder = saved(tmp_path, a_card(arch))
    scores = load_model(folder, device="cpu", precision="fp32").predict(pixels)
    with torch.inference_mode():
        expected = net((torch.from_numpy(pixels).float() - 120) / 60)["out"]
    torch.testing.assert_close(
        scores.softmax(1), expected.softmax(1), rtol=0, atol=1e-4
    )
    assert (scores.argmax(1) == expected.argmax(1)).float().mean() > 0.9999


@pytest.mark.parametrize("bands", [1, 8])
def test_any_number_of_bands(tmp_path, bands):
    _, folder = saved(tmp_path, a_card("lraspp_mobilenet_v3_large", bands))
    windows = np.zeros((1, bands, 64, 64), np.uint16)
    assert load_model(folder).predict(windows).shape == (1, 3, 64, 64)


@pytest.mark.parametrize(
    ("framework", "message"),
    [
        ({"arch": "unet"}, "'unet'.*not one of fcn_resnet50"),
        ({"arch": "maskrcnn_resnet50_fpn"}, "task is semantic"),
        ({"arch": "fcn_resnet50", "depth": 3, "num_classes": "x"}, "cannot be built"),
    ],
)
def test_wrong_frameworks(framework, message):
    card = a_card("", framework={"family": "torchvision", **framework})
    with pytest.raises(ModelError, match=message):
        build(card)


class TestMaskRcnn:
    """Random weights find objects everywhere, if every score counts."""

    def test_parity(self, tmp_path, pixels):
        framework = {
            "family": "torchvision",
            "arch": "maskrcnn_resnet50_fpn",
            "box_detections_per_img": 12,
        }
        about = {"task": "instance", "framework": framework, "facts": {"score": 0.3}}
        card = a_card("", **about)
        net, folder = saved(tmp_path, card)
        model = load_model(folder, device="cpu")
        objects = model.predict(pixels)[0]
        with torch.inference_mode():
            found = net(list((torch.from_numpy(pixels).float() - 120) / 60))[0]
        assert (found["scores"] >= 0.3).any(), "the test needs objects"
        expected = from_masks(
            found["masks"][:, 0].numpy() > 0.5,
            found["labels"].numpy() - 1,
            found["scores"].numpy(),
            min_score=0.3,
        )
        np.testing.assert_array_equal(objects.labels, expected.labels)
        np.testing.assert_array_equal(objects.classes, expected.classes)
        np.testing.assert_allclose(objects.scores, expected.scores, atol=1e-4)
        # The same among other windows of a batch, as on a GPU.
        model = model_recipe(folder, device="cpu", engine="torch", batch=2).load()
        both = np.concatenate([pixels[..., ::-1], pixels]).astype(np.float32)
        with torch.no_grad():
            features = model.features(torch.from_numpy(both))
            there = model.found(features, 1, (128, 128)).tensors()
        objects = model.objects(*(x.numpy() for x in there))
        assert (objects.labels == expected.labels).mean() > 0.999
        np.testing.assert_allclose(objects.scores, expected.scores, atol=1e-4)

    def test_a_checkpoint_of_the_librarys_own(self, tmp_path, pixels):
        """Its windows are resized as the library resizes its images."""
        from torchvision.models.detection import maskrcnn_resnet50_fpn

        torch.manual_seed(0)
        sizes = {"min_size": 96, "max_size": 160, "box_detections_per_img": 12}
        net = maskrcnn_resnet50_fpn(
            weights=None, weights_backbone=None, num_classes=2, **sizes
        ).eval()
        path = tmp_path / "trees.pth"
        torch.save({"model": net.state_dict(), "epoch": 7}, path)
        framework = {"family": "torchvision", "arch": "maskrcnn_resnet50_fpn"}
        card = {
            "bands": ["red", "green", "blue"], "classes": ["tree"], "window": 128,
            "mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375],
            "task": "instance", "facts": {"score": 0.3}, "framework": framework,
        }  # fmt: skip
        path.with_suffix(".json").write_text(json.dumps(card))
        assert model_recipe(path).card.framework["min_size"] == 800
        framework |= sizes
        path.with_suffix(".json").write_text(json.dumps(card))
        (objects,) = load_model(path, device="cpu").predict(pixels)
        with torch.inference_mode():
            found = net(list(torch.from_numpy(pixels).float() / 255))[0]
        expected = from_masks(
            found["masks"][:, 0].numpy() > 0.5,
            found["labels"].numpy() - 1,
            found["scores"].numpy(),
            min_score=0.3,
        )
        assert len(expected.classes), "the test needs objects"
        assert (objects.labels == expected.labels).mean() > 0.99
        np.testing.assert_allclose(objects.scores, expected.scores, atol=1e-3)
