"""Where a run's products lie: `{date}`, `{number}`, `{raster}` in a pipeline's paths.

out = "out/{date}"            a folder a day: 2026-11-27, 2026-11-27-2, …
out = "out/{raster}/{number}" 1, 2, 3, … of each raster
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from geoseg.core.series_options import COLLECTION
from geoseg.errors import GeosegError
from geoseg.pipeline.settings import FIELD, Pipeline

_GLOB = re.compile(r"[*?\[]")


def stem_of(raster: str) -> str:
    """Return what a raster is called in a path: its file's name without ending."""
    plain = raster.removeprefix(COLLECTION).partition("?")[0].rstrip("/")
    return Path(plain).stem


def today() -> str:
    """Return the day, as this machine's clock says."""
    return f"{datetime.now().astimezone():%Y-%m-%d}"


def with_values(pipeline: Pipeline, values: Mapping[str, str]) -> Pipeline:
    """Return a pipeline with the braces in its paths replaced."""

    def fill(text: str) -> str:
        return FIELD.sub(lambda match: values.get(match[1], match[0]), text)

    changed: dict[str, Any] = {"out": fill(pipeline.out)}
    for stage, field in pipeline.paths:
        settings = getattr(pipeline, stage)
        path = {field: fill(getattr(settings, field))}
        changed[stage] = settings.model_copy(update=path)
    return pipeline.model_copy(update=changed)


def places(pipeline: Pipeline, day: str | None = None) -> Iterator[Pipeline]:
    """Yield the pipeline with the place of its first run, its second and so on.

    There is one only where neither `{date}` nor `{number}` tells them apart.

    Args:
        pipeline: With braces in its paths.
        day: What `{date}` stands for; default today, as this machine's clock says.

    Raises:
        GeosegError: `{raster}` has no name.
    """
    fields = pipeline.fields
    values = {"raster": _raster(pipeline) if _names_raster(pipeline) else ""}
    day = day or today()
    for n in count(1):
        again = "" if n == 1 or "number" in fields else f"-{n}"
        yield with_values(
            pipeline, {**values, "date": f"{day}{again}", "number": str(n)}
        )
        if not fields & {"date", "number"}:
            return


def newest(pipeline: Pipeline, day: str | None = None) -> tuple[Pipeline, Pipeline]:
    """Return the pipeline with the place of its newest run, and with that of the next.

    Where none has run yet, both are the first place.
    """
    found = None
    for place in places(pipeline, day):
        if not Path(place.out).exists():
            return found or place, place
        found = place
    assert found is not None, "there is one place at least"
    return found, found


def _names_raster(pipeline: Pipeline) -> bool:
    texts = [getattr(getattr(pipeline, s), key) for s, key in pipeline.paths]
    return any("{raster}" in text for text in (pipeline.out, *texts))


def _raster(pipeline: Pipeline) -> str:
    raster = pipeline.segment.raster
    if not isinstance(raster, str) or _GLOB.search(raster):
        raise GeosegError(
            "{raster} stands for the name of one raster, and segment.raster is several "
            "that make a mosaic: name the folder, or run over them with --scenes"
        )
    return stem_of(raster)
