import keras
import numpy as np

from keras_dyngate import DecisionGate
from keras_dyngate.models.exit_fitting import fit_gate


def test_a_feature_that_hardly_varies_has_no_huge_weight():
    """Else 8-bit weights, which share one scale, would round the others to zero."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 600)
    features = rng.normal(size=(600, 8)) + 2.0 * np.eye(3, 8)[labels]
    features[:, 5] = 7.0 + 1e-5 * rng.normal(size=600)
    features[:, 6] = 3.0
    gate = DecisionGate(3)
    gate.build((None, 8))
    fit = fit_gate(
        gate,
        features.astype("float32"),
        labels,
        epochs=60,
        batch_size=64,
        learning_rate=0.01,
        weight_decay=1e-4,
    )
    assert fit.accuracy > 0.8 and fit.features == 8
    kernel = keras.ops.convert_to_numpy(gate.dense.kernel)
    bias = keras.ops.convert_to_numpy(gate.dense.bias)
    step = np.abs(kernel).max() / 127
    scores = features @ (step * np.round(kernel / step)) + bias
    assert np.mean(scores.argmax(-1) == labels) > fit.accuracy - 0.02
    assert np.abs(kernel[[5, 6]]).max() < np.abs(kernel).max()
