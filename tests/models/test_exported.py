"""Exported networks: torch.export, TorchScript, ONNX, against their origin."""

import io
import json
import pickle
import re
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from geoseg.core.grid import Window
from geoseg.errors import ModelError
from geoseg.models.load import load_model, model_recipe
from geoseg.models.networks.safe_program import _is_size
from geoseg.models.pack import pack
from geoseg.rasters.open import open_source

CARD = {
    "bands": ["red", "green", "blue"],
    "classes": ["field", "house", "road"],
    "mean": 120,
    "std": 60,
    "window": 64,
    "overlap": 16,
}


def a_network(channels=3, stride=1):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, channels, 3, padding=1, stride=stride),
    ).eval()


def write_card(path, **more):
    path.write_text(json.dumps(CARD | more))


def write_onnx(path, net, *, dynamic=False, shape=(1, 3, 64, 64), **metadata):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    axes = {"x": {0: "n", 2: "h", 3: "w"}, "y": {0: "n"}} if dynamic else None
    torch.onnx.export(
        net, (torch.zeros(shape),), str(path), input_names=["x"], output_names=["y"],
        dynamic_axes=axes, dynamo=False,
    )  # fmt: skip
    if metadata:
        model = onnx.load(str(path))
        for key, value in metadata.items():
            entry = model.metadata_props.add()
            entry.key, entry.value = key, json.dumps(value)
        onnx.save(model, str(path))


@pytest.fixture(scope="module")
def pixels(shared):
    source = open_source(str(shared / "banepa_buildings" / "banepa_predict_rgb.tif"))
    return np.stack(
        [source.read(Window(y=y, x=600, height=64, width=64))[0] for y in (0, 700, 900)]
    )


def expected(net, pixels):
    with torch.inference_mode():
        return net((torch.from_numpy(pixels).float() - 120) / 60)


def check(model, net, pixels):
    wanted = expected(net, pixels)
    scores = model.predict(pixels)
    torch.testing.assert_close(scores.softmax(1), wanted.softmax(1), rtol=0, atol=1e-4)
    assert (scores.argmax(1) == wanted.argmax(1)).float().mean() > 0.9999
    assert model.precision == "fp32"


def _any_batch(**sides):
    batch = torch.export.Dim("batch", max=64)
    zeros = torch.zeros(2, 3, 64, 96 if sides else 64)
    free = {0: batch} | {int(k[1:]): torch.export.Dim(v) for k, v in sides.items()}
    return torch.export.export(a_network(), (zeros,), dynamic_shapes=(free,))


class Wrapped(nn.Module):
    """A network that answers in a list or under names."""

    def __init__(self, net, how):
        super().__init__()
        self.net, self.how = net, how

    def forward(self, x):
        first, second = self.net(x), -self.net(x)
        return [second, first] if self.how == "list" else {"out": second, "seg": first}


@pytest.mark.filterwarnings("ignore")
class TestTorch:
    @pytest.mark.parametrize(("how", "answer"), [("list", 1), ("names", "seg")])
    def test_which_answer_counts_is_asked_not_guessed(
        self, tmp_path, pixels, how, answer
    ):
        net, file = a_network(), str(tmp_path / "roads.pt")
        wrapped = Wrapped(net, how)
        torch.jit.trace(wrapped, torch.zeros(1, 3, 64, 64), strict=False).save(file)
        write_card(tmp_path / "roads.json", framework={"answer": answer})
        model = load_model(file, device="cpu")
        check(model, net, pixels)
        assert model.card.name == "roads"
        wrong = {} if how == "list" else {"answer": "sgm"}
        write_card(tmp_path / "roads.json", framework=wrong)
        with pytest.raises(ModelError, match=r'"framework": \{"answer"'):
            load_model(file, device="cpu").predict(pixels)

    def test_fewer_scores_than_pixels_are_said(self, tmp_path):
        net, file = a_network(stride=4), str(tmp_path / "m.pt")
        torch.jit.trace(net, torch.zeros(1, 3, 64, 64)).save(file)
        write_card(tmp_path / "m.json")
        model = load_model(file, device="cpu")
        model.working_bytes()
        (note,) = model.notes
        assert "answers 16 x 16 scores of a window of 64 x 64 px" in note
        assert "each is taken for 4 x 4 px" in note

    def test_a_small_window_alone_says_its_overlap(self, tmp_path):
        file = str(tmp_path / "m.pt")
        torch.jit.trace(a_network(), torch.zeros(1, 3, 64, 64)).save(file)
        plain = {k: v for k, v in CARD.items() if k != "overlap"}
        for side, overlap in ((64, 32), (50, 24), (512, 64)):
            (tmp_path / "m.json").write_text(json.dumps({**plain, "window": side}))
            assert model_recipe(file).card.overlap == overlap

    def test_torch_export(self, tmp_path, pixels):
        net = a_network()
        torch.export.save(
            torch.export.export(net, (torch.zeros(1, 3, 64, 64),)), tmp_path / "m.pt2"
        )
        write_card(tmp_path / "m.json")
        check(load_model(tmp_path / "m.pt2", device="cpu"), net, pixels)

    def test_in_bf16_products_are_cast(self, tmp_path, pixels):
        net = a_network()
        program = torch.export.export(net, (torch.zeros(1, 3, 64, 64),))
        torch.export.save(program, tmp_path / "m.pt2")
        write_card(tmp_path / "m.json")
        how = {"device": "cpu", "precision": "bf16", "engine": "torch"}
        model = model_recipe(tmp_path / "m.pt2", **how).load()
        plain = load_model(tmp_path / "m.pt2", device="cpu")
        assert (model.precision, plain.precision) == ("bf16", "fp32")
        three = np.concatenate([pixels] * 3)  # it was exported for one
        here, there = plain.predict(three).softmax(1), model.predict(three).softmax(1)
        assert not torch.equal(here, there)
        torch.testing.assert_close(there.float(), here, atol=0.02, rtol=0)

    @pytest.mark.parametrize("make", [torch.jit.script, None])
    def test_torchscript(self, tmp_path, pixels, make):
        net = a_network()
        script = make(net) if make else torch.jit.trace(net, torch.zeros(1, 3, 64, 64))
        script.save(str(tmp_path / "m.pt"))
        write_card(tmp_path / "card.json")
        check(load_model(tmp_path / "m.pt", device="cpu"), net, pixels)

    def test_checkpoints_are_not_unpickled(self, tmp_path):
        class Evil:
            def __reduce__(self):
                return open, (str(tmp_path / "ran"), "w")

        write_card(tmp_path / "card.json")
        for name in ("a.pt", "b.pth", "c.pt2"):
            (tmp_path / name).write_bytes(pickle.dumps(Evil()))
            with pytest.raises(ModelError, match=r"cannot be read|does not unpickle"):
                load_model(tmp_path / name)
        torch.save({"state_dict": a_network().state_dict()}, tmp_path / "d.pt")
        with pytest.raises(ModelError, match="which network it is of") as caught:
            load_model(tmp_path / "d.pt")
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize("sides", [{}, {"d2": "high", "d3": "wide"}])
    def test_a_program_may_have_a_batch_of_any_size(self, tmp_path, sides):
        """And sides: torch writes down products of them."""
        torch.export.save(_any_batch(**sides), tmp_path / "m.pt2")
        write_card(tmp_path / "m.json", **({"multiple": 8} if sides else {}))
        scores = load_model(tmp_path / "m.pt2", device="cpu").predict(
            np.zeros((2, 3, 64, 64), np.uint8)
        )
        assert scores.shape == (2, 3, 64, 64)

    @pytest.mark.parametrize("how", ["pickle", "size", "operator", "library"])
    def test_a_program_runs_nothing_but_itself(self, tmp_path, how):
        """Files that torch alone would run, or unpickle."""
        ran = tmp_path / "ran"

        class Evil:
            def __reduce__(self):
                return open, (str(ran), "w")

        evil = io.BytesIO()
        torch.save((Evil(), {}), evil)
        torch.export.save(_any_batch(), tmp_path / "good.pt2")
        with (
            zipfile.ZipFile(tmp_path / "good.pt2") as good,
            zipfile.ZipFile(tmp_path / "m.pt2", "w") as bad,
        ):
            changed = how == "library"
            for name in good.namelist():
                data = before = good.read(name)
                if how == "pickle" and name.endswith(".pt"):
                    data = evil.getvalue()
                elif how == "size":
                    call = f"open('{ran}', 'w')".encode()
                    data = re.sub(rb"Symbol\('s\d+'[^)]*\)", call, data)
                elif how == "operator":
                    data = data.replace(
                        b"torch.ops.aten.relu.default", b"torch.os.stat"
                    )
                changed |= data != before
                bad.writestr(name, data)
            if how == "library":
                bad.writestr("m/data/aotinductor/model/a.so", b"\x7fELF")
        assert changed
        write_card(tmp_path / "m.json")
        said = "cannot be read" if how == "pickle" else "is not only a network"
        with pytest.raises(ModelError, match=said) as caught:
            load_model(tmp_path / "m.pt2")
        assert "\n" not in str(caught.value)
        assert not ran.exists()

    @pytest.mark.parametrize(
        ("text", "good"),
        [
            ("s0", True),
            ("Symbol('s77', positive=True, integer=True)", True),
            ("Max(1, FloorDiv(s0 + 3, 2)) <= 8", True),
            ("Symbol('__import__(1)')", False),
            ("Symbol.__class__", False),
            ("s0.imag", False),
            ("open('x')", False),
            ("(lambda: 1)()", False),
            ("[s0 for s0 in 's']", False),
            ("__import__('os')", False),
            ("s0(", False),
            (7, False),
        ],
    )
    def test_sizes_are_arithmetic(self, text, good):
        assert _is_size(text) is good

    def test_a_fixed_window_is_compared_before_the_run(self, tmp_path):
        """What was exported for 64 px takes no other, whatever its card says."""
        zeros = torch.zeros(1, 3, 64, 64)
        torch.export.save(
            torch.export.export(a_network(), (zeros,)), tmp_path / "m.pt2"
        )
        for card, message in (
            ({"window": 128}, "takes windows of 64 x 64 px, its card says 128 px"),
            ({"bands": ["a"]}, "takes 3 bands, its card names 1"),
            ({"multiple": 32}, "takes full windows only"),
        ):
            write_card(tmp_path / "m.json", **card)
            with pytest.raises(ModelError, match=message):
                load_model(tmp_path / "m.pt2")

    def test_a_fixed_batch_is_filled(self, tmp_path, pixels):
        zeros, net = torch.zeros(4, 3, 64, 64), a_network()
        torch.export.save(torch.export.export(net, (zeros,)), tmp_path / "m.pt2")
        write_card(tmp_path / "m.json")
        check(load_model(tmp_path / "m.pt2", device="cpu"), net, pixels)

    def test_a_file_without_a_card(self, tmp_path):
        (tmp_path / "m.pt2").write_bytes(b"")
        with pytest.raises(ModelError, match=r"no card beside it: write m\.json"):
            model_recipe(tmp_path / "m.pt2")


@pytest.mark.filterwarnings("ignore")
class TestOnnx:
    @pytest.fixture(autouse=True)
    def _needs(self):
        pytest.importorskip("onnxruntime")

    @pytest.mark.parametrize("dynamic", [False, True])
    def test_parity_with_the_runtime(self, tmp_path, pixels, dynamic):
        import onnxruntime

        net = a_network()
        write_onnx(tmp_path / "m.onnx", net, dynamic=dynamic)
        write_card(tmp_path / "m.json")
        model = load_model(tmp_path / "m.onnx", device="cpu")
        check(model, net, pixels)
        session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
        scaled = ((pixels.astype("f4") - 120) / 60)[:1]
        bare = session.run(None, {"x": scaled})[0]
        np.testing.assert_allclose(model.predict(pixels[:1]), bare, atol=1e-5)

    def test_a_stride_is_brought_to_pixels(self, tmp_path, pixels):
        write_onnx(tmp_path / "m.onnx", a_network(stride=2))
        write_card(tmp_path / "m.json")
        scores = load_model(tmp_path / "m.onnx").predict(pixels)
        wanted = nn.functional.interpolate(
            expected(a_network(stride=2), pixels), size=(64, 64), mode="bilinear"
        )
        torch.testing.assert_close(scores, wanted, rtol=0, atol=1e-4)

    def test_bands_may_come_last(self, tmp_path, pixels):
        class Last(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = a_network()

            def forward(self, x):
                return self.net(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

        write_onnx(tmp_path / "m.onnx", Last(), shape=(1, 64, 64, 3))
        write_card(tmp_path / "m.json")
        check(load_model(tmp_path / "m.onnx"), a_network(), pixels)

    def test_its_memory_is_estimated(self, tmp_path):
        """Without values, which an ONNX graph cannot do without: in a guess then."""
        write_onnx(tmp_path / "m.onnx", a_network())
        write_card(tmp_path / "m.json")
        model = load_model(tmp_path / "m.onnx", device="cpu")
        assert model.working_bytes() > 64 * 64 * 3 * 4

    def test_channels_may_come_last(self, tmp_path, pixels):
        class Mixed(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = a_network()

            def forward(self, x):
                return self.net(x).permute(0, 2, 3, 1)

        write_onnx(tmp_path / "m.onnx", Mixed())
        write_card(tmp_path / "m.json")
        check(load_model(tmp_path / "m.onnx"), a_network(), pixels)

    def test_batches_of_tensors(self, tmp_path, pixels):
        """As on a GPU, where the session is given tensors where they lie."""
        write_onnx(tmp_path / "m.onnx", a_network())
        write_card(tmp_path / "m.json")
        model = model_recipe(
            tmp_path / "m.onnx", device="cpu", engine="torch", batch=3
        ).load()
        assert (model.streams, model.records) == (True, False)
        both = np.concatenate([pixels, pixels[..., ::-1]])
        plain = load_model(tmp_path / "m.onnx", device="cpu").predict(both)
        torch.testing.assert_close(model.predict(both), plain)

    def test_several_answers_have_names(self, tmp_path, pixels):
        class Two(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = a_network()

            def forward(self, x):
                return x[:, :1] + 1, self.net(x)

        torch.onnx.export(
            Two(), (torch.zeros(1, 3, 64, 64),), str(tmp_path / "m.onnx"),
            input_names=["x"], output_names=["edge", "mask"], dynamo=False,
        )  # fmt: skip
        write_card(tmp_path / "m.json")
        with pytest.raises(ModelError, match=r'edge, mask: .*"answer": "edge"'):
            load_model(tmp_path / "m.onnx").predict(pixels)
        write_card(tmp_path / "m.json", framework={"answer": "mask"})
        check(load_model(tmp_path / "m.onnx"), a_network(), pixels)

    def test_a_fixed_batch_is_filled(self, tmp_path, pixels):
        write_onnx(tmp_path / "m.onnx", a_network(), shape=(4, 3, 64, 64))
        write_card(tmp_path / "m.json")
        check(load_model(tmp_path / "m.onnx"), a_network(), pixels)

    @pytest.mark.parametrize(
        ("card", "message"),
        [
            ({"window": 128}, "takes windows of 64 x 64 px, its card says 128"),
            ({"bands": ["a", "b"]}, "takes 3 bands, its card names 2"),
            ({"multiple": 32}, "full windows only"),
        ],
    )
    def test_a_card_that_does_not_fit(self, tmp_path, card, message):
        write_onnx(tmp_path / "m.onnx", a_network())
        write_card(tmp_path / "m.json", **card)
        with pytest.raises(ModelError, match=message):
            load_model(tmp_path / "m.onnx")

    def test_weights_in_a_file_beside_it_count(self, tmp_path, pixels):
        """What torch and others make of large networks: `m.onnx`, `weights.bin`."""
        onnx = pytest.importorskip("onnx")
        folder = tmp_path / "models"
        folder.mkdir()
        write_onnx(folder / "m.onnx", a_network())
        write_card(folder / "m.json")
        beside = {"save_as_external_data": True, "size_threshold": 0}
        graph = onnx.load(str(folder / "m.onnx"))
        onnx.save(graph, str(folder / "m.onnx"), location="weights.bin", **beside)
        data = (folder / "weights.bin").read_bytes()
        check(load_model(folder / "m.onnx"), a_network(), pixels)
        before = model_recipe(folder / "m.onnx").hash
        (folder / "weights.bin").write_bytes(data[:-4] + b"\0\0\x80?")
        assert model_recipe(folder / "m.onnx").hash != before
        packed = pack(str(folder / "m.onnx"), tmp_path / "packed")
        (folder / "weights.bin").write_bytes(data)
        assert model_recipe(packed).hash != model_recipe(folder / "m.onnx").hash
        (packed / "weights.bin").write_bytes(data)
        check(load_model(packed), a_network(), pixels)
        (folder / "weights.bin").rename(tmp_path / "weights.bin")
        with pytest.raises(ModelError, match=r"'weights\.bin', which is not there"):
            model_recipe(folder / "m.onnx")
        graph = onnx.load(str(folder / "m.onnx"), load_external_data=False)
        for tensor in graph.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = "../weights.bin"
        (folder / "m.onnx").write_bytes(graph.SerializeToString())
        with pytest.raises(
            ModelError, match=r"'\.\./weights\.bin', outside its folder"
        ):
            model_recipe(folder / "m.onnx")

    def test_damaged(self, tmp_path):
        (tmp_path / "m.onnx").write_bytes(b"nonsense" * 100)
        with pytest.raises(ModelError, match="cannot be read as ONNX"):
            model_recipe(tmp_path / "m.onnx")
        write_card(tmp_path / "m.json")
        with pytest.raises(ModelError, match="cannot be read as ONNX") as caught:
            load_model(tmp_path / "m.onnx")
        assert "\n" not in str(caught.value)

    def test_deepness(self, tmp_path, pixels):
        net = nn.Sequential(a_network(), nn.Softmax(1)).eval()
        write_onnx(
            tmp_path / "m.onnx", net, model_type="Segmentor", resolution=20.0,
            class_names={"0": "field", "1": "house", "2": "road"}, tiles_overlap=25,
            standardization_mean=[0.5, 0.4, 0.3], standardization_std=[0.2, 0.3, 0.4],
        )  # fmt: skip
        model = load_model(tmp_path / "m.onnx", device="cpu")
        card = model.card
        assert [c.name for c in card.classes] == ["field", "house", "road"]
        assert (card.window, card.overlap, card.resolution) == (64, 16, 0.2)
        assert card.output == "probabilities"
        mean, std = (
            torch.tensor(v).view(1, 3, 1, 1) for v in ([0.5, 0.4, 0.3], [0.2, 0.3, 0.4])
        )
        with torch.inference_mode():
            wanted = net((torch.from_numpy(pixels) / 255 - mean) / std)
        torch.testing.assert_close(model.predict(pixels), wanted, rtol=0, atol=1e-4)

    def test_deepness_with_one_class(self, tmp_path, pixels):
        net = nn.Sequential(a_network(1), nn.Sigmoid()).eval()
        write_onnx(tmp_path / "m.onnx", net, class_names={"0": "road"}, resolution=10)
        model = load_model(tmp_path / "m.onnx", device="cpu")
        assert [c.name for c in model.card.classes] == ["background", "road"]
        with torch.inference_mode():
            wanted = net(torch.from_numpy(pixels) / 255)[:, 0] > 0.5
        assert (model.predict(pixels).argmax(1) == wanted).float().mean() > 0.9999

    @pytest.mark.parametrize(
        "told",
        [
            {"class_names": "{0: 'ground', 1: 'roof', 2: 'tree'}"},
            {"names": '{"0": "ground", "1": "roof", "2": "tree"}'},
            {"class_names": '[{"0": "ground", "1": "roof", "2": "tree"}]'},
            {"class_names": '["ground", "roof", "tree"]', "model_type": "SEGMENTOR"},
        ],
    )
    def test_deepness_in_its_spellings(self, tmp_path, told):
        onnx = pytest.importorskip("onnx")
        write_onnx(tmp_path / "m.onnx", a_network())
        model = onnx.load(str(tmp_path / "m.onnx"))
        for key, value in told.items():
            entry = model.metadata_props.add()
            entry.key, entry.value = key, value
        onnx.save(model, str(tmp_path / "m.onnx"))
        classes = model_recipe(tmp_path / "m.onnx").card.classes
        assert [c.name for c in classes] == ["ground", "roof", "tree"]

    @pytest.mark.parametrize("flat", [False, True])
    def test_deepness_honours_its_threshold(self, tmp_path, pixels, flat):
        net = nn.Sequential(a_network(1), nn.Sigmoid(), nn.Flatten(0, 1) if flat
                            else nn.Identity()).eval()  # fmt: skip
        write_onnx(tmp_path / "m.onnx", net, class_names={"0": "road"}, seg_thresh=0.45)
        found = load_model(tmp_path / "m.onnx", device="cpu").predict(pixels).argmax(1)
        with torch.inference_mode():
            chance = net(torch.from_numpy(pixels) / 255).reshape(found.shape)
        assert 0.02 < ((chance > 0.45) != (chance > 0.5)).float().mean() < 1
        assert ((found == 1) == (chance > 0.45)).float().mean() > 0.9999

    def test_deepness_of_several_classes_says_what_is_left_out(self, tmp_path):
        write_onnx(
            tmp_path / "m.onnx", a_network(), seg_thresh=0.6, seg_small_segment=9,
            class_names={"0": "field", "1": "house", "2": "road"},
        )  # fmt: skip
        card = model_recipe(tmp_path / "m.onnx").card
        assert card.threshold is None
        assert "its threshold, 0.6 and its smoothing by 9 px" in card.facts["warning"]
        two = a_network(2)
        for told, expected in ((0.3, None), (0.7, 0.7)):
            write_onnx(tmp_path / "m.onnx", two, seg_thresh=told, resolution=20)
            assert model_recipe(tmp_path / "m.onnx").card.threshold == expected

    def test_deepness_that_makes_no_sense(self, tmp_path):
        write_onnx(tmp_path / "m.onnx", a_network(), class_names={"a": "b"})
        with pytest.raises(ModelError, match=r"metadata of Deepness .* is wrong"):
            model_recipe(tmp_path / "m.onnx")
        write_onnx(tmp_path / "m.onnx", a_network(), model_type="Detector")
        with pytest.raises(ModelError, match="is a Detector, not a Segmentor"):
            model_recipe(tmp_path / "m.onnx")

    def test_neither_card_nor_metadata(self, tmp_path):
        write_onnx(tmp_path / "m.onnx", a_network())
        with pytest.raises(ModelError, match="no metadata of Deepness"):
            model_recipe(tmp_path / "m.onnx")
