"""What a pipeline file may say: a table for each stage, and where workers come from."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import TypeAdapter, field_validator, model_validator

from geoseg.core.options import Cli, Options, cli_of
from geoseg.core.series_options import COLLECTION
from geoseg.core.toml_settings import checked_as, override, read_toml, tables_in
from geoseg.execution.cluster_settings import (
    ClusterSpec,
    chosen_cluster,
    read_cluster,
    waited_for,
)
from geoseg.execution.options import ClusterOptions
from geoseg.inference.options import MasksOptions
from geoseg.location import keep_secrets
from geoseg.maps.options import ClassesOptions
from geoseg.vector.options import RegionsOptions
from geoseg.viz.options import PageOptions

FIELDS = ("date", "number", "raster")
"""What may stand in braces in paths."""
FIELD = re.compile(r"\{(\w*)\}")


def braces_of(text: str) -> set[str]:
    """Return what stands in braces in a path.

    Raises:
        ValueError: One of them is not known.
    """
    found = set(FIELD.findall(text))
    unknown = sorted(found - {*FIELDS})
    if unknown:
        known = ", ".join(f"{{{name}}}" for name in FIELDS)
        raise ValueError(
            f"{{{unknown[0]}}} in {text!r} is not known: write one of {known}"
        )
    return found


class Segment(MasksOptions, ClassesOptions):
    """As `geoseg segment`; `names`, `merge` and `legend` as `geoseg classes`."""

    raster: Annotated[str | list[str], Cli(location=True)]
    model: Annotated[str | list[str], Cli(location=True)]
    """Several are averaged."""
    masks: str = "masks.zarr"
    """The store, in `out` unless it is a URL or an absolute path."""


class Vectorize(RegionsOptions):
    """As `geoseg vectorize`."""

    file: str = "regions.gpkg"
    """In `out`."""


class Export(Options):
    """As `geoseg export`."""

    file: str = "map.tif"
    """In `out`."""


class Report(PageOptions):
    """As `geoseg report`."""

    file: str = "report.html"
    """In `out`."""


class Pipeline(Options):
    """A whole pipeline file. A stage whose table is absent is not run."""

    name: str = "pipeline"
    description: str = ""
    out: Annotated[str, Cli(location=True)]
    """Folder of the products; may hold `{date}`, `{number}` and `{raster}`."""
    segment: Segment
    vectorize: Vectorize | None = None
    export: Export | None = None
    report: Report | None = None
    cluster: Annotated[ClusterSpec | None, Cli(location=True)] = None
    """Where workers come from: a file, or its contents; absent: this process."""

    scenes: Annotated[str | list[str] | None, Cli(location=True)] = None
    """Rasters that are each run by themselves, instead of `segment.raster`."""

    @field_validator("out")
    @classmethod
    def _is_folder(cls, value: str) -> str:
        if "://" in value and not value.startswith("file://"):
            raise ValueError(
                f"{value!r} is not a folder: the log and single files need one; the "
                "masks may lie elsewhere, segment.masks = 's3://bucket/masks.zarr'"
            )
        return value.removeprefix("file://")

    @model_validator(mode="after")
    def _fields_are_known(self) -> Self:
        for text in (self.out, *(getattr(getattr(self, s), k) for s, k in self.paths)):
            braces_of(text)
        return self

    @property
    def paths(self) -> list[tuple[str, str]]:
        """The stages that are run, and the key of each that says where."""
        files = {"vectorize": "file", "export": "file", "report": "file"}
        keys = {"segment": "masks", **files}
        return [(stage, key) for stage, key in keys.items() if getattr(self, stage)]

    @property
    def fields(self) -> set[str]:
        """What stands in braces in `out`, by which runs are told apart."""
        return braces_of(self.out)

    def product(self, name: str) -> str:
        """Return where a product lies."""
        return name if "://" in name else str(Path(self.out) / name)

    @property
    def masks(self) -> str:
        """Where the masks lie."""
        return self.product(self.segment.masks)


_ADAPTER: TypeAdapter[Pipeline] = TypeAdapter(Pipeline)


def read_pipeline(
    path: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    cluster: ClusterSpec | None = None,
) -> Pipeline:
    """Read and check a pipeline file, and that of its cluster.

    Args:
        path: The TOML file. Paths in it are relative to it.
        overrides: `key=value` that win; paths in them are relative to where you are.
        cluster: Where workers come from, whatever the file says.

    Raises:
        GeosegError: What is wrong with it, on one line.
    """
    values = read_values(path)
    change_values(values, overrides)
    if cluster is not None:
        values["cluster"] = cluster
    return checked_pipeline(values, path)


def read_values(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what a pipeline file says; its paths become relative to where you are."""
    values = read_toml(path)
    keep_secrets(values)
    _anchor(values, Pipeline, Path(path).resolve().parent)
    return values


def change_values(values: dict[str, Any], overrides: Sequence[str]) -> None:
    """Let `key=value` win over what a file says, in place."""
    for text in overrides:
        keep_secrets(text)
        override(values, text, Pipeline)


def checked_pipeline(values: dict[str, Any], path: str | os.PathLike[str]) -> Pipeline:
    """Return a pipeline of what its file says, or raise on one line what is wrong."""
    if isinstance(values.get("cluster"), str):
        values["cluster"] = read_cluster(values["cluster"])
    return checked_as(_ADAPTER, values, os.fspath(path), Pipeline)


def opened_pipeline(
    path: str | os.PathLike[str], overrides: Sequence[str], place: ClusterOptions
) -> Pipeline:
    """Read a pipeline file; workers come from where `place` says, if it says so."""
    pipeline = read_pipeline(path, overrides, cluster=chosen_place(place))
    return with_wait(pipeline, place)


def chosen_place(place: ClusterOptions) -> ClusterSpec | None:
    """Return the cluster that options choose; None where they choose none."""
    given = (place.workers, place.scheduler, place.cluster)
    return None if given == (None, None, None) else chosen_cluster(*given)


def with_wait(pipeline: Pipeline, place: ClusterOptions) -> Pipeline:
    """Return a pipeline whose cluster is waited for as options say."""
    if pipeline.cluster is None:
        return pipeline
    cluster = waited_for(pipeline.cluster, place.wait)
    return pipeline.model_copy(update={"cluster": cluster})


_NAMES_TOO = {"model", "endpoint", "trust"}
"""Options that may name something else than a path: a method, an archive, a host."""


def _anchor(values: dict[str, Any], table: type[Options], folder: Path) -> None:
    """Make what may be paths, by their declaration, relative to a folder, in place."""
    for name, found in values.items():
        if name not in table.model_fields:
            continue
        inner = next(iter(tables_in(table.model_fields[name].annotation)), None)
        if isinstance(found, dict) and inner is not None and issubclass(inner, Options):
            _anchor(found, inner, folder)
        elif cli_of(table, name).location:
            must_exist = name in _NAMES_TOO
            if isinstance(found, list):
                values[name] = [_anchored(f, folder, must_exist) for f in found]
            else:
                values[name] = _anchored(found, folder, must_exist)


def _anchored(text: Any, folder: Path, must_exist: bool) -> Any:  # noqa: ANN401
    """Return a path relative to a folder; what is no path as it is."""
    if not isinstance(text, str) or "://" in text or text.startswith(COLLECTION):
        return text
    if Path(text).is_absolute():
        return text
    path = folder / text
    # A model may also be a name, `threshold:ndwi`, or `file.py:factory`.
    file = Path(str(path).rpartition(":")[0])
    if must_exist and not path.exists() and not file.is_file():
        return text
    return str(path)
