"""`geoseg evaluate`, `geoseg sample` and `geoseg compare`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click

from geoseg.accuracy.options import CompareOptions, EvaluateOptions, SampleOptions
from geoseg.cli.answers import step
from geoseg.cli.common import OutputOptions, client_of, print_summary
from geoseg.cli.options import command, takes
from geoseg.core.options import Cli, Options, Section
from geoseg.core.text import counted, redact
from geoseg.execution.options import ClusterOptions

if TYPE_CHECKING:
    from rich.console import RenderableType

_WIDTH = 120
_CSV = Cli(section=Section.WRITTEN, metavar="FILE.csv", location=True)


class FigureOptions(Options):
    """What is written of an evaluation; in Python it has a method for each."""

    kappa: Annotated[bool, Cli(section=Section.ESTIMATES)] = False
    """Print kappa too."""
    csv: Annotated[str | None, _CSV] = None
    """Write figures by class."""
    matrix: Annotated[str | None, _CSV] = None
    """Write the confusion matrix."""
    figures: Annotated[
        str | None, Cli(section=Section.WRITTEN, metavar="FOLDER", location=True)
    ] = None
    """Write figures as PNG."""


@command(
    "geoseg evaluate masks.zarr --reference points.gpkg",
    "geoseg evaluate masks.zarr --reference truth.tif --boundary 2 --csv accuracy.csv",
)
@click.argument("masks")
@takes(EvaluateOptions)
@takes(FigureOptions, "written")
@takes(ClusterOptions, "place")
@takes(OutputOptions, "output")
def evaluate(
    *,
    masks: str,
    options: EvaluateOptions,
    written: FigureOptions,
    place: ClusterOptions,
    output: OutputOptions,
) -> None:
    """Compare MASKS with a reference: accuracy and areas with honest intervals."""
    from geoseg.accuracy.evaluate import evaluate_map
    from geoseg.execution.progress import steps

    _check_places(written.csv, written.matrix)
    if written.figures and "://" in written.figures:
        raise click.UsageError("--figures is a folder of this machine, not a URL")
    with client_of(place) as client, steps("evaluate", quiet=output.silent) as show:
        found = evaluate_map(masks, options, client=client, progress=show)
    if written.csv:
        found.to_csv(written.csv)
    if written.matrix:
        found.confusion_to_csv(written.matrix)
    if written.figures:
        from geoseg.viz.figures import draw_evaluation

        draw_evaluation(found, written.figures)
    kappa = written.kappa
    _print(found.to_dict(kappa=kappa), lambda: found.tables(kappa=kappa), output)
    if not (output.as_json or output.quiet):
        to = redact(str(options.reference))
        click.echo(
            step("where it is wrong", "report", redact(masks), "--reference", to)
        )


def _check_places(*files: str | None) -> None:
    """Raise before the work where a result could not be written after it."""
    for file in files:
        if file is not None and not Path(file).parent.is_dir():
            raise click.UsageError(
                f"the folder {Path(file).parent} does not exist: create it first"
            )


def _print(
    found: Mapping[str, Any],
    tables: Callable[[], RenderableType],
    output: OutputOptions,
) -> None:
    """Print what was found, as JSON or as tables for people."""
    from rich.console import Console

    if output.as_json:
        click.echo(json.dumps(found))
    elif not output.quiet:
        console = Console()
        # Files and pipes have no width: nothing is wrapped there.
        wide = None if console.is_terminal else _WIDTH
        Console(width=wide).print(tables())


@command(
    "geoseg sample masks.zarr --design stratified --n 500 --out points.gpkg",
    "geoseg sample masks.zarr --allocation neyman --expect forest=0.9 --minimum 50 \\\n"
    "    --standard-error 0.01 --out points.gpkg",
)
@click.argument("masks")
@takes(SampleOptions)
@takes(OutputOptions, "output")
def sample(*, masks: str, options: SampleOptions, output: OutputOptions) -> None:
    """Draw points of MASKS to be labelled in QGIS, for an honest accuracy."""
    from geoseg.accuracy.sampling import draw_sample
    from geoseg.execution.progress import steps

    with steps("sample", quiet=output.silent) as show:
        path = draw_sample(masks, options, progress=show)
    count, by_stratum = _drawn(path)
    shares = ", ".join(f"{name} {k}" for name, k in by_stratum.items())
    drawn = f"{counted(count, 'point')} ({shares})"
    lines = [f"{path}: {drawn}; label the column `class` in QGIS"]
    lines.append(step("then", "evaluate", redact(masks), "--reference", path))
    print_summary(
        {"points": str(path), "n": count, "strata": by_stratum}, lines, output
    )


def _drawn(path: Path) -> tuple[int, dict[str, int]]:
    """Return how many points there are, and how many of each stratum."""
    import pyogrio

    from geoseg.accuracy.sample_form import LAYER

    frame = pyogrio.read_dataframe(
        path, layer=LAYER, columns=["stratum"], read_geometry=False
    )
    return len(frame), frame["stratum"].value_counts().to_dict()


class PairsOptions(Options):
    """What is written of a comparison; in Python it has a method for it."""

    csv: Annotated[str | None, _CSV] = None
    """Write each pair of classes that meet."""


@command(
    "geoseg compare masks.zarr worldcover.tif",
    "geoseg compare summer.zarr winter.zarr --csv changes.csv",
)
@click.argument("masks")
@click.argument("other")
@takes(CompareOptions)
@takes(PairsOptions, "written")
@takes(OutputOptions, "output")
def compare(
    *,
    masks: str,
    other: str,
    options: CompareOptions,
    written: PairsOptions,
    output: OutputOptions,
) -> None:
    """Compare MASKS with the class map OTHER, on any grid: a matrix with areas."""
    from geoseg.accuracy.compare import compare as run
    from geoseg.execution.progress import steps

    _check_places(written.csv)
    with steps("compare", quiet=output.silent) as show:
        found = run(masks, other, progress=show, **dict(options))
    if written.csv:
        found.to_csv(written.csv)
    _print(found.to_dict(), found.table, output)
    if not output.silent:
        click.echo(f"both agree on {found.agreement:.1%} of what both map")
