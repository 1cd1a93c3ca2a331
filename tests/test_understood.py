"""Each row of the page "What geoseg understands" is run by a test that is there."""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "notebooks" / "guide" / "understood.md"

# File by file: how a row begins, and the test that opens it.
ROWS = {
    "rasters/test_products.py": {
        "`S2*_MSIL2A_*.SAFE`": "sentinel2_opens_by_any_of_its_folders",
        "`S2*_MSIL1C_*.SAFE`": "sentinel2_opens_by_any_of_its_folders",
        "`SENTINEL2_L2A:": "parts_of_sentinel2_by_gdals_driver_are_bands_in_reflectance",  # noqa: E501
        "`R10m`": "a_folder_without_metadata_says_what_cannot_be_known",
        "`S2A_OPER": "sentinel2_of_before_2017_has_no_offset",
        "MAJA's": "sentinel2_of_maja_is_the_one_corrected_for_slopes",
        "Landsat Collection 2 level 2": "landsat_level_2_with_its_metadata_is_reflectance",  # noqa: E501
        "Landsat Collection 2 level 1": "landsat_level_1_is_for_the_height_of_the_sun",
        "a file under such a name": "what_was_converted_under_its_old_name_is_taken_as_it_is",  # noqa: E501
        "Landsat Collection 1": "landsat_of_collection_1_is_a_stack",
        "`33/U/XP": "sentinel2_by_the_day_in_its_buckets_folders",
        "FORCE's": "the_quality_file_of_force_is_left_out",
        "HLS S30": "a_hls_folder_leaves_its_mask_and_angles_out",
        "MODIS": "each_sensor_has_its_own_red",
        "a folder `.data`": "a_folder_of_snap_goes_by_the_names_of_its_files",
        "netCDF and HDF": "netcdf_in_degrees_has_a_place",
        "aerial pictures": "colour_infrared_is_not_red_green_and_blue",
        "NAIP (": "the_order_of_bands_that_a_name_spells_is_said",
        "Maxar's and": "bands_of_maxar_are_those_of_the_metadata_beside",
        "Planet's basemaps": "the_mask_of_planets_basemaps_is_no_near_infrared",
        "Landsat ARD": "landsat_by_tiles_of_the_us_is_reflectance_with_its_metadata",
        "Landsat's `SR_B4`": "landsats_bands_in_another_file_say_how_they_become_reflectance",  # noqa: E501
        "`…_band04.tif`": "bands_of_files_that_spell_them_out",
        "`B4_median`": "bands_are_found_in_what_tools_make_of_their_names",
        "`Band_1`": "descriptions_that_only_count_are_none",
        "several dates on": "two_dates_of_one_place_are_no_mosaic_in_silence",
        "PlanetScope": "planet_with_its_masks_is_the_one_file",
        "RTC of Sentinel-1": "one_polarisation_leaves_what_comes_with_it_out",
        "`… red edge.tif`": "bands_of_drones_are_known_by_their_last_words",
        "GDAL's descriptions": "sentinel2_bands_as_gdal_describes_them",
        "Metashape's": "raw_files_of_a_drone_and_bands_with_wavelengths",
        "several files of one band": "bands_that_no_name_tells_of_are_not_tiles_in_silence",  # noqa: E501
        "HDF4,": "folders_without_rasters_are_told_what_to_give",
        "`.ecw`": "what_no_driver_reads_is_refused_with_what_to_give",
    },
    "rasters/test_gcps.py": {
        "Sentinel-1 GRD": "sentinel1_opens_as_delivered",
    },
    "rasters/test_array.py": {
        "STAC items": "an_item_tells_nodata_and_what_numbers_mean",
        "netCDF that xarray": "the_crs_of_netcdf_may_be_among_the_variables",
        "xarray:": "coordinates_that_are_corners_are_heard",
    },
    "rasters/test_zarrs.py": {
        "a Zarr of images": "what_gdal_writes_is_read",
    },
    "rasters/test_open.py": {
        "exports of Earth Engine": "flags_beside_bands_are_left_out_and_named",
        "near infrared that is tagged": "near_infrared_that_is_tagged_alpha_is_asked_about",  # noqa: E501
        "files with red, green, blue": "numbers_are_an_order_whatever_names_say",
    },
    "rasters/test_several.py": {
        "a fill beside": "a_fill_beside_the_nodata_that_is_tagged_is_asked_for",
        "bands of two sensors": "a_band_of_one_sensor_is_not_that_of_another",
        "tiles of other pixel": "tiles_on_other_pixels_are_said_to_be_interpolated",
        "tiles on both sides": "neighbours_across_the_antimeridian_stay_neighbours",
    },
    "models/test_exported.py": {
        "`.pt2` of torch.export": "a_fixed_window_is_compared_before_the_run",
        "`.onnx` of QGIS": "deepness_in_its_spellings",
        "an answer smaller": "fewer_scores_than_pixels_are_said",
        "classes on the last axis": "bands_may_come_last",
        "several answers": "several_answers_have_names",
    },
    "models/test_onnx_card.py": {
        "`.onnx` that ends in": "labels_at_the_end_are_heard",
        "`.onnx` that takes": "whole_numbers_are_not_scaled_to_nothing",
        "`.onnx` of Ultralytics": "what_others_keep_in_the_file_is_no_card",
    },
    "models/test_load.py": {
        "one output channel": "one_sigmoid_channel_is_two_classes",
        "`.h5`": "wrong_specs_are_one_line",
    },
    "models/test_checkpoint.py": {
        "checkpoints of torchgeo": "terratorchs_wrapped_networks",
        "a YOLO": "nothing_is_unpickled",
        "weights of SAM": "networks_of_other_libraries_have_another_way",
        "a checkpoint of a network": "networks_that_answer_numbers_are_refused",
        "Lightning checkpoints": "weights_in_any_file_and_any_folder",
        "a folder of smp's": "folders_of_older_versions",
        "an average (EMA": "an_average_beside_the_weights_is_asked_about",
    },
    "models/test_check.py": {
        "a sigmoid, logits": "one_channel_is_what_the_card_says",
    },
    "models/test_transformers.py": {
        "a folder of transformers'": "scaling_is_asked_for_and_never_guessed",
    },
    "models/test_torchvision.py": {
        "torchvision's networks": "any_number_of_bands",
        "a checkpoint of torchvision's": "a_checkpoint_of_the_librarys_own",
    },
    "models/test_pack.py": {
        "code:": "a_network_of_ones_own_is_exported",
    },
    "labels/test_labels.py": {
        "polygons and points": "columns_of_any_type_hold_classes",
        "a GeoPackage whose": "codes_have_the_names_of_their_domain",
        "collections, as": "collections_are_their_areas",
        "`bare soil`": "columns_of_any_type_hold_classes",
        "a class raster with names": "names_in_the_only_column_of_texts_are_the_classes",  # noqa: E501
        "COCO, labelme": "annotations_of_pictures_are_told_how_to_get_a_place",
        "polygons of different classes": "who_wins_where_classes_overlap_is_said",
        "fractions or negative": "columns_of_other_numbers_are_refused",
        "a class raster on any": "a_raster_half_a_pixel_beside_says_so",
        "colours, a band": "colours_as_labels_are_numbers_by_the_advice",
    },
}
STARTS = [start for rows in ROWS.values() for start in rows]


def test_every_row_has_a_test_and_every_test_a_row():
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    rows = [line[2:] for line in lines if line.startswith("| ")]
    rows = [row for row in rows if not row.startswith("given |")]
    without = [r for r in rows if not any(r.startswith(start) for start in STARTS)]
    assert without == []
    assert [s for s in STARTS if sum(r.startswith(s) for r in rows) != 1] == []


@pytest.mark.parametrize("file", ROWS)
def test_the_tests_are_there(file):
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    found = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
    assert {f"test_{test}" for test in ROWS[file].values()} <= found
