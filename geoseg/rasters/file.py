"""One raster that GDAL opens: a file, a URL, a VRT, a tile index."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from geoseg.core.grid import Grid, Window
from geoseg.core.text import redact
from geoseg.errors import RasterError, SourceChangedError
from geoseg.rasters.bands import bands_of
from geoseg.rasters.gdal import Handles, environment, is_remote, open_dataset, reporting
from geoseg.rasters.source import SourceBand, check_inside
from geoseg.rasters.validity import both, valid_pixels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from rasterio import DatasetReader

# GDAL decodes whole blocks. Larger ones are a mistake of whoever wrote the file, or an
# attack, and would break what the plan promises about memory.
MAX_BLOCK_BYTES: Final = 400_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RasterFile:
    """A source of pixels that lie in one GDAL dataset."""

    path: str = field(repr=False)
    """What is opened; may hold credentials, hence never shown."""
    name: str
    grid: Grid
    bands: tuple[SourceBand, ...]
    dtype: np.dtype[Any]
    numbers: tuple[int, ...]
    """1-based number of each band in the file."""
    nodata: tuple[float | None, ...]
    """Nodata value of each band, in its own numbers."""
    masks: tuple[int | None, ...]
    """For each band, the number of the one whose GDAL mask is its own too; or None."""
    alpha: int | None = None
    """Number of the band that tells where the others are transparent."""
    identity: Mapping[str, Any] = field(default_factory=dict)
    handles: Handles = field(default_factory=Handles, compare=False, repr=False)

    def select(self, bands: Sequence[int]) -> Self:
        """Return the source with only these bands (0-based), in this order."""
        return replace(
            self,
            bands=tuple(self.bands[b] for b in bands),
            numbers=tuple(self.numbers[b] for b in bands),
            nodata=tuple(self.nodata[b] for b in bands),
            masks=tuple(self.masks[b] for b in bands),
        )

    def with_nodata(self, value: float) -> Self:
        """Return the source with a nodata value, where the file does not tell."""
        told = any(n is not None for n in self.nodata) or any(self.masks)
        if told or self.alpha is not None:
            return self
        return replace(self, nodata=(value,) * len(self.nodata))

    def read(self, window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Read a window that lies inside the grid; see `Source.read`."""
        check_inside(self.name, self.grid, window)
        with reporting("read", self.name, self.path), environment(self.path):
            dataset = self.handles.get(self.path)
            try:
                pixels = self._pixels(dataset, window)
                told_by = {number for number in self.masks if number is not None}
                masks = [_mask(dataset, number, window) for number in told_by]
            finally:
                self._check_unchanged(dataset)
        count = len(self.numbers)
        valid = valid_pixels(pixels[:count], self.nodata)
        if self.alpha is not None:
            masks.append(pixels[count] != 0)
        for mask in masks:
            valid = both(valid, mask)
        return pixels[:count], valid

    def _check_unchanged(self, dataset: DatasetReader) -> None:
        """Raise where the file is another than the one that was opened.

        Looked at after each read, so that what was read is of the file it began with.
        A server that does not answer now, or did not then, is believed.
        """
        then = self.identity
        if is_remote(self.path) and not then.keys() & _REMOTE_VERSION:
            return  # nothing to compare with, so nothing to ask the server
        now = _identity(dataset, self.path, self.name)
        known = _VERSION if not is_remote(self.path) else then.keys() & now.keys()
        if any(now.get(key) != then.get(key) for key in known):
            raise SourceChangedError(
                f"{self.name} was replaced or changed after the run began: its map "
                "would be of two rasters; begin anew with --overwrite"
            )

    def _pixels(self, dataset: DatasetReader, window: Window) -> NDArray[np.generic]:
        """Return the bands, and last the alpha band where there is one."""
        numbers = [*self.numbers, *([] if self.alpha is None else [self.alpha])]
        out = np.empty((len(numbers), window.height, window.width), self.dtype)
        dataset.read(numbers, window=_slices(window), out=out)
        return out


def open_file(
    path: str,
    *,
    nodata: float | None = None,
    wanted: Sequence[str] | None = None,
    handles: Handles | None = None,
    probe: bool = True,
) -> RasterFile:
    """Return the source of a raster that GDAL can open, all bands but an alpha band.

    Only its header is read, and of local files the blocks in two corners, so that a
    corrupt one is refused before any work.

    Args:
        path: What GDAL opens.
        nodata: Means nodata in every band, whatever the file says of it.
        wanted: The bands that are asked for; an alpha band is a band like any other
            where its number is among them, or there is a name for it too.
        handles: Where it is kept open, shared with other files of one source.
        probe: Whether to decode those two blocks.

    Raises:
        RasterError: It cannot be opened, or is nothing that can be segmented.
    """
    name = redact(path)
    with (
        reporting("open", name, path),
        environment(path),
        open_dataset(path) as dataset,
    ):
        _check(dataset, name)
        found = _describe(dataset, path, name, nodata)
        if probe and not is_remote(path):
            _probe(dataset, found)
    if handles is not None:
        found = replace(found, handles=handles)
    if found.alpha is not None and _wants_alpha(found, wanted or ()):
        return _with_alpha(found, found.alpha)
    return found


def _wants_alpha(source: RasterFile, wanted: Sequence[str]) -> bool:
    asked = str(source.alpha) in (word.strip() for word in wanted)
    return asked or len(wanted) == len(source.bands) + 1


def _with_alpha(source: RasterFile, alpha: int) -> RasterFile:
    """Return the source with its alpha band as one more band like any other."""
    order = sorted([*source.numbers, alpha])
    extra = SourceBand(name=str(alpha))
    parts = zip(source.bands, source.nodata, source.masks, strict=True)
    known = dict(zip(source.numbers, parts, strict=True))
    chosen = [known.get(number, (extra, None, None)) for number in order]
    bands, nodata, masks = zip(*chosen, strict=True)
    return replace(
        source,
        numbers=tuple(order),
        bands=bands,
        nodata=nodata,
        masks=masks,
        alpha=None,
    )


def _describe(
    dataset: DatasetReader, path: str, name: str, nodata: float | None
) -> RasterFile:
    colours = _colours(dataset)
    # GDAL calls the fourth of four byte bands alpha where nobody said what it is; a
    # band that has a name of its own (`nir`) is none.
    numbers = [
        n
        for n, colour, name_ in zip(
            dataset.indexes, colours, dataset.descriptions, strict=True
        )
        if colour != "alpha" or (name_ and "alpha" not in name_.lower())
    ]
    alpha = next((n for n in dataset.indexes if n not in numbers), None)
    if not numbers:
        raise RasterError(f"{name} has an alpha band only: nothing to segment")
    at = [n - 1 for n in numbers]
    flags = [{int(flag.value) for flag in dataset.mask_flag_enums[i]} for i in at]
    return RasterFile(
        path=path,
        name=name,
        grid=_grid(dataset),
        bands=bands_of(
            path,
            [dataset.descriptions[i] for i in at],
            [colours[i] for i in at],
            numbers,
        ),
        dtype=np.result_type(*{dataset.dtypes[i] for i in at}),
        numbers=tuple(numbers),
        nodata=tuple(_nodata(dataset, i) if nodata is None else nodata for i in at),
        masks=_masks(numbers, flags),
        alpha=alpha,
        identity=_identity(dataset, path, name),
    )


def _check(dataset: DatasetReader, name: str) -> None:
    """Raise where the header says that it is nothing to segment."""
    if dataset.count == 0:
        inside = "; ".join(redact(s) for s in dataset.subdatasets[:3])
        raise RasterError(
            f"{name} has no bands of its own"
            + (f": open one of its parts, such as {inside}" if inside else "")
        )
    kinds = {d for d in dataset.dtypes if "complex" in d}
    if kinds:
        raise RasterError(
            f"{name} has complex pixels ({', '.join(sorted(kinds))}): models read real "
            "numbers, so make its amplitude or intensity first"
        )
    _check_blocks(dataset, name)
    if dataset.transform.is_identity and (dataset.gcps[0] or dataset.rpcs is not None):
        by, option = (
            ("RPCs", "-rpc ") if dataset.rpcs else ("ground control points", "")
        )
        raise RasterError(
            f"{name} is placed by {by} only, so its pixels have no regular grid: warp "
            f"it first, gdalwarp {option}IN OUT.tif"
        )


def _check_blocks(dataset: DatasetReader, name: str) -> None:
    together = dataset.count if _is_pixel_interleaved(dataset) else 1
    height, width = max(dataset.block_shapes[:1], key=math.prod)
    size = height * width * together * np.dtype(dataset.dtypes[0]).itemsize
    if size > MAX_BLOCK_BYTES:
        raise RasterError(
            f"{name} is stored in blocks of {height} x {width} pixels x {together} "
            f"band{'s' * (together > 1)}, {size:,} bytes each to decode (at most "
            f"{MAX_BLOCK_BYTES:,}): rewrite it in tiles, gdal_translate -co TILED=YES"
        )


def _is_pixel_interleaved(dataset: DatasetReader) -> bool:
    return dataset.interleaving is not None and dataset.interleaving.value == "PIXEL"


def _probe(dataset: DatasetReader, source: RasterFile) -> None:
    """Decode the first and the last pixel, so that what is corrupt is found now."""
    last = Window(y=dataset.height - 1, x=dataset.width - 1, height=1, width=1)
    for window in {Window(y=0, x=0, height=1, width=1), last}:
        dataset.read(list(source.numbers[:1]), window=_slices(window))


def _grid(dataset: DatasetReader) -> Grid:
    return Grid(
        crs=wkt_of(dataset.crs),
        transform=dataset.transform,
        height=dataset.height,
        width=dataset.width,
    )


def wkt_of(crs: Any) -> str | None:  # noqa: ANN401 - a rasterio CRS or None
    """Return a rasterio CRS as WKT, of 2019 where it can be said so; None if empty."""
    from rasterio.errors import CRSError

    if not crs:
        return None
    try:
        return str(crs.to_wkt(version="WKT2_2019"))
    except CRSError:
        return str(crs.to_wkt())


def _colours(dataset: DatasetReader) -> list[str]:
    try:
        return [colour.name for colour in dataset.colorinterp]
    except (ValueError, KeyError):  # newer than this rasterio knows of
        return ["undefined"] * int(dataset.count)


def _nodata(dataset: DatasetReader, index: int) -> float | None:
    value = dataset.nodatavals[index]
    return None if value is None else float(value)


def _masks(numbers: Sequence[int], flags: Sequence[set[int]]) -> tuple[int | None, ...]:
    """Return whose mask GDAL must be asked for, for each band; one for a shared mask.

    Flags as in GDALGetMaskFlags: 1 all valid, 2 one mask for the dataset, 4 from alpha,
    8 from nodata, none for a mask of the band's own. Alpha and nodata are read here.
    """
    ours = ({1}, {8}, {2, 4}, {4})
    shared = next((n for n, f in zip(numbers, flags, strict=True) if 2 in f), None)
    return tuple(
        None if f in ours else shared if 2 in f else n
        for n, f in zip(numbers, flags, strict=True)
    )


def _mask(dataset: DatasetReader, number: int, window: Window) -> NDArray[np.bool_]:
    mask: NDArray[np.uint8] = dataset.read_masks(number, window=_slices(window))
    return np.not_equal(mask, 0)


def _slices(window: Window) -> tuple[tuple[int, int], tuple[int, int]]:
    return (window.y, window.bottom), (window.x, window.right)


_VERSION: Final = ("size", "mtime_ns", "files")
_REMOTE_VERSION: Final = frozenset({"etag", "last-modified", "content-length"})


def _identity(dataset: DatasetReader, path: str, name: str) -> dict[str, Any]:
    """Return what changes when the pixels may have: of the file and those beside it."""
    facts: dict[str, Any] = {
        "path": _place(name),
        "shape": [dataset.count, dataset.height, dataset.width],
        "dtype": dataset.dtypes[0],
    }
    if is_remote(path):
        return facts | remote_facts(path)
    files = dataset.files or [path.removeprefix("GTI:")]
    stats = [Path(f).stat() for f in files if Path(f).exists()]
    if not stats:
        return facts
    parts = sorted((s.st_size, s.st_mtime_ns) for s in stats)
    facts["size"] = sum(s.st_size for s in stats)
    facts["mtime_ns"] = max(s.st_mtime_ns for s in stats)
    if len(parts) > 1:
        facts["files"] = hashlib.sha256(repr(parts).encode()).hexdigest()
    return facts


def _place(name: str) -> str:
    """Return a local file's place, the same from any folder; else the name."""
    try:
        return str(Path(name).resolve(strict=True))
    except OSError:
        return name


def remote_facts(path: str) -> dict[str, Any]:
    """Return a web server's own word on which version of a file this is."""
    from urllib.error import URLError
    from urllib.request import Request, urlopen

    if not path.lower().startswith(("http://", "https://")):
        return {}
    try:
        with urlopen(Request(path, method="HEAD"), timeout=10) as answer:  # noqa: S310
            headers = answer.headers
    except (URLError, OSError, ValueError):
        return {}  # servers may refuse HEAD; GDAL has read the header already
    return {key: headers[key] for key in sorted(_REMOTE_VERSION) if headers[key]}
