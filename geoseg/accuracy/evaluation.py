"""The result of an evaluation: as numbers, a table, CSV, JSON and pictures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.accuracy.accuracy import Accuracy, ClassAccuracy
from geoseg.accuracy.boundary import BoundaryScore
from geoseg.accuracy.calibration import Calibration
from geoseg.accuracy.interval import Estimate
from geoseg.accuracy.object_metrics import ObjectScores
from geoseg.core.classes import Class
from geoseg.core.files import write_text
from geoseg.core.text import redact
from geoseg.labels.names import LabelKind

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from rich.console import Group
    from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluation:
    """How good masks are, by a reference."""

    masks: str
    """The masks that were evaluated."""
    reference: str
    """What they were compared with."""
    kind: LabelKind
    """What the reference is made of."""
    classes: tuple[Class, ...]
    """The map's classes, and those that only the reference has."""
    accuracy: Accuracy
    """Confusion matrix, accuracies, areas as proportions, disagreement."""
    area_m2: float
    """What the proportions are of, in true square metres; NaN without a CRS. For a
    census that is what was compared, else all that is mapped but for strata without
    samples."""
    mapped_m2: NDArray[np.float64]
    """(class,) area that the map gives each class, in true square metres."""
    coverage: float
    """Compared pixels or points per mapped pixel."""
    calibration: Calibration | None = None
    """Whether stored confidence means what it says; None where none is stored."""
    boundary: BoundaryScore | None = None
    """How well boundaries lie, where asked for."""
    objects: ObjectScores | None = None
    """How well objects are found, where asked for."""

    def __repr__(self) -> str:
        of, by = (Path(redact(at)).name for at in (self.masks, self.reference))
        return f"<Evaluation of {of} by {by}: {self.accuracy!r}>"

    def areas_m2(self) -> tuple[Estimate, ...]:
        """Return the estimated area of each class in true square metres."""
        return tuple(c.area.scaled(self.area_m2) for c in self.accuracy.per_class)

    def panoptic_quality(self) -> dict[str, float] | None:
        """Return panoptic quality of things, stuff and all; None without objects.

        The pixels of a class without objects are one segment, which is found where its
        IoU is above one half (Kirillov et al. 2019). NaN where there are none.
        """
        if self.objects is None:
            return None
        things = [c.pq for c in self.objects.per_class]
        stuff = [
            c.iou.value if c.iou.value > 0.5 else 0.0
            for name, c in zip(
                self.accuracy.names, self.accuracy.per_class, strict=True
            )
            if name not in self.objects.names and np.isfinite(c.iou.value)
        ]
        groups = {"things": things, "stuff": stuff, "all": [*things, *stuff]}
        return {name: _mean(values) for name, values in groups.items()}

    def to_dict(self, *, kappa: bool = False) -> dict[str, Any]:
        """Return everything as JSON has it; kappa only on request."""
        known = bool(np.isfinite(self.area_m2))
        out = {
            "masks": self.masks,
            "reference": self.reference,
            "kind": self.kind,
            "coverage": self.coverage,
            "area_m2": self.area_m2 if known else None,
            **self.accuracy.to_dict(kappa=kappa),
        }
        areas = zip(self.classes, self.areas_m2(), self.mapped_m2, strict=True)
        for c, area, mapped in areas if known else ():
            out["classes"][c.name]["area_m2"] = area.to_dict()
            out["classes"][c.name]["mapped_area_m2"] = float(mapped)
        for name in ("calibration", "boundary", "objects"):
            part = getattr(self, name)
            if part is not None:
                out[name] = part.to_dict()
        for name, value in (self.panoptic_quality() or {}).items():
            out["objects"][f"pq_{name}"] = value if np.isfinite(value) else None
        return out

    def to_json(self, path: str | Path, *, kappa: bool = False) -> Path:
        """Write everything as JSON."""
        text = json.dumps(self.to_dict(kappa=kappa), indent=1, allow_nan=False)
        return write_text(path, text)

    def to_csv(self, path: str | Path) -> Path:
        """Write one row per class: accuracies and areas with standard errors."""
        import pandas as pd

        rows = [_row(*c) for c in zip(self.classes, self._figures(), strict=True)]
        return write_text(path, pd.DataFrame(rows).to_csv(index=False))

    def confusion_to_csv(self, path: str | Path) -> Path:
        """Write the confusion matrix: rows are the map, columns the reference."""
        import pandas as pd

        names = list(self.accuracy.names)
        table = pd.DataFrame(self.accuracy.counts, index=names, columns=names)
        return write_text(path, table.to_csv(index_label="map \\ reference"))

    def tables(self, *, kappa: bool = False) -> Group:
        """Return tables for a terminal (rich)."""
        from rich.console import Group
        from rich.text import Text

        parts: list[Any] = [self._accuracy_table(), self._matrix_table()]
        if self.objects is not None:
            parts.append(_objects_table(self.objects))
        parts.append(Text("\n".join(self._lines(kappa=kappa))))
        return Group(*parts)

    def _figures(self) -> list[tuple[ClassAccuracy, Estimate, float]]:
        return list(
            zip(
                self.accuracy.per_class,
                self.areas_m2(),
                self.mapped_m2.tolist(),
                strict=True,
            )
        )

    def _accuracy_table(self) -> Table:
        columns = ("user's", "producer's", "F1", "IoU", "area km²", "mapped km²")
        title = f"{Path(self.masks).name} against {self.reference}"
        table = empty_table(title, "class", columns)
        for c, (figures, area, mapped) in zip(
            self.classes, self._figures(), strict=True
        ):
            accuracies = (figures.users, figures.producers, figures.f1, figures.iou)
            table.add_row(
                c.name,
                *(_shown(e) for e in accuracies),
                _shown(area.scaled(1e-6)),
                _number(mapped * 1e-6),
            )
        return table

    def _matrix_table(self) -> Table:
        table = empty_table("rows: map, columns: reference", "", self.accuracy.names)
        rows = zip(self.accuracy.names, self.accuracy.counts.tolist(), strict=True)
        for name, row in rows:
            table.add_row(name, *(f"{n:,}" for n in row))
        return table

    def _lines(self, *, kappa: bool) -> list[str]:
        a = self.accuracy
        unit = "points" if self.kind == "points" else "pixels"
        lines = [
            f"overall accuracy {_shown(a.overall)}, mean IoU {_number(a.mean_iou)}",
            f"quantity disagreement {a.quantity:.3f}, allocation {a.allocation:.3f}",
            f"{a.n:,} {unit}, estimator: {a.estimator}",
            f"intervals of {a.overall.confidence:.0%}",
        ]
        if kappa:
            lines.append(f"kappa {a.kappa:.3f}, which says nothing more than the above")
        if self.calibration is not None:
            lines.append(
                f"calibration: expected error {self.calibration.ece:.3f}, "
                f"confidence minus accuracy {self.calibration.bias:+.3f}"
            )
        if self.boundary is not None:
            f1 = ", ".join(
                f"{n} {_number(v)}"
                for n, v in zip(self.boundary.names, self.boundary.f1, strict=True)
            )
            lines.append(f"boundary F1 within {self.boundary.distance:g} px: {f1}")
        quality = self.panoptic_quality()
        if quality is not None:
            shown = ", ".join(f"{n} {_number(v)}" for n, v in quality.items())
            lines.append(f"panoptic quality: {shown}")
        return [*lines, *(f"- {note}" for note in a.notes)]


def _row(
    c: Class, figures: tuple[ClassAccuracy, Estimate, float]
) -> dict[str, str | float | None]:
    accuracy, area, mapped = figures
    row: dict[str, str | float | None] = {"value": c.value, "class": c.name}
    named = {
        "users_accuracy": accuracy.users,
        "producers_accuracy": accuracy.producers,
        "f1": accuracy.f1,
        "iou": accuracy.iou,
        "area_proportion": accuracy.area,
        "area_m2": area,
    }
    for name, estimate in named.items():
        for key, value in estimate.to_dict().items():
            column = name if key == "value" else f"{name}_{key}"
            row[column] = value
    row["mapped_area_m2"] = mapped
    row["quantity_disagreement"] = accuracy.quantity
    row["allocation_disagreement"] = accuracy.allocation
    return row


def _objects_table(objects: ObjectScores) -> Table:
    columns = ("true", "mapped", "AP50", "AP50:95", "PQ", "SQ", "RQ = F1 at 0.5")
    table = empty_table("objects", "class", columns)
    for name, c in zip(objects.names, objects.per_class, strict=True):
        figures: Sequence[float] = (c.ap50, c.mean_ap, c.pq, c.sq, c.rq)
        shown = (_number(v) for v in figures)
        table.add_row(name, f"{c.true:,}", f"{c.mapped:,}", *shown)
    return table


def empty_table(title: str, first: str, columns: Iterable[str]) -> Table:
    """Return a table for a terminal (rich): names on the left, figures to the right."""
    from rich.table import Table

    table = Table(title=title)
    table.add_column(first)
    for name in columns:
        table.add_column(name, justify="right")
    return table


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if np.isfinite(v)]
    return float(np.mean(known)) if known else float("nan")


def _shown(estimate: Estimate) -> str:
    value, low, high = estimate.value, estimate.low, estimate.high
    if not np.isfinite(estimate.margin):
        return f"{_number(value)} ± ?"
    if low == high:
        return _number(value)
    if np.isclose(high - value, value - low):
        return f"{_number(value)} ± {_number(estimate.margin)}"
    if value in (low, high):
        bound = f"≥ {_number(low)}" if value == high else f"≤ {_number(high)}"
        return f"{_number(value)} ({bound})"
    return f"{_number(value)} ({_number(low)} … {_number(high)})"


def _number(value: float) -> str:
    if not np.isfinite(value):
        return "-"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"
