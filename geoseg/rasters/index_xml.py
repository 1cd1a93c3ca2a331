"""The XML of VRTs and tile indexes, and what of it is known to be harmless.

GDAL finds elements whatever their case, takes attributes for elements, and drivers of
VRTs know many that name files or run code. So only names that are listed here, spelled
as GDAL writes them, are let through:
https://github.com/OSGeo/gdal/blob/master/frmts/vrt/data/gdalvrt.xsd
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from geoseg.core.grid import names_a_file
from geoseg.core.text import redact
from geoseg.errors import RasterError
from geoseg.rasters.named_files import read_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from xml.etree.ElementTree import Element

NAMES: Final = frozenset({"SourceFilename", "SourceDataset", "IndexDataset", "DEMPath"})
"""Elements whose text is the name of a file."""
_PLAIN: Final = NAMES | {"IndexLayer", "LocationField", "PixelFunctionLanguage"}
"""Elements that hold a name and nothing else, of which GDAL takes what it likes."""
_LARGEST: Final = 64_000_000
_CRS: Final = frozenset({"SRS", "SourceSRS", "TargetSRS", "DEMSRS", "Option"})
"""Elements whose text may be a CRS or an operation of PROJ, which may name grids."""

_OF_RASTERS: Final = (
    "VRTDataset SRS GeoTransform GCPList GCP BlockXSize BlockYSize Metadata MDI "
    "VRTRasterBand MaskBand OverviewList Description UnitType Offset Scale "
    "CategoryNames Category ColorTable Entry NoDataValue NodataValue HideNoDataValue "
    "ColorInterp Overview Histograms HistItem HistMin HistMax BucketCount "
    "IncludeOutOfRange Approximate HistCounts GDALRasterAttributeTable FieldDefn Name "
    "Type Usage Row F"
)
_OF_SOURCES: Final = (
    "SimpleSource ComplexSource AveragedSource NoDataFromMaskSource "
    "KernelFilteredSource SourceFilename OpenOptions SourceBand SourceProperties "
    "SrcRect DstRect ScaleOffset ScaleRatio ColorTableComponent Exponent SrcMin SrcMax "
    "DstMin DstMax Clip NODATA UseMaskBand LUT MaskValueThreshold RemappedValue Kernel "
    "Size Coefs PixelFunctionType PixelFunctionLanguage PixelFunctionArguments "
    "SourceTransferType BufferRadius SkipNonContributingSources"
)
_OF_WARPING: Final = (
    "GDALWarpOptions WarpMemoryLimit ResampleAlg WorkingDataType Option SourceDataset "
    "BandList BandMapping SrcNoDataReal SrcNoDataImag DstNoDataReal DstNoDataImag "
    "SrcAlphaBand DstAlphaBand Cutline CutlineBlendDist Transformer ApproxTransformer "
    "MaxError MaxErrorForward MaxErrorReverse BaseTransformer GenImgProjTransformer "
    "SrcGeoTransform SrcInvGeoTransform DstGeoTransform DstInvGeoTransform "
    "SrcGCPTransformer DstGCPTransformer GCPTransformer Order Reversed Refine "
    "MinimumGcps Tolerance SrcTPSTransformer DstTPSTransformer TPSTransformer "
    "SrcRPCTransformer DstRPCTransformer RPCTransformer HeightOffset HeightScale "
    "PixErrThreshold RPCFootprint DEMPath DEMInterpolation DEMMissingValue "
    "DEMApplyVDatumShift DEMSRS SrcHomographyTransformer DstHomographyTransformer "
    "HomographyTransformer Homography ReprojectTransformer ReprojectionTransformer "
    "SourceSRS TargetSRS SourceCoordinateEpoch TargetCoordinateEpoch Options "
    "CheckWithInvertProj SrcApproxErrorReverse SrcApproxErrorForward "
    "DstApproxErrorReverse DstApproxErrorForward"
)
_OF_PANSHARPENING: Final = (
    "PansharpeningOptions Algorithm AlgorithmOptions Weights Resampling NumThreads "
    "BitDepth NoData SpatialExtentAdjustment PanchroBand SpectralBand"
)
_OF_INDEXES: Final = (
    "GDALTileIndexDataset IndexDataset IndexLayer LocationField SortField SortFieldAsc "
    "Filter SRS SRSBehavior ResX ResY MinX MinY MaxX MaxY XSize YSize GeoTransform "
    "BlockXSize BlockYSize BandCount DataType NoData NoDataValue ColorInterpretation "
    "ColorInterp MaskBand Resampling Metadata MDI Band Description Offset Scale "
    "UnitType CategoryNames Category ColorTable Entry"
)
_OF_ATTRIBUTES: Final = (
    "subClass rasterXSize rasterYSize dataAxisToSRSAxisMapping coordinateEpoch "
    "Projection Id Info Pixel Line X Y Z GCPZ domain format key dataType band "
    "blockXSize blockYSize relativeToVRT relativetoVRT shared RasterXSize RasterYSize "
    "DataType BlockXSize BlockYSize xOff yOff xSize ySize resampling normalized index "
    "tableType Row0Min BinSize c1 c2 c3 c4 name src dst dstBand"
)
_OF_SUBCLASSES: Final = (
    "VRTWarpedDataset VRTPansharpenedDataset VRTWarpedRasterBand VRTSourcedRasterBand "
    "VRTDerivedRasterBand VRTPansharpenedRasterBand"
)
_OF_A_VRT: Final = frozenset(
    f"{_OF_RASTERS} {_OF_SOURCES} {_OF_WARPING} {_OF_PANSHARPENING}".split()
)
_OF_AN_INDEX: Final = frozenset(_OF_INDEXES.split())
_ATTRIBUTES: Final = frozenset(_OF_ATTRIBUTES.split())
_SUBCLASSES: Final = frozenset(_OF_SUBCLASSES.split())


def read_vrt(path: str) -> list[Element]:
    """Return the elements of a VRT, its root first, without metadata that are XML.

    Raises:
        RasterError: It is none, or holds what is not known to be harmless.
    """
    return _checked(path, "VRTDataset", _OF_A_VRT)


def read_index(path: str) -> Element:
    """Return the XML of a tile index.

    Raises:
        RasterError: It is none, or holds what is not known to be harmless.
    """
    return _checked(path, "GDALTileIndexDataset", _OF_AN_INDEX)[0]


def file_in(element: Element, path: str) -> tuple[str, str | None]:
    """Return the file that an element names, and whether it is beside the XML's: "1".

    Raises:
        RasterError: Where it lies can be understood in two ways.
    """
    text = (element.text or "").lstrip()
    beside = element.get("relativeToVRT", element.get("relativetoVRT"))
    if beside not in {None, "0", "1"}:
        raise _refused(path, f"{element.tag} that is no plain name")
    return text, beside


def _checked(path: str, root: str, known: frozenset[str]) -> list[Element]:
    found = list(_below(_parsed(path)))
    if found[0].tag != root:
        raise RasterError(f"cannot open {redact(path)}: it is no {root}")
    for element in found:
        _check_harmless(element, known, path)
    return found


def _parsed(path: str) -> Element:
    """Return the XML of a file, comments with it.

    No document type is read, so no entity can grow. GDAL takes all for UTF-8, whatever
    is declared.
    """
    from xml.etree import ElementTree as ET

    data = read_bytes(path, most=_LARGEST)
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise RasterError(f"{redact(path)} declares entities, which no VRT needs")
    try:
        text = data.decode("utf-8-sig")
        builder = ET.TreeBuilder(insert_comments=True, insert_pis=True)
        parser = ET.XMLParser(target=builder)  # noqa: S314 - see above
        return ET.fromstring(text, parser)  # noqa: S314
    except (ET.ParseError, RecursionError, ValueError) as error:
        raise RasterError(
            f"cannot open {redact(path)}: it is no XML such as GDAL writes ({error})"
        ) from error


def _below(element: Element) -> Iterator[Element]:
    """Yield an element and those in it, but comments and metadata that are XML."""
    waiting = [element]
    while waiting:
        element = waiting.pop()
        tag: object = element.tag  # of a comment it is a function
        if not isinstance(tag, str):
            continue
        yield element
        if element.tag != "Metadata" or element.get("format") != "xml":
            waiting += reversed(element)


def _check_harmless(element: Element, known: frozenset[str], path: str) -> None:
    """Raise where an element can read or run what it likes, or nobody knows."""
    tag, attributes = element.tag, {*element.attrib}
    if tag not in known:
        raise _refused(path, tag)
    if tag in _PLAIN and len(element):
        raise _refused(path, f"{tag} that is no plain name")
    if tag != "PixelFunctionArguments" and (strange := attributes - _ATTRIBUTES):
        raise _refused(path, f"{tag} {min(strange)}=…")
    if len({name.lower() for name in attributes}) < len(attributes):
        raise _refused(path, f"{tag}, an attribute of which is there twice")
    text = (element.text or "").strip()
    if (kind := element.get("subClass")) is not None and kind not in _SUBCLASSES:
        raise _refused(path, f"subClass {kind}")
    if tag == "PixelFunctionLanguage" and text != "C":
        raise _refused(path, f"a pixel function in {text}")
    texts = (text if tag in _CRS else "", element.get("Projection", ""))
    if any(map(names_a_file, texts)):
        raise _refused(path, f"{tag} that names a grid by its path")


def _refused(path: str, what: str) -> RasterError:
    shown = what if len(what) <= 80 else f"{what[:79]}…"
    return RasterError(
        f"{redact(path)} holds {redact(shown)}, which can read any file or run code, "
        "or is not known: make a raster of it first, with gdal_translate"
    )
