"""`geoseg search`."""

from __future__ import annotations

from dataclasses import asdict

import click

from geoseg.cli.answers import step
from geoseg.cli.common import OutputOptions, one_or_more, print_summary, tell
from geoseg.cli.options import command, takes
from geoseg.core.text import redact
from geoseg.rasters.search_options import SearchOptions


@command(
    "geoseg search sentinel-2-l2a --aoi valley.gpkg --dates 2025-05/2025-09 --cloud 40",
    "geoseg search landsat-c2-l2 --aoi valley.gpkg --dates 2025 --out items.json",
    "geoseg search https://host/stac/catalog.json --aoi valley.gpkg",
    "geoseg search 'scenes/*.SAFE' --dates-from names",
)
@click.argument("what", nargs=-1, required=True)
@takes(SearchOptions)
@takes(OutputOptions, "output", only="as_json")
def search(
    *, what: tuple[str, ...], options: SearchOptions, output: OutputOptions
) -> None:
    """List the scenes of WHAT at a place and a time: dates, clouds, coverage, sizes.

    WHAT is a collection of an archive, such as sentinel-2-l2a; the URL of a STAC API or
    of one of its collections; a static catalogue; a file with items (JSON,
    GeoParquet); or scenes of this machine. No pixel is read. What is written with --out
    is a raster to other commands, which also take a collection itself as stac:NAME.

    Archives that are known by name: earth-search, planetary-computer, cdse, hls, and
    those of one's own in ~/.config/geoseg/archives.toml.
    """
    from geoseg.rasters.search_table import lines_of, searched, total_bytes

    scenes = searched(one_or_more(what), options)
    tell(scenes.notes)
    summary = {
        "scenes": len(scenes),
        "bytes": total_bytes(scenes.days),
        "days": [asdict(day) for day in scenes.days],
        "file": None if options.out is None else str(options.out),
    }
    lines = lines_of(scenes)
    if scenes.days and options.out is not None:
        lines.append(step("an image of them", "compose", *_next(options)))
    print_summary(summary, lines, output)


def _next(options: SearchOptions) -> list[str]:
    aoi = [] if options.aoi is None else ["--aoi", redact(str(options.aoi))]
    return [redact(str(options.out)), *aoi, "--out", "composite.tif"]
