"""What a raster names: below its own folder, on its own host, or not at all."""

import io
import os
import re
import struct
import time
import zipfile
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from tifs import write_tif

from geoseg.errors import RasterError, SourceChangedError
from geoseg.rasters.addresses import host_of
from geoseg.rasters.hdf import named_in
from geoseg.rasters.named_files import allowed, file_of
from geoseg.rasters.open import open_source
from geoseg.rasters.references import contents

UTM = {"crs": "EPSG:32633", "transform": Affine(10, 0, 500000, 0, -10, 5000000)}


def write(path, pixels, x=0, y=0, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    transform = UTM["transform"] @ Affine.translation(x, y)
    return write_tif(path, pixels, **UTM | {"transform": transform} | more)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(1, 200, shape).astype("uint8")


def part(name, x=0, y=0, width=20, height=20, relative=1, band=1, tag="Simple"):
    size = f'xSize="{width}" ySize="{height}"'
    return (
        f'<{tag}Source><SourceFilename relativeToVRT="{relative}">{name}'
        f"</SourceFilename><SourceBand>{band}</SourceBand>"
        f'<SrcRect xOff="0" yOff="0" {size}/>'
        f'<DstRect xOff="{x}" yOff="{y}" {size}/></{tag}Source>'
    )


def vrt(path, *parts, width=20, height=20, band="", extra="", root=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}"{root}>'
        "<SRS>EPSG:32633</SRS>"
        "<GeoTransform>500000,10,0,5000000,0,-10</GeoTransform>"
        f'<VRTRasterBand dataType="Byte" band="1"{band}>{extra}{"".join(parts)}'
        "</VRTRasterBand></VRTDataset>"
    )
    return path


def whole(source):
    return source.read(source.grid.window)


# --- where files may lie ---


@pytest.fixture
def secret(tmp_path):
    return write(tmp_path / "elsewhere/secret.tif", noise(1, 20, 20))


@pytest.mark.parametrize("how", ["absolute", "relative", "link", "zip", "nested"])
def test_a_vrt_names_nothing_outside_its_folder(tmp_path, secret, how):
    folder = tmp_path / "mine"
    folder.mkdir()
    link = folder / "link.tif"
    link.symlink_to(secret)
    with zipfile.ZipFile(tmp_path / "elsewhere/a.zip", "w") as archive:
        archive.write(secret, "a.tif")
    name = {
        "absolute": str(secret),
        "relative": "../elsewhere/secret.tif",
        "link": "link.tif",
        "zip": f"/vsizip/{tmp_path}/elsewhere/a.zip/a.tif",
        "nested": "inner.vrt",
    }[how]
    vrt(folder / "inner.vrt", part("../elsewhere/secret.tif"))
    path = vrt(folder / "a.vrt", part(name))
    with pytest.raises(RasterError, match=r"is not opened: .*--trust") as caught:
        open_source(path)
    assert "\n" not in str(caught.value)
    trusted = open_source(path, trust=[str(tmp_path / "elsewhere")])
    np.testing.assert_array_equal(whole(trusted)[0], noise(1, 20, 20))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("http://127.0.0.1:9/a.tif", "it is on 127.0.0.1:9"),
        ("/vsicurl/http://127.0.0.1:9/a.tif", "it is on 127.0.0.1:9"),
        ("s3://bucket/a.tif", "it is on s3://bucket"),
        ("/vsis3/bucket/a.tif", "it is on s3://bucket"),
        (
            "/vsicurl?header_file=/etc/passwd&amp;url=http%3A%2F%2Fhost%2Fa.tif",
            "it sets options of the transfer",
        ),
        ("/vsisubfile/0_100,/etc/passwd", "it is a virtual file"),
        ("/vsistdin/", "it is a virtual file"),
        ("&lt;VRTDataset/&gt;", "holds another raster as XML"),
        ("PG:host=localhost", "it is not a plain path"),
        ("NETCDF:a.nc:v", "it is not below|cannot"),
    ],
)
def test_a_vrt_names_no_hosts_options_or_virtual_files(tmp_path, name, why):
    if name.startswith("NETCDF"):  # a part of a file below the folder may be named
        assert file_of(name) == "a.nc"
        return
    with pytest.raises(RasterError, match=why):
        open_source(vrt(tmp_path / "a.vrt", part(name)))


@pytest.mark.parametrize(
    ("band", "extra"),
    [
        (' subClass="VRTRawRasterBand"', ""),
        (
            ' subClass="VRTDerivedRasterBand"',
            "<PixelFunctionLanguage>Python</PixelFunctionLanguage>",
        ),
        (
            ' subClass="VRTDerivedRasterBand"',
            "<PixelFunctionCode>import os</PixelFunctionCode>",
        ),
        ("", '<OpenOptions><OOI key="ROOT_PATH">/</OOI></OpenOptions>'),
    ],
)
def test_a_vrt_reads_no_raw_bytes_and_runs_no_code(tmp_path, band, extra):
    write(tmp_path / "a.tif", noise(1, 20, 20))
    path = vrt(tmp_path / "a.vrt", part("a.tif"), band=band, extra=extra)
    with pytest.raises(RasterError, match="make a raster of it first"):
        open_source(path)


def test_xml_is_a_raster_only_where_its_name_says_so(tmp_path):
    write(tmp_path / "a.tif", noise(1, 20, 20))
    text = vrt(tmp_path / "a.vrt", part("a.tif")).read_text()
    (tmp_path / "b.tif").write_text(text)
    with pytest.raises(RasterError, match=r"cannot open .*b\.tif"):
        open_source(tmp_path / "b.tif")
    with pytest.raises(RasterError, match="is not the raster that its name promises"):
        open_source(vrt(tmp_path / "c.vrt", part("b.tif")))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<VRTDataset",
        '<!DOCTYPE a [<!ENTITY b "c">]><VRTDataset/>',
        "<a>" * 50_000,
        "<VRTDataset/>",
    ],
)
def test_a_vrt_that_is_broken_is_one_line(tmp_path, text):
    path = tmp_path / "a.vrt"
    path.write_text(text)
    with pytest.raises(RasterError) as caught:
        open_source(path)
    assert "\n" not in str(caught.value)


def test_vrts_that_name_each_other_end(tmp_path):
    vrt(tmp_path / "a.vrt", part("b.vrt"))
    path = vrt(tmp_path / "b.vrt", part("a.vrt"))
    with pytest.raises(RasterError, match="more than 8 deep"):
        open_source(path)


def index(path, names, boxes):
    pyogrio.raw.write(
        path,
        geometry=np.array(shapely.to_wkb(boxes), object),
        field_data=[np.array(names, object)],
        fields=["location"],
        geometry_type="Polygon",
        crs="EPSG:32633",
    )
    return path


def test_a_tile_index_names_nothing_outside_its_folder(tmp_path, secret):
    box = shapely.box(500000, 4999800, 500200, 5000000)
    folder = tmp_path / "mine"
    folder.mkdir()
    path = index(folder / "a.gti.gpkg", [str(secret)], [box])
    with pytest.raises(RasterError, match="it is not below that file's folder"):
        open_source(path)
    trusted = open_source(path, trust=[str(secret)])
    np.testing.assert_array_equal(whole(trusted)[0], noise(1, 20, 20))


@pytest.mark.parametrize(
    ("named", "by", "expected"),
    [
        ("b.tif", "http://host/x/a.vrt?sig=1", "http://host/x/b.tif"),
        ("http://host/b.tif", "http://host/x/a.vrt", "http://host/b.tif"),
        ("b.tif", "s3://bucket/x/a.vrt", "s3://bucket/x/b.tif"),
        ("/vsis3/bucket/b.tif", "s3://bucket/x/a.vrt", "/vsis3/bucket/b.tif"),
        ("b.tif", "/vsizip/x.zip/a.vrt", "/vsizip/x.zip/b.tif"),
    ],
)
def test_what_lies_beside_in_a_bucket_or_archive(named, by, expected):
    assert allowed(named, by) == expected


@pytest.mark.parametrize(
    ("named", "by"),
    [
        ("/etc/passwd", "http://host/a.vrt"),
        ("../../b.tif", "s3://bucket/x/a.vrt"),
        ("http://other/b.tif", "http://host/a.vrt"),
        ("s3://other/b.tif", "s3://bucket/a.vrt"),
        ("/etc/passwd", "/vsizip/x.zip/a.vrt"),
    ],
)
def test_what_is_named_from_afar_stays_there(named, by):
    with pytest.raises(RasterError, match="--trust"):
        allowed(named, by)
    if "other" in named:
        assert allowed(named, by, [host_of(named)]) == named


def test_files_that_are_named_many_times_are_looked_at_once(tmp_path):
    """Ten levels of thirty spellings would be 30 ** 7 files."""
    write(tmp_path / "v0.tif", noise(1, 20, 20))
    (tmp_path / "v0.tif").rename(tmp_path / "v0.vrt.tif")
    vrt(tmp_path / "v0.vrt", part("v0.vrt.tif"))
    for level in range(1, 8):
        names = [f"{'./' * n}v{level - 1}.vrt" for n in range(30)]
        vrt(tmp_path / f"v{level}.vrt", *(part(n) for n in names))
    begun = time.monotonic()
    assert contents(str(tmp_path / "v7.vrt")).files[0].endswith("v7.vrt")
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    "rectangle",
    ['xOff="0" yOff="0" xSize="0" ySize="0"', 'xOff="nan" yOff="0" xSize="1e999"', ""],
)
def test_rectangles_that_make_no_sense_end_on_one_line(tmp_path, rectangle):
    write(tmp_path / "a.tif", noise(1, 20, 20))
    vrt(tmp_path / "inner.vrt", part("a.tif", 10), width=40)
    text = vrt(tmp_path / "a.vrt", part("inner.vrt", width=40), width=60).read_text()
    for tag in ("SrcRect", "DstRect"):
        path = tmp_path / f"{tag}.vrt"
        path.write_text(re.sub(f"<{tag}[^>]*/>", f"<{tag} {rectangle}/>", text))
        with suppress(RasterError):  # or it opens; no traceback either way
            whole(open_source(path))


# --- gaps ---


def test_where_no_file_of_a_vrt_lies_is_nodata(tmp_path):
    a, b = noise(1, 20, 20, seed=1), noise(1, 20, 20, seed=2)
    write(tmp_path / "a.tif", a)
    write(tmp_path / "b.tif", b, 20, 20)
    path = vrt(
        tmp_path / "m.vrt", part("a.tif"), part("b.tif", 20, 20), width=40, height=40
    )
    pixels, valid = whole(open_source(path))
    expected = np.zeros((40, 40), bool)
    expected[:20, :20] = expected[20:, 20:] = True
    np.testing.assert_array_equal(valid, expected)
    np.testing.assert_array_equal(pixels[0, 20:, 20:], b[0])


@pytest.mark.parametrize(("x", "y"), [(2.4, 3.6), (-1.6, 17.3)])
def test_a_file_between_pixels_has_those_whose_centre_lies_on_it(tmp_path, x, y):
    write(tmp_path / "a.tif", noise(1, 8, 8))  # no 0 in it
    path = vrt(tmp_path / "a.vrt", part("a.tif", x=x, y=y, width=8, height=8))
    pixels, valid = whole(open_source(str(path)))
    row, column = np.mgrid[:20, :20] + 0.5
    on_it = (row > y) & (row < y + 8) & (column > x) & (column < x + 8)
    np.testing.assert_array_equal(valid, on_it)
    assert (pixels[0][valid] > 0).all()  # of the file, not what GDAL fills with


def test_gaps_of_a_vrt_in_a_vrt_are_nodata_too(tmp_path):
    write(tmp_path / "a.tif", noise(1, 20, 20))
    vrt(tmp_path / "inner.vrt", part("a.tif", 10, 0), width=30)
    path = vrt(tmp_path / "m.vrt", part("inner.vrt", 5, 0, width=30), width=40)
    _, valid = whole(open_source(path))
    expected = np.zeros((20, 40), bool)
    expected[:, 15:35] = True
    np.testing.assert_array_equal(valid, expected)


def test_gaps_of_a_vrt_that_is_cut_and_enlarged_lie_where_gdal_has_them(tmp_path):
    write(tmp_path / "a.tif", noise(1, 20, 20))
    vrt(tmp_path / "inner.vrt", part("a.tif", 10, 0), width=30)
    cut = part("inner.vrt", 5, 0, width=48).replace(
        '<SrcRect xOff="0" yOff="0" xSize="48"', '<SrcRect xOff="6" yOff="0" xSize="24"'
    )
    path = vrt(tmp_path / "m.vrt", cut, width=60)
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(whole(open_source(path))[1], file.read(1) > 0)


def test_where_no_file_of_a_tile_index_lies_is_nodata(tmp_path):
    write(tmp_path / "a.tif", noise(1, 20, 20))
    write(tmp_path / "b.tif", noise(1, 20, 20), 20, 20)
    boxes = [
        shapely.box(500000, 4999800, 500200, 5000000),
        shapely.box(500200, 4999600, 500400, 4999800),
    ]
    source = open_source(index(tmp_path / "a.gti.gpkg", ["a.tif", "b.tif"], boxes))
    expected = np.zeros((40, 40), bool)
    expected[:20, :20] = expected[20:, 20:] = True
    np.testing.assert_array_equal(whole(source)[1], expected)


def test_a_vrt_that_is_whole_or_has_nodata_costs_nothing(tmp_path):
    write(tmp_path / "a.tif", noise(1, 20, 20))
    assert contents(str(vrt(tmp_path / "a.vrt", part("a.tif")))).covered is None
    told = "<NoDataValue>0</NoDataValue>"
    path = vrt(tmp_path / "b.vrt", part("a.tif"), width=40, extra=told)
    source = open_source(path)
    assert source.covered is None
    assert whole(source)[1].sum() == 400


# --- files that are replaced ---


def again(path, seed=9):
    """Write other pixels of the same size, as a tool does: beside, and renamed."""
    fresh = write(path.with_name("fresh.tif"), noise(1, 20, 20, seed=seed))
    fresh.replace(path)
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize("kind", ["vrt of vrts", "zip", "index"])
def test_a_file_that_is_replaced_below_is_noticed(tmp_path, kind):
    tile = write(tmp_path / "tile.tif", noise(1, 20, 20))
    box = shapely.box(500000, 4999800, 500200, 5000000)
    if kind == "zip":
        holder = tmp_path / "a.zip"
        with zipfile.ZipFile(holder, "w") as archive:
            archive.write(tile, "tile.tif")
        path = f"/vsizip/{holder}/tile.tif"
    elif kind == "index":
        path, holder = index(tmp_path / "a.gti.gpkg", ["tile.tif"], [box]), tile
    else:
        vrt(tmp_path / "inner.vrt", part("tile.tif"))
        path, holder = vrt(tmp_path / "a.vrt", part("inner.vrt")), tile
    source = open_source(path)
    before = source.identity
    whole(source)
    if kind == "zip":
        os.utime(holder, ns=(1, 1))
    else:
        again(holder)
    with pytest.raises(SourceChangedError, match="was replaced or changed"):
        whole(source)
    assert open_source(path).identity != before


@pytest.mark.parametrize("suffix", [".aux.xml", ".ovr"])
def test_statistics_and_overviews_beside_a_raster_are_no_change(tmp_path, suffix):
    path = write(tmp_path / "a.tif", noise(1, 600, 600))
    source = open_source(path)
    if suffix == ".ovr":
        with (
            rasterio.Env(TIFF_USE_OVR=True),
            rasterio.open(path, "r+") as d,
        ):
            stat = path.stat()
            d.build_overviews([2, 4])
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    else:
        Path(f"{path}.aux.xml").write_text("<PAMDataset/>")
    assert Path(f"{path}{suffix}").exists()
    whole(source)
    assert open_source(path).identity == source.identity


# --- what names files without a word of it in a VRT ---


@pytest.mark.filterwarnings("ignore")  # no CRS
@pytest.mark.parametrize("kind", ["raw", "link", "virtual"])
@pytest.mark.parametrize("name", ["a.nc", "a.h5", "a", "a.tif", "b.vrt"])
def test_hdf5_reads_nothing_outside_its_folder(tmp_path, kind, name):
    outside, folder = tmp_path / "o.h5", tmp_path / "mine"
    folder.mkdir()
    with h5py.File(outside, "w") as file:
        file["v"] = noise(20, 20)
    inside = folder / ("a.tif" if name == "b.vrt" else name)
    with h5py.File(inside, "w", userblock_size=512 * (name == "a.h5")) as file:
        if kind == "raw":
            file.create_dataset(
                "v", (20, 20), dtype="u1", external=[(str(outside), 0, 400)]
            )
        elif kind == "link":
            file["v"] = h5py.ExternalLink("../o.h5", "v")
        else:
            layout = h5py.VirtualLayout((20, 20), "u1")
            layout[:] = h5py.VirtualSource(str(outside), "v", (20, 20))
            file.create_virtual_dataset("v", layout)
    if name == "b.vrt":
        vrt(folder / name, part("a.tif"))
    with pytest.raises(RasterError, match=r"o\.h5, which is not opened"):
        open_source(folder / name)
    if kind != "link":  # GDAL knows arrays behind links in netCDF only
        trusted = open_source(folder / name, trust=[str(outside)])
        assert str(outside) in trusted.versions.facts  # noticed where it is replaced


@pytest.mark.filterwarnings("ignore")
def test_hdf5_may_name_what_lies_below_its_folder(tmp_path):
    with h5py.File(tmp_path / "o.h5", "w") as file:
        file["v"] = noise(20, 20)
    with h5py.File(tmp_path / "a.nc", "w") as file:
        file["v"] = h5py.ExternalLink("o.h5", "v")
    pixels, _ = whole(open_source(tmp_path / "a.nc"))
    assert (np.sort(pixels, None) == np.sort(noise(20, 20), None)).all()


def test_external_elements_of_hdf4_are_found():
    """Written as hfile.h says: one block of descriptors, one of them elsewhere."""
    name = b"../secret"
    tag = struct.pack(">HHII", 0x4000 | 702, 1, 30, 14 + len(name))
    whole = b"\x0e\x03\x13\x01" + struct.pack(">HI", 1, 0) + tag
    element = struct.pack(">HIII", 2, 400, 0, len(name)) + name
    assert named_in(io.BytesIO(whole.ljust(30, b"\0") + element), "a.hdf") == (
        "../secret",
    )
    assert named_in(io.BytesIO(b"CDF\1"), "a.nc") == ()
    with pytest.raises(RasterError, match=r"cannot open a\.h5"):
        named_in(io.BytesIO(b"anything"), "a.h5")


@pytest.mark.parametrize("name", ["/vsizip/{0}/a.zip/a.tif", "zip://{0}/a.zip!a.tif"])
def test_a_raster_in_an_archive_is_opened_with_what_lies_beside(tmp_path, name):
    path = write(tmp_path / "a.tif", noise(1, 20, 20))
    vrt(tmp_path / "o.ovr", part("/etc/passwd", relative=0))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(path, "a.tif")
    whole(open_source(name.format(tmp_path)))
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        archive.write(tmp_path / "o.ovr", "a.tif.ovr")
    if name.startswith("zip"):  # nothing beside it is looked for
        whole(open_source(name.format(tmp_path)))
        return
    with pytest.raises(RasterError, match="not opened"):
        open_source(name.format(tmp_path))


PDS = """PDS_VERSION_ID = PDS3
RECORD_TYPE = FIXED_LENGTH
RECORD_BYTES = 20
^IMAGE = "../secret.bin"
OBJECT = IMAGE
 LINES = 20
 LINE_SAMPLES = 20
 SAMPLE_TYPE = UNSIGNED_INTEGER
 SAMPLE_BITS = 8
 BANDS = 1
END_OBJECT = IMAGE
END
"""


@pytest.mark.parametrize("text", [PDS, '{"stac_version": "1.0.0", "assets": {}}'])
def test_what_a_vrt_names_is_of_the_formats_that_are_opened(tmp_path, text):
    (tmp_path / "secret.bin").write_bytes(noise(20, 20).tobytes())
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "a.tif").write_text(text)
    with pytest.raises(RasterError, match=r"not opened|cannot open"):
        open_source(vrt(folder / "b.vrt", part("a.tif")))


@pytest.mark.parametrize("end", [".ovr", ".msk", ".aux.xml"])
@pytest.mark.parametrize("named", ["a.tif", "b.vrt"])
def test_what_lies_beside_names_nothing_outside(tmp_path, secret, end, named):
    path = write(tmp_path / "mine/a.tif", noise(1, 40, 40))
    beside = path.with_name(f"a.tif{end}")
    if end == ".aux.xml":
        beside.write_text(
            '<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">'
            f"{secret}</MDI></Metadata></PAMDataset>"
        )
    else:
        vrt(beside, part(secret, relative=0))
    vrt(path.with_name("b.vrt"), part("a.tif"))
    with pytest.raises(RasterError, match="not opened"):
        open_source(path.with_name(named))
    if end != ".aux.xml":
        write(beside, noise(1, 20, 20))
        whole(open_source(path.with_name(named)))


@pytest.mark.parametrize("big", ["NO", "YES"])
@pytest.mark.parametrize("key", ["OVERVIEW_FILE", "Overview_File"])
@pytest.mark.parametrize("named", ["a.tif", "b.vrt"])
def test_a_files_own_metadata_name_no_overviews(tmp_path, secret, named, key, big):
    """Nor are they opened before it is refused: that would ask a server."""
    path = write(tmp_path / "mine/a.tif", noise(1, 40, 40), BIGTIFF=big)
    for at in (str(secret), "/vsicurl/http://127.0.0.1:9/x.ovr", "../x.ovr", "/x.ovr"):
        with rasterio.open(path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
            file.update_tags(ns="OVERVIEWS", **{key: at})
        vrt(path.with_name("b.vrt"), part("a.tif"))
        with pytest.raises(RasterError, match=r"a.tif names .* as overviews"):
            open_source(path.with_name(named))


def test_a_vrt_names_no_overviews(tmp_path, secret):
    path = write(tmp_path / "mine/a.tif", noise(1, 40, 40))
    text = vrt(path.with_name("b.vrt"), part("a.tif")).read_text()
    told = f'<Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">{secret}</MDI>'
    end = "</VRTDataset>"
    path.with_name("c.vrt").write_text(text.replace(end, f"{told}</Metadata>{end}"))
    with pytest.raises(RasterError, match=r"c.vrt names .* as overviews"):
        open_source(path.with_name("c.vrt"))
