"""What every layer of the library must do, asked in one call."""

import inspect
import json

import keras
import numpy as np

from tests.stubs import images

BASE_KEYS = {"name", "trainable", "dtype"}


def constructor_arguments(cls):
    """Names of the arguments of a class, those of its bases included."""
    names = set()
    for base in cls.__mro__:
        if base in (keras.layers.Layer, object):
            break
        if "__init__" in vars(base):
            parameters = inspect.signature(base.__init__).parameters.values()
            names |= {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
    return names - {"self"}


def check_config(made):
    """`get_config` holds every argument, is JSON, and makes the same again."""
    config = made.get_config()
    assert set(config) - BASE_KEYS == constructor_arguments(type(made)) - BASE_KEYS
    written = json.loads(json.dumps(config))
    again = type(made).from_config(written)
    assert json.loads(json.dumps(again.get_config())) == written


def _first(output):
    return output[0] if isinstance(output, tuple) else output


def _model(layer, shape):
    """The layer between an input and a regression."""
    image = keras.Input(shape)
    y = _first(layer(image))
    if len(y.shape) == 4:
        y = keras.layers.GlobalAveragePooling2D(dtype="float32")(y)
    return keras.Model(image, keras.layers.Dense(1, dtype="float32")(y))


def run_layer_test(make, shape, output_shape, file, output_dtype=None):
    """Checks one layer; on the running backend, in float32 and mixed bfloat16.

    Args:
        make: Builds a new layer.
        shape: Of an input, without the batch.
        output_shape: Expected for that input (of the first output, if there are many).
        file: Path of a `.keras` file to write.
        output_dtype: Of the first output under mixed_bfloat16; default bfloat16.
    """
    keras.utils.set_random_seed(0)  # a layer gate that is shut for all teaches nothing
    x = images(5, *shape) / 255.0
    layer = make()
    check_config(layer)

    symbolic = _first(layer(keras.Input(shape)))
    assert tuple(symbolic.shape) == (None, *output_shape)
    computed = layer.compute_output_shape((None, *shape))
    computed = computed[0] if isinstance(computed[0], tuple) else computed
    assert tuple(computed) == (None, *output_shape)
    eager = keras.ops.convert_to_numpy(_first(layer(x)))
    assert eager.shape == (5, *output_shape) and np.isfinite(eager).all()
    check_config(layer)  # built now, and no different

    # A compiled training step: the last batch is short, every weight must move.
    model = _model(layer, shape)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    before = model.get_weights()
    history = model.fit(x, np.arange(5.0), batch_size=3, shuffle=False, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    for variable, old in zip(model.weights, before, strict=True):
        new = keras.ops.convert_to_numpy(variable)
        assert np.isfinite(new).all(), variable.path
        if variable.trainable:
            assert (new != old).any(), variable.path

    # Out of a file, in training too: the noise goes on where it was.
    expected = model.predict(x, verbose=0)
    model.save(file)
    loaded = keras.saving.load_model(file)
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), expected)
    again = loaded.get_layer(layer.name)
    assert json.dumps(again.get_config()) == json.dumps(layer.get_config())
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(loaded(x, training=True)),
        keras.ops.convert_to_numpy(model(x, training=True)),
        rtol=1e-5,
        atol=1e-6,
    )

    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        mixed = make()
        output = _first(mixed(x, training=True))
        assert keras.backend.standardize_dtype(output.dtype) == (
            output_dtype or "bfloat16"
        )
        assert bool(keras.ops.all(keras.ops.isfinite(output)))
        assert {w.dtype for w in mixed.trainable_weights} == {"float32"}
    finally:
        keras.config.set_dtype_policy(before)
