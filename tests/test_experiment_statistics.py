"""Paired statistics agree with scipy and with brute force."""

import math
from itertools import product

import numpy as np
import pytest

from llamita.experiments.statistics import (
    bootstrap_interval,
    holm,
    paired_difference,
    paired_t,
    seeds_needed,
    t_cdf,
    t_quantile,
)

stats = pytest.importorskip("scipy.stats")


def samples(n: int, mean: float = 0.3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 1.0, n)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 8, 9, 30, 101])
def test_students_distribution_is_that_of_scipy(freedom):
    for t in (-7.0, -1.3, 0.0, 0.2, 2.5, 12.0):
        assert t_cdf(t, freedom) == pytest.approx(stats.t.cdf(t, freedom), abs=1e-12)
    for probability in (0.6, 0.8, 0.975, 0.999):
        assert t_quantile(probability, freedom) == pytest.approx(stats.t.ppf(probability, freedom), rel=1e-9)


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_interval_and_p_value_are_those_of_scipys_paired_t_test(n):
    a, b = samples(n, seed=1), samples(n, seed=2)
    found, expected = paired_difference(a - b), stats.ttest_rel(a, b)
    assert found.mean == pytest.approx(np.mean(a - b))
    assert found.p_value == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_the_bootstrap_interval_is_that_of_all_resamples():
    d = samples(4)
    means = [np.mean(sample) for sample in product(d, repeat=4)]  # all 256
    assert bootstrap_interval(d) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.05)


def test_the_bootstrap_interval_is_that_of_scipy():
    d = samples(20)
    expected = stats.bootstrap((d,), np.mean, method="percentile", n_resamples=10_000, rng=0).confidence_interval
    assert bootstrap_interval(d) == pytest.approx((expected.low, expected.high), abs=0.03)


def test_holms_correction_follows_its_definition():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
    adjusted = holm([math.nan, 0.02, 0.01])
    assert math.isnan(adjusted[0])
    assert adjusted[1:] == pytest.approx([0.02, 0.02])


@pytest.mark.parametrize("effect", [0.3, 0.5, 1.0, 2.0, 4.0])
def test_the_seeds_needed_give_80_percent_power_by_the_noncentral_t_distribution(effect):
    def power(n: int) -> float:
        bound = stats.t.ppf(0.975, n - 1)
        shift = effect * math.sqrt(n)
        return 1 - stats.nct.cdf(bound, n - 1, shift) + stats.nct.cdf(-bound, n - 1, shift)

    exact = next(n for n in range(2, 1000) if power(n) >= 0.8)
    assert abs(seeds_needed(effect, 1.0) - exact) <= 1


def test_intervals_cover_the_truth_as_often_as_they_promise():
    covered = 0
    for seed in range(400):
        low, high, _ = paired_t(samples(5, mean=0.3, seed=seed))
        covered += low <= 0.3 <= high
    assert 0.92 < covered / 400 < 0.98


def test_one_pair_tells_no_interval_and_no_pair_no_mean():
    one = paired_difference([0.5])
    assert one.mean == 0.5
    assert math.isnan(one.low)
    assert math.isnan(one.p_value)
    assert math.isnan(paired_difference([]).mean)


def test_equal_differences_have_an_interval_of_zero_width():
    same = paired_difference([0.25, 0.25, 0.25])
    assert (same.low, same.high, same.p_value) == (0.25, 0.25, 0.0)
    zero = paired_difference([0.0, 0.0])
    assert (zero.p_value, zero.seeds_needed) == (1.0, 0)
