"""Checkpoints as torchgeo's and terratorch's trainers write them."""

import argparse
import json
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from geoseg.core.grid import Window
from geoseg.errors import MissingExtraError, ModelError
from geoseg.models.load import load_model, model_recipe
from geoseg.models.networks.checkpoint import _of, _read
from geoseg.models.pack import pack
from geoseg.rasters.open import open_source

smp = pytest.importorskip("segmentation_models_pytorch")

BANDS = [str(i + 1) for i in range(8)]
CARD = {
    "bands": BANDS, "classes": ["field", "edge", "other"], "mean": 1500, "std": 900,
    "window": 64, "overlap": 16,
}  # fmt: skip


def a_network(arch="Unet", classes=3, **arguments):
    torch.manual_seed(0)
    return getattr(smp, arch)(
        "resnet18", encoder_weights=None, in_channels=8, classes=classes, **arguments
    ).eval()


def write(path, state, settings, card=CARD):
    """Write what Lightning does."""
    content = {
        "state_dict": state, "hyper_parameters": settings, "epoch": 3,
        "global_step": 17, "pytorch-lightning_version": "2.5.0", "loops": {},
        "callbacks": {}, "optimizer_states": [], "lr_schedulers": [],
    }  # fmt: skip
    torch.save(content, path)
    if card is not None:
        path.with_suffix(".json").write_text(json.dumps(card))


def torchgeo(path, net, model="unet", card=CARD, classes=3, **more):
    """Write as `torchgeo.trainers.SemanticSegmentationTask` does."""
    state = {f"model.{k}": v for k, v in net.state_dict().items()}
    state["criterion.weight"] = torch.ones(classes)
    write(
        path, state,
        {
            "model": model, "backbone": "resnet18", "weights": None, "in_channels": 8,
            "num_classes": classes, "loss": "ce", "ignore_index": None, "lr": 1e-3,
            "num_filters": 3, "freeze_backbone": False, **more,
        },
        card,
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def pixels(shared):
    source = open_source(str(shared / "ftw_austria" / "inference-img.tif"))
    return source.read(Window(y=100, x=200, height=64, width=64))[0][None]


def expected(net, pixels):
    with torch.inference_mode():
        return net((torch.from_numpy(pixels.astype("f4")) - 1500) / 900)


@pytest.mark.parametrize(
    ("name", "arch"),
    [("unet", "Unet"), ("deeplabv3+", "DeepLabV3Plus"), ("upernet", "UPerNet")],
)
def test_torchgeo(tmp_path, pixels, name, arch):
    net = a_network(arch)
    path = torchgeo(tmp_path / "a.ckpt", net, name)
    model = load_model(path, device="cpu", precision="fp32")
    found, wanted = model.predict(pixels), expected(net, pixels)
    torch.testing.assert_close(found.softmax(1), wanted.softmax(1), rtol=0, atol=1e-4)
    assert (found.argmax(1) == wanted.argmax(1)).float().mean() > 0.9995
    assert model.card.framework["arch"] == arch


def test_terratorchs_wrapped_networks(tmp_path, pixels):
    """As terratorch 1.2 writes what its `SMPModelFactory` has made."""
    net = a_network("Unet", decoder_channels=[64, 32, 32, 16, 16])
    state = {f"model.smp_model.{k}": v for k, v in net.state_dict().items()}
    path = tmp_path / "a.ckpt"
    settings = {
        "task": "segmentation", "model_factory": "SMPModelFactory", "model": None,
        "model_args": {
            "model": "Unet", "backbone": "resnet18", "bands": BANDS, "num_classes": 3,
            "pretrained": True, "smp_decoder_channels": [64, 32, 32, 16, 16],
        },
        "loss": "ce", "class_names": None,
    }  # fmt: skip
    write(path, state, settings)
    model = load_model(path, device="cpu", precision="fp32")
    torch.testing.assert_close(
        model.predict(pixels).softmax(1), expected(net, pixels).softmax(1),
        rtol=0, atol=1e-4,
    )  # fmt: skip


def test_one_sigmoid(tmp_path, pixels):
    net = a_network(classes=1)
    card = CARD | {"classes": ["other", "field"], "activation": "sigmoid"}
    path = torchgeo(tmp_path / "a.ckpt", net, card=card, classes=1)
    found = load_model(path, device="cpu", precision="fp32").predict(pixels)
    wanted = expected(net, pixels).sigmoid()
    torch.testing.assert_close(found.sigmoid()[:, 1:], wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("settings", [{"loss": "mse"}, {"num_outputs": 1}])
def test_networks_that_answer_numbers_are_refused(tmp_path, settings):
    card = CARD | {"classes": ["other", "field"]}
    net = a_network(classes=1)
    path = torchgeo(tmp_path / "a.ckpt", net, card=card, classes=1, **settings)
    with pytest.raises(ModelError, match="trained to answer numbers"):
        load_model(path, device="cpu")


FPN = {"family": "smp", "arch": "FPN", "encoder": "resnet18"}


@pytest.mark.parametrize("before", ["", "module.", "_orig_mod.net.", "unet.", "x"])
@pytest.mark.parametrize("name", ["a.ckpt", "a.pth", "a.pt"])
def test_the_card_may_say_which_network_it_is_of(tmp_path, pixels, before, name):
    """A bare state_dict, and what trainers put around one."""
    net = a_network("FPN")
    state = {f"{before}{k}": v for k, v in net.state_dict().items()}
    path = tmp_path / name
    bare = state if before in ("", "module.") else {"state_dict": state}
    torch.save(bare, path)
    path.with_suffix(".json").write_text(json.dumps(CARD | {"framework": FPN}))
    if before == "x":
        with pytest.raises(ModelError, match="tensors are missing"):
            load_model(path, device="cpu")
        return
    found = load_model(path, device="cpu", precision="fp32").predict(pixels)
    torch.testing.assert_close(
        found.softmax(1), expected(net, pixels).softmax(1), rtol=0, atol=1e-4
    )


def test_a_module_of_ones_own(tmp_path, pixels):
    """As the library's own example: one sigmoid, mean and std beside the network."""
    net = a_network("FPN", classes=1)
    state = {f"model.{k}": v for k, v in net.state_dict().items()}
    state |= {"mean": torch.zeros(1, 3, 1, 1), "std": torch.ones(1, 3, 1, 1)}
    card = CARD | {"classes": ["field"], "activation": "sigmoid"}
    settings = {"arch": "FPN", "encoder_name": "resnet18", "out_classes": 1}
    write(tmp_path / "a.ckpt", state, settings, card | {"framework": FPN})
    model = load_model(tmp_path / "a.ckpt", device="cpu", precision="fp32")
    assert [c.name for c in model.card.classes] == ["background", "field"]
    wanted = expected(net, pixels).sigmoid()
    torch.testing.assert_close(
        model.predict(pixels).sigmoid()[:, 1:], wanted, rtol=0, atol=1e-4
    )


def test_weights_beside_what_training_needs(tmp_path):
    net = a_network("FPN")
    path = tmp_path / "a.pth"
    path.with_suffix(".json").write_text(json.dumps(CARD | {"framework": FPN}))
    optimizer = torch.optim.Adam(net.parameters()).state_dict()
    for name in ("model", "model_state_dict", "unet"):
        torch.save({name: net.state_dict(), "optimizer": optimizer, "epoch": 3}, path)
        assert load_model(path, device="cpu").card.name == "a"
    torch.save({"student": net.state_dict(), "teacher": net.state_dict()}, path)
    with pytest.raises(ModelError, match=r"2 sets of weights \(student, teacher\)"):
        model_recipe(path)


def test_an_average_beside_the_weights_is_asked_about(tmp_path, pixels):
    """As timm, torchvision's references and Lightning keep one."""
    net, path, torn = a_network("FPN"), tmp_path / "a.pth", a_network("FPN")
    torch.nn.init.normal_(torn.segmentation_head[0].weight)
    state, other = net.state_dict(), torn.state_dict()
    within = {f"model.{k}": v for k, v in other.items()}
    within |= {f"ema.module.{k}": v for k, v in state.items()}
    for content, asked in (
        ({"state_dict": other, "state_dict_ema": state}, "state_dict_ema"),
        ({"model": other, "ema": state, "epoch": 3}, "ema"),
        ({"state_dict": within}, "ema.module"),
    ):
        torch.save(content, path)
        path.with_suffix(".json").write_text(json.dumps(CARD | {"framework": FPN}))
        with pytest.raises(ModelError, match=r'"framework": {"state": "\w+"}'):
            load_model(path)
        card = CARD | {"framework": FPN | {"state": asked}}
        path.with_suffix(".json").write_text(json.dumps(card))
        found = load_model(path, device="cpu", precision="fp32").predict(pixels)
        torch.testing.assert_close(
            found.softmax(1), expected(net, pixels).softmax(1), rtol=0, atol=1e-4
        )
    path.with_suffix(".json").write_text(json.dumps(CARD | {"framework": FPN}))
    torch.save({"state_dict": state, "current_model_state": other}, path)
    assert load_model(path).card.name == "a", "Lightning's average is its state_dict"
    wrong = CARD | {"framework": FPN | {"state": "emma"}}
    path.with_suffix(".json").write_text(json.dumps(wrong))
    with pytest.raises(ModelError, match="state 'emma' that its card asks for"):
        load_model(path)


def test_older_files_and_numbers_beside_weights(tmp_path):
    net, path = torch.nn.Conv2d(2, 3, 1), tmp_path / "a.pth"
    content = {"net": net.state_dict(), "accuracy": torch.tensor(0.8)}
    for zipped in (True, False):  # before PyTorch 1.6
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        assert _read(path)["state_dict"].keys() == net.state_dict().keys()


def test_what_training_keeps_beside_weights(tmp_path):
    """Settings of argparse, NumPy's numbers, a loss; and a second network."""
    net, path = torch.nn.Conv2d(2, 3, 1), tmp_path / "a.pth"
    kept = {"net": argparse.Namespace(folder=tmp_path), "best": np.float64(0.8)}
    torch.save({"model": net.state_dict(), **kept}, path)
    assert _read(path)["state_dict"].keys() == net.state_dict().keys()
    state = {f"student.{k}": v for k, v in net.state_dict().items()}
    found = _of(net, state | {"loss.weight": torch.ones(3)}, path)
    assert found.keys() == net.state_dict().keys()
    state |= {f"teacher.{k}": v for k, v in net.state_dict().items()}
    with pytest.raises(ModelError, match=r"of 2 networks \(student, teacher\)"):
        _of(net, state, path)
    torch.save({"model": net.state_dict(), "loss": torch.nn.L1Loss()}, path)
    assert _read(path)["state_dict"].keys() == net.state_dict().keys()
    torch.save(torch.nn.L1Loss(), path)
    with pytest.raises(
        ModelError, match=r"\(torch\.nn\.modules\.loss\.L1Loss\), which"
    ):
        _read(path)


def test_weights_in_any_file_and_any_folder(tmp_path):
    """`.safetensors` and `.pth.tar` beside a card; a folder with a card and weights."""
    net = a_network("FPN")
    card = json.dumps(CARD | {"framework": FPN})
    folder, beside = tmp_path / "fpn", tmp_path / "a.safetensors"
    folder.mkdir()
    save_file(net.state_dict(), beside)
    beside.with_suffix(".json").write_text(card)
    torch.save(net.state_dict(), folder / "best.pth.tar")
    (folder / "best.pth.json").write_text(card)
    hashes = [load_model(beside).card, load_model(folder / "best.pth.tar").card]
    assert {c.channels for c in hashes} == {3}
    (folder / "best.pth.tar").rename(folder / "best.pth")
    (folder / "best.pth.json").rename(folder / "card.json")
    assert load_model(folder).card.name == "fpn"
    for wrong, near in (
        ({"arch": "fpn"}, "did you mean 'FPN'"),
        ({"encoder": "resnet_18"}, "smp has none; did you mean 'resnet18'"),
        ({"encodr": "resnet18"}, "did you mean 'encoder'"),
        ({"family": "timm"}, "exported to .pt2"),
    ):
        plain = CARD | {"framework": FPN | wrong}
        beside.with_suffix(".json").write_text(json.dumps(plain))
        with pytest.raises(ModelError, match=near) as told:
            load_model(beside)
        assert str(beside.with_suffix(".json")) in str(told.value)


def test_the_librarys_own_folder(tmp_path, pixels):
    """`save_pretrained` of segmentation_models_pytorch; the card says the scaling."""
    net = a_network("FPN")
    folder = tmp_path / "fpn"
    net.save_pretrained(folder)
    with pytest.raises(ModelError, match=r"without a card: write .*card\.json: \{"):
        model_recipe(folder)
    card = CARD | {"framework": {"family": "smp"}}
    (folder / "card.json").write_text(json.dumps(card))
    for where in (folder, pack(str(folder), tmp_path / "packed")):
        found = load_model(where, device="cpu", precision="fp32").predict(pixels)
        torch.testing.assert_close(
            found.softmax(1), expected(net, pixels).softmax(1), rtol=0, atol=1e-4
        )


@pytest.mark.parametrize(
    "more", [{"psp_use_batchnorm": False}, {"psp_out_channels": 64}]
)
def test_folders_of_older_versions(tmp_path, pixels, more):
    """Settings of the library's file count: their names are others since 0.5."""
    new = {"decoder_use_norm" if "use" in k else k: v for k, v in more.items()}
    net, folder = a_network("PSPNet", **new), tmp_path / "net"
    net.save_pretrained(folder)
    told = json.loads((folder / "config.json").read_text())
    told = {k: v for k, v in told.items() if k not in new} | more
    (folder / "config.json").write_text(json.dumps(told))
    card = CARD | {"framework": {"family": "smp"}}
    (folder / "card.json").write_text(json.dumps(card))
    found = load_model(folder, device="cpu", precision="fp32").predict(pixels)
    torch.testing.assert_close(
        found.softmax(1), expected(net, pixels).softmax(1), rtol=0, atol=1e-4
    )


def test_what_changes_the_answer_and_no_weight_is_heard(tmp_path, pixels):
    """Strides of the encoder; a head for whole pictures beside it; a last layer."""
    pictures = {"aux_params": {"classes": 2}}
    nets = (
        a_network("DeepLabV3Plus", encoder_output_stride=8),
        a_network("FPN", activation="softmax2d", **pictures),
    )  # fmt: skip
    for net in nets:
        net.save_pretrained(tmp_path / "net")
        card = CARD | {"framework": {"family": "smp"}}
        card |= {"output": "probabilities"} if net.name.startswith("fpn") else {}
        (tmp_path / "net" / "card.json").write_text(json.dumps(card))
        model = load_model(tmp_path / "net", device="cpu", precision="fp32")
        wanted = expected(net, pixels)
        wanted = wanted[0] if isinstance(wanted, tuple) else wanted.softmax(1)
        assert model.card.output == "logits"
        found = model.predict(pixels).softmax(1)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "written", [{"activation": "sigmoid"}, {"output": "probabilities"}]
)
def test_a_last_layer_that_is_a_sigmoid(tmp_path, pixels, written):
    net = a_network(classes=1, activation="sigmoid")
    card = CARD | {"classes": ["field"], **written}
    path = torchgeo(tmp_path / "a.ckpt", net, card=card, classes=1)
    framework = {"family": "smp", "arch": "Unet", "encoder": "resnet18"}
    card |= {"framework": framework | {"activation": "sigmoid"}}
    path.with_suffix(".json").write_text(json.dumps(card))
    found = load_model(path, device="cpu", precision="fp32").predict(pixels)
    torch.testing.assert_close(
        found.sigmoid()[:, 1:], expected(net, pixels), rtol=0, atol=1e-4
    )
    card["framework"]["activation"] = "sigmoi"
    path.with_suffix(".json").write_text(json.dumps(card))
    with pytest.raises(ModelError, match="did you mean 'sigmoid'"):
        load_model(path)


def test_labels_that_are_told_each_by_itself_are_said(tmp_path):
    path = torchgeo(tmp_path / "a.ckpt", a_network(), task="multilabel", loss="bce")
    card = model_recipe(path).card
    assert card.activation == "sigmoid"
    assert "(multilabel)" in card.facts["warning"]


def test_a_packed_folder(tmp_path, pixels):
    path = torchgeo(tmp_path / "a.ckpt", a_network())
    folder = pack(str(path), tmp_path / "packed")
    found = load_model(folder, device="cpu", precision="fp32").predict(pixels)
    again = load_model(path, device="cpu", precision="fp32").predict(pixels)
    np.testing.assert_array_equal(found, again)


def test_what_is_wrong_is_one_line(tmp_path):
    path = torchgeo(tmp_path / "a.ckpt", a_network(), card=None)
    with pytest.raises(ModelError, match=r"no card beside it: write a\.json"):
        model_recipe(path)
    torchgeo(path, a_network(), model="mamba")
    with pytest.raises(ModelError, match="settings name 'mamba'"):
        model_recipe(path)
    torchgeo(path, a_network(), card=CARD | {"classes": ["a", "b"]})
    with pytest.raises(ModelError, match="2 classes, the weights 3"):
        load_model(path)
    torch.save({"weights": torch.ones(2)}, path)
    with pytest.raises(ModelError, match="which network it is of"):
        model_recipe(path)
    path.write_bytes(b"nonsense" * 99)
    with pytest.raises(ModelError) as caught:
        model_recipe(path)
    assert "\n" not in str(caught.value)


MADE = Path(tempfile.gettempdir()) / "geoseg-test-evil"


class Evil:
    def __reduce__(self):
        return (open, (str(MADE), "w"))


class Settings:
    """As of a package that is not installed here."""

    def __init__(self):
        self.task = "building"


def test_nothing_is_unpickled(tmp_path):
    path = tmp_path / "a.ckpt"
    MADE.unlink(missing_ok=True)
    net = a_network("FPN")
    torchgeo(path, net, model="fpn", loss=Evil())
    assert model_recipe(path).card.framework["arch"] == "FPN"
    torch.save(Evil(), path)
    with pytest.raises(ModelError, match="does not unpickle"):
        model_recipe(path)
    assert not MADE.exists()


@pytest.mark.parametrize("whole", [True, False])
def test_weights_are_read_beside_objects_of_other_packages(tmp_path, whole):
    net, path = a_network("FPN"), tmp_path / "a.ckpt"
    settings = Settings() if whole else {"net": Settings(), "lr": 1e-3}
    framework = {"family": "smp", "arch": "FPN", "encoder": "resnet18"}
    state = {f"net.{k}": v for k, v in net.state_dict().items()}
    write(path, state, settings, CARD)
    with pytest.raises(ModelError, match="which network it is of"):
        model_recipe(path)
    write(path, state, settings, CARD | {"framework": framework})
    model = load_model(path, device="cpu", precision="fp32")
    assert "settings as objects" in model.card.facts["warning"]
    pixels = np.random.default_rng(0).integers(0, 3000, (1, 8, 64, 64), np.uint16)
    with torch.no_grad():
        expected = net((torch.from_numpy(pixels.astype("f4")) - 1500) / 900)
    torch.testing.assert_close(model.predict(pixels), expected, rtol=0, atol=1e-4)


def test_upernet_of_another_release_is_no_wrong_argument(tmp_path):
    framework = {"family": "smp", "arch": "UPerNet", "encoder": "resnet18"}
    weights = {"decoder.fpn_stages.0.conv_block.0.weight": torch.ones(2)}
    torch.save(weights, tmp_path / "a.pth")
    card = CARD | {"framework": framework}
    (tmp_path / "a.json").write_text(json.dumps(card))
    with pytest.raises(ModelError, match=r"UPerNet of .* 0\.4.*export it"):
        load_model(tmp_path / "a.pth")
    card["framework"] |= {"decoder_pyramid_channels": 256}
    (tmp_path / "card.json").write_text(json.dumps(card))
    save_file(weights, tmp_path / "weights.safetensors")
    with pytest.raises(ModelError, match=r"UPerNet of .* 0\.4.*export it"):
        load_model(tmp_path / "card.json")


def test_a_whole_network_is_not_unpickled(tmp_path):
    path = tmp_path / "a.pth"
    path.with_suffix(".json").write_text(json.dumps(CARD))
    content = {"model": Settings(), "optimizer": {"state": {0: {"m": torch.ones(1)}}}}
    torch.save(content, path)
    with pytest.raises(ModelError, match=r"Settings\), which geoseg does not unpickle"):
        model_recipe(path)


def test_what_only_terratorch_builds_names_it(tmp_path):
    if find_spec("terratorch"):
        pytest.skip("terratorch is installed")
    path = tmp_path / "a.ckpt"
    settings = {
        "model_factory": "EncoderDecoderFactory",
        "model_args": {"backbone": "prithvi_eo_v1_100", "decoder": "FCNDecoder"},
    }
    write(path, {"model.x": torch.ones(1)}, settings)
    with pytest.raises(MissingExtraError, match="terratorch"):
        load_model(path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mask_decoder.iou_token.weight", "hf:facebook/sam-vit-base"),
        ("decode_head.conv_seg.weight", "mmdeploy"),
        ("stem.weight", "exported to .onnx or .pt2"),
    ],
)
def test_networks_of_other_libraries_have_another_way(tmp_path, name, said):
    path = tmp_path / "a.pth"
    path.with_suffix(".json").write_text(json.dumps(CARD))
    torch.save({"meta": {"epoch": 1}, "state_dict": {name: torch.ones(3, 2)}}, path)
    with pytest.raises(ModelError, match=said):
        model_recipe(path)
