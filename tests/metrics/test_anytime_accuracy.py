import inspect
import json

import keras
import numpy as np
import pytest

from keras_dyngate import AnytimeAccuracy, AnytimeLoss, HierarchicalTaxonomy
from keras_dyngate.metrics.anytime_accuracy import anytime_accuracies

to_numpy = keras.ops.convert_to_numpy
RNG = np.random.default_rng(0)
TAXONOMY = HierarchicalTaxonomy([1, 0, 2, 0, 1, 2])
COARSE = np.array([1, 0, 2, 0, 1, 2])
OUTPUTS = RNG.random((40, 4, 6)).astype("float32")  # four heads, six fine classes
OUTPUTS[:, :2, 3:] = 0.0  # of which two answer three coarse ones
LABELS = RNG.integers(0, 6, 40)
WEIGHTS = RNG.uniform(0, 3, 40).astype("float32")
LEVELS = [
    (1, "coarse"),
    (2, "coarse"),
    (3, "fine"),
    (3, "coarse"),
    (3, "agreement"),
    (4, "fine"),
    (4, "coarse"),
    (4, "agreement"),
]


def right(k, level):
    """Sample by sample."""
    found = []
    for label, output in zip(LABELS, OUTPUTS, strict=True):
        answer = int(np.argmax(output[k - 1]))
        if level == "fine":
            found.append(answer == label)
            continue
        answer = COARSE[answer] if k > 2 else answer
        truth = COARSE[label] if level == "coarse" else np.argmax(output[1])
        found.append(answer == truth)
    return np.array(found)


def metric(k, level, **options):
    return AnytimeAccuracy(k, level, TAXONOMY, 2, **options)


def value(made, *arguments, **options):
    return float(to_numpy(made(*arguments, **options)))


@pytest.mark.parametrize(("k", "level"), LEVELS)
def test_by_loops(k, level):
    expected = right(k, level)
    assert 0 < expected.mean() < 1
    np.testing.assert_allclose(
        value(metric(k, level), LABELS, OUTPUTS), expected.mean(), rtol=1e-6
    )
    found = value(metric(k, level), LABELS, OUTPUTS, sample_weight=WEIGHTS)
    expected = np.average(expected, weights=WEIGHTS)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_without_taxonomy(k):
    expected = np.argmax(OUTPUTS[:, k - 1], axis=-1) == LABELS
    found = value(AnytimeAccuracy(k), LABELS, OUTPUTS)
    np.testing.assert_allclose(found, expected.mean(), rtol=1e-6)
    theirs = keras.metrics.SparseCategoricalAccuracy()
    np.testing.assert_allclose(found, value(theirs, LABELS, OUTPUTS[:, k - 1]))


@pytest.mark.parametrize(("k", "level"), [(1, "coarse"), (4, "fine")])
def test_over_batches(k, level):
    """Batches of unequal sizes and weights; then from nothing again."""
    made = metric(k, level)
    for start, stop in ((0, 7), (7, 8), (8, 40)):
        batch = slice(start, stop)
        made.update_state(LABELS[batch], OUTPUTS[batch], WEIGHTS[batch])
    expected = np.average(right(k, level), weights=WEIGHTS)
    np.testing.assert_allclose(to_numpy(made.result()), expected, rtol=1e-5)
    made.reset_state()
    found = value(made, LABELS[:9], OUTPUTS[:9])
    np.testing.assert_allclose(found, right(k, level)[:9].mean(), rtol=1e-6)


@pytest.mark.parametrize(
    "labels",
    [
        LABELS[:, None],
        LABELS.astype("float32"),
        LABELS.astype("uint8"),
        LABELS.tolist(),
        np.eye(6)[LABELS],
        0.9 * np.eye(6, dtype="float32")[LABELS] + 0.1 / 6,
    ],
    ids=["column", "float", "uint8", "list", "one_hot", "smoothed"],
)
@pytest.mark.parametrize(("k", "level"), [(1, "coarse"), (3, "coarse"), (3, "fine")])
def test_kinds_of_labels(k, level, labels):
    found = value(metric(k, level), labels, OUTPUTS)
    np.testing.assert_allclose(found, right(k, level).mean(), rtol=1e-6)


def test_as_many_samples_as_classes():
    found = value(metric(3, "fine"), LABELS[:6], OUTPUTS[:6])
    np.testing.assert_allclose(found, right(3, "fine")[:6].mean(), rtol=1e-6)


def test_agreement_reads_no_labels():
    expected = value(metric(4, "agreement"), LABELS, OUTPUTS)
    found = value(metric(4, "agreement"), np.zeros(40), OUTPUTS)
    assert found == expected
    outputs = OUTPUTS.copy()
    outputs[:, 0] = outputs[::-1, 0]  # of the coarse heads, only the last one counts
    assert value(metric(4, "agreement"), LABELS, outputs) == expected


def test_logits_with_padding():
    """As networks without an activation give them."""
    logits = OUTPUTS - 5.0
    logits[:, :2, 3:] = -1e9
    for k, level in LEVELS:
        found = value(metric(k, level), LABELS, logits)
        np.testing.assert_allclose(found, right(k, level).mean(), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_counts_beyond_the_dtype_of_the_outputs(dtype):
    """Five hundred right answers more would not move a sum in bfloat16."""
    made = AnytimeAccuracy(1)
    outputs = keras.ops.cast(np.eye(2)[np.zeros((600, 1), int)], dtype)
    labels = np.arange(600) >= 599
    for _ in range(3):
        made.update_state(labels, outputs)
    np.testing.assert_allclose(to_numpy(made.result()), 599 / 600, rtol=1e-6)


class TestNames:
    def test_without_taxonomy(self):
        assert AnytimeAccuracy(3).name == "accuracy_3"
        assert AnytimeAccuracy(3, name="mine").name == "mine"

    def test_with_taxonomy(self):
        names = [metric(k, level).name for k, level in LEVELS]
        assert names == [
            "coarse_accuracy_1",
            "coarse_accuracy_2",
            "fine_accuracy_3",
            "coarse_accuracy_3",
            "agreement_3",
            "fine_accuracy_4",
            "coarse_accuracy_4",
            "agreement_4",
        ]


class TestAll:
    def test_without_taxonomy(self):
        found = anytime_accuracies(3)
        assert [m.name for m in found] == ["accuracy_1", "accuracy_2", "accuracy_3"]

    def test_with_taxonomy(self):
        found = anytime_accuracies(4, TAXONOMY, 2)
        assert [(m.k, m.level) for m in found] == LEVELS
        for made, (k, level) in zip(found, LEVELS, strict=True):
            result = value(made, LABELS, OUTPUTS)
            np.testing.assert_allclose(result, right(k, level).mean(), rtol=1e-6)

    def test_fine_heads_alone(self):
        found = anytime_accuracies(2, TAXONOMY)
        assert [m.name for m in found] == [
            "fine_accuracy_1",
            "coarse_accuracy_1",
            "fine_accuracy_2",
            "coarse_accuracy_2",
        ]
        mapped = COARSE[OUTPUTS[:, 1].argmax(-1)] == COARSE[LABELS]
        np.testing.assert_allclose(
            value(found[3], LABELS, OUTPUTS), mapped.mean(), rtol=1e-6
        )

    def test_coarse_heads_alone(self):
        found = anytime_accuracies(2, TAXONOMY, 2)
        assert [(m.k, m.level) for m in found] == LEVELS[:2]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_in_a_compiled_model(jit_compile, tmp_path):
    """Of a model that passes two heads on; as plain and as weighted metrics."""
    outputs = OUTPUTS[:, 1:3]
    image = keras.Input(outputs.shape[1:])
    model = keras.Model(image, keras.layers.Identity()(image))
    model.compile(
        "sgd",
        AnytimeLoss(taxonomy=TAXONOMY, coarse_heads=1),
        metrics=anytime_accuracies(2, TAXONOMY, 1),
        weighted_metrics=[AnytimeAccuracy(2, name="weighted")],
        jit_compile=jit_compile,
    )
    options = {"batch_size": 16, "verbose": 0, "return_dict": True}
    found = model.evaluate(outputs, LABELS, sample_weight=WEIGHTS, **options)
    expected = {
        "coarse_accuracy_1": right(2, "coarse").mean(),
        "fine_accuracy_2": right(3, "fine").mean(),
        "coarse_accuracy_2": right(3, "coarse").mean(),
        "agreement_2": right(3, "agreement").mean(),
        "weighted": np.average(right(3, "fine"), weights=WEIGHTS),
        "loss": found["loss"],
    }
    assert found.keys() == expected.keys()
    for name, number in expected.items():
        np.testing.assert_allclose(found[name], number, rtol=1e-5)
    if jit_compile:
        return
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    again = loaded.evaluate(outputs, LABELS, sample_weight=WEIGHTS, **options)
    assert again == pytest.approx(found, rel=1e-6)


@pytest.mark.parametrize("given", [None, TAXONOMY])
def test_config(given):
    level = "fine" if given is None else "agreement"
    made = AnytimeAccuracy(3, level, given, 0 if given is None else 2, name="mine")
    assert set(made.get_config()) == set(inspect.signature(AnytimeAccuracy).parameters)
    written = json.loads(json.dumps(keras.metrics.serialize(made)))
    assert written["registered_name"] == "keras_dyngate>AnytimeAccuracy"
    again = keras.metrics.deserialize(written)
    assert type(again) is AnytimeAccuracy and again.get_config() == made.get_config()
    assert value(again, LABELS, OUTPUTS) == value(made, LABELS, OUTPUTS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "`k` must be a positive integer. Received: k=0"),
        ({"k": 1.0}, "`k` must be a positive integer. Received: k=1.0"),
        ({"level": "top5"}, "`level` must be one of 'fine', .*level='top5'"),
        ({"level": None}, "`level` must be one of 'fine', .*level=None"),
        ({"level": "coarse"}, "need a taxonomy. Received: level='coarse', k=1, .*None"),
        ({"level": "agreement"}, "need a taxonomy. Received: level='agreement', k=1"),
        ({"coarse_heads": 1}, "`coarse_heads` needs a `taxonomy`"),
        ({"taxonomy": [0, 1]}, "`taxonomy` must be a HierarchicalTaxonomy"),
        ({"taxonomy": TAXONOMY, "coarse_heads": 1}, "'fine' .* are of fine heads"),
        (
            {"taxonomy": TAXONOMY, "coarse_heads": 1, "level": "agreement"},
            "are of fine heads.*Received: level='agreement', k=1, coarse_heads=1",
        ),
        (
            {"taxonomy": TAXONOMY, "level": "agreement"},
            "`level='agreement'` needs a coarse head. Received: coarse_heads=0",
        ),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        AnytimeAccuracy(**{"k": 1, **options})


def test_no_such_subnetwork():
    with pytest.raises((ValueError, IndexError)):
        AnytimeAccuracy(5)(LABELS, OUTPUTS)


@pytest.mark.parametrize(
    ("taxonomy", "outputs"),
    [
        (None, OUTPUTS[:, 0]),
        (HierarchicalTaxonomy([0, 0, 1]), OUTPUTS),
        (HierarchicalTaxonomy([0, 0, 1, 1, 2, 2, 0]), OUTPUTS),
    ],
    ids=["rank", "fewer classes", "more classes"],
)
def test_outputs_that_do_not_fit(taxonomy, outputs):
    """No number at all, rather than a wrong one."""
    made = AnytimeAccuracy(1, "fine" if taxonomy is None else "coarse", taxonomy)
    with pytest.raises(ValueError, match="Received"):
        made(LABELS, outputs)
