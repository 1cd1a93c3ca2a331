"""What ONNX graphs say of themselves: made node by node, as other tools write them."""

import json

import numpy as np
import pytest
import torch
from tifs import write_tif

from geoseg.errors import ModelError
from geoseg.models.check import check_fit
from geoseg.models.load import load_model, model_recipe
from geoseg.rasters.open import open_source

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

CARD = {
    "bands": ["red", "green", "blue"], "classes": ["a", "b", "c"], "window": 32,
    "overlap": 0, "std": 255,
}  # fmt: skip
PIXELS = np.random.default_rng(3).integers(0, 256, (1, 3, 32, 32), np.uint8)
WEIGHTS = np.array([[8, -4, -4], [-4, 8, -4], [-4, -4, 8]], "f4")[..., None, None]
SCORES = np.einsum("oc,nchw->nohw", WEIGHTS[:, :, 0, 0], PIXELS / np.float32(255))


def write(path, *last, first=(), dtype=TensorProto.FLOAT, card=CARD, classes=3, **more):
    """Write a graph of one convolution, with nodes before and after it.

    The nodes are names with attributes; the last answers `y`.
    """
    nodes, name = [], "x"
    chain = [*first, ("Conv", {}), *last]
    for i, (kind, attributes) in enumerate(chain):
        following = "y" if i == len(chain) - 1 else f"t{i}"
        given = {"Conv": [name, "w"], "Div": [name, "top"]}.get(kind, [name])
        nodes.append(helper.make_node(kind, given, [following], **attributes))
        name = following
    info, answer = helper.make_tensor_value_info, more.get("answer", TensorProto.FLOAT)
    graph = helper.make_graph(
        nodes, "g", [info("x", dtype, ["n", 3, "h", "w"])], [info("y", answer, None)],
        [
            numpy_helper.from_array(WEIGHTS[:classes], "w"),
            numpy_helper.from_array(np.array(255, "f4"), "top"),
        ],
    )  # fmt: skip
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )
    for key, value in more.get("metadata", {}).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save(model, str(path))
    if card is not None:
        path.with_suffix(".json").write_text(json.dumps(card))
    return path


def labels(path):
    model = load_model(path, device="cpu", precision="fp32")
    answer = model.predict(PIXELS)
    return answer if model.card.output == "labels" else answer.argmax(1).numpy()


@pytest.mark.parametrize(
    "said", [{"activation": "sigmoid"}, {"output": "probabilities"}]
)
@pytest.mark.parametrize("after", [(), (("Identity", {}),), (("Clip", {}),)])
def test_a_sigmoid_at_the_end_is_heard(tmp_path, said, after):
    """One sigmoid, and a card with its one class, as it comes to mind."""
    card = CARD | {"classes": ["roof"], **said}
    path = write(tmp_path / "a.onnx", ("Sigmoid", {}), *after, card=card, classes=1)
    assert model_recipe(path).card.output == "probabilities"
    np.testing.assert_array_equal(labels(path), SCORES[:, 0] > 0)


def test_a_softmax_at_the_end_is_heard(tmp_path):
    path = write(tmp_path / "a.onnx", ("Softmax", {"axis": 1}))
    scores = load_model(path, device="cpu").predict(PIXELS)
    wanted = torch.from_numpy(SCORES).softmax(1)
    torch.testing.assert_close(scores, wanted, rtol=0, atol=1e-5)
    assert model_recipe(path).card.output == "probabilities"
    assert (
        model_recipe(write(path, ("LogSoftmax", {"axis": 1}))).card.output == "logits"
    )


@pytest.mark.parametrize(
    ("last", "dtype"),
    [
        ([], TensorProto.INT64),
        ([("Cast", {"to": TensorProto.UINT8})], TensorProto.UINT8),
        ([("Cast", {"to": TensorProto.FLOAT})], TensorProto.FLOAT),
        ([("Transpose", {"perm": [0, 2, 3, 1]})], TensorProto.INT64),
    ],
)
@pytest.mark.parametrize("keepdims", [0, 1])
def test_labels_at_the_end_are_heard(tmp_path, last, dtype, keepdims):
    if last and last[0][0] == "Transpose" and not keepdims:
        pytest.skip("three axes have none to turn")
    argmax = ("ArgMax", {"axis": 1, "keepdims": keepdims})
    path = write(tmp_path / "a.onnx", argmax, *last, answer=dtype)
    np.testing.assert_array_equal(labels(path), SCORES.argmax(1))


def test_a_folder_is_heard_as_a_file_is(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    write(folder / "a.onnx", ("ArgMax", {"axis": 1}), answer=TensorProto.INT64)
    card = CARD | {"framework": {"family": "onnx"}, "weights": "a.onnx"}
    (folder / "a.json").rename(folder / "card.json").write_text(json.dumps(card))
    np.testing.assert_array_equal(labels(folder), SCORES.argmax(1))


FROM_BYTES = (("Cast", {"to": TensorProto.FLOAT}), ("Div", {}))


def test_whole_numbers_are_not_scaled_to_nothing(tmp_path):
    """A graph that takes bytes scales them itself: between 0 and 1 all would be 0."""
    path = tmp_path / "a.onnx"
    bare = {k: v for k, v in CARD.items() if k != "std"}
    write(path, first=FROM_BYTES, dtype=TensorProto.UINT8, card=bare)
    np.testing.assert_array_equal(labels(path), SCORES.argmax(1))
    wide = write_tif(tmp_path / "wide.tif", PIXELS[0].astype("u2") * 9)
    with pytest.raises(ModelError, match=r"are uint16, the model was trained on uint8"):
        check_fit(model_recipe(path).card, open_source(str(wide)))
    for scaling in ({"std": 255}, {"mean": 120, "std": 60}, {"offset": 500}):
        path.with_suffix(".json").write_text(json.dumps(bare | scaling))
        with pytest.raises(ModelError, match=r"takes uint8.*\"mean\" and \"std\" out"):
            model_recipe(path)
    scaling = {"clip": [0, 4080], "scale": 16}
    path.with_suffix(".json").write_text(json.dumps(bare | scaling))
    assert model_recipe(path).card.dtypes is None


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"names": "{0: 'a'}", "mean": "[0.4, 0.4, 0.4]"}, "Deepness does not read"),
        ({"names": "{0: 'car'}", "task": "segment", "stride": "32"}, "geoseg.Objects"),
    ],
)
def test_what_others_keep_in_the_file_is_no_card(tmp_path, metadata, said):
    path = write(tmp_path / "a.onnx", card=None, metadata=metadata)
    with pytest.raises(ModelError, match=said):
        model_recipe(path)
