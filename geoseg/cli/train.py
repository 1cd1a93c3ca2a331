"""`geoseg train`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import click

from geoseg.cli.common_old import comma_list, output_options
from geoseg.cli.labels import label_options, pairs

F = TypeVar("F", bound=Callable[..., Any])


def _arguments(
    context: click.Context, option: click.Parameter, values: tuple[str, ...]
) -> dict[str, Any] | None:
    """Turn `--argument encoder_depth=4` into a mapping; values as JSON, else text."""
    return {k: _plain(v) for k, v in (pairs(context, option, values) or {}).items()}


def _plain(text: str) -> Any:  # noqa: ANN401 - whatever JSON holds
    try:
        return json.loads(text)
    except ValueError:
        return text


def _classes(
    _: click.Context, option: click.Parameter, values: tuple[str, ...]
) -> tuple[tuple[int, str, str | None], ...]:
    """Turn `--class 1=building:#D55E00` into value, name and colour."""
    found = []
    for text in values:
        value, _equals, rest = text.partition("=")
        name, _colon, color = rest.partition(":")
        if not value.isdigit() or not name:
            raise click.BadParameter(f"write it as {option.metavar}")
        found.append((int(value), name, color or None))
    return tuple(found)


def _floats(
    _: click.Context, __: click.Parameter, value: str | None
) -> tuple[float, ...] | None:
    """Turn `1,2,4` into numbers; `none` into none of them."""
    if value is None:
        return None
    try:
        return tuple(
            float(v) for v in value.split(",") if v.strip() not in {"", "none"}
        )
    except ValueError as error:
        raise click.BadParameter(f"write numbers, as in 1,2,4: {error}") from error


def _together(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Return one decorator for several options, in their order."""

    def add(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return add


_what_to_learn = _together(
    click.option(
        "--labels",
        required=True,
        multiple=True,
        metavar="FILE",
        help="Points, polygons or class rasters: one, or one for each raster.",
    ),
    label_options,
    click.option(
        "--boundary",
        type=float,
        metavar="PX",
        help="Pixels of polygons so near to their outline are a class `boundary`, for "
        "segment --task instance --instances boundary:boundary.",
    ),
    click.option(
        "--class",
        "classes",
        multiple=True,
        callback=_classes,
        metavar="VALUE=NAME[:#RRGGBB]",
        help="A class with its colour; default what the labels hold; repeatable.",
    ),
    click.option(
        "--bands", callback=comma_list, metavar="red,…", help="As in segment."
    ),
    click.option("--aoi", type=click.Path(), help="Polygons; outside is not seen."),
    click.option("--nodata", type=float, help="A pixel value that is nodata too."),
    click.option(
        "--resolution",
        type=float,
        metavar="METRES",
        help="To work at; default the first raster's own.",
    ),
)

_what_is_held_out = _together(
    click.option(
        "--validation",
        type=float,
        default=0.2,
        show_default=True,
        help="Share of the labelled ground that is held out; 0 for none.",
    ),
    click.option(
        "--block",
        type=int,
        metavar="PX",
        help="Side of the held-out blocks, a multiple of 32; default by the labels.",
    ),
    click.option(
        "--gap",
        type=int,
        metavar="PX",
        help="What is left out around them; default a quarter of a block, at most 64; "
        "for trees as far as their features reach.",
    ),
)

_networks = _together(
    click.option(
        "--encoder",
        default="resnet18",
        show_default=True,
        help="Of segmentation_models_pytorch, or tu- and any of timm.",
    ),
    click.option(
        "--argument",
        "arguments",
        multiple=True,
        callback=_arguments,
        metavar="NAME=VALUE",
        help="Of the network's constructor, as in encoder_depth=4; repeatable.",
    ),
    click.option(
        "--init",
        metavar="FOLDER",
        help="A model to start from; its bands and classes may be others.",
    ),
    click.option("--epochs", type=int, default=40, show_default=True, help="At most."),
    click.option(
        "--windows",
        type=int,
        help="Patches in an epoch; default twice what covers the labelled ground.",
    ),
    click.option(
        "--patch",
        type=int,
        default=256,
        show_default=True,
        metavar="PX",
        help="Their side, a multiple of 32.",
    ),
    click.option(
        "--batch", type=int, default=8, show_default=True, help="Patches in a step."
    ),
    click.option(
        "--lr",
        type=float,
        default=2e-3,
        show_default=True,
        help="Highest of the one-cycle schedule.",
    ),
    click.option(
        "--weight-decay", type=float, default=1e-2, show_default=True, help="Of AdamW."
    ),
    click.option(
        "--loss",
        default="ce+dice",
        show_default=True,
        help="ce, dice, focal, or a sum of them; networks that answer masks have their "
        "own.",
    ),
    click.option(
        "--balance",
        type=click.Choice(["none", "sqrt", "equal"]),
        default="sqrt",
        show_default=True,
        help="How patches are spread over classes.",
    ),
    click.option(
        "--brightness",
        type=float,
        default=0.2,
        show_default=True,
        help="How much gain and offset of bands vary, in standard deviations.",
    ),
    click.option(
        "--zoom",
        type=float,
        default=1.3,
        show_default=True,
        help="How much the scale of the ground varies, as a factor.",
    ),
    click.option(
        "--patience",
        type=int,
        default=12,
        show_default=True,
        help="Epochs without a better mean IoU, or AP50 of objects, after which "
        "training ends.",
    ),
    click.option("--device", default="auto", show_default=True, help="As in segment."),
    click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
        default="auto",
        show_default=True,
        help="Of the steps; weights stay fp32.",
    ),
    click.option(
        "--loaders",
        type=int,
        metavar="N",
        help="Processes that cut patches; default by device and cores.",
    ),
)

_trees = _together(
    click.option("--trees", type=int, default=100, show_default=True, help="How many."),
    click.option(
        "--leaf", type=int, default=3, show_default=True, help="Pixels in a leaf."
    ),
    click.option(
        "--samples",
        type=int,
        default=100_000,
        show_default=True,
        help="Pixels to learn from, at most.",
    ),
    click.option(
        "--scales",
        callback=_floats,
        metavar="1,2,4",
        help="Of the features, in pixels: Gaussian mean, gradient, spread; `none` for "
        "bands on their own.",
    ),
    click.option(
        "--differences",
        is_flag=True,
        help="Normalised differences of all pairs of bands are features too.",
    ),
)


@click.command(
    epilog="""
\b
Examples:
  geoseg train scene.tif --labels polygons.gpkg --arch forest --out models/forest
  geoseg train a.tif b.tif --labels a.gpkg --labels b.gpkg --out models/unet
  geoseg train town.tif --labels footprints.gpkg --constant building \\
      --background other --arch deeplabv3plus --encoder tu-regnety_004 --out models/town
  geoseg train fields.tif --labels fields.gpkg --constant field --background other \\
      --boundary 1 --out models/fields
  geoseg train trees.tif --labels crowns.gpkg --constant tree --arch maskrcnn \\
      --out models/trees
"""
)
@click.argument("rasters", nargs=-1, required=True)
@_what_to_learn
@click.option("--out", required=True, metavar="FOLDER", help="The model to write.")
@click.option(
    "--arch",
    help="forest, extra-trees, boosting or svm; or a network of torchvision, "
    "transformers or segmentation_models_pytorch: a name that is not known lists them "
    "all; maskrcnn for objects. Default that of --init, or unet.",
)
@click.option(
    "--task",
    type=click.Choice(["semantic", "instance"]),
    help="Classes, or objects, one for each polygon; default what the network is for.",
)
@_what_is_held_out
@_networks
@_trees
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--name", help="What the model is called.")
@click.option("--license", help="SPDX identifier, for the card.")
@click.option("--overwrite", is_flag=True, help="Replace a model that is there.")
@output_options
def train(
    *,
    rasters: tuple[str, ...],
    labels: tuple[str, ...],
    classes: tuple[tuple[int, str, str | None], ...],
    scales: tuple[float, ...] | None,
    differences: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,  # noqa: ANN401 - those of train, as declared above
) -> None:
    """Train a model on RASTERS and labels; an interrupted training goes on."""
    from geoseg.cli.common_old import report
    from geoseg.core.classes import Class, default_color
    from geoseg.models.classical.features import Features
    from geoseg.models.folder import open_folder
    from geoseg.training.train import train as run

    features = Features(differences=differences)
    if scales is not None:
        features = replace(features, scales=scales)
    path = run(
        list(rasters),
        labels=list(labels),
        classes=tuple(
            Class(value=v, name=name, color=color or default_color(i))
            for i, (v, name, color) in enumerate(classes)
        ),
        features=features if features != Features() else None,
        progress=not (quiet or as_json),
        **options,
    )
    facts = dict(open_folder(path).card.facts)
    summary = {"model": str(path), **facts}
    notes = facts.get("validation", {}).get("notes", [])
    lines = [f"{path}: {_figures(facts)}", *(f"- {note}" for note in notes)]
    report(summary, lines, quiet=quiet, as_json=as_json)


def _figures(facts: Mapping[str, Any]) -> str:
    """Return in a line how good a model is, by its card."""
    found = facts.get("validation")
    if found is None:
        return "trained; nothing was held out, so how good it is, is not known"
    if "objects" in found:
        objects = found["objects"]
        figures = {"AP50": "ap50", "PQ": "pq", "F1": "f1_50"}
        told = ", ".join(f"{n} {objects[k] or 0:.3f}" for n, k in figures.items())
        return f"on {found['how']}: {told}"
    by_class = ", ".join(
        f"{name} {c['iou']:.3f}" if c["iou"] is not None else f"{name} -"
        for name, c in found["classes"].items()
    )
    return (
        f"on {found['how']}: overall accuracy {found['overall_accuracy']:.3f}, "
        f"mean IoU {found['mean_iou']:.3f} ({by_class})"
    )
