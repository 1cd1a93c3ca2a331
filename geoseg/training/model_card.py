"""The card of a model that is trained: what it learned from, and how good it is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg._version import __version__
from geoseg.accuracy.interval import finite
from geoseg.core.times import Times
from geoseg.labels import object_classes
from geoseg.models.card import Card
from geoseg.rasters.numbers import numbers_of
from geoseg.rasters.source import steps_of, unique
from geoseg.training.data import metres_of
from geoseg.training.scenes import scaled_bands

if TYPE_CHECKING:
    from geoseg.accuracy.accuracy import Accuracy
    from geoseg.training.data import TrainingData
    from geoseg.training.options import TrainOptions


def untrained_card(
    data: TrainingData, options: TrainOptions, settings: Mapping[str, Any]
) -> Card:
    """Return the card, still without a framework and figures."""
    sources = [s.source for s in data.scenes]
    metres = [m for m in map(metres_of, sources) if m is not None]
    names = [s.name for s in sources]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    known = ", ".join(c.name for c in data.classes)
    counts = sum(c.sum(axis=(0, 1)) for c in data.cells)
    labelled = zip(data.classes, np.asarray(counts).tolist(), strict=True)
    return Card(
        name=options.name or Path(options.out).resolve().name,
        bands=scaled_bands(data.scenes, options.seed),
        times=_times(steps_of(sources[0].bands), options.every),
        classes=data.classes,
        task=options.task or "semantic",
        things=() if options.boundary is None else _things(data),
        resolution=float(np.round(np.mean(metres), 6)) if metres else None,
        dtypes=tuple(sorted({s.dtype.name for s in sources})),
        nodata=options.nodata,
        numbers=numbers_of(sources, options.units),
        license=options.license,
        description=f"{known}; trained on {', '.join(names[:3])}{more}",
        facts={
            "training": {
                "geoseg": __version__,
                "finished": None,
                "rasters": names,
                "notes": list(unique(n for s in sources for n in s.notes)),
                "label_notes": list(
                    unique(n for s in data.scenes for n in s.labels.notes)
                ),
                "where": [list(s.grid.bounds) for s in data.scenes],
                "crs": data.scenes[0].grid.crs,
                "labelled_pixels": {c.name: n for c, n in labelled},
                "settings": dict(settings),
            }
        },
    )


def _times(steps: Sequence[str], every: str | None) -> Times | None:
    """Return which steps in time are learned from; None without any."""
    if not steps:
        return None
    spacing = re.fullmatch(r"month|year|week|day|\d+ days", every or "")
    return Times(count=len(steps), every=spacing[0] if spacing else None)


def _things(data: TrainingData) -> tuple[str, ...]:
    """Return the names of the polygons' own classes."""
    found = {
        int(value) for s in data.scenes for value in np.unique(object_classes(s.labels))
    }
    return tuple(c.name for c in data.classes if c.value in found)


def with_figures(
    card: Card,
    data: TrainingData,
    accuracy: Accuracy | None,
    facts: Mapping[str, Any],
    objects: Mapping[str, Any] | None = None,
) -> Card:
    """Return the card with how training went, and its figures on held-out data."""
    training = {**card.facts["training"], **facts}
    training["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
    out: dict[str, Any] = {**card.facts, "training": training}
    how = ""
    if data.split is not None:
        how = f"blocks of {data.split.side} px held out, with a gap of "
        how += f"{data.split.gap} px"
    if objects is not None and how:
        cut = f"{how}; objects are cut at windows of {card.window * 3 // 4} px"
        out["validation"] = {"how": cut, "notes": [], "objects": dict(objects)}
    if accuracy is not None and how:
        out["validation"] = {
            "how": how,
            "notes": list(accuracy.notes[1:]),
            "pixels": accuracy.n,
            "overall_accuracy": accuracy.overall.value,
            "interval": [finite(accuracy.overall.low), finite(accuracy.overall.high)],
            "blocks": round(accuracy.overall.n),
            "mean_iou": accuracy.mean_iou,
            "classes": {
                name: {
                    "users_accuracy": figures.users.to_dict()["value"],
                    "producers_accuracy": figures.producers.to_dict()["value"],
                    "iou": figures.iou.to_dict()["value"],
                }
                for name, figures in zip(
                    accuracy.names, accuracy.per_class, strict=True
                )
            },
            "confusion_matrix": accuracy.counts.tolist(),
        }
    return replace(card, facts=out)
