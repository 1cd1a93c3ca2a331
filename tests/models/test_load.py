"""Networks and users' own models: loading, recipes, batches, parity with libraries."""

import pickle
import re
import subprocess
import sys
import textwrap
import threading
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from geoseg.core.grid import Window
from geoseg.errors import ModelError
from geoseg.execution.resources import cores
from geoseg.models import custom
from geoseg.models.card import Band, Card
from geoseg.models.contract import Model
from geoseg.models.families import CLASSICAL, families
from geoseg.models.load import load_model, model_recipe
from geoseg.models.networks import torch_adapter
from geoseg.models.networks.device import ModelOptions, choose_device
from geoseg.models.networks.footprint import forward_bytes, weight_bytes
from geoseg.models.networks.smp import multiple_of
from geoseg.models.networks.torch_adapter import TorchModel
from geoseg.models.plain import card_from_dict
from geoseg.rasters.open import open_source

CPU = ModelOptions(device="cpu", precision="fp32")


def a_card(bands=3, classes=2, **more):
    names = ["blue", "green", "red", "nir", *"abcdefghijk"][:bands]
    return card_from_dict(
        {"bands": names, "classes": [f"class {i}" for i in range(classes)], **more}
    )


@pytest.fixture(scope="module")
def window(shared):
    """Return 512 x 512 pixels of a real drone image, (band, y, x) uint8."""
    source = open_source(str(shared / "banepa_buildings" / "banepa_predict_rgb.tif"))
    return source.read(Window(y=700, x=600, height=512, width=512))[0]


class TestTorchModel:
    @pytest.mark.parametrize(
        "dtype", ["uint8", "uint16", "int16", "uint32", "float32", "float64", ">u2"]
    )
    def test_scaling_is_that_of_the_card(self, dtype):
        bands = (
            Band(name="a", offset=10.0, scale=4.0, clip=(20.0, 90.0)),
            Band(name="b"),
        )
        card = replace(a_card(2), bands=bands)
        pixels = np.random.default_rng(0).integers(0, 120, (2, 2, 8, 8)).astype(dtype)
        before = pixels.copy()
        scores = TorchModel(nn.Identity(), card, CPU).predict(pixels).numpy()
        x = pixels.astype(np.float32)
        np.testing.assert_array_equal(scores[:, 0], (x[:, 0].clip(20, 90) - 10) / 4)
        np.testing.assert_array_equal(scores[:, 1], x[:, 1])
        np.testing.assert_array_equal(pixels, before)

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_the_answer_does_not_depend_on_company(self, precision):
        """Nor on the place in the batch, nor on how many are left for the last one."""
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1)
        )
        pixels = np.random.default_rng(0).integers(0, 255, (7, 3, 64, 64), np.uint8)
        for batch in (1, 3, 4):
            options = ModelOptions(device="cpu", precision=precision, batch=batch)
            model = TorchModel(custom.deepcopy(net), a_card(), options)
            together = model.predict(pixels).float().numpy()
            alone = [model.predict(pixels[i : i + 1]).float().numpy() for i in range(7)]
            np.testing.assert_array_equal(np.concatenate(alone), together)

    @pytest.mark.parametrize(
        "error",
        [
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB"),
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            MemoryError(),
        ],
    )
    def test_out_of_memory_halves_the_batch_for_good(self, error):
        class Greedy(nn.Module):
            failures = 2

            def forward(self, x):
                with lock:
                    if self.failures:
                        self.failures -= 1
                        raise error
                return x[:, :2]

        lock = threading.Lock()
        options = ModelOptions(device="cpu", precision="fp32", batch=8)
        model = TorchModel(Greedy(), a_card(), options)
        model._threads = None  # as on a GPU: one forward pass per batch
        pixels = np.arange(9 * 3 * 4, dtype=np.float32).reshape(9, 3, 2, 2)
        np.testing.assert_array_equal(model.predict(pixels).numpy(), pixels[:, :2])
        assert model.batch == 2
        np.testing.assert_array_equal(model.predict(pixels).numpy(), pixels[:, :2])
        assert model.batch == 2

    def test_a_gpus_batches_have_one_shape(self):
        sizes = []

        class Net(nn.Module):
            def forward(self, x):
                sizes.append(len(x))
                return x[:, :2]

        options = ModelOptions(device="cpu", precision="fp32", batch=4)
        model = TorchModel(Net(), a_card(), options)
        model._threads = None
        assert model.predict(np.zeros((9, 3, 2, 2), np.uint8)).shape == (9, 2, 2, 2)
        assert sizes == [4, 4, 4]

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_the_answer_does_not_depend_on_the_number_of_cores(self, precision):
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1)
        )
        pixels = np.random.default_rng(0).integers(0, 255, (4, 3, 128, 128), np.uint8)
        own, answers = torch.get_num_threads(), []
        try:
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                options = ModelOptions(device="cpu", precision=precision)
                model = TorchModel(custom.deepcopy(net), a_card(), options)
                assert model.batch == min(threads, cores())
                answers.append(model.predict(pixels).float().numpy())
                assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(own)
        np.testing.assert_array_equal(answers[0], answers[1])
        np.testing.assert_array_equal(answers[0], answers[2])

    def test_a_network_is_made_ready_on_one_thread(self, monkeypatch):
        """On shared cores threads of torch's own wait for each other at each layer."""
        seen = []

        def ready(module, *_, **__):
            seen.append(torch.get_num_threads())
            return module

        monkeypatch.setattr(torch_adapter, "fused", ready)
        TorchModel(nn.Conv2d(3, 2, 1), a_card(), ModelOptions(device="cpu"))
        assert seen == [1]

    def test_one_window_too_many_is_an_error(self):
        class Full(nn.Module):
            def forward(self, x):  # noqa: ARG002
                raise torch.OutOfMemoryError("out of memory")

        model = TorchModel(Full(), a_card(), ModelOptions(device="cpu", batch=4))
        with pytest.raises(ModelError, match="one window of 32 x 32 px"):
            model.predict(np.zeros((4, 3, 32, 32), np.uint8))

    @pytest.mark.parametrize("wrap", ["tensor", "out", "logits", "tuple"])
    def test_answers_are_unwrapped_as_libraries_wrap_them(self, wrap):
        @dataclass
        class Output:
            logits: torch.Tensor

        class Net(nn.Module):
            def forward(self, x):
                y = x[:, :2]
                return {
                    "tensor": y,
                    "out": {"aux": y + 1, "out": y},
                    "logits": Output(y),
                    "tuple": (y, y.mean((2, 3))),
                }[wrap]

        pixels = np.ones((1, 3, 4, 4), np.uint8)
        scores = TorchModel(Net(), a_card(), CPU).predict(pixels)
        assert (scores == 1).all()

    def test_a_stride_is_brought_to_pixels_bilinearly(self):
        pixels = np.random.default_rng(0).random((1, 3, 64, 64), np.float32)
        scores = TorchModel(nn.AvgPool2d(4), a_card(classes=3), CPU).predict(pixels)
        coarse = nn.functional.avg_pool2d(torch.from_numpy(pixels), 4)
        expected = nn.functional.interpolate(
            coarse, size=(64, 64), mode="bilinear", align_corners=False
        )
        torch.testing.assert_close(scores, expected, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("output", ["logits", "probabilities"])
    def test_one_sigmoid_channel_is_two_classes(self, output):
        card = a_card(1, 2, output=output, activation="sigmoid")
        pixels = np.linspace(0, 1, 16, dtype=np.float32).reshape(1, 1, 4, 4)
        scores = TorchModel(nn.Identity(), card, CPU).predict(pixels)
        if output == "logits":
            scores = scores.sigmoid()
            pixels = 1 / (1 + np.exp(-pixels))
        np.testing.assert_allclose(scores[:, 1:].numpy(), pixels, atol=1e-6)
        np.testing.assert_allclose(scores.sum(1).numpy(), 1, atol=1e-6)

    def test_wrong_class_count_is_named(self):
        with pytest.raises(ModelError, match=r"\(1, 3, 8, 8\).*names 2 classes"):
            TorchModel(nn.Identity(), a_card(), CPU).predict(np.zeros((1, 3, 8, 8)))

    def test_what_fails_in_the_network_is_one_line(self):
        model = TorchModel(nn.Conv2d(4, 2, 1), a_card(), CPU)
        with pytest.raises(ModelError, match=r"failed on windows of shape") as caught:
            model.predict(np.zeros((1, 3, 8, 8), np.uint8))
        assert "\n" not in str(caught.value)

    def test_labels_lose_their_channel(self):
        card = a_card(1, 3, output="labels")
        pixels = np.ones((2, 1, 4, 4), np.uint8)
        assert TorchModel(nn.Identity(), card, CPU).predict(pixels).shape == (2, 4, 4)

    def test_batch_norms_stay_in_fp32(self):
        net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
        model = TorchModel(net, a_card(), ModelOptions(device="cpu", precision="bf16"))
        assert net[1].running_var.dtype == torch.float32
        assert net[0].weight.dtype == torch.bfloat16
        scores = model.predict(np.ones((1, 3, 8, 8), np.uint8))
        assert scores.dtype == torch.float32  # as blending reads them


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu"}, "tpu"),
        ({"device": "mps"}, "no Apple GPU"),
        ({"device": "meta"}, "not supported"),
        ({"precision": "int4"}, "not one of auto"),
        ({"batch": 0}, "batch 0"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ModelError, match=message):
        choose_device(ModelOptions(**options).device)


@pytest.mark.skipif(torch.cuda.device_count() > 0, reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_named():
    with pytest.raises(ModelError, match="no CUDA GPU"):
        TorchModel(nn.Identity(), a_card(), ModelOptions(device="cuda"))


class TestFootprint:
    def test_it_counts_what_is_alive_at_once(self):
        """The input is freed by nobody: input, middle and output are alive."""
        net = nn.Sequential(
            nn.Conv2d(1, 8, 1, bias=False), nn.Conv2d(8, 2, 1, bias=False)
        )
        side = 64 * 64 * 4
        peak = forward_bytes(net, net, (1, 1, 64, 64), torch.float32)
        assert peak == pytest.approx(1.5 * (1 + 8 + 2) * side)
        assert weight_bytes(net) == 4 * (8 + 16)

    def test_a_model_promises_more_for_larger_batches(self):
        net = nn.Conv2d(3, 2, 1)
        one, four = (
            TorchModel(net, a_card(), replace(CPU, batch=n)).working_bytes()
            for n in (1, 4)
        )
        weights = weight_bytes(net)
        assert four - weights == 4 * (one - weights) > 0

    def test_a_network_that_looks_at_values_gets_a_guess(self):
        class Peeks(nn.Module):
            def forward(self, x):
                return x[:, :2] if float(x.sum()) > 0 else x[:, 1:]

        assert TorchModel(Peeks(), a_card(), CPU).working_bytes() > 512 * 512**2


class TestSmp:
    """Networks of segmentation_models_pytorch, against the library itself."""

    def make(self, tmp_path, arch="Unet", bands=3, encoder="resnet18", **more):
        pytest.importorskip("segmentation_models_pytorch")
        from geoseg.models.networks.smp import build, save_model

        torch.manual_seed(1)
        framework = {"family": "smp", "arch": arch, "encoder": encoder}
        more = {"window": 128, "overlap": 32, **more}
        card = a_card(bands, 4, mean=120.0, std=50.0, framework=framework, **more)
        net = build(card).eval()
        return net, save_model(net, card, tmp_path / "model")

    @pytest.mark.parametrize(
        "arch",
        ["Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "PAN",
         "DeepLabV3", "DeepLabV3Plus", "UPerNet", "Segformer"],
    )  # fmt: skip
    def test_parity(self, tmp_path, window, arch):
        net, folder = self.make(tmp_path, arch, encoder="mobilenet_v2")
        side = multiple_of(arch)  # the smallest there can be at a raster's far edge
        pixels = window[None, :, :side, : 2 * side]
        model = load_model(folder, device="cpu", precision="fp32")
        scores = model.predict(pixels).softmax(1)
        with torch.inference_mode():
            expected = net((torch.from_numpy(pixels).float() - 120) / 50).softmax(1)
        torch.testing.assert_close(scores, expected, rtol=0, atol=1e-4)
        same = (scores.argmax(1) == expected.argmax(1)).float().mean()
        assert same > 0.9999

    def test_dpt_takes_full_windows_of_any_band_count(self, tmp_path):
        encoder = "tu-vit_tiny_patch16_224"
        net, folder = self.make(tmp_path, "DPT", 5, encoder, window=224, overlap=32)
        pixels = np.random.default_rng(0).integers(0, 255, (1, 5, 224, 224), np.uint8)
        model = load_model(folder, device="cpu", precision="fp32")
        assert model.card.multiple is None
        with torch.inference_mode():
            expected = net((torch.from_numpy(pixels).float() - 120) / 50)
        scores = model.predict(pixels).softmax(1)
        torch.testing.assert_close(scores, expected.softmax(1), rtol=0, atol=1e-4)

    @pytest.mark.parametrize("bands", [1, 13])
    def test_any_number_of_bands(self, tmp_path, bands):
        _, folder = self.make(tmp_path, bands=bands, encoder="mobilenet_v2")
        pixels = np.zeros((1, bands, 64, 96), np.uint16)
        assert load_model(folder).predict(pixels).shape == (1, 4, 64, 96)

    def test_bf16_agrees_with_fp32(self, tmp_path, window):
        """Not exactly, but where fp32 itself is sure."""
        _, folder = self.make(tmp_path)
        pixels = window[None, :, :128, :256]
        exact = load_model(folder, device="cpu", precision="fp32").predict(pixels)
        rough = load_model(folder, device="cpu", precision="bf16").predict(pixels)
        best = exact.topk(2, dim=1).values
        sure = (best[:, 0] - best[:, 1]) > 0.1 * exact.std()
        same = exact.argmax(1) == rough.float().argmax(1)
        assert same[sure].float().mean() > 0.999

    def test_weights_that_do_not_fit_are_named(self, tmp_path):
        from geoseg.models.folder import write_folder
        from geoseg.models.stac import read_card

        _, folder = self.make(tmp_path)
        card = read_card(folder / "card.json")
        weights = folder / "weights.safetensors"
        six = replace(card, classes=a_card(1, 6).classes)
        for wrong, message in (
            (six, "card of 'model' has 6 classes, the weights 4"),
            (replace(card, bands=a_card(4).bands), "has 4 bands, the weights 3"),
            (
                replace(card, framework={**card.framework, "encoder": "resnet34"}),
                "tensors are missing",
            ),
            (
                replace(card, framework={**card.framework, "arch": "Nonet"}),
                "'Nonet'.*not one of Unet",
            ),
            (
                replace(card, framework={**card.framework, "encoder": "none"}),
                "encoder 'none' cannot be built",
            ),
            (
                replace(card, framework={**card.framework, "deepness": 3}),
                "no argument 'deepness'",
            ),
            (replace(card, framework={"family": "magic"}), "family 'magic'"),
            (replace(card, window=500), "not a multiple of 32 px"),
        ):
            write_folder(wrong, folder, weights)
            with pytest.raises(ModelError) as caught:
                load_model(folder, precision="fp32")
            assert re.search(message, str(caught.value)), (message, caught.value)

    def test_damaged_weights(self, tmp_path):
        from geoseg.models.folder import write_folder
        from geoseg.models.stac import read_card

        _, folder = self.make(tmp_path)
        weights = folder / "weights.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        write_folder(read_card(folder / "card.json"), folder, weights)
        with pytest.raises(ModelError, match="cannot be read as safetensors"):
            load_model(folder)


class Doubler:
    """A user's model: an object with a card and a predict."""

    card = a_card(2, 2, overlap=0, output="probabilities")

    def __init__(self, factor=2.0):
        self.factor = factor
        self.calls = 0

    def predict(self, pixels):
        self.calls += 1
        return pixels.astype(np.float32) * self.factor


class TestRecipe:
    def test_an_object_is_a_model(self):
        model = load_model(Doubler(3.0))
        assert isinstance(model, Model)
        answer = model.predict(np.ones((1, 2, 4, 4), np.uint8))
        np.testing.assert_array_equal(answer, np.full((1, 2, 4, 4), 3.0))

    def test_it_loads_once_per_process_even_after_pickling(self):
        recipe = model_recipe(Doubler())
        copies = [pickle.loads(pickle.dumps(recipe)) for _ in range(5)]
        assert {id(c.load()) for c in copies} == {id(recipe.load())}
        assert all(c.hash == recipe.hash for c in copies)

    def test_threads_load_it_once(self, tmp_path):
        (tmp_path / "slow.py").write_text(
            textwrap.dedent("""
            import time
            made = []
            def make():
                time.sleep(0.1)
                made.append(1)
                card = {"bands": ["a"], "classes": ["x", "y"], "output": "labels"}
                return card, lambda pixels: pixels[:, 0] * 0 + len(made)
            """)
        )
        recipe = model_recipe(f"{tmp_path}/slow.py:make")
        threads = [threading.Thread(target=recipe.load) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (recipe.load().predict(np.zeros((1, 1, 2, 2), int)) == 1).all()

    def test_the_hash_is_what_changes_the_answer(self):
        one = model_recipe(Doubler(2.0))
        assert one.hash == model_recipe(Doubler(2.0), batch=4, device="cpu").hash
        different = [
            model_recipe(Doubler(2.5)),
            model_recipe(Doubler(2.0), precision="fp32"),
            replace(one, fitted="{}"),
            model_recipe((replace(Doubler.card, window=256), Doubler(2.0))),
            model_recipe((Doubler.card, lambda pixels: pixels)),
        ]
        hashes = {r.hash for r in different} | {one.hash}
        assert len(hashes) == len(different) + 1

    def test_calling_it_does_not_change_its_hash(self):
        model = Doubler()
        before = model_recipe(model).hash
        load_model(model).predict(np.ones((1, 2, 4, 4), np.uint8))
        assert model.calls
        assert model_recipe(model).hash == before

    def test_closures_differ_by_what_they_close_over(self):
        def make(level):
            return Doubler.card, lambda pixels: pixels * level

        assert model_recipe(make(1)).hash != model_recipe(make(2)).hash
        assert model_recipe(make(1)).hash == model_recipe(make(1)).hash

    def test_networks_differ_by_their_weights_and_are_copied(self):
        torch.manual_seed(0)
        net = nn.Conv2d(3, 2, 1)
        recipe = model_recipe((a_card(), net), precision="bf16", device="cpu")
        recipe.load()
        assert net.weight.dtype == torch.float32
        assert net.weight.requires_grad
        with torch.no_grad():
            net.weight[0, 0] += 1
        assert model_recipe((a_card(), net), precision="bf16").hash != recipe.hash

    def test_another_process_loads_the_same(self, tmp_path):
        """The recipe travels through a pipe; the model's code is found by its name."""
        (tmp_path / "mine.py").write_text(
            textwrap.dedent("""
            import numpy as np
            def make():
                card = {"bands": ["a"], "classes": ["x", "y"], "output": "labels"}
                return card, lambda pixels: (pixels[:, 0] > 3).astype(np.uint8)
            """)
        )
        recipe = model_recipe(f"{tmp_path}/mine.py:make")
        code = (
            "import pickle, sys, numpy as np\n"
            "recipe = pickle.loads(sys.stdin.buffer.read())\n"
            "print(recipe.hash)\n"
            "x = np.arange(8).reshape(1, 1, 2, 4)\n"
            "print(recipe.load().predict(x).sum())\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], input=pickle.dumps(recipe), check=True,
            capture_output=True, timeout=60,
        )  # fmt: skip
        assert done.stdout.split() == [recipe.hash.encode(), b"4"]

    def test_changed_code_is_not_gone_on_with(self, tmp_path):
        path = tmp_path / "mine.py"
        text = "def make():\n    return {'bands': ['a'], 'classes': ['x', 'y']}, abs\n"
        path.write_text(text)
        recipe = model_recipe(f"{path}:make")
        path.write_text(text.replace("'y'", "'z'"))
        model_recipe("threshold:ndwi")  # forgets the one opened last
        with pytest.raises(ModelError, match="have changed since"):
            recipe.load()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nothing", "no model 'nothing'"),
        ("no/such/folder", "no model"),
        ("nomodule:make", "no module 'nomodule'"),
        ("{here}/none.py:make", "no file"),
        ("{here}/broken.py:make", "SyntaxError"),
        ("{here}/raises.py:make", "failed: ValueError: no"),
        ("{here}/raises.py:other", "has no 'other'"),
        ("{here}/raises.py:bare", "without a card"),
        ("{here}/raises.py:needs", "failed: TypeError"),
        ("{here}/raises.py:number", "cannot predict"),
        ("{here}", "neither card.json nor"),
        ("{here}/begun", "its training did not finish"),
        ("{here}/raises.py", "PATH.py:FUNCTION"),
        ("{here}/net.h5", "tf2onnx"),
        ("{here}/trees.joblib", "geoseg train --arch forest"),
        ("{here}/net.mlpackage", "that it was made of"),
        ("{here}/scene.tif", "check MODEL RASTER"),
        ("treshold:ndvi", "did you mean threshold:"),
        ("threshold:ndvy", "did you mean 'ndvi'"),
    ],
)
def test_wrong_specs_are_one_line(tmp_path, spec, message):
    (tmp_path / "broken.py").write_text("def make(:\n")
    (tmp_path / "net.h5").write_bytes(b"HDF")
    (tmp_path / "trees.joblib").write_bytes(b"")
    (tmp_path / "scene.tif").write_bytes(b"II")
    (tmp_path / "net.mlpackage").mkdir()
    (tmp_path / "begun" / "training").mkdir(parents=True)
    (tmp_path / "begun" / "training" / "settings.json").write_text("{}")
    (tmp_path / "raises.py").write_text(
        textwrap.dedent("""
        def make(): raise ValueError("no")
        def bare(): return lambda pixels: pixels
        def needs(argument): return argument
        def number(): return {"bands": ["a"], "classes": ["b", "c"]}, 7
        """)
    )
    with pytest.raises(ModelError, match=message) as caught:
        model_recipe(spec.format(here=tmp_path))
    assert "\n" not in str(caught.value)


def test_users_answers_are_checked():
    model = load_model((a_card(1, 2, output="labels"), lambda pixels: pixels))
    with pytest.raises(ModelError, match=r"shape \(1, 1, 4, 4\).*promises \(1, 4, 4\)"):
        model.predict(np.zeros((1, 1, 4, 4), np.uint8))
    model = load_model((a_card(1, 2), lambda pixels: len(pixels) / 0))
    with pytest.raises(ModelError, match="ZeroDivisionError"):
        model.predict(np.zeros((1, 1, 4, 4), np.uint8))


def test_every_family_has_an_example_that_is_understood(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seed = '{"type": "Feature", "properties": {}, "geometry": {"type": "Point", %s}}'
    (tmp_path / "seeds.gpkg").write_text(seed % '"coordinates": [1, 2]')
    names = [family.name for family in families()]
    assert set(CLASSICAL) <= set(names)
    for family in families():
        assert family.summary
        if family.extra is None:
            assert family.installed
        if family.name in CLASSICAL:
            assert isinstance(model_recipe(family.example).card, Card)
