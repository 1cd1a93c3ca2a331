"""Plans, models, masks and runs as HTML, for notebooks: the few facts that matter."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from html import escape
from typing import TYPE_CHECKING, Any

from geoseg.core.classes import Class
from geoseg.core.text import size
from geoseg.maps.complete import block_counts
from geoseg.maps.overviews import open_pyramid
from geoseg.maps.provenance import crs_name, map_name, provenance
from geoseg.maps.store import Masks
from geoseg.rasters.bands import named
from geoseg.viz.picture import class_overview, class_png

if TYPE_CHECKING:
    from geoseg.core.grid import Grid
    from geoseg.inference.planning import Plan
    from geoseg.inference.scheduler import RunInfo
    from geoseg.maps.reader import ClassReader
    from geoseg.models.card import Card

_MANY = 24
_THUMB = 240
_BOX = (
    "display:inline-block;border:1px solid #9aa5a1;border-radius:6px;padding:10px 14px"
)
_CELL = "text-align:left;padding:1px 14px 1px 0;vertical-align:top;border:0"


def facts_html(title: str, facts: Iterable[tuple[str, str]], extra: str = "") -> str:
    """Return a small card: a title, names and values, and HTML that is safe."""
    rows = "".join(
        f'<tr style="background:none"><th scope="row" style="{_CELL};font-weight:600">'
        f'{escape(name)}</th><td style="{_CELL}">{escape(value)}</td></tr>'
        for name, value in facts
        if value
    )
    return (
        f'<div style="{_BOX}"><div style="font-weight:700;margin-bottom:4px">'
        f'{escape(title)}</div><table style="border:0;margin:0">{rows}</table>{extra}'
        "</div>"
    )


def legend_html(classes: tuple[Class, ...]) -> str:
    """Return a legend in a line; of many classes the first."""
    items = "".join(
        '<span style="white-space:nowrap;margin-right:12px"><i style="display:'
        "inline-block;width:12px;height:12px;border:1px solid #555;vertical-align:"
        f'-1px;background:{c.color}"></i> {escape(c.name)}</span>'
        for c in classes[:_MANY]
    )
    more = f"and {len(classes) - _MANY} more" if len(classes) > _MANY else ""
    return f'<div style="margin-top:6px;max-width:640px">{items}{more}</div>'


def map_html(reader: ClassReader) -> str:
    """Return a map's facts, with a small picture of it."""
    grid, made = reader.grid, provenance(reader)
    facts = [*_grid_facts(grid), ("arrays", ", ".join(reader.arrays))]
    if made:
        facts.append(("model", str(dict(made.get("model", {})).get("name", ""))))
        facts.append(("made of", str(made.get("source", ""))))
    if isinstance(reader, Masks) and not reader.is_complete:
        facts.append(("blocks", "{:,} of {:,} done".format(*block_counts(reader))))
    extra = legend_html(reader.classes)
    if open_pyramid(reader).levels or grid.pixels <= _THUMB**2 * 400:  # else it is slow
        png = class_png(class_overview(reader, _THUMB), reader.classes)
        extra += _picture(png, f"Map of {map_name(reader)}")
    return facts_html(f"Masks {map_name(reader)}", facts, extra)


def _picture(png: bytes, alt: str) -> str:
    data = base64.b64encode(png).decode()
    return (
        f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}" '
        'style="margin-top:8px;border:1px solid #9aa5a1;max-width:100%">'
    )


def plan_html(plan: Plan) -> str:
    """Return what a plan would do."""
    tiling, card = plan.tiling, plan.model.card
    return facts_html(
        f"Plan: {plan.source.name}",
        [
            *_grid_facts(plan.source.grid),
            ("bands", named(plan.source.bands)),
            ("model", card.name),
            ("windows", f"{tiling.windows:,} of {tiling.window} px"),
            ("overlap", f"{tiling.overlap} px"),
            ("blocks", f"{tiling.blocks:,} of {tiling.block} px"),
            ("arrays", ", ".join(plan.arrays)),
            ("memory", f"at most {size(plan.memory.total)} per process"),
        ],
        legend_html(card.classes),
    )  # fmt: skip


def card_html(card: Card) -> str:
    """Return what a model expects and answers."""
    resolution = "" if card.resolution is None else f"{card.resolution:g} m"
    return facts_html(
        f"Model: {card.name}",
        [
            ("about", card.description),
            ("task", card.task),
            ("bands", ", ".join(b.name for b in card.step_bands)),
            ("window", f"{card.window} px, overlapping by {card.overlap} px"),
            ("resolution", resolution),
            ("license", card.license or ""),
        ],
        legend_html(card.classes),
    )


def run_html(facts: RunInfo) -> str:
    """Return what a run did."""
    rows = [
        ("windows", f"{facts.windows:,}"),
        ("pixels", f"{facts.pixels:,}"),
        ("in the model", f"{facts.forward_seconds:.1f} s, summed over all workers"),
        ("beside it", f"{facts.other_seconds:.1f} s: reading, blending"),
        ("joining, writing", f"{facts.finish_seconds:.1f} s"),
        ("on", "; ".join(sorted(facts.devices))),
    ]
    return facts_html("Run", rows)


def _grid_facts(grid: Grid) -> list[tuple[str, str]]:
    metres = grid.pixel_size_m
    of = "" if metres is None else f", {metres[1]:.3g} × {metres[0]:.3g} m each"
    return [
        ("pixels", f"{grid.width:,} × {grid.height:,}{of}"),
        ("CRS", crs_name(grid)),
    ]


_VIEWS: dict[str, Callable[[Any], str]] = {
    "card": card_html,
    "map": map_html,
    "plan": plan_html,
    "run": run_html,
}


def html_of(kind: str, value: object) -> str:
    """Return a value as HTML: a `card`, `map`, `plan` or `run`."""
    return _VIEWS[kind](value)
