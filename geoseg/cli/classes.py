"""`geoseg classes`."""

from __future__ import annotations

import click

from geoseg.cli.common import OutputOptions, print_summary
from geoseg.cli.options import command, takes
from geoseg.core.text import redact
from geoseg.maps.options import ClassesOptions


@command(
    "geoseg classes masks.zarr",
    'geoseg classes masks.zarr --set "1=water:#0072B2" --set "cluster 2=forest"',
    'geoseg classes masks.zarr --merge "3,4=bare" --legend legend.toml',
)
@click.argument("masks")
@takes(ClassesOptions)
@takes(OutputOptions, "output")
def classes(*, masks: str, options: ClassesOptions, output: OutputOptions) -> None:
    """List the classes of MASKS; rename, recolour or merge them.

    Without options it lists value, colour, name and area of each class. A new name
    that means something, such as water or forest, brings the colour that maps have
    for it; with another the colour stays. Polygons, exports, reports and views that
    are made from then on follow. Merging rewrites the pixels, with the lowest of the
    values.
    """
    from geoseg.cli.answers import areas, step
    from geoseg.core.text import area_unit, number
    from geoseg.maps.open import open_classes

    changed = bool(options.names or options.merge or options.legend)
    if changed:
        from geoseg.maps.legend import rename

        rename(masks, options)
    reader = open_classes(masks, partial=None)
    found = areas(reader) if not changed else {}
    known = {name: row["area_m2"] for name, row in found.items() if row["area_m2"]}
    scale, unit = area_unit(sum(known.values()))
    rows, lines = [], []
    for c in reader.classes:
        area = known.get(c.name)
        rows.append({"value": c.value, "name": c.name, "color": c.color})
        much = "" if area is None else f"  {number(area / scale)} {unit}"
        lines.append(f"{c.value:>5}  {c.color}  {c.name}{much}")
    if changed:
        lines.append(step("look", "view", redact(masks)))
    print_summary({"masks": masks, "classes": rows}, lines, output)
