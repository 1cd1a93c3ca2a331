"""Region growing and superpixels: exact across blocks, and as scikit-image has them."""

import json
import pickle

import numpy as np
import pytest
import rasterio
import shapely
import small
from hypothesis import given, settings
from hypothesis import strategies as st
from pyogrio import raw
from scipy import ndimage
from tifs import write_tif

import geoseg
from geoseg.core.grid import Window, squares
from geoseg.errors import ModelError
from geoseg.models.classical import grow, superpixels
from geoseg.models.load import load_model, model_recipe
from geoseg.models.networks.device import ModelOptions
from geoseg.rasters.open import match_bands, open_source

segmentation = pytest.importorskip("skimage.segmentation")
rng = np.random.default_rng(0)


def write_markers(path, shapes, names=None, crs=None, column="class"):
    fields = [] if names is None else [np.array(names, object)]
    raw.write(
        path, shapely.to_wkb(np.array(shapes, object)), fields,
        [] if names is None else [column], crs=crs, geometry_type="Unknown",
    )  # fmt: skip
    return path


def write_raster(path, pixels, *, nodata=None):
    pixels = np.asarray(pixels)
    return write_tif(str(path), pixels, nodata=nodata)


def at(row, col):
    return shapely.Point(5e5 + 10 * (col + 0.5), 5e6 - 10 * (row + 0.5))


def run(raster, spec, out, chunk=0, **more):
    result = small.segment(
        raster, model=spec, out=out, overwrite=True, chunk=chunk, **more
    )
    return result["classes"].to_numpy()


@pytest.fixture(scope="module")
def drone(shared):
    return str(shared / "banepa_buildings" / "banepa_predict_rgb.tif")


class TestGrow:
    def test_parity_with_scikit_image(self, tmp_path, drone):
        """One marker in one band is `skimage.segmentation.flood`."""
        with rasterio.open(drone) as file:
            band, t, crs = file.read(1), file.transform, file.crs.to_wkt()
        for row, col, tolerance in ((1000, 900, 20), (300, 1500, 35), (2000, 5, 8)):
            point = shapely.Point(t @ (col + 0.5, row + 0.5))
            marker = write_markers(tmp_path / "m.gpkg", [point], crs=crs)
            labels = run(
                drone, f"grow:{marker}:{tolerance}", tmp_path / "m", bands=["1"]
            )
            expected = segmentation.flood(
                band, (row, col), tolerance=tolerance, connectivity=1
            )
            np.testing.assert_array_equal(labels, expected)
            assert expected.sum() > 1

    def test_markers_compete_and_blocks_do_not_matter(self, tmp_path, drone):
        """Against the whole raster at once; cells and blocks of several sizes."""
        with rasterio.open(drone) as file:
            window = rasterio.windows.Window(700, 500, 500, 420)
            pixels = file.read(window=window)
        raster = write_raster(tmp_path / "a.tif", pixels)
        seeds = [(40, 60), (200, 333), (399, 480), (310, 20), (111, 222)]
        names = ["roof", "tree", "roof", "road", "tree"]
        marker = write_markers(
            tmp_path / "m.gpkg", [at(*s) for s in seeds], names, "EPSG:32633"
        )
        expected = grown_at_once(pixels, seeds, [2, 3, 2, 1, 3], 22)
        assert len(np.unique(expected)) == 4
        for cell, blocks in ((64, (64, 128)), (96, (96, 288)), (512, (512,))):
            model = grow.open_spec(f"grow:{marker}:22", cell=cell).load(ModelOptions())
            for block in blocks:
                found = run(raster, model, tmp_path / "m", cell, block=block)
                np.testing.assert_array_equal(found, expected)

    @settings(max_examples=12)
    @given(
        seed=st.integers(0, 99),
        cell=st.sampled_from([3, 7, 16]),
        tolerance=st.integers(0, 3),
    )
    def test_any_maze(self, tmp_path_factory, seed, cell, tolerance):
        random = np.random.default_rng(seed)
        pixels = random.integers(0, 6, (2, 23, 31), np.uint8)
        valid = random.random((23, 31)) > 0.1
        pixels[:, ~valid] = 255
        seeds = [(int(random.integers(23)), int(random.integers(31))) for _ in range(4)]
        values = [1, 2, 1, 2]
        folder = tmp_path_factory.mktemp("maze")
        raster = write_raster(folder / "a.tif", pixels, nodata=255)
        names = [["", "a", "b"][v] for v in values]
        marker = write_markers(
            folder / "m.gpkg", [at(*s) for s in seeds], names, "EPSG:32633"
        )
        if not any(valid[s] for s in seeds):
            return
        spec = f"grow:{marker}:{tolerance}"
        unfitted = grow.open_spec(spec, cell=cell).load(ModelOptions())
        model = unfitted.fit(open_source(raster))
        found = np.zeros(valid.shape, np.uint8)
        for window in squares(Window(y=0, x=0, height=23, width=31), cell):
            inside = window.slices
            found[inside] = model.predict_at(
                pixels[:, *inside][None], [window], valid[inside][None]
            )[0]
        expected = grown_at_once(pixels, seeds, values, tolerance, valid)
        np.testing.assert_array_equal(found, expected)

    def test_nodata_parts_regions(self, tmp_path):
        pixels = np.full((1, 30, 40), 7, np.uint8)
        pixels[:, :, 20] = 0
        raster = write_raster(tmp_path / "a.tif", pixels, nodata=0)
        marker = write_markers(tmp_path / "m.gpkg", [at(5, 5)], crs="EPSG:32633")
        found = run(raster, f"grow:{marker}:200", tmp_path / "m")
        assert (found[:, :20] == 1).all()
        assert (found[:, 20] == 255).all()
        assert (found[:, 21:] == 0).all()

    def test_polygons_show_their_mean_and_other_keeps_away(self, tmp_path):
        pixels = np.zeros((1, 40, 60), np.uint8)
        pixels[:, :, 20:40], pixels[:, :, 40:] = 20, 30
        raster = write_raster(tmp_path / "a.tif", pixels)
        box = shapely.box(5e5 + 200, 5e6 - 300, 5e5 + 390, 5e6 - 100)
        marker = write_markers(
            tmp_path / "m.gpkg", [box, at(3, 50)], ["wall", "other"], "EPSG:32633"
        )
        found = run(raster, f"grow:{marker}:10", tmp_path / "m")
        np.testing.assert_array_equal(found, pixels[0] == 20)

    def test_the_tolerance_is_found_where_none_is_given(self, tmp_path, drone):
        with rasterio.open(drone) as file:
            point = shapely.Point(file.transform @ (900.5, 1000.5))
            marker = write_markers(tmp_path / "m.gpkg", [point], crs=file.crs.to_wkt())
            spread = file.read().reshape(3, -1).std(axis=1)
        source = open_source(drone)
        recipe = model_recipe(f"grow:{marker}").bound(source).fit(source)
        known = json.loads(recipe.fitted)
        np.testing.assert_allclose(known["tolerance"], spread / 2, rtol=0.05)
        again = pickle.loads(pickle.dumps(recipe)).load()
        assert again.grown.entries.keys() == recipe.load().grown.entries.keys()

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("grow:", "where the markers are"),
            ("grow:nowhere.gpkg", "cannot read the markers"),
            ("grow:{}:1.2.3", "not a number"),
            ("grow:{}:3:colour", "no column 'colour', only class"),
        ],
    )
    def test_wrong_specs(self, tmp_path, spec, message):
        marker = write_markers(tmp_path / "m.gpkg", [at(1, 1)], ["a"], "EPSG:32633")
        with pytest.raises(ModelError, match=message) as caught:
            model_recipe(spec.format(marker))
        assert "\n" not in str(caught.value)

    def test_markers_elsewhere(self, tmp_path):
        raster = write_raster(tmp_path / "a.tif", np.ones((1, 9, 9), np.uint8))
        marker = write_markers(tmp_path / "m.gpkg", [at(50, 50)], crs="EPSG:32633")
        with pytest.raises(ModelError, match=r"none of the 1 markers.* valid pixel"):
            run(raster, f"grow:{marker}:2", tmp_path / "m")

    def test_other_windows_are_refused(self, tmp_path):
        raster = write_raster(tmp_path / "a.tif", np.ones((1, 900, 900), np.uint8))
        marker = write_markers(tmp_path / "m.gpkg", [at(5, 5)], crs="EPSG:32633")
        with pytest.raises(ModelError, match="leave out --overlap"):
            run(raster, f"grow:{marker}:2", tmp_path / "m", overlap=64)


def grown_at_once(pixels, seeds, values, tolerance, valid=None):
    """Grow on the whole raster: nearest marker, pieces, those with a marker."""
    valid = np.ones(pixels.shape[1:], bool) if valid is None else valid
    seeds = [(s, v) for s, v in zip(seeds, values, strict=True) if valid[s]]
    apart = np.stack(
        [
            np.abs(pixels.astype(int) - pixels[:, r, c].astype(int)[:, None, None]).max(
                0
            )
            for (r, c), _ in seeds
        ]
    )
    nearest = np.array([v for _, v in seeds])[apart.argmin(0)]
    alike = np.where((apart.min(0) <= tolerance) & valid, nearest, 0)
    out = np.zeros(alike.shape, np.uint8)
    for (row, col), value in seeds:
        pieces, _ = ndimage.label(alike == value)
        if alike[row, col] == value:
            out[pieces == pieces[row, col]] = value
    return out


class TestSuperpixels:
    def fitted(self, spec, source):
        recipe = model_recipe(spec).bound(source)
        source = source.select(match_bands(source, recipe.card.bands))
        return recipe.fit(source), source

    def test_parity_with_the_libraries(self, drone):
        """SLIC of scikit-image, and the cluster that scikit-learn predicts."""
        cluster = pytest.importorskip("sklearn.cluster")
        recipe, source = self.fitted("slic:16:5", open_source(drone))
        model = recipe.load()
        pixels = source.read(Window(y=64, x=96, height=320, width=480))[0]
        spreads, centres = model.clusters.spreads, model.clusters.centres
        image = np.moveaxis(pixels / spreads[:, None, None], 0, -1)
        segments = segmentation.slic(
            image, n_segments=20 * 30, compactness=0.5 / np.ptp(image), max_num_iter=5,
            convert2lab=False, channel_axis=-1, start_label=0,
        )  # fmt: skip
        means = np.stack([ndimage.mean(p, segments, range(segments.max() + 1))
                          for p in pixels.astype(float)], 1)  # fmt: skip
        library = cluster.KMeans(5, n_init=1, max_iter=1).fit(means / spreads)
        library.cluster_centers_ = np.ascontiguousarray(centres / spreads)
        expected = library.predict(means / spreads)[segments]
        found = model.predict(pixels[None])[0]
        assert (found == expected).mean() > 0.9999
        assert len(np.unique(found)) >= 4

    def test_the_map_has_no_trace_of_windows(self, tmp_path, drone):
        """Windows of some cells against one look at the whole raster."""
        with rasterio.open(drone) as file:
            pixels = file.read(window=rasterio.windows.Window(300, 200, 660, 500))
        raster = write_raster(tmp_path / "a.tif", pixels)
        model = superpixels.open_spec("slic:8:4", cell=160).load(ModelOptions())
        maps = [run(raster, model, tmp_path / "m", 160, block=b) for b in (160, 480)]
        np.testing.assert_array_equal(*maps)
        recipe, _ = self.fitted("slic:8:4", open_source(raster))
        reach = 80
        rows, cols = (
            np.arange(-reach, 500 + reach + 4),
            np.arange(-reach, 660 + reach + 4),
        )
        around = geoseg.inference.windows.reflect(rows[0], rows[-1] + 1, 500)
        beside = geoseg.inference.windows.reflect(cols[0], cols[-1] + 1, 660)
        whole = pixels[:, around[:, None], beside]
        expected = recipe.load().predict(whole[None])[0][
            reach : -reach - 4, reach : -reach - 4
        ]
        assert (maps[0] == expected).mean() > 0.9999

    def test_nodata_does_not_count(self, tmp_path):
        pixels = rng.integers(90, 110, (2, 64, 64), np.uint8)
        pixels[:, 20:40, 20:40] = 200
        pixels[:, 40:] = 0
        raster = write_raster(tmp_path / "a.tif", pixels, nodata=0)
        found = run(raster, "slic:8:2", tmp_path / "m")
        assert (found[40:] == 255).all()
        assert (found[:40] == (pixels[0, :40] == 200)).mean() > 0.97

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("slic:", "how wide"),
            ("slic:16", "how many clusters"),
            ("slic:2:4", "4 … 64"),
            ("slic:16:999", "2 … 254"),
        ],
    )
    def test_wrong_specs(self, spec, message):
        with pytest.raises(ModelError, match=message):
            model_recipe(spec)

    def test_unfitted_it_says_so(self):
        with pytest.raises(ModelError, match="not been fitted"):
            load_model("slic:8:3:a").predict(np.zeros((1, 1, 8, 8), np.uint8))
