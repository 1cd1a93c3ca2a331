"""GDAL's handles and GDAL's words: opened per thread, reported on one line."""

from __future__ import annotations

import logging
import os
import re
import threading
import warnings
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from geoseg.core.files import free_in, no_room
from geoseg.errors import (
    GeosegError,
    RasterError,
    first_line,
    is_full,
)
from geoseg.execution.resources import threads
from geoseg.rasters.addresses import gdal_path, is_remote, squeezed
from geoseg.rasters.archives import gdal_settings, signed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rasterio import DatasetReader

# What GDAL may hold of decoded blocks per process, in bytes: rasterio takes no MB. Its
# own default is 5 % of the machine, which a dozen workers turn into half of it.
CACHE_BYTES: Final = 64 << 20

FAR_AT_ONCE: Final = 8
"""Parts of rasters far away that a process reads at once."""

FEATURES: Final = (
    ".gpkg", ".parquet", ".geoparquet", ".fgb", ".geojson", ".shp", ".kml", ".gml",
)  # fmt: skip
"""What names of files end with that hold features; a GeoPackage may hold pixels too."""

# What is opened. Drivers that read other files which the raster names are left out,
# but for those whose files we look through before (`references`), and so are those that
# write, ask databases or services, or are too odd to be anybody's raster.
IMAGES: Final = (
    "GTiff", "COG", "JP2OpenJPEG", "JP2KAK", "JP2ECW", "JP2MrSID", "JPEG", "PNG",
    "WEBP", "JPEGXL", "AVIF", "GIF", "BMP", "PNM", "HFA", "ENVI", "EHdr", "AAIGrid",
    "AIG", "GRASSASCIIGrid", "GSAG", "GSBG", "GS7BG", "XYZ", "SAGA", "RST",
    "ISCE", "ROI_PAC", "PCRaster", "RMF", "SRTMHGT", "DTED", "USGSDEM", "BYN", "NITF",
    "GRIB", "netCDF", "HDF4", "HDF4Image", "HDF5", "HDF5Image", "BAG", "Zarr", "GPKG",
    "MBTiles",
)  # fmt: skip
# Opened where the name says so: what a file holds must be what its name promises.
_BY_NAME: Final = (
    (re.compile(r"\.vrt$"), ("VRT",)),
    (re.compile(r"^gti:|\.gti(\.\w+)?$"), ("GTI",)),
    (re.compile(r"^sentinel2_l"), ("SENTINEL2",)),
)
# GDAL opens what a VRT names, and files beside a raster (`.ovr`, `.msk`), with whatever
# driver knows them. MRF writes files (https://github.com/OSGeo/gdal/issues/14739), the
# others read or ask for whatever a file names. They stay where somebody else in this
# process has registered GDAL's drivers before; then looking into files must do.
_NEVER: Final = (
    "MRF PDS PDS4 ISIS2 ISIS3 VICAR EIR PCIDSK TIL STACTA STACIT GDALG ERS DIMAP RS2 "
    "TSX SNODAS FAST RPFTOC ECRGTOC WMS WMTS WCS OGCAPI PLMOSAIC EEDA EEDAI DAAS NGW "
    "HTTP ILWIS KMLSUPEROVERLAY Rasterlite PDF MAP OZI GSC PAux"
)

# rasterio hands GDAL's messages to logging; without any handler Python prints them on
# stderr. Whoever wants them adds a handler to the logger "rasterio".
logging.getLogger("rasterio").addHandler(logging.NullHandler())


def one_line(error: BaseException, path: str = "") -> str:
    """Return the first cause of an error of GDAL's, squeezed into a redacted line."""
    while (deeper := error.__cause__ or error.__context__) is not None:
        if not type(deeper).__module__.startswith("rasterio"):
            break  # what the caller was busy with when it asked for the pixels
        error = deeper
    return squeezed(error, path)


@contextmanager
def reporting(what: str, name: str, path: str) -> Iterator[None]:
    """Turn what GDAL raises into a RasterError of one line."""
    from rasterio._err import CPLE_BaseError  # such as of a CRS that PROJ cannot make
    from rasterio.errors import RasterioError

    raised = (RasterioError, CPLE_BaseError, OSError, ValueError, MemoryError)
    try:
        yield
    except raised as error:
        if path.lower().endswith(FEATURES) and Path(path).exists():
            raise no_pixels(name) from error
        reason = _without_name(one_line(error, path), name)
        if "not recognized as being" in reason:
            reason += _instead(path)
        raise RasterError(f"cannot {what} {name}: {reason}") from error


def no_pixels(name: str) -> RasterError:
    """Return what to say of a file of features where pixels are needed."""
    return RasterError(
        f"{name} holds features (points, lines, polygons), and pixels are needed here: "
        "name a raster; gdal_rasterize makes one of features"
    )


def _instead(path: str) -> str:
    """Return what to give instead of a file that no driver here reads."""
    kind = path.lower().rpartition(".")[2]
    if kind in {"ecw", "sid"}:
        return (
            f" Here GDAL has no driver for .{kind}: make a GeoTIFF of it where there "
            "is one, as in QGIS (Export > Save As) or with gdal_translate there"
        )
    if _is_hdf4(path):
        return (
            " Here GDAL has no driver for HDF4: make GeoTIFFs of its arrays where "
            "there is one, as in QGIS, or with gdal_translate there"
        )
    if kind == "dim":
        return f" Its rasters lie beside it: name the folder {Path(path).stem}.data"
    if kind in {"til", "xml"}:
        return " It only lists rasters: name the folder or the files themselves"
    return ""


def _is_hdf4(path: str) -> bool:
    file = Path(path)
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return opened.read(4) == b"\x0e\x03\x13\x01"


def _without_name(reason: str, name: str) -> str:
    """Return a reason that does not begin with the file's name, which we say anyway."""
    for known in (name, Path(name).name):
        reason = re.sub(rf"^['`]?{re.escape(known)}['`]?(?:: ?|, | )", "", reason)
    return reason


@contextmanager
def reporting_written(file: Path, error: type[GeosegError]) -> Iterator[None]:
    """Say on one line why a file cannot be written by GDAL.

    Raises:
        UnwrittenError: No room is left. GDAL has many words for it, of what it could
            not write or not read again, and once it has begun nothing else fails it.
        GeosegError: `error`, where it cannot be begun.
    """
    from rasterio._err import CPLE_BaseError  # what copying raises
    from rasterio.errors import RasterioError

    try:
        yield
    except (OSError, RasterioError, CPLE_BaseError, SystemError) as why:
        reason = getattr(why, "strerror", None) or first_line(why)
        if isinstance(why, OSError) and not (
            is_full(why) or isinstance(why, RasterioError)
        ):
            raise error(f"{file} cannot be written: {reason}") from why
        raise no_room(file, f"{reason}, {free_in(file.parent)}") from why


def read_again(file: Path) -> None:
    """Read all of a file that was just written: GDAL tells of no disk full at the end.

    Raises:
        RasterioError: It is not whole.
    """
    import rasterio

    with rasterio.open(file) as written:
        for _, window in written.block_windows(1):
            written.read(window=window)


def names_others(path: str) -> bool:
    """Whether what is opened names the files that its pixels lie in: VRT, GTI."""
    return drivers(path) is not IMAGES


@contextmanager
def environment(path: str, *, far: bool | None = None) -> Iterator[None]:
    """Set what GDAL needs while it opens and reads `path`.

    Args:
        path: What GDAL opens.
        far: Whether pixels of it come over a network; None: they may, where it names
            other files.
    """
    import rasterio

    options: dict[str, Any] = {"GDAL_CACHEMAX": CACHE_BYTES, "GDAL_SKIP": _NEVER}
    options["CPL_CURL_VERBOSE"] = "NO"  # curl itself would print logins on stderr
    options["SPATIALITE_LOAD"] = "NO"  # tables of a GeoPackage would name other files
    if "GDAL_NUM_THREADS" not in os.environ:  # tiles of a window, decoded side by side
        options["GDAL_NUM_THREADS"] = _threads()
    if is_remote(path):
        options["GDAL_DISABLE_READDIR_ON_OPEN"] = "EMPTY_DIR"
        options |= gdal_settings(path)
    if far or is_remote(path) or (far is None and names_others(path)):
        options |= {
            "GDAL_HTTP_CONNECTTIMEOUT": 5,
            "GDAL_HTTP_MAX_RETRY": 3,
            "GDAL_HTTP_RETRY_DELAY": 0.5,
            "GDAL_HTTP_LOW_SPEED_TIME": 30,
            "GDAL_HTTP_LOW_SPEED_LIMIT": 1000,  # bytes a second; less is a dead server
            "GDAL_HTTP_MULTIRANGE": "YES",
            # With more, GDAL (3.10) asks for all tiles of a window ahead, and where
            # that request fails it returns zeros and no error, retries or not.
            "GDAL_NUM_THREADS": 1,
        }
    with rasterio.Env(**options):
        yield


@cache
def _threads() -> int:
    return threads()


def drivers(path: str) -> tuple[str, ...]:
    """Return GDAL's drivers that may open a path, by what its name promises."""
    name = path.split("?", maxsplit=1)[0].lower() if is_remote(path) else path.lower()
    return next((d for pattern, d in _BY_NAME if pattern.search(name)), IMAGES)


def open_dataset(path: str, overview: int | None = None) -> DatasetReader:
    """Open a dataset, or one of its overviews, for reading in `environment(path)`."""
    from rasterio.env import ensure_env_with_credentials
    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.io import DatasetReader

    # `rasterio.open` takes one driver, not a list of them.
    opened = ensure_env_with_credentials(DatasetReader)
    options: dict[str, Any] = {"driver": list(drivers(path))}
    if overview is not None:
        options["overview_level"] = overview
    with warnings.catch_warnings():  # `open_source` warns, once, in its own words
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return opened(gdal_path(signed(path)), **options)


def far_readers() -> ThreadPoolExecutor:
    """Return the threads by which this process reads what is far away.

    Each has handles of its own, and each waits for one answer after the other.
    """
    return _pool("geoseg-far", FAR_AT_ONCE, os.getpid())


@cache
def _pool(name: str, count: int, process: int) -> ThreadPoolExecutor:  # noqa: ARG001
    """Return threads of a process; a forked one has none of its parent's."""
    return ThreadPoolExecutor(count, thread_name_prefix=name)


def _opened(path: str, overview: int | None) -> DatasetReader:
    """Open a dataset for the calling thread.

    One thread opens all files that lie here: in each thread that opens its first one,
    PROJ reads its tables again, and nothing else of Python goes on meanwhile.
    """
    if is_remote(path) or names_others(path):
        return open_dataset(path, overview)

    def opened() -> DatasetReader:
        with environment(path):
            return open_dataset(path, overview)

    return _pool("geoseg-opens", 1, os.getpid()).submit(opened).result()


class Handles:
    """Open datasets, per process and thread; the part of a source that never travels.

    A dataset of GDAL's must not be used by two threads at once, nor survive a fork.
    Each thread keeps the `limit` most recently used ones; pickled, none are left.
    """

    def __init__(self, limit: int = 16) -> None:
        self._limit = limit
        self._local = threading.local()
        self.token: Final = object()
        """Stands for the files behind these handles, in this process only."""

    def __reduce__(self) -> tuple[type[Handles], tuple[int]]:
        return Handles, (self._limit,)

    def get(self, path: str, overview: int | None = None) -> DatasetReader:
        """Return the calling thread's own open dataset for `path`, or an overview."""
        # A signature that has been renewed makes another address of it.
        opened, key = self._opened(), (signed(path), overview)
        if key in opened:
            opened.move_to_end(key)
            return opened[key]
        dataset = opened[key] = _opened(path, overview)
        while len(opened) > self._limit:
            opened.popitem(last=False)[1].close()
        return dataset

    def _opened(self) -> OrderedDict[tuple[str, int | None], DatasetReader]:
        local = self._local
        if getattr(local, "pid", None) != os.getpid():
            local.pid, local.opened = os.getpid(), OrderedDict()
        return local.opened  # type: ignore[no-any-return]
