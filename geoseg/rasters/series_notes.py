"""What there is to say of the scenes of a series: their numbers, masks, classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from geoseg.core.series_options import SeriesOptions, quality_masks
from geoseg.core.text import counted
from geoseg.errors import RasterError, SceneMissingError
from geoseg.rasters.layers import Layer, Reading, numbers_are_told
from geoseg.rasters.quality_bands import told_by

if TYPE_CHECKING:
    from geoseg.rasters.gdal import Handles
    from geoseg.rasters.source import SourceBand
    from geoseg.rasters.time import Scene, Step


def numbers_told(
    scenes: Sequence[Scene], depth: int, reading: Reading, handles: Handles
) -> tuple[bool, list[str]]:
    """Return whether all is reflectance by items, and what there is to say of it.

    Args:
        scenes: The scenes of a series.
        depth: How many of their layers are shown.
        reading: How files are opened: where no item tells, those of the first scene
            that has a band are asked.
        handles: Where they are kept open.
    """
    layers = [la for s in scenes for la in s.layers[:depth] if la is not None]
    untold = [la for la in layers if la.told_by == "file"]
    silent = {la.scene for la in untold}
    rules = sorted({(la.scale, la.offset) for la in layers if la.told_by != "file"})
    told = len({la.scene for la in layers if la.told_by != "file"})
    notes = []
    if rules:
        shown = "; ".join(f"x {scale:g} {offset:+g}" for scale, offset in rules[:4])
        notes.append(f"reflectance = number {shown}, by {counted(told, 'scene')}")
    if silent and rules:
        notes.append(
            f"{counted(len(silent), 'scene')} {'does' if len(silent) == 1 else 'do'} "
            "not say of each band what its numbers mean, unlike others: what the files "
            "say counts, else they are taken as they are stored"
        )
    elif names := _as_stored(untold, reading, handles):
        notes.append(
            f"neither the items nor the files say what the numbers of {names} mean: "
            "they are taken as they are stored"
        )
    return bool(rules) and not silent, notes


def _as_stored(layers: Sequence[Layer], reading: Reading, handles: Handles) -> str:
    """Return the assets whose whole numbers nobody explains, by the first of each."""
    first: dict[str, Layer] = {}
    for layer in layers:
        if not layer.classes:
            first.setdefault(layer.key, layer)
    found = []
    for key, layer in first.items():
        try:
            told = numbers_are_told(layer, reading, handles)
        except SceneMissingError:
            continue  # said where it is read, or left out
        if not told:
            found.append(key)
    return ", ".join(found)


def refuse_averages(
    scenes: Sequence[Scene],
    bands: Sequence[SourceBand],
    steps: Sequence[Step],
    rule: str,
    name: str,
) -> None:
    """Raise where classes of several dates would be averaged.

    Args:
        scenes: The scenes of a series.
        bands: Those of a step.
        steps: Which dates are reduced to one.
        rule: How.
        name: Whose they are.

    Raises:
        RasterError: The median of two classes may be a third.
    """
    how = rule.partition(":")[0]
    if how not in {"median", "mean", "percentile"}:
        return
    most = max(len(step.overpasses) for step in steps)
    for place, band in enumerate(bands):
        layers = [scene.layers[place] for scene in scenes]
        if most > 1 and any(layer and layer.classes for layer in layers):
            raise RasterError(
                f"{name}: {band.name} holds classes, by its items, and {most} dates "
                f"are reduced to one: a {how} of classes is no class; add --reduce "
                "first, or keep the dates with --every date"
            )


def unlooked(scenes: Sequence[Scene], bands: int) -> list[str]:
    """Return what to say of scenes that lack a band that a masker looks at."""
    without = sum(None in scene.layers[-bands:] for scene in scenes) if bands else 0
    if not without:
        return []
    which = f"{without} of {counted(len(scenes), 'scene')}"
    return [f"{which} lack bands that the model of --mask wants: it masks none there"]


def by_quality(options: SeriesOptions) -> bool:
    """Whether pixels are masked by quality bands."""
    if options.mask is None:
        return True
    return quality_masks(options.mask) not in ([], ["none"])


def masks_told(scenes: Sequence[Scene], options: SeriesOptions) -> list[str]:
    """Return what to say of the quality bands of scenes."""
    if not by_quality(options):
        return []
    notes = []
    without = sum(s.quality is None for s in scenes)
    if without:
        have = "has" if without == 1 else "have"
        which = f"{without} of {counted(len(scenes), 'scene')}"
        notes.append(
            f"{which} {have} no quality band that is known: they are not masked"
        )
    kinds = {s.quality.kind for s in scenes if s.quality and s.quality.kind}
    known = {name for kind in kinds for name in told_by(kind)}
    lost = [name for name in quality_masks(options.mask or ()) if name not in known]
    if kinds and lost:
        notes.append(
            f"--mask {','.join(lost)}: quality bands of these scenes tell of "
            f"{', '.join(sorted(known))} only"
        )
    return notes
