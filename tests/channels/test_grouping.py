"""Orders of channels, judged by all partitions where there are few."""

import itertools

import numpy as np
import pytest

from keras_dyngate.channels.grouping import group_channels


def runs(is_open, groups):
    """Groups with an open channel, summed over the samples."""
    return sum(int(is_open[:, list(group)].any(axis=1).sum()) for group in groups)


def cut(order, size):
    return np.reshape(order, (-1, size))


def partitions(channels, size):
    """Every way to split `channels` into groups of `size`."""
    if not channels:
        yield []
        return
    first, rest = channels[0], channels[1:]
    for others in itertools.combinations(rest, size - 1):
        left = [c for c in rest if c not in others]
        for groups in partitions(left, size):
            yield [(first, *others), *groups]


def random_decisions(seed, samples=60, channels=8, classes=5):
    """Channels follow the class of a sample, each with its own probability."""
    rng = np.random.default_rng(seed)
    probability = rng.beta(0.4, 0.4, (classes, channels))
    return (
        rng.random((samples, channels))
        < probability[rng.integers(classes, size=samples)]
    )


@pytest.mark.parametrize("size", [2, 4])
def test_close_to_the_best_of_all_partitions(size):
    found, best, given = [], [], []
    for seed in range(12):
        is_open = random_decisions(seed)
        found.append(runs(is_open, cut(group_channels(is_open, size), size)))
        best.append(min(runs(is_open, p) for p in partitions(list(range(8)), size)))
        given.append(runs(is_open, cut(np.arange(8), size)))
    assert np.all(np.array(found) <= 1.03 * np.array(best))
    assert np.sum(found) <= 1.005 * np.sum(best)
    assert np.sum(best) < 0.95 * np.sum(given)  # there was something to find


@pytest.mark.parametrize("channels, size", [(16, 4), (64, 8), (96, 16)])
def test_finds_groups_that_were_hidden(channels, size):
    count = channels // size
    rng = np.random.default_rng(1)
    member = rng.permutation(channels) % count
    wanted = rng.random((300, count)) < rng.uniform(0.2, 0.8, count)
    is_open = wanted[:, member] & (rng.random((300, channels)) < 0.7)
    order = group_channels(is_open, size)
    found = {frozenset(group) for group in cut(order, size).tolist()}
    hidden = {frozenset(np.flatnonzero(member == k).tolist()) for k in range(count)}
    assert found == hidden


def test_busiest_groups_first_and_channels_in_their_old_order():
    rows = ["010110", "000110", "100011", "100011"]
    is_open = np.array([[c == "1" for c in row] for row in rows])
    np.testing.assert_array_equal(group_channels(is_open, 2), [3, 4, 0, 5, 1, 2])


@pytest.mark.parametrize("samples", [1, 7, 64, 65])
def test_any_number_of_samples_gives_a_permutation_no_worse_than_the_given(samples):
    is_open = random_decisions(3, samples, channels=24)
    order = group_channels(is_open, 4)
    assert sorted(order) == list(range(24))
    assert runs(is_open, cut(order, 4)) <= runs(is_open, cut(np.arange(24), 4))
    np.testing.assert_array_equal(order, group_channels(is_open.copy(), 4))


def test_keeps_the_order_where_there_is_nothing_to_choose():
    is_open = random_decisions(0)
    np.testing.assert_array_equal(group_channels(is_open, 8), np.arange(8))
    np.testing.assert_array_equal(group_channels(is_open[:0], 2), np.arange(8))
