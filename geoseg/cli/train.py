"""`geoseg train`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from geoseg.cli.answers import step
from geoseg.cli.common import OutputOptions, report
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
    from geoseg.models.folder import open_folder
    from geoseg.training.train import train_model

    path = train_model(list(rasters), options, progress=not output.silent)
    facts = dict(open_folder(path).card.facts)
    notes = list(facts["training"].get("label_notes", ()))
    notes += facts.get("validation", {}).get("notes", [])
    lines = [f"{path}: {_figures(facts)}", *(f"- {note}" for note in notes)]
    lines.append(
        step("use", "segment", *rasters[:1], "--model", path, "--out", "masks.zarr")
    )
    report({"model": str(path), **facts}, lines, output)


def _figures(facts: Mapping[str, Any]) -> str:
    """Return in a line how good a model is, by its card."""
    found = facts.get("validation")
    if found is None:
        return "trained; nothing was held out, so its accuracy is unknown"
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
