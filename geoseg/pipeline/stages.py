"""The stages of a pipeline: whether each is done, and what makes it."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoseg.core.files import replace
from geoseg.core.grid import Window
from geoseg.errors import ChangedError, GeosegError
from geoseg.inference.planning import recipe_of
from geoseg.maps.legend import rename
from geoseg.maps.options import ClassesOptions
from geoseg.maps.storage import Storage
from geoseg.maps.store import open_masks
from geoseg.pipeline.fingerprints import fingerprint, inputs_of
from geoseg.pipeline.settings import Segment
from geoseg.rasters.open import open_source
from geoseg.vector.options import VectorizeOptions
from geoseg.viz.options import ReportOptions

if TYPE_CHECKING:
    from geoseg.core.options import Options
    from geoseg.pipeline.job import PipelineRun
    from geoseg.pipeline.settings import Pipeline


def run_stage(run: PipelineRun, name: str, settings: Options) -> dict[str, Any]:
    """Run one stage, or skip it where it was made of the same before."""
    stage = STAGES[name]
    product = stage.product(run.pipeline)
    key, noted = _key(run, settings), run.state().get(name)
    if noted is not None and noted["key"] == key and _is_good(run, name, noted):
        run.log(name, "skipped", product=product)
        return {"product": product, "made": False}
    run.log(name, "start", product=product)
    begun = time.monotonic()
    if noted is not None and not run.overwrite:
        _keep_edited(run, name, noted)
    elif noted is None and not Storage(product).exists():
        run.note(name, "begun")  # what is there from now on is ours
        noted = {"key": "begun"}
    # What this pipeline made of other settings or masks is replaced, nothing else.
    facts = stage.make(run, product, run.overwrite or noted is not None)
    seconds = round(time.monotonic() - begun, 3)
    run.note(name, key, _fingerprint(name, product))
    run.log(name, "done", product=product, seconds=seconds, **facts)
    return {"product": product, "made": True, "seconds": seconds, **facts}


def _is_good(run: PipelineRun, name: str, noted: Mapping[str, Any]) -> bool:
    """Whether a product of the same inputs is there, and neither damaged nor cut.

    One that was edited since is good too: it is somebody's, and stays.
    """
    stage, product = STAGES[name], STAGES[name].product(run.pipeline)
    if not Storage(product).exists():
        return False
    now = _fingerprint(name, product)
    if now == noted.get("product"):
        return stage.is_complete(run)
    if not stage.is_whole(run, product):
        said = f"{product} is damaged"
        if Path(product).is_file():
            said += f": what was there is now {_set_aside(Path(product), 'damaged')}"
        run.warn(name, "damaged", f"{said}, and made again")
        return False
    if name == "segment":  # its checksums say that nobody edited it
        run.note(name, noted["key"], now)
    else:
        said = "was changed since it was made: it stays as it is; --overwrite makes it"
        run.warn(name, "edited", f"{product} {said} again")
    return True


def _keep_edited(run: PipelineRun, name: str, noted: Mapping[str, Any]) -> None:
    """Set a file aside that somebody edited since it was made: its work is not lost."""
    product = Path(STAGES[name].product(run.pipeline))
    made = noted.get("product")
    if made is None or not product.is_file():
        return
    if _fingerprint(name, str(product)) == made:
        return
    aside = _set_aside(product, "edited")
    if name == "export" and (style := product.with_suffix(STYLE)).is_file():
        replace(style, aside.with_suffix(STYLE))
    text = f"{product} was changed since it was made: what was there is now {aside}"
    run.warn(name, "set aside", text)


def _fingerprint(name: str, product: str) -> str | None:
    """Return what a product is: of a map with the style, which QGIS saves beside it."""
    own = fingerprint(product)
    if name != "export" or own is None:
        return own
    style = fingerprint(str(Path(product).with_suffix(STYLE)))
    return own if style is None else f"{own}+{style}"


def _set_aside(product: Path, how: str) -> Path:
    """Rename a file, ending as before, and return what it is called now."""
    names = (f"{product.name}.{how}-{i}{product.suffix}" for i in count(1))
    aside = next(p for p in map(product.with_name, names) if not p.exists())
    replace(product, aside)
    return aside


def _key(run: PipelineRun, settings: Options) -> str:
    """Return a digest of all that a stage is made of."""
    facts: dict[str, Any] = {
        "settings": settings.model_dump(mode="json"),
        "inputs": inputs_of(settings),
    }
    if isinstance(settings, Segment):
        facts["source"] = _identity(settings)
        facts["model"] = recipe_of(settings, "cpu").hash  # on any device
    else:
        facts["masks"] = _record(run.pipeline.masks).get("run")
        facts["classes"] = [asdict(c) for c in open_masks(run.pipeline.masks).classes]
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _identity(segment: Segment) -> Any:  # noqa: ANN401 - JSON
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the stage itself will say it
        opened = open_source(segment.raster, **segment.of_source)
    return dict(opened.identity)


def _record(masks: str) -> Mapping[str, Any]:
    from geoseg.maps.second_copy import RECORD

    try:
        return dict(json.loads(Storage(masks).get(RECORD)))
    except (FileNotFoundError, ValueError):
        return {}


# --- stages ---------------------------------------------------------------------------


def _segment(run: PipelineRun, product: str, overwrite: bool) -> dict[str, Any]:  # noqa: ARG001
    from geoseg.inference.planning import plan_of
    from geoseg.inference.workflow import run_plan

    segment, client = run.pipeline.segment, run.client()
    plan = plan_of(segment.raster, segment, client=client)
    for note in plan.source.notes:
        run.log("segment", "note", text=note)
    make = partial(
        run_plan,
        plan,
        out=product,
        client=client,
        zarr_format=segment.zarr_format,
        shards=segment.shards,
        progress=run.progress("segment"),
    )
    try:
        masks, facts = make(overwrite=run.overwrite)
    except ChangedError as error:
        asked = run.if_changed == "overwrite"
        if not asked and (error.of_raster or run.if_changed == "new"):
            raise
        run.warn("segment", "overwritten", f"{error.what}. It is made again")
        before = [c.name for c in open_masks(product).classes]
        masks, facts = make(overwrite=True)
        _name_classes(product, segment)
        _say_renamed(run, before)
    else:
        _name_classes(product, segment)
    return {"windows": facts.windows, "masks_run": masks.run}


def _name_classes(masks: str, segment: Segment) -> None:
    """Give the classes the names that the pipeline has for them."""
    options = segment.of(ClassesOptions)
    if options != ClassesOptions():
        rename(masks, options)


def _say_renamed(run: PipelineRun, before: list[str]) -> None:
    """Say that classes are not called as before: somebody may have named them."""
    now = [c.name for c in open_masks(run.pipeline.masks).classes]
    if now != before:
        text = (
            f"the classes were called {', '.join(before)}, and are {', '.join(now)} "
            "now: geoseg classes --set names them, names in [segment] each time"
        )
        run.warn("segment", "renamed", text)


def _vectorize(run: PipelineRun, product: str, overwrite: bool) -> dict[str, Any]:
    from geoseg.vector.vectorize import write_regions

    assert run.pipeline.vectorize is not None
    options = run.pipeline.vectorize.of(
        VectorizeOptions, out=product, overwrite=overwrite
    )
    write_regions(run.pipeline.masks, options, run.client(), run.progress("vectorize"))
    return {"bytes": Path(product).stat().st_size}


def _export(run: PipelineRun, product: str, overwrite: bool) -> dict[str, Any]:
    from geoseg.maps.cog import export

    export(run.pipeline.masks, product, overwrite=overwrite)
    return {"bytes": Path(product).stat().st_size}


def _report(run: PipelineRun, product: str, overwrite: bool) -> dict[str, Any]:
    from geoseg.viz.report.write import write_page

    settings = run.pipeline.report
    assert settings is not None
    title = settings.title or run.pipeline.name
    options = settings.of(ReportOptions, out=product, overwrite=overwrite, title=title)
    write_page(run.pipeline.masks, options)
    return {"bytes": Path(product).stat().st_size}


def _is_complete(run: PipelineRun) -> bool:
    return bool(_record(run.pipeline.masks).get("complete"))


def _masks_are_whole(run: PipelineRun, product: str) -> bool:
    """Whether a store is as its checksums say; what is not is made again."""
    from geoseg.maps.verify import verify

    return verify(product, client=run.client(), repair=True).whole


def _regions_open(run: PipelineRun, product: str) -> bool:  # noqa: ARG001
    from geoseg.rasters.vectors import ogr

    pyogrio = ogr()
    try:
        return len(pyogrio.list_layers(product)) > 0
    except pyogrio.errors.DataSourceError:
        return False


def _map_opens(run: PipelineRun, product: str) -> bool:  # noqa: ARG001
    from geoseg.maps.open import open_classes

    try:
        reader = open_classes(product)
        side = min(reader.chunk, reader.grid.height, reader.grid.width)
        last = reader.grid.height - side, reader.grid.width - side
        reader.read("classes", Window(y=last[0], x=last[1], height=side, width=side))
    except GeosegError:
        return False
    return True


def _page_ends(run: PipelineRun, product: str) -> bool:  # noqa: ARG001
    return b"</html>" in Path(product).read_bytes()[-64:]


@dataclass(frozen=True, slots=True)
class _Step:
    """One stage of every pipeline."""

    product: Callable[[Pipeline], str]
    """Where what it makes lies."""
    make: Callable[[PipelineRun, str, bool], dict[str, Any]]
    """Makes it, replacing what is there if asked to; returns facts for the log."""
    is_whole: Callable[[PipelineRun, str], bool]
    """Whether what is there can be read: it is not damaged."""
    is_complete: Callable[[PipelineRun], bool] = lambda _: True
    """Whether all of it is made."""


def _file(stage: str) -> Callable[[Pipeline], str]:
    return lambda pipeline: pipeline.product(getattr(pipeline, stage).file)


STYLE = ".qml"
"""What the name of a map's style ends in."""
STAGES = {
    "segment": _Step(
        lambda pipeline: pipeline.masks, _segment, _masks_are_whole, _is_complete
    ),
    "vectorize": _Step(_file("vectorize"), _vectorize, _regions_open),
    "export": _Step(_file("export"), _export, _map_opens),
    "report": _Step(_file("report"), _report, _page_ends),
}
"""In their order."""
