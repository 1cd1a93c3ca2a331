"""`geoseg evaluate`, `geoseg sample` and `geoseg compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from geoseg.cli.common_old import cluster_options, output_options
from geoseg.cli.labels import label_options, numbers

_WIDTH = 120


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
@label_options
@click.option("--within", metavar="FILE", help="Polygons to look inside.")
@click.option(
    "--design",
    type=click.Choice(["auto", "stratified", "random", "census", "counts"]),
    default="auto",
    show_default=True,
    help="How the reference was drawn.",
)
@click.option(
    "--confidence",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.95,
    show_default=True,
    help="Level of the intervals.",
)
@click.option(
    "--finite-population",
    is_flag=True,
    help="Shrink standard errors by how much of a stratum was sampled.",
)
@click.option("--boundary", type=float, metavar="PX", help="Score boundaries too.")
@click.option("--objects", is_flag=True, help="Score instances too.")
@click.option("--kappa", is_flag=True, help="Print kappa too.")
@click.option("--csv", metavar="FILE.csv", help="Write figures by class.")
@click.option("--matrix", metavar="FILE.csv", help="Write the confusion matrix.")
@click.option("--figures", metavar="FOLDER", help="Write figures as PNG.")
@cluster_options
@output_options
def evaluate(
    *,
    masks: str,
    reference: str,
    kappa: bool,
    csv: str | None,
    matrix: str | None,
    figures: str | None,
    workers: int | None,
    scheduler: str | None,
    cluster: str | None,
    quiet: bool,
    as_json: bool,
    **options: Any,  # noqa: ANN401 - those of evaluate, as declared above
) -> None:
    """Compare MASKS with a reference: accuracy and areas with honest intervals."""
    from rich.console import Console

    from geoseg.accuracy.evaluate import evaluate as run
    from geoseg.execution.clusters import open_client
    from geoseg.execution.progress import steps

    _check_places(csv, matrix)
    with (
        open_client(workers=workers, scheduler=scheduler, cluster=cluster) as client,
        steps("evaluate", quiet=quiet or as_json) as show,
    ):
        found = run(masks, reference, client=client, progress=show, **options)
    if csv:
        found.to_csv(csv)
    if matrix:
        found.confusion_to_csv(matrix)
    if figures:
        from geoseg.viz.figures import draw_evaluation

        draw_evaluation(found, figures)
    if as_json:
        click.echo(json.dumps(found.to_dict(kappa=kappa)))
    elif not quiet:
        console = Console()
        # Files and pipes have no width: nothing is wrapped there.
        wide = None if console.is_terminal else _WIDTH
        Console(width=wide).print(found.tables(kappa=kappa))


def _check_places(*files: str | None) -> None:
    """Raise before the work where a result could not be written after it."""
    for file in files:
        if file is not None and not Path(file).parent.is_dir():
            raise click.UsageError(f"there is no folder {Path(file).parent}")


@click.command(
    epilog="""
\b
Examples:
  geoseg sample masks.zarr --design stratified --n 500 --out points.gpkg
  geoseg sample masks.zarr --allocation neyman --expect forest=0.9 --minimum 50 \\
      --standard-error 0.01 --out points.gpkg
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
@click.option("--n", type=int, help="How many points; default 500.")
@click.option(
    "--standard-error",
    type=float,
    metavar="SE",
    help="Of overall accuracy: as many points as it takes, instead of --n.",
)
@click.option(
    "--expect",
    "expected",
    multiple=True,
    callback=numbers,
    metavar="CLASS=ACCURACY",
    help="User's accuracy expected of a class, 0.8 unless said; for --standard-error "
    "and neyman; repeatable.",
)
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
    n: int | None,
    standard_error: float | None,
    quiet: bool,
    as_json: bool,
    **options: Any,  # noqa: ANN401 - those of geoseg.sample, as declared above
) -> None:
    """Draw points of MASKS to be labelled in QGIS, for an honest accuracy."""
    from geoseg.accuracy.sampling import sample as draw
    from geoseg.cli.common_old import report
    from geoseg.execution.progress import steps

    if n is not None and standard_error is not None:
        raise click.UsageError("give --n or --standard-error, not both")
    if standard_error is not None:
        options["standard_error"] = standard_error
    else:
        n = 500 if n is None else n
    with steps("sample", quiet=quiet or as_json) as show:
        path = draw(masks, out, n=n, progress=show, **options)
    count, by_stratum = _drawn(path)
    shares = ", ".join(f"{name} {k}" for name, k in by_stratum.items())
    lines = [f"{path}: {count} points ({shares}); label the column `class` in QGIS"]
    summary = {"points": str(path), "n": count, "strata": by_stratum}
    report(summary, lines, quiet=quiet, as_json=as_json)


def _drawn(path: Path) -> tuple[int, dict[str, int]]:
    """Return how many points there are, and how many of each stratum."""
    import pyogrio

    from geoseg.accuracy.sample_form import LAYER

    frame = pyogrio.read_dataframe(
        path, layer=LAYER, columns=["stratum"], read_geometry=False
    )
    return len(frame), frame["stratum"].value_counts().to_dict()


@click.command(
    epilog="""
\b
Examples:
  geoseg compare masks.zarr worldcover.tif
  geoseg compare summer.zarr winter.zarr --csv changes.csv
"""
)
@click.argument("masks")
@click.argument("other")
@click.option("--csv", metavar="FILE.csv", help="Write each pair of classes that meet.")
@output_options
def compare(
    *, masks: str, other: str, csv: str | None, quiet: bool, as_json: bool
) -> None:
    """Compare MASKS with the class map OTHER, on any grid: a matrix with areas."""
    from rich.console import Console

    from geoseg.accuracy.compare import compare as run
    from geoseg.execution.progress import steps

    _check_places(csv)
    with steps("compare", quiet=quiet or as_json) as show:
        found = run(masks, other, progress=show)
    if csv:
        found.to_csv(csv)
    if as_json:
        click.echo(json.dumps(found.to_dict()))
    elif not quiet:
        console = Console()
        wide = None if console.is_terminal else _WIDTH
        Console(width=wide).print(found.table())
        click.echo(f"the same name in {found.agreement:.1%} of what both map")
