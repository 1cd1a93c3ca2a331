"""Packed models are the same models, wherever the folder is."""

import json
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from geoseg.errors import ModelError
from geoseg.models.load import load_model
from geoseg.models.pack import pack

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
    from geoseg.models.networks.smp import build, save_model, smp_card
    from geoseg.models.plain import card_from_dict

    card = smp_card(card_from_dict(CARD), arch="Unet", encoder="resnet18")
    origin = save_model(build(card), card, tmp_path / "origin")
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
    folder = pack(str(tmp_path / "origin"), tmp_path / "packed")
    assert (folder / "card.json").is_file()
    the_same(tmp_path / "origin", folder)


@pytest.mark.parametrize("spec", ["threshold:ndwi", "module:make", "nowhere"])
def test_nothing_to_pack(tmp_path, spec):
    with pytest.raises(ModelError, match="nothing to pack"):
        pack(spec, tmp_path / "out")
