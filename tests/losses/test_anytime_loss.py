import inspect
import json

import keras
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from keras_dyngate import AnytimeLoss, HierarchicalTaxonomy
from tests.backend_utils import gradients

to_numpy = keras.ops.convert_to_numpy
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 2, (6, 3, 5)).astype("float32")  # three heads, five classes
PROBABILITIES = softmax(LOGITS.astype("float64"), axis=-1).astype("float32")
LABELS = np.array([0, 4, 2, 2, 1, 3])
ONE_HOT = np.eye(5)[LABELS]
TAXONOMY = HierarchicalTaxonomy([1, 0, 0, 1, 1])


def value(loss, labels, outputs, **options):
    return to_numpy(loss(labels, outputs, **options))


def by_numpy(targets, logits, weights=(1, 1, 1)):
    """Per sample: sum_k w_k (- sum_c t_c log p_kc); targets [N, C] or a list of K."""
    heads = logits.shape[1]
    targets = targets if isinstance(targets, list) else heads * [targets]
    logs = log_softmax(logits.astype("float64"), axis=-1)
    return sum(
        -weights[k] * (targets[k] * logs[:, k, : targets[k].shape[1]]).sum(axis=-1)
        for k in range(heads)
    )


def padded(logits, coarse_heads, padding):
    """The first heads answer two coarse classes; the rest of their outputs is filled."""
    logits = logits.copy()
    logits[:, :coarse_heads, 2:] = padding
    return logits


def coarse_targets(targets):
    return np.stack([targets[:, [1, 2]].sum(1), targets[:, [0, 3, 4]].sum(1)], axis=1)


WEIGHTS = (None, (0.5, 1.0, 2.0), (0.0, 0.0, 1.0), (3, 0, 0.25))


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("from_logits", [True, False])
def test_against_scipy(from_logits, weights):
    outputs = LOGITS if from_logits else PROBABILITIES
    expected = by_numpy(ONE_HOT, LOGITS, weights or (1, 1, 1))
    for reduction, reduced in (
        ("none", expected),
        ("sum", expected.sum()),
        ("sum_over_batch_size", expected.mean()),
    ):
        loss = AnytimeLoss(weights, from_logits, reduction=reduction)
        np.testing.assert_allclose(value(loss, LABELS, outputs), reduced, rtol=1e-5)


def test_is_the_sum_of_the_losses_of_keras():
    one = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    expected = sum(value(one, LABELS, LOGITS[:, k]) for k in range(3))
    found = value(AnytimeLoss(from_logits=True), LABELS, LOGITS)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_one_head():
    one = keras.losses.SparseCategoricalCrossentropy()
    expected = value(one, LABELS, PROBABILITIES[:, 0])
    found = value(AnytimeLoss(), LABELS, PROBABILITIES[:, :1])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "labels",
    [
        LABELS[:, None],
        LABELS.astype("float32"),
        LABELS.astype("uint8"),
        LABELS.tolist(),
        ONE_HOT,
        ONE_HOT.astype("float32"),
        ONE_HOT.astype("int32"),
        ONE_HOT.astype(bool),
    ],
    ids=["column", "float", "uint8", "list", "one_hot", "float32", "int", "bool"],
)
@pytest.mark.parametrize("coarse_heads", [0, 2])
def test_kinds_of_labels(labels, coarse_heads):
    loss = AnytimeLoss(taxonomy=TAXONOMY, coarse_heads=coarse_heads)
    found = value(loss, labels, PROBABILITIES)
    np.testing.assert_array_equal(found, value(loss, LABELS, PROBABILITIES))


@pytest.mark.parametrize("size", [5, 1])
def test_as_many_samples_as_classes_and_one(size):
    found = value(AnytimeLoss(), LABELS[:size], PROBABILITIES[:size])
    expected = by_numpy(ONE_HOT[:size], LOGITS[:size]).mean()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


class TestDistributions:
    SMOOTHED = 0.9 * ONE_HOT + 0.1 / 5
    MIXED = 0.3 * ONE_HOT + 0.7 * ONE_HOT[::-1]

    @pytest.mark.parametrize("targets", [SMOOTHED, MIXED], ids=["smoothed", "mixed"])
    @pytest.mark.parametrize("from_logits", [True, False])
    def test_of_fine_heads(self, targets, from_logits):
        outputs = LOGITS if from_logits else PROBABILITIES
        loss = AnytimeLoss([1, 2, 3], from_logits, reduction="none")
        found = value(loss, targets.astype("float32"), outputs)
        expected = by_numpy(targets, LOGITS, [1, 2, 3])
        np.testing.assert_allclose(found, expected, rtol=1e-5)

    @pytest.mark.parametrize("targets", [SMOOTHED, MIXED], ids=["smoothed", "mixed"])
    def test_of_coarse_heads(self, targets):
        """The share of a coarse class is that of its fine ones together."""
        logits = padded(LOGITS, 2, -1e9)
        loss = AnytimeLoss([1, 2, 3], True, TAXONOMY, 2, reduction="none")
        found = value(loss, targets.astype("float32"), logits)
        coarse = coarse_targets(targets)
        expected = by_numpy([coarse, coarse, targets], logits, [1, 2, 3])
        np.testing.assert_allclose(found, expected, rtol=1e-5)


class TestTaxonomy:
    @pytest.mark.parametrize("coarse_heads", [1, 2, 3])
    @pytest.mark.parametrize("from_logits", [True, False])
    def test_coarse_heads(self, coarse_heads, from_logits):
        logits = padded(LOGITS, coarse_heads, -1e9)
        outputs = softmax(logits.astype("float64"), -1).astype("float32")
        assert not outputs[:, :coarse_heads, 2:].any()
        loss = AnytimeLoss(None, from_logits, TAXONOMY, coarse_heads, reduction="none")
        found = value(loss, LABELS, logits if from_logits else outputs)
        coarse = np.eye(2)[TAXONOMY.coarse_of(LABELS)]
        targets = coarse_heads * [coarse] + (3 - coarse_heads) * [ONE_HOT]
        np.testing.assert_allclose(found, by_numpy(targets, logits), rtol=1e-5)

    def test_coarse_head_is_a_narrower_softmax(self):
        """The padding takes no part: as if the head had two outputs."""
        logits = padded(LOGITS, 1, -1e9)[:, :1]
        one = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        expected = value(one, TAXONOMY.coarse_of(LABELS), LOGITS[:, 0, :2])
        loss = AnytimeLoss(from_logits=True, taxonomy=TAXONOMY, coarse_heads=1)
        np.testing.assert_allclose(value(loss, LABELS, logits), expected, rtol=1e-5)

    def test_no_coarse_heads(self):
        loss = AnytimeLoss(taxonomy=TAXONOMY)
        expected = value(AnytimeLoss(), LABELS, PROBABILITIES)
        np.testing.assert_array_equal(value(loss, LABELS, PROBABILITIES), expected)

    def test_cifar100(self):
        taxonomy = HierarchicalTaxonomy.cifar100()
        logits = RNG.normal(size=(4, 2, 100)).astype("float32")
        logits[:, 0, 20:] = -1e9
        labels = np.array([0, 99, 51, 3])  # apple, worm, mushroom, bear
        loss = AnytimeLoss(None, True, taxonomy, 1, reduction="none")
        logs = log_softmax(logits.astype("float64"), axis=-1)
        rows = np.arange(4)
        expected = -logs[rows, 0, [4, 13, 4, 8]] - logs[rows, 1, labels]
        np.testing.assert_allclose(value(loss, labels, logits), expected, rtol=1e-5)


class TestGradient:
    def test_of_logits(self):
        """w_k (softmax - target) / N."""
        weights = (0.5, 1.0, 2.0)
        loss = AnytimeLoss(weights, from_logits=True)
        _, found = gradients(lambda y: loss(LABELS, y), LOGITS)
        slope = softmax(LOGITS.astype("float64"), -1) - ONE_HOT[:, None]
        expected = slope * np.array(weights)[:, None] / 6
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)

    def test_of_coarse_heads(self):
        """Finite, and exactly zero where there is only padding."""
        logits = padded(LOGITS, 2, -1e9)
        loss = AnytimeLoss(None, True, TAXONOMY, 2)
        _, found = gradients(lambda y: loss(LABELS, y), logits)
        assert not found[:, :2, 2:].any()
        coarse = np.eye(2)[TAXONOMY.coarse_of(LABELS)]
        expected = softmax(LOGITS[:, :2, :2].astype("float64"), -1) - coarse[:, None]
        np.testing.assert_allclose(found[:, :2, :2], expected / 6, rtol=1e-4, atol=1e-7)

    def test_weight_zero_trains_nothing(self):
        loss = AnytimeLoss([1, 0, 1], from_logits=True)
        _, found = gradients(lambda y: loss(LABELS, y), LOGITS)
        assert not found[:, 1].any() and found[:, [0, 2]].all()


def test_sample_weights():
    weights = np.array([0, 1, 2, 0, 0.5, 3], "float32")
    expected = (by_numpy(ONE_HOT, LOGITS) * weights).mean()
    loss = AnytimeLoss(from_logits=True)
    found = value(loss, LABELS, LOGITS, sample_weight=weights)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_probabilities_of_zero_are_finite():
    sure = np.eye(5, dtype="float32")[[[0, 0, 0]]]
    wrong = value(AnytimeLoss(), [1], sure)
    assert np.isfinite(wrong) and wrong > 3 * 15
    np.testing.assert_allclose(value(AnytimeLoss(), [0], sure), 0, atol=1e-5)


def model_of_heads(activation=None, **options):
    """Linear heads, all zero: [N, 3, 5] from four features."""
    features = keras.Input((4,))
    dense = keras.layers.Dense(
        15, use_bias=False, kernel_initializer="zeros", **options
    )
    y = keras.layers.Reshape((3, 5))(dense(features))
    return keras.Model(features, keras.layers.Activation(activation)(y)), dense


X = RNG.normal(size=(6, 4)).astype("float32")


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("from_logits", [True, False])
def test_in_fit(from_logits, jit_compile):
    """One step of gradient descent from zero, by hand."""
    model, dense = model_of_heads("linear" if from_logits else "softmax")
    loss = AnytimeLoss([1, 2, 3], from_logits)
    model.compile(keras.optimizers.SGD(1.0), loss, jit_compile=jit_compile)
    history = model.fit(X, LABELS, batch_size=6, verbose=0)
    np.testing.assert_allclose(history.history["loss"], [6 * np.log(5)], rtol=1e-5)
    slope = X.T.astype("float64") @ (1 / 5 - ONE_HOT) / 6
    expected = -np.concatenate([slope, 2 * slope, 3 * slope], axis=1)
    np.testing.assert_allclose(dense.kernel, expected, rtol=1e-4, atol=1e-6)


def test_in_fit_with_taxonomy_and_file(tmp_path):
    """Short last batch, columns of labels; compiled again out of a file."""
    model, _ = model_of_heads("softmax")
    loss = AnytimeLoss([1, 2, 3], taxonomy=TAXONOMY, coarse_heads=1)
    model.compile("sgd", loss)
    history = model.fit(X, LABELS[:, None], batch_size=4, epochs=2, verbose=0)
    assert history.history["loss"][1] < history.history["loss"][0]
    expected = model.evaluate(X, LABELS, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.loss) is AnytimeLoss
    assert loaded.loss.get_config() == loss.get_config()
    np.testing.assert_allclose(loaded.evaluate(X, LABELS, verbose=0), expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_outputs_of_lower_precision(dtype):
    """The loss itself is computed in float32."""
    outputs = keras.ops.cast(LOGITS, dtype)
    rounded = to_numpy(keras.ops.cast(outputs, "float32"))
    found = AnytimeLoss(from_logits=True)(LABELS, outputs)
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    expected = by_numpy(ONE_HOT, rounded).mean()
    np.testing.assert_allclose(to_numpy(found), expected, rtol=1e-5)


class TestConfig:
    LOSS = AnytimeLoss([1, 0.5], True, TAXONOMY, 1, reduction="sum", name="mine")

    def test_round_trip(self):
        written = json.loads(json.dumps(keras.losses.serialize(self.LOSS)))
        assert written["registered_name"] == "keras_dyngate>AnytimeLoss"
        again = keras.losses.deserialize(written)
        assert type(again) is AnytimeLoss
        assert again.get_config() == self.LOSS.get_config()
        assert (again.weights, again.from_logits) == ([1.0, 0.5], True)
        assert (again.reduction, again.name) == ("sum", "mine")
        assert again.coarse_heads == 1
        assert again.taxonomy.get_config() == TAXONOMY.get_config()
        found = value(again, LABELS, LOGITS[:, :2])
        np.testing.assert_array_equal(found, value(self.LOSS, LABELS, LOGITS[:, :2]))

    def test_holds_every_argument_but_dtype(self):
        """As the losses of Keras do."""
        arguments = set(inspect.signature(AnytimeLoss).parameters) - {"dtype"}
        assert set(self.LOSS.get_config()) - {"dtype"} == arguments

    def test_defaults(self):
        loss = AnytimeLoss.from_config(AnytimeLoss().get_config())
        assert loss.weights is None and loss.taxonomy is None
        assert (loss.name, loss.from_logits) == ("anytime_loss", False)
        np.testing.assert_array_equal(
            value(loss, LABELS, PROBABILITIES),
            value(AnytimeLoss(), LABELS, PROBABILITIES),
        )

    def test_weights_of_numpy(self):
        config = AnytimeLoss(np.array([1, 2], "int64")).get_config()
        assert json.loads(json.dumps(config))["weights"] == [1.0, 2.0]

    def test_taxonomy_from_its_config(self):
        loss = AnytimeLoss(taxonomy=TAXONOMY.get_config(), coarse_heads=1)
        assert loss.taxonomy.get_config() == TAXONOMY.get_config()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": []}, r"`weights` must be one number.*Received: weights=\[\]"),
        ({"weights": [1, -1]}, r"0 or more.*Received: weights=\[1, -1\]"),
        ({"weights": [1, np.nan]}, r"`weights` must .*Received: weights=\[1, nan\]"),
        ({"weights": [np.inf, 1]}, r"`weights` must .*Received: weights=\[inf, 1\]"),
        ({"weights": 1.0}, "`weights` must .*Received: weights=1.0"),
        ({"weights": [[1, 2]]}, r"`weights` must .*Received: weights=\[\[1, 2\]\]"),
        ({"weights": ["a"]}, r"`weights` must .*Received: weights=\['a'\]"),
        ({"taxonomy": [0, 1]}, r"a HierarchicalTaxonomy. Received: \[0, 1\]"),
        ({"coarse_heads": 1}, "`coarse_heads` needs a `taxonomy`.*coarse_heads=1"),
        (
            {"taxonomy": TAXONOMY, "coarse_heads": -1},
            "`coarse_heads` must be an integer from 0 to K. Received: coarse_heads=-1",
        ),
        ({"taxonomy": TAXONOMY, "coarse_heads": 1.0}, "Received: coarse_heads=1.0"),
        ({"taxonomy": TAXONOMY, "coarse_heads": True}, "Received: coarse_heads=True"),
        ({"reduction": "median"}, "reduction"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        AnytimeLoss(**options)


@pytest.mark.parametrize(
    ("options", "outputs", "message"),
    [
        ({}, PROBABILITIES[:, 0], r"`y_pred` must be \[batch, sub-.*shape=\(6, 5\)"),
        ({"weights": [1, 2]}, PROBABILITIES, "`weights` must be 3 numbers.*1.0, 2.0"),
        (
            {"taxonomy": TAXONOMY},
            PROBABILITIES[..., :4],
            "`taxonomy` must have the 4 classes of the outputs. Received: one of 5",
        ),
        (
            {"taxonomy": TAXONOMY, "coarse_heads": 4},
            PROBABILITIES,
            "`coarse_heads` must be .*Received: .*4",
        ),
    ],
    ids=["rank", "weights", "classes", "coarse_heads"],
)
def test_outputs_that_do_not_fit(options, outputs, message):
    with pytest.raises(ValueError, match=message):
        AnytimeLoss(**options)(LABELS % outputs.shape[-1], outputs)


def test_labels_that_do_not_fit():
    """A value per class, of another number of classes."""
    with pytest.raises(ValueError, match="shape"):
        AnytimeLoss()(np.ones((6, 3)), PROBABILITIES)
