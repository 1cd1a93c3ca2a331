"""Packed models are the same models, wherever the folder is."""

import json
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from geoseg.errors import ModelError
from geoseg.models.load import load_model
from geoseg.models.pack import build_network, new_card, pack, save_model
from geoseg.models.stac import read_card

CARD = {"bands": ["a", "b"], "classes": ["x", "y", "z"], "window": 32, "overlap": 8}
PIXELS = np.random.default_rng(0).random((2, 2, 32, 32)).astype("f4")


def the_same(one, other):
    one, other = (load_model(m, device="cpu", precision="fp32") for m in (one, other))
    assert one.card.classes == other.card.classes
    assert one.card.bands == other.card.bands
    torch.testing.assert_close(one.predict(PIXELS), other.predict(PIXELS))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["pt2", "pt"])
def test_exported_files(tmp_path, kind):
    net, example = nn.Conv2d(2, 3, 3, padding=1).eval(), torch.zeros(1, 2, 32, 32)
    origin = tmp_path / f"m.{kind}"
    if kind == "pt2":
        torch.export.save(torch.export.export(net, (example,)), origin)
    else:
        torch.jit.trace(net, example).save(str(origin))
    (tmp_path / "m.json").write_text(json.dumps(CARD))
    folder = pack(str(origin), tmp_path / "packed")
    shutil.move(folder, tmp_path / "elsewhere")
    the_same(origin, tmp_path / "elsewhere")


def test_a_folder_of_smp(tmp_path):
    pytest.importorskip("segmentation_models_pytorch")
    from geoseg.models.networks.smp import save_model
    from geoseg.models.plain import card_from_dict

    framework = {"family": "smp", "arch": "Unet", "encoder": "resnet18"}
    card = card_from_dict(CARD | {"framework": framework})
    origin = save_model(build_network(card), card, tmp_path / "origin")
    with pytest.raises(ModelError, match="names the family None: networks are built"):
        build_network(CARD)
    the_same(origin, pack(str(origin), tmp_path / "packed"))
    with pytest.raises(ModelError, match="is there already"):
        pack(str(origin), tmp_path / "packed")
    pack(str(origin / "card.json"), tmp_path / "packed", overwrite=True)


def test_a_folder_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.SegformerConfig(
        num_channels=2, hidden_sizes=[8, 16, 20, 24], depths=[1] * 4, num_labels=3,
        num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=16,
    )  # fmt: skip
    net = transformers.SegformerForSemanticSegmentation(config)
    net.save_pretrained(tmp_path / "origin")
    scaling = json.dumps({"do_rescale": False, "do_normalize": False})
    (tmp_path / "origin" / "preprocessor_config.json").write_text(scaling)
    folder = pack(str(tmp_path / "origin"), tmp_path / "packed")
    assert (folder / "card.json").is_file()
    the_same(tmp_path / "origin", folder)
    (tmp_path / "secret.json").write_text("{}")
    (tmp_path / "origin/more.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(ModelError, match="is a link out of its folder"):
        pack(str(tmp_path / "origin"), tmp_path / "again")
    cached = tmp_path / "models--a--b/snapshots/1"
    (cached.parents[1] / "blobs").mkdir(parents=True)
    cached.mkdir(parents=True)
    (tmp_path / "origin/more.json").unlink()
    for file in (tmp_path / "origin").iterdir():
        kept = shutil.copy(file, cached.parents[1] / "blobs")
        (cached / file.name).symlink_to(kept)
    assert (pack(str(cached), tmp_path / "of_the_hub") / "model.safetensors").is_file()


@pytest.mark.parametrize("spec", ["threshold:ndwi", "module:make", "nowhere"])
def test_nothing_to_pack(tmp_path, spec):
    with pytest.raises(ModelError, match="nothing to pack"):
        pack(spec, tmp_path / "out")


class Own(nn.Module):
    """Somebody's network, of no library."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.conv = nn.Conv2d(2, 3, 3, padding=1)

    def forward(self, x):
        return self.conv(x).relu()


@pytest.mark.filterwarnings("ignore")
class TestSaveModel:
    def test_a_network_of_ones_own_is_exported(self, tmp_path):
        net = Own().eval()
        folder = save_model(net, CARD | {"mean": 0.5, "std": 2.0}, tmp_path / "m")
        model = load_model(folder, device="cpu")
        with torch.no_grad():
            expected = net((torch.from_numpy(PIXELS) - 0.5) / 2)
        torch.testing.assert_close(model.predict(PIXELS), expected)
        assert model.card.name == "m"
        assert net.conv.weight.requires_grad

    def test_a_network_of_a_library_is_kept_as_weights(self, tmp_path):
        smp = pytest.importorskip("segmentation_models_pytorch")
        net = smp.Unet("resnet18", encoder_weights=None, in_channels=2, classes=3)
        framework = {"family": "smp", "arch": "Unet", "encoder": "resnet18"}
        folder = save_model(net.eval(), CARD | {"framework": framework}, tmp_path / "m")
        assert (folder / "weights.safetensors").is_file()
        scores = load_model(folder, device="cpu", precision="fp32").predict(PIXELS)
        with torch.no_grad():
            expected = net(torch.from_numpy(PIXELS))
        torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4)

    def test_what_cannot_be_saved_is_told(self, tmp_path):
        class Peeks(nn.Module):
            def forward(self, x):
                return x if float(x.sum()) > 0 else x.numpy()

        with pytest.raises(ModelError, match="cannot be exported"):
            save_model(Peeks(), CARD, tmp_path / "m")
        with pytest.raises(ModelError, match="names the family 'magic'"):
            save_model(Own(), CARD | {"framework": {"family": "magic"}}, tmp_path)


def test_a_new_card_is_one(tmp_path):
    """What `geoseg model new` writes is read as it stands, comments and all."""
    path = new_card(tmp_path / "roads.json")
    card = read_card(path)
    assert card.name == "roads"
    assert [b.name for b in card.bands] == ["red", "green", "blue"]
    assert read_card(new_card(tmp_path / "forest")).name == "forest"
    with pytest.raises(ModelError, match="is there already"):
        new_card(tmp_path / "roads.json")
    new_card(tmp_path / "roads.json", overwrite=True)


def test_a_new_card_lies_beside_its_network(tmp_path):
    (tmp_path / "roads.onnx").write_bytes(b"")
    assert new_card(tmp_path / "roads.onnx") == tmp_path / "roads.json"
    (tmp_path / "scene.tif").write_bytes(b"")
    with pytest.raises(ModelError, match=r"no network's: name the card, .*scene\.json"):
        new_card(tmp_path / "scene.tif")
