"""The order of training: each epoch has each window once, in an order that looks drawn and needs no memory."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamita.data import BatchOrder, permute


def sequence(order: BatchOrder, steps: int) -> np.ndarray:
    return np.concatenate([order.indices(step) for step in range(steps)])


@pytest.mark.parametrize("num_windows", [1, 2, 3, 7, 8, 9, 63, 64, 65, 100, 257])
@pytest.mark.parametrize("batch_size", [1, 2, 5, 8, 64, 300])
def test_every_epoch_has_each_window_exactly_once(num_windows, batch_size):
    epochs = 3
    order = BatchOrder(num_windows, batch_size, seed=1)
    windows = sequence(order, order.steps(epochs))[: epochs * num_windows].reshape(epochs, num_windows)
    assert windows.dtype == np.int64
    np.testing.assert_array_equal(np.sort(windows), np.tile(np.arange(num_windows), (epochs, 1)))


@given(st.integers(1, 50), st.integers(1, 40), st.integers(0, 2**62), st.integers(0, 100))
@settings(max_examples=50, deadline=None)
def test_a_single_step_equals_that_step_of_the_sequence(num_windows, batch_size, seed, step):
    """Cut into other batches, the order of the sequences is the same: nothing but its number places a sequence."""
    singles = BatchOrder(num_windows, 1, seed)
    expected = [singles.indices(step * batch_size + i)[0] for i in range(batch_size)]
    np.testing.assert_array_equal(BatchOrder(num_windows, batch_size, seed).indices(step), expected)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 16, 17, 63, 64, 65, 1000, 4097])
def test_permute_is_a_permutation(n):
    for key in (0, 1, 2**63 - 1):
        np.testing.assert_array_equal(np.sort(permute(np.arange(n), n, key)), np.arange(n))


def test_permute_keeps_the_shape_and_takes_large_sizes():
    n = 2**40 - 12345
    index = np.arange(n - 6, n).reshape(2, 3)
    there = permute(index, n, 7)
    assert there.shape == (2, 3)
    assert ((there >= 0) & (there < n)).all()
    assert permute(np.int64(5), 10, 7).shape == ()
    assert len(np.unique(permute(np.arange(100_000), n, 7))) == 100_000


def test_the_order_has_not_changed_between_versions():
    """A run of yesterday is resumed tomorrow: these numbers may never change."""
    assert BatchOrder(10, 4, seed=0).indices(0).tolist() == [8, 3, 5, 2]
    assert BatchOrder(1_000_000, 4, seed=42).indices(1000).tolist() == [273938, 107830, 975940, 534012]


def chi_square_per_freedom(counts: np.ndarray) -> float:
    expected = counts.sum() / counts.size
    return float(((counts - expected) ** 2).sum() / expected / (counts.size - 1))


@pytest.mark.parametrize(("n", "limit"), [(2, 8), (3, 4), (4, 2), (5, 1.5)])  # each far in the tail of chi-square
def test_all_orders_of_a_few_windows_are_equally_likely(n, limit):
    orders = np.array([permute(np.arange(n), n, key) for key in range(1500)]) @ n ** np.arange(n)
    counts = np.unique(orders, return_counts=True)[1]
    assert counts.size == [1, 1, 2, 6, 24, 120][n]
    assert chi_square_per_freedom(counts) < limit


def test_each_window_is_at_each_position_equally_often():
    n = 40
    counts = np.zeros((n, n))
    for key in range(4000):
        counts[np.arange(n), permute(np.arange(n), n, key)] += 1
    assert 0.9 < chi_square_per_freedom(counts) < 1.1


def test_neighbours_do_not_stay_neighbours():
    n = 10_000
    distance = np.diff(permute(np.arange(n), n, 3))
    assert (np.abs(distance) == 1).sum() < 10  # two are expected
    assert abs(np.corrcoef(distance[:-1], distance[1:])[0, 1] + 0.5) < 0.03  # as for independent places
    assert len(np.unique(distance)) > 5000


def test_epochs_and_seeds_are_unrelated():
    n = 10_000
    orders = [sequence(BatchOrder(n, 2 * n, seed), 1).reshape(2, n) for seed in (0, 1)]
    (a, b), (c, _) = orders
    for other in (b, c):
        assert abs(np.corrcoef(a, other)[0, 1]) < 0.04
        assert (a == other).sum() < 10  # one is expected
        assert np.unique((a - other) % n).size > 5000  # nor is one the other, moved


def test_steps_covers_the_epochs():
    assert BatchOrder(10, 4, 0).steps(1) == 3
    assert BatchOrder(10, 4, 0).steps(2) == 5
    assert BatchOrder(10, 4, 0).steps(0.5) == 2


@pytest.mark.parametrize(("windows", "batch_size"), [(10, 4), (12, 4), (3, 8), (7, 1)])
def test_an_epoch_ends_with_the_update_in_which_its_last_window_is_seen(windows, batch_size):
    order = BatchOrder(windows, batch_size, 0)
    for step in range(1, 40):
        seen = range((step - 1) * batch_size, step * batch_size)
        assert order.ends_epoch(step) == any(g % windows == windows - 1 for g in seen)
    assert order.ends_epoch(order.steps(1))


def test_impossible_orders_are_refused():
    for num_windows, batch_size in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            BatchOrder(num_windows, batch_size, 0)
    with pytest.raises(ValueError, match="count from 0"):
        BatchOrder(1, 1, 0).indices(-1)
