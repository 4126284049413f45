"""The variables of gates apart from those of the trunk.

optimizer = kd.without_gate_decay(keras.optimizers.AdamW(1e-3), model)
kd.freeze_trunk(model)  # the gates alone learn
"""

from typing import Any

import keras

from keras_dyngate._checks import built_model
from keras_dyngate._walk import controllers


def gate_variables(model: keras.Model) -> list[Any]:
    """The trainable variables of all controllers of a net, layer by layer.

    Args:
        model: Any built model.

    Returns:
        Keras variables, each once; an empty list for a net without gates.

    Example:
        ```python
        block = kd.GatedBasicBlock(4, channel_gate="binary")
        top = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
        model = keras.Sequential([keras.Input((8, 8, 4)), block, *top])
        print(len(kd.gate_variables(model)), "of", len(model.trainable_variables))
        ```
    """
    found = {id(v): v for gate in controllers(model) for v in gate.trainable_variables}
    return list(found.values())


def without_gate_decay(optimizer: Any, model: keras.Model) -> Any:
    """Keep an optimizer's weight decay off the gates.

    Decay pulls the logits of gates to 0, where none is decided: a gate that no image
    needs open would not stay shut.

    Args:
        optimizer: A Keras optimizer that has not been built yet.
        model: The gated net, built.

    Returns:
        The same optimizer.

    Raises:
        ValueError: If the optimizer has been built already.

    Example:
        ```python
        block = kd.GatedBasicBlock(4, channel_gate="binary")
        top = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
        model = keras.Sequential([keras.Input((8, 8, 4)), block, *top])
        model.compile(kd.without_gate_decay(keras.optimizers.AdamW(1e-3), model), "mse")
        ```
    """
    if not hasattr(optimizer, "exclude_from_weight_decay"):
        raise ValueError(
            f"`optimizer` must be a Keras optimizer. Received: optimizer={optimizer!r}"
        )
    if getattr(optimizer, "built", False):
        raise ValueError(
            "`optimizer` must be a new one: which variables decay is settled when it is "
            f"built. Received: optimizer={optimizer!r}, built"
        )
    variables = gate_variables(model)
    if variables:
        optimizer.exclude_from_weight_decay(variables)
    return optimizer


def freeze_trunk(model: keras.Model, frozen: bool = True) -> keras.Model:
    """Let the gates alone learn, or the whole net again.

    Every layer without a controller in it is frozen; batch normalization is then at
    rest in training too. Compile the model anew afterwards, as Keras wants.

    Args:
        model: A built model with gates. Changed in place.
        frozen: False: all layers learn.

    Returns:
        The same model.

    Raises:
        ValueError: If the model has no gates.

    Example:
        ```python
        block = kd.GatedBasicBlock(4, channel_gate="binary")
        top = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
        model = keras.Sequential([keras.Input((8, 8, 4)), block, *top])
        kd.freeze_trunk(model)  # then compile, and fit the gates alone
        kd.freeze_trunk(model, frozen=False)
        ```
    """
    gates = list(controllers(built_model("model", model)))
    if not gates:
        raise ValueError(
            "`model` must have gates for the rest to be frozen. "
            f"Received: {model.name!r} without any"
        )
    if not frozen:
        for layer in model._flatten_layers():
            layer.trainable = True
        return model
    of_gates = {id(layer) for gate in gates for layer in gate._flatten_layers()}
    gates_own = {id(v) for gate in gates for v in gate.variables}
    for layer in model._flatten_layers():
        held = {id(inner) for inner in layer._flatten_layers()}
        if not held & of_gates:
            layer.trainable = False
    for variable in model.trainable_variables:  # of layers that hold gates, their own
        if id(variable) not in gates_own:
            variable.trainable = False
    return model
