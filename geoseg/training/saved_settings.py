"""What a training was asked to do, kept beside its checkpoints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from geoseg.core.files import write_text
from geoseg.errors import GeosegError
from geoseg.models.folder import CARD, TRAINING

WORK = str(PurePosixPath(TRAINING).parent)
"""Folder inside the model folder with settings and checkpoints."""


def is_complete(folder: Path, settings: Mapping[str, Any], *, overwrite: bool) -> bool:
    """Return whether the very training that is asked for is complete already.

    Raises:
        GeosegError: the folder holds something else.
    """
    file = folder / TRAINING
    if overwrite and (file.is_file() or (folder / CARD).is_file()):
        return False
    if file.is_file():
        there = _read(file)
        different = sorted(
            k for k in {*there, *settings} if there.get(k) != settings.get(k)
        )
        if different:
            raise GeosegError(
                f"{folder} holds a training with other settings "
                f"({', '.join(different)}): use those, another --out, or --overwrite"
            )
        return (folder / CARD).is_file()
    if folder.exists() and any(folder.iterdir()):
        raise GeosegError(
            f"{folder} exists and is not a training to resume: choose another --out"
            + (", or --overwrite" if (folder / CARD).is_file() else "")
        )
    return False


def begin(folder: Path, settings: Mapping[str, Any], *, overwrite: bool) -> None:
    """Save the settings; with `overwrite`, delete what is there first."""
    if overwrite and folder.exists():
        shutil.rmtree(folder)
    file = folder / TRAINING
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(settings, indent=1))


def _read(file: Path) -> dict[str, Any]:
    """Return the settings of a training; they are JSON, an object."""
    try:
        settings = json.loads(file.read_bytes())
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise GeosegError(
            f"{file} is empty, cut or was edited, so the training cannot be resumed: "
            "--overwrite begins it again"
        )
    return settings


def end(folder: Path) -> None:
    """Delete the checkpoints of a training that is complete; the settings stay."""
    for pattern in ("*.ckpt", "*.part"):
        for checkpoint in (folder / WORK).glob(pattern):
            checkpoint.unlink()
