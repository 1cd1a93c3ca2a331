"""Networks of transformers, small and random, against the library itself."""

import json
import pickle
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from geoseg.core.grid import Window
from geoseg.errors import ModelError
from geoseg.models.load import load_model, model_recipe
from geoseg.models.networks import hf
from geoseg.models.pack import pack
from geoseg.rasters.open import open_source

transformers = pytest.importorskip("transformers")

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
LABELS = {"id2label": {0: "field", 1: "house", 2: "road"}, "num_labels": 3}
SWIN = {
    "model_type": "swin", "embed_dim": 12, "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 2, 2], "image_size": 64, "window_size": 4,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}  # fmt: skip


def segformer(**more):
    config = transformers.SegformerConfig(
        hidden_sizes=[8, 16, 20, 24], depths=[1] * 4, num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16, **(LABELS | more),
    )  # fmt: skip
    return transformers.SegformerForSemanticSegmentation(config)


def upernet():
    backbone = transformers.ConvNextConfig(
        hidden_sizes=[8, 12, 16, 20], depths=[1] * 4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = transformers.UperNetConfig(
        backbone_config=backbone, hidden_size=16, auxiliary_in_channels=16,
        auxiliary_channels=8, **LABELS,
    )  # fmt: skip
    return transformers.UperNetForSemanticSegmentation(config)


def beit():
    config = transformers.BeitConfig(
        hidden_size=24, num_hidden_layers=4, num_attention_heads=2, image_size=64,
        intermediate_size=32, patch_size=16, out_indices=[1, 2, 3, 4],
        use_relative_position_bias=True, use_auxiliary_head=False, **LABELS,
    )  # fmt: skip
    return transformers.BeitForSemanticSegmentation(config)


def dpt():
    config = transformers.DPTConfig(
        hidden_size=24, num_hidden_layers=4, num_attention_heads=2, image_size=64,
        intermediate_size=32, patch_size=16, backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 12, 16, 24], fusion_hidden_size=16, is_hybrid=False,
        use_auxiliary_head=False, **LABELS,
    )  # fmt: skip
    return transformers.DPTForSemanticSegmentation(config)


def mask2former():
    config = transformers.Mask2FormerConfig(
        backbone_config=transformers.SwinConfig(**without_type(SWIN)), feature_size=32,
        mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=32, num_queries=7,
        encoder_layers=1, decoder_layers=2, num_attention_heads=2, dim_feedforward=32,
        **LABELS,
    )  # fmt: skip
    net = transformers.Mask2FormerForUniversalSegmentation(config)
    # As it begins with, all queries may say the same or nothing, by version.
    torch.nn.init.normal_(net.class_predictor.weight)
    return net


def maskformer():
    decoder = transformers.DetrConfig(
        d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
        num_queries=6,
    )  # fmt: skip
    config = transformers.MaskFormerConfig(
        backbone_config=transformers.SwinConfig(**without_type(SWIN)),
        decoder_config=decoder, fpn_feature_size=32, mask_feature_size=32, **LABELS,
    )  # fmt: skip
    return transformers.MaskFormerForInstanceSegmentation(config)


def oneformer():
    config = transformers.OneFormerConfig(
        backbone_config=transformers.SwinConfig(**without_type(SWIN)), conv_dim=32,
        mask_dim=32, hidden_dim=32, encoder_feedforward_dim=32, num_queries=7,
        encoder_layers=1, decoder_layers=2, num_attention_heads=2, dim_feedforward=32,
        task_seq_len=9, query_dec_layers=1, is_training=False, **LABELS,
    )  # fmt: skip
    return transformers.OneFormerForUniversalSegmentation(config)


def a_tokenizer(folder):
    """Write a tokenizer that knows letters only."""
    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    words = [
        *letters,
        *(f"{c}</w>" for c in letters),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")


def without_type(config):
    return {k: v for k, v in config.items() if k != "model_type"}


SEMANTIC = {"segformer": segformer, "upernet": upernet, "beit": beit, "dpt": dpt}
QUERIES = {"mask2former": mask2former, "maskformer": maskformer}


def saved(tmp_path, make, **processor):
    torch.manual_seed(0)
    net = make().eval()
    folder = tmp_path / "model"
    net.save_pretrained(folder)
    about = {
        "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "image_mean": MEAN, "image_std": STD, "size": {"height": 64, "width": 64},
    } | processor  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(about))
    return net, folder


@pytest.fixture(scope="module")
def pixels(shared):
    source = open_source(str(shared / "banepa_buildings" / "banepa_predict_rgb.tif"))
    return source.read(Window(y=700, x=600, height=64, width=64))[0][None]


def inputs(pixels):
    """Scale as the library's processor does it."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (torch.from_numpy(pixels) / 255 - mean) / std


def as_the_library(model, net, pixels):
    """Return a model's probabilities and the library's own, which are near."""
    with torch.no_grad():
        logits = net(pixel_values=inputs(pixels)).logits
    expected = torch.nn.functional.interpolate(
        logits, size=(64, 64), mode="bilinear", align_corners=False
    ).softmax(1)
    scores = model.predict(pixels).softmax(1)
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-4)
    return scores, expected


@pytest.mark.parametrize("kind", SEMANTIC)
def test_parity(tmp_path, pixels, kind):
    net, folder = saved(tmp_path, SEMANTIC[kind])
    model = load_model(folder, device="cpu", precision="fp32")
    scores, expected = as_the_library(model, net, pixels)
    assert (scores.argmax(1) == expected.argmax(1)).float().mean() > 0.9995


@pytest.mark.parametrize("kind", QUERIES)
def test_parity_of_queries(tmp_path, pixels, kind):
    net, folder = saved(tmp_path, QUERIES[kind])
    model = load_model(folder, device="cpu", precision="fp32")
    assert model.card.output == "probabilities"
    with torch.no_grad():
        answer = net(pixel_values=inputs(pixels))
    processor = (
        transformers.Mask2FormerImageProcessor
        if kind == "mask2former"
        else transformers.MaskFormerImageProcessor
    )()
    expected = processor.post_process_semantic_segmentation(answer, [(64, 64)])[0]
    scores = model.predict(pixels)
    assert (scores.argmax(1)[0] == expected).float().mean() > 0.9995
    torch.testing.assert_close(scores.sum(1), torch.ones(1, 64, 64))


def test_oneformer_is_asked_for_classes(tmp_path, pixels):
    net, folder = saved(tmp_path, oneformer)
    with pytest.raises(ModelError, match="tokenizer"):
        load_model(folder)
    a_tokenizer(folder)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    question = tokenizer(
        "the task is semantic", padding="max_length", max_length=9, truncation=True,
        return_tensors="pt",
    )  # fmt: skip
    with torch.no_grad():
        answer = net(pixel_values=inputs(pixels), task_inputs=question["input_ids"])
    weights = answer.class_queries_logits.softmax(-1)[..., :-1]
    masks = answer.masks_queries_logits.sigmoid()
    scores = torch.einsum("bqc,bqhw->bchw", weights, masks)
    expected = torch.nn.functional.interpolate(
        scores, size=(64, 64), mode="bilinear", align_corners=False
    ).argmax(1)
    found = load_model(folder, device="cpu", precision="fp32").predict(pixels).argmax(1)
    assert (found == expected).float().mean() > 0.9995


@pytest.mark.parametrize("task", ["instance", "panoptic"])
def test_objects_of_queries(tmp_path, pixels, task):
    """With random weights nothing is sure; what is found is what the masks say."""
    net, folder = saved(tmp_path, mask2former)
    card = {
        "bands": ["red", "green", "blue"], "classes": ["field", "house", "road"],
        "mean": [255 * m for m in MEAN], "std": [255 * s for s in STD], "window": 64,
        "overlap": 16, "task": task, "things": ["house", "road"],
        "output": "probabilities", "facts": {"score": 0.0},
        "framework": {"family": "transformers"},
    }  # fmt: skip
    (folder / "card.json").write_text(json.dumps(card))
    objects = load_model(folder, device="cpu").predict(pixels)[0]
    with torch.no_grad():
        answer = net(pixel_values=inputs(pixels))
    classes = answer.class_queries_logits[0].softmax(-1)[:, :-1].argmax(-1)
    assert set(objects.classes) <= set(classes.tolist()) - {0}
    assert objects.labels.max() == len(objects.classes) == len(objects.scores) > 0
    assert (objects.semantic is not None) == (task == "panoptic")


@pytest.mark.parametrize("task", ["instance", "panoptic"])
def test_the_user_says_the_task_where_no_card_does(tmp_path, pixels, task):
    _, folder = saved(tmp_path, mask2former)
    asked = {"device": "cpu", "task": task, "things": ["house", "road"]}
    recipe = model_recipe(folder, **asked)
    plain = model_recipe(folder, device="cpu")
    assert (plain.card.task, recipe.card.task) == ("semantic", task)
    others = [model_recipe(folder, **{**asked, "things": ["house"]}), plain]
    assert recipe.hash not in {other.hash for other in others}
    assert recipe.hash == model_recipe(folder, **asked).hash
    # nothing is sure with random weights
    recipe = replace(recipe, card=replace(recipe.card, facts={"score": 0.0}))
    objects = pickle.loads(pickle.dumps(recipe)).load().predict(pixels)[0]
    assert objects.labels.max() == len(objects.classes) > 0
    assert set(objects.classes) <= {1, 2}
    assert (objects.semantic is not None) == (task == "panoptic")
    assert plain.load().predict(pixels).shape[1] == 3


def test_other_networks_do_what_their_card_says(tmp_path):
    _, folder = saved(tmp_path, segformer)
    assert model_recipe(folder, device="cpu", task="instance").card.task == "semantic"


def test_the_card_is_made_from_the_configuration(tmp_path):
    _, folder = saved(tmp_path, segformer, size={"height": 512, "width": 512})
    card = model_recipe(folder).card
    assert [b.name for b in card.bands] == ["red", "green", "blue"]
    assert card.bands[0].offset == pytest.approx(0.485 * 255)
    assert card.bands[0].scale == pytest.approx(0.229 * 255)
    assert [c.name for c in card.classes] == ["field", "house", "road"]
    assert (card.window, card.overlap, card.multiple) == (512, 64, 32)
    assert card.value_range == pytest.approx((0, 255))


@pytest.mark.parametrize(
    ("about", "offset", "scale"),
    [
        ({"do_rescale": False}, 0.485, 0.229),
        ({"do_normalize": False}, 0.0, 255.0),
        ({"do_normalize": False, "do_rescale": False}, 0.0, 1.0),
        ({"rescale_factor": 0.0001}, 4850.0, 2290.0),
    ],
)
def test_scaling_follows_the_processor(tmp_path, about, offset, scale):
    _, folder = saved(tmp_path, segformer, **about)
    band = model_recipe(folder).card.bands[0]
    assert (band.offset, band.scale) == pytest.approx((offset, scale))


def test_blue_comes_first_where_the_processor_turns_colours(tmp_path):
    about = {"do_flip_channel_order": True, "do_normalize": False}
    _, folder = saved(tmp_path, segformer, **about)
    assert [b.name for b in model_recipe(folder).card.bands] == ["blue", "green", "red"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"0": "field", "2": "house", "5": "road"}, "which channel each is of"),
        (["field", "house", "road"], "no table of numbers"),
    ],
)
def test_labels_that_do_not_tell_their_channel_are_refused(tmp_path, labels, message):
    _, folder = saved(tmp_path, segformer)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"id2label": labels}))
    with pytest.raises(ModelError, match=message):
        model_recipe(folder)


@pytest.mark.parametrize(
    ("about", "side"),
    [
        ({"size": {"shortest_edge": 384}}, 384),
        ({"size": [640, 480]}, 480),
        ({"size": 256, "do_center_crop": True, "crop_size": {"height": 224}}, 224),
    ],
)
def test_the_window_is_what_the_processor_leaves(tmp_path, about, side):
    _, folder = saved(tmp_path, segformer, **about)
    assert model_recipe(folder).card.window == side


def test_other_channel_counts(tmp_path):
    _, folder = saved(tmp_path, lambda: segformer(num_channels=8), do_normalize=False)
    model = load_model(folder)
    assert [b.name for b in model.card.bands] == list("12345678")
    windows = np.zeros((1, 8, 64, 96), np.uint16)
    assert model.predict(windows).shape == (1, 3, 64, 96)


def test_one_label_is_that_of_a_sigmoid(tmp_path):
    labels = {"id2label": {0: "building"}, "num_labels": 1}
    _, folder = saved(tmp_path, lambda: segformer(**labels))
    model = load_model(folder, device="cpu", precision="fp32")
    names = [(c.value, c.name) for c in model.card.classes]
    assert names == [(0, "background"), (1, "building")]
    scores = model.predict(np.full((1, 3, 64, 64), 90, np.uint8))
    assert scores.shape == (1, 2, 64, 64)
    assert torch.equal(scores[:, 0], -scores[:, 1])


def test_scaling_is_asked_for_and_never_guessed(tmp_path):
    _, folder = saved(tmp_path, segformer)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(
        ModelError, match=r'card\.json: \{"bands".*"mean": \[123'
    ) as told:
        model_recipe(folder)
    written = str(told.value).partition("card.json: ")[2].partition("}}")[0] + "}}"
    plain = json.loads(written) | {"classes": ["a", "b", "c"], "window": 64}
    (folder / "card.json").write_text(json.dumps(plain | {"overlap": 16}))
    assert load_model(folder).predict(np.zeros((1, 3, 64, 64), np.uint8)).shape[1] == 3


@pytest.mark.parametrize("told", [{"do_normalize": True}, {}])
def test_normalised_without_a_mean_is_asked_about(tmp_path, told):
    """The library fills in what its own class of processor has."""
    _, folder = saved(tmp_path, segformer)
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": 64} | told))
    with pytest.raises(ModelError, match=r"not by what: write .*\"mean\": \[123"):
        model_recipe(folder)
    bare = {"size": 64, "do_normalize": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(bare))
    assert model_recipe(folder).card.bands[0].scale == pytest.approx(255)


def test_one_mean_may_be_that_of_all(tmp_path):
    for means in ([0.5], 0.5):
        about = {"image_mean": means, "image_std": means}
        _, folder = saved(tmp_path, lambda: segformer(num_channels=5), **about)
        bands = model_recipe(folder).card.bands
        assert [b.offset for b in bands] == pytest.approx([127.5] * 5)
    _, folder = saved(tmp_path, lambda: segformer(num_channels=5))
    with pytest.raises(ModelError, match=r"3 entries .* 5 bands: .*\"4\", \"5\"\]"):
        model_recipe(folder)


def pickled(folder, net, *, parts=1):
    """Write weights as `save_pretrained(safe_serialization=False)` did."""
    (folder / "model.safetensors").unlink()
    state = net.state_dict()
    if parts == 1:
        torch.save(state, folder / "pytorch_model.bin")
        return
    named = {
        key: f"pytorch_model-{1 + i % parts:05}-of-{parts:05}.bin"
        for i, key in enumerate(state)
    }
    for name in {*named.values()}:
        part = {k: v for k, v in state.items() if named[k] == name}
        torch.save(part, folder / name)
    index = {"metadata": {"total_size": 1}, "weight_map": named}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("parts", [1, 2])
def test_weights_of_torch_save(tmp_path, parts):
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 64, 64), np.uint8)
    net, folder = saved(tmp_path, segformer)
    pickled(folder, net, parts=parts)
    model = load_model(folder, device="cpu", precision="fp32")
    scores, _ = as_the_library(model, net, pixels)
    packed = load_model(pack(str(folder), tmp_path / "packed"), device="cpu")
    torch.testing.assert_close(packed.predict(pixels).softmax(1), scores)
    (folder / f"pytorch_model{'-00002-of-00002' * (parts > 1)}.bin").unlink()
    with pytest.raises(ModelError, match=r"does not lie beside|no weights"):
        model_recipe(folder)


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('a model ran code')",))


def test_what_hides_among_weights_is_not_run(tmp_path):
    net, folder = saved(tmp_path, segformer)
    pickled(folder, net)
    before = model_recipe(folder).hash
    weights = folder / "pytorch_model.bin"
    torch.save({**net.state_dict(), "more": Evil()}, weights)
    assert model_recipe(folder).hash != before
    with pytest.raises(
        ModelError, match=r"exec\), which geoseg does not unpickle"
    ) as e:
        load_model(folder)
    assert "\n" not in str(e.value)
    torch.save([*net.state_dict().values()], weights)
    with pytest.raises(ModelError, match="no table of named tensors"):
        load_model(folder)


def test_what_is_missing_is_named(tmp_path):
    torch.manual_seed(0)
    _, folder = saved(tmp_path, segformer)
    weights = folder / "model.safetensors"
    kept = weights.read_bytes()
    weights.unlink()
    with pytest.raises(ModelError, match="holds no weights"):
        model_recipe(folder)
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin cannot|holds more than"):
        load_model(folder)
    weights.write_bytes(kept[: len(kept) // 2])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(folder)
    (folder / "pytorch_model.bin").unlink()
    backbone = segformer().segformer
    backbone.save_pretrained(folder)
    with pytest.raises(ModelError, match=r"not trained for segmentation|lack"):
        load_model(folder)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match="not a network for segmentation"):
        load_model(folder)
    (folder / "config.json").write_text('{"model_type": "nonsense"}')
    with pytest.raises(ModelError, match="not a model of transformers") as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


def test_code_in_a_folder_never_runs(tmp_path):
    _, folder = saved(tmp_path, segformer)
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "evil"
    config["auto_map"] = {"AutoConfig": "evil.Config"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(ModelError):
        load_model(folder)
    assert not (tmp_path / "ran").exists()


def test_the_hub_is_asked_for_safetensors_first(tmp_path, monkeypatch):
    import huggingface_hub

    _, folder = saved(tmp_path, segformer)
    asked = {}

    def download(name, **options):
        asked.update(options, name=name)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    weights = folder / "model.safetensors"
    kept = weights.read_bytes()
    weights.unlink()
    with pytest.raises(ModelError, match="holds no weights"):
        model_recipe("hf:someone/something")
    assert asked["allow_patterns"][-1] == "pytorch_model*.bin"
    weights.write_bytes(kept)
    recipe = model_recipe("hf:someone/something@v2")
    assert recipe.card.name == asked["name"] == "someone/something"
    assert asked["revision"] == "v2"
    assert not any(re.search(r"bin|\.py|\.pt", p) for p in asked["allow_patterns"])
    assert recipe.load().predict(np.zeros((1, 3, 64, 64), np.uint8)).shape[1] == 3


def test_a_hub_that_is_out_of_reach_is_one_line(monkeypatch):
    import huggingface_hub

    def fails(*_, **__):
        raise OSError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fails)
    with pytest.raises(ModelError, match="cannot be fetched") as caught:
        model_recipe("hf:someone/something")
    assert "\n" not in str(caught.value)


def test_a_processor_that_resizes_is_told(tmp_path):
    _, folder = saved(tmp_path, segformer)
    assert "warning" not in model_recipe(folder).card.facts
    _, folder = saved(tmp_path, segformer, do_resize=True)
    told = model_recipe(folder).card.facts["warning"]
    assert re.search(r"resizes images .*\"height\": 64.* windows of 64 px", told)


def test_the_side_is_where_the_configuration_has_it():
    assert hf._side({}, {"size": 96}) == 96
    assert hf._side({}, {"size": {"shortest_edge": 640}}) == 640
    assert hf._side({"image_size": 224}, {}) == 224
    assert hf._side({"backbone_config": {"image_size": 384}}, {}) == 384
    assert hf._side({}, {}) == 512
