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
    resolve_augmentation,
    vary_photos,
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


class Fixed:
    """Stands for a generator whose answers are known."""

    def __init__(self, part, mirror, top, left, bright):
        self.given = part, bright, mirror, top, left

    def uniform(self, low, high, shape):
        value = self.given[0 if low == 0.7 else 1]
        assert low <= value <= high
        return np.full(shape, value)

    def random(self, count):
        value, *rest = self.given[2:]
        self.given = (*self.given[:2], *rest)
        return np.full(count, value)


def crop_by_loops(image, part, mirror, top, left, bright):
    """Bilinear, each pixel of the result on its own, edges held."""
    height, width, _ = image.shape
    top, left = (1 - part) * height * top, (1 - part) * width * left
    found = np.zeros(image.shape)
    for row in range(height):
        for column in range(width):
            y = top + part * row
            x = left + part * (width - 1 - column if mirror < 0.5 else column)
            y0, x0 = int(np.floor(y)), int(np.floor(x))
            for i, a in ((y0, y0 + 1 - y), (y0 + 1, y - y0)):
                for j, b in ((x0, x0 + 1 - x), (x0 + 1, x - x0)):
                    pixel = image[min(i, height - 1), min(j, width - 1)]
                    found[row, column] += a * b * pixel
    return np.clip(bright * found, image.min(), image.max())


class TestVaryPhotos:
    PHOTOS = np.random.default_rng(0).uniform(0, 255, (2, 9, 7, 3)).astype("float32")

    @pytest.mark.parametrize(
        "given",
        [
            (0.7, 0.9, 0.0, 0.0, 1.0),
            (0.85, 0.9, 0.3, 0.8, 0.8),
            (0.75, 0.2, 0.6, 0.4, 1.2),
            (0.99, 0.9, 1.0, 1.0, 1.0),
        ],
    )
    def test_by_loops(self, given):
        found = vary_photos(self.PHOTOS[:1], Fixed(*given))
        expected = crop_by_loops(self.PHOTOS[0].astype("float64"), *given)
        np.testing.assert_allclose(found[0], expected, rtol=1e-3, atol=0.05)

    def test_all_of_it_or_mirrored(self):
        image = self.PHOTOS[:1]
        found = [vary_photos(image, Fixed(1.0, m, 0.5, 0.5, 1.0)) for m in (0.9, 0.1)]
        np.testing.assert_allclose(found[0], image, atol=0.01)
        np.testing.assert_allclose(found[1], image[:, :, ::-1], atol=0.01)

    def test_at_random(self):
        """Every picture its own way; values within those there were."""
        x = np.repeat(self.PHOTOS[:1], 40, 0)
        found = vary_photos(x, np.random.default_rng(3))
        assert found.shape == x.shape and found.dtype == "float32"
        assert x.min() <= found.min() and found.max() <= x.max()
        assert len({round(float(v.sum()), 1) for v in found}) == 40
        again = vary_photos(x, np.random.default_rng(3))
        np.testing.assert_array_equal(found, again)
        ramp = np.broadcast_to(np.arange(7.0)[:, None], (40, 9, 7, 1))
        sides = vary_photos(ramp.astype("float32"), np.random.default_rng(3))
        rising = (np.diff(sides[..., 0], axis=2) >= -1e-4).all((1, 2))
        assert 10 < rising.sum() < 30

    def test_values_around_0(self):
        x = self.PHOTOS / 127.5 - 1
        found = vary_photos(x, np.random.default_rng(0))
        assert x.min() <= found.min() < -0.5 and 0.5 < found.max() <= x.max()


class TestResolveAugmentation:
    def test_auto(self):
        for shape, expected in (
            ((None, 64, 64, 3), vary_photos),
            ((None, 96, 63, 3), None),
            ((None, None, 64, 3), None),
            ((None, 100), None),
        ):
            assert resolve_augmentation("auto", shape) is expected

    def test_named(self):
        shape = (None, 8, 8, 3)
        assert resolve_augmentation(None, shape) is None
        assert resolve_augmentation("photos", shape) is vary_photos
        x, rng = np.ones((2, 8, 8, 3), "float32"), np.random.default_rng(0)
        doubled = resolve_augmentation(lambda images: 2 * images, shape)
        np.testing.assert_array_equal(doubled(x, rng), 2 * x)
        dropped = resolve_augmentation(keras.layers.Dropout(0.5), shape)(x, rng)
        assert 0 < (keras.ops.convert_to_numpy(dropped) == 0).mean() < 1

    @pytest.mark.parametrize("wrong", ["flips", 3, ["photos"]])
    def test_refused(self, wrong):
        with pytest.raises(ValueError, match="`augmentation` must be 'auto', 'photos'"):
            resolve_augmentation(wrong, (None, 8, 8, 3))
        with pytest.raises(ValueError, match="`augmentation='photos'` is for pictures"):
            resolve_augmentation("photos", (None, 8))


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
