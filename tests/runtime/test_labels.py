"""Which labels are taken."""

import numpy as np
import pytest

from keras_dyngate.runtime.labels import LabelSpec

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float16", "float64"])
def test_indices_of_any_type(dtype):
    truth = np.array([0, 3, 9, 1])
    spec = LabelSpec((), 10)
    for form in (truth, truth[:, None], truth.tolist()):
        found = spec.indices(np.asarray(form, dtype), 4)
        np.testing.assert_array_equal(found, truth)
        assert found.dtype == np.int64
    np.testing.assert_array_equal(
        spec.indices(np.eye(10, dtype=dtype)[truth], 4), truth
    )
    assert LabelSpec((), 2).indices([True, False], 2).tolist() == [1, 0]


def test_maps():
    truth = RNG.integers(0, 3, (2, 4, 5))
    truth[0, 0, 0] = 255
    spec = LabelSpec((4, 5), 3, ignore_class=255)
    for form in (truth, truth[..., None], truth.astype("float32")):
        np.testing.assert_array_equal(spec.indices(form, 2), truth)
    whole = np.minimum(truth, 2)
    np.testing.assert_array_equal(spec.indices(np.eye(3)[whole], 2), whole)
    with pytest.raises(
        ValueError, match=r"from 0 to 2, or .* 0 to 255, ignore_class=No"
    ):
        LabelSpec((4, 5), 3).indices(truth, 2)
    with pytest.raises(ValueError, match=r"one map \(4, 5\) of class indices"):
        spec.indices(truth.transpose(0, 2, 1), 2)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 10, 1], "class indices from 0 to 9, or one-hot .* labels from 0 to 10"),
        ([-1, 0, 1], "class indices from 0 to 9.* labels from -1 to 1"),
        ([0, 1, 1000], "labels from 0 to 1000"),
        ([0.0, 0.5, 1.0], "whole numbers. Received: float64 values from 0.0 to 1.0"),
        ([0.0, np.nan, 1.0], "whole numbers"),
        ([0, 1], r"one class index per image.* shape \(2,\) .* 3 image"),
        (["a", "b", "c"], "one class index per image.*dtype <U1"),
        (np.eye(3, 9), r"one class index per image.* shape \(3, 9\)"),
        (np.ones((3, 10)), "sum to 1. Received: values from 1.0 to 1.0, sums from 10"),
        (-np.eye(3, 10), "0 or more"),
    ],
)
def test_other_labels_are_refused(labels, message):
    with pytest.raises(ValueError, match="`x` must give .*" + message):
        LabelSpec((), 10).indices(labels, 3)


def test_a_file_that_does_not_say_how_many_classes():
    assert LabelSpec().indices([0, 1000], 2).tolist() == [0, 1000]
    with pytest.raises(ValueError, match="class indices from 0, or .* from -1 to 0"):
        LabelSpec().indices([-1, 0], 2)
