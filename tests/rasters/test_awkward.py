"""Sixty difficult or broken rasters: each is opened right, or refused on one line.

All are tried in one process of their own, bounded in memory, whose time and peak memory
per file are measured; nothing but what it reports may appear on its outputs.
"""

import json
import re
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

MOST_SECONDS = 20
MOST_BYTES = 2_000_000_000
READ_UP_TO = 4300  # rows and columns; the largest of these that opens has 4289

GCPS = r"placed by ground control points only.* gdalwarp IN OUT\.tif$"
RPCS = r"placed by RPCs only.* gdalwarp -rpc IN OUT\.tif$"
COMPLEX = r"has complex pixels \(complex.*make its amplitude or intensity first$"
BLOCKS = r"is stored in blocks of .* rewrite it in tiles, gdal_translate -co TILED=YES$"

# What right is: either a part of the refusal, or what is opened: shape (band, y, x),
# dtype, EPSG code (None: no CRS, 0: a CRS without code), how many pixels are valid.
RIGHT = {
    "georef_rotated/geomatrix.tif": ((1, 20, 20), "uint8", 32611, 400),
    "georef_rotated/umbra_mount_yasur.tiff": ((1, 2000, 2000), "uint8", 32759, 4000000),
    "georef_southup/inverted_lat.tif": ((1, 360, 720), "float32", 4326, 0),
    "georef_southup/byte_inconsistent_georef.tif": ((1, 20, 20), "uint8", 0, 400),
    "georef_none/arcgis93_geodataxform_gcp.tif": GCPS,
    "georef_none/dataset.tif": ((1, 2667, 2658), "uint16", None, 7088886),
    "georef_gcps/slc.tif": COMPLEX,
    "georef_gcps/byte_gcp.tif": GCPS,
    "georef_rpc/RGB.byte.rpc.vrt": RPCS,
    "georef_rpc/RGB.byte.tif": ((3, 718, 791), "uint8", 32618, 383115),
    "georef_rpc/RGB.byte.gcp.vrt": GCPS,
    "georef_antimeridian/west.tif": ((3, 256, 256), "uint8", 4326, 65280),
    "georef_antimeridian/nz_habitat_anticross_4326_1deg.tif": (
        (1, 31, 360),
        "float32",
        4326,
        455,
    ),
    "georef_odd_crs/dataset_tiff_datetime.tif": ((1, 3600, 3600), "float32", 9518, 0),
    "georef_odd_crs/byte_user_defined_geokeys.tif": ((1, 20, 20), "uint8", 0, 400),
    "georef_odd_crs/cog_nonearth.tif": ((1, 884, 921), "float32", 0, 79386),
    "georef_odd_crs/bremen_sea_ice_conc_2022_9_9.tif": (
        (1, 1327, 1264),
        "float32",
        3031,
        467239,
    ),
    "multi_crs_neighbours/utmsmall_topleft_26711.tif": (
        (1, 50, 50),
        "uint8",
        26711,
        2500,
    ),
    "multi_crs_neighbours/utmsmall_topright_32611.tif": (
        (1, 50, 50),
        "uint8",
        32611,
        2500,
    ),
    "multi_crs_neighbours/utmsmall_bottomleft_4326.tif": (
        (1, 46, 55),
        "uint8",
        4326,
        2530,
    ),
    "multi_crs_neighbours/utmsmall_bottomright_3857.tif": (
        (1, 50, 50),
        "uint8",
        3857,
        2500,
    ),
    "nodata/2012_30cm_594_5450_src_ndv.tiny.tif": (
        (3, 666, 666),
        "uint8",
        32610,
        334887,
    ),
    "nodata/all-nodata.tif": ((4, 2475, 71), "uint16", 32628, 0),
    "nodata/image_nodata.tif": ((1, 500, 500), "int16", 0, 176127),
    # An empty tag is none.
    "nodata/empty_nodata.tif": ((1, 1, 1), "uint8", None, 1),
    "nodata/cog_int16.tif": ((1, 2667, 2658), "int16", 32621, 3674467),
    "nodata/image_nan.tif": ((1, 341, 316), "float64", 4326, 46464),
    "mask_alpha/RGBA.uint16.tif": ((3, 411, 634), "uint16", 32612, 127316),
    "mask_alpha/stefan_full_greyalpha.tif": ((1, 150, 162), "uint8", None, 12520),
    "mask_alpha/image_rgba_nodata.tif": ((3, 512, 512), "uint8", 3857, 262144),
    "mask_alpha/test3_with_1mask_1bit.tif": ((3, 20, 20), "uint8", None, 100),
    "dtype/rgb_12bit.tif": ((3, 300, 400), "uint16", None, 120000),
    "dtype/cint_sar.tif": COMPLEX,
    "dtype/cfloat32.tif": COMPLEX,
    "dtype/oddsize_1bit2b.tif": ((2, 99, 99), "uint8", 26711, 9801),
    "dtype/rgbsmall_cmyk.tif": ((3, 50, 50), "uint8", None, 2500),
    "dtype/cielab.tif": ((3, 1, 1), "uint8", None, 1),
    "dtype/image_with_offsets.tif": ((1, 256, 256), "int16", 0, 65530),
    "layout/excessive-memory-TIFFFillStrip2.tif": BLOCKS,
    "layout/bigtiff_header_extract.tif": r": .*Cannot read offset/size",
    "layout/tif_webp.tif": ((3, 50, 50), "uint8", 4326, 2500),
    "layout/OAM-386690-220241-19.tif": ((3, 512, 512), "uint8", 4326, 262144),
    "layout/quad-lzw-old-style.tif": ((3, 384, 512), "uint8", None, 196608),
    "layout/strip_larger_than_2GB_header.tif": BLOCKS,
    "layout/huge_raster_with_ovr_huge_block.tif": BLOCKS,
    "layout/cogeo.tif": ((3, 1024, 1024), "uint8", 3857, 1048576),
    "layout/non_aligned1.tif": ((1, 4289, 3517), "uint8", 32628, 0),
    "corrupt/lzw_corrupted.tif": r": Using code not yet in table$",
    "corrupt/zackthecat_corrupted.tif": r": .*TIFFReadRGBATile",
    "corrupt/missing_tilebytecounts_and_offsets.tif": r": .*IO error during reading",
    "corrupt/toomanyblocks.tif": r": Too many blocks: 60000 x 60000$",
    "corrupt/unknown_compression.tif": r": .*missing codec of code 65535",
    "corrupt/corrupted_deflate_singlestrip.tif": r": .*ZIPDecode:Decoding error",
    "corrupt/byte_buggy_packbits.tif": r": PackBitsDecode:Not enough data",
    # A whole JPEG under a wrong suffix: GDAL looks inside, and so it is no matter.
    "corrupt/corrupt_image.TIF": ((3, 960, 960), "uint8", None, 921600),
    "corrupt/hugeblocksize.tif": r": Too large block size: 2147483648 x 16$",
    "corrupt/byte_zstd_corrupted.tif": r": ZSTDDecode:.* Data corruption detected$",
    "corrupt/mandrilmini_12bitjpeg.tif": r": .*JPEG data precision 12$",
    "corrupt/uint33.tif": r": Unsupported TIFF configuration: BitsPerSample\(=33\)",
    # No nodata tag, so its swath of 0 counts; `nodata=0` says otherwise.
    "jp2/S2A_OPER_MSI_L2A_TL_ATOS_20220620T162319_A036527_T32TLS_N04.00_R60m_B01.jp2": (
        (1, 1830, 1830),
        "uint16",
        32632,
        3348900,
    ),
}
# Refused by some builds of GDAL, and read by others: their JPEG has 12 bits.
AS_BUILT = {"corrupt/mandrilmini_12bitjpeg.tif"}


def case(name: str):
    return pytest.param(name, id=name.rsplit("/", 1)[-1])


@pytest.fixture(scope="module")
def outcomes(shared):
    folder = shared / "awkward"
    done = subprocess.run(
        [sys.executable, __file__, str(folder), *RIGHT],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stderr == ""  # neither GDAL nor libtiff speaks on its own
    return {o["name"]: o for o in map(json.loads, done.stdout.splitlines())}


def test_the_table_is_whole(shared):
    folder = shared / "awkward"
    files = {
        str(f.relative_to(folder))
        for f in folder.rglob("*")
        if f.suffix.lower() in {".tif", ".tiff", ".vrt", ".jp2"}
    }
    assert files == set(RIGHT)


@pytest.mark.parametrize("name", [case(name) for name in RIGHT])
def test_file(outcomes, name):
    outcome, right = outcomes[name], RIGHT[name]
    assert outcome["seconds"] < MOST_SECONDS
    assert outcome["peak_bytes"] < MOST_BYTES
    if isinstance(right, str):
        if name in AS_BUILT and "refused" not in outcome:
            assert outcome["like_rasterio"]
            return
        message = outcome["refused"]
        assert re.search(right, message), message
        assert "\n" not in message
        assert Path(name).name in message
        return
    shape, dtype, epsg, valid = right
    assert outcome["shape"] == list(shape)
    assert outcome["dtype"] == dtype
    assert outcome["epsg"] == epsg
    assert outcome["valid"] == valid
    assert outcome["like_rasterio"]
    assert outcome["warned"] == (epsg is None)


# --- what runs in the process of its own ---


def main(folder: Path, names: list[str]) -> None:
    import rasterio  # noqa: F401 - so that its import counts for no file

    import geoseg.rasters.open  # noqa: F401 - likewise

    now = int(re.search(r"VmSize:\s+(\d+)", status())[1]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (now + MOST_BYTES,) * 2)
    for name in names:
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        start = time.process_time()  # others may use the machine, too
        outcome = attempt(folder / name)
        seconds = time.process_time() - start
        peak = int(re.search(r"VmHWM:\s+(\d+)", status())[1]) * 1024
        facts = {"name": name, "seconds": seconds, "peak_bytes": peak}
        print(json.dumps(facts | outcome))


def status() -> str:
    return Path("/proc/self/status").read_text()


def attempt(path: Path) -> dict:
    from rasterio.crs import CRS

    from geoseg.core.grid import Window
    from geoseg.errors import RasterError
    from geoseg.rasters.open import open_source

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            source = open_source(path)
            height = min(source.grid.height, READ_UP_TO)
            width = min(source.grid.width, READ_UP_TO)
            window = Window(y=0, x=0, height=height, width=width)
            pixels, valid = source.read(window)
        except RasterError as error:
            return {"refused": str(error)}
    crs = source.grid.crs
    return {
        "shape": pixels.shape,
        "dtype": str(pixels.dtype),
        "epsg": None if crs is None else CRS.from_wkt(crs).to_epsg() or 0,
        "valid": int(valid.sum()),
        "like_rasterio": like_rasterio(path, source, pixels, valid),
        "warned": ["no coordinate reference system" in str(w.message) for w in caught]
        == [True],
    }


def like_rasterio(path: Path, source, pixels, valid) -> bool:
    """Whether rasterio's masked read gives the same, bit by bit."""
    import rasterio

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path) as dataset:
            window = ((0, pixels.shape[1]), (0, pixels.shape[2]))
            theirs = dataset.read(list(source.numbers), window=window, masked=True)
            same_place = dataset.transform == source.grid.transform
    mask = np.ma.getmaskarray(theirs)
    theirs_valid = ~(mask.all(axis=0) if source.together else mask.any(axis=0))
    if theirs.dtype.kind == "f":
        theirs_valid &= np.isfinite(theirs.data).all(axis=0)
    same = theirs.data.tobytes() == pixels.tobytes()
    return bool(same_place and same and (theirs_valid == valid).all())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
