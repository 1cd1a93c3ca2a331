"""Boosted trees and support vector machines, kept as arrays, against scikit-learn."""

import json

import numpy as np
import pytest
import small
from scipy.special import softmax

from geoseg.core.grid import Window
from geoseg.errors import ModelError
from geoseg.models.classical.forest import Trees
from geoseg.models.classical.pixel_features import PixelFeatures
from geoseg.models.classical.pixelwise import save
from geoseg.models.classical.svm import Machine
from geoseg.models.load import load_model, model_recipe
from geoseg.models.plain import card_from_dict
from geoseg.rasters.open import open_source

ensemble = pytest.importorskip("sklearn.ensemble")
linear_model = pytest.importorskip("sklearn.linear_model")
preprocessing = pytest.importorskip("sklearn.preprocessing")
svm = pytest.importorskip("sklearn.svm")

FEATURES = PixelFeatures(scales=(1.0, 2.0), differences=True)


def a_card(classes, bands=8, **more):
    return card_from_dict(
        {
            "bands": [str(i + 1) for i in range(bands)],
            "classes": [f"class {i}" for i in range(classes)],
            "window": 128, "overlap": 32, "multiple": 1, **more,
        }
    )  # fmt: skip


def save_svm(machine, features, card, folder):
    return save(machine, features, card, folder, family="svm", output="logits")


@pytest.fixture(scope="module")
def window(shared):
    """Return the features of a piece of a real scene of eight bands, and its pixels."""
    source = open_source(str(shared / "ftw_austria" / "inference-img.tif"))
    pixels = source.read(Window(y=100, x=60, height=90, width=120))[0]
    return FEATURES.of(pixels), pixels


def labelled(features, classes):
    """Return rows of features, and classes that depend on some of them."""
    rows = features.reshape(len(features), -1).T
    rank = rows[:, [3, 20, 41]].argsort(0).argsort(0).sum(1)
    edges = np.quantile(rank, np.linspace(0, 1, classes + 1)[1:-1])
    return rows, np.searchsorted(edges, rank)


@pytest.mark.parametrize("classes", [2, 4])
def test_boosted_trees(tmp_path, window, classes):
    """Probabilities of `HistGradientBoostingClassifier`, from a saved folder."""
    features, pixels = window
    rows, y = labelled(features, classes)
    library = ensemble.HistGradientBoostingClassifier(max_iter=12, random_state=0)
    library.fit(rows[::7], y[::7])
    trees = Trees.of_boosting(library, classes)
    save(trees, FEATURES, a_card(classes), tmp_path, family="forest", output="logits")
    scores = softmax(load_model(tmp_path).predict(pixels[None])[0], 0)
    expected = library.predict_proba(rows).T.reshape(scores.shape)
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    same = scores.argmax(0) == library.predict(rows).reshape(scores.shape[1:])
    assert same.mean() > 0.9999
    assert 0.2 < scores.max(0).mean() < 1


def test_boosting_that_has_not_seen_a_class(window):
    rows, y = labelled(window[0], 3)
    library = ensemble.HistGradientBoostingClassifier(max_iter=3)
    library.fit(rows[::29], np.array([0, 2, 4])[y[::29]])
    scores = softmax(Trees.of_boosting(library, 5).predict(window[0]), 0)
    assert scores[[1, 3]].max() < 1e-12
    expected = library.predict_proba(rows).T.reshape(3, *scores.shape[1:])
    np.testing.assert_allclose(scores[[0, 2, 4]], expected, atol=1e-4)


@pytest.mark.parametrize("kernel", ["rbf", "linear"])
@pytest.mark.parametrize("classes", [2, 4])
def test_support_vectors(tmp_path, window, classes, kernel):
    """The decision function of `SVC`, from a saved folder."""
    features, pixels = window
    rows, y = labelled(features, classes)
    scaler = preprocessing.StandardScaler().fit(rows[::7])
    library = svm.SVC(kernel=kernel, C=5, break_ties=True)
    library.fit(scaler.transform(rows[::23]), y[::23])
    machine = Machine.of(library, classes, scaler)
    save_svm(machine, FEATURES, a_card(classes), tmp_path)
    scores = load_model(tmp_path).predict(pixels[None])[0]
    scaled = scaler.transform(rows)
    expected = library.decision_function(scaled)
    if classes == 2:
        expected = np.stack([np.zeros_like(expected), expected], 1)
    expected = expected.T.reshape(scores.shape)
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    predicted = library.predict(scaled).reshape(scores.shape[1:])
    assert (scores.argmax(0) == predicted).mean() > 0.9995


@pytest.mark.parametrize("make", ["LinearSVC", "LogisticRegression"])
@pytest.mark.parametrize("classes", [2, 3])
def test_linear_classifiers(window, classes, make):
    rows, y = labelled(window[0], classes)
    scaler = preprocessing.StandardScaler().fit(rows)
    factory = svm.LinearSVC if make == "LinearSVC" else linear_model.LogisticRegression
    library = factory(max_iter=2000).fit(scaler.transform(rows[::17]), y[::17])
    scores = Machine.of(library, classes, scaler).predict(window[0])
    predicted = library.predict(scaler.transform(rows)).reshape(scores.shape[1:])
    assert (scores.argmax(0) == predicted).mean() > 0.9995


def test_blocks_do_not_matter(tmp_path, shared):
    source = open_source(str(shared / "ftw_austria" / "inference-img.tif"))
    rows, y = labelled(FEATURES.of(source.read(source.grid.window)[0]), 3)
    library = svm.SVC().fit(rows[::997], y[::997])
    card = a_card(3)
    save_svm(Machine.of(library, 3), FEATURES, card, tmp_path / "svm")
    maps = [
        small.segment(
            str(shared / "ftw_austria" / "inference-img.tif"), model=tmp_path / "svm",
            out=tmp_path / f"{b}.zarr", chunk=192, block=b, scores=True,
        )["classes"].to_numpy()
        for b in (192, 576)
    ]  # fmt: skip
    np.testing.assert_array_equal(*maps)
    assert len(np.unique(maps[0])) >= 3
    assert load_model(tmp_path / "svm").working_bytes() > 1 << 27


@pytest.mark.parametrize("name", ["support", "weights", "places", "intercept"])
def test_a_damaged_machine_is_refused(window, name):
    rows, y = labelled(window[0], 3)
    machine = Machine.of(svm.SVC().fit(rows[::97], y[::97]), 3)
    arrays = dict(machine.arrays())
    assert Machine.from_arrays(arrays).features == machine.features
    damaged = arrays | {name: arrays[name][:-1]}
    with pytest.raises(ModelError, match="damaged"):
        Machine.from_arrays(damaged)
    del arrays[name]
    with pytest.raises(ModelError, match=f"lacks {name}"):
        Machine.from_arrays(arrays)


def test_what_does_not_go_together(tmp_path, window):
    rows, y = labelled(window[0], 3)
    machine = Machine.of(svm.SVC().fit(rows[::97], y[::97]), 3)
    with pytest.raises(ModelError, match="4 classes, the svm 3"):
        save_svm(machine, FEATURES, a_card(4), tmp_path)
    with pytest.raises(ModelError, match=r"looks at feature \d+, but its card makes"):
        save_svm(machine, PixelFeatures(scales=()), a_card(3), tmp_path)
    with pytest.raises(ModelError, match="neither rbf nor linear"):
        Machine.of(svm.SVC(kernel="poly").fit(rows[::97], y[::97]), 3)
    save_svm(machine, FEATURES, a_card(3), tmp_path)
    assert model_recipe(tmp_path).card.framework["family"] == "svm"
    assert "pickle" not in json.dumps(model_recipe(tmp_path).card.framework)
