"""Pictures that say more of themselves than is true."""

import struct
import zlib

import pytest
from PIL import Image

from geoseg.errors import RasterError
from geoseg.rasters.open import open_source


@pytest.mark.filterwarnings("ignore")  # no CRS
@pytest.mark.parametrize(("ending", "at"), [("jpg", b"\xff\xc0"), ("png", b"IHDR")])
def test_a_picture_larger_than_its_bytes_can_hold_is_refused(tmp_path, ending, at):
    """Libraries make up what is missing: the last pixel of a JPEG took a minute."""
    path = tmp_path / f"a.{ending}"
    Image.new("L", (64, 64)).save(path)
    assert open_source(path).grid.width == 64
    data = bytearray(path.read_bytes())
    place = data.index(at)
    if ending == "jpg":
        data[place + 5 : place + 9] = struct.pack(">HH", 65500, 65500)
    else:
        data[place + 4 : place + 12] = struct.pack(">II", 65500, 65500)
        crc = zlib.crc32(data[place : place + 17])
        data[place + 17 : place + 21] = struct.pack(">I", crc)
    path.write_bytes(data)
    with pytest.raises(RasterError, match="bytes cannot hold"):
        open_source(path)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("big", [False, True])
def test_a_tiff_of_very_many_pages_is_refused_before_gdal_counts_them(
    tmp_path, order, big
):
    """Also one whose last page is followed by its first."""
    place, count, entry = ("Q", "Q", "HHQQ") if big else ("I", "H", "HHII")
    page = struct.calcsize(f"{order}{count}{entry}{place}")
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 42 + big)
    head += struct.pack(order + "HHQ", 8, 0, 16) if big else struct.pack(order + "I", 8)
    path = tmp_path / "a.tif"
    for pages in (1, 20_000):
        data = bytearray(head)
        for n in range(1, pages + 1):
            then = len(head) + page * n if n < pages or pages == 1 else len(head)
            data += struct.pack(f"{order}{count}{entry}{place}", 1, 256, 3, 1, 8, then)
        path.write_bytes(data)
        more = pytest.raises(RasterError, match="more than 10,000 pages")
        with more if pages > 1 else pytest.raises(RasterError, match="cannot open"):
            open_source(path)


def test_a_tiff_of_very_many_tiles_is_refused_before_they_are_listed(tmp_path):
    """2^18 x 2^18 pixels in tiles of 16: 4 GB of places, of a file of 200 bytes."""
    tags = {256: 2**18, 257: 2**18, 258: 8, 259: 1, 262: 1, 277: 1, 322: 16, 323: 16}
    count = (2**18 // 16) ** 2
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()]
    entries += [struct.pack("<HHII", tag, 4, count, 8) for tag in (324, 325)]
    data = struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + b"".join(entries)
    path = tmp_path / "a.tif"
    path.write_bytes(data + bytes(4))
    with pytest.raises(RasterError, match="268,435,456 blocks"):
        open_source(path)
