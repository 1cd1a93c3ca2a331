"""What a pipeline file may say: a table for each stage, and where workers come from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import TypeAdapter, field_validator

from geoseg.core.options import Cli, Options, cli_of
from geoseg.core.text import keep_secret
from geoseg.core.toml_settings import checked_as, models, override, read_toml
from geoseg.execution.cluster_settings import (
    ClusterSpec,
    chosen_cluster,
    read_cluster,
    waited_for,
)
from geoseg.execution.options import ClusterOptions
from geoseg.inference.options import MasksOptions
from geoseg.vector.options import RegionsOptions
from geoseg.viz.options import PageOptions


class Segment(MasksOptions):
    """As `geoseg segment`."""

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
    """Folder of the products."""
    segment: Segment
    vectorize: Vectorize | None = None
    export: Export | None = None
    report: Report | None = None
    cluster: Annotated[ClusterSpec | None, Cli(location=True)] = None
    """Where workers come from: a file, or its contents; absent: this process."""

    @field_validator("out")
    @classmethod
    def _is_folder(cls, value: str) -> str:
        if "://" in value and not value.startswith("file://"):
            raise ValueError(
                f"{value!r} is not a folder: the log and single files need one; the "
                "masks may lie elsewhere, segment.masks = 's3://bucket/masks.zarr'"
            )
        return value.removeprefix("file://")

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
    values = read_toml(path)
    _keep_secrets(values)
    folder = Path(path).resolve().parent
    _anchor(values, Pipeline, folder)
    for text in overrides:
        keep_secret(text)
        override(values, text)
    if cluster is not None:
        values["cluster"] = cluster
    elif isinstance(values.get("cluster"), str):
        values["cluster"] = read_cluster(values["cluster"])
    return checked_as(_ADAPTER, values, os.fspath(path), Pipeline)


def _keep_secrets(values: Any) -> None:  # noqa: ANN401 - any TOML value
    if isinstance(values, str):
        keep_secret(values)
    elif isinstance(values, dict | list):
        for each in values.values() if isinstance(values, dict) else values:
            _keep_secrets(each)


def opened_pipeline(
    path: str | os.PathLike[str], overrides: Sequence[str], place: ClusterOptions
) -> Pipeline:
    """Read a pipeline file; workers come from where `place` says, if it says so."""
    given = (place.workers, place.scheduler, place.cluster)
    chosen = None if given == (None, None, None) else chosen_cluster(*given)
    pipeline = read_pipeline(path, overrides, cluster=chosen)
    if pipeline.cluster is None:
        return pipeline
    cluster = waited_for(pipeline.cluster, place.wait)
    return pipeline.model_copy(update={"cluster": cluster})


def _anchor(values: dict[str, Any], table: type[Options], folder: Path) -> None:
    """Make what may be paths, by their declaration, relative to a folder, in place."""
    for name, found in values.items():
        if name not in table.model_fields:
            continue
        inner = next(iter(models(table.model_fields[name].annotation)), None)
        if isinstance(found, dict) and inner is not None and issubclass(inner, Options):
            _anchor(found, inner, folder)
        elif cli_of(table, name).location:
            must_exist = name == "model"
            if isinstance(found, list):
                values[name] = [_anchored(f, folder, must_exist) for f in found]
            else:
                values[name] = _anchored(found, folder, must_exist)


def _anchored(text: Any, folder: Path, must_exist: bool) -> Any:  # noqa: ANN401
    """Return a path relative to a folder; what is no path as it is."""
    if not isinstance(text, str) or "://" in text or Path(text).is_absolute():
        return text
    path = folder / text
    # A model may also be a name, `threshold:ndwi`, or `file.py:factory`.
    file = Path(str(path).rpartition(":")[0])
    if must_exist and not path.exists() and not file.is_file():
        return text
    return str(path)
