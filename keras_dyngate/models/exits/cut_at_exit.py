"""The static net that ends at one exit of a net with early exits."""

import keras

from keras_dyngate._deprecation import is_now
from keras_dyngate._graph import joined
from keras_dyngate.layers import ExitHead
from keras_dyngate.models.exits.early_exit import EarlyExitModel


def cut_at_exit(
    model: EarlyExitModel, number: int | None = None, *, exit: int | None = None
) -> keras.Model:
    """The net up to one exit, with that exit's head alone; layers are shared.

    What every net with exits has to be held against: if one of its exits is right often
    enough for all pictures, the rest of the net is not needed. Of the exit at the input
    it is the first net alone.

    Args:
        model: A net with early exits.
        exit: Its number, from 0, as `predict` tells it.
        number: The old argument, from 1.

    Returns:
        A functional model from images to raw scores `[batch, classes]`.

    Raises:
        ValueError: If there is no such exit.

    Example:
        ```python
        net = keras.Sequential(
            [
                keras.Input((16, 16, 3)),
                keras.layers.Conv2D(8, 3, 2, activation="relu", name="early"),
                keras.layers.Conv2D(16, 3, 2, activation="relu", name="late"),
                keras.layers.GlobalAveragePooling2D(),
                keras.layers.Dense(4),
            ]
        )
        model = kd.add_decision_gates(net, after=["early"])
        static = kd.cut_at_exit(model, exit=0)
        print(kd.count_macs(static).total / kd.count_macs(net).total)
        ```
    """
    if not isinstance(model, EarlyExitModel):
        raise ValueError(
            "`model` must be a net with early exits, an EarlyExitModel. "
            f"Received: model={model!r}"
        )
    if number is not None:
        is_now("`number`, from 1, of `cut_at_exit`", "`exit=`, from 0")
        exit = number - 1
    if exit is None or isinstance(exit, bool) or exit not in range(len(model.gates)):
        raise ValueError(
            f"`exit` must be from 0 to {len(model.gates) - 1}. Received: exit={exit!r}"
        )
    gate = model.gates[exit]
    parts = [stage.part.stretch for stage in model.stages[: exit + 1]]
    parts = [stretch for stretch in parts if stretch.calls]
    name = f"{model.trunk.name}_until_{gate.name}"
    if isinstance(gate, ExitHead):
        return joined([*parts, gate.graph.whole], name=name)
    features = joined(parts)
    return keras.Model(features.inputs[0], gate(features.outputs[0]), name=name)
