"""`geoseg compose`."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import click

from geoseg.cli.answers import step
from geoseg.cli.common import OutputOptions, one_or_more, print_summary, tell
from geoseg.cli.options import command, takes
from geoseg.core.text import counted, redact, size
from geoseg.errors import GeosegError
from geoseg.rasters.options import ComposeOptions


@command(
    "geoseg compose sentinel-2-l2a --aoi v.gpkg --dates 2025-05/2025-09 --out s.tif",
    "geoseg compose scenes.json --bands red,green,blue --reduce medoid --out s.tif",
    "geoseg compose scenes.json --every month --quality --out year.zarr",
)
@click.argument("source", metavar="SCENES...", nargs=-1, required=True)
@takes(ComposeOptions)
@takes(OutputOptions, "output")
def compose(
    *, source: tuple[str, ...], options: ComposeOptions, output: OutputOptions
) -> None:
    """Make one image of SCENES of many dates, or one per step in time.

    Scenes are put on one grid, masked by their quality bands, brought to reflectance,
    and reduced pixel by pixel, block by block, in bounded memory. What one overpass saw
    counts once, however many tiles it was cut into. Where nothing was seen is nodata.
    """
    from geoseg.execution.progress import steps
    from geoseg.rasters.compose import series_of, write
    from geoseg.rasters.images import memory_of

    if options.out is None:
        raise GeosegError("--out is missing: name a .tif or .zarr to write")
    series = series_of(one_or_more(source), options)
    tell(series.notes)
    begun = perf_counter()
    with steps("composing", quiet=output.silent) as show:
        made = write(series, options, show)
    seconds = perf_counter() - begun
    if made.cut:
        tell([made.told])
    grid, (scenes, overpasses) = series.grid, series.used
    bytes_ = _bytes(made.path)
    summary: dict[str, Any] = {
        "image": str(made.path),
        "height": grid.height,
        "width": grid.width,
        "bands": [band.name for band in series.bands],
        "steps": [s.label for s in series.steps if s.label is not None],
        "scenes": len(scenes),
        "observations": len(overpasses),
        "bytes": bytes_,
        "seconds": round(seconds, 3),
        "memory_at_most": int(memory_of(series)),
        "notes": list(series.notes),
    }
    line = (
        f"{redact(str(made.path))}: {grid.width} x {grid.height} px, "
        f"{counted(len(series.bands), 'band')}, of "
        f"{counted(len(overpasses), 'observation')} in "
        f"{counted(len(scenes), 'scene')}; {size(bytes_)} in {seconds:.1f} s"
    )
    print_summary(summary, [line, step("look", "info", made.path)], output)


def _bytes(path: Any) -> int:  # noqa: ANN401 - a Path
    if path.is_file():
        return int(path.stat().st_size)
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
