"""`geoseg models` and `geoseg model show | check | new | pack | import`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from geoseg.cli.common import OutputOptions, one_or_more
from geoseg.cli.options import Group, command, takes
from geoseg.core.raster_options import RasterOptions


@command(
    "geoseg models",
)
@takes(OutputOptions, "output", only="as_json")
def models(*, output: OutputOptions) -> None:
    """List what can be used as MODEL, and what is installed."""
    from rich.console import Console
    from rich.table import Column, Table

    from geoseg.models.families import families

    found = families()
    if output.as_json:
        rows = [{**asdict(f), "installed": f.installed} for f in found]
        click.echo(json.dumps(rows))
        return
    example = Column("--model", overflow="fold")  # to be copied, so not cut off
    table = Table("family", example, "what", "installed", box=None, pad_edge=False)
    for family in found:
        missing = f"pip install 'geoseg[{family.extra}]'"
        table.add_row(
            family.name,
            family.example,
            family.summary,
            "yes" if family.installed else missing,
        )
    Console(soft_wrap=False).print(table, markup=False)


@click.group(cls=Group)
def model() -> None:
    """Look at one model: show its card, check it, write a new one, pack, import."""


@command(
    "geoseg model show models/landcover",
    group=model,
)
@click.argument("spec", metavar="MODEL")
@takes(OutputOptions, "output", only="as_json")
def show(*, spec: str, output: OutputOptions) -> None:
    """Show the card of MODEL: bands, scaling, window, classes."""
    from geoseg.models.describe import describe
    from geoseg.models.load import model_recipe
    from geoseg.models.stac import card_to_item

    card = model_recipe(spec).card
    click.echo(json.dumps(card_to_item(card)) if output.as_json else describe(card))


@command(
    "geoseg model check models/landcover scene.tif",
    group=model,
)
@click.argument("spec", metavar="MODEL")
@click.argument("raster", nargs=-1, required=True)
@takes(RasterOptions)
@takes(OutputOptions, "output", only="as_json")
@click.pass_context
def check(
    context: click.Context,
    *,
    spec: str,
    raster: tuple[str, ...],
    options: RasterOptions,
    output: OutputOptions,
) -> None:
    """Say whether MODEL runs and RASTER is like its training data; if not, status 2.

    The model is loaded and given one blank window.
    """
    from geoseg.models.check import examine, try_out
    from geoseg.models.load import model_recipe
    from geoseg.rasters.open import open_source

    recipe = model_recipe(spec)
    source = open_source(one_or_more(raster), **options.of_source)
    recipe = recipe.bound(source)
    findings = examine(recipe.card, source)
    if not any(f.level == "wrong" for f in findings):
        findings += try_out(recipe, source)
    if output.as_json:
        click.echo(json.dumps([asdict(f) for f in findings]))
    else:
        for finding in findings:
            click.echo(f"{finding.level:<6}{finding.subject:<12}{finding.text}")
    if any(f.level == "wrong" for f in findings):
        context.exit(2)


@command(
    "geoseg model new roads.json",
    "geoseg model new models/roads",
    group=model,
)
@click.argument("card", metavar="CARD", type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
def new(*, card: Path, overwrite: bool) -> None:
    """Write a card to fill in: CARD.json beside a model file, or into a folder."""
    from geoseg.models.pack import new_card

    path = new_card(card, overwrite=overwrite)
    click.echo(f"{path}: fill it in, then geoseg model check MODEL RASTER")


@command(
    "geoseg model pack segformer-folder --out models/segformer",
    "geoseg model pack net.onnx --out models/net",
    group=model,
)
@click.argument("spec", metavar="MODEL")
@click.option("--out", required=True, metavar="FOLDER", help="The folder to write.")
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
def pack(*, spec: str, out: str, overwrite: bool) -> None:
    """Pack MODEL, its card and its weights, into one folder to share."""
    from geoseg.models.pack import pack as run

    path = run(spec, Path(out), overwrite=overwrite)
    click.echo(f"{path}: use it with --model {path}")


@command(
    "geoseg model import dynamicworld dynamicworld/forward --out models/dynamicworld",
    group=model,
    name="import",
)
@click.argument("kind", type=click.Choice(["dynamicworld"]))
@click.argument("folder", type=click.Path())
@click.option(
    "--out", metavar="FOLDER", help="The model to write; default models/KIND."
)
def import_(*, kind: str, folder: str, out: str | None) -> None:
    """Turn a model as others publish it, in FOLDER, into one of geoseg's folders."""
    from geoseg.models.networks.dynamic_world import import_folder

    path = import_folder(Path(folder), Path(out or f"models/{kind}"))
    click.echo(f"{path}: use it with --model {path}")
