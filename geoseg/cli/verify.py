"""`geoseg verify`."""

from __future__ import annotations

import click

from geoseg.cli.common import OutputOptions, client_of, print_summary
from geoseg.cli.options import command, takes
from geoseg.core.text import redact
from geoseg.execution.options import ClusterOptions
from geoseg.maps.options import VerifyOptions


@command(
    "geoseg verify masks.zarr",
    "geoseg verify s3://bucket/masks.zarr --workers 8 --json",
    "geoseg verify masks.zarr --repair || geoseg segment …   # the same as before",
)
@click.argument("masks")
@takes(VerifyOptions)
@takes(ClusterOptions, "place")
@takes(OutputOptions, "output")
@click.pass_context
def verify(
    context: click.Context,
    *,
    masks: str,
    options: VerifyOptions,
    place: ClusterOptions,
    output: OutputOptions,
) -> None:
    """Compare MASKS with its checksums: damaged, missing and foreign objects.

    Exit status 0: whole, or so again by --repair. 3: it is not; what is wrong is
    listed. --repair restores metadata, coordinates and overviews; blocks and objects
    that it removes are made again, byte for byte, by the segment command that made
    them.
    """
    from geoseg.maps.verify import lines_of
    from geoseg.maps.verify import verify as verified

    with client_of(place) as client:
        found = verified(masks, client=client, **dict(options))
    summary = {
        "masks": redact(masks),
        "whole": found.whole,
        "blocks": found.blocks,
        "done": found.done,
        "damaged": [list(block) for block in sorted(found.damaged)],
        "problems": found.problems,
        "repaired": list(found.repaired),
    }
    print_summary(summary, lines_of(masks, found), output)
    if not found.whole:
        context.exit(3)
