"""How files of labels are read: what training, accuracy and reports are asked alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from geoseg.core.options import Cli, Options, Section

Order = Literal["last", "first", "smallest"]


class LabelOptions(Options):
    """How a file of labels or of a reference is read."""

    column: Annotated[str | None, Cli(section=Section.LABELS)] = None
    """Column with class names or values; found by its usual names by default."""
    layer: Annotated[str | None, Cli(section=Section.LABELS)] = None
    """Layer of a file with several."""
    mapping: Annotated[
        Mapping[str, str] | None,
        Cli(section=Section.LABELS, name="--map", metavar="NAME=CLASS"),
    ] = None
    """Another name for a label's class, or `ignore`; repeatable."""
    constant: Annotated[str | None, Cli(section=Section.LABELS)] = None
    """Class of all features."""
    background: Annotated[str | None, Cli(section=Section.LABELS)] = None
    """Class of pixels that nothing covers."""
    order: Annotated[Order, Cli(section=Section.LABELS)] = "last"
    """Which of overlapping polygons wins."""
    strict: Annotated[bool, Cli(section=Section.LABELS)] = False
    """Refuse rasters on another grid."""

    @property
    def reading(self) -> dict[str, Any]:
        """How labels are read, as keywords of `open_labels`."""
        return {name: getattr(self, name) for name in LabelOptions.model_fields}
