"""Annotations of pictures, as tools of computer vision write them: refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from geoseg.core.text import redact
from geoseg.errors import LabelsError

if TYPE_CHECKING:
    from geoseg.core.grid import Grid

_KEYS: Final = (
    ("COCO", {"images", "annotations", "categories"}),
    ("labelme", {"shapes", "imagePath"}),
    ("the VGG Image Annotator", {"_via_img_metadata"}),
)
_YOLO: Final = re.compile(r"\s*\d+(?: +[01]?\.\d+){4,}\s*")
_VOC: Final = re.compile(r"\s*(?:<\?xml[^>]*>\s*)?<annotation\b")
_LARGEST: Final = 200_000_000


def refuse_pictures(path: str | Path, grid: Grid) -> None:
    """Raise where a file holds annotations of a picture, which have no place.

    Raises:
        LabelsError: It does; with how a class raster is made of them.
    """
    kind = _kind(Path(path))
    if kind is None:
        return
    left, bottom, right, top = (f"{side:.12g}" for side in grid.bounds)
    raise LabelsError(
        f"the labels {redact(str(path))} are annotations of a picture ({kind}), in "
        "pixels and without a place: export them as a mask, a picture of class numbers "
        f"({grid.width} x {grid.height} for this raster), then gdal_translate -a_srs "
        f"RASTER'S_CRS -a_ullr {left} {top} {right} {bottom} MASK.png LABELS.tif"
    )


def _kind(file: Path) -> str | None:
    """Return which tool's annotations a file holds; None for another file."""
    if not file.is_file() or file.stat().st_size > _LARGEST:
        return None
    ending = file.suffix.lower()
    if ending not in {".json", ".txt", ".xml"}:
        return None
    text = file.read_text(encoding="utf-8", errors="replace")
    if ending == ".txt":
        lines = text.splitlines()
        return "YOLO" if lines and all(map(_YOLO.fullmatch, lines)) else None
    if ending == ".xml":
        return "Pascal VOC" if _VOC.match(text) else None
    try:
        held = json.loads(text)
    except (ValueError, RecursionError):
        return None
    keys = set(held) if isinstance(held, dict) else set()
    return next((kind for kind, needed in _KEYS if needed <= keys), None)
