"""Which channels to put side by side, so that few groups of them are ever open.

A file executes channels in groups, and a group runs when any of its channels is open.
`group_channels` orders channels so that those that open on the same samples share a
group. Design of this library.
"""

import numpy as np


def _bits(is_open: np.ndarray) -> np.ndarray:
    """bool `[samples, channels]` as rows of bits, uint64 `[channels, w]`."""
    packed = np.packbits(is_open.T, axis=1)
    padded = np.pad(packed, ((0, 0), (0, -packed.shape[1] % 8)))
    return np.ascontiguousarray(padded).view(np.uint64)


def _count(bits: np.ndarray) -> np.ndarray:
    """Samples in sets of bits `[..., w]`."""
    return np.bitwise_count(bits).sum(axis=-1, dtype=np.int64)


def _greedy(bits: np.ndarray, group_size: int) -> np.ndarray:
    """Groups `[groups, size]` filled one after the other, the busiest channel first.

    The channel joins whose open samples the group runs on already, less those that it
    would add, are most.
    """
    counts = _count(bits)
    left = np.ones(len(bits), bool)
    chosen: list[int] = []
    union = np.zeros_like(bits[0])
    for position in range(len(bits)):
        merit = _count(bits & union) - _count(bits & ~union)
        if position % group_size == 0:
            union, merit = np.zeros_like(union), counts
        best = int(np.argmax(np.where(left, merit, np.iinfo(np.int64).min)))
        chosen.append(best)
        left[best] = False
        union = union | bits[best]
    return np.reshape(chosen, (-1, group_size))


def _without_each(members: np.ndarray) -> np.ndarray:
    """Union of a group's bits `[size, w]` without each member in turn, `[size, w]`."""
    once, twice = np.zeros_like(members[0]), np.zeros_like(members[0])
    for row in members:
        twice |= once & row
        once |= row
    return twice | (once & ~members)


def _swap(bits: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Exchange the pair of channels that saves most, until none saves anything."""
    groups = groups.copy()
    n = len(bits)
    home = np.empty(n, np.int64)
    union = np.empty(n, np.int64)  # samples on which a channel's group runs
    placed = np.empty((n, n), np.int64)  # the same if j took the place of i

    def refresh(group: int) -> None:
        members = groups[group]
        home[members] = group
        union[members] = _count(np.bitwise_or.reduce(bits[members], axis=0))
        rest = _without_each(bits[members])
        placed[members] = _count(rest[:, None] | bits[None])

    for group in range(len(groups)):
        refresh(group)
    while True:
        gain = union[:, None] + union[None] - placed - placed.T
        gain[home[:, None] == home[None]] = 0
        i, j = np.unravel_index(int(np.argmax(gain)), gain.shape)
        if gain[i, j] <= 0:
            return groups
        a, b = int(home[i]), int(home[j])
        groups[a][groups[a] == i] = j
        groups[b][groups[b] == j] = i
        refresh(a)
        refresh(b)


def group_channels(is_open: np.ndarray, group_size: int) -> np.ndarray:
    """An order of channels in which few groups are open per sample.

    Three starts (the given order, by open rate, and filled greedily), the latter two
    improved by exchanging pairs while that helps; the best of all is taken. The result
    does not depend on chance, and is never worse than the given order on `is_open`.

    Args:
        is_open: bool `[samples, channels]`.
        group_size: Channels per group, a divisor of the channels.

    Returns:
        int `[channels]`: the old index of each new channel, the busiest groups first.
    """
    channels = is_open.shape[1]
    bits = _bits(is_open)
    if group_size == channels or not len(is_open):
        return np.arange(channels)
    by_rate = np.argsort(-_count(bits), kind="stable").reshape(-1, group_size)
    candidates = [
        np.arange(channels).reshape(-1, group_size),
        _swap(bits, by_rate),
        _swap(bits, _greedy(bits, group_size)),
    ]
    runs = [
        int(_count(np.bitwise_or.reduce(bits[groups], axis=1)).sum())
        for groups in candidates
    ]
    best = np.sort(candidates[int(np.argmin(runs))], axis=1)
    busy = _count(np.bitwise_or.reduce(bits[best], axis=1))
    return best[np.argsort(-busy, kind="stable")].reshape(-1)
