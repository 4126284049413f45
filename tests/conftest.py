"""What every test of the Keras part may use, and the order of tests."""

import numpy as np
import pytest


def pytest_collection_modifyitems(items):
    """Heavy tests come first: processes that share files then end at the same time."""
    items.sort(key=lambda item: item.get_closest_marker("heavy") is None)


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
