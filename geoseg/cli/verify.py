"""`geoseg verify`."""

from __future__ import annotations

import click

from geoseg.cli.common_old import cluster_options, output_options, report


@click.command(
    epilog="""
\b
Examples:
  geoseg verify masks.zarr
  geoseg verify s3://bucket/masks.zarr --workers 8 --json
  geoseg verify masks.zarr --repair && geoseg segment …   # the same as before
"""
)
@click.argument("masks")
@click.option(
    "--repair",
    is_flag=True,
    help="Forget damaged blocks, so that the same segment command makes them anew.",
)
@cluster_options
@output_options
@click.pass_context
def verify(
    context: click.Context,
    *,
    masks: str,
    repair: bool,
    workers: int | None,
    scheduler: str | None,
    cluster: str | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Compare MASKS with its checksums: damaged, missing and foreign objects.

    Exit status 0: whole. 3: it is not; what is wrong is listed, and the segment command
    that made it mends what --repair forgot.
    """
    from geoseg.execution.clusters import open_client
    from geoseg.maps.verify import verify as verified

    with open_client(workers=workers, scheduler=scheduler, cluster=cluster) as client:
        found = verified(masks, client=client, repair=repair)
    summary = {
        "masks": masks,
        "whole": found.whole,
        "blocks": found.blocks,
        "done": found.done,
        "damaged": [list(block) for block in sorted(found.damaged)],
        "problems": found.problems,
    }
    lines = [
        *found.problems,
        f"{masks}: {found.done} of {found.blocks} blocks are done, "
        + (f"{len(found.problems)} problems" if found.problems else "all as written"),
    ]
    report(summary, lines, quiet=quiet, as_json=as_json)
    if not found.whole:
        context.exit(3)
