"""Photos are varied as one pixel after the other says, and by the names there are."""

import keras
import numpy as np
import pytest

from keras_dyngate.models.exits.variation import (
    PHOTOS,
    STRONG,
    PhotoVariation,
    described,
    resolve_augmentation,
)

IMAGES = np.random.default_rng(0).uniform(0, 255, (2, 9, 7, 3)).astype("float32")


class Drawn:
    """A generator that draws what it is told, in that order."""

    def __init__(self, *values):
        self.values = list(values)

    def _next(self, low, high, shape):
        value = np.asarray(self.values.pop(0), "float64")
        assert (low <= value).all() and (value <= high).all()
        return np.broadcast_to(value, shape)

    def uniform(self, low, high, shape):
        return self._next(low, high, shape)

    def random(self, count):
        return self._next(0, 1, count)


def by_loops(image, size, mirror, place, gain=1.0, contrast=1.0):
    """Bilinear, each pixel of the result on its own, edges held."""
    height, width, _ = image.shape
    top = (1 - size[0]) * height * place[0]
    left = (1 - size[1]) * width * place[1]
    found = np.zeros(image.shape)
    for row in range(height):
        for column in range(width):
            y = top + size[0] * row
            x = left + size[1] * (width - 1 - column if mirror < 0.5 else column)
            y0, x0 = int(np.floor(y)), int(np.floor(x))
            for i, a in ((y0, y0 + 1 - y), (y0 + 1, y - y0)):
                for j, b in ((x0, x0 + 1 - x), (x0 + 1, x - x0)):
                    pixel = image[min(i, height - 1), min(j, width - 1)]
                    found[row, column] += a * b * pixel
    found = (found - found.mean()) * contrast + found.mean()
    return np.clip(gain * found, image.min(), image.max())


class TestPhotoVariation:
    @pytest.mark.parametrize(
        "given",
        [
            (0.7, 0.9, 0.0, 0.0, 1.0),
            (0.85, 0.9, 0.3, 0.8, 0.8),
            (0.75, 0.2, 0.6, 0.4, 1.2),
            (0.99, 0.9, 1.0, 1.0, 1.0),
        ],
    )
    def test_photos_by_loops(self, given):
        part, mirror, *place, gain = given
        found = PHOTOS(IMAGES[:1], Drawn(*given))
        expected = by_loops(
            IMAGES[0].astype("float64"), (part,) * 2, mirror, place, gain
        )
        np.testing.assert_allclose(found[0], expected, rtol=1e-3, atol=0.05)

    @pytest.mark.parametrize("ratio", [1.2, 0.85])
    @pytest.mark.parametrize("part", [0.5, 0.95])
    def test_strong_by_loops(self, part, ratio):
        """A crop of other proportions, contrast around the mean, a color cast."""
        tint = np.array([0.9, 1.0, 1.1])
        drawn = Drawn(part, 0.2, np.log(ratio), 0.3, 0.6, 1.25, 0.7, tint)
        found = STRONG(IMAGES[:1], drawn)
        assert not drawn.values
        size = min(1, part * ratio), min(1, part / ratio)
        expected = by_loops(
            IMAGES[0].astype("float64"), size, 0.2, (0.3, 0.6), 0.7 * tint, 1.25
        )
        np.testing.assert_allclose(found[0], expected, rtol=1e-3, atol=0.05)

    def test_all_of_it_or_mirrored(self):
        image = IMAGES[:1]
        found = [PHOTOS(image, Drawn(1.0, m, 0.5, 0.5, 1.0)) for m in (0.9, 0.1)]
        np.testing.assert_allclose(found[0], image, atol=0.01)
        np.testing.assert_allclose(found[1], image[:, :, ::-1], atol=0.01)

    @pytest.mark.parametrize("vary", [PHOTOS, STRONG])
    def test_at_random(self, vary):
        """Every picture its own way; values within those there were."""
        x = np.repeat(IMAGES[:1], 40, 0)
        found = vary(x, np.random.default_rng(3))
        assert found.shape == x.shape and found.dtype == "float32"
        assert x.min() <= found.min() and found.max() <= x.max()
        assert len({round(float(v.sum()), 1) for v in found}) == 40
        again = vary(x, np.random.default_rng(3))
        np.testing.assert_array_equal(found, again)
        ramp = np.broadcast_to(np.arange(7.0)[:, None], (40, 9, 7, 1))
        sides = vary(ramp.astype("float32"), np.random.default_rng(3))
        rising = (np.diff(sides[..., 0], axis=2) >= -1e-4).all((1, 2))
        assert 10 < rising.sum() < 30

    def test_strong_is_stronger(self):
        """The same draws move a picture further."""
        x = np.repeat(IMAGES[:1], 200, 0)
        moved = [
            float(
                np.abs(
                    vary(x, np.random.default_rng(0)).mean((1, 2, 3)) - x.mean()
                ).mean()
            )
            for vary in (PHOTOS, STRONG)
        ]
        assert moved[1] > 1.4 * moved[0]

    def test_values_around_0(self):
        x = IMAGES / 127.5 - 1
        found = PHOTOS(x, np.random.default_rng(0))
        assert x.min() <= found.min() < -0.5 and 0.5 < found.max() <= x.max()


class TestResolveAugmentation:
    def test_auto(self):
        for shape, expected in (
            ((None, 64, 64, 3), PHOTOS),
            ((None, 96, 63, 3), None),
            ((None, None, 64, 3), None),
            ((None, 100), None),
        ):
            assert resolve_augmentation("auto", shape) is expected

    def test_named(self):
        shape = (None, 8, 8, 3)
        assert resolve_augmentation(None, shape) is None
        assert resolve_augmentation("photos", shape) is PHOTOS
        assert resolve_augmentation("strong", shape) is STRONG
        assert resolve_augmentation(STRONG, shape)(
            IMAGES, np.random.default_rng(0)
        ).any()
        x, rng = np.ones((2, 8, 8, 3), "float32"), np.random.default_rng(0)
        doubled = resolve_augmentation(lambda images: 2 * images, shape)
        np.testing.assert_array_equal(doubled(x, rng), 2 * x)
        dropped = resolve_augmentation(keras.layers.Dropout(0.5), shape)(x, rng)
        assert 0 < (keras.ops.convert_to_numpy(dropped) == 0).mean() < 1

    @pytest.mark.parametrize("wrong", ["flips", 3, ["photos"]])
    def test_refused(self, wrong):
        with pytest.raises(ValueError, match="`augmentation` must be 'auto', 'photos'"):
            resolve_augmentation(wrong, (None, 8, 8, 3))

    @pytest.mark.parametrize("name", ["photos", "strong"])
    def test_refused_for_vectors(self, name):
        with pytest.raises(
            ValueError, match=f"`augmentation='{name}'` is for pictures"
        ):
            resolve_augmentation(name, (None, 8))


def test_described():
    """What a checkpoint tells one run from another by: the numbers, not the names."""
    large, small = (None, 96, 96, 3), (None, 8, 8, 3)
    assert described("auto", small) is None and described(None, large) is None
    assert (
        described("auto", large) == described("photos", small) == repr(PhotoVariation())
    )
    assert described("strong", large) not in (None, described("photos", large))
    assert described(keras.layers.Dropout(0.5), large) == "Dropout"
    assert described(np.flip, large) == "flip"
