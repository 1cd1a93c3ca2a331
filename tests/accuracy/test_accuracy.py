"""Estimators against the papers' own worked examples, and against their laws."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import cohen_kappa_score, f1_score, jaccard_score

from geoseg.accuracy.accuracy import estimate
from geoseg.accuracy.interval import Estimate
from geoseg.errors import GeosegError

CHANGE = ("deforestation", "forest gain", "stable forest", "stable non-forest")


def olofsson_2014():
    """Tables 8 and 9 of Olofsson et al. (2014): counts and mapped 30 m pixels."""
    counts = [
        [66, 0, 5, 4],
        [0, 55, 8, 12],
        [1, 0, 153, 11],
        [2, 1, 9, 313],
    ]
    return counts, np.array([200_000, 150_000, 3_200_000, 6_450_000])


def printed(figure: Estimate, digits: int) -> tuple[str, str]:
    return f"{figure.value:.{digits}f}", f"{figure.margin:.{digits}f}"


def test_olofsson_2014_to_the_printed_digits():
    counts, mapped = olofsson_2014()
    got = estimate(counts, names=CHANGE, strata=mapped)
    assert printed(got.overall, 2) == ("0.95", "0.02")
    assert [printed(c.users, 2) for c in got.per_class] == [
        ("0.88", "0.07"), ("0.73", "0.10"), ("0.93", "0.04"), ("0.96", "0.02"),
    ]  # fmt: skip
    # The paper prints 0.23 and 0.01 for the second and fourth margin; its own equation
    # 7 gives 0.254 and 0.018, and that is what is held here.
    assert [printed(c.producers, 2) for c in got.per_class] == [
        ("0.75", "0.21"), ("0.85", "0.25"), ("0.93", "0.03"), ("0.96", "0.02"),
    ]  # fmt: skip
    # Deforestation in pixels, then every class in hectares.
    pixels = got.per_class[0].area.scaled(mapped.sum())
    assert printed(pixels, 0) == ("235086", "68418")
    hectares = [c.area.scaled(mapped.sum() * 0.09) for c in got.per_class]
    assert [printed(h, 0) for h in hectares] == [
        ("21158", "6158"), ("11686", "3756"), ("285770", "15510"), ("581386", "16282"),
    ]  # fmt: skip
    # Table 9: estimated proportions of area.
    assert np.array_equal(
        got.proportions.round(4),
        [
            [0.0176, 0.0000, 0.0013, 0.0011],
            [0.0000, 0.0110, 0.0016, 0.0024],
            [0.0019, 0.0000, 0.2967, 0.0213],
            [0.0040, 0.0020, 0.0179, 0.6212],
        ],
    )


def stehman_2014():
    """Table 2 of Stehman (2014): 10 samples in each of four strata, not the classes."""
    letters = dict(zip("ABCD", range(4), strict=True))
    mapped = "AAAAAAABBB" + "ABBBBBBBBB" + "BBCCCCCCBB" + "DDDDDDDDDD"
    truth = "AAAAACBABC" + "ABBBBBAABB" + "CCCCCDDBBA" + "DDDDDDDCCB"
    counts = np.zeros((4, 4, 4), int)
    for u, (m, r) in enumerate(zip(mapped, truth, strict=True)):
        counts[u // 10, letters[m], letters[r]] += 1
    return counts, [40_000, 30_000, 20_000, 10_000]


def test_stehman_2014_to_the_printed_digits():
    counts, sizes = stehman_2014()
    got = estimate(counts, names="ABCD", strata=sizes, finite_population=True)
    a, b, c, _ = got.per_class

    def digits(figure):
        return round(figure.value, 3), round(figure.standard_error, 3)

    assert digits(a.area) == (0.35, 0.082)
    assert digits(c.area) == (0.20, 0.064)
    assert digits(got.overall) == (0.63, 0.085)
    assert digits(b.users) == (0.574, 0.125)
    # The paper prints 0.114: it puts 0 for the last stratum's variance of x where its
    # own Table 3 has 0.10. With 0.10 its equation 28 gives 0.117.
    assert digits(b.producers) == (0.794, 0.117)
    assert got.proportions[1, 2] == pytest.approx(0.08)


def test_strata_as_map_classes_are_one_case_of_strata_that_are_not():
    counts, mapped = olofsson_2014()
    split = np.zeros((4, 4, 4))
    split[np.arange(4), np.arange(4)] = counts
    one = estimate(counts, names=CHANGE, strata=mapped).to_dict()
    assert estimate(split, names=CHANGE, strata=mapped).to_dict() == one


def test_census_has_no_sampling_error_and_matches_scikit_learn():
    rng = np.random.default_rng(4)
    truth, mapped = rng.integers(0, 5, 4000), rng.integers(0, 5, 4000)
    mapped = np.where(rng.random(4000) < 0.6, truth, mapped)
    counts = np.zeros((5, 5), int)
    np.add.at(counts, (mapped, truth), 1)
    got = estimate(counts, names="abcde", estimator="census")
    assert got.overall.value == pytest.approx((truth == mapped).mean())
    assert all(c.iou.standard_error == 0 for c in got.per_class)
    assert [c.f1.value for c in got.per_class] == pytest.approx(
        list(f1_score(truth, mapped, average=None))
    )
    assert [c.iou.value for c in got.per_class] == pytest.approx(
        list(jaccard_score(truth, mapped, average=None))
    )
    assert got.kappa == pytest.approx(cohen_kappa_score(truth, mapped))


matrices = arrays(np.int64, (4, 4), elements=st.integers(0, 60)).filter(
    lambda a: a.sum() > 0
)


@given(counts=matrices, sizes=arrays(float, 4, elements=st.floats(1, 1e6)))
def test_proportions_add_up_and_disagreement_is_quantity_plus_allocation(counts, sizes):
    got = estimate(counts, names="abcd", strata=sizes)
    assert got.proportions.sum() == pytest.approx(1)
    assert got.quantity + got.allocation == pytest.approx(1 - got.overall.value)
    assert sum(c.area.value for c in got.per_class) == pytest.approx(1)
    for c in got.per_class:
        if np.isfinite(c.f1.value):
            assert c.f1.value == pytest.approx(2 * c.iou.value / (1 + c.iou.value))


@given(counts=matrices, factor=st.floats(1e-3, 1e3))
def test_units_of_the_strata_do_not_matter(counts, factor):
    sizes = np.array([5.0, 50.0, 500.0, 5000.0])
    one = estimate(counts, names="abcd", strata=sizes)
    other = estimate(counts, names="abcd", strata=sizes * factor)
    assert np.allclose(one.proportions, other.proportions)
    assert np.allclose(
        one.overall.standard_error, other.overall.standard_error, equal_nan=True
    )


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Draw the same design 1500 times from a known population."""
    rng = np.random.default_rng(7)
    truth_by_map = np.array([[0.85, 0.10, 0.05], [0.04, 0.90, 0.06], [0.02, 0.08, 0.9]])
    sizes, n = np.array([2e4, 3e5, 7e5]), [60, 60, 60]
    true_area = sizes @ truth_by_map / sizes.sum()
    joint = sizes[:, None] * truth_by_map
    true_recall = joint[0, 0] / joint[:, 0].sum()
    hits_area = hits_recall = 0
    for _ in range(1500):
        rows = zip(n, truth_by_map, strict=True)
        counts = np.stack([rng.multinomial(k, p) for k, p in rows])
        got = estimate(counts, names="abc", strata=sizes).per_class
        hits_area += got[1].area.low <= true_area[1] <= got[1].area.high
        hits_recall += (
            abs(got[0].producers.value - true_recall) < got[0].producers.margin
        )
    assert 0.92 < hits_area / 1500 < 0.98
    assert 0.85 < hits_recall / 1500 < 0.99  # a ratio of a rare class, skewed


def test_a_single_sample_spoils_only_what_hangs_on_it_alone():
    got = estimate([[1, 0], [2, 8]], names="ab", strata=[10, 90])
    first, second = got.per_class
    # User's accuracy depends on its own stratum only (Olofsson et al. 2014, eq. 6).
    assert second.users.standard_error == pytest.approx((0.8 * 0.2 / 9) ** 0.5)
    assert np.isnan(first.users.standard_error)
    assert first.users.to_dict()["low"] is None
    # The single sample's distance from the others stands for its stratum's spread.
    alone, spread = 10 * (1 - 0.8), 90**2 * 0.8 * 0.2 / 9
    expected = (alone**2 + spread) ** 0.5 / 100
    assert got.overall.standard_error == pytest.approx(expected)
    assert any("single sample (a)" in note for note in got.notes)
    json.dumps(got.to_dict(kappa=True), allow_nan=False)


def test_a_stratum_that_was_looked_at_wholly_adds_no_error():
    counts, strata = [[1, 0], [2, 8]], [1, 90]
    got = estimate(counts, names="ab", strata=strata, population=strata)
    assert got.per_class[0].users.standard_error == 0
    alone = estimate([[0, 0], [2, 8]], names="ab", strata=strata, population=strata)
    assert got.overall.standard_error == pytest.approx(
        alone.overall.standard_error * 90 / 91
    )


def test_the_variance_of_single_samples_errs_on_the_safe_side():
    """Over all samples, it is on average no less than the true variance."""
    rng = np.random.default_rng(11)
    truth = [np.array([[0.7, 0.3], [0, 0]]), np.array([[0, 0], [0.1, 0.9]])]
    sizes, values, variances = [30.0, 70.0], [], []
    for _ in range(2000):
        counts = np.stack(
            [rng.multinomial(n, p.ravel()).reshape(2, 2) for n, p in
             zip((1, 40), truth, strict=True)]
        )  # fmt: skip
        got = estimate(counts, names="ab", strata=sizes).overall
        values.append(got.value)
        variances.append(got.standard_error**2)
    assert np.mean(variances) >= np.var(values)


def test_intervals_stay_within_nothing_and_all():
    few = estimate([[29, 1], [0, 30]], names="ab", strata=[1, 1]).per_class[0].users
    assert few.value + few.margin > 1
    assert 0.7 < few.low < few.value < few.high < 1
    with np.errstate(all="raise"):  # a word of numpy's is none of ours
        rare = Estimate(value=1e-9, standard_error=1e-3, most=1.0, n=50)
        assert (rare.low, rare.high) == (0, 1)
    # Wilson (1927) where all are right: n / (n + z²).
    all_right = estimate([[30, 0], [0, 30]], names="ab", strata=[1, 1]).per_class[1]
    assert all_right.users.low == pytest.approx(30 / (30 + 1.96**2))
    assert all_right.users.high == 1
    assert all_right.users.scaled(500.0).high == 500
    assert all_right.users.scaled(500.0).low == pytest.approx(500 * all_right.users.low)
    census = estimate([[30, 0], [0, 30]], names="ab", estimator="census").overall
    assert (census.low, census.high) == (1, 1)


def test_strata_without_samples_are_left_out_and_named():
    got = estimate([[9, 1], [0, 0]], names="ab", strata=[10, 90])
    assert got.overall.value == pytest.approx(0.9)
    assert any("(b; 90.0 % of the area)" in note for note in got.notes)


@pytest.mark.parametrize(
    ("counts", "strata", "words"),
    [
        ([[1, 2, 3]], [1], "does not fit 2 class names"),
        ([[0, 0], [0, 0]], [1, 1], "nothing to evaluate"),
        ([[1, 0], [0, 1]], [1, 1, 1], "as many finite sizes"),
        ([[1, 0], [0, 1]], [1, float("nan")], "as many finite sizes"),
        ([[1, 0], [0, 1]], [1, 0], "size 0"),
        ([[1, -1], [0, 1]], [1, 1], "negative"),
    ],
)
def test_numbers_that_do_not_go_together(counts, strata, words):
    with pytest.raises(GeosegError, match=words):
        estimate(counts, names="ab", strata=strata)
