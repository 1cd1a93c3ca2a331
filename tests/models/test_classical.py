"""Thresholds, Otsu, k-means: the same for any blocks, and as the libraries do it."""

import json
import pickle
import warnings
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st

from geoseg.core.grid import Grid, Window
from geoseg.core.indices import INDICES
from geoseg.errors import ModelError
from geoseg.models.classical import histogram as histograms
from geoseg.models.classical import sample as samples
from geoseg.models.classical.cluster import KMeans
from geoseg.models.classical.expression import parse
from geoseg.models.classical.histogram import otsu, raster_histogram
from geoseg.models.classical.sample import sample_pixels
from geoseg.models.load import load_model, model_recipe
from geoseg.rasters.open import SourceBand, match_bands, open_source


@dataclass(frozen=True)
class ArraySource:
    """A raster in memory, as far as fitting needs one."""

    pixels: np.ndarray
    valid: np.ndarray
    name: str = "array"

    @property
    def grid(self):
        height, width = self.valid.shape
        return Grid(crs=None, transform=Affine.identity(), height=height, width=width)

    @property
    def bands(self):
        return tuple(SourceBand(name=str(i + 1)) for i in range(len(self.pixels)))

    @property
    def dtype(self):
        return self.pixels.dtype

    def read(self, window):
        rows, cols = window.slices
        return self.pixels[:, rows, cols].copy(), self.valid[rows, cols].copy()


def source_of(pixels, valid=None):
    pixels = np.asarray(pixels)
    if valid is None:
        valid = np.ones(pixels.shape[1:], bool)
    return ArraySource(pixels, valid)


rng = np.random.default_rng(0)


class TestExpression:
    values: ClassVar = {
        "nir": rng.random(50).astype("f4"),
        "red": rng.random(50).astype("f4"),
    }

    @pytest.mark.parametrize(
        "text",
        [
            "nir", "nir - red", "(nir-red)/(nir+red)", "2*nir**2", "-nir + 3e-1",
            "sqrt(nir) - log(red + 1)", "max(nir, red, 0.5)", "abs(min(nir, 2) - red)",
            "ndvi", " NDVI ", "+nir", "'nir' * \"red\"",
        ],
    )  # fmt: skip
    def test_it_is_what_numpy_says(self, text):
        expression = parse(text)
        planes = [self.values[band] for band in expression.bands]
        code = INDICES.get(text.strip().lower(), text).replace("'", "").replace('"', "")
        scope = self.values | {
            "sqrt": np.sqrt, "log": np.log, "abs": np.abs,
            "max": lambda *a: np.maximum.reduce(np.broadcast_arrays(*a)),
            "min": lambda *a: np.minimum.reduce(np.broadcast_arrays(*a)),
        }  # fmt: skip
        expected = eval(code, scope)
        np.testing.assert_allclose(expression(*planes), expected, rtol=2e-6)

    @pytest.mark.parametrize(
        "text",
        [
            "__import__('os').system('true')", "nir.real", "[nir]", "nir if red else 1",
            "lambda: 1", "nir @ red", "nir // red", "nir % 2", "min(nir)", "1 +", "",
            "exec('1')", "abs(*[nir])", "log(nir, base=2)", "nir > 1", "True", "2.5",
            "1j * nir", "nir; red", "nir\nred", "(" * 500 + "nir" + ")" * 500,
            "nir" + "+1" * 900, "nir * 1e400", "nir * " + "9" * 500, "f'{nir}'",
            "nir := 2", "nir[0]", "not nir", "~nir", "None",
        ],
    )  # fmt: skip
    def test_nothing_else_is_allowed(self, text):
        with pytest.raises(ModelError) as caught:
            parse(text)
        assert len(str(caught.value)) < 3000

    @given(st.text(max_size=40))
    def test_any_text_is_parsed_or_refused(self, text):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's own about odd literals
            try:
                expression = parse(text)
            except ModelError:
                return
        assert expression.bands

    def test_unsigned_integers_do_not_wrap(self):
        low, high = np.array([3], np.uint8), np.array([250], np.uint8)
        assert parse("a - b")(low, high) == -247
        assert parse("a + b")(high, high) == 500

    def test_normalised_differences_are_known(self):
        assert all(parse(index).is_difference for index in INDICES)
        assert parse("(a-b)/(b+a)").is_difference
        for text in ("a-b", "(a-b)/(a-b)", "(a+b)/(a-b)", "(a-b)/(a+c)", "a"):
            assert not parse(text).is_difference


class TestThreshold:
    dtypes = st.sampled_from(["u1", "i1", "u2", "i2", "u4", "f4", "f8"])

    @given(
        dtype=dtypes,
        value=st.floats(-300, 300) | st.integers(-70000, 70000),
        op=st.sampled_from([">", ">=", "<", "<="]),
    )
    def test_one_band_is_compared_as_real_numbers_are(self, dtype, value, op):
        pixels = np.arange(-128, 300).astype(dtype).reshape(1, 1, 4, 107)
        labels = load_model(f"threshold:a{op}{value!r}").predict(pixels)
        number = value
        if dtype[0] == "f":
            number = float(np.dtype(dtype).type(value))  # in the band's own dtype
        expected = eval(f"x {op} y", {"x": pixels.astype("f8"), "y": number})
        np.testing.assert_array_equal(labels, expected[:, 0])

    def test_an_index_has_its_classes_and_zero(self):
        model = load_model("threshold:ndwi")
        assert [c.name for c in model.card.classes] == ["other", "water"]
        assert [b.name for b in model.card.bands] == ["green", "nir"]
        pixels = np.array([[[[5, 2, 0, 3]], [[2, 5, 0, 3]]]], np.uint8)
        assert model.predict(pixels).tolist() == [[[1, 0, 0, 0]]]

    def test_division_by_zero_is_below(self):
        model = load_model("threshold:a/b:1")
        pixels = np.array([[[[0, 4, -4]], [[0, 0, 0]]]], np.float32)
        assert model.predict(pixels).tolist() == [[[0, 1, 0]]]

    def test_blocks_do_not_matter(self):
        model = load_model("threshold:ndvi:0.1")
        pixels = rng.integers(0, 5000, (1, 2, 300, 200), np.uint16)
        whole = model.predict(pixels)
        parts = [model.predict(pixels[:, :, i : i + 70]) for i in range(0, 300, 70)]
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
        tiles = model.predict(np.concatenate([pixels[..., :100], pixels[..., 100:]]))
        np.testing.assert_array_equal(np.concatenate([*tiles], axis=1), whole[0])

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("threshold:", "what is compared is missing"),
            ("threshold:nir", "gives no threshold of"),
            ("threshold:ndwii", "did you mean 'ndwi'"),
            ("otzu:ndwi", "did you mean otsu:"),
            ("threshold:nir>high", "'high'.*not a number"),
            ("threshold:nir>nan", "finite"),
            ("threshold:nir:", "not a number"),
            ("threshold:open('x')>1", "not allowed"),
            ("otsu:", "what is compared is missing"),
            ("kmeans:many", "how many clusters"),
            ("kmeans:1", "2 … 254"),
            ("kmeans:999", "2 … 254"),
        ],
    )
    def test_wrong_specs(self, spec, message):
        with pytest.raises(ModelError, match=message):
            model_recipe(spec)


class TestHistogram:
    @pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2"])
    def test_small_integers_are_counted_one_by_one(self, dtype):
        limits = np.iinfo(dtype)
        pixels = rng.integers(limits.min, limits.max, (1, 60, 70), dtype, endpoint=True)
        valid = rng.random((60, 70)) > 0.3
        found = raster_histogram(source_of(pixels, valid))
        values, counts = np.unique(pixels[0][valid], return_counts=True)
        np.testing.assert_array_equal(found.values, values)
        np.testing.assert_array_equal(found.counts, counts)

    def test_floats_are_counted_in_narrow_bins(self):
        pixels = np.concatenate(
            [
                rng.normal(0, 1e3, 5000),
                rng.normal(0, 1e-6, 5000),
                [0, -0.0, 1e30, -1e30],
            ]
        ).astype("f4")
        found = raster_histogram(source_of(pixels.reshape(1, 1, -1)))
        assert found.counts.sum() == pixels.size
        assert (np.diff(found.values) > 0).all()
        nearest = found.values[
            np.clip(np.searchsorted(found.values, pixels), 1, None)[:, None] - [1, 0]
        ] if len(found.values) > 1 else found.values  # fmt: skip
        error = np.abs(nearest - pixels[:, None]).min(axis=1)
        assert (error <= 5e-4 * np.abs(pixels)).all()

    def test_minus_zero_is_zero(self):
        found = raster_histogram(source_of(np.array([[[0.0, -0.0, 1.0]]], "f4")))
        assert found.counts.tolist() == [2, 1]

    def test_what_is_not_finite_or_not_valid_is_not_counted(self):
        pixels = np.array([[[1, np.nan, np.inf, 2]]], "f4")
        valid = np.array([[True, True, True, False]])
        assert raster_histogram(source_of(pixels, valid)).counts.sum() == 1
        with pytest.raises(ModelError, match="no valid pixel"):
            raster_histogram(source_of(pixels, valid & False))

    @pytest.mark.parametrize("side", [7, 64, 1000])
    @pytest.mark.parametrize("dtype", ["u2", "f4"])
    def test_how_it_is_read_does_not_matter(self, side, dtype):
        pixels = rng.integers(0, 9000, (1, 150, 130)).astype(dtype)
        whole = raster_histogram(source_of(pixels))
        parts = raster_histogram(source_of(pixels), side=side)
        np.testing.assert_array_equal(parts.values, whole.values)
        np.testing.assert_array_equal(parts.counts, whole.counts)


def scene(shared):
    """Return the real Sentinel-2 scene of Austria, 8 bands uint16."""
    return open_source(str(shared / "ftw_austria" / "inference-img.tif"))


def fitted(spec, source):
    recipe = model_recipe(spec).bound(source)
    selected = source.select(match_bands(source, recipe.card.bands))
    assert recipe.fitted is None
    return recipe.fit(selected), selected


class TestOtsu:
    @pytest.mark.parametrize("band", [1, 4])
    def test_parity_with_scikit_image(self, shared, band):
        filters = pytest.importorskip("skimage.filters")
        recipe, source = fitted("otsu:1", scene(shared).select([band - 1]))
        pixels, valid = source.read(source.grid.window)
        threshold = filters.threshold_otsu(pixels[0][valid])
        labels = recipe.load().predict(pixels[None])[0]
        np.testing.assert_array_equal(labels, pixels[0] > threshold)

    def test_of_an_index_parity_with_scikit_image(self, shared):
        filters = pytest.importorskip("skimage.filters")
        source = scene(shared).select([3, 0])
        recipe, source = fitted("otsu:('1' - '2') / ('1' + '2')", renamed(source))
        pixels, valid = source.read(source.grid.window)
        values = parse("(a-b)/(a+b)")(*pixels)
        threshold = filters.threshold_otsu(values[valid], nbins=4096)
        labels = recipe.load().predict(pixels[None])[0]
        assert (labels == (values > threshold)).mean() > 0.999

    @given(st.lists(st.integers(0, 30), min_size=2, max_size=60))
    def test_no_other_value_parts_better(self, values):
        pixels = np.array(values, np.uint8)
        best = otsu(raster_histogram(source_of(pixels.reshape(1, 1, -1))))

        def within(threshold):
            above, below = pixels[pixels > threshold], pixels[pixels <= threshold]
            return sum(part.size * part.var() for part in (above, below) if part.size)

        assert within(best) <= min(within(t) for t in range(31)) + 1e-6

    def test_unfitted_it_says_so(self):
        with pytest.raises(ModelError, match="not been fitted"):
            load_model("otsu:a").predict(np.zeros((1, 1, 4, 4), np.uint8))

    def test_what_was_fitted_travels(self, shared):
        recipe, source = fitted("otsu:1", scene(shared).select([0]))
        assert recipe.hash != model_recipe("otsu:1").hash
        assert recipe.fit(source) is recipe
        assert recipe.fitted is not None
        again = pickle.loads(pickle.dumps(recipe))
        pixels = source.read(Window(y=0, x=0, height=50, width=60))[0][None]
        np.testing.assert_array_equal(
            again.load().predict(pixels), recipe.load().predict(pixels)
        )
        assert json.loads(recipe.fitted).keys() == {"values"}


def renamed(source):
    pixels, valid = source.read(source.grid.window)
    return replace_select(source_of(pixels, valid))


def replace_select(source):
    """Give an array source the `select` that matching bands calls."""

    @dataclass(frozen=True)
    class Selectable(ArraySource):
        def select(self, bands):
            return Selectable(self.pixels[list(bands)], self.valid)

    return Selectable(source.pixels, source.valid)


def test_an_index_finds_landsats_near_infrared(shared):
    folder = shared / "landsat8_scenes" / "new_york_toa_float32"
    source = open_source(str(next(folder.glob("*B5_toa.tif"))))
    assert source.bands[0].common_name == "nir08"
    assert match_bands(source, model_recipe("threshold:nir>0.2").card.bands) == (0,)


class TestKMeans:
    def test_parity_with_scikit_learn(self, shared):
        """Labels are those that the library's own model predicts."""
        cluster = pytest.importorskip("sklearn.cluster")
        recipe, source = fitted("kmeans:5", scene(shared))
        model = recipe.load()
        pixels, _ = source.read(Window(y=20, x=30, height=300, width=301))
        rows = pixels.reshape(len(pixels), -1).T / model.spreads
        library = cluster.KMeans(5, n_init=1, max_iter=1)
        library.fit(rows[:100])
        library.cluster_centers_ = np.ascontiguousarray(model.centres / model.spreads)
        expected = library.predict(rows.astype(np.float64)).reshape(300, 301)
        assert (model.predict(pixels[None])[0] == expected).mean() > 0.99995

    def test_clusters_go_from_dark_to_bright(self, shared):
        recipe, _ = fitted("kmeans:6", scene(shared))
        brightness = recipe.load().centres.mean(axis=1)
        assert (np.diff(brightness) > 0).all()
        assert len(recipe.card.bands) == 8

    def test_fitted_twice_it_is_the_same(self, shared):
        first, _ = fitted("kmeans:4", scene(shared))
        second, _ = fitted("kmeans:4", scene(shared))
        assert first.fitted == second.fitted
        assert first.hash == second.hash

    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    def test_of_equally_near_centres_the_first_is_taken(self, dtype):
        centres, card = np.array([[0.0], [2.0], [2.0]]), model_recipe("kmeans:3").card
        model = KMeans(card=card, centres=centres, spreads=np.ones(1))
        pixels = np.array([0, 1, 2, 9], dtype).reshape(1, 1, 2, 2)
        assert model.predict(pixels).ravel().tolist() == [0, 0, 1, 1]
        assert model.labels(torch.from_numpy(pixels).float()).tolist() == [
            [[0, 0], [1, 1]]
        ]

    def test_some_bands_only(self, shared):
        recipe, source = fitted("kmeans:3:2,5", scene(shared))
        assert [b.name for b in recipe.load().card.bands] == ["2", "5"]
        assert len(source.bands) == 2

    def test_too_few_colours(self):
        source = replace_select(source_of(np.ones((2, 30, 30), np.uint8)))
        with pytest.raises(ModelError, match="too few for 3 clusters"):
            fitted("kmeans:3", source)

    def test_a_constant_band_is_no_reason_to_fail(self):
        pixels = rng.integers(0, 255, (2, 40, 40), np.uint8)
        pixels[1] = 7
        recipe, _ = fitted("kmeans:2", replace_select(source_of(pixels)))
        labels = recipe.load().predict(pixels[None])
        assert set(np.unique(labels)) == {0, 1}


class TestMixture:
    def test_parity_with_scikit_learn(self, shared):
        mixture = pytest.importorskip("sklearn.mixture")
        recipe, source = fitted("gmm:4", scene(shared))
        model = recipe.load()
        pixels, _ = source.read(Window(y=20, x=30, height=200, width=301))
        rows = pixels.reshape(len(pixels), -1).T.astype(float)
        library = mixture.GaussianMixture(4)
        library.means_, library.precisions_cholesky_ = model.means, model.factors
        determinants = np.log(np.linalg.det(model.factors))
        library.weights_ = np.exp(model.offsets - determinants)
        library.weights_ /= library.weights_.sum()
        expected = library.predict(rows).reshape(200, 301)
        assert (model.predict(pixels[None])[0] == expected).mean() > 0.9999
        assert (np.diff(model.means.mean(axis=1)) > 0).all()

    def test_fitted_twice_it_is_the_same_and_it_travels(self, shared):
        first, source = fitted("gmm:3:2,5", scene(shared))
        second, _ = fitted("gmm:3:2,5", scene(shared))
        assert first.hash == second.hash
        pixels = source.read(Window(y=0, x=0, height=50, width=60))[0][None]
        again = pickle.loads(pickle.dumps(first)).load()
        np.testing.assert_array_equal(
            again.predict(pixels), first.load().predict(pixels)
        )

    def test_clusters_of_unlike_size_are_told_apart(self):
        """A narrow one beside a wide one, into which k-means would cut."""
        narrow = rng.normal(2000, 5, (2, 10000))
        wide = rng.normal(2150, 60, (2, 10000))
        pixels = np.concatenate([narrow, wide], axis=1).astype("f4")
        source = replace_select(source_of(pixels.reshape(2, 100, 200)))
        truth = np.repeat([0, 1], 10000)
        agreement = {}
        for method in ("gmm", "kmeans"):
            recipe, _ = fitted(f"{method}:2", source)
            labels = recipe.load().predict(source.pixels[None])[0].ravel()
            agreement[method] = (labels == truth).mean()
        assert agreement["gmm"] > 0.995 > agreement["kmeans"]


class TestMultiOtsu:
    @pytest.mark.parametrize("classes", [3, 4])
    def test_parity_with_scikit_image(self, shared, classes):
        filters = pytest.importorskip("skimage.filters")
        source = scene(shared).select([3])
        recipe, source = fitted(f"otsu:1:{classes}", source)
        pixels, valid = source.read(source.grid.window)
        levels = filters.threshold_multiotsu(pixels[0][valid].astype(float), classes)
        found = recipe.load().predict(pixels[None])[0]
        assert (found == np.digitize(pixels[0], levels)).mean() > 0.99
        assert found.max() == classes - 1

    @given(st.lists(st.integers(0, 12), min_size=4, max_size=40))
    def test_no_other_values_part_better(self, values):
        pixels = np.array(values, np.uint8)
        if len(set(values)) < 3:
            return
        found = histograms.multi_otsu(
            raster_histogram(source_of(pixels.reshape(1, 1, -1))), 3
        )

        def within(cuts):
            labels = np.digitize(pixels, cuts, right=True)
            parts = [pixels[labels == i] for i in range(3)]
            return sum(part.size * part.var() for part in parts if part.size)

        best = min(within((a, b)) for b in range(13) for a in range(b))
        assert within(found) <= best + 1e-6

    def test_of_an_index_and_its_errors(self, shared):
        recipe, _ = fitted("otsu:('1' - '2') / ('1' + '2'):3", renamed(scene(shared)))
        assert len(recipe.card.classes) == 3
        for spec in ("otsu:nir:1", "otsu:nir:x", "otsu:nir:99"):
            with pytest.raises(ModelError, match="2 … 16"):
                model_recipe(spec)
        with pytest.raises(ModelError, match="too few for 5"):
            fitted("otsu:1:5", replace_select(source_of(np.ones((1, 9, 9), "u1"))))


class TestSample:
    def test_only_valid_pixels_and_enough_of_them(self):
        pixels = np.arange(600 * 700, dtype=np.uint32).reshape(1, 600, 700)
        valid = np.zeros((600, 700), bool)
        valid[500:, 600:] = True
        rows = sample_pixels(source_of(pixels, valid), count=1000)
        assert len(rows) == 1000
        assert valid.ravel()[rows[:, 0]].all()
        assert len(np.unique(rows)) == 1000

    def test_it_is_spread_over_the_raster(self):
        y, x = np.mgrid[:1500, :1500]
        rows = sample_pixels(source_of(np.stack([y, x]).astype("u2")), count=20000)
        for axis in rows.T:
            assert np.histogram(axis, 5, (0, 1500))[0].min() > 1000

    def test_other_seeds_other_pixels(self):
        source = source_of(np.arange(300 * 300, dtype="u4").reshape(1, 300, 300))
        same, again = (sample_pixels(source, count=500, seed=1) for _ in range(2))
        np.testing.assert_array_equal(same, again)
        assert (sample_pixels(source, count=500, seed=2) != same).any()

    def test_the_huge_are_sampled_lazily(self):
        order = samples._distinct(10**12, np.random.Philox(key=0))
        some = [next(order) for _ in range(100)]
        assert len(set(some)) == 100
        assert max(some) < 10**12


def test_recipes_of_classical_models_are_small(shared):
    recipe, _ = fitted("kmeans:6", scene(shared))
    assert len(pickle.dumps(recipe)) < 4000
