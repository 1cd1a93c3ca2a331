"""What to say of rasters that are laid side by side and are not alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from geoseg.core.grid import Grid, aligned, same_crs
from geoseg.rasters.bands import is_unnamed
from geoseg.rasters.source import Source

if TYPE_CHECKING:
    from collections.abc import Sequence

_TURNED: Final = 1e-6  # and more: not how a transform was rounded


def unlike(sources: Sequence[Source], lattice: Grid) -> list[str]:
    """Return what changes the mosaic of sources on a lattice, a sentence each."""
    said = (
        _same_place(sources),
        _other_pixels(sources, lattice),
        _other_crs(sources, lattice),
    )
    return [text for text in said if text]


def dtypes_told(sources: Sequence[Source]) -> str | None:
    """Return what to say of rasters whose numbers may be of different kinds."""
    found = dict.fromkeys(source.dtype for source in sources)
    if len(found) == 1 or all(dtype.kind == "f" for dtype in found):
        return None
    shown = ", ".join(map(str, found))
    return f"its rasters are of {shown}: all numbers are used as they are stored"


def _same_place(sources: Sequence[Source]) -> str | None:
    """Return what to say of files that are taken for tiles, and may be none."""
    first, again = sources[0], len(sources) - len({s.grid for s in sources})
    if not again:
        return None
    bands = len(first.bands) == 1 and all(is_unnamed(s.bands[0]) for s in sources)
    if not bands or again < len(sources) - 1:
        return (
            f"{again} of its {len(sources)} rasters lie on the same pixels as another: "
            "the first that has data is seen; geoseg compose makes one image of dates"
        )
    return (
        f"its {len(sources)} rasters of one band lie on the same pixels and no name "
        f"tells that they are bands: only {first.name} is seen where it has data; name "
        "them by their bands (…_red.tif, …_nir.tif), or stack them with gdalbuildvrt "
        "-separate"
    )


def _other_pixels(sources: Sequence[Source], lattice: Grid) -> str | None:
    """Return what to say of sources whose pixels are beside the mosaic's."""
    moved = [
        source
        for source in sources
        if same_crs(source.grid.crs, lattice.crs)
        and aligned(source.grid, lattice) is None
    ]
    if not moved:
        return None
    place = ~lattice.transform @ moved[0].grid.transform
    if abs(place.b) + abs(place.d) > _TURNED:
        how = "turned"
    elif abs(place.a - 1) + abs(place.e - 1) > _TURNED:
        how = f"{abs(place.a):.3g} x {abs(place.e):.3g} times as large"
    else:
        how = "a part of a pixel beside them"
    return (
        f"{len(moved)} of its {len(sources)} rasters lie on other pixels than "
        f"{sources[0].name}, such as {moved[0].name}, {how}: they are interpolated "
        "onto the first one's"
    )


def _other_crs(sources: Sequence[Source], lattice: Grid) -> str | None:
    """Return a note where sources lie in other CRSs than the mosaic."""
    moved = [s for s in sources if not same_crs(s.grid.crs, lattice.crs)]
    if not moved or lattice.crs is None:
        return None
    known = dict.fromkeys(_crs_name(s.grid.crs) for s in moved)
    shown = ", ".join([*known][:4]) + ", …" * (len(known) > 4)
    return (
        f"{len(moved)} of its {len(sources)} rasters lie in another CRS "
        f"({shown}): all are put on the first one's pixels, {_crs_name(lattice.crs)}"
    )


def _crs_name(crs: str | None) -> str:
    from pyproj import CRS

    return "none" if crs is None else str(CRS.from_user_input(crs).name)
