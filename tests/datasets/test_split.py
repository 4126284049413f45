"""Splits of arrays: order, streams, parts, and gaps where pictures cannot be read."""

import keras
import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

import keras_dyngate as kd  # noqa: E402
from tests.backend_utils import BACKEND  # noqa: E402
from tests.datasets.picture_files import check_stream, take  # noqa: E402

Split = kd.datasets.Split
pytestmark = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="the pipelines are the same on every backend"
)


def noise(image, label, seed):
    drawn = tf.random.stateless_uniform(tf.shape(image), seed)
    return tf.cast(image, tf.float32) + drawn, label


def numbered(count=11, augment=None):
    """Picture i is all i, of class 100 + i."""
    images = np.broadcast_to(np.arange(count)[:, None, None, None], (count, 4, 5, 3))
    return Split.of_arrays(images.astype("uint8"), np.arange(count) + 100, augment)


def test_batches_are_all_pictures_in_order():
    split = numbered(augment=noise)
    batches = list(split.batches(4).as_numpy_iterator())
    assert [len(x) for x, _ in batches] == [4, 4, 3]
    x, y = (np.concatenate(part) for part in zip(*batches, strict=True))
    assert x.dtype == "float32" and y.dtype == "int32" and len(split) == 11
    np.testing.assert_array_equal(
        x, np.ones((1, 4, 5, 3)) * (y - 100)[:, None, None, None]
    )
    np.testing.assert_array_equal(y, np.arange(11) + 100)
    assert int(split.batches(4).cardinality()) == 3
    for limit in (3, 11, 50, None):
        found, labels = split.arrays(limit)
        expected = 11 if limit is None else min(limit, 11)
        np.testing.assert_array_equal(found, x[:expected])
        np.testing.assert_array_equal(labels, y[:expected])


def test_an_epoch_is_a_permutation():
    split = numbered()
    _, labels = take(split.stream(1, seed=5), 33)
    epochs = labels.reshape(3, 11)
    for epoch in epochs:
        assert sorted(epoch) == list(range(100, 111))
    assert len({tuple(epoch) for epoch in epochs}) == 3
    _, labels = take(split.stream(4, seed=5), 6)
    for epoch in labels.reshape(3, 8):
        assert len(set(epoch)) == 8
    firsts = [take(split.stream(1, seed=seed), 1)[1].item() for seed in range(6)]
    assert len(set(firsts)) > 2


def test_a_stream_is_a_function_of_its_seed():
    split = numbered(augment=noise)
    check_stream(split)
    images, _ = take(split.stream(4, seed=3), 3)
    other, _ = take(split.stream(4, seed=4), 3)
    assert not np.array_equal(other, images)


def test_every_picture_is_varied_anew():
    split = numbered(augment=noise)
    images, labels = take(split.stream(11, seed=1), 4)
    drawn = images - (labels - 100)[..., None, None, None]
    assert len({picture.tobytes() for epoch in drawn for picture in epoch}) == 44
    plain, same = take(split.stream(11, seed=1, augment=False), 4)
    np.testing.assert_array_equal(same, labels)
    np.testing.assert_array_equal(plain[..., 0, 0, 0], labels - 100)


def test_parts_are_disjoint_and_held_out_pictures_are_not_varied():
    split = numbered(augment=noise)
    rest, held = split.hold_out(4, seed=2)
    _, kept = rest.arrays()
    images, labels = held.arrays()
    assert len(held) == 4 and sorted([*kept, *labels]) == list(range(100, 111))
    assert sorted(labels) == list(labels)
    varied, _ = take(rest.stream(7), 1)
    assert np.any(varied % 1)
    images, labels = take(held.stream(4), 1)
    np.testing.assert_array_equal(images[..., 0, 0, 0], labels - 100)
    _, again = split.hold_out(4, seed=2)[1].arrays()
    np.testing.assert_array_equal(again, held.arrays()[1])
    assert any(
        list(split.hold_out(4, seed)[1].arrays()[1]) != list(again) for seed in range(3)
    )
    _, labels = split.subset([7, 0, 7]).arrays()
    assert labels.tolist() == [107, 100, 107]
    assert rest.unreadable is held.unreadable is split.unreadable


def with_gaps(missing, count=11):
    """As `numbered`, but the pictures of these indices cannot be read."""
    absent = tf.constant(sorted(missing), tf.int64)

    def load(index):
        image = tf.fill((4, 5, 3), tf.cast(index, tf.uint8))
        lost = tf.reduce_any(tf.equal(index, absent))
        image = tf.cond(lost, lambda: tf.zeros((0, 0, 3), tf.uint8), lambda: image)
        return tf.ensure_shape(image, (None, None, 3)), tf.cast(index, tf.int32)

    def prepare(image, label):
        return tf.ensure_shape(image, (4, 5, 3)), label

    return Split(count, load, prepare, gaps=True)


def test_gaps_are_filled_with_the_next_picture_and_left_out_for_judging():
    split = with_gaps({2, 3, 10})
    _, labels = split.arrays()
    assert labels.tolist() == [0, 1, 4, 5, 6, 7, 8, 9]
    check_stream(split)
    _, expected = take(numbered().stream(4, seed=3), 8)
    _, labels = take(split.stream(4, seed=3), 8)
    instead = {102: 4, 103: 4, 110: 0}
    assert labels.ravel().tolist() == [
        instead.get(label, label - 100) for label in expected.ravel()
    ]


def test_what_stands_in_is_of_the_same_part():
    rest, held = with_gaps({2, 3, 10}).hold_out(5, seed=0)
    seen = [set(take(part.stream(1), 30)[1].ravel()) for part in (rest, held)]
    assert not seen[0] & seen[1]
    assert seen[0] | seen[1] == set(range(11)) - {2, 3, 10}


def test_nothing_can_be_read():
    stream = with_gaps(set(range(11))).stream(4)
    with pytest.raises(tf.errors.InvalidArgumentError, match="None of 11 pictures"):
        next(iter(stream))


def test_keras_trains_on_a_stream():
    load = numbered().load
    split = Split(11, lambda index: (load(index)[0], index % 2))
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(2)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    history = model.fit(
        split.stream(4), steps_per_epoch=split.steps(4), shuffle=False, verbose=0
    )
    assert len(history.history["loss"]) == 1
    model.evaluate(split.batches(4), verbose=0)


def test_errors():
    split = numbered()
    with pytest.raises(ValueError, match="equally many.*3 images, 2 labels"):
        Split.of_arrays(np.zeros((3, 4, 4, 3)), np.zeros(2))
    with pytest.raises(ValueError, match="equally many.*0 images"):
        Split.of_arrays(np.zeros((0, 4, 4, 3)), np.zeros(0))
    x = np.zeros((3, 4, 4, 3), "uint8")
    for labels in (
        np.array([0, 1, 0.5]),
        np.eye(3),
        np.array([0, np.nan, 1]),
        np.array(list("abc")),
    ):
        with pytest.raises(ValueError, match="class indices, whole numbers.*Received"):
            Split.of_arrays(x, labels)
    with pytest.raises(ValueError, match="`labels` must be class.* from 0.*: -1"):
        Split.of_arrays(x, np.array([0, -1, 1]))
    for images in (np.linspace(0, 1, 3), np.linspace(-1, 1, 3), np.array([0, 1, 256])):
        with pytest.raises(ValueError, match="`images` must be pixels from 0 to 255"):
            Split.of_arrays(x + images[:, None, None, None], np.arange(3))
    assert Split.of_arrays(x + 0.0, np.arange(3.0)).arrays()[1].tolist() == [0, 1, 2]
    for batch_size in (0, 2.0, True):
        with pytest.raises(ValueError, match="`batch_size` must be a positive"):
            split.batches(batch_size)
        with pytest.raises(ValueError, match="`batch_size` must be a positive"):
            split.stream(batch_size)
    with pytest.raises(ValueError, match="not exceed the 11 training images.*=12"):
        split.steps(12)
    for shard in ((0, 3), (2, 2), (-1, 2)):
        with pytest.raises(ValueError, match="`shard` must be .index, count."):
            split.stream(4, shard=shard)
    for count in (0, 11, -1):
        with pytest.raises(ValueError, match=f"from 1 to 10. Received: {count}"):
            split.hold_out(count)
