"""What a model decided for each sample, as plain arrays keyed by name.

decisions = kd.decide(model, images)
decisions["stage1_block1/channel"]      # [N, units], 0 = skipped
"""

from typing import Any

import keras
import numpy as np

from keras_dyngate._backend import own_rows
from keras_dyngate._hooks import recording
from keras_dyngate._walk import controllers


class DecisionModel(keras.Model):
    """Wraps a model, sharing its weights; predicts outputs and decisions together.

    Output: `{"outputs": ..., "decisions": {name: [batch, units]}}`.
    """

    predict_function: Any

    def __init__(self, inner: keras.Model, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)  # the model casts for itself
        self.inner = inner

    def call(self, x: Any, training: bool | None = None) -> dict[str, Any]:
        with recording() as found:
            outputs = self.inner(x, training=training)
        return {"outputs": outputs, "decisions": dict(found)}

    def make_predict_function(self, force: bool = False) -> Any:
        """As in Keras; with several JAX processes, each has the outputs of its rows."""
        if self.predict_function is not None and not force:
            return self.predict_function
        super().make_predict_function(force)
        function = self.predict_function

        def own(state: Any, iterator: Any) -> Any:
            outputs, state = function(state, iterator)
            return keras.tree.map_structure(own_rows, outputs), state

        if keras.backend.backend() == "jax":
            self.predict_function = own
        return self.predict_function


def predict_with_decisions(
    model: keras.Model, x: Any, batch_size: int | None = None
) -> tuple[Any, dict[str, np.ndarray]]:
    """The model's outputs and its decisions, from one pass over the data."""
    result = DecisionModel(model).predict(x, batch_size=batch_size, verbose=0)
    return result["outputs"], result["decisions"]


def decide(
    model: keras.Model, x: Any, batch_size: int | None = None
) -> dict[str, np.ndarray]:
    """What `model` decides for each sample of `x`.

    Args:
        model: A model with dynamic layers.
        x: What `model.predict` takes: images `[N, height, width, 3]`, or a dataset.
        batch_size: As in `model.predict`.

    Returns:
        Scores `[N, units]` by name: `<block>/channel`, `<block>/channel_2` (second mask
        of a bottleneck), `<block>/layer`. 0 means skipped; units of a skipped block
        read 0. A net with early exits also has `exit`, int `[N, 1]`: the gate that a
        sample leaves at, or the number of gates for the head; what comes later reads 0.

    Raises:
        ValueError: If the model has neither controllers nor decision gates.

    Example:
        ```python
        block = kd.GatedBasicBlock(4, channel_gate="binary", name="block")
        top = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
        model = keras.Sequential([keras.Input((8, 8, 4)), block, *top])
        x = np.random.default_rng(0).normal(size=(8, 8, 8, 4))
        decisions = kd.decide(model, x)
        print(decisions["block/channel"].shape)  # (8, 4)
        ```
    """
    exits = getattr(model, "gates", ())
    if not exits and not any(True for _ in controllers(model)):
        raise ValueError(
            "`model` must hold controllers to decide anything. "
            f"Received: {model.name!r} without any"
        )
    return predict_with_decisions(model, x, batch_size)[1]
