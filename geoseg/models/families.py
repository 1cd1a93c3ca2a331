"""The families of models: what they are called, and which module speaks for each.

Plain tables, read by `load.py`. A module is imported when its family is asked for.
"""

from __future__ import annotations

CLASSICAL = {
    "threshold": "geoseg.models.threshold",
    "otsu": "geoseg.models.threshold",
    "kmeans": "geoseg.models.cluster",
}
"""`name:rest`: modules with `open_spec(spec) -> Opened`."""

FILES: dict[str, str] = {}
"""By the ending of a file: modules with `open_file(path) -> Opened`."""

FOLDERS = {"smp": "geoseg.models.smp"}
"""By `family` in a card's framework: modules with `load_folder(folder, options)`."""
