"""Default styles from the class table: QML for QGIS, SLD 1.0 for everyone else."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement, indent, tostring

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from geoseg.core.classes import Class

_OGC = "http://www.opengis.net/ogc"
_SLD = "http://www.opengis.net/sld"
_FIELD = "class_name"
STYLES = """
CREATE TABLE IF NOT EXISTS layer_styles (
  id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, f_table_catalog TEXT(256),
  f_table_schema TEXT(256), f_table_name TEXT(256), f_geometry_column TEXT(256),
  styleName TEXT(30), styleQML TEXT, styleSLD TEXT, useAsDefault BOOLEAN,
  description TEXT, owner TEXT(30), ui TEXT(30),
  update_time DATETIME DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')));
"""
"""The table in which a GeoPackage keeps styles, as QGIS itself makes it."""
STYLE = (
    "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, "
    "f_geometry_column, styleName, styleQML, styleSLD, useAsDefault, description, "
    "owner, ui) VALUES ('', '', ?, 'geom', ?, ?, ?, 1, ?, '', '')"
)
"""A layer's style: the layer, what it is called, QML, SLD, and what it is."""


def qml(classes: Sequence[Class]) -> str:
    """Return a QGIS style: one category per class, in its colour, by its name."""
    root = Element("qgis", version="3.22.0", styleCategories="Symbology")
    add_categories(
        root, _FIELD, [(c.name, c.name, c.rgb) for c in classes], "fill", "SimpleFill",
        {
            "color": None,
            "style": "solid",
            # The fill's own colour, so that no hairline of background shows between.
            "outline_color": None,
            "outline_style": "solid",
            "outline_width": "0.1",
            "outline_width_unit": "MM",
            "joinstyle": "bevel",
        },
    )  # fmt: skip
    SubElement(root, "layerGeometryType").text = "2"
    head = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
    return head + _text(root)


def add_categories(
    root: Element,
    field: str,
    entries: Iterable[tuple[str, str, tuple[int, int, int]]],
    kind: str,
    drawn_by: str,
    style: Mapping[str, str | None],
) -> None:
    """Add QGIS's categorized symbols to a style of vectors.

    Args:
        root: The style.
        field: The field that tells categories apart.
        entries: Value, label and colour of each category.
        kind: Of its symbols: `fill` or `marker`.
        drawn_by: QGIS's name of what draws them.
        style: Its settings; None is the category's colour.
    """
    renderer = SubElement(
        root, "renderer-v2",
        {"type": "categorizedSymbol", "attr": field, "forceraster": "0",
         "symbollevels": "0", "enableorderby": "0"},
    )  # fmt: skip
    categories = SubElement(renderer, "categories")
    symbols = SubElement(renderer, "symbols")
    for index, (value, label, rgb) in enumerate(entries):
        SubElement(
            categories, "category",
            {"render": "true", "value": value, "label": label,
             "symbol": str(index), "type": "string"},
        )  # fmt: skip
        symbol = SubElement(
            symbols, "symbol",
            {"type": kind, "name": str(index), "alpha": "1",
             "clip_to_extent": "1", "force_rhr": "0"},
        )  # fmt: skip
        layer = SubElement(
            symbol, "layer",
            {"class": drawn_by, "enabled": "1", "pass": "0", "locked": "0"},
        )  # fmt: skip
        options = SubElement(layer, "Option", type="Map")
        color = ",".join(str(v) for v in (*rgb, 255))
        for name, setting in style.items():
            text = setting or color
            SubElement(options, "Option", name=name, value=text, type="QString")
            SubElement(layer, "prop", k=name, v=text)


def raster_qml(classes: Sequence[Class]) -> str:
    """Return a QGIS style for a class raster: values in their colours, by their names.

    QGIS finds it beside a raster of the same name; from the raster itself it takes
    colours, but not names.
    """
    root = Element("qgis", version="3.22.0", styleCategories="Symbology")
    renderer = SubElement(
        SubElement(root, "pipe"),
        "rasterrenderer",
        {
            "type": "paletted",
            "band": "1",
            "opacity": "1",
            "alphaBand": "-1",
            "nodataColor": "",
        },
    )
    palette = SubElement(renderer, "colorPalette")
    for each in classes:
        entry = {"value": str(each.value), "label": each.name, "color": each.color}
        SubElement(palette, "paletteEntry", {**entry, "alpha": "255"})
    head = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
    return head + _text(root)


def sld(layer: str, classes: Sequence[Class]) -> str:
    """Return a Styled Layer Descriptor: one rule per class."""
    root = Element(
        "StyledLayerDescriptor",
        {"xmlns": _SLD, "xmlns:ogc": _OGC, "version": "1.0.0"},
    )
    named = SubElement(root, "NamedLayer")
    SubElement(named, "Name").text = layer
    style = SubElement(SubElement(named, "UserStyle"), "FeatureTypeStyle")
    for each in classes:
        rule = SubElement(style, "Rule")
        SubElement(rule, "Name").text = each.name
        SubElement(rule, "Title").text = each.name
        equal = SubElement(SubElement(rule, "ogc:Filter"), "ogc:PropertyIsEqualTo")
        SubElement(equal, "ogc:PropertyName").text = _FIELD
        SubElement(equal, "ogc:Literal").text = each.name
        drawn = SubElement(rule, "PolygonSymbolizer")
        fill = SubElement(SubElement(drawn, "Fill"), "CssParameter", name="fill")
        fill.text = each.color
        line = SubElement(drawn, "Stroke")
        SubElement(line, "CssParameter", name="stroke").text = each.color
        SubElement(line, "CssParameter", name="stroke-width").text = "0.3"
    return _text(root)


def _text(root: Element) -> str:
    indent(root, " ")
    return tostring(root, encoding="unicode")
