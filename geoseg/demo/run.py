"""`geoseg demo`: from a scene to masks, polygons, a picture and a summary."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Event, Thread
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from geoseg.core.files import made_folder, replacing
from geoseg.core.text import counted, number, redact
from geoseg.demo.example import example
from geoseg.errors import ModelError, RasterError
from geoseg.location import without_folders

if TYPE_CHECKING:
    from collections.abc import Mapping

    from distributed import Client

    from geoseg.maps.store import Masks

FALLBACK = "kmeans:6"
"""What segments a real scene that the demo's model cannot read."""

_MIN_AREA_PIXELS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """What the demo made, and how good and how fast."""

    scene: str
    """Path or URL of the raster that was segmented."""
    truth: Path | None
    """Land cover as it is; None for a real scene."""
    masks: Path
    """The Zarr store."""
    regions: Path
    """The GeoPackage."""
    picture: Path
    """The map as a PNG."""
    summary: Path
    """This, as JSON."""
    model: str
    """What segmented it."""
    note: str | None
    """What to know when reading the map; None: nothing."""
    height: int
    """Rows."""
    width: int
    """Columns."""
    accuracy: float | None
    """Share of valid pixels that are right, 0 … 1; None without truth."""
    iou: Mapping[str, float] | None
    """Intersection over union by class name; None without truth."""
    area_km2: Mapping[str, float]
    """True area by class name; empty where the scene has no place on the Earth."""
    polygons: int
    """Number of regions."""
    seconds: Mapping[str, float]
    """Time by stage, and `total`."""
    mpx_per_s: float
    """Million pixels segmented per second, reading and writing included."""
    peak_memory_bytes: int
    """Most that this process has had in memory."""

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON has it."""
        return {
            key: str(value) if isinstance(value, Path) else value
            for key, value in asdict(self).items()
        }

    def lines(self) -> list[str]:
        """Return everything as people read it."""
        head = (
            f"{self.width} x {self.height} pixels segmented by {self.model} at "
            f"{number(self.mpx_per_s)} Mpx/s, {counted(self.polygons, 'polygon')}, "
            f"{self.seconds['total']:.0f} s in all, peak memory "
            f"{self.peak_memory_bytes / 1e9:.2f} GB"
        )
        return [
            head,
            *([] if self.note is None else [f"note: {self.note}"]),
            *self._class_lines(),
            *(
                f"{name:<9}{path}"
                for name, path in (
                    ("scene", self.scene),
                    ("truth", self.truth),
                    ("masks", self.masks),
                    ("regions", self.regions),
                    ("picture", self.picture),
                    ("summary", self.summary),
                )
                if path is not None
            ),
            self.next_step,
        ]

    @property
    def next_step(self) -> str:
        """How to look at all of it, as one would type it."""
        words = ["view", self.masks, "--raster", self.scene, "--regions", self.regions]
        return f"look: geoseg {shlex.join(map(str, words))}"

    def _class_lines(self) -> Iterator[str]:
        if self.accuracy is not None:
            yield f"{100 * self.accuracy:.1f} % of pixels are right"
        for name, area in self.area_km2.items():
            iou = None if self.iou is None else self.iou.get(name)
            agreed = "" if iou is None else f"   IoU {iou:.3f}"
            yield f"  {name:<12}{area:>10.2f} km²{agreed}"

    def __str__(self) -> str:
        return "\n".join(self.lines())


def run_demo(
    out: str | os.PathLike[str] = "demo",
    *,
    scene: str | os.PathLike[str] | None = None,
    bands: Sequence[str] | None = None,
    model: Any = None,  # noqa: ANN401 - whatever segment takes
    client: Client | None = None,
    quiet: bool = False,
) -> DemoResult:
    """Go the whole way: scene, masks, polygons, picture, summary.

    What an earlier demo left in the folder is replaced.

    Args:
        out: Folder for everything that is made; made if it is not there.
        scene: A real raster instead of the one that ships with geoseg. Its bands are
            matched by name to those of the demo's model (blue, green, red, nir as
            uint16 at about 10 m), which has never seen the Earth: the summary says so.
            A raster that this model cannot read is clustered by `kmeans:6` instead.
            There is no accuracy then.
        bands: What the real scene's bands are, where it does not say.
        model: Another model, as `geoseg.segment` takes it.
        client: Dask client to run on; None is this process.
        quiet: No progress on stderr.

    Returns:
        What was made, also written as `summary.json`.

    Raises:
        GeosegError: The folder cannot be written, or the scene is no raster.
    """
    folder = made_folder(out)
    clock = _Clock(quiet=quiet)
    truth = None
    if scene is None:
        scene, truth = _copy_example(folder)
        chosen, note = str(example().model), None
    else:
        chosen, note = _model_for(scene, bands)
    with _peak_memory() as memory:
        masks = _segment(
            scene, bands, model or chosen, folder / "mask.zarr", client, clock
        )
        regions = _vectorize(masks, folder / "regions.gpkg", client, clock)
        with clock.stage("picture", "drawing the map"):
            picture = _draw(masks, folder / "map.png", scene, regions)
        with clock.stage("accuracy", "measuring areas" + " and accuracy" * bool(truth)):
            accuracy, iou = (None, None) if truth is None else _compare(masks, truth)
            areas = class_areas_km2(masks)
    result = DemoResult(
        scene=redact(os.fspath(scene)),
        truth=truth,
        masks=Path(masks.path),
        regions=regions,
        picture=picture,
        summary=folder / "summary.json",
        model=str(masks.attributes()["geoseg"]["model"]["name"]),
        note=None if model is not None else note,
        height=masks.grid.height,
        width=masks.grid.width,
        accuracy=accuracy,
        iou=iou,
        area_km2=areas,
        polygons=_count(regions),
        seconds=clock.seconds(),
        mpx_per_s=masks.grid.pixels / 1e6 / clock.taken["segment"],
        peak_memory_bytes=max(memory),
    )
    _write(result)
    return result


def _copy_example(folder: Path) -> tuple[Path, Path]:
    """Copy scene and truth beside what is made of them, to look at all of it there."""
    files = example()
    names = files.truth.with_name(f"{files.truth.name}.aux.xml")
    for file in (files.scene, files.truth, names):
        with replacing(folder / file.name) as part:
            shutil.copyfile(file, part)
    return folder / files.scene.name, folder / files.truth.name


@dataclass(slots=True)
class _Clock:
    """Says what is going on, and keeps how long it took."""

    quiet: bool
    taken: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, line: str) -> Iterator[None]:
        if not self.quiet:
            sys.stderr.write(f"{line} ...\n")
            sys.stderr.flush()
        begun = perf_counter()
        yield
        self.taken[name] = perf_counter() - begun

    def seconds(self) -> dict[str, float]:
        rounded = {name: round(value, 2) for name, value in self.taken.items()}
        return {**rounded, "total": round(sum(self.taken.values()), 2)}


def _model_for(
    scene: str | os.PathLike[str], bands: Sequence[str] | None
) -> tuple[str, str | None]:
    """Return the model for a real scene, and what to know about the map it makes."""
    from geoseg.inference.workflow import make_plan

    model = example().model
    try:
        plan = make_plan(scene, model=model, bands=bands)
    except (ModelError, RasterError) as error:
        return FALLBACK, f"clustered by {FALLBACK}, for the demo's model: {error}"
    return str(model), "; ".join(plan.source.notes) or None


def _segment(
    source: str | os.PathLike[str],
    bands: Sequence[str] | None,
    model: Any,  # noqa: ANN401 - whatever segment takes
    out: Path,
    client: Client | None,
    clock: _Clock,
) -> Masks:
    from geoseg.inference.workflow import segment
    from geoseg.maps.store import open_masks

    with clock.stage("segment", f"segmenting {Path(redact(os.fspath(source))).name}"):
        segment(
            source,
            model=model,
            bands=bands,
            out=out,
            client=client,
            overwrite=True,
            progress=False if clock.quiet else None,
        )
    return open_masks(str(out))


def _vectorize(masks: Masks, out: Path, client: Client | None, clock: _Clock) -> Path:
    """Make polygons, lines simplified by a pixel and specks joined to neighbours."""
    from geoseg.vector.vectorize import vectorize

    size = masks.grid.pixel_size_m or (1.0, 1.0)
    with clock.stage("vectorize", "drawing polygons"):
        return vectorize(
            masks,
            out,
            simplify=max(size),
            min_area=_MIN_AREA_PIXELS * size[0] * size[1],
            client=client,
            overwrite=True,
        )


def _draw(
    masks: Masks, out: Path, source: str | os.PathLike[str], regions: Path
) -> Path:
    from geoseg.viz.map_figure import draw_masks

    title = f"Map of {Path(source).name}"
    return draw_masks(masks, out, raster=source, regions=regions, title=title)


def _compare(masks: Masks, truth: Path) -> tuple[float, dict[str, float]]:
    """Return overall accuracy and the IoU of each class that there is."""
    from geoseg.accuracy.evaluate import evaluate

    accuracy = evaluate(masks, truth, design="census").accuracy
    iou = {
        name: round(figures.iou.value, 4)
        for name, figures in zip(accuracy.names, accuracy.per_class, strict=True)
        if np.isfinite(figures.iou.value)
    }
    return round(accuracy.overall.value, 4), iou


def class_areas_km2(masks: Masks) -> dict[str, float]:
    """Return the true area of each class in km², 4 decimals; empty without a CRS."""
    from geoseg.viz.statistics import map_statistics

    found = map_statistics(masks, size=1, places=0)
    if found.areas_m2 is None:
        return {}
    areas = zip(found.classes, found.areas_m2.tolist(), strict=True)
    return {c.name: round(area / 1e6, 4) for c, area in areas}


def _count(regions: Path) -> int:
    import pyogrio

    return int(pyogrio.read_info(regions, layer="regions")["features"])


@contextmanager
def _peak_memory() -> Iterator[list[int]]:
    """Note how many bytes this process has in memory, twenty times a second.

    The system's own record of the most is not to be had everywhere.
    """
    process, ended = psutil.Process(), Event()
    noted = [int(process.memory_info().rss)]

    def watch() -> None:
        while not ended.wait(0.05):
            noted.append(int(process.memory_info().rss))

    watcher = Thread(target=watch, daemon=True, name="memory")
    watcher.start()
    try:
        yield noted
    finally:
        ended.set()
        watcher.join()


def _write(result: DemoResult) -> None:
    """Write the summary, in which files have names and no folders of this machine."""
    facts = {
        key: value.name if isinstance(value, Path) else value
        for key, value in asdict(result).items()
    }
    facts["scene"] = without_folders(result.scene)
    text = json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False)
    with replacing(result.summary) as part:
        part.write_text(text + "\n", encoding="utf-8")
