"""What every test of the Keras part may use, and the order of tests."""

import os

import numpy as np
import pytest

TORCH = os.environ.get("KERAS_BACKEND") == "torch"


def pytest_collection_modifyitems(items):
    """Heavy tests come first: processes that share files then end at the same time."""
    for item in items:
        if TORCH and getattr(item, "callspec", None) is not None:
            if item.callspec.params.get("jit_compile"):
                item.add_marker(pytest.mark.skip("about XLA, which PyTorch is without"))
    items.sort(key=lambda item: item.get_closest_marker("heavy") is None)


@pytest.fixture(autouse=True, scope="session")
def _tensors_are_arrays():
    """NumPy takes PyTorch's tensors as it takes other backends': without gradients."""
    if not TORCH:
        yield
        return
    import torch

    def array(self, dtype=None, copy=None):
        return np.array(self.detach().cpu().numpy(), dtype)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(torch.Tensor, "__array__", array)
        yield


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
