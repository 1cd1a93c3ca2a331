"""From a map to its page: look at everything once, then fill in the template."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg._version import __version__
from geoseg.core.files import target, write_text
from geoseg.core.label_options import Order
from geoseg.core.options import keywords
from geoseg.errors import GeosegError
from geoseg.labels.names import UNLABELLED
from geoseg.maps.open import open_classes
from geoseg.maps.provenance import map_name
from geoseg.maps.store import Masks
from geoseg.viz.options import ReportOptions
from geoseg.viz.picture import image_of
from geoseg.viz.report.content import PageInputs, content
from geoseg.viz.statistics import Score, map_statistics

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

    from geoseg.accuracy.evaluation import Evaluation
    from geoseg.core.grid import Window
    from geoseg.labels import Labels
    from geoseg.maps.reader import ClassReader


def write_page(
    masks: str | Path | Masks | xr.Dataset | xr.DataArray,
    options: ReportOptions,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a page about a map; as `report`, with options as one object."""
    reader = open_classes(masks, partial=options.partial)
    page = _page(reader, options.out, overwrite=options.overwrite)
    evaluation, labels = options.evaluation, None
    if options.reference is not None:
        reference = os.fspath(options.reference)
        if evaluation is None:
            evaluation = _evaluate(reader, reference, options.reading)
        labels = _labels(reader, reference, options.reading)
    scores: dict[str, Score] = {} if labels is None else {"errors": _errors(labels)}
    inputs = PageInputs(
        reader=reader,
        statistics=map_statistics(
            reader, scores=scores, threads=threads, progress=progress
        ),
        image=image_of(reader, options.raster),
        evaluation=_figures(evaluation),
        title=options.title or map_name(reader),
        reference=labels,
    )
    return write_text(page, render(content(inputs)))


@keywords(ReportOptions, write_page)
def report(
    masks: str | Path | Masks | xr.Dataset | xr.DataArray,
    out: str | os.PathLike[str] | None = None,
    *,
    raster: Any = None,  # noqa: ANN401 - whatever open_source takes
    reference: str | os.PathLike[str] | None = None,
    column: str | None = None,
    layer: str | None = None,
    mapping: Mapping[str, str] | None = None,
    constant: str | None = None,
    background: str | None = None,
    order: Order = "last",
    strict: bool = False,
    evaluation: Any = None,  # noqa: ANN401 - an Evaluation, or its file
    title: str | None = None,
    overwrite: bool = False,
    partial: bool = False,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write one self-contained HTML page about a map.

    It has the map with scale bar, north arrow and legend; areas by class; the most
    remarkable places beside the image; how sure the model was; whether seams show; and
    how the map was made. It loads nothing from anywhere. Every pixel is read once, and
    memory does not grow with the map.

    Args:
        masks: Masks, their path or dataset; or another tool's class raster.
        out: The page; default the masks' name with `.html`.
        raster: The image that the map was made of; default what the masks remember, if
            it is still there.
        reference: Points, polygons or a class raster that tell what is true: the map is
            evaluated by them, and shown where it is most wrong.
        column: Column of the reference with class names or values; found by its usual
            names where None. This and the next six say how the reference is read, as
            in `evaluate`.
        layer: Of a reference with several layers.
        mapping: From a name or value of the reference to a class of the map, or to
            `ignore`.
        constant: All features of the reference are of this class.
        background: Pixels that the reference does not cover are of this class.
        order: Which of overlapping polygons wins: the last, the first or the smallest.
        strict: Refuse a reference raster on another grid.
        evaluation: What `geoseg evaluate` found, as object or JSON file.
        title: Heading; default the masks' name.
        overwrite: Replace a file that is there.
        partial: Take masks that are not complete as they are, with a warning.
        threads: How many blocks are read at a time.
        progress: Called with blocks done and blocks in all.

    Returns:
        The file written.

    Raises:
        GeosegError: The input cannot be read, or the page cannot be written.
    """
    raise NotImplementedError  # `write_page` is what runs


def _page(
    reader: ClassReader, out: str | os.PathLike[str] | None, *, overwrite: bool
) -> Path:
    if out is None:
        path = str(getattr(reader, "path", ""))
        if not path or "://" in path:
            raise GeosegError("name the page to write: --out report.html")
        out = Path(path).with_suffix(".html")
    return target(out, (".html", ".htm"), overwrite=overwrite)


def _evaluate(
    reader: ClassReader, reference: str, reading: Mapping[str, Any]
) -> Evaluation:
    from geoseg.accuracy.evaluate import evaluate

    if not isinstance(reader, Masks):
        raise GeosegError(
            "only masks of geoseg can be compared with a reference here: use "
            "--evaluation with the JSON of another evaluation, or leave it out"
        )
    return evaluate(reader, reference, **reading)


def _labels(reader: ClassReader, reference: str, reading: Mapping[str, Any]) -> Labels:
    from geoseg.labels import open_labels

    return open_labels(reference, reader.grid, classes=reader.classes, **reading)


def _errors(labels: Labels) -> Score:
    """Return the score that is 1 where map and reference differ, NaN where unknown."""

    def score(window: Window, values: NDArray[Any]) -> NDArray[np.float32]:
        out = np.full(values.shape, np.nan, np.float32)
        if labels.touches(window):
            truth = labels.read(window)
            known = (truth != UNLABELLED) & (values != np.iinfo(values.dtype).max)
            out[known] = (truth != values)[known]
        return out

    return score


def _figures(
    evaluation: Evaluation | str | os.PathLike[str] | None,
) -> Mapping[str, Any] | None:
    """Return an evaluation as JSON has it."""
    if evaluation is None:
        return None
    if not isinstance(evaluation, str | os.PathLike):
        return evaluation.to_dict()
    try:
        figures = json.loads(Path(evaluation).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise GeosegError(
            f"the evaluation {evaluation} cannot be read: {error}"
        ) from error
    if not isinstance(figures, dict) or "overall_accuracy" not in figures:
        raise GeosegError(
            f"{evaluation} is not an evaluation: make one with geoseg evaluate --json"
        )
    return figures


def render(values: Mapping[str, Any]) -> str:
    """Return the page."""
    return str(_template().render(version=__version__, **values))


@cache
def _template() -> Any:  # noqa: ANN401 - of jinja2, which is imported where it is used
    """Return the template, compiled once: that takes longer than a small page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("geoseg.viz.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")
