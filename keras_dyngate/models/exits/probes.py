"""Quick probes of what exits would know, taught all at once on cached features.

    answers = probe_answers(model, ["b4_add", "b9_add"], x, y)
    answers.right.mean(0)

Features are averaged to small maps in one pass through the net, their channels reduced to
principal components, and so a probe costs little; heads on whole maps, taught longer,
know more. Sizes are a design of this library.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_dyngate._graph import Part, flat_graph
from keras_dyngate._images import finite_images
from keras_dyngate._logits import raw_operation
from keras_dyngate.models.exits.cutting import split
from keras_dyngate.models.exits.data import Batch, batches, class_indices, fitting
from keras_dyngate.models.exits.fitting import spreads
from keras_dyngate.models.exits.students import soft_cross_entropy

PICTURES = 1500  # at most, to teach with and to judge on
ROWS = 6  # of a map at most
CHANNELS = 64  # principal components of the features
WIDTHS = (64, 128)
EPOCHS, BATCH, RATE = 16, 32, 5e-3
TEMPERATURE = 2.0
LABEL_SHARE = 0.5


@dataclasses.dataclass(frozen=True)
class ProbeAnswers:
    """What probes at k places say of N pictures that did not teach them.

    Attributes:
        confidence: Largest probability of each, `[N, k]`.
        right: Whether the answer is the label, or without labels the net's own, bool
            `[N, k]`.
        head_right: The same of the net's own answer, bool `[N]`.
        classes: How many outputs the net has.
        pictures: Some of the pictures, as they came.
    """

    confidence: np.ndarray
    right: np.ndarray
    head_right: np.ndarray
    classes: int
    pictures: np.ndarray


class _Looking(keras.Model):
    """Small maps of the features at all places, and the net's raw scores."""

    def __init__(self, parts: Sequence[Part]) -> None:
        super().__init__(name="probed_features", autocast=False)
        last = flat_graph(parts[-1])
        assert last is not None
        raw = Part(parts[-1].stretch, raw_operation(last), name="probed_raw")
        self.parts = [*parts[:-1], raw]
        _compile_for_any_batch(self)

    def call(self, x: Any) -> dict[str, Any]:
        maps = []
        for part in self.parts[:-1]:
            x = part(x, training=False)
            maps.append(ops.cast(_small_map(x), "float32"))
        scores = ops.cast(self.parts[-1](x, training=False), "float32")
        if scores.shape[-1] == 1:  # yes or no are two classes
            scores = ops.concatenate([ops.zeros_like(scores), scores], axis=-1)
        return {"maps": maps, "scores": scores}


def _compile_for_any_batch(model: keras.Model, **options: Any) -> None:
    """XLA would compile each size of batch anew on TensorFlow."""
    jit = False if keras.backend.backend() == "tensorflow" else "auto"
    model.compile(jit_compile=jit, **options)


def _small_map(x: Any) -> Any:
    """Features of any rank as `[batch, rows, columns, channels]`, averaged."""
    if len(x.shape) != 4:
        x = ops.mean(x, axis=tuple(range(1, len(x.shape) - 1)))
        return ops.reshape(x, (-1, 1, 1, x.shape[-1]))
    pool = -(-min(x.shape[1], x.shape[2]) // ROWS)
    size = (pool, pool)
    return ops.average_pool(x, size, size, padding="same") if pool > 1 else x


class _Seen(NamedTuple):
    """Maps at each place, raw scores and labels (-1: none) of some pictures."""

    maps: list[np.ndarray]
    scores: np.ndarray
    labels: np.ndarray


def _sample(x: Any, y: Any, rng: np.random.Generator) -> Iterator[Batch]:
    """Batches of some pictures of an array, or of the first of a dataset."""
    if hasattr(x, "shape") and len(x) > PICTURES and (y is None or len(y) == len(x)):
        rows = np.sort(rng.choice(len(x), PICTURES, replace=False))
        x, y = np.asarray(x)[rows], None if y is None else np.asarray(y)[rows]
    left = PICTURES
    for batch in batches(x, y):
        labels = None if batch.y is None else batch.y[:left]
        yield Batch(batch.x[:left], labels, None)
        left -= len(batch.x)
        if left <= 0:
            return


def _look(looking: _Looking, classes: int, found: Iterator[Batch]) -> _Seen:
    shape, parts, labels = looking.parts[0].input_shape, [], []
    for batch in found:
        x = finite_images("x", fitting(batch.x, shape))
        known = batch.y is not None
        labels.append(class_indices(batch.y, classes) if known else np.full(len(x), -1))
        parts.append(looking.predict_on_batch(x))
    if not parts:
        raise ValueError("`x` must hold at least one picture. Received: none")
    joined = keras.tree.map_structure(lambda *a: np.concatenate(a), *parts)
    return _Seen(joined["maps"], joined["scores"], np.concatenate(labels))


def _components(maps: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """`CHANNELS` principal components of each pixel, as wide as each other, or nearly."""
    pixels = maps.reshape(-1, maps.shape[-1]).astype("float32")
    known = maps[rows].reshape(-1, maps.shape[-1])
    values, axes = np.linalg.eigh(np.atleast_2d(np.cov(known, rowvar=False)))
    axes = axes[:, ::-1][:, :CHANNELS]
    deviations = np.sqrt(np.maximum(values[::-1][:CHANNELS], 0))
    found = (pixels - known.mean(0)) @ (axes / spreads(deviations))
    missing = CHANNELS - found.shape[-1]
    return np.pad(found, ((0, 0), (0, missing))).reshape(*maps.shape[:-1], CHANNELS)


def _together(maps: Sequence[np.ndarray]) -> np.ndarray:
    """Maps of all places, each pixel with the mean of the 3x3 around it.

    `[N, rows, columns, places, 2 * CHANNELS]`; smaller maps are filled up with zeros.
    """
    rows, columns = (max(x.shape[axis] for x in maps) for axis in (1, 2))
    shape = len(maps[0]), rows + 2, columns + 2, len(maps), CHANNELS
    inner = np.zeros(shape, "float32")
    for k, x in enumerate(maps):
        inner[:, 1 : x.shape[1] + 1, 1 : x.shape[2] + 1, k] = x
    shifts = itertools.product(range(3), range(3))
    around = sum(inner[:, i : i + rows, j : j + columns] for i, j in shifts)
    return np.concatenate([inner[:, 1:-1, 1:-1], around / 9], axis=-1)


def _probes(shape: Sequence[int], classes: int) -> keras.Model:
    """A head at each place, in one net: raw scores `[batch, places, classes]`.

    Each is two 1x1 convolutions, pooling and a linear layer.
    """
    layers = keras.layers
    rows, columns, places, given = shape

    def linear(equation: str, size: Any, given: int, **options: Any) -> keras.Layer:
        start = keras.initializers.RandomNormal(stddev=given**-0.5, seed=given)
        return layers.EinsumDense(equation, size, kernel_initializer=start, **options)

    x = image = keras.Input(shape)
    for filters in WIDTHS:
        x = linear("nhwkc,kcd->nhwkd", (rows, columns, places, filters), given)(x)
        x = layers.Reshape((rows, columns, places * filters))(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
        given = filters
        if filters != WIDTHS[-1]:
            x = layers.Reshape((rows, columns, places, filters))(x)
    x = layers.Dropout(0.2, seed=0)(layers.GlobalAveragePooling2D()(x))
    x = layers.Reshape((places, given))(x)
    x = linear("nkd,kdc->nkc", (places, classes), given, bias_axes="kc")(x)
    return keras.Model(image, x)


def _loss(wanted: Any, scores: Any) -> Any:
    """Labels, and the net's answers at a temperature; `[batch]`, summed over probes."""
    classes = scores.shape[-1]
    teacher, labels = wanted[:, None, :classes], wanted[:, None, classes:]
    taught = soft_cross_entropy(teacher, scores, TEMPERATURE)
    told = -ops.sum(labels * ops.log_softmax(scores), axis=-1)
    share = LABEL_SHARE * ops.sum(labels, axis=-1)  # 0 where the label is unknown
    each = (1 - share) * taught + LABEL_SHARE * told
    return ops.sum(each, axis=1)


def _taught(
    maps: np.ndarray, scores: np.ndarray, labels: np.ndarray, rng: np.random.Generator
) -> keras.Model:
    """All probes, each taught by itself: they share no weights, losses are summed up."""
    count, classes = scores.shape
    probes = _probes(maps.shape[1:], classes)
    rate = keras.optimizers.schedules.CosineDecay(RATE, EPOCHS * -(-count // BATCH))
    _compile_for_any_batch(probes, optimizer=keras.optimizers.Adam(rate), loss=_loss)
    one_hot = (labels[:, None] == np.arange(classes)).astype("float32")
    wanted, size = np.concatenate([scores, one_hot], axis=1), min(BATCH, count)
    for _ in range(EPOCHS):
        order = rng.permutation(count)
        for start in range(0, count, size):  # the last batch is filled up
            rows = np.resize(order[start : start + size], size)
            probes.train_on_batch(maps[rows], wanted[rows])
    return probes


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def probe_answers(
    model: keras.Model, after: Sequence[str], x: Any, y: Any, validation_data: Any
) -> ProbeAnswers:
    """Teach a probe at each place, and judge them; for the arguments see `place_exits`."""
    rng, parts = np.random.default_rng(0), split(model, after)
    classes, looking = int(parts[-1].output_shape[-1]), _Looking(parts)
    found = _sample(x, y, rng)
    start = list(itertools.islice(found, 1))
    seen = _look(looking, classes, itertools.chain(start, found))
    if validation_data is None:
        order = rng.permutation(len(seen.labels))
        fifth = len(order) // 5
        if not fifth:
            raise ValueError(
                "`x` must hold 5 pictures or more: a fifth of them is to judge on. "
                f"Received: {len(order)}"
            )
        teach, judge = order[fifth:], order[:fifth]
    else:
        pair = isinstance(validation_data, tuple)
        images, labels = validation_data if pair else (validation_data, None)
        more = _look(looking, classes, _sample(images, labels, rng))
        both = zip(seen.maps, more.maps, strict=True)
        teach, judge = np.split(
            np.arange(len(seen.labels) + len(more.labels)), [len(seen.labels)]
        )
        seen = _Seen(
            [np.concatenate(pair) for pair in both],
            np.concatenate([seen.scores, more.scores]),
            np.concatenate([seen.labels, more.labels]),
        )
    maps = _together([_components(x, teach) for x in seen.maps])
    probes = _taught(maps[teach], seen.scores[teach], seen.labels[teach], rng)
    scores = probes.predict(maps[judge], batch_size=256, verbose=0)
    own, labels = seen.scores[judge].argmax(-1), seen.labels[judge]
    truth = np.where(labels < 0, own, labels)
    return ProbeAnswers(
        confidence=_softmax(scores).max(-1),
        right=scores.argmax(-1) == truth[:, None],
        head_right=own == truth,
        classes=classes,
        pictures=start[0].x,
    )
