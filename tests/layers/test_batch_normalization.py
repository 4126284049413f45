import keras
import numpy as np
import pytest

from keras_dyngate import BatchNormalization, GatedBasicBlock
from keras_dyngate.layers import gated_block
from tests import layer_checks
from tests.backend_utils import BACKEND, gradients
from tests.stubs import randomize

to_numpy = keras.ops.convert_to_numpy
SHAPE = (4, 3, 8)
X = np.random.default_rng(0).normal(2.0, 3.0, (5, *SHAPE)).astype("float32")
OPTIONS = [
    {},
    {"epsilon": 1e-5, "momentum": 0.9},
    {"center": False},
    {"scale": False, "center": False},
    {"axis": 3},
    {"axis": 1},
    {"renorm": True},
]


def pair(options, shape=SHAPE, **more):
    """Keras' layer and ours with the same weights."""
    layers = []
    for cls in (keras.layers.BatchNormalization, BatchNormalization):
        layer = cls(**options, **more)
        layer.build((None, *shape))
        layers.append(layer)
    randomize(layers[0])
    layers[1].set_weights(layers[0].get_weights())
    return layers


def assert_same_statistics(keras_layer, ours, **tolerances):
    for theirs, own in zip(keras_layer.weights, ours.weights, strict=True):
        np.testing.assert_allclose(to_numpy(own), to_numpy(theirs), **tolerances)


def test_layer(tmp_path):
    layer_checks.run_layer_test(BatchNormalization, SHAPE, SHAPE, tmp_path / "bn.keras")


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_training_step_is_keras(options):
    """Outputs, gradients and moving statistics."""
    weights = np.random.default_rng(1).normal(size=X.shape).astype("float32")
    layers = pair(options)
    outputs = [to_numpy(layer(X, training=True)) for layer in layers]
    np.testing.assert_allclose(outputs[1], outputs[0], rtol=1e-5, atol=1e-5)
    assert_same_statistics(*layers, rtol=1e-5, atol=1e-6)
    found = []
    for layer in layers:

        def weighted(x, layer=layer):
            return keras.ops.sum(keras.ops.multiply(weights, layer(x, training=True)))

        found.append(gradients(weighted, X, variables=layer.trainable_variables))
    (_, *theirs), (_, *ours) = found
    for gradient, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.heavy
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("shape", [SHAPE, (1, 1, 8), (8,), (3, 8), (2, 2, 2, 8)])
def test_fitted_as_keras(shape, jit_compile):
    """Some steps of a net, the last batch of one image; inputs of every rank."""
    x = np.random.default_rng(2).normal(1.0, 2.0, (7, *shape)).astype("float32")
    found = []
    for layer in pair({}, shape):
        image = keras.Input(shape)
        head = keras.layers.Dense(
            1, kernel_initializer=keras.initializers.Constant(0.1)
        )
        y = head(keras.layers.Flatten()(layer(image)))
        model = keras.Model(image, y)
        model.compile(keras.optimizers.SGD(0.01), "mse", jit_compile=jit_compile)
        model.fit(x, np.arange(7.0), batch_size=3, epochs=2, shuffle=False, verbose=0)
        found.append([*model.get_weights(), model.predict(x, verbose=0)])
    for theirs, ours in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ours", [keras.layers.BatchNormalization, BatchNormalization])
def test_files_with_either_layer_load(ours, tmp_path, monkeypatch):
    """Files of nets from before this layer hold Keras' own, under its name."""
    monkeypatch.setattr(gated_block, "BatchNormalization", ours)
    image = keras.Input(SHAPE)
    old = keras.Model(image, GatedBasicBlock(8)(image))
    randomize(old)
    old.save(tmp_path / "old.keras")
    monkeypatch.undo()
    loaded = keras.saving.load_model(tmp_path / "old.keras")
    assert type(loaded.layers[1].norms[0]) is BatchNormalization
    np.testing.assert_array_equal(loaded(X), old(X))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_mixed_precision(policy):
    """Statistics are computed in float32, and kept in the variables' precision."""
    layers = pair({}, dtype=policy)
    outputs = [layer(X, training=True) for layer in layers]
    assert outputs[1].dtype == outputs[0].dtype
    np.testing.assert_allclose(
        *(to_numpy(keras.ops.cast(y, "float32")) for y in outputs), rtol=1e-2, atol=1e-2
    )
    rounding = 1e-2 if policy == "bfloat16" else 1e-4
    assert_same_statistics(*layers, rtol=rounding, atol=rounding)


def test_frozen_and_at_inference():
    keras_layer, ours = pair({})
    before = ours.get_weights()
    expected = to_numpy(keras_layer(X))
    np.testing.assert_array_equal(to_numpy(ours(X)), expected)
    ours.trainable = False
    np.testing.assert_array_equal(to_numpy(ours(X, training=True)), expected)
    for value, old in zip(ours.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's operation")
@pytest.mark.parametrize(
    ("x", "fused"), [(X, True), (X.astype("float64"), False), (X[:, 0], False)]
)
def test_one_operation(x, fused):
    import tensorflow as tf

    layer = BatchNormalization(dtype=x.dtype.name)
    layer.build(x.shape)
    traced = tf.function(lambda x: layer(x, training=True)).get_concrete_function(
        tf.TensorSpec(x.shape, x.dtype)
    )
    kinds = {operation.type for operation in traced.graph.get_operations()}
    assert ("FusedBatchNormV3" in kinds) == fused
