"""How much a trained net's loss depends on each gated channel, and on each branch.

    importance = channel_importance(model, x, y)
    importance["stage1_block1/channel"]     # [16]

Each gated activation is thought of as multiplied by a mask of ones, one per channel. The
importance of a channel is the mean square of the loss' derivative by its mask (the
diagonal of the Fisher information, as in pruning by Taylor expansion). That of a branch
under a layer gate is the same of one mask for all of it.
"""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dyngate import _hooks
from keras_dyngate._checks import positive_int
from keras_dyngate._deprecation import renamed
from keras_dyngate._images import finite_images, take_images
from keras_dyngate._walk import dynamic_layers
from keras_dyngate.controllers import force_open_rate


def gated_masks(model: Any) -> Iterator[tuple[str, Any, Any]]:
    """Full name, layer and `Decision` of every masked activation, in order."""
    for layer in dynamic_layers(model):
        for item in layer.decisions():
            if not item.whole:
                yield f"{layer.name}/{item.key}", layer, item


class _Recorder(keras.optimizers.Optimizer):
    """Changes no variable; sums up the squared derivatives by the masks.

    The derivative by the mask of a channel that a kernel takes in is the sum, over the
    kernel's slice of that channel, of the kernel times its own derivative. A mask that is
    a variable itself, of ones, is a kernel of one channel.

    Args:
        axes: Of each kernel's channels that it takes in.
    """

    def __init__(self, axes: list[int]) -> None:
        super().__init__(learning_rate=0.0, name="recorder")
        self.axes = axes
        self.sums: list[Any] = []

    def build(self, variables: list[Any]) -> None:
        if self.built:
            return
        super().build(variables)
        self.sums = [
            self.add_variable(
                (kernel.shape[axis],), dtype="float32", name=f"sum{index}"
            )
            for index, (kernel, axis) in enumerate(
                zip(variables, self.axes, strict=True)
            )
        ]

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        index = self._get_variable_index(variable)
        rest = [n for n in range(len(variable.shape)) if n != self.axes[index]]
        by_mask = ops.sum(ops.cast(variable * gradient, "float32"), axis=rest)
        total = self.sums[index]
        self.assign_add(total, ops.square(by_mask))


class _AtRest(keras.Model):
    """Fits `kernels`, and masks by decision, of a model that behaves as at inference."""

    def __init__(
        self, model: keras.Model, kernels: list[Any], masks: dict[str, Any]
    ) -> None:
        super().__init__(name="at_rest", autocast=False)
        self.inner, self.masks = model, masks
        self.kernels = [*kernels, *masks.values()]

    @property
    def trainable_variables(self) -> list[Any]:
        return list(self.kernels)

    @property
    def trainable_weights(self) -> list[Any]:
        return list(self.kernels)

    @property
    def non_trainable_variables(self) -> list[Any]:
        fitted = {id(kernel) for kernel in self.kernels}
        return [v for v in super().variables if id(v) not in fitted]

    def call(self, x: Any, training: bool | None = None) -> Any:
        with _hooks.masking(self.masks):
            return self.inner(x, training=False)


@renamed(images="x", labels="y")
def channel_importance(
    model: keras.Model,
    x: Any,
    y: Any,
    *,
    loss: Any = "sparse_categorical_crossentropy",
    batch_size: int = 16,
) -> dict[str, np.ndarray]:
    """Mean squared derivative of the loss by a mask on each gated channel.

    Everything is open meanwhile, and batch normalization is at rest. The model is left
    as it is. Design of this library.

    Args:
        model: A built net with channel gates, whose trunk is trained.
        x: Images, an array as the model takes it; some thousands are enough.
        y: What `loss` takes, one per image.
        loss: A Keras loss or its name, of the labels and of what the model puts out.
        batch_size: The derivative is of the mean loss of so many images. The fewer, the
            sharper; the more, the faster. Default 16.

    Returns:
        By the name of the decision, as in `decide`, float32 `[channels]`.

    Raises:
        ValueError: If the model has no channel gates, or the data do not fit.

    Example:
        ```python
        block = kd.GatedBasicBlock(4, channel_gate="binary", name="block")
        top = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
        model = keras.Sequential([keras.Input((8, 8, 4)), block, *top])
        x = np.random.default_rng(0).normal(size=(8, 8, 8, 4))
        importance = kd.channel_importance(model, x, np.arange(8) % 2)
        print(importance["block/channel"])  # one number per channel
        ```
    """
    if not any(True for _ in gated_masks(model)):
        raise ValueError(
            "`model` must hold channel gates. "
            f"Received: {getattr(model, 'name', model)!r} without any"
        )
    return decision_importance(
        model, x, y, loss=loss, batch_size=batch_size, layers=False
    )


def decision_importance(
    model: keras.Model,
    x: Any,
    y: Any,
    *,
    loss: Any = "sparse_categorical_crossentropy",
    batch_size: int = 16,
    layers: bool = True,
) -> dict[str, np.ndarray]:
    """As `channel_importance`, of the branches under layer gates too: `[1]` each."""
    images = finite_images("x", take_images("x", x, tuple(model.input_shape[1:])))
    positive_int("batch_size", batch_size)
    labels = np.asarray(y)
    if len(labels) != len(images):
        raise ValueError(
            "`y` must be as many as `x`. "
            f"Received: {len(labels)} labels, {len(images)} images"
        )
    readers = {
        name: layer.channel_weights()[item.key][-1]
        for name, layer, item in gated_masks(model)
    }
    branches = [
        f"{layer.name}/{item.key}"
        for layer in dynamic_layers(model)
        for item in layer.decisions()
        if item.whole and layers
    ]
    masks = {name: keras.Variable([1.0], name="mask") for name in branches}
    recorder = _Recorder([*(axis for _, axis in readers.values()), *(0 for _ in masks)])
    fitted = _AtRest(model, [kernel for kernel, _ in readers.values()], masks)
    with force_open_rate(model, 1.0):
        fitted.compile(recorder, loss, auto_scale_loss=False)
        fitted.fit(images, labels, batch_size=batch_size, shuffle=False, verbose=0)
    batches = -(-len(images) // batch_size)
    return {
        name: ops.convert_to_numpy(total) / batches
        for name, total in zip([*readers, *masks], recorder.sums, strict=True)
    }
