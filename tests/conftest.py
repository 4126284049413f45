"""What every test of the Keras part may use, and the order of tests.

Heavy tests come last. Where KERAS_DYNGATE_HEAVY_UNTIL is set, to a time in seconds since
the epoch as `.ci/run` does, those that would begin later are skipped.
"""

import os
import time

import numpy as np
import pytest

# Quick on TensorFlow, but JAX compiles every shape.
HEAVY_ON_JAX = (
    "test_sliced_conv2d.py",
    "test_sliced_dense.py",
    "test_nested_conv2d.py",
    "test_slices.py",
    "test_anytime_nets.py",
    "test_anytime_model.py",
    "test_nested_dense.py",
    "test_sliced_batch_normalization.py",
    "test_channel_padding.py",
    "test_anytime_loss.py",
    "test_anytime_accuracy.py",
)
# Many nets that are exported, trained or built at several sizes.
HEAVY = ("test_segment.py", "test_pspnet.py", "test_two_processes.py", "test_exits.py")


def pytest_collection_modifyitems(items):
    heavy = HEAVY
    if os.environ.get("KERAS_BACKEND") == "jax":
        heavy += HEAVY_ON_JAX
    for item in items:
        if item.path.name in heavy:
            item.add_marker(pytest.mark.heavy)
    items.sort(key=lambda item: item.get_closest_marker("heavy") is not None)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    until = os.environ.get("KERAS_DYNGATE_HEAVY_UNTIL")
    if until and item.get_closest_marker("heavy") and time.time() > float(until):
        pytest.skip("no time left for heavy tests")


def _draw_by_numpy(monkeypatch):
    import keras

    rng = np.random.default_rng(0)

    def draw(self, shape, dtype=None):
        scale = (2.0 / np.prod(shape[:-1])) ** 0.5
        return keras.ops.convert_to_tensor(
            rng.normal(0.0, scale, shape).astype("float32"), dtype
        )

    monkeypatch.setattr(keras.initializers.VarianceScaling, "__call__", draw)


@pytest.fixture
def numpy_initializers(monkeypatch):
    """Random kernels drawn by NumPy: JAX compiles a draw for every new shape."""
    _draw_by_numpy(monkeypatch)


@pytest.fixture(scope="module")
def module_numpy_initializers():
    """The same for a module that has fixtures of its scope build nets."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        _draw_by_numpy(monkeypatch)
        yield


@pytest.fixture
def dtype_policy():
    """Sets the global dtype policy, for this test only."""
    import keras

    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)
