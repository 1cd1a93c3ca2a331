"""What is given in another's place: one line says what it is and what to do."""

import geopandas
import numpy as np
import pytest
import shapely
import xarray as xr
from affine import Affine
from tifs import write_tif

from geoseg.cli import run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("another")
    random = np.random.default_rng(0).integers(1, 3000, (4, 64, 64))
    random[:, :8] = 0
    for name, pixels in (("s.tif", random.astype("u2")), ("f.tif", random[:1] / 7)):
        write_tif(
            folder / name,
            pixels,
            crs="EPSG:32632",
            transform=Affine(10, 0, 500_000, 0, -10, 5_200_000),
        )
    areas = [shapely.box(500_000, 5_199_400, 500_300, 5_200_000)]
    frame = geopandas.GeoDataFrame({"class": ["a"]}, geometry=areas, crs="EPSG:32632")
    frame.to_file(folder / "p.gpkg")
    frame.to_crs(4326).to_file(folder / "p.geojson")
    (folder / "i.json").write_text('{"type": "Feature", "properties": {}}')
    data = xr.DataArray(random[0] / 7, dims=("y", "x"), name="height").to_dataset()
    data.to_zarr(folder / "f.zarr", zarr_format=2)
    return folder


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("segment p.gpkg --model kmeans:3 --out m.zarr", "p.gpkg holds features"),
        ("plan p.geojson --model kmeans:3", "p.geojson holds features"),
        ("train p.gpkg --labels p.gpkg --out m", "pixels are needed here: name a"),
        ("vectorize p.gpkg --out r.gpkg", "p.gpkg holds features"),
        ("vectorize p.geojson --out r.gpkg", "gdal_rasterize makes one of features"),
        ("segment s.tif --model s.tif --out m.zarr", "s.tif is not a model: that is"),
        ("segment s.tif --model p.gpkg --out m.zarr", "is not a model: that is"),
        ("segment s.tif --model otsu --out m.zarr", "as in otsu:ndvi"),
        ("plan s.tif --model kmeans:3 --aoi s.tif", "s.tif: it is a raster"),
        ("plan s.tif --model kmeans:3 --aoi f.zarr", "f.zarr: it is a raster"),
        ("train s.tif --labels s.tif --out m --nodata 0", "gdal_translate -b N"),
        ("vectorize s.tif --out r.gpkg", "of an image geoseg segment makes it"),
        ("vectorize f.tif --out r.gpkg", "gdal_translate -ot Byte -a_nodata 255"),
        ("vectorize f.zarr --out r.gpkg", "array.fillna(255).astype('uint8')"),
        ("model check s.tif kmeans:3", "s.tif is not a model: that is a folder"),
        ("model check p.gpkg s.tif", "p.gpkg is not a model: that is a folder"),
        ("model check f.zarr s.tif", "nor a transformers config.json; it is a Zarr"),
        ("model check i.json kmeans:3", "it is an item of rasters, and no card"),
        ("model check kmeans:3 p.gpkg", "p.gpkg holds features"),
        ("verify s.tif", "which masks are that geoseg segment writes"),
    ],
)
def test_it_is_one_line(folder, monkeypatch, capsys, line, said):
    monkeypatch.chdir(folder)
    assert run(line.split()) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert errors[0].startswith("geoseg: ")
    assert said in errors[0]


def test_info_asks_about_nodata_too(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert run(["info", "s.tif"]) == 0
    assert "if it is: --nodata 0" in capsys.readouterr().out


def test_parts_of_files_are_described_by_gdals_names(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert run(["info", f"GTIFF_DIR:1:{folder}/s.tif", "--trust", str(folder)]) == 0
    assert capsys.readouterr().out.startswith("raster, 64 x 64 px")
