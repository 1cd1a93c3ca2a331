"""Models of strangers: nothing in them runs code, or reads or writes other files."""

import json
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from geoseg.errors import ModelError
from geoseg.models.load import load_model, model_recipe
from geoseg.models.networks import hf, smp
from geoseg.models.networks.hf_config import read_config
from geoseg.models.networks.safe_program import is_harmless, load_program, load_script
from geoseg.models.plain import card_from_dict

CARD = {"bands": ["a", "b"], "classes": ["x", "y"], "window": 64, "overlap": 0}
ROOT = Path(__file__).parents[2]


def rewritten(path, change, more=()):
    """Change the entries of an archive, and add some."""
    with zipfile.ZipFile(path) as old:
        entries = [(name, old.read(name)) for name in old.namelist()]
    with zipfile.ZipFile(path, "w") as new:
        for name, content in [*map(change, entries), *more]:
            new.writestr(zipfile.ZipInfo(name), content)
    return path


def a_program(path):
    net = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU()).eval()
    torch.export.save(torch.export.export(net, (torch.zeros(1, 2, 64, 64),)), path)
    return path


def same(entry):
    return entry


@pytest.mark.filterwarnings("ignore")
class TestArchives:
    def test_what_is_copied_is_the_program(self, tmp_path):
        program = load_program(a_program(tmp_path / "m.pt2"))
        assert program.module()(torch.zeros(1, 2, 64, 64)).shape == (1, 2, 64, 64)

    @pytest.mark.parametrize(
        "name",
        [
            "m/models/model.JSON", "m/models/other.py", "m/models/x/y.json",
            "m/data/aotinductor/a.so", "m/data/constants/custom_obj_0", "../m/version",
            "m/models/model.json", "evil",
        ],
    )  # fmt: skip
    def test_entries_that_are_not_known_are_refused(self, tmp_path, name):
        """Twice the same name is another one to another reader."""
        path = rewritten(a_program(tmp_path / "m.pt2"), same, [(name, b"{}")])
        with pytest.raises(ModelError, match="is not only a network"):
            load_program(path)

    def test_operators_that_open_files_are_refused(self, tmp_path):
        def change(entry):
            name, content = entry
            return name, content.replace(
                b"aten.relu.default", b"aten.from_file.default"
            )

        path = rewritten(a_program(tmp_path / "m.pt2"), change)
        with pytest.raises(ModelError, match=r"aten\.from_file"):
            load_program(path)

    def test_scripts_that_open_files_are_refused(self, tmp_path):
        class Writes(nn.Module):
            def __init__(self, path: str):
                super().__init__()
                self.path = path

            def forward(self, x):
                return x + torch.from_file(self.path, True, 64).sum()

        script = torch.jit.script(Writes(str(tmp_path / "written")))
        script.save(str(tmp_path / "m.pt"))
        (tmp_path / "m.json").write_text(json.dumps(CARD))
        with pytest.raises(ModelError, match=r"torch\.from_file"):
            load_model(tmp_path / "m.pt")
        assert not (tmp_path / "written").exists()

    def test_scripts_with_control_flow_are_read(self, tmp_path):
        class Branches(nn.Module):
            def forward(self, x):
                if x.dim() != 4:
                    raise ValueError(f"{x.dim()} dimensions")
                parts = [x[:, i] for i in range(x.size(1))]
                up = nn.functional.interpolate(
                    torch.stack(parts, 1), scale_factor=2.0, mode="bilinear"
                )
                return {"out": nn.functional.gelu(up)}

        torch.jit.script(Branches()).save(str(tmp_path / "m.pt"))
        assert load_script(tmp_path / "m.pt")(torch.zeros(1, 2, 4, 4))["out"].ndim == 4

    @pytest.mark.parametrize(
        ("operator", "good"),
        [
            ("aten::conv2d", True), ("aten::gelu", True), ("aten::einsum", True),
            ("prim::RaiseException", True), ("aten::from_file", False),
            ("aten::save", False), ("c10d::send", False), ("prim::rpc_async", False),
            ("nothing::at_all", False), ("aten::not_an_operator", False),
        ],
    )  # fmt: skip
    def test_operators(self, operator, good):
        assert is_harmless(operator) is good

    def test_no_operator_of_torch_that_names_a_file_is_harmless(self):
        for schema in torch._C._jit_get_all_schemas():
            texts = {a.name for a in schema.arguments if "str" in str(a.type)}
            if texts & {"filename", "path", "file", "filepath"}:
                assert not is_harmless(schema.name), schema


class TestOnnx:
    def graph(self, where):
        """Return a graph with weights outside its folder, in one of many places."""
        onnx = pytest.importorskip("onnx")
        h, numpy_helper = onnx.helper, onnx.numpy_helper

        def outside(name):
            tensor = numpy_helper.from_array(np.zeros(4, "f4"), name)
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            entry = tensor.external_data.add()
            entry.key, entry.value = "location", "../secret"
            return tensor

        info = h.make_tensor_value_info
        x, y = (info(n, onnx.TensorProto.FLOAT, [1, 2, 64, 64]) for n in "xy")
        nodes = [h.make_node("Identity", ["x"], ["y"])]
        if where == "constant":
            nodes += [h.make_node("Constant", [], ["c"], value=outside("v"))]
        elif where == "subgraph":
            inner = h.make_graph(
                [h.make_node("Constant", [], ["d"], value=outside("v"))], "inner", [],
                [info("d", onnx.TensorProto.FLOAT, [4])],
            )  # fmt: skip
            nodes += [
                h.make_node("If", ["x"], ["c"], then_branch=inner, else_branch=inner)
            ]
        elif where == "context":
            nodes += [h.make_node("EPContext", ["x"], ["c"], ep_cache_context="/etc/x")]
        graph = h.make_graph(nodes, "g", [x], [y])
        if where == "initializer":
            graph.initializer.append(outside("w"))
        elif where == "sparse":
            indices = numpy_helper.from_array(np.zeros(4, "i8"), "i")
            graph.sparse_initializer.append(
                h.make_sparse_tensor(outside("w"), indices, [4])
            )
        return h.make_model(graph)

    @pytest.mark.parametrize(
        "where", ["constant", "subgraph", "sparse", "initializer", "context"]
    )
    def test_weights_outside_its_folder_are_refused(self, tmp_path, where):
        folder = tmp_path / "model"
        folder.mkdir()
        (tmp_path / "secret").write_bytes(bytes(16))
        (folder / "m.onnx").write_bytes(self.graph(where).SerializeToString())
        (folder / "m.json").write_text(json.dumps(CARD))
        with pytest.raises(ModelError, match=r"outside its folder|reads other files"):
            model_recipe(folder / "m.onnx")


class TestArguments:
    @pytest.mark.parametrize(
        "more",
        [
            {"encoder": "tu-resnet18", "checkpoint_path": "x.pth"},
            {"encoder": "tu-resnet18", "pretrained_cfg": {"file": "/etc/passwd"}},
            {"encoder": "tu-resnet18", "cache_dir": "here"},
            {"encoder": "tu-hf-hub:somebody/something"},
            {"encoder": "../resnet18"},
            {"encoder": "resnet18", "decoder_norm": {"a": "/etc/passwd"}},
        ],
    )
    def test_a_card_hands_no_files_to_factories(self, more):
        pytest.importorskip("segmentation_models_pytorch")
        card = card_from_dict(CARD)
        framework = {"family": "smp", "arch": "Unet", **more}
        with pytest.raises(ModelError, match=r"may read files|is not a name"):
            smp.build(replace(card, framework=framework))

    @pytest.mark.parametrize(
        "more",
        [
            {"backbone": "somebody/something"},
            {"use_pretrained_backbone": True},
            {"backbone_config": {"backbone_kwargs": {"checkpoint_path": "x"}}},
            {"auto_map": {"AutoConfig": "code.Config"}},
            {"_attn_implementation": "kernels-community/flash-attn"},
            {"vision_config": {"backbone_config": {"auto_map": {"A": "code.A"}}}},
            {"parts": [{"backbone": "somebody/something"}]},
        ],
    )
    def test_a_configuration_fetches_nothing(self, tmp_path, more):
        config = {"model_type": "segformer", "num_labels": 2, **more}
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(ModelError, match="read or fetch something else"):
            read_config(tmp_path)

    @pytest.mark.parametrize("part", ["../elsewhere/model.safetensors", "a.bin", []])
    def test_weights_in_parts_lie_beside_their_list(self, tmp_path, part):
        index = {"weight_map": {"a": "model.safetensors", "b": part}}
        scaling = {"do_rescale": False, "do_normalize": False}
        files = {"config": {}, "preprocessor_config": scaling}
        for name, config in {**files, "model.safetensors.index": index}.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(config))
        (tmp_path / "model.safetensors").write_bytes(b"")
        with pytest.raises(ModelError, match="does not lie beside it"):
            hf.open_folder(tmp_path)


def test_versions_with_known_holes_are_excluded():
    """What is relied on to be closed there; never lower these."""
    least = {
        "torch": (2, 10),  # weights_only: CVE-2025-32434, CVE-2026-24747
        "timm": (1, 0, 27),  # checkpoints were unpickled
        "onnx": (1, 21),  # external data outside: CVE-2026-27489, CVE-2026-34446
        "safetensors": (0, 4),
        "transformers": (4, 56),
        "zarr": (3, 0, 8),
        "numcodecs": (0, 16, 6),  # a codec unpickled what a Zarr holds
    }
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for name, version in least.items():
        found = re.search(rf'"{name}>=([\d.]+)"', text)
        assert found is not None, name
        numbers = tuple(int(n) for n in found[1].split("."))
        assert numbers >= version, f"{name} {found[1]}"


def test_deep_json_is_refused(tmp_path):
    for depth in (40, 5000, 200_000):
        deep = "[" * depth + "]" * depth
        text = json.dumps(CARD)[:-1] + f', "facts": {{"a": {deep}}}}}'
        (tmp_path / "card.json").write_text(text)
        with pytest.raises(ModelError, match=r"nested|not JSON"):
            model_recipe(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_bytes_of_the_archive_are_not_read_twice(tmp_path):
    """A file whose directory two readers find in two places: torch sees our copy."""
    path = a_program(tmp_path / "m.pt2")
    path.write_bytes(b"garbage" * 100 + path.read_bytes())
    assert load_program(path).module()(torch.zeros(1, 2, 64, 64)).shape[1] == 2


@pytest.mark.parametrize(
    "more",
    [
        {"num_labels": 10**12}, {"num_channels": 10**12}, {"num_channels": "x"},
        {"id2label": [1, 2]}, {"id2label": {"a": "b"}}, {"num_labels": float("inf")},
        {"image_size": 10**9}, {"vision_config": 3},
    ],
)  # fmt: skip
def test_absurd_configurations_are_refused_at_once(tmp_path, more):
    pytest.importorskip("transformers")
    config = {"model_type": "segformer", **more}
    (tmp_path / "config.json").write_text(json.dumps(config))
    about = {"image_mean": 0.5, "image_std": 0.5}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(about))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match=r"cannot be used|is wrong"):
        model_recipe(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_archives_that_unpack_to_more_than_they_are_are_refused(tmp_path):
    path = a_program(tmp_path / "m.pt2")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data/weights/weight_9", bytes(1 << 27))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(ModelError, match="bytes, unpacked"):
        load_program(path)
