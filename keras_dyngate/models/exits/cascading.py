"""Cascades of whole nets: small ones are asked first, the last one where none is sure.

    model = cascade([small, gated, large])
    model.calibrate(x_val, y_val, accuracy_drop=0.01)

Streeter, Approximation algorithms for cascading prediction models, ICML 2018; Wang et al.,
Wisdom of Committees, 2021, arXiv 2012.01988.
"""

from collections.abc import Sequence

import keras

from keras_dyngate.layers import ExitHead
from keras_dyngate.models.exits.cut_points import (
    check_trunk,
    checked_graph,
    input_place,
)
from keras_dyngate.models.exits.early_exit import EarlyExitModel
from keras_dyngate.models.exits.first_nets import first_net


def at_input(trunk: keras.Model, count: int) -> tuple[keras.Model, list[str]]:
    """Places for so many nets at a trunk's input.

    Args:
        trunk: As `EarlyExitModel` takes it.
        count: 1 or more.

    Returns:
        The trunk, behind layers that do nothing if there are several; the places in
        order: its input, and those layers.
    """
    (image,) = checked_graph(trunk).inputs
    names = [f"again_{number}" for number in range(1, count)]
    if names:
        image = x = keras.Input(image.shape[1:], dtype=image.dtype)
        for name in names:
            x = keras.layers.Identity(name=name)(x)
        trunk = keras.Model(image, trunk(x), name=trunk.name)
    return trunk, [input_place(checked_graph(trunk)), *names]


def cascade(
    nets: Sequence[keras.Model], *, combine: bool = True, name: str | None = None
) -> EarlyExitModel:
    """Whole nets, asked one after the other until one is sure.

    Args:
        nets: Two or more trained Keras classifiers over the same classes, cheap ones
            first: nets of yours, with gates or without. They take pixels of the same
            values; pictures are those of the last one, and are resized inside for
            others. Their layers and weights are shared, not copied. Layers that decide
            must have names of their own: of two gated nets of one family, rename those
            of one.
        combine: Whether a net answers together with those before it; see
            `EarlyExitModel`. Default True: nets that were taught apart err on different
            pictures.
        name: Of the new model.

    Returns:
        An `EarlyExitModel` whose trunk is the last net and whose exits, "net_1", "net_2"
        and so on, are the others. Its thresholds are infinite: `calibrate` chooses them.

    Raises:
        ValueError: For fewer than two nets, one that comes twice or has exits of its own,
            nets of other classes or inputs, or gated blocks of the same name in two.

    Example:
        ```python
        def net(size, width):
            image = keras.Input((size, size, 3))
            x = keras.layers.Conv2D(width, 3, 2, activation="relu")(image)
            x = keras.layers.GlobalAveragePooling2D()(x)
            return keras.Model(image, keras.layers.Dense(4)(x))

        model = kd.cascade([net(8, 4), net(16, 4), net(16, 32)])
        x = np.random.default_rng(0).uniform(0, 255, (8, 16, 16, 3))
        print(model.calibrate(x, np.arange(8) % 4, accuracy_drop=0.0))
        print(kd.count_macs(model).per_exit)
        ```
    """
    kind = isinstance(nets, (list, tuple))
    if not kind or len(nets) < 2 or len({id(net) for net in nets}) < len(nets):
        raise ValueError(
            "`nets` must be two or more Keras classifiers, each once, cheap ones first. "
            f"Received: nets={nets!r}"
        )
    if exits := [net.name for net in nets if isinstance(net, EarlyExitModel)]:
        raise ValueError(
            "`nets` must be without exits: make those of all at once, by "
            f"`EarlyExitModel`. Received: {exits}"
        )
    *others, last = nets
    classes = check_trunk(last)
    trunk, places = at_input(last, len(others))
    gates = []
    for number, net in enumerate(others, 1):
        body = first_net(trunk.input_shape, classes, net, what="nets")
        gates.append(ExitHead(classes, body, name=f"net_{number}"))
    return EarlyExitModel(trunk, places, gates, combine=combine, name=name)
