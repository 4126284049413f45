import keras
import numpy as np
import pytest

from keras_dyngate.models.exits import lesson_data as teaching_data
from keras_dyngate.models.exits.data import Batch
from keras_dyngate.models.exits.lesson_data import (
    Stream,
    as_arrays,
    held_out,
    plain,
)

N = 10
X = np.arange(N * 3, dtype="float32").reshape(N, 3)
Y = np.arange(N) % 4
W = np.linspace(1, 2, N)


def stream(size=4, mixtures=0.0, augmentation=None, seed=0, arrays=None, opened=None):
    arrays = Batch(X, Y, W) if arrays is None and opened is None else arrays
    return Stream(
        opened,
        arrays,
        batch_size=size,
        mixtures=mixtures,
        augmentation=augmentation,
        seed=seed,
    )


def some(count, *args, start=0, **kwargs):
    batches = stream(*args, **kwargs)(start)
    return [next(batches) for _ in range(count)]


def same(first, second):
    for a, b in zip(first, second, strict=True):
        for one, other in zip(a, b, strict=True):
            np.testing.assert_array_equal(one, other)


def noise(images, rng):
    return images + rng.normal(size=images.shape)


class TestStream:
    def test_every_epoch_is_another_order(self):
        found = some(6)
        assert [len(x) for x, _, _ in found] == [4, 4, 2, 4, 4, 2]
        assert [v.dtype for v in found[0]] == ["float32", "int32", "float32"]
        orders = []
        for epoch in (found[:3], found[3:]):
            x, y, w = (np.concatenate(parts) for parts in zip(*epoch, strict=True))
            rows = (x[:, 0] / 3).astype(int)
            assert sorted(rows) == list(range(N))
            np.testing.assert_array_equal(y, Y[rows])
            np.testing.assert_array_equal(w, np.float32(W[rows]))
            orders.append(rows.tolist())
        assert orders[0] != orders[1] != list(range(N))

    def test_same_seed_and_step(self):
        options = {"mixtures": 0.5, "augmentation": noise}
        whole = some(9, **options)
        same(whole, some(9, **options))
        for start in (1, 2, 3, 5, 7):
            same(whole[start:], some(9 - start, start=start, **options))
        other = some(9, seed=1, **options)
        assert (whole[0][0] != other[0][0]).any()
        first, second = whole[0][0], some(4, augmentation=noise)[3][0]
        assert (first != second).any()

    @pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 1 / 3, 0.5, 0.7, 1.0])
    def test_shares_of_mixtures(self, share):
        mixed = [(y == -1).all() for _, y, _ in some(60, mixtures=share)]
        for count in (10, 12, 30, 60):
            assert abs(sum(mixed[:count]) - share * count) < 1
        if share == 0.5:
            assert mixed == [False, True] * 30

    def test_what_a_mixture_is(self):
        """Each picture with the one opposite, their weights' mean; of one, itself."""
        ((mixed, labels, weights),) = some(1, mixtures=1.0)
        ((x, _, w),) = some(1)
        part = (mixed - x[::-1])[:, 0] / (x - x[::-1])[:, 0]
        assert ((part > 0) & (part < 1)).all() and len(set(part)) == 4
        part = part[:, None]
        np.testing.assert_allclose(mixed, part * x + (1 - part) * x[::-1], rtol=1e-5)
        np.testing.assert_allclose(weights, (w + w[::-1]) / 2)
        assert (labels == -1).all()
        one = some(1, mixtures=1.0, arrays=Batch(X[:1], None, None))[0]
        np.testing.assert_allclose(one[0], X[:1], rtol=1e-6)

    def test_no_labels_no_weights(self):
        ((_, y, w),) = some(1, arrays=Batch(X, None, None))
        assert y.tolist() == [-1] * 4 and w.tolist() == [1.0] * 4

    def test_of_a_dataset(self):
        """As it comes, opened anew for every epoch, with or without labels."""
        parts = [Batch(X[:7], Y[:7], None), Batch(X[7:], None, None)]
        opened = []

        def open_batches():
            opened.append(1)
            return iter(parts)

        data = stream(opened=open_batches)
        assert data.steps == 2
        found = data(0)
        whole = [next(found) for _ in range(5)]
        assert len(opened) == 4
        np.testing.assert_array_equal(whole[2][0], X[:7])
        assert whole[1][1].tolist() == [-1] * 3
        found = data(3)
        same(whole[3:], [next(found), next(found)])

    def test_refused(self):
        with pytest.raises(ValueError, match="`x` must hold at least one sample"):
            stream(opened=lambda: iter(()))
        for share in (-0.1, 1.5, "half"):
            with pytest.raises(ValueError, match="`mixtures` must be a number from 0"):
                stream(mixtures=share)


def test_held_out():
    most, rest = held_out(Batch(X, Y, None), 0.2, seed=0)
    assert len(most.x) == 8 and len(rest.x) == 2 and rest.weight is None
    rows = np.concatenate([most.x[:, 0], rest.x[:, 0]]) / 3
    assert sorted(rows) == list(range(N))
    np.testing.assert_array_equal(np.concatenate([most.y, rest.y]), Y[rows.astype(int)])
    again, other = (held_out(Batch(X, Y, W), 0.2, seed=s)[1] for s in (0, 1))
    np.testing.assert_array_equal(again.x, rest.x)
    assert (other.x != rest.x).any() and len(again.weight) == 2
    assert len(held_out(Batch(X, Y, W), 0.01, 0)[1].x) == 1


def test_plain():
    images, labels, weights = plain(Batch((X % 7).astype("uint8"), Y, W[:, None]))
    assert images.dtype == "float32" and (images == X % 7).all()
    assert labels.dtype == "int32" and weights.shape == (N,)
    assert teaching_data.UNKNOWN == -1


def test_as_arrays():
    for x in (X, keras.ops.convert_to_tensor(X), list(X), {"image": X}):
        found = as_arrays(x, Y, None)
        np.testing.assert_array_equal(found.x, X)
        np.testing.assert_array_equal(found.y, Y)
    np.testing.assert_array_equal(as_arrays(X, None, None).x, X)
    assert as_arrays([(X, Y)], None, None) is None
    with pytest.raises(ValueError, match="`y` and `sample_weight` go with an array"):
        as_arrays(iter([X]), Y, None)
