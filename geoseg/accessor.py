"""`masks.geoseg`: maps in notebooks, by the conventions of xarray.

Registered when a public name of geoseg is first used;
`import geoseg.accessor` does it by hand.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from geoseg.core.classes import Class, nodata_value
from geoseg.core.grid import Grid
from geoseg.core.text import AREA_UNITS, AreaUnit, did_you_mean
from geoseg.errors import GeosegError

_SHOWN = 8
"""Classes that a line of text names."""

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from geoseg.maps.reader import ClassReader
    from geoseg.viz.explorer import Explorer


@xr.register_dataset_accessor("geoseg")  # type: ignore[no-untyped-call]
@xr.register_dataarray_accessor("geoseg")  # type: ignore[no-untyped-call]
class GeosegAccessor:
    """What can be done with masks: look at them, measure, compare, hand on."""

    def __init__(self, data: xr.Dataset | xr.DataArray) -> None:
        self._data = data

    @cached_property
    def _reader(self) -> ClassReader:
        from geoseg.maps.dataset import class_reader

        return class_reader(self._data)

    @property
    def _whole(self) -> ClassReader:
        """What reads the map, where it is complete: what is missing is not nodata."""
        from geoseg.maps.complete import check_complete

        check_complete(self._reader, partial=None)
        return self._reader

    @property
    def classes(self) -> tuple[Class, ...]:
        """The class table."""
        return self._reader.classes

    @property
    def grid(self) -> Grid:
        """Where the pixels are."""
        return self._reader.grid

    def plot(self, ax: Axes | None = None, *, legend: bool = True) -> Axes:
        """Draw the map in class colours, with a legend of the classes in sight.

        Only a picture's worth of pixels is read, from overviews where there are any.

        Args:
            ax: Where to draw; None for a new figure.
            legend: Whether to name the classes.

        Returns:
            The axes, in the map's own coordinates.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        from geoseg.viz.map_figure import draw_map

        return draw_map(self._whole, ax, legend=legend)

    def overlay(
        self,
        raster: Any,  # noqa: ANN401 - whatever open_source takes
        ax: Axes | None = None,
        *,
        opacity: float = 0.5,
        legend: bool = True,
    ) -> Axes:
        """Draw the map over an image, whatever the image's CRS and resolution.

        Args:
            raster: A path, a URL, an xarray.DataArray: whatever `open_source` takes.
            ax: Where to draw; None for a new figure.
            opacity: Of the map: 0 shows the image only.
            legend: Whether to name the classes.
        """
        from geoseg.viz.map_figure import draw_map

        return draw_map(self._whole, ax, raster=raster, opacity=opacity, legend=legend)

    def areas(self, unit: AreaUnit | None = None) -> pd.DataFrame:
        """Return pixels, true area in m² and share of it of each class, by its name.

        Every pixel is read once. `area_m2` is NaN where the map has no CRS.

        Args:
            unit: `ha` or `km2`: a column `area_ha` or `area_km2` is added.
        """
        import pandas as pd

        from geoseg.viz.statistics import map_statistics

        found = map_statistics(self._whole, size=1, places=0)
        areas = np.full(len(found.classes), np.nan)
        if found.areas_m2 is not None:
            areas = found.areas_m2
        more = {} if unit is None else {f"area_{unit}": areas / AREA_UNITS[unit]}
        return pd.DataFrame(
            {
                "pixels": found.pixels,
                "share": found.shares,
                "area_m2": areas,
                **more,
            },
            index=pd.Index([c.name for c in found.classes], name="class"),
        )

    def compare(self, other: Any) -> pd.DataFrame:  # noqa: ANN401 - a map
        """Return in how many pixels this map says one class and another map another.

        Args:
            other: Any class map, on any grid: it is looked up at this map's pixels.

        Returns:
            Rows are this map's classes, columns the other's, by name; pixels that are
            nodata in either are left out. `attrs["agreement"]` is the share of the area
            in which both say the same name. `geoseg.compare` also has the areas.

        Raises:
            GeosegError: The maps do not overlap.
        """
        from geoseg.accuracy.compare import compare

        return compare(self._reader, other).to_dataframe()

    def sel(self, *names: str | Sequence[str]) -> Any:  # noqa: ANN401 - as it was
        """Return the map with only these classes; all else is nodata. Lazy.

        Args:
            names: One by one, or as a list: `sel("lake", "bog")`, `sel(["lake"])`.

        Raises:
            GeosegError: There is no class of that name.
        """
        from geoseg.maps.dataset import class_array

        wanted = [
            n for each in names for n in ([each] if isinstance(each, str) else each)
        ]
        known = {c.name: c.value for c in self.classes}
        unknown = [n for n in wanted if n not in known]
        if unknown:
            raise GeosegError(
                f"there is no class {unknown[0]!r}; there are: {', '.join(known)}"
                f"{did_you_mean(unknown[0], known)}"
            )
        array = class_array(self._data)
        values = [known[n] for n in wanted]
        blank = self._reader.nodata
        blank = nodata_value(self.classes) if blank is None else blank
        kept = xr.where(  # type: ignore[no-untyped-call]
            array.isin(values), array, array.dtype.type(blank)
        )
        kept = kept.assign_attrs({**array.attrs, "_FillValue": blank})
        if isinstance(self._data, xr.DataArray):
            return kept
        return self._data.assign({str(array.name): kept})

    def vectorize(self, out: str | os.PathLike[str], **options: Any) -> Path:  # noqa: ANN401
        """Write the map's polygons; options as `geoseg.vectorize`."""
        from geoseg.vector.vectorize import vectorize

        return vectorize(self._reader, Path(out), **options)  # type: ignore[arg-type]

    def to_cog(self, out: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the map as a cloud-optimised GeoTIFF with colours and names."""
        from geoseg.maps.cog import export

        return export(self._reader, out, overwrite=overwrite)

    def report(self, out: str | os.PathLike[str] | None = None, **options: Any) -> Path:  # noqa: ANN401
        """Write one HTML page about the map; options as `geoseg.report`."""
        from geoseg.viz.report import report

        return report(self._reader, out, **options)  # type: ignore[arg-type]

    def explore(self, **options: Any) -> Explorer:  # noqa: ANN401 - those of explore
        """Return an interactive map; options as `geoseg.explore`."""
        from geoseg.viz.explorer import explore

        raster = options.pop("raster", None)
        return explore(raster, self._reader, **options)

    def __repr__(self) -> str:
        names = ", ".join(c.name for c in self.classes[:_SHOWN])
        more = ", …" if len(self.classes) > _SHOWN else ""
        grid = self.grid
        return f"<map of {grid.width:,} × {grid.height:,} px: {names}{more}>"

    def _repr_html_(self) -> str:
        from geoseg.viz.html import map_html

        return map_html(self._reader)
