"""Sample points as a GeoPackage that QGIS opens with a form to label them."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import numpy as np

from geoseg.core.classes import Class
from geoseg.core.files import free_in, no_room, written
from geoseg.maps.complete import incomplete
from geoseg.maps.styles import STYLE, STYLES, add_categories

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.maps.reader import ClassReader

LAYER = "samples"
"""What the layer of points is called."""

_HIDDEN = ("design", "stratum", "stratum_pixels", "stratum_m2", "row", "col")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Points:
    """A sample of a map's pixels."""

    index: NDArray[np.int64]
    """(point,) row times width plus column."""
    stratum: NDArray[np.int64]
    """(point,) place in the class table, or -1 for the whole map."""
    pixels: NDArray[np.int64]
    """(class,) pixels of each stratum."""
    m2: NDArray[np.float64] | None
    """(class,) their true area; None where the map has no place on the Earth."""
    design: str
    """By what design they were drawn."""


def write_points(reader: ClassReader, path: Path, points: Points) -> Path:
    """Write sampled pixels as points with an empty class; whole or not at all."""
    import geopandas

    grid, stratum = reader.grid, points.stratum
    rows, columns = np.divmod(points.index, grid.width)
    x, y = grid.transform @ (columns + 0.5, rows + 0.5)
    names = np.array([*(c.name for c in reader.classes), "all"], object)
    pixels, m2 = points.pixels, points.m2
    frame = geopandas.GeoDataFrame(
        {
            "sample_id": np.arange(1, len(rows) + 1),
            "class": np.full(len(rows), None, object),
            "comment": np.full(len(rows), None, object),
            "design": points.design,
            "stratum": names[stratum],
            "stratum_pixels": np.append(pixels, pixels.sum())[stratum],
            "stratum_m2": np.nan if m2 is None else np.append(m2, m2.sum())[stratum],
            "row": rows,
            "col": columns,
        },
        geometry=geopandas.points_from_xy(x, y),
        crs=grid.crs,
    )
    frame["class"] = frame["class"].astype("string")
    frame["comment"] = frame["comment"].astype("string")
    lacks = incomplete(reader)
    about = "points to label" if lacks is None else f"points of a map that is {lacks}"
    with written(path) as beside:
        beside.touch()  # tells why where it cannot be written, which OGR does not
        beside.unlink()
        try:
            frame.to_file(
                beside, layer=LAYER, driver="GPKG", engine="pyogrio", DESCRIPTION=about
            )
            _add_style(beside, form_style(reader.classes))
        except (RuntimeError, sqlite3.Error) as error:  # pyogrio's are of the first
            raise no_room(path, free_in(path.parent)) from error
    return path


def form_style(classes: Sequence[Class]) -> str:
    """Return a QGIS layer style (QML): a form with a list of classes, and colours."""
    root = ET.Element("qgis", version="3.28.0", styleCategories="AllStyleCategories")
    entries = [
        *((c.name, c.name, c.rgb) for c in classes),
        ("", "to do", (255, 0, 255)),
    ]
    cross = {"name": "cross", "size": "4", "outline_width": "0.6"}
    style = {"color": None, "outline_color": None, **cross}
    add_categories(root, "class", entries, "marker", "SimpleMarker", style)
    fields = ET.SubElement(root, "fieldConfiguration")
    options = _widget(fields, "class", "ValueMap")
    listed = ET.SubElement(options, "Option", name="map", type="List")
    for c in classes:
        entry = ET.SubElement(listed, "Option", type="Map")
        ET.SubElement(entry, "Option", name=c.name, type="QString", value=c.name)
    multiline = _widget(fields, "comment", "TextEdit")
    ET.SubElement(multiline, "Option", name="IsMultiline", type="bool", value="true")
    for name in _HIDDEN:
        _widget(fields, name, "Hidden")
    editable = ET.SubElement(root, "editable")
    for name in ("sample_id", *_HIDDEN):
        ET.SubElement(editable, "field", name=name, editable="0")
    return "<!DOCTYPE qgis>\n" + ET.tostring(root, encoding="unicode")


def _widget(fields: ET.Element, name: str, kind: str) -> ET.Element:
    """Add a form widget; return the element that takes its options."""
    widget = ET.SubElement(ET.SubElement(fields, "field", name=name), "editWidget")
    widget.set("type", kind)
    config = ET.SubElement(widget, "config")
    return ET.SubElement(config, "Option", type="Map")


def _add_style(path: Path, qml: str) -> None:
    """Add the table `layer_styles`, as QGIS itself does."""
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(STYLES)
        db.execute(STYLE, (LAYER, "labelling form", qml, None, None))
        db.execute(
            "INSERT INTO gpkg_contents (table_name, data_type, identifier) "
            "VALUES ('layer_styles', 'attributes', 'layer_styles')"
        )
