"""Products as their makers deliver them: which files are bands, what numbers mean."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine
from tifs import write_tif

from geoseg.errors import RasterError
from geoseg.rasters.open import open_source
from geoseg.rasters.product_files import bands_and_tiles
from geoseg.rasters.products import _metadata

TILE = "T32TQM_20230715T101559"


def write(path, pixels, size=10, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jp2":
        more |= {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}
    at = Affine(size, 0, 600000, 0, -size, 5200000)
    return write_tif(path, pixels, crs="EPSG:32632", transform=at, **more)


def numbers(size, seed, low=1100, high=4000, dtype="uint16"):
    side = 600 // size
    return np.random.default_rng(seed).integers(low, high, (side, side)).astype(dtype)


def safe(folder, *, level="L2A", baseline="05.09", offset=-1000, day="20230715"):
    """Write a small .SAFE and return it with its 10 m bands."""
    n = f"N{baseline.replace('.', '')}"
    root = folder / f"S2B_MSI{level}_{day}T101559_{n}_R065_T32TQM_{day}T141200.SAFE"
    images = root / "GRANULE" / f"{level}_T32TQM_A033197_{day}T101600" / "IMG_DATA"
    kind = "BOA" if level == "L2A" else "RADIO"
    offsets = "".join(
        f'<{kind}_ADD_OFFSET band_id="{i}">{offset}</{kind}_ADD_OFFSET>'
        for i in range(13)
        if offset
    )
    root.mkdir(parents=True)
    (root / f"MTD_MSI{level}.xml").write_text(
        f"<P><PROCESSING_BASELINE>{baseline}</PROCESSING_BASELINE>{offsets}</P>"
    )
    made = {}
    stem = f"T32TQM_{day}T101559"
    sizes = {10: ("B02", "B03", "B04", "B08"), 20: ("B02", "B8A", "B11"), 60: ("B01",)}
    for size, bands in sizes.items():
        for i, band in enumerate(bands):
            pixels = numbers(size, seed=size + i)
            pixels[0, 0] = 0
            if level == "L2A":
                name = f"R{size}m/{stem}_{band}_{size}m.jp2"
            elif band in made:
                continue
            else:
                name = f"{stem}_{band}.jp2"
            write(images / name, pixels, size)
            made.setdefault(band, pixels)
    extra = "R10m/" if level == "L2A" else ""
    tail = "_10m" if level == "L2A" else ""
    rgb = np.stack([numbers(10, 1, 0, 255, "uint8")] * 3)
    write(images / f"{extra}{stem}_TCI{tail}.jp2", rgb)
    if level == "L2A":
        write(images / f"R20m/{stem}_SCL_20m.jp2", numbers(20, 2, 0, 11, "uint8"), 20)
    return root, made


def zipped(root):
    path = root.with_name("product.zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in root.rglob("*"):
            archive.write(file, file.relative_to(root.parent))
    return path


def common(source):
    return {b.common_name: i for i, b in enumerate(source.bands)}


@pytest.mark.parametrize("level", ["L1C", "L2A"])
@pytest.mark.parametrize("given", ["safe", "zip", "granule", "images", "metadata"])
def test_sentinel2_opens_by_any_of_its_folders(tmp_path, level, given):
    root, made = safe(tmp_path, level=level)
    granule = next((root / "GRANULE").iterdir())
    path = {
        "safe": root,
        "zip": None,
        "granule": granule,
        "images": granule / "IMG_DATA",
        "metadata": root / f"MTD_MSI{level}.xml",
    }[given]
    source = open_source(path or zipped(root))
    assert sorted(b.name for b in source.bands) == sorted(made)
    assert (source.grid.height, source.grid.width) == (60, 60)
    at = common(source)
    values, valid = source.read(source.grid.window)
    np.testing.assert_array_equal(values[at["nir"]], made["B08"])
    assert not valid[0, 0]  # 0 is nodata, without any tag
    assert {(b.scale, b.offset) for b in source.bands} == {(1e-4, -0.1)}
    left = next(note for note in source.notes if "left out" in note)
    assert "TCI" in left
    assert ("SCL" in left) == (level == "L2A")
    assert any("(number -1000) / 10000 by its metadata" in n for n in source.notes)


@pytest.mark.parametrize(
    ("baseline", "offset", "day", "expected"),
    [
        ("02.14", 0, "20210715", 0.0),
        ("05.00", -1000, "20210715", -0.1),  # reprocessed
        ("05.09", -1000, "20230715", -0.1),
    ],
)
def test_the_offset_is_that_of_the_baseline_not_of_the_day(
    tmp_path, baseline, offset, day, expected
):
    root, _ = safe(tmp_path, baseline=baseline, offset=offset, day=day)
    source = open_source(root)
    assert {b.offset for b in source.bands} == {expected}


def test_a_glob_of_products_is_a_mosaic_in_one_kind_of_numbers(tmp_path):
    safe(tmp_path, baseline="03.00", offset=0, day="20210715")
    safe(tmp_path, baseline="05.09", offset=-1000, day="20230715")
    found = open_source(tmp_path / "*.SAFE")
    assert any("numbers of 2 kinds: those with an offset" in n for n in found.notes)
    assert {(band.scale, band.offset) for band in found.bands} == {(1e-4, 0)}


@pytest.mark.parametrize(
    ("day", "rule"),
    [("20230715", {(1e-4, -0.1)}), ("20210715", {(1.0, 0.0)})],
)
def test_a_folder_without_metadata_says_what_cannot_be_known(tmp_path, day, rule):
    root, _ = safe(tmp_path, day=day)
    lone = tmp_path / "R10m"
    shutil.copytree(next(root.rglob("R10m")), lone)
    source = open_source(lone)
    assert {(b.scale, b.offset) for b in source.bands} == rule
    if day < "2022":
        assert any("is not known" in note for note in source.notes)


def landsat(folder, *, level="L2SP", metadata=True):
    stem = f"LC09_{level}_190026_20220615_20220617_02_T1"
    kind = "_SR" if level == "L2SP" else ""
    made = {}
    for band in range(1, 8):
        made[f"B{band}"] = numbers(30, band, 7300, 20000)
        write(folder / f"{stem}{kind}_B{band}.TIF", made[f"B{band}"], 30)
    if level == "L2SP":
        write(folder / f"{stem}_ST_B10.TIF", numbers(30, 10, 30000, 48000), 30)
    else:
        write(folder / f"{stem}_B8.TIF", numbers(15, 8), 15)
    for name in ("QA_PIXEL", "QA_RADSAT", "SR_QA_AEROSOL", "ST_QA"):
        write(folder / f"{stem}_{name}.TIF", numbers(30, 3, 1, 200), 30)
    if metadata:
        (folder / f"{stem}_MTL.txt").write_text(
            "GROUP = LEVEL1_RADIOMETRIC_RESCALING\n"
            + "".join(
                f"    REFLECTANCE_MULT_BAND_{b} = 2.0000E-05\n"
                f"    REFLECTANCE_ADD_BAND_{b} = -0.100000\n"
                for b in range(1, 9)
            )
            + "    SUN_ELEVATION = 30.0\nEND\n"
        )
    return made


def test_landsat_level_2_with_its_metadata_is_reflectance(tmp_path):
    made = landsat(tmp_path)
    source = open_source(tmp_path)
    at = common(source)
    np.testing.assert_array_equal(
        source.read(source.grid.window)[0][at["nir08"]], made["B5"]
    )
    red = source.bands[at["red"]]
    assert (red.scale, red.offset) == (2.75e-5, -0.2)
    left = next(note for note in source.notes if "left out" in note)
    assert left.endswith(": QA_PIXEL, QA_RADSAT, SR_QA_AEROSOL, ST_QA")
    assert source.bands[at["lwir11"]].scale == 0.00341802


def test_landsat_level_1_is_for_the_height_of_the_sun(tmp_path):
    landsat(tmp_path, level="L1TP")
    source = open_source(tmp_path)
    assert (source.grid.height, source.grid.width) == (20, 20)  # not the 15 m of B8
    red = source.bands[common(source)["red"]]
    assert red.scale == pytest.approx(4e-5)
    assert red.offset == pytest.approx(-0.2)
    with_pan = open_source(tmp_path, bands=["pan"])
    assert (with_pan.grid.height, with_pan.grid.width) == (40, 40)


def test_landsat_without_metadata_is_as_stored_and_says_so(tmp_path):
    landsat(tmp_path, metadata=False)
    source = open_source(tmp_path)
    assert not any(b.is_scaled for b in source.bands)
    assert any("without its MTL file" in note for note in source.notes)


@pytest.mark.parametrize(
    "name",
    [
        "20230601_101010_12_2461_3B_AnalyticMS_SR.tif",
        "T33UXP_20220701T100031_B04_10m.tif",
    ],
)
def test_what_was_converted_under_its_old_name_is_taken_as_it_is(tmp_path, name):
    count = 4 if "Analytic" in name else 1
    pixels = np.full((count, 8, 8), 0.25, "float32")
    source = open_source(write(tmp_path / name, pixels))
    assert not any(b.is_scaled for b in source.bands)
    assert any("float32 numbers" in note for note in source.notes)
    tagged = write(tmp_path / "tags" / name, pixels.astype("uint16"), scale=1e-3)
    assert {b.scale for b in open_source(tagged).bands} == {1e-3}


@pytest.mark.parametrize("clip", ["", "_clip"])
def test_planet_with_its_masks_is_the_one_file(tmp_path, clip):
    stem = "20230715_101559_12_2475_3B"
    pixels = np.stack([numbers(10, i) for i in range(4)])
    write(tmp_path / f"{stem}_AnalyticMS_SR{clip}.tif", pixels)
    for mask in ("udm2", "AnalyticMS_DN_udm"):
        write(tmp_path / f"{stem}_{mask}{clip}.tif", pixels.astype("uint8"))
    source = open_source(tmp_path)
    assert [b.common_name for b in source.bands] == ["blue", "green", "red", "nir"]
    assert {b.scale for b in source.bands} == {1e-4}
    implied, left = source.notes
    assert implied == "PlanetScope: 0 is nodata; reflectance = number / 10000"
    assert f"udm2{clip}" in left


@pytest.mark.parametrize("clip", ["", "_clip"])
def test_planet_at_sensor_takes_the_coefficients_of_its_xml(tmp_path, clip):
    stem = "20230715_101559_12_2475_3B_AnalyticMS"
    pixels = np.stack([numbers(10, i) for i in range(4)])
    path = write(tmp_path / f"{stem}{clip}.tif", pixels)
    (tmp_path / f"{stem}_metadata{clip}.xml").write_text(
        "".join(
            f"<ps:reflectanceCoefficient>{c}e-05</ps:reflectanceCoefficient>"
            for c in (2.1, 2.2, 2.5, 3.4)
        )
    )
    source = open_source(path)
    assert [b.scale for b in source.bands] == [2.1e-5, 2.2e-5, 2.5e-5, 3.4e-5]


def test_bands_of_drones_are_known_by_their_last_words(tmp_path):
    called = ("green", "nir", "red edge", "red")
    for i, name in enumerate(called):
        write(tmp_path / f"farm_transparent_reflectance_{name}.tif", numbers(10, i))
    source = open_source(tmp_path)
    assert {b.common_name for b in source.bands} == {"green", "nir", "rededge", "red"}


def test_raw_files_of_a_drone_and_bands_with_wavelengths(tmp_path):
    for i, name in enumerate(("MS_R", "MS_G", "MS_NIR", "MS_RE", "D")):
        write(tmp_path / "raw" / f"DJI_20230715_0001_{name}.TIF", numbers(10, i))
    source = open_source(tmp_path / "raw")
    assert {b.common_name for b in source.bands} == {"red", "green", "nir", "rededge"}
    path = write(tmp_path / "one.tif", np.stack([numbers(10, i) for i in range(5)]))
    called = "Red-668", "Red edge-705", "Red edge-740", "NIR 842nm", "Alpha"
    with rasterio.open(path, "r+") as d:
        d.descriptions = called
    source = open_source(path)
    assert [b.name for b in source.bands] == ["Red", *called[1:3], "NIR"]
    assert source.alpha == 5


def test_one_polarisation_leaves_what_comes_with_it_out(tmp_path):
    stem = "S1A_IW_20230715T120000_DVP_RTC30_G_gpufed_1A2B"
    for i, name in enumerate(("VV", "dem", "area", "inc_map", "ls_map")):
        write(tmp_path / f"{stem}_{name}.tif", numbers(10, i))
    source = open_source(tmp_path)
    assert [b.name for b in source.bands] == ["VV"]
    assert all(n in source.notes[0] for n in ("dem.tif", "area.tif", "ls_map"))


def test_sentinel2_of_maja_is_the_one_corrected_for_slopes(tmp_path):
    stem = "SENTINEL2A_20230715-103912-453_L2A_T31TCJ_C_V3-0"
    flat = numbers(10, 4).astype("int16")
    flat[0, 0] = -10000
    write(tmp_path / f"{stem}_FRE_B4.tif", flat)
    write(tmp_path / f"{stem}_SRE_B4.tif", flat * 0 + 1)
    source = open_source(tmp_path)
    values, valid = source.read(source.grid.window)
    np.testing.assert_array_equal(values[0], flat)
    assert not valid[0, 0]
    assert (source.bands[0].common_name, source.bands[0].scale) == ("red", 1e-4)


def test_sentinel2_of_before_2017_has_no_offset(tmp_path):
    name = "S2A_OPER_MSI_L1C_TL_SGS__20160715T154211_A005552_T32TQM_B04.jp2"
    source = open_source(write(tmp_path / name, numbers(10, 4)))
    assert (source.bands[0].scale, source.bands[0].offset) == (1e-4, 0)
    assert source.nodata == (0,)


def test_both_thermal_bands_of_landsat_7_are_bands(tmp_path):
    stem = "LE07_L1TP_190026_20020615_20200917_02_T1"
    for i, band in enumerate(("B4", "B6_VCID_1", "B6_VCID_2")):
        write(tmp_path / f"{stem}_{band}.TIF", numbers(30, i, 20, 250, "uint8"), 30)
    (tmp_path / f"{stem}_MTL.json").write_text(
        '{"REFLECTANCE_MULT_BAND_4": "2.0E-03", "REFLECTANCE_ADD_BAND_4": "-0.01", '
        '"SUN_ELEVATION": "30.0"}'
    )
    source = open_source(tmp_path)
    assert [b.name for b in source.bands] == ["B4", "B6_VCID_1", "B6_VCID_2"]
    assert source.bands[0].scale == pytest.approx(0.004)


def test_a_hls_folder_leaves_its_mask_and_angles_out(tmp_path):
    stem = "HLS.S30.T17SLU.2020209T155956.v2.0"
    for i, band in enumerate(("B04", "B8A", "Fmask", "SAA", "VZA")):
        write(tmp_path / f"{stem}.{band}.tif", numbers(30, i), 30)
    source = open_source(tmp_path)
    assert [b.common_name for b in source.bands] == ["red", "nir08"]
    assert source.notes[0].endswith("Fmask, SAA, VZA")


def test_landsat_of_collection_1_is_a_stack(tmp_path):
    stem = "LC08_L1TP_192025_20190701_20190706_01_T1"
    for i, band in enumerate(("sr_band4", "sr_band5", "pixel_qa", "sr_aerosol")):
        write(tmp_path / f"{stem}_{band}.tif", numbers(30, i), 30)
    source = open_source(tmp_path)
    assert [b.common_name for b in source.bands] == ["red", "nir08"]


def test_sentinel2_by_the_day_in_its_buckets_folders(tmp_path):
    folder = tmp_path / "tiles/33/U/XP/2022/7/1/0/R10m"
    for i, band in enumerate(("B04", "B08")):
        write(folder / f"{band}.jp2", numbers(10, i))
    source = open_source(folder)
    assert [(b.common_name, b.offset) for b in source.bands] == [
        ("red", -0.1), ("nir", -0.1),
    ]  # fmt: skip
    assert "0 is nodata" in source.notes[0]


def test_surface_reflectance_of_planets_ordered_mosaics(tmp_path):
    path = tmp_path / "ortho_analytic_8b_sr.tif"
    source = open_source(write(path, np.stack([numbers(30, 1)] * 8)))
    assert {b.scale for b in source.bands} == {1e-4}


def test_the_quality_file_of_force_is_left_out(tmp_path):
    write(tmp_path / "20220701_LEVEL2_SEN2A_BOA.tif", np.stack([numbers(30, 1)] * 10))
    write(tmp_path / "20220701_LEVEL2_SEN2A_QAI.tif", numbers(30, 2))
    source = open_source(tmp_path)
    assert len(source.bands) == 10
    assert source.notes[0].endswith("QAI")


def test_bands_that_no_name_tells_of_are_not_tiles_in_silence(tmp_path):
    for i in (1, 2, 3):
        write(tmp_path / f"IMG_0001_{i}.tif", numbers(30, i))
    notes = open_source(tmp_path).notes
    assert any("3 rasters of one band lie on the same pixels" in n for n in notes)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("a.ecw", "no driver for .ecw"),
        ("a.sid", "GeoTIFF"),
        ("a.TIL", "name the fold"),
        ("a.dim", "name the folder a.data"),
    ],
)
def test_what_no_driver_reads_is_refused_with_what_to_give(tmp_path, name, advice):
    (tmp_path / name).write_bytes(b"numTiles = 1;\n" + bytes(200))
    with pytest.raises(RasterError, match=advice):
        open_source(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "red", "nir"),
    [
        ("MOD09A1.061_sur_refl_b0{}_doy2023001.tif", 1, 2),
        ("HLSL30.020_B0{}_doy2023001_aid0001.tif", 4, 5),
        ("L2F_T31TFJ_20200101_LS8_R198_B0{}_30m.tif", 4, 5),
        ("LM05_L1TP_199026_19850101_20200902_02_T2_B{}.TIF", 2, 3),
        ("LM01_L1TP_199026_19750101_20200902_02_T2_B{}.TIF", 5, 6),
    ],
)
def test_each_sensor_has_its_own_red(tmp_path, name, red, nir):
    for i in range(1, 8):
        write(tmp_path / name.format(i), numbers(60, i))
    bands = [band.common_name for band in open_source(tmp_path).bands]
    assert bands.index("red") == red - 1
    assert bands[nir - 1] in {"nir", "nir08"}


def test_a_folder_of_snap_goes_by_the_names_of_its_files(tmp_path):
    for band in ("B4", "B8", "view_zenith_mean"):
        path = tmp_path / f"S2A_MSIL2A_20200101_resampled.data/{band}.img"
        write(path, numbers(60, 1, dtype="float32"), driver="ENVI")
    source = open_source(path.parent)
    assert [band.common_name for band in source.bands] == ["red", "nir"]


def test_colour_infrared_is_not_red_green_and_blue(tmp_path):
    pixels = np.stack([numbers(60, i, 0, 255, "uint8") for i in range(3)])
    path = write(tmp_path / "33-2021-LA93-0M20-IRC-E080.tif", pixels, photometric="RGB")
    source = open_source(path)
    assert [band.common_name for band in source.bands] == ["nir", "red", "green"]
    assert "colour infrared" in source.notes[0]


def test_hdf4_is_told_where_it_is_read(tmp_path):
    (tmp_path / "MOD09GA.A2020001.hdf").write_bytes(b"\x0e\x03\x13\x01" + bytes(200))
    with pytest.raises(RasterError, match="no driver for HDF4"):
        open_source(tmp_path / "MOD09GA.A2020001.hdf")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("a.gdb/x.gdbtable", "export its raster as a GeoTIFF"),
        ("SPOT/IMG_SPOT7/IMG_SPOT7_R1C1.TIF", "they lie deeper, as in .*IMG_SPOT7"),
    ],
)
def test_folders_without_rasters_are_told_what_to_give(tmp_path, name, advice):
    if name.endswith("TIF"):
        write(tmp_path / name, numbers(60, 1))
    else:
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"0")
    with pytest.raises(RasterError, match=advice):
        open_source(tmp_path / name.partition("/")[0])


RGBN = ["red", "green", "blue", "nir"]


@pytest.mark.parametrize(
    ("name", "count", "told"),
    [
        ("m_3807505_se_18_060_20210917.tif", 4, RGBN),
        ("dop20rgbi_32_280_5652_1_nw_2021.tif", 4, RGBN),
        ("ortho_BGR_NIR_2020.tif", 4, ["blue", "green", "red", "nir"]),
        ("strip_nirrgb.tif", 4, ["nir", "red", "green", "blue"]),
        ("grib.tif", 4, None),
        ("dop20rgbi_32_280_5652_1_nw_2021.tif", 3, None),
    ],
)
@pytest.mark.parametrize("alpha", ["YES", "NO"])
def test_the_order_of_bands_that_a_name_spells_is_said(
    tmp_path, name, count, told, alpha
):
    pixels = np.stack([numbers(60, i, 1, 255, "uint8") for i in range(count)])
    more = {"photometric": "RGB", "ALPHA": alpha} if count == 4 else {}
    source = open_source(write(tmp_path / name, pixels, **more))
    said = any("bands are taken for" in note for note in source.notes)
    assert said == (told is not None)
    if told:
        assert [band.common_name for band in source.bands] == told
        np.testing.assert_array_equal(source.read(source.grid.window)[0], pixels)


def test_bands_of_maxar_are_those_of_the_metadata_beside(tmp_path):
    groups = ("BAND_C", "BAND_B", "BAND_RE", "BAND_N2")
    told = "".join(f"BEGIN_GROUP = {g}\n\tabsCalFactor = 1;\n" for g in groups)
    stem = "21JUN15100010-M2AS{}-012345678010_01_P001"
    (tmp_path / f"{stem.format('')}.IMD").write_text(told)
    write(tmp_path / f"{stem.format('_R1C1')}.TIF", np.stack([numbers(60, 1)] * 4))
    source = open_source(tmp_path)
    names = ["coastal", "blue", "rededge", "nir09"]
    assert [band.common_name for band in source.bands] == names
    assert "by the .IMD file beside" in source.notes[0]
    # another count of bands than the metadata has
    write(tmp_path / f"{stem.format('')}.TIF", np.stack([numbers(60, 1)] * 3))
    source = open_source(tmp_path / f"{stem.format('')}.TIF")
    assert [band.name for band in source.bands] == ["1", "2", "3"]


def test_the_mask_of_planets_basemaps_is_no_near_infrared(tmp_path):
    pixels = np.stack([numbers(60, i) for i in range(5)])
    name = "planet_medres_normalized_analytic_2022-01_mosaic_1025-1054_quad.tif"
    source = open_source(write(tmp_path / name, pixels))
    assert [b.name for b in source.bands] == ["blue", "green", "red", "nir"]
    assert "a mask" in source.notes[1]
    rapideye = open_source(write(tmp_path / "1947216_RE4_3A_Analytic.tif", pixels))
    assert [b.name for b in rapideye.bands][3:] == ["rededge", "nir"]


def test_landsat_by_tiles_of_the_us_is_reflectance_with_its_metadata(tmp_path):
    stem = "LC08_CU_003010_20200601_20210504_02"
    for band in ("SR_B4", "SR_B5", "QA_PIXEL", "SR_QA_AEROSOL"):
        write(tmp_path / f"{stem}_{band}.TIF", numbers(60, 1))
    source = open_source(tmp_path)
    assert [b.common_name for b in source.bands] == ["red", "nir08"]
    assert not source.bands[0].is_scaled
    assert "would be number x 2.75e-05 - 0.2" in source.notes[0]
    (tmp_path / f"{stem}.xml").write_text("<ard_tile/>")
    _metadata.cache_clear()
    assert {(b.scale, b.offset) for b in open_source(tmp_path).bands} == {
        (2.75e-05, -0.2)
    }


def test_landsats_bands_in_another_file_say_how_they_become_reflectance(tmp_path):
    pixels = np.stack([numbers(60, i) for i in range(2)])
    path = write_tif(tmp_path / "LC08_export.tif", pixels, names=["SR_B4", "SR_B5"])
    assert "number x 2.75e-05 - 0.2" in open_source(path).notes[0]
    scaled = tmp_path / "scaled.tif"
    write_tif(scaled, pixels, names=["SR_B4", "SR_B5"], scale=2.75e-05, offset=-0.2)
    assert open_source(scaled).notes == ()
    write_tif(scaled, pixels.astype("float32"), names=["SR_B4", "SR_B5"])
    assert open_source(scaled).notes == ()


@pytest.mark.parametrize(
    ("stem", "bands"),
    [
        (
            "ga_s2am_nbart_3-2-1_55HFB_2020-06-18_final_band{}",
            {"04": "red", "08": "nir"},
        ),
        ("ga_ls8c_nbart_3-2-1_091089_2020-06-18_final_band{}", {"05": "nir08"}),
        ("L8_2020_SR_B{}", {"4": "red", "5": "nir08"}),
        ("unknown_band{}", {"04": None}),
    ],
)
def test_bands_of_files_that_spell_them_out(tmp_path, stem, bands):
    for number in bands:
        write(tmp_path / f"{stem.format(number)}.tif", numbers(60, 1))
    source = open_source(tmp_path)
    assert [band.common_name for band in source.bands] == [*bands.values()]


@pytest.mark.parametrize(
    ("descriptions", "told"),
    [
        (["B4_median", "B8_median", "B8A_median"], ["red", "nir", "nir08"]),
        (["red@1", "nir@1"], ["red", "nir"]),
        (["T32TPS_20200601_B04_10m", "T32TPS_20200601_B11_20m"], ["red", "swir16"]),
        (["R", "G", "B", "N"], RGBN),
        (["BAND_R", "BAND_N"], ["red", "nir"]),
        (["B4_stdDev", "B8_stdDev"], [None, None]),
        (["diff_red", "diff_nir"], [None, None]),
    ],
)
def test_bands_are_found_in_what_tools_make_of_their_names(
    tmp_path, descriptions, told
):
    pixels = np.stack([numbers(60, i) for i in range(len(told))])
    path = write_tif(tmp_path / "Sentinel-2_may.tif", pixels, names=descriptions)
    assert [band.common_name for band in open_source(path).bands] == told


@pytest.mark.parametrize(
    ("descriptions", "names"),
    [
        (["Band_1", "Band_2"], ["1", "2"]),
        (["Band 1 (Gray)", "Band 2"], ["1", "2"]),
        (["Band 4", "Band 3"], ["Band 4", "Band 3"]),  # of another file
    ],
)
def test_descriptions_that_only_count_are_none(tmp_path, descriptions, names):
    pixels = np.stack([numbers(60, i) for i in range(2)])
    path = write_tif(tmp_path / "a.tif", pixels, names=descriptions)
    assert [band.name for band in open_source(path).bands] == names


def test_two_dates_of_one_place_are_no_mosaic_in_silence(tmp_path):
    for day in (1, 2):
        write(tmp_path / f"2023-05-0{day}.tif", np.stack([numbers(60, day)] * 2))
    note = "1 of its 2 rasters lie on the same pixels as another"
    assert any(note in n for n in open_source(tmp_path).notes)


def netcdf(path, *dims, variables=("refl",)):
    sizes = {"lat": 8, "lon": 9}
    shape = [sizes.get(dim, 2) for dim in dims]
    at = {"lat": 50 - 0.1 * np.arange(8), "lon": 10 + 0.1 * np.arange(9)}
    pixels = np.arange(np.prod(shape), dtype="float32").reshape(shape)
    arrays = dict.fromkeys(variables, (dims, pixels))
    xr.Dataset(arrays, coords=at).to_netcdf(path, engine="scipy")
    return path


@pytest.mark.parametrize(
    ("dims", "said"),
    [
        (("band", "lat", "lon"), "EPSG:4326"),
        (("time", "lat", "lon"), "its 2 bands are steps of time"),
    ],
)
def test_netcdf_in_degrees_has_a_place(tmp_path, dims, said):
    source = open_source(netcdf(tmp_path / "a.nc", *dims))
    assert '"EPSG",4326' in source.grid.crs
    np.testing.assert_allclose(source.grid.bounds, (9.95, 49.25, 10.85, 50.05))
    assert any(said in note for note in source.notes)


def test_netcdf_whose_rows_may_be_none_says_so(tmp_path):
    with pytest.warns(UserWarning, match="no coordinate reference"):
        source = open_source(netcdf(tmp_path / "a.nc", "band", "lon", "lat"))
    assert "nor whether rows are rows" in source.notes[0]


def test_arrays_of_a_netcdf_are_bands_by_their_names(tmp_path):
    path = netcdf(tmp_path / "a.nc", "lat", "lon", variables=("red", "nir", "lst"))
    with pytest.raises(RasterError, match="open a part, or several as bands"):
        open_source(path)
    two = open_source([f"netcdf:{path}:nir", f"netcdf:{path}:red"])
    assert [band.name for band in two.bands] == ["nir", "red"]
    assert [b.name for b in open_source(f"netcdf:{path}:lst").bands] == ["lst"]


def test_tiles_stay_a_mosaic_whatever_they_are_called():
    tiles = ("tile_red.tif", "tile_2.tif", "other.tif")
    assert bands_and_tiles(tiles).paths == tiles
    masks = ("a_mask.tif", "b_ndvi.tif")
    assert bands_and_tiles(masks).left_out == ("ndvi",)
    letters = ("ortho_A1.tif", "ortho_B1.tif", "ortho_B2.tif")
    assert bands_and_tiles(letters).paths == letters
    lone = ("b_ndvi.tif", "c_ndvi.tif")
    assert bands_and_tiles(lone).paths == lone


def test_sentinel2_bands_as_gdal_describes_them(tmp_path):
    path = write(tmp_path / "sub.tif", np.stack([numbers(10, i) for i in range(3)]))
    with rasterio.open(path, "r+") as d:
        d.descriptions = (
            "B4, central wavelength 665 nm",
            "B8, central wavelength 842 nm",
            "B8A, central wavelength 865 nm",
        )
    source = open_source(path)
    assert [b.name for b in source.bands] == ["B4", "B8", "B8A"]
    assert [b.common_name for b in source.bands] == ["red", "nir", "nir08"]


def for_gdals_driver(root):
    """Give a product the metadata that GDAL's driver of Sentinel-2 goes by."""
    granule = next((root / "GRANULE").iterdir())
    images = (f.relative_to(root).with_suffix("") for f in root.rglob("*.jp2"))
    listed = "".join(f"<IMAGE_FILE>{i}</IMAGE_FILE>" for i in sorted(images))
    main = root / "MTD_MSIL2A.xml"
    offsets = main.read_text().removeprefix("<P>").removesuffix("</P>")
    main.write_text(
        '<n1:Level-2A_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/'
        'User_Product_Level-2A.xsd"><n1:General_Info><Product_Info>'
        f"<PRODUCT_URI>{root.name}</PRODUCT_URI><Query_Options><PRODUCT_FORMAT>"
        "SAFE_COMPACT</PRODUCT_FORMAT></Query_Options><Product_Organisation>"
        f'<Granule_List><Granule granuleIdentifier="{granule.name}">{listed}</Granule>'
        f"</Granule_List></Product_Organisation></Product_Info>{offsets}"
        "</n1:General_Info></n1:Level-2A_User_Product>"
    )
    sizes = "".join(
        f'<Size resolution="{m}"><NROWS>{600 // m}</NROWS><NCOLS>{600 // m}</NCOLS>'
        f'</Size><Geoposition resolution="{m}"><ULX>600000</ULX><ULY>5200000</ULY>'
        f"<XDIM>{m}</XDIM><YDIM>-{m}</YDIM></Geoposition>"
        for m in (10, 20, 60)
    )
    (granule / "MTD_TL.xml").write_text(
        '<n1:Level-2A_Tile_ID xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/'
        'S2_PDI_Level-2A_Tile_Metadata.xsd"><n1:Geometric_Info><Tile_Geocoding>'
        f"<HORIZONTAL_CS_CODE>EPSG:32632</HORIZONTAL_CS_CODE>{sizes}"
        "</Tile_Geocoding></n1:Geometric_Info></n1:Level-2A_Tile_ID>"
    )
    return main


def test_parts_of_sentinel2_by_gdals_driver_are_bands_in_reflectance(tmp_path):
    root, made = safe(tmp_path)
    part = f"SENTINEL2_L2A:{for_gdals_driver(root)}:10m:EPSG_32632"
    source = open_source(part)
    assert [b.name for b in source.bands] == ["B4", "B3", "B2", "B8"]
    assert {(b.scale, b.offset) for b in source.bands} == {(1e-4, -0.1)}
    values, valid = source.read(source.grid.window)
    np.testing.assert_array_equal(values[-1], made["B08"])
    assert not valid[0, 0]
    assert "left out, as they are not bands: AOT, WVP" in source.notes


def test_an_archive_that_is_broken_or_empty_is_refused(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(RasterError, match=r"cannot open .*a\.zip"):
        open_source(tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    with pytest.raises(RasterError, match="an archive without rasters"):
        open_source(tmp_path / "b.zip")
    assert Path(tmp_path / "b.zip").exists()
