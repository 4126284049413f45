"""The float32 form of a net that is traced: the net itself and Keras stay as they are.

Layers that compute in float32 are used as they are, their weights read. Of others a twin
is made from their config, with float32 for every dtype policy in it and the same numbers
for weights. Operators cast to float32 where they would cast to another kind of float.
"""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from keras_dyngate import _hooks
from keras_dyngate._copying import made_anew, same_but
from keras_dyngate._graph import Call, FlatGraph, Stretch, run_calls
from keras_dyngate._logits import squashing_call, without_activation
from keras_dyngate._walk import dynamic_layers
from keras_dyngate.controllers.controller import Controller

_FLOAT32 = "float32"


def _is_other_float(dtype: Any) -> bool:
    """Whether a dtype's or a policy's name is that of floats, but not of float32."""
    if not isinstance(dtype, str):
        return False
    return dtype.startswith("mixed_") or (
        dtype != _FLOAT32 and keras.backend.is_float_dtype(dtype)
    )


def is_float32(layer: keras.Layer) -> bool:
    """Whether a layer, and all inside it, computes in float32 and stores so."""
    return not any(
        _is_other_float(inner.dtype_policy.name)
        or any(_is_other_float(weight.dtype) for weight in inner.weights)
        for inner in layer._flatten_layers()
    )


def _config_in_float32(config: Any) -> Any:
    """A config with float32 for every other float in it."""
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicyMap":
            return _FLOAT32
        if config.get("class_name") in ("DTypePolicy", "FloatDTypePolicy"):
            name = config["config"]["name"]
            return _FLOAT32 if _is_other_float(name) else config
        return {
            key: _FLOAT32
            if key == "dtype" and _is_other_float(value)
            else _config_in_float32(value)
            for key, value in config.items()
        }
    if isinstance(config, (list, tuple)):
        return type(config)(_config_in_float32(item) for item in config)
    return config


def copy_state(twin: keras.Layer, layer: keras.Layer) -> None:
    """Give a twin of a layer its weights, and what its controllers are held at."""
    for ours, theirs in zip(twin.weights, layer.weights, strict=True):
        ours.assign(np.asarray(theirs.numpy()).astype(ours.dtype))
    pairs = zip(twin._flatten_layers(), layer._flatten_layers(), strict=True)
    for ours, theirs in pairs:
        if isinstance(theirs, Controller):
            ours.forced = theirs.forced


def float32_twin(layer: keras.Layer) -> keras.Layer:
    """A layer of its own with the same config and weights, in float32.

    Raises:
        ValueError: If the layer cannot be made from its config.
    """
    try:
        twin = made_anew(layer, _config_in_float32)
        if isinstance(twin, keras.layers.Lambda):
            return twin
        if not twin.built:
            twin.build_from_config(layer.get_build_config() or {})
        copy_state(twin, layer)
    except Exception as error:
        raise ValueError(
            "A layer that does not compute in float32 must be one that `get_config` and "
            "`build` can make anew: a file is made of a float32 form of it. "
            f"Received: layer {layer.name!r}, a {type(layer).__name__} of "
            f"{layer.dtype_policy.name} ({type(error).__name__}: {error})"
        ) from error
    return twin


def _operator(operation: Any) -> Any:
    """An operator that casts, if to floats, to float32."""
    if not _is_other_float(getattr(operation, "dtype", None)):
        return operation
    return same_but(operation, dtype=_FLOAT32)


def _in_float32(x: Any) -> Any:
    """A tensor or array of another kind of float as float32; all else as it is."""
    dtype = getattr(x, "dtype", None)
    if dtype is None or not hasattr(x, "shape"):
        return x
    name = keras.backend.standardize_dtype(dtype)
    return keras.ops.cast(x, _FLOAT32) if _is_other_float(name) else x


class Prepared:
    """What to run in place of the operations of some calls: `prepared(call)`.

    Args:
        calls: Of a flat graph.
        *graphs: What they end in; the last softmax or sigmoid of each is taken off, and
            so the net ends in raw scores.

    Attributes:
        layers: All that is run, each once; their weights are what a file holds.
        shifts: By the id of a weight, what a file is to hold it with on top.
    """

    def __init__(self, calls: Iterable[Call], *graphs: FlatGraph) -> None:
        self._forms: dict[int, Any] = {}
        self._takes_training: dict[int, bool] = {}
        for call in calls:
            key = id(call.operation)
            if key not in self._forms:
                self._forms[key] = self._form(call.operation)
                arguments = inspect.signature(call.operation.call).parameters
                self._takes_training[key] = "training" in arguments
        self.layers = [x for x in self._forms.values() if isinstance(x, keras.Layer)]
        self.shifts: dict[int, np.ndarray] = {}
        self._last = {squashing_call(graph) for graph in graphs}

    def form(self, call: Call) -> Any:
        """The layer or operator that is run for a call, its activation apart."""
        return self._forms[id(call.operation)]

    @staticmethod
    def _form(operation: Any) -> Any:
        if not isinstance(operation, keras.Layer):
            return _operator(operation)
        return operation if is_float32(operation) else float32_twin(operation)

    def __call__(self, call: Call) -> Callable[..., Any]:
        key = id(call.operation)
        form = self.form(call)
        if call in self._last:
            form = without_activation(form)

        def run(*args: Any, **kwargs: Any) -> Any:
            args, kwargs = keras.tree.map_structure(_in_float32, (args, kwargs))
            if self._takes_training[key]:  # some augmentation is on by default
                kwargs["training"] = False
            if isinstance(form, keras.layers.BatchNormalization):
                built = _hooks.normalized(form, args[0])
                if built is not None:
                    return built
            return form(*args, **kwargs)

        return run

    def run(self, stretch: Stretch, x: Any) -> Any:
        """What a stretch from one tensor to one other makes of `x`."""
        table = {id(stretch.inputs[0]): x}
        run_calls(stretch.calls, table, self)
        return table[id(stretch.output)]

    def layers_of(self, calls: Iterable[Call]) -> list[keras.Layer]:
        """The layers that are run for some calls, each once."""
        forms = {id(form): form for form in map(self.form, calls)}
        return [x for x in forms.values() if isinstance(x, keras.Layer)]

    def dynamic_layers(self, calls: Iterable[Call]) -> list[Any]:
        """The layers among some calls that decide, in the order of execution."""
        return [b for layer in self.layers_of(calls) for b in dynamic_layers(layer)]
