"""`geoseg train`, `geoseg evaluate` and `geoseg sample`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import click

from geoseg.cli.common import comma_list, output_options

F = TypeVar("F", bound=Callable[..., Any])


def _pairs(
    _: click.Context, __: click.Parameter, values: tuple[str, ...]
) -> dict[str, str] | None:
    """Turn `--map a=b --map c=d` into a mapping."""
    pairs = dict(value.partition("=")[::2] for value in values)
    if any(not key or not text for key, text in pairs.items()):
        raise click.BadParameter("write NAME=CLASS, as in --map 3=forest")
    return pairs or None


def _label_options(function: F) -> F:
    for option in (
        click.option("--strict", is_flag=True, help="Refuse rasters on another grid."),
        click.option(
            "--order",
            type=click.Choice(["last", "first", "smallest"]),
            default="last",
            show_default=True,
            help="Which of overlapping polygons wins.",
        ),
        click.option("--background", help="Class of pixels that nothing covers."),
        click.option("--constant", help="Class of all features."),
        click.option(
            "--map",
            "mapping",
            multiple=True,
            callback=_pairs,
            metavar="NAME=CLASS",
            help="Another name for a label's class, or `ignore`; repeatable.",
        ),
        click.option("--layer", help="Layer of a file with several."),
        click.option("--column", help="Column with class names or values."),
    ):
        function = option(function)
    return function


@click.command(
    epilog="""
\b
Examples:
  geoseg evaluate masks.zarr --reference points.gpkg
  geoseg evaluate masks.zarr --reference truth.tif --boundary 2 --csv accuracy.csv
"""
)
@click.argument("masks")
@click.option(
    "--reference",
    required=True,
    metavar="FILE",
    help="Points, polygons or a class raster; any CRS and grid.",
)
@_label_options
@click.option("--within", metavar="FILE", help="Polygons to look inside.")
@click.option(
    "--design",
    type=click.Choice(["auto", "stratified", "random", "census", "counts"]),
    default="auto",
    show_default=True,
    help="How the reference was drawn.",
)
@click.option("--confidence", type=float, default=0.95, show_default=True)
@click.option("--boundary", type=float, metavar="PX", help="Score boundaries too.")
@click.option("--objects", is_flag=True, help="Score instances too.")
@click.option("--kappa", is_flag=True, help="Print kappa too.")
@click.option("--csv", metavar="FILE.csv", help="Write figures by class.")
@click.option("--figures", metavar="FOLDER", help="Write figures as PNG.")
@output_options
def evaluate(
    *,
    masks: str,
    reference: str,
    kappa: bool,
    csv: str | None,
    figures: str | None,
    quiet: bool,
    as_json: bool,
    **options: Any,  # noqa: ANN401 - those of evaluate, as declared above
) -> None:
    """Compare MASKS with a reference: accuracy and areas with honest intervals."""
    from rich.console import Console

    from geoseg.evaluate import evaluate as run
    from geoseg.progress import steps

    with steps("evaluate", quiet=quiet or as_json) as show:
        found = run(masks, reference, progress=show, **options)
    if csv:
        found.to_csv(csv)
    if figures:
        from geoseg.figures import draw_evaluation

        draw_evaluation(found, figures)
    if as_json:
        click.echo(json.dumps(found.to_dict(kappa=kappa)))
    elif not quiet:
        Console().print(found.tables(kappa=kappa))


@click.command(
    epilog="""
\b
Example:
  geoseg sample masks.zarr --design stratified --n 500 --out points.gpkg
"""
)
@click.argument("masks")
@click.option("--out", required=True, metavar="FILE.gpkg", help="The points to write.")
@click.option(
    "--design",
    type=click.Choice(["stratified", "simple", "systematic"]),
    default="stratified",
    show_default=True,
)
@click.option("--n", type=int, default=500, show_default=True, help="How many points.")
@click.option(
    "--allocation",
    type=click.Choice(["proportional", "equal", "neyman"]),
    default="proportional",
    show_default=True,
    help="How a stratified sample is shared.",
)
@click.option("--minimum", type=int, default=0, help="At least so many in each class.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--overwrite", is_flag=True, help="Replace a file that is there.")
@output_options
def sample(
    *,
    masks: str,
    out: str,
    quiet: bool,
    as_json: bool,
    **options: Any,  # noqa: ANN401 - those of sample_points, as declared above
) -> None:
    """Draw points of MASKS to be labelled in QGIS, for an honest accuracy."""
    from geoseg.cli.common import report
    from geoseg.progress import steps
    from geoseg.sample import sample_points

    with steps("sample", quiet=quiet or as_json) as show:
        path = sample_points(masks, out, progress=show, **options)
    lines = [f"{path}: {options['n']} points; label the column `class` in QGIS"]
    report({"points": str(path)}, lines, quiet=quiet, as_json=as_json)


@click.command(
    epilog="""
\b
Examples:
  geoseg train scene.tif --labels polygons.gpkg --arch forest --out models/forest
  geoseg train a.tif b.tif --labels a.gpkg --labels b.gpkg --out models/unet
"""
)
@click.argument("rasters", nargs=-1, required=True)
@click.option(
    "--labels",
    required=True,
    multiple=True,
    metavar="FILE",
    help="Points, polygons or class rasters: one, or one for each raster.",
)
@click.option("--out", required=True, metavar="FOLDER", help="The model to write.")
@click.option(
    "--arch",
    default="unet",
    show_default=True,
    help="A network of segmentation_models_pytorch or torchvision; or forest, "
    "extra-trees, boosting, svm.",
)
@click.option("--encoder", default="resnet18", show_default=True)
@click.option("--init", metavar="FOLDER", help="A model to start from.")
@_label_options
@click.option("--bands", callback=comma_list, metavar="red,…", help="As in segment.")
@click.option("--aoi", type=click.Path(), help="Polygons; outside is not seen.")
@click.option("--nodata", type=float, help="A pixel value that is nodata too.")
@click.option("--resolution", type=float, metavar="METRES", help="To work at.")
@click.option(
    "--validation",
    type=float,
    default=0.2,
    show_default=True,
    help="Share of the labelled ground that is held out.",
)
@click.option("--gap", type=int, metavar="PX", help="Left out around it.")
@click.option("--epochs", type=int, default=40, show_default=True)
@click.option("--windows", type=int, help="Patches in an epoch.")
@click.option("--patch", type=int, default=256, show_default=True, metavar="PX")
@click.option("--batch", type=int, default=8, show_default=True)
@click.option("--lr", type=float, default=2e-3, show_default=True)
@click.option("--loss", default="ce+dice", show_default=True, help="ce, dice, focal.")
@click.option(
    "--balance",
    type=click.Choice(["none", "sqrt", "equal"]),
    default="sqrt",
    show_default=True,
    help="How patches are spread over classes.",
)
@click.option("--patience", type=int, default=12, show_default=True)
@click.option("--trees", type=int, default=100, show_default=True, help="Of a forest.")
@click.option("--samples", type=int, default=200_000, help="Pixels a forest sees.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    default="auto",
    show_default=True,
)
@click.option("--name", help="What the model is called.")
@click.option("--license", help="SPDX identifier, for the card.")
@click.option("--overwrite", is_flag=True, help="Replace a model that is there.")
@output_options
def train(
    *,
    rasters: tuple[str, ...],
    labels: tuple[str, ...],
    out: str,
    quiet: bool,
    as_json: bool,
    **options: Any,  # noqa: ANN401 - those of train, as declared above
) -> None:
    """Train a model on RASTERS and labels; an interrupted training goes on."""
    from geoseg.cli.common import report
    from geoseg.models.folder import open_folder
    from geoseg.train import train as run

    path = run(
        list(rasters),
        labels=list(labels),
        out=out,
        progress=not (quiet or as_json),
        **options,
    )
    facts = dict(open_folder(path).card.facts)
    lines = [f"{path}: {json.dumps(facts.get('figures', facts))}"]
    report({"model": str(path), "facts": facts}, lines, quiet=quiet, as_json=as_json)
