"""Drive letters are no schemes, and backslashes part folders, wherever names are read.

Only what reads a name as text is tried: that needs no Windows.
"""

import ntpath
import os

import pytest

from geoseg.location import keep_secret, redact, without_folders
from geoseg.models.custom import is_factory_spec
from geoseg.rasters.addresses import gdal_path, host_of, is_remote
from geoseg.rasters.kept_items import list_of
from geoseg.rasters.named_files import file_of, without_query
from geoseg.rasters.references import is_index, is_vrt
from geoseg.rasters.zones import path_of

SCENE = (r"C:\Users\me\scene.tif", "D:/data/scene.tif", r"\\server\share\scene.tif")


@pytest.mark.parametrize("path", SCENE)
def test_a_path_is_a_file_of_this_machine(path):
    assert not is_remote(path)
    assert host_of(path) == ""
    for same in (gdal_path, file_of, without_query, redact):
        assert same(path) == path
    assert without_folders(f"{path} was resampled") == "scene.tif was resampled"
    keep_secret(path)
    assert (
        redact("scene.tif of me, share and data") == "scene.tif of me, share and data"
    )


@pytest.mark.parametrize("path", SCENE)
def test_a_part_of_a_file_is_of_that_file(path):
    assert file_of(f'NETCDF:"{path}":red') == path
    assert is_index(f"GTI:{path}")
    assert is_vrt(path.replace(".tif", ".VRT"))


def test_a_file_with_a_function_is_a_model():
    assert is_factory_spec(r"C:\models\mine.py:make")
    assert not is_factory_spec(r"C:\models\landcover")


def test_what_lies_beside_a_product_is_in_its_folder(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "path", ntpath)
        near = list_of("C:\\v1.2\\masks\\"), path_of("C:\\v1.2\\masks", "zone:32632")
        far = list_of("s3://bucket.v1/masks"), path_of("s3://bucket/m.zarr", "zone:1")
    assert near == ("C:\\v1.2\\masks.items.json", "C:\\v1.2\\masks-32632")
    assert far == ("s3://bucket.v1/masks.items.json", "s3://bucket/m-1.zarr")
