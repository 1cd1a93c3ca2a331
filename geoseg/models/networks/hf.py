"""Networks of transformers: a local folder, or `hf:owner/name` from the Hub.

SegFormer, UPerNet, DPT, BEiT and their like answer scores per class; MaskFormer,
Mask2Former, OneFormer and EoMT answer masks with classes, which are brought together
as the library does it. No code of the folder runs: weights are safetensors, or tensors
that torch.save wrote and nothing else.
The card is made from `config.json` and `preprocessor_config.json`; a `card.json` beside
them, with the framework `{"family": "transformers"}`, takes its place. Without one, a
network that answers masks does the task that it is asked for: classes, objects or both.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoseg.core.classes import colors_of
from geoseg.core.extras import require
from geoseg.core.text import counted
from geoseg.errors import ModelError, first_line
from geoseg.models.card import MOST_BANDS, MOST_CLASSES, Card
from geoseg.models.folder import write_folder
from geoseg.models.identity import OpenedModel, file_sha256, opened
from geoseg.models.networks.hf_config import (
    PICKLED,
    check_shards,
    read_config,
    weights_files,
)
from geoseg.models.networks.torch_adapter import TorchModel
from geoseg.models.networks.weights import check_tensors
from geoseg.models.plain import card_from_dict, read_json

if TYPE_CHECKING:
    import torch
    from torch import nn

    from geoseg.models.contract import InstanceModel, Model
    from geoseg.models.folder import ModelFolder
    from geoseg.models.networks.device import ModelOptions

SAMS = frozenset((
    "sam", "sam_hq", "sam2", "sam2_video", "sam3_tracker", "sam3_video", "edgetam",
    "edgetam_video",
))  # fmt: skip
"""Model types that answer prompts with masks."""
QUERIES = frozenset({"maskformer", "mask2former", "oneformer", "eomt", "eomt_dinov3"})
"""Model types that answer masks with classes instead of scores per class."""
_ANY_SIZE = {"segformer": 32, "mobilevit": 32, "mobilevitv2": 32, "mobilenet_v2": 32}
TRAINABLE = (
    "segformer", "upernet", "dpt", "beit", "data2vec-vision", "mobilenet_v2",
    "mobilevit", "mobilevitv2", "maskformer", "mask2former",
)  # fmt: skip
"""Model types that can be trained; those among `QUERIES` by a loss of their own."""
_DEFAULTS: Mapping[str, Any] = {
    "beit": {"out_indices": [3, 5, 7, 11]},
    "data2vec-vision": {"out_indices": [3, 5, 7, 11]},
}  # without them its default configuration cannot segment
_FILES = ("*.json", "*.safetensors", "merges.txt", "LICENSE*")


def open_spec(spec: str) -> OpenedModel:
    """Return the model that `hf:owner/name` or `hf:owner/name@revision` means."""
    hub = require("huggingface_hub", what="hf:", extra="transformers")
    name, _, revision = spec.removeprefix("hf:").partition("@")
    fetch = partial(hub.snapshot_download, name, revision=revision or None)
    try:
        path = fetch(allow_patterns=list(_FILES))
        if not weights_files(Path(path)):
            path = fetch(allow_patterns=[*_FILES, PICKLED])
    except (OSError, ValueError) as error:  # what the hub raises derives from these
        raise ModelError(
            f"{spec} cannot be fetched from the Hugging Face Hub: {first_line(error)}"
        ) from error
    opened = open_folder(Path(path), name=name)
    return replace(opened, spec=spec)


def open_folder(path: Path, *, name: str | None = None) -> OpenedModel:
    """Return the model in a folder as `save_pretrained` writes it."""
    try:
        card = implied_card(path, name=name or path.name)
    except (
        TypeError,
        ValueError,
        LookupError,
        AttributeError,
        ArithmeticError,
    ) as error:
        raise ModelError(
            f"the configuration in {path} cannot be used: {type(error).__name__}: "
            f"{first_line(error)}"
        ) from error
    several = card.framework["arch"] in QUERIES
    found = opened(path, card, partial(_load, path, card), *_hashes(path))
    load_as: Any = partial(_load, path)
    return replace(found, load_as=load_as if several else None)


def load_folder(folder: ModelFolder, options: ModelOptions) -> Model | InstanceModel:
    """Load the network of a folder that has a card of ours too."""
    return _load(folder.path, folder.card, options)


def _hashes(path: Path) -> list[str]:
    weights = weights_files(path)
    if not weights:
        raise ModelError(
            f"{path} holds no weights, neither *.safetensors nor {PICKLED}: save the "
            "model into it with save_pretrained"
        )
    check_shards(path)
    return [file_sha256(file) for file in (path / "config.json", *weights)]


def implied_card(path: Path, *, name: str, scaled: bool = True) -> Card:
    """Return the card that a folder's configuration implies.

    Three channels are taken for red, green and blue; others are bands by number.

    Args:
        path: The folder.
        name: What the model is called.
        scaled: Whether it must say how pixels are scaled; training, which scales by
            its own rasters, does without.

    Raises:
        ModelError: The folder does not say how pixels are scaled.
    """
    config, beside = read_config(path), path / "card.json"
    if "_model_class" in config:
        raise ModelError(
            f"{path} is a folder of segmentation_models_pytorch without a card: write "
            f"{beside}: {_example(config)}"
        )
    processor = _processor(path)
    channels = _channels(config)
    kind = str(config.get("model_type"))
    answers_prompts = kind in SAMS
    names = ["red", "green", "blue"]
    if channels != 3:
        names = [str(i + 1) for i in range(channels)]
    elif processor.get("do_flip_channel_order"):
        names.reverse()  # as networks of Apple were trained
    if scaled and not processor:
        raise ModelError(
            f"{path} holds no preprocessor_config.json, which says how pixels are "
            f"scaled: write {beside}: {_example(config)}"
        )
    if scaled and _lacks_means(processor):
        raise ModelError(
            f"{path} says that pixels are normalised, and not by what: write {beside}: "
            + _example(config)
        )
    for key in ("image_mean", "image_std"):
        values = processor.get(key) if processor.get("do_normalize", True) else None
        if isinstance(values, list) and len(values) not in {1, channels}:
            raise ModelError(
                f"{path} has {len(values)} entries of {key} for "
                f"{counted(channels, 'band')}: write {beside}: {_example(config)}"
            )
    side = _side(config, processor)
    factor = _factor(processor)
    table = [{"name": "object"}] if answers_prompts else _classes(config)
    # One label alone is a sigmoid's, but of masks it is that of all objects.
    objects = answers_prompts or (kind in QUERIES and len(table) == 1)
    plain = {
        "name": name,
        "bands": [_band(band, processor, factor, i) for i, band in enumerate(names)],
        "classes": table,
        "task": "instance" if objects else "semantic",
        "output": "probabilities" if kind in QUERIES | SAMS else "logits",
        "activation": "sigmoid" if len(table) == 1 else "softmax",
        "window": side,
        "overlap": side // (4 if answers_prompts else 8) // 2 * 2,
        "multiple": _ANY_SIZE.get(kind),
        "value_range": (0.0, 1 / factor) if factor else None,
        "description": f"{kind} of transformers",
        "framework": {"family": "transformers", "arch": kind},
        "facts": {} if answers_prompts else _resized(processor, side),
    }
    return card_from_dict(plain, where=f"the configuration in {path}")


def _lacks_means(processor: Mapping[str, Any]) -> bool:
    """Whether a processor normalises by numbers that only its own library knows."""
    told = processor.get("image_mean") and processor.get("image_std")
    kind = str(
        processor.get("image_processor_type", processor.get("feature_extractor_type"))
    )
    never = kind.startswith("MobileViT") and "do_normalize" not in processor
    return not told and bool(processor.get("do_normalize", True)) and not never


def _example(config: Mapping[str, Any]) -> str:
    """Return the card to write where a folder does not say how pixels are scaled."""
    ours = "_model_class" in config
    family = "smp" if ours else "transformers"
    count = int(config.get("in_channels", 3)) if ours else _channels(config)
    bands = [str(i + 1) for i in range(count)]
    if count == 3:
        bands = ["red", "green", "blue"]
    means = '"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]'
    told = "these are ImageNet's of bytes"
    if count != 3:
        means, told = '"mean": […], "std": […]', f"{count} numbers each"
    names = ["background", "building"] if ours else []
    names = names or [row["name"] for row in _classes(config)]
    return (
        f'{{"bands": {json.dumps(bands)}, {means}, "classes": {json.dumps(names)}, '
        f'"framework": {{"family": "{family}"}}}}, with the mean and std of training '
        f"({told})"
    )


def _processor(path: Path) -> dict[str, Any]:
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (path / name).is_file():
            found = read_json(path / name)
            return found.get("image_processor", found)  # type: ignore[no-any-return]
    return {}


def _channels(config: Mapping[str, Any]) -> int:
    vision = config.get("vision_config") or {}
    for part in (config, config.get("backbone_config") or {}, vision):
        if "num_channels" in part:
            return min(int(part["num_channels"]), MOST_BANDS + 1)
    return 3


def _side(config: Mapping[str, Any], processor: Mapping[str, Any]) -> int:
    """Return the side of the square that the network was trained on."""
    cropped = processor.get("do_center_crop") and processor.get("crop_size")
    size = cropped or processor.get("size") or {}
    if isinstance(size, int):
        return size
    if isinstance(size, list):
        return int(min(size))
    backbone = config.get("backbone_config") or {}
    prompts = config.get("prompt_encoder_config") or {}
    for side in (
        prompts.get("image_size"),
        size.get("height"),
        size.get("shortest_edge"),
        size.get("longest_edge"),
        config.get("image_size"),
        backbone.get("image_size"),
    ):
        if isinstance(side, int) and side >= 32:
            return side
    return 1024 if config.get("model_type") in SAMS else 512


def _resized(processor: Mapping[str, Any], side: int) -> dict[str, str]:
    """Return a warning where images of training were resized, whatever they showed."""
    if not processor.get("do_resize") or not processor.get("size"):
        return {}
    return {
        "warning": f"its processor resizes images (do_resize, size "
        f"{json.dumps(processor['size'])}), so how large its training's pixels were is "
        f"not known: windows of {side} px are cut from the raster as it is, or at "
        "--resolution METRES"
    }


def _factor(processor: Mapping[str, Any]) -> float:
    """Return what pixels are multiplied by first; 0 where they are not."""
    if not processor or not processor.get("do_rescale", True):
        return 0.0
    return float(processor.get("rescale_factor", 1 / 255))


def _band(
    name: str, processor: Mapping[str, Any], factor: float, index: int
) -> dict[str, Any]:
    """Return a band scaled by `(x * factor - mean) / std`, as the processor does it."""
    unit = factor or 1.0
    means, stds = processor.get("image_mean"), processor.get("image_std")
    if not processor.get("do_normalize", True) or not (means and stds):
        return {"name": name, "scale": 1 / unit}
    mean, std = _entry(means, index), _entry(stds, index)
    return {"name": name, "offset": mean / unit, "scale": std / unit}


def _entry(values: Any, index: int) -> float:  # noqa: ANN401 - a number, or several
    """Return a band's own value, or the one of all."""
    if isinstance(values, (int, float)):
        return float(values)
    return float(values[0] if len(values) == 1 else values[index])


def _classes(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    labels, count = config.get("id2label"), int(config.get("num_labels", 2))
    if max(len(labels or ()), 0 if labels else count) > MOST_CLASSES:
        raise ValueError(f"more than {MOST_CLASSES} classes")
    labels = labels or {str(i): f"class {i}" for i in range(count)}
    if not isinstance(labels, Mapping) or not all(str(k).isdigit() for k in labels):
        raise TypeError("id2label is no table of numbers and names")
    rows = sorted((int(value), str(name)) for value, name in labels.items())
    if [value for value, _ in rows] != [*range(len(rows))]:
        numbers = ", ".join(str(value) for value, _ in rows)
        raise ValueError(
            f"id2label numbers its {len(rows)} labels {numbers}, which does not tell "
            "which channel each is of: number them from 0 on"
        )
    names = [name for _, name in rows]
    return [
        {
            "value": value,
            "name": name if names.count(name) == 1 else f"{name} ({value})",
            "color": color,
        }
        for (value, name), color in zip(rows, colors_of(names), strict=True)
    ]


def _load(path: Path, card: Card, options: ModelOptions) -> Model | InstanceModel:
    transformers = require("transformers", what="this model", extra="transformers")
    read_config(path)
    _hashes(path)
    config = _config(transformers, path)
    kind = config.model_type
    if card.task != "semantic" and kind not in QUERIES | SAMS:
        raise ModelError(f"{kind} networks answer classes, not {card.task} objects")
    if kind in SAMS and card.task != "instance":
        raise ModelError(f"{kind} networks find objects: the task is instance")
    factory = _factory(transformers, kind)
    if type(config) not in factory._model_mapping.keys():  # noqa: SIM118, SLF001 - lazy
        raise ModelError(f"{kind} is not a network for segmentation in transformers")
    module = _pretrained(factory, path, config)
    if kind not in QUERIES | SAMS:
        return TorchModel(module, card, options)
    from geoseg.models.networks import queries, sam

    if kind in SAMS:
        return sam.prompted_model(module, card, options)
    return queries.query_model(module, card, options, path)


def _factory(transformers: Any, kind: str) -> Any:  # noqa: ANN401
    """Return what makes networks of a model type."""
    if kind in SAMS:
        return transformers.AutoModelForMaskGeneration
    if kind in QUERIES:
        return transformers.AutoModelForUniversalSegmentation
    return transformers.AutoModelForSemanticSegmentation


def _config(transformers: Any, path: Path) -> Any:  # noqa: ANN401 - an untyped library
    try:
        return transformers.AutoConfig.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{path} is not a model of transformers: {first_line(error)}"
        ) from error


def _pretrained(factory: Any, path: Path, config: Any) -> nn.Module:  # noqa: ANN401
    """Load weights, all of them."""
    module, missing = _filled(factory, path, config)
    if missing:
        raise ModelError(
            f"the weights in {path} lack {len(missing)} tensors of the network "
            f"({', '.join(missing[:3])}): it was not trained for segmentation"
        )
    return module


@contextmanager
def _silently() -> Iterator[None]:
    """Keep bars and tables of the library off the terminal."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _filled(
    factory: Any,  # noqa: ANN401 - of an untyped library
    path: Path,
    config: Any,  # noqa: ANN401
) -> tuple[nn.Module, list[str]]:
    """Return the network, and the names of the tensors that the folder lacks."""
    from safetensors import SafetensorError

    pickled = [file for file in weights_files(path) if file.suffix == ".bin"]
    for file in pickled:
        check_tensors(file)
    try:
        with _silently():
            module, facts = factory.from_pretrained(
                path,
                config=config,
                local_files_only=True,
                use_safetensors=not pickled,
                weights_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                dtype="float32",
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        said = first_line(error)
        if "mismatched_sizes" in said:  # a table, and how to go on with random weights
            said = "its weights are not of the sizes that its config.json tells of"
        raise ModelError(f"{path} cannot be loaded: {said}") from error
    return module, sorted(facts["missing_keys"])


# --- to be trained --------------------------------------------------------------------


def build(card: Card) -> nn.Module:
    """Return the network that a card describes, with random weights.

    The card's framework says which: `{"family": "transformers", "arch": "segformer"}`;
    anything else in it is handed to the configuration, and so is what lies under
    `config`.

    Raises:
        ModelError: It cannot be built so, or takes windows of another size.
    """
    transformers = require("transformers", what="this model", extra="transformers")
    given = {k: v for k, v in card.framework.items() if k not in {"family", "arch"}}
    given = {**given.pop("config", {}), **given}
    kind = str(given.pop("model_type", None) or card.framework.get("arch"))
    names = dict(enumerate(c.name for c in card.classes))
    given = {**_DEFAULTS.get(kind, {}), **given}
    try:
        with _silently():
            config = transformers.AutoConfig.for_model(
                kind, **given, id2label=names, label2id={n: i for i, n in names.items()}
            )
            backbone = getattr(config, "backbone_config", None)
            for part in (config, backbone or config):
                if hasattr(part, "num_channels"):
                    part.num_channels = len(card.bands)
            if hasattr(config, "image_size") and "image_size" not in given:
                config.image_size = card.window
            _check_window(config, card)
            module = _factory(transformers, kind).from_config(config)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(
            f"{kind} of transformers cannot be built for {card.name!r}: "
            f"{first_line(error)}"
        ) from error
    return module  # type: ignore[no-any-return]


def _check_window(config: Any, card: Card) -> None:  # noqa: ANN401
    side = getattr(config, "image_size", card.window)
    if config.model_type not in _ANY_SIZE and side != card.window:
        raise ModelError(
            f"{config.model_type} of {card.name!r} takes windows of {side} px, not "
            f"{card.window}: train on patches of that size (--patch {side})"
        )


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    """Return the weights in a folder, named as in the network that is built.

    A folder of a backbone alone has none for the head.
    """
    transformers = require("transformers", what="this model", extra="transformers")
    _hashes(path)
    config = _config(transformers, path)
    factory = _factory(transformers, config.model_type)
    module, missing = _filled(factory, path, config)
    return {k: v for k, v in module.state_dict().items() if k not in missing}


def save_model(module: nn.Module, card: Card, folder: Path) -> Path:
    """Write a network and its card as a model folder that `--model` takes."""
    kind = card.framework["arch"]
    with _silently():
        module.save_pretrained(folder, safe_serialization=True)  # type: ignore[operator]
    card = replace(card, framework={"family": "transformers", "arch": kind})
    return write_folder(card, folder, folder / "model.safetensors")
