"""The scene and the model that ship with geoseg, for trying it out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A scene of a generated landscape, what is true of it, and a model that knows it.

    Files of the installed package: read them, write elsewhere.
    """

    scene: Path
    """GeoTIFF of 1152 x 1280 pixels of 10 m: blue, green, red, nir, uint16 reflectance
    times 10 000; 0 is nodata."""
    truth: Path
    """GeoTIFF of land cover, uint8; 255 is nodata. Its classes are named in
    `truth.tif.aux.xml`."""
    model: Path
    """A model folder. The model has never seen the Earth."""


def example() -> Example:
    """Return the scene and the model that ship with geoseg.

    >>> files = example()
    >>> files.scene.name, files.truth.name, files.model.name
    ('scene.tif', 'truth.tif', 'model')
    """
    return Example(
        scene=_FOLDER / "scene.tif",
        truth=_FOLDER / "truth.tif",
        model=_FOLDER / "model",
    )
