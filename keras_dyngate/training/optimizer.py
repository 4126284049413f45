"""The optimizer that residual nets, gated or not, are trained with."""

from typing import Any

import keras

from keras_dyngate._checks import built_model, one_of, positive_int, positive_number
from keras_dyngate.training.gate_variables import without_gate_decay

SCHEDULES = ("cosine", "steps", "constant")


def sgd(
    model: keras.Model,
    learning_rate: float,
    total_steps: int,
    *,
    schedule: str = "cosine",
    weight_decay: float | None = 5e-4,
    momentum: float = 0.9,
) -> keras.optimizers.Optimizer:
    """SGD with Nesterov momentum, a falling rate, and no weight decay on gates.

    Args:
        model: What is to be trained, built.
        learning_rate: At the start.
        total_steps: Steps of the whole training.
        schedule: "cosine" (default): to 0; "steps": divided by 10 after 60, 75 and 90 %
            of the steps; "constant".
        weight_decay: Per step, of all variables but the gates'. Default 5e-4.
        momentum: Default 0.9.

    Raises:
        ValueError: For a bad argument.

    Example:
        ```python
        block = kd.GatedBasicBlock(4, channel_gate="binary")
        top = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
        model = keras.Sequential([keras.Input((8, 8, 4)), block, *top])
        optimizer = kd.sgd(model, 0.1, total_steps=1000)
        model.compile(optimizer, "mse")
        ```
    """
    one_of("schedule", schedule, SCHEDULES)
    built_model("model", model)
    total_steps = positive_int("total_steps", total_steps)
    rate: Any = positive_number("learning_rate", learning_rate)
    if schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, total_steps)
    elif schedule == "steps":
        rate = keras.optimizers.schedules.PiecewiseConstantDecay(
            [int(total_steps * share) for share in (0.6, 0.75, 0.9)],
            [rate, rate / 10, rate / 100, rate / 1000],
        )
    optimizer = keras.optimizers.SGD(
        rate, momentum=momentum, nesterov=momentum > 0, weight_decay=weight_decay
    )
    return without_gate_decay(optimizer, model)
