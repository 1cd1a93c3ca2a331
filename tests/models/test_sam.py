"""SAM and its like, small and random, against the library; prompts from maps."""

import json

import numpy as np
import pytest
import rasterio
import small
import torch

from geoseg.core.grid import Window
from geoseg.errors import ModelError
from geoseg.models.load import load_model, model_recipe
from geoseg.models.networks.prompts import Prompt, bounds, cut_to, read_prompts
from geoseg.models.networks.sam import boxes_of, distinct
from geoseg.rasters.open import open_source

transformers = pytest.importorskip("transformers")
pyogrio_raw = pytest.importorskip("pyogrio.raw")
shapely = pytest.importorskip("shapely")

SIDE = 128
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def prompt_encoder(kind):
    return {
        "hidden_size": 16, "image_size": SIDE, "patch_size": 16,
        "mask_input_channels": 4,
        **({"image_embedding_size": SIDE // 16} if kind.startswith("Sam") else {}),
    }  # fmt: skip


def mask_decoder():
    return {
        "hidden_size": 16, "mlp_dim": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "iou_head_hidden_dim": 16, "iou_head_depth": 2,
    }  # fmt: skip


def a_sam(kind="Sam"):
    """Return a network of `Sam` or `SamHQ`."""
    vision = {
        "hidden_size": 16, "output_channels": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": SIDE, "patch_size": 16,
        "window_size": 4, "global_attn_indexes": [1], "mlp_dim": 32, "num_pos_feats": 8,
    }  # fmt: skip
    decoder = mask_decoder() | ({"vit_dim": 16} if kind == "SamHQ" else {})
    config = getattr(transformers, f"{kind}Config")(
        vision_config=vision,
        prompt_encoder_config=prompt_encoder(kind),
        mask_decoder_config=decoder,
    )
    return getattr(transformers, f"{kind}Model")(config)


def a_sam2():
    backbone = {
        "model_type": "sam2_hiera_det_model", "hidden_size": 8,
        "image_size": [SIDE, SIDE],
        "blocks_per_stage": [1, 1, 2, 1], "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 1, 1],
        "window_size_per_stage": [8, 4, 14, 7], "global_attention_blocks": [3],
        "window_positional_embedding_background_size": [4, 4],
    }  # fmt: skip
    config = transformers.Sam2Config(
        vision_config={
            "backbone_config": backbone, "fpn_hidden_size": 16,
            "backbone_channel_list": [64, 32, 16, 8],
            "backbone_feature_sizes": [[SIDE // s] * 2 for s in (4, 8, 16)],
        },
        prompt_encoder_config=prompt_encoder("Two"),
        mask_decoder_config=mask_decoder(),
    )  # fmt: skip
    return transformers.Sam2Model(config)


def a_sam3_tracker():
    backbone = {
        "model_type": "sam3_vit_model", "hidden_size": 32, "intermediate_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIDE,
        "pretrain_image_size": SIDE, "patch_size": 16, "window_size": 4,
        "global_attn_indexes": [1],
    }  # fmt: skip
    config = transformers.Sam3TrackerConfig(
        vision_config={
            "model_type": "sam3_vision_model", "backbone_config": backbone,
            "fpn_hidden_size": 16,
            "backbone_feature_sizes": [[SIDE // s] * 2 for s in (4, 8, 16)],
        },
        prompt_encoder_config=prompt_encoder("Two"),
        mask_decoder_config=mask_decoder(),
    )  # fmt: skip
    return transformers.Sam3TrackerModel(config)


def an_edgetam():
    backbone = {
        "model_type": "timm_wrapper", "architecture": "repvit_m1.dist_in1k",
        "do_pooling": False, "num_classes": 2, "label_names": ["a", "b"],
        "model_args": {
            "in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3],
        },
    }  # fmt: skip
    config = transformers.EdgeTamConfig(
        vision_config={
            "backbone_config": backbone, "fpn_hidden_size": 16,
            "backbone_channel_list": [384, 192, 96, 48],
            "backbone_feature_sizes": [[SIDE // s] * 2 for s in (4, 8, 16)],
        },
        prompt_encoder_config=prompt_encoder("Two"),
        mask_decoder_config=mask_decoder(),
    )  # fmt: skip
    return transformers.EdgeTamModel(config)


KINDS = {
    "sam": a_sam,
    "sam_hq": lambda: a_sam("SamHQ"),
    "sam2": a_sam2,
    "sam3_tracker": a_sam3_tracker,
    "edgetam": an_edgetam,
}


def saved(folder, make, **facts):
    torch.manual_seed(3)
    net = make().eval()
    with torch.no_grad():  # logits as far apart as those of a network that has learned
        for part in net.mask_decoder.parameters():
            if part.ndim > 1:
                torch.nn.init.normal_(part, std=0.3)
        for part in net.mask_decoder.output_hypernetworks_mlps.parameters():
            part.mul_(2)
    net.save_pretrained(folder)
    about = {
        "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "image_mean": MEAN, "image_std": STD, "size": {"longest_edge": SIDE},
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(about))
    if facts:
        card = {
            "bands": ["red", "green", "blue"], "classes": ["object"], "window": SIDE,
            "mean": [255 * m for m in MEAN], "std": [255 * s for s in STD],
            "overlap": 32, "task": "instance", "output": "probabilities",
            "facts": facts, "framework": {"family": "transformers"},
        }  # fmt: skip
        (folder / "card.json").write_text(json.dumps(card))
    return net


@pytest.fixture(scope="module")
def scene(shared):
    return shared / "banepa_buildings" / "banepa_predict_rgb.tif"


@pytest.fixture(scope="module")
def pixels(scene):
    source = open_source(str(scene))
    return source.read(Window(y=700, x=600, height=SIDE, width=SIDE))[0][None]


def inputs(pixels):
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (torch.from_numpy(pixels) / 255 - mean) / std


def processor(kind):
    """Return the library's image processor for windows of our size."""
    if kind in {"sam2", "sam3_tracker", "edgetam"}:
        from transformers import Sam2ImageProcessor

        return Sam2ImageProcessor(
            size={"height": SIDE, "width": SIDE}, image_mean=MEAN, image_std=STD,
            mask_size={"height": SIDE // 4, "width": SIDE // 4},
        )  # fmt: skip
    from transformers import SamImageProcessor

    return SamImageProcessor(
        size={"longest_edge": SIDE}, pad_size={"height": SIDE, "width": SIDE},
        image_mean=MEAN, image_std=STD,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_everything_is_what_the_librarys_generator_finds(tmp_path, pixels, kind):
    """Masks and scores of `pipeline("mask-generation")`, in its order."""
    from PIL import Image

    stability = 0.0 if kind == "sam_hq" else 0.2
    net = saved(
        tmp_path, KINDS[kind], points_per_side=6, score=-9.0, stability=stability
    )
    model = load_model(tmp_path, device="cpu")
    found = model._module(inputs(pixels))
    generator = transformers.pipeline(
        "mask-generation", model=net, image_processor=processor(kind), device="cpu"
    )
    expected = generator(
        Image.fromarray(np.moveaxis(pixels[0], 0, -1)),
        points_per_batch=16, points_per_crop=6, pred_iou_thresh=-9.0,
        stability_score_thresh=stability, crops_nms_thresh=0.7,
    )  # fmt: skip
    assert len(found.masks) == len(expected["masks"]) > 0
    np.testing.assert_allclose(found.scores, expected["scores"], atol=1e-4)
    for ours, theirs in zip(found.masks.numpy(), expected["masks"], strict=True):
        assert (ours == np.asarray(theirs)).mean() > 0.9995


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_gets_the_librarys_mask(tmp_path, pixels, kind):
    net = saved(tmp_path, KINDS[kind])
    model = load_model(tmp_path, device="cpu", prompts="seeds.gpkg")
    asked = [
        Prompt(points=((40.5, 70.5),)),
        Prompt(points=((20.5, 30.5), (25.5, 31.5))),
        Prompt(box=(10.5, 20.5, 90.5, 100.5)),
        Prompt(points=((100.5, 10.5),)),
        Prompt(points=((50.5, 60.5),), box=(10.5, 20.5, 90.5, 100.5)),
    ]
    with torch.inference_mode():
        found = model._module(inputs(pixels), asked)
    for i, prompt in enumerate(asked):
        more = {}
        if prompt.points:
            more["input_points"] = torch.tensor([[prompt.points]]) - 0.5
            more["input_labels"] = torch.ones(
                (1, 1, len(prompt.points)), dtype=torch.int
            )
        if prompt.box:
            more["input_boxes"] = torch.tensor([[prompt.box]]) - 0.5
        several = len(prompt.points) == 1 and prompt.box is None
        with torch.inference_mode():
            answer = net(pixel_values=inputs(pixels), multimask_output=several, **more)
        best = int(answer.iou_scores[0, 0].argmax())
        logits = answer.pred_masks[0, 0, best][None, None]
        mask = torch.nn.functional.interpolate(
            logits, (SIDE, SIDE), mode="bilinear", align_corners=False
        )[0, 0]
        assert (found.masks[i] == (mask > 0)).float().mean() > 0.9995
        assert float(found.scores[i]) == pytest.approx(
            float(answer.iou_scores[0, 0, best]), abs=1e-4
        )


def test_a_window_is_embedded_once_and_only_where_something_is_asked(
    tmp_path, scene, monkeypatch
):
    saved(tmp_path, a_sam)
    model = load_model(tmp_path, device="cpu", prompts="seeds.gpkg")
    given = {"prompts": [[[[150.5, 20.5]], None], [[], [140, 10, 190, 90]]]}
    model = model.with_parameters(given)
    seen = []
    embed = model._module.decoder.embed
    monkeypatch.setattr(
        model._module.decoder, "embed", lambda x: seen.append(1) or embed(x)
    )
    windows = [Window(y=0, x=x, height=SIDE, width=SIDE) for x in (0, 128, 256)]
    source = open_source(str(scene))
    stack = np.stack([source.read(w)[0] for w in windows])
    answers = model.predict_at(stack, windows, np.ones((3, SIDE, SIDE), bool))
    assert len(seen) == 1
    assert [len(a.classes) > 0 for a in answers] == [False, True, False]


class TestPrompts:
    def test_what_a_window_sees(self):
        window = Window(y=100, x=200, height=64, width=64)
        point = Prompt(points=((210.5, 120.5), (300.0, 120.0)))
        assert cut_to(point, window) == Prompt(points=((10.5, 20.5),))
        assert cut_to(Prompt(points=((300.0, 120.0),)), window) is None
        box = Prompt(points=((280.0, 110.0),), box=(190.0, 90.0, 290.0, 130.0))
        assert cut_to(box, window) == Prompt(box=(0.0, 0.0, 64.0, 30.0))
        assert bounds(point) == (210.5, 120.0, 300.0, 120.5)

    def write(self, path, shapes, crs):
        pyogrio_raw.write(
            path, shapely.to_wkb(np.array(shapes, object)), [], [], crs=crs,
            geometry_type="Unknown",
        )  # fmt: skip

    def test_map_coordinates_become_pixels(self, tmp_path, scene):
        with rasterio.open(scene) as file:
            t, crs, height = file.transform, file.crs.to_wkt(), file.height
        at = [t @ (300.5, 500.5), t @ (700, 900), t @ (760, 930)]
        shapes = [
            shapely.Point(at[0]),
            shapely.box(at[1][0], at[2][1], at[2][0], at[1][1]),
            shapely.Polygon([at[1], at[2], (at[1][0], at[2][1])]),
            shapely.Point(t @ (-50, height + 50)),
        ]
        self.write(tmp_path / "p.gpkg", shapes, crs)
        grid = open_source(str(scene)).grid
        point, box, triangle = read_prompts(str(tmp_path / "p.gpkg"), grid)
        assert point.points[0] == pytest.approx((300.5, 500.5), abs=1e-3)
        assert box.box == pytest.approx((700, 900, 760, 930), abs=1e-3)
        assert not box.points
        assert triangle.box == pytest.approx((700, 900, 760, 930), abs=1e-3)
        assert len(triangle.points) == 1

    def test_another_crs(self, tmp_path, scene):
        from pyproj import Transformer

        with rasterio.open(scene) as file:
            t, crs = file.transform, file.crs
        lon, lat = Transformer.from_crs(crs, 4326, always_xy=True).transform(
            *(t @ (300.5, 500.5))
        )
        self.write(tmp_path / "p.gpkg", [shapely.Point(lon, lat)], "EPSG:4326")
        grid = open_source(str(scene)).grid
        (point,) = read_prompts(str(tmp_path / "p.gpkg"), grid)
        assert point.points[0] == pytest.approx((300.5, 500.5), abs=0.01)

    def test_what_is_no_prompt(self, tmp_path, scene):
        grid = open_source(str(scene)).grid
        file = tmp_path / "p.gpkg"
        with pytest.raises(ModelError, match="cannot read the prompts"):
            read_prompts(str(file), grid)
        self.write(file, [shapely.Point(0, 0)], "EPSG:3857")
        with pytest.raises(ModelError, match="none of the 1 prompts"):
            read_prompts(str(file), grid)
        self.write(file, [shapely.LineString([(0, 0), (1, 1)])], "EPSG:3857")
        with pytest.raises(ModelError, match="holds a LineString"):
            read_prompts(str(file), grid)
        with pytest.raises(ModelError, match="answers no prompts"):
            model_recipe("threshold:ndwi", prompts=str(file))


def test_the_card_is_made_from_the_configuration(tmp_path):
    saved(tmp_path, a_sam2)
    card = model_recipe(tmp_path).card
    assert (card.task, card.window, card.overlap) == ("instance", SIDE, 32)
    assert card.multiple is None
    assert [c.name for c in card.classes] == ["object"]


@pytest.mark.parametrize(("asked", "engine"), [(False, "auto"), (True, "torch")])
def test_a_map_does_not_depend_on_blocks(tmp_path, scene, asked, engine):
    """A whole run of both kinds, on a piece of a real scene, cut in two ways."""
    folder = tmp_path / "sam"
    folder.mkdir()
    saved(folder, a_sam, points_per_side=3, score=-9.0, stability=0.05)
    piece = tmp_path / "piece.tif"
    with rasterio.open(scene) as file:
        window = rasterio.windows.Window(600, 700, 300, 260)
        profile = file.profile | {
            "width": 300, "height": 260, "transform": file.window_transform(window),
            "tiled": False, "compress": None,
        }  # fmt: skip
        profile = {k: v for k, v in profile.items() if "block" not in k}
        with rasterio.open(piece, "w", **profile) as out:
            out.write(file.read(window=window))
        t, crs = profile["transform"], file.crs.to_wkt()
    prompts = None
    if asked:
        prompts = tmp_path / "prompts.gpkg"
        shapes = [shapely.Point(t @ at) for at in ((60, 40), (150, 130), (280, 250))]
        shapes.append(shapely.box(*(t @ (90, 120)), *(t @ (170, 60))))
        TestPrompts().write(prompts, shapes, crs)
    maps = []
    for out, block in (("a.zarr", 96), ("b.zarr", 288)):
        result = small.segment(
            str(piece), model=str(folder), out=tmp_path / out, prompts=prompts,
            chunk=96, block=block, device="cpu", engine=engine, batch=2,
        )  # fmt: skip
        maps.append(result["instances"].to_numpy())
    np.testing.assert_array_equal(*maps)
    assert maps[0].max() > 0


def test_boxes_and_doubles():
    masks = torch.zeros((4, 10, 12), dtype=torch.bool)
    masks[0, 2:5, 3:9] = True
    masks[1, 2:5, 3:8] = True
    masks[2, 7:9, 1:3] = True
    boxes = boxes_of(masks)
    assert boxes.tolist() == [[3, 2, 8, 4], [3, 2, 7, 4], [1, 7, 2, 8], [0, 0, 0, 0]]
    scores = torch.tensor([0.5, 0.9, 0.1, 0.2])
    assert distinct(boxes, scores, 0.7) == [1, 3, 2]
    assert distinct(boxes, scores, 0.9) == [1, 0, 3, 2]
