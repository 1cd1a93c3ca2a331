"""Many scenes by one pipeline: a store per scene, one cluster for all, one table.

Scenes are shared out whole: each is run from beginning to end by one worker, so that a
thousand small ones keep all workers busy. What each made and why it did not stands in
`scenes.csv`; the same command does what is left.
"""

from __future__ import annotations

import copy
import csv
import io
import os
import re
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from glob import glob, has_magic
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoseg.core.text import plain, redact
from geoseg.errors import GeosegError, first_line, is_full
from geoseg.execution.cluster_settings import read_cluster
from geoseg.execution.engine import engine, processes
from geoseg.execution.options import ClusterOptions
from geoseg.maps.lock import held
from geoseg.maps.storage import Storage
from geoseg.pipeline.job import META, PipelineRun, ending_of
from geoseg.pipeline.options import IfChanged
from geoseg.pipeline.product_paths import stem_of, with_values
from geoseg.pipeline.run import check_policy, run_pipeline
from geoseg.pipeline.settings import (
    change_values,
    checked_pipeline,
    chosen_place,
    read_values,
    with_wait,
)

if TYPE_CHECKING:
    from distributed import Client

    from geoseg.pipeline.settings import Pipeline

TABLE = "scenes.csv"
_EVERY = 5.0
"""Seconds between two tables, at least."""
_TOLD_APART = re.compile(r"\{(?:raster|number)\}")
_DEEPEST = 8
"""Folders that a name is made of, at most."""
_ONE = threading.Lock()
"""A worker process runs one scene at a time, with all of its threads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneJob:
    """One raster to run."""

    name: str
    """What it is called: in paths as `{raster}`, and in the table."""
    raster: str
    """Path or URL."""
    settings: Mapping[str, str]
    """What is particular to it, such as `segment.nodata`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneOutcome:
    """What became of a scene: a line of the table."""

    scene: str
    raster: str
    state: str = "waiting"
    """`waiting`, `done`, `unchanged` (all of it was there already) or `failed`."""
    status: int | None = None
    """What the run of this scene alone would end with."""
    tries: int = 0
    seconds: float | None = None
    """Of the last try."""
    masks: str = ""
    """Its store."""
    error: str = ""
    notes: tuple[str, ...] = ()
    """What the run warned of; not part of the table."""


def list_scenes(scenes: str | Sequence[str]) -> list[SceneJob]:
    """Return the scenes that files, globs, lists and tables name, each once.

    Args:
        scenes: Paths or URLs of rasters, globs, lists (`.txt`, a path a line) or tables
            (`.csv`, the column `raster`, and `name` or settings if there are any).

    Raises:
        GeosegError: A list cannot be read, a glob finds nothing, or two scenes have the
            same name.
    """
    several = [scenes] if isinstance(scenes, str) else scenes
    rows = [row for text in several for row in _rows(text)]
    found = {row["raster"]: row for row in rows}  # the last row says most
    names = _names(found)
    shared = Counter(name.casefold() for name in names.values())
    if len(shared) < len(names):
        one = next(name for name in names.values() if shared[name.casefold()] > 1)
        raise GeosegError(
            f"two scenes are called {one!r} and would share a folder: give them names "
            "in a table (.csv) with the columns raster and name"
        )
    kept = {"raster", "name"}
    return [
        SceneJob(
            name=names[raster],
            raster=raster,
            settings={k: v for k, v in row.items() if k not in kept and v},
        )
        for raster, row in found.items()
    ]


def _rows(text: str) -> Iterator[dict[str, str]]:
    ending = Path(text).suffix.lower()
    if ending in {".csv", ".txt"}:
        yield from _of_list(text, ending)
    elif "://" not in text and has_magic(text):
        found = sorted(glob(text, recursive=True))  # noqa: PTH207 - absolute ones too
        if not found:
            raise GeosegError(f"--scenes {text}: no file is called like that")
        yield from ({"raster": path} for path in found)
    else:
        yield {"raster": text}


def _of_list(path: str, ending: str) -> Iterator[dict[str, str]]:
    """Yield the rows of a list or table; paths are relative to it."""
    try:
        content = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise GeosegError(f"{path} cannot be read: {first_line(error)}") from error
    lines = [t for t in content.splitlines() if t.strip() and t.lstrip()[0] != "#"]
    if ending == ".txt":
        rows: Iterable[dict[str, str]] = ({"raster": line.strip()} for line in lines)
    else:
        table = csv.DictReader(lines)
        if "raster" not in (table.fieldnames or ()):
            columns = ", ".join(table.fieldnames or ()) or "none"
            raise GeosegError(f"{path} has no column raster: its columns are {columns}")
        rows = table
    for row in rows:
        place = row["raster"]
        if "://" not in place and not Path(place).is_absolute():
            row = {**row, "raster": str(Path(path).parent / place)}  # noqa: PLW2901
        yield row


def _names(rows: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Return the name of each raster: its file's, with folders where several share it.

    >>> _names({"a/x.tif": {}, "b/x.tif": {}, "y.tif": {}, "z.tif": {"name": "z1"}})
    {'a/x.tif': 'a-x', 'b/x.tif': 'b-x', 'y.tif': 'y', 'z.tif': 'z1'}
    """
    names = {raster: row.get("name") or stem_of(raster) for raster, row in rows.items()}
    for depth in range(1, _DEEPEST):
        # On Windows and macOS names that differ by case alone are one folder.
        count = Counter(name.casefold() for name in names.values())
        for raster in [r for r, name in names.items() if count[name.casefold()] > 1]:
            if not rows[raster].get("name"):
                folders = Path(raster).parent.parts[-depth:]
                names[raster] = "-".join([*folders, stem_of(raster)])
    return names


def read_scenes(
    path: str | os.PathLike[str],
    scenes: str | Sequence[str] | None,
    overrides: Sequence[str],
    place: ClusterOptions,
) -> tuple[dict[str, Pipeline], str] | None:
    """Read a pipeline file for each of its scenes.

    Args:
        path: The TOML file.
        scenes: Which, whatever the file says; see `list_scenes`.
        overrides: `key=value` that win over the file; what a table says of a scene wins
            over them.
        place: Where workers come from, if it says so.

    Returns:
        Pipelines by the name of their scene, and the folder of them all; None where
        neither file nor argument names scenes.

    Raises:
        GeosegError: What is wrong with a file, on one line.
    """
    values = read_values(path)
    change_values(values, overrides)
    scenes = scenes or values.get("scenes")
    if not scenes:
        return None
    values["cluster"] = chosen_place(place) or values.get("cluster")
    if isinstance(values["cluster"], str):
        values["cluster"] = read_cluster(values["cluster"])
    pipelines, folder = {}, ""
    for scene in list_scenes(scenes):
        own = copy.deepcopy(values)
        own.setdefault("segment", {})["raster"] = scene.raster
        change_values(own, [f"{key}={value}" for key, value in scene.settings.items()])
        one, folder = scene_places(checked_pipeline(own, path), scene.name)
        pipelines[scene.name] = with_wait(one, place)
    if not pipelines:
        raise GeosegError("there is no scene: the list is empty")
    return pipelines, folder


def scene_places(pipeline: Pipeline, name: str) -> tuple[Pipeline, str]:
    """Return the pipeline with a folder of one scene, and the folder of all of them.

    It is where `{raster}` stands in `out`; else a folder below `out`.
    """
    out = pipeline.out
    if "raster" not in pipeline.fields:
        out = str(Path(out) / "{raster}")
    whole = str(Path(f"{_TOLD_APART.split(out)[0]}x").parent)
    named = with_values(pipeline.model_copy(update={"out": out}), {"raster": name})
    return named, whole


def run_scenes(
    pipelines: Mapping[str, Pipeline],
    folder: str,
    *,
    overwrite: bool = False,
    if_changed: IfChanged = "refuse",
    retries: int = 0,
    webhook: str | None = None,
    day: str,
    show: Callable[[int, int], None] = lambda *_: None,
) -> list[SceneOutcome]:
    """Run a pipeline for each of many scenes; one that fails stops no other.

    Args:
        pipelines: By the name of the scene.
        folder: Where the table lies.
        overwrite: Begin again.
        if_changed: See `run`.
        retries: How often scenes that a rerun can finish are tried again, when all
            others are done.
        webhook: What is told how all of it ended.
        day: What `{date}` stands for, for all of them.
        show: Called with how many scenes are done, of how many.

    Returns:
        What became of each, in their order.

    Raises:
        LockedError: They are being run already.
        ClusterError: Workers cannot be had, or are lost.
    """
    first = next(iter(pipelines.values()))
    check_policy(first, if_changed)
    Path(folder).mkdir(parents=True, exist_ok=True)
    job = partial(_run_scene, overwrite=overwrite, if_changed=if_changed, day=day)
    whole = first.model_copy(update={"out": folder})
    with ExitStack() as stack, held(Storage(folder), f"{META}/lock"):
        run = PipelineRun(whole, overwrite, lambda *_: None, stack)
        table = _Table(run, pipelines, show)
        run.begin()
        try:
            _try_each(job, pipelines, table, retries)
        except BaseException as error:
            event, facts = ending_of(error)
            table.finish(event, **facts)
            raise
        else:
            status = status_of(table.rows.values())
            table.finish("failed" if status else "done", status=status)
        finally:
            if webhook:
                run.post(webhook)
    return [*table.rows.values()]


def _try_each(
    job: Callable[[str, Pipeline], SceneOutcome],
    pipelines: Mapping[str, Pipeline],
    table: _Table,
    retries: int,
) -> None:
    """Run all scenes, and those again that a rerun can finish."""
    client, todo = table.run.client(), [*pipelines]
    for _ in range(retries + 1):
        for outcome in _each(job, {n: pipelines[n] for n in todo}, client):
            table.note(outcome)
        todo = [n for n in todo if table.rows[n].status == 3]
        if not todo:
            return


def status_of(outcomes: Iterable[SceneOutcome]) -> int:
    """Return the exit status of all: 3 where a rerun can finish something."""
    found = {outcome.status or 0 for outcome in outcomes}
    return 3 if 3 in found else max(found, default=0)


@dataclass(slots=True)
class _Table:
    """What became of the scenes so far, told to whoever looks."""

    run: PipelineRun
    pipelines: Mapping[str, Pipeline]
    show: Callable[[int, int], None]
    rows: dict[str, SceneOutcome] = field(default_factory=dict)
    told: float = -1e9

    def __post_init__(self) -> None:
        self.rows = {
            name: SceneOutcome(scene=name, raster=str(p.segment.raster))
            for name, p in self.pipelines.items()
        }

    def note(self, outcome: SceneOutcome) -> None:
        """Note what became of a scene."""
        name = outcome.scene
        tries = self.rows[name].tries + 1
        self.rows[name] = replace(outcome, tries=tries)
        done = sum(row.state != "waiting" for row in self.rows.values())
        self.show(done, len(self.rows))
        if time.monotonic() - self.told > _EVERY:
            self.told = time.monotonic()
            self.write()
            self.run.log("scenes", "progress", blocks=done, of=len(self.rows))

    def write(self) -> None:
        """Write the table, whole."""
        text = io.StringIO()
        columns = [f for f in SceneOutcome.__slots__ if f != "notes"]
        writer = csv.DictWriter(text, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(plain(row) for row in self.rows.values())
        self.run.storage.put(TABLE, text.getvalue().encode())
        states = [row.state for row in self.rows.values()]
        self.run.status["scenes"] = {s: states.count(s) for s in dict.fromkeys(states)}

    def finish(self, event: str, **facts: Any) -> None:  # noqa: ANN401
        """Write the table, and how the run ended."""
        self.write()
        done = sum(row.state != "waiting" for row in self.rows.values())
        self.run.log("scenes", event, blocks=done, of=len(self.rows))
        self.run.log("pipeline", event, **facts)


def _each(
    job: Callable[[str, Pipeline], SceneOutcome],
    pipelines: Mapping[str, Pipeline],
    client: Client | None,
) -> Iterator[SceneOutcome]:
    """Yield what becomes of scenes as they are done, here or on workers."""
    if client is None:
        for name, pipeline in pipelines.items():
            yield job(name, pipeline)
        return
    waiting = iter(pipelines.items())
    with engine(job, client=client) as tasks:
        while True:
            # One in work per process, and one that waits beside it.
            room = 2 * processes(client) - tasks.in_flight
            for name, pipeline in islice(waiting, max(0, room)):
                tasks.submit(name, _alone, name, pipeline)
            if not tasks.in_flight:
                return
            for done in tasks.wait():
                if done.error is not None:
                    name = str(done.tag)
                    yield _failed(name, pipelines[name], done.error, 0.0)
                elif done.result is not None:
                    yield done.result


def _alone(
    job: Callable[[str, Pipeline], SceneOutcome], name: str, pipeline: Pipeline
) -> SceneOutcome:
    """Run a scene on a worker, and no other beside it in the same process."""
    with _ONE:
        return job(name, pipeline)


def _run_scene(
    name: str,
    pipeline: Pipeline,
    *,
    overwrite: bool,
    if_changed: IfChanged,
    day: str | None,
) -> SceneOutcome:
    """Run one scene from beginning to end in this process."""
    begun = time.monotonic()
    here = pipeline.model_copy(update={"cluster": None})
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always", UserWarning)
        try:
            made = run_pipeline(
                here, overwrite=overwrite, if_changed=if_changed, day=day
            )
        except Exception as error:  # noqa: BLE001 - one scene stops no other
            return _failed(name, pipeline, error, time.monotonic() - begun)
    notes = [str(w.message) for w in heard if issubclass(w.category, UserWarning)]
    return SceneOutcome(
        scene=name,
        raster=redact(str(pipeline.segment.raster)),
        state="done" if any(stage["made"] for stage in made.values()) else "unchanged",
        status=0,
        seconds=round(time.monotonic() - begun, 3),
        masks=made["segment"]["product"],
        notes=tuple(dict.fromkeys(notes)),
    )


def _failed(
    name: str, pipeline: Pipeline, error: BaseException, seconds: float
) -> SceneOutcome:
    known = error.exit_status if isinstance(error, GeosegError) else 1
    return SceneOutcome(
        scene=name,
        raster=redact(str(pipeline.segment.raster)),
        state="failed",
        status=3 if is_full(error) else known,
        seconds=round(seconds, 3),
        error=redact(first_line(error)),
    )
