"""The one place where files of features are opened: known formats, and nothing else.

Some of OGR's formats name other sources: a virtual layer (OGR_VRT) reads any file or
URL, with headers taken from local files; a streamed algorithm (GDALG) runs GDAL's
commands; web services are asked over the network. GDAL finds a format by content, so
that a `labels.gpkg` may be any of them. So a local file is looked into before it is
opened, drivers that name other sources are not registered where this process loads
OGR first, and what OGR has opened is checked against the list of formats.
"""

from __future__ import annotations

import json
import os
import re
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tarfile import TarError
from typing import IO, TYPE_CHECKING, Any
from zipfile import BadZipFile

from geoseg.core.grid import names_a_file
from geoseg.core.text import redact
from geoseg.errors import GeosegError, RasterError
from geoseg.rasters.addresses import squeezed
from geoseg.rasters.archive_parts import parts
from geoseg.rasters.geojson_crs import crs_members, is_json, is_link

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

DRIVERS: Mapping[str, str] = {
    "GPKG": "GeoPackage",
    "ESRI Shapefile": "shapefile",
    "GeoJSON": "GeoJSON",
    "GeoJSONSeq": "GeoJSON sequence",
    "ESRIJSON": "Esri JSON",
    "TopoJSON": "TopoJSON",
    "JSONFG": "JSON-FG",
    "FlatGeobuf": "FlatGeobuf",
    "KML": "KML",
    "LIBKML": "KML, KMZ",
    "GPX": "GPX",
    "CSV": "CSV with coordinates",
    "MapInfo File": "MapInfo",
    "OpenFileGDB": "file geodatabase",
    "DXF": "DXF",
}
"""Formats of features that are opened: OGR's drivers and what people call them. Beside
them GeoParquet, which is read without OGR."""

_REACHES_ELSEWHERE = (
    "OGR_VRT", "GDALG", "WFS", "OAPIF", "OGCAPI", "CSW", "HTTP", "GML", "LVBAG",
    "AmigoCloud", "Carto", "EEDA", "Elasticsearch", "NGW", "PLSCENES", "ADBC", "GTFS",
    "PDF",
)  # fmt: skip
_NAMES_OTHERS = re.compile(
    rb"<OGRVRT|<VRTDataset|gdal_streamed_alg|<WFSConfiguration|<OGRWFSDataSource|"
    rb"<OGCAPIDataset|<OGROAPIF|<OGRCSWDataSource|<GDAL_WMS|"
    rb"^!table\b.*^\s*(?:open\s+table|create\s+view|\W*IsSeamless)",  # of MapInfo
    re.IGNORECASE | re.MULTILINE | re.DOTALL,
)
_PLACED = (
    "; make points of its columns: ogr2ogr -oo X_POSSIBLE_NAMES=x,lon* -oo "
    "Y_POSSIBLE_NAMES=y,lat* -a_srs EPSG:4326 OUT.gpkg IN.csv, in the CRS they are in"
)
_LOOKED_INTO = 1 << 16  # bytes; GDAL itself decides by the first few thousand
_PREFIX = re.compile(r"[A-Za-z][A-Za-z0-9_ ]+:(?!//)")  # `PG:…`; drives have one letter


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorFile:
    """A file of features that may be read."""

    path: str
    """A path or URL."""
    layers: Mapping[str, str | None]
    """Geometry type by layer; None where a layer has no geometries."""
    what: str
    """What it is to the user, for messages: `the labels`."""
    error: type[GeosegError]
    """What is raised where it cannot be read."""

    def only_layer(self, layer: str | None = None) -> str:
        """Return the layer that was asked for, or the only one with geometries.

        Raises:
            GeosegError: There is no such layer, or several and none is named.
        """
        name = redact(self.path)
        if layer is not None:
            if layer in self.layers:
                return layer
            raise self.error(
                f"{self.what} {name} has no layer {layer!r}; it has "
                f"{', '.join(self.layers) or 'none'}"
            )
        drawn = [each for each, geometry in self.layers.items() if geometry]
        if len(drawn) == 1 or (drawn and _is_one_parquet(self.path)):
            return drawn[0]
        if not drawn:
            table = self.path.lower().endswith((".csv", ".tsv"))
            raise self.error(
                f"{self.what} {name} holds no features with geometries{_PLACED * table}"
            )
        raise self.error(
            f"{self.what} {name} has layers {', '.join(drawn)}: name one with --layer"
        )

    def read(self, layer: str, **options: Any) -> GeoDataFrame:  # noqa: ANN401
        """Return a layer's features; options are those of `pyogrio.read_dataframe`."""
        if _is_one_parquet(self.path):
            return _of_parquet(self)
        with self.reporting():
            frame: GeoDataFrame = ogr().read_dataframe(
                self.path, layer=layer, **options
            )
        return frame

    def read_raw(self, layer: str, **options: Any) -> Any:  # noqa: ANN401
        """Return what `pyogrio.raw.read` returns of a layer."""
        if _is_one_parquet(self.path):
            return _raw(self.read(layer), options)
        from pyogrio import raw

        with self.reporting():
            return raw.read(self.path, layer=layer, **options)

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Turn what OGR raises into the file's error, on one line."""
        from pyogrio.errors import DataLayerError, DataSourceError, GeometryError
        from shapely.errors import ShapelyError

        try:
            yield
        except (
            DataLayerError,
            DataSourceError,
            GeometryError,
            ShapelyError,  # such as of rings that are not closed
            OSError,
            UnicodeDecodeError,
        ) as error:
            raise self.error(
                f"cannot read {self.what} {redact(self.path)}: "
                f"{squeezed(error, self.path)}"
            ) from error


def ogr() -> Any:  # noqa: ANN401 - a module
    """Return pyogrio, loaded without the drivers that reach elsewhere.

    They stay where somebody else has loaded it before; then looking into files and the
    list of formats must do.
    """
    if "pyogrio" not in sys.modules:
        kept = os.environ.get("OGR_SKIP")
        os.environ["OGR_SKIP"] = ",".join([*filter(None, [kept]), *_REACHES_ELSEWHERE])
        try:
            import pyogrio
        finally:
            del os.environ["OGR_SKIP"]
            if kept is not None:
                os.environ["OGR_SKIP"] = kept
    import pyogrio

    # Its GDAL prints what exceptions tell as well; where it prints is settled once.
    # And curl would print logins. Tables of a GeoPackage may be virtual ones of
    # SpatiaLite, which are the text, tables or shapes of any file that they name.
    settings = {
        "CPL_LOG": os.devnull, "CPL_CURL_VERBOSE": "NO", "SPATIALITE_LOAD": "NO"
    }  # fmt: skip
    pyogrio.set_gdal_config_options(settings)
    return pyogrio


def open_vectors(
    path: str | os.PathLike[str],
    what: str = "the features",
    error: type[GeosegError] = RasterError,
) -> VectorFile | None:
    """Open a file of features, or return None where OGR finds none in it.

    Raises:
        GeosegError: It names other sources, or is of a format that is not opened.
    """
    file = os.fspath(path)
    refuse_reaching(file, what, error)
    if _is_one_parquet(file):
        if Path(file).is_file():
            parquet_crs(file, what, error)
        return VectorFile(
            path=file, layers={Path(file).stem: "Unknown"}, what=what, error=error
        )
    module = ogr()
    try:
        layers = {str(n): kind for n, kind in module.list_layers(file)}
        if not layers:
            return None
        about = [module.read_info(file, layer=layer) for layer in layers]
    except (module.errors.DataSourceError, module.errors.DataLayerError):
        return None
    if (driver := about[0]["driver"]) not in DRIVERS:
        raise error(
            f"{what} {redact(file)} is of the format {driver}, which is not opened: "
            f"convert it to a GeoPackage with ogr2ogr"
        )
    for each in about:
        _check_crs(each["crs"] or "", file, what, error)
    return VectorFile(path=file, layers=layers, what=what, error=error)


def refuse_reaching(
    file: str, what: str = "the features", error: type[GeosegError] = RasterError
) -> None:
    """Raise where a name or a local file says that its data lie elsewhere.

    Raises:
        GeosegError: It does.
    """
    if _PREFIX.match(file) or file.lstrip().startswith("<"):
        raise error(
            f"{what} {redact(file)} is not a file: databases and services are not "
            "opened; export a GeoPackage with ogr2ogr"
        )
    try:
        for part in parts(_gdal_name(file)):
            _look_into(part, file, what, error)
    except (OSError, EOFError, RuntimeError, BadZipFile, TarError, zlib.error) as why:
        raise error(
            f"cannot read {what} {redact(file)}: {squeezed(why, file)}"
        ) from why


def _gdal_name(file: str) -> str:
    """Return what pyogrio makes of a name: a zip file is opened as a folder."""
    ogr()
    from pyogrio.util import vsi_path

    return str(vsi_path(file))


def _look_into(part: IO[bytes], file: str, what: str, error: type[GeosegError]) -> None:
    """Raise where a file, or one in an archive, names what lies elsewhere."""
    head = part.read(_LOOKED_INTO)
    if _NAMES_OTHERS.search(head.replace(b"\0", b"")):
        raise error(
            f"{what} {redact(file)} is a virtual layer, which names other sources "
            "whatever its ending: convert it with ogr2ogr if you trust it"
        )
    if is_json(head):
        for crs in crs_members(part, head):
            _check_json_crs(crs, file, what, error)


def _check_json_crs(
    crs: str | None, file: str, what: str, error: type[GeosegError]
) -> None:
    """Raise where GeoJSON links to its CRS: GDAL would ask that server for it."""
    if crs is None or is_link(crs):
        raise error(
            f"{what} {redact(file)} links to its CRS, which is not asked for, or "
            "writes it so that this cannot be told: write its name, as in "
            "urn:ogc:def:crs:EPSG::32633"
        )
    _check_crs(crs, file, what, error)


def _check_crs(crs: str, file: str, what: str, error: type[GeosegError]) -> None:
    if names_a_file(crs):
        raise error(
            f"the coordinate reference system of {what} {redact(file)} names a file by "
            "its path, which is not read: give it another, as with ogr2ogr -a_srs"
        )


def parquet_crs(file: str, what: str, error: type[GeosegError]) -> str:
    """Return the CRS of a GeoParquet file on this machine, as WKT.

    Raises:
        GeosegError: It is none, or its CRS is none or names a file.
    """
    import pyarrow.parquet
    from pyproj import CRS

    try:
        geo = json.loads(pyarrow.parquet.read_metadata(file).metadata[b"geo"])
        told = geo["columns"][geo["primary_column"]].get("crs") or "OGC:CRS84"
        text = told if isinstance(told, str) else json.dumps(told)
        _check_crs(text, file, what, error)
        crs = CRS.from_user_input(text).to_wkt()
    except GeosegError:
        raise
    except Exception as why:  # of pyarrow, pyproj, and of whatever stands in it
        raise error(
            f"cannot read {what} {redact(file)}: it is no GeoParquet as the "
            f"specification has it ({squeezed(why, file)})"
        ) from why
    _check_crs(crs, file, what, error)
    return str(crs)


def _of_parquet(file: VectorFile) -> GeoDataFrame:
    import geopandas

    try:
        return geopandas.read_parquet(file.path)
    except Exception as error:  # of pyarrow, GEOS and geopandas
        raise file.error(
            f"cannot read {file.what} {redact(file.path)}: {squeezed(error, file.path)}"
        ) from error


def _is_one_parquet(path: str) -> bool:
    return path.lower().endswith((".parquet", ".geoparquet"))


def _raw(frame: GeoDataFrame, options: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """Return a frame as `pyogrio.raw.read` would."""
    table = frame.drop(columns=frame.geometry.name)
    columns = [str(c) for c in table.columns] if options.get("columns") is None else []
    crs = frame.crs.to_wkt() if frame.crs else None
    fields = [table[c].to_numpy() for c in columns]
    return (
        {"crs": crs, "fields": columns},
        None,
        frame.geometry.to_wkb().to_numpy(),
        fields,
    )
