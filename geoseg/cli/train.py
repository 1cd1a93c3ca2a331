"""`geoseg train`."""

from __future__ import annotations

import click

from geoseg.cli.answers import step
from geoseg.cli.common import OutputOptions, print_summary
from geoseg.cli.options import command, takes
from geoseg.training.options import TrainOptions


@command(
    "geoseg train scene.tif --labels polygons.gpkg --arch forest --out models/forest",
    "geoseg train a.tif b.tif --labels a.gpkg --labels b.gpkg --out models/unet",
    "geoseg train town.tif --labels footprints.gpkg --constant building \\\n"
    "    --background other --arch deeplabv3plus --encoder tu-regnety_004 "
    "--out models/town",
    "geoseg train fields.tif --labels fields.gpkg --constant field --background other "
    "\\\n    --boundary 1 --out models/fields",
    "geoseg train trees.tif --labels crowns.gpkg --constant tree --arch maskrcnn \\\n"
    "    --out models/trees",
)
@click.argument("rasters", nargs=-1, required=True)
@takes(TrainOptions)
@takes(OutputOptions, "output")
def train(
    *, rasters: tuple[str, ...], options: TrainOptions, output: OutputOptions
) -> None:
    """Train a model on RASTERS and labels; an interrupted training resumes."""
    from geoseg.models.describe import held_out
    from geoseg.models.folder import open_folder
    from geoseg.training.train import train_model

    path = train_model(list(rasters), options, progress=not output.silent)
    facts = dict(open_folder(path).card.facts)
    notes = list(facts["training"].get("label_notes", ()))
    notes += facts.get("validation", {}).get("notes", [])
    figures = held_out(facts.get("validation"))
    lines = [f"{path}: {figures}", *(f"- {note}" for note in notes)]
    blank = () if options.nodata is None else ("--nodata", f"{options.nodata:g}")
    use = *rasters[:1], "--model", path, *blank, "--out", "masks.zarr"
    lines.append(step("use", "segment", *use))
    print_summary({"model": str(path), **facts}, lines, output)
