"""The digits are those of scikit-learn, each in one of three parts."""

import sys

import numpy as np
import pytest
from scipy.ndimage import zoom

pytest.importorskip("tensorflow")

import keras_dyngate as kd  # noqa: E402
from tests.backend_utils import BACKEND  # noqa: E402

pytestmark = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="the pipelines are the same on every backend"
)


def test_digits():
    load_digits = pytest.importorskip("sklearn.datasets").load_digits
    data = kd.datasets.digits()
    assert data.image_shape == (32, 32, 3) and data.classes == tuple("0123456789")
    parts = [split.arrays() for split in (data.train, data.validation, data.test)]
    assert [len(x) for x, _ in parts] == [1200, 200, 397]
    images = np.concatenate([x for x, _ in parts])
    labels = np.concatenate([y for _, y in parts])
    assert images.min() >= 0 and 250 < images.max() <= 255
    # SciPy enlarges them alike; each of them is in one of the parts.
    found = load_digits()
    sharp = found.images * (255 / 16)
    scale = {"order": 1, "mode": "nearest", "grid_mode": True}
    expected = [zoom(digit, 4, **scale) for digit in sharp]
    # All digits differ, so that sorting both by their pixels puts them side by side.
    mine = images[..., 0].reshape(1797, -1)
    theirs = np.array(expected, "float32").reshape(1797, -1)
    keys = [np.lexsort(np.round(values[:, ::5] * 16).T) for values in (mine, theirs)]
    np.testing.assert_allclose(mine[keys[0]], theirs[keys[1]], atol=1e-3)
    np.testing.assert_array_equal(labels[keys[0]], found.target[keys[1]])
    for _, part in parts:
        share = np.bincount(part) - np.bincount(found.target) * len(part) / 1797
        assert np.abs(share).max() < 1.5
    again = kd.datasets.digits()
    np.testing.assert_array_equal(again.test.arrays(50)[0], parts[2][0][:50])
    other = kd.datasets.digits(seed=1).test.arrays(50)[0]
    assert not np.array_equal(other, parts[2][0][:50])
    assert data.train.augment and not (data.validation.augment or data.test.augment)


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install keras_dyngate\[examples\]"):
        kd.datasets.digits()
