"""What comes out of each kind of data, and what is refused."""

import keras
import numpy as np
import pytest

from keras_dyngate.models.exits.data import batches, class_indices, takes_bytes

X = np.arange(7 * 4, dtype="float32").reshape(7, 4)
Y = np.arange(7) % 3
W = np.linspace(0.5, 2.0, 7)


class Listed(keras.utils.PyDataset):
    def __init__(self):
        super().__init__()

    def __len__(self):
        return 3

    def __getitem__(self, index):
        part = slice(3 * index, 3 * index + 3)
        return X[part], Y[part], W[part]


def joined(found):
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]


@pytest.mark.parametrize(
    "data",
    [
        (X, Y, W),
        (Listed(),),
        ([Listed()[i] for i in range(3)],),
        ((Listed()[i] for i in range(3)),),
        (lambda: (Listed()[i] for i in range(3)),),
        ([({"image": X[:4]}, Y[:4], W[:4]), ({"image": X[4:]}, Y[4:], W[4:])],),
    ],
    ids=["arrays", "PyDataset", "list", "generator", "function", "dicts"],
)
def test_every_kind_of_data(data):
    x, y, weights = joined(batches(*data, batch_size=3))
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, Y)
    np.testing.assert_array_equal(weights, W)


def test_steps():
    assert [len(b.x) for b in batches(X, batch_size=3, steps=2)] == [3, 3]
    assert [len(b.x) for b in batches(X, batch_size=3)] == [3, 3, 1]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((X, Y[:5]), "a label for each of the 7 samples. Received: 5 labels"),
        ((X, Y, W[:2]), "a weight for each of the 7 samples. Received: 2 weights"),
        (([(X[0], Y[0])],), r"is the dataset batched\?"),
        (([(X, Y, W, W)],), "a batch of 4 parts"),
        ((Listed(), Y), "a dataset has its own"),
        ((3,), "images or a dataset of batches. Received: x of type int"),
        (((X, Y),), "labels of images are `y`. Received: a tuple of 2 arrays"),
        ((X, np.int64(3)), "a label for each of the 7 samples. Received: one label"),
    ],
)
def test_what_does_not_fit(data, message):
    with pytest.raises(ValueError, match=message):
        list(batches(*data))


@pytest.mark.parametrize(
    "labels", [Y, Y[:, None], np.eye(3)[Y], Y.astype("float64"), Y.astype("uint8")]
)
def test_labels(labels):
    found = class_indices(labels, 3)
    np.testing.assert_array_equal(found, Y)
    assert found.dtype == np.int64


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (Y + 1, "from 0 to 2, or be one-hot. Received: values from 1 to 3"),
        (Y - 1, "values from -1 to 1"),
        (Y + 0.25, "0.25, not a whole number"),
        (np.array([0, np.nan]), "nan, not a whole number"),
        (np.full((2, 3), 1 / 3), "rows without one class above 0"),
        (np.array(["a"]), "labels of type <U1"),
        (np.zeros((2, 5)), r"labels of shape \(2, 5\)"),
    ],
)
def test_other_labels(labels, message):
    with pytest.raises(ValueError, match=message):
        class_indices(labels, 3)


def test_labels_of_one_output():
    np.testing.assert_array_equal(class_indices(np.array([[0], [1]]), 1), [0, 1])
    with pytest.raises(ValueError, match="from 0 to 1. Received: values from 0 to 2"):
        class_indices(Y, 1)


@pytest.mark.parametrize(
    ("first", "takes"),
    [
        (keras.layers.Rescaling(1 / 255), True),
        (keras.layers.Rescaling(1 / 127.5, -1), True),
        (keras.layers.Rescaling(2.0, -1), False),
        (keras.layers.Normalization(mean=120.0, variance=3600.0), True),
        (keras.layers.Normalization(mean=0.5, variance=0.1), False),
        (keras.layers.Flatten(), False),
    ],
)
def test_whether_a_net_takes_0_to_255(first, takes):
    from keras_dyngate._graph import flat_graph

    image = keras.Input((4, 4, 3))
    x = keras.layers.Flatten()(first(keras.layers.RandomFlip()(image)))
    model = keras.Model(image, keras.layers.Dense(2)(x))
    assert takes_bytes(flat_graph(model).calls) is takes
