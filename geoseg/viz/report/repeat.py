"""How a map is made again: as a command, and as a pipeline file."""

from __future__ import annotations

import json
import posixpath
import shlex
from collections.abc import Mapping
from typing import Any

from geoseg.core.options import cli_of, flag_of
from geoseg.inference.options import SegmentOptions
from geoseg.maps.provenance import map_name
from geoseg.maps.second_copy import RECORD
from geoseg.maps.store import Masks


def repeated(reader: object) -> dict[str, str] | None:
    """Return the command and the pipeline that make masks again; None if unknown.

    Paths are as seen from the folder in which the masks lie. What Python was given as
    an object has no words, so of such masks nothing is said.
    """
    if not isinstance(reader, Masks) or not reader.storage.exists(RECORD):
        return None
    asked = reader.record().get("asked", {})
    if not {"raster", "model"} <= asked.keys():
        return None
    name = map_name(reader)
    values = {key: _from_beside(value, name) for key, value in asked.items()}
    return {"command": _command(values, name), "pipeline": _pipeline(values, name)}


def _from_beside(value: Any, name: str) -> Any:  # noqa: ANN401 - JSON
    """Return a value whose paths are seen from the folder of the masks."""
    if isinstance(value, Mapping):
        path = str(value["path"])
        return posixpath.normpath(posixpath.join(name, path))
    return [_from_beside(v, name) for v in value] if isinstance(value, list) else value


def _command(values: Mapping[str, Any], name: str) -> str:
    raster = values["raster"]
    words = ["geoseg", "segment", *(raster if isinstance(raster, list) else [raster])]
    for key, value in values.items():
        if key == "raster" or value is False:
            continue
        flag = flag_of(SegmentOptions, key)
        if value is True:
            words.append(flag)
        elif isinstance(value, list) and cli_of(SegmentOptions, key).repeats:
            words += [word for each in value for word in (flag, str(each))]
        else:
            several = value if isinstance(value, list) else [value]
            words += [flag, ",".join(map(_number, several))]
    return shlex.join([*words, "--out", name])


def _number(value: object) -> str:
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def _pipeline(values: Mapping[str, Any], name: str) -> str:
    """Return a pipeline file; what TOML and JSON write alike."""
    stem = name.removesuffix(".zarr")
    lines = [f"name = {json.dumps(stem)}", f"out = {json.dumps(f'{stem}-again')}", ""]
    lines += ["[segment]"]
    lines += [f"{key} = {json.dumps(v)}" for key, v in values.items()]
    return "\n".join([*lines, "", "[report]", ""])
