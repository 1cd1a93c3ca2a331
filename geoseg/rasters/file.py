"""One raster that GDAL opens: a file, a URL, a VRT, a tile index."""

from __future__ import annotations

import math
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from geoseg.core.files import absolute
from geoseg.core.grid import Grid, Window
from geoseg.core.raster_options import NodataRule
from geoseg.core.text import redact
from geoseg.errors import RasterError
from geoseg.rasters.addresses import is_remote
from geoseg.rasters.bands import ALPHA, bands_of
from geoseg.rasters.coverage import covered_by
from geoseg.rasters.file_versions import Versions, changed, place_of
from geoseg.rasters.gcps import ControlPoints
from geoseg.rasters.gdal import (
    FAR_AT_ONCE,
    Handles,
    environment,
    far_readers,
    names_others,
    open_dataset,
    reporting,
)
from geoseg.rasters.header import (
    Header,
    check_header,
    control_of,
    hdf_notes,
    strips_note,
)
from geoseg.rasters.orders import order_told
from geoseg.rasters.products import known
from geoseg.rasters.references import Contents, contents, opened_with
from geoseg.rasters.source import SourceBand, check_inside
from geoseg.rasters.tiles import in_rows, read_tiled
from geoseg.rasters.validity import both, covered_pixels, valid_pixels, valid_together

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from numpy.typing import NDArray
    from rasterio import DatasetReader

    from geoseg.rasters.tiles import Layers, Part


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
    together: tuple[int, ...] = ()
    """Numbers of the bands of which a pixel is nodata only where all of them are; where
    there are none, it is where any band that is read is."""
    control: ControlPoints | None = None
    """What places its pixels where its grid is none: see `gcps.on_control_points`."""
    covered: tuple[NDArray[np.float64], ...] | None = field(default=None, compare=False)
    """For each band of the file, what of it holds pixels; see `references.Contents`."""
    notes: tuple[str, ...] = ()
    versions: Versions = field(default_factory=Versions, compare=False, repr=False)
    """The files that it is made of, as they were when it was opened."""
    identity: Mapping[str, Any] = field(default_factory=dict)
    tile: tuple[int, int] = field(default=(256, 256), compare=False)
    """Rows and columns of what is decoded at once."""
    is_far: bool = field(default=False, compare=False)
    """Whether pixels of it come over a network."""
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

    def with_nodata(self, *values: float | None) -> Self:
        """Return the source with nodata values, where the file does not tell.

        Args:
            values: Of all bands, or of each of the file's, by its number.
        """
        told = any(n is not None for n in self.nodata) or any(self.masks)
        if told or self.alpha is not None:
            return self
        if len(values) == 1:
            nodata = values * len(self.nodata)
        elif len(values) >= max(self.numbers):
            nodata = tuple(values[number - 1] for number in self.numbers)
        else:  # of other bands than it has
            return self
        return replace(self, nodata=nodata, together=self._together(nodata))

    def _together(self, nodata: Sequence[float | None]) -> tuple[int, ...]:
        return together(self.bands, self.numbers, self.dtype, nodata, "auto")

    def read(self, window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Read a window that lies inside the grid; see `Source.read`."""
        check_inside(self.name, self.grid, window)
        with reporting("read", self.name, self.path), self._opened() as dataset:
            try:
                pixels, told = self._layers(dataset, window)
            finally:
                self.check_unchanged()
        count = len(self.numbers)
        valid = self._told_valid(pixels)
        masks = [mask != 0 for mask in told]
        if self.alpha is not None:
            masks.append(pixels[count] != 0)
        masks += [covered_pixels(c, window) for c in self._coverage()]
        for mask in masks:
            valid = both(valid, mask)
        return pixels[:count], valid

    @contextmanager
    def _opened(self) -> Iterator[DatasetReader]:
        """Open it for the calling thread, which keeps it open."""
        with environment(self.path, far=self.is_far):
            yield self.handles.get(self.path)

    def _told_valid(self, pixels: NDArray[np.generic]) -> NDArray[np.bool_]:
        """Return where pixels are valid by their values."""
        count = len(self.numbers)
        if not self.together:
            return valid_pixels(pixels[:count], self.nodata)
        others = pixels[count + (self.alpha is not None) :]
        value = next(n for n in self.nodata if n is not None)
        return valid_together(pixels[:count], others, value)

    def _coverage(self) -> list[NDArray[np.float64]]:
        """Return what the bands that are read have files for, each once."""
        if self.covered is None:
            return []
        found: list[NDArray[np.float64]] = []
        for number in self.numbers:
            rectangles = self.covered[number - 1]
            if not any(np.array_equal(rectangles, f) for f in found):
                found.append(rectangles)
        return found

    def check_unchanged(self, *, later: bool = False) -> None:
        """Raise where a file is another than the one that was opened.

        Looked at after each read, so that what was read is of the file it began with.
        A server that does not answer now, or did not then, is believed.

        Args:
            later: Of many files look at those that are not after each read.

        Raises:
            SourceChangedError: It is.
        """
        if not self.versions.same(later=later):
            raise changed(self.name)

    def _layers(
        self, dataset: DatasetReader, window: Window
    ) -> tuple[NDArray[np.generic], NDArray[np.uint8]]:
        """Return bands and GDAL's masks of a window.

        The bands asked for, then alpha, then what else tells where they are valid.
        """
        alpha = () if self.alpha is None else (self.alpha,)
        others = [n for n in self.together if n not in self.numbers]
        bands = [*self.numbers, *alpha, *others]
        masks = sorted({number for number in self.masks if number is not None})
        shape = window.height, window.width
        pixels = np.empty((len(bands), *shape), self.dtype)
        told = np.empty((len(masks), *shape), np.uint8)

        tile = dataset.block_shapes[0]

        def decode(parts: Sequence[Part]) -> None:
            if self.is_far:
                pieces = in_rows(parts, tile, FAR_AT_ONCE)
                deque(far_readers().map(decode_apart, pieces), 0)
                return
            for part in parts:
                decode_by(dataset, *part)

        def decode_apart(part: Part) -> None:
            with self._opened() as own:
                decode_by(own, *part)

        def decode_by(opened: DatasetReader, part: Window, out: Layers) -> None:
            opened.read(bands, window=part.spans, out=out[0])
            for number, mask in zip(masks, out[1], strict=True):
                opened.read_masks(number, window=part.spans, out=mask)

        read_tiled(
            (self.handles.token, self.path, tuple(bands), tuple(masks)),
            window,
            (pixels, told),
            tile=tile,
            raster=self.grid.window,
            decode=decode,
        )
        return pixels, told


@dataclass(frozen=True, slots=True, kw_only=True)
class FileHints:
    """What is known of a file from elsewhere than itself: the user, an item."""

    nodata: float | None = None
    """Means nodata in every band, whatever the file says."""
    rule: NodataRule = "auto"
    """Whether a pixel is nodata where any band is, or where all are."""
    wanted: Sequence[str] | None = None
    """The bands that are asked for; an alpha band is a band like any other where its
    number is among them, or there is a name for it that is not `alpha`."""
    count: int | None = None
    """How many bands there are by what an item says; more than there are without an
    alpha band: it is not one."""
    trust: tuple[str, ...] = ()
    """Folders and hosts whose files may be read where a raster names them."""
    product: bool = True
    """Whether the product that the file's name tells of says what numbers mean; not
    where an item says it."""


NOTHING_TOLD: Final = FileHints()


def open_raster(
    path: str,
    told: FileHints = NOTHING_TOLD,
    *,
    handles: Handles | None = None,
    probe: bool = True,
) -> RasterFile:
    """Return the source of a raster that GDAL can open, all bands but an alpha band.

    Only its header is read, and of local files the blocks in two corners, so that a
    corrupt one is refused before any work.

    Args:
        path: What GDAL opens.
        told: What is known of it from elsewhere.
        handles: Where it is kept open, shared with other files of one source.
        probe: Whether to decode those two blocks.

    Raises:
        RasterError: It cannot be opened, is nothing that can be segmented, or names
            files that it may not.
    """
    name, path = redact(path), absolute(path)
    inside = contents(path, told.trust)
    with (
        reporting("open", name, path),
        environment(path),
        open_dataset(path) as dataset,
    ):
        beside = opened_with(dataset, path, inside, told.trust)
        header = Header.of(dataset)
        check_header(header, dataset, name)
        found = _describe(header, path, name, told)
        found = replace(
            found,
            control=control_of(dataset, name),
            notes=(
                *found.notes,
                *strips_note(header, dataset, name),
                *hdf_notes(dataset, name),
            ),
        )
        if probe and not is_remote(path):
            _probe(dataset, found)
    versions = Versions.of((*inside.files, *header.files, *beside))
    told_nodata = any(n is not None for n in found.nodata)
    found = replace(
        found,
        covered=None if told_nodata else _covered(inside, header),
        versions=versions,
        is_far=_is_far(path, versions),
        identity={
            "path": place_of(name),
            "shape": [header.count, header.height, header.width],
            "dtype": header.dtypes[0],
            **versions.summary(),
        },
    )
    if handles is not None:
        found = replace(found, handles=handles)
    return with_alpha(found) if _wants_alpha(found, told) else found


def _is_far(path: str, versions: Versions) -> bool:
    """Whether pixels of a raster come over a network."""
    if not names_others(path):
        return is_remote(path)
    return any(map(is_remote, (path, *versions.facts)))


def _covered(
    inside: Contents, header: Header
) -> tuple[NDArray[np.float64], ...] | None:
    """Return what of a raster has files, band by band; None where all has."""
    if inside.footprints is None:
        return inside.covered
    return covered_by(inside.footprints, header.grid, header.count)


def _wants_alpha(source: RasterFile, told: FileHints) -> bool:
    if source.alpha is None:
        return False
    words = [word.strip().lower() for word in told.wanted or ()]
    numbers = {word.rpartition("=")[2].strip() for word in words}
    if str(source.alpha) in numbers or told.count == len(source.bands) + 1:
        return True
    if len(words) != len(source.bands) + 1 or all(w.isdigit() for w in words):
        return False
    order = sorted([*source.numbers, source.alpha])
    return words[order.index(source.alpha)] not in ALPHA


def with_alpha(source: RasterFile) -> RasterFile:
    """Return the source with its alpha band as one more band like any other."""
    if (alpha := source.alpha) is None:
        return source
    order = sorted([*source.numbers, alpha])
    extra = SourceBand(name=str(alpha), number=alpha)
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


def _bands(header: Header, path: str, at: Sequence[int]) -> tuple[SourceBand, ...]:
    """Return a header's bands, those at some places, with what their numbers mean."""
    bands = bands_of(
        path,
        [header.descriptions[i] for i in at],
        [header.colours[i] for i in at],
        [i + 1 for i in at],
    )
    return tuple(
        replace(band, scale=header.scales[i], offset=header.offsets[i])
        if _is_formula(header.scales[i], header.offsets[i])
        else band
        for band, i in zip(bands, at, strict=True)
    )


def _describe(header: Header, path: str, name: str, told: FileHints) -> RasterFile:
    # GDAL calls the fourth of four byte bands alpha where no tag says what it is; a
    # band that has a name of its own (`nir`) is none, nor is one by the file's name.
    all_named = told.product and order_told(path, header.count) is not None
    numbers = [
        n
        for n, (colour, called) in enumerate(
            zip(header.colours, header.descriptions, strict=True), 1
        )
        if all_named or not _is_alpha(colour, (called or "").strip().lower())
    ]
    taken = set(numbers)
    alpha = next((n for n in range(1, header.count + 1) if n not in taken), None)
    if not numbers:
        raise RasterError(f"{name} has an alpha band only: nothing to segment")
    at = [n - 1 for n in numbers]
    bands = _bands(header, path, at)
    dtype = np.result_type(*{header.dtypes[i] for i in at})
    nodata = tuple(header.nodata[i] if told.nodata is None else told.nodata for i in at)
    product = known(path, bands, dtype) if told.product else None
    if product is not None:
        bands = product.bands
        if not any(n is not None for n in nodata):
            nodata = (product.nodata,) * len(nodata)
    left_out = () if product is None else product.no_bands
    source = RasterFile(
        path=path,
        name=name,
        grid=header.grid,
        bands=bands,
        dtype=dtype,
        numbers=tuple(numbers),
        nodata=nodata,
        masks=_masks(numbers, [header.flags[i] for i in at]),
        alpha=alpha,
        tile=header.tile,
        together=together(bands, numbers, dtype, nodata, told.rule),
        notes=() if product is None else product.notes,
    )
    if not left_out:
        return source
    return source.select([i for i in range(len(bands)) if i not in left_out])


def _is_alpha(colour: str, called: str) -> bool:
    return called in {"alpha", "datamask"} or (
        colour == "alpha" and (not called or "alpha" in called)
    )


def _is_formula(scale: float, offset: float) -> bool:
    return scale != 0 and math.isfinite(scale) and math.isfinite(offset)


def together(
    bands: Sequence[SourceBand],
    numbers: Sequence[int],
    dtype: np.dtype[Any],
    nodata: Sequence[float | None],
    rule: NodataRule,
) -> tuple[int, ...]:
    """Return the numbers of the bands that are nodata only together; none for `any`.

    In a picture of bytes a 0 or 255 in one band is a colour: red roofs have no blue.
    rasterio's `dataset_mask` and gdalwarp (UNIFIED_SRC_NODATA) take a pixel for nodata
    where all bands are, and so do we there. In measurements, where a band that is
    missing leaves a model without what it needs, it is nodata where any band is.
    """
    values = set(nodata)
    if len(values) != 1 or None in values or len(numbers) < 2:
        return ()
    colours = {band.common_name for band in bands}
    picture = dtype == np.uint8 and {"red", "green", "blue"} <= colours
    return tuple(numbers) if rule == "all" or (rule == "auto" and picture) else ()


def _probe(dataset: DatasetReader, source: RasterFile) -> None:
    """Decode the first and the last pixel, so that what is corrupt is found now."""
    last = Window(y=dataset.height - 1, x=dataset.width - 1, height=1, width=1)
    for window in {Window(y=0, x=0, height=1, width=1), last}:
        dataset.read(list(source.numbers[:1]), window=window.spans)


def _masks(
    numbers: Sequence[int], flags: Sequence[AbstractSet[int]]
) -> tuple[int | None, ...]:
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
