"""Disjoint sets beside a brute-force search of what is connected."""

import numpy as np

from keras_dyngate.flatfile.joined import Joined


def connected(pairs):
    found = [{key} for key in {key for pair in pairs for key in pair}]
    for a, b in pairs:
        first = next(s for s in found if a in s)
        second = next(s for s in found if b in s)
        if first is not second:
            found.remove(second)
            first |= second
    return sorted(map(sorted, found))


def test_sets_are_what_is_connected():
    rng = np.random.default_rng(0)
    for count in (1, 5, 30):
        keys = [(int(a), int(b)) for a, b in rng.integers(0, 6, (2 * count, 2))]
        pairs = list(zip(keys[::2], keys[1::2], strict=True))
        joined = Joined()
        for pair in pairs:
            joined.join(*pair)
        sets = joined.sets()
        assert sorted(map(sorted, sets.values())) == connected(pairs)
        assert all(joined.find(key) == top for top, s in sets.items() for key in s)
