"""Gates that begin where a trained net can spare channels.

    model = kd.gated_resnet32(weights="resnet32.npz", gates=kd.Gates(group_size=8))
    kd.prime_gates(model, x_train[:8000], y_train[:8000], share=0.6)

New gates know nothing of a trained trunk: driven to a budget of MACs, they shut channels
that matter, and training has to repair what they broke. Primed, they are shut first
where little depends on it, and channels of like importance share a decision.
"""

from typing import Any

import keras
import numpy as np

from keras_dyngate._checks import fraction
from keras_dyngate._deprecation import renamed
from keras_dyngate._walk import dynamic_layers
from keras_dyngate.channels.importance import channel_importance, gated_masks
from keras_dyngate.channels.rearranging import reorder_channels
from keras_dyngate.controllers import BinaryGate
from keras_dyngate.cost.counter import count_macs

LOGIT_BOUND = 4.0  # 98 % open or shut: what is further off hardly learns


@renamed(images="x", labels="y", target="share")
def prime_gates(
    model: keras.Model,
    x: Any,
    y: Any,
    share: float,
    *,
    spread: float = 3.0,
    loss: Any = "sparse_categorical_crossentropy",
    batch_size: int = 16,
) -> dict[str, np.ndarray]:
    """Order a net's gated channels by importance, and bias the gates accordingly.

    Changes `model`: the channels of every gated activation are put in falling order of
    `channel_importance`, so that neighbours, which share a decision, matter about
    equally; with everything open the net computes what it did before. Then the biases of
    the gates' logits are set from the logarithm of each unit's importance per MAC:
    0 where opening everything above would spend `share`, and one standard deviation
    over all units is `spread`. Nothing else of the gates is changed: do this before they
    are trained. Design of this library.

    Args:
        model: A built net with `BinaryGate` channel gates, whose trunk is trained.
        x, y, loss, batch_size: As in `channel_importance`.
        share: Of the plain net's MACs to spend, controllers included.
        spread: How decided the gates begin: logits per standard deviation. Logits are
            cut at 4. Default 3.

    Returns:
        The biases, by the name of the decision: float32 `[units]`.

    Raises:
        ValueError: If the model has other channel gates or none, or for a bad argument.

    Example:
        ```python
        block = kd.GatedBasicBlock(4, channel_gate="binary", name="block")
        top = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
        model = keras.Sequential([keras.Input((8, 8, 4)), block, *top])
        x = np.random.default_rng(0).normal(size=(8, 8, 8, 4))
        kd.prime_gates(model, x, np.arange(8) % 2, share=0.6)  # least important shut first
        ```
    """
    share = fraction("share", share)
    if not 0.0 < spread < np.inf:
        raise ValueError(f"`spread` must be positive. Received: spread={spread!r}")
    for name, _, item in gated_masks(model):
        if not isinstance(item.controller, BinaryGate):
            raise ValueError(
                "`model` must have channel gates that are `BinaryGate`. "
                f"Received: {type(item.controller).__name__} at {name!r}"
            )
    importance = channel_importance(model, x, y, loss=loss, batch_size=batch_size)
    per_unit: dict[str, np.ndarray] = {}
    for layer in dynamic_layers(model):
        items = [item for item in layer.decisions() if not item.whole]
        orders = {}
        for item in items:
            name = f"{layer.name}/{item.key}"
            order = np.argsort(-importance[name], kind="stable")
            of_unit = importance[name][order].reshape(item.groups, -1).sum(axis=1)
            cost = item.controller.unit_macs[item.units]
            per_unit[name] = np.log(np.maximum(of_unit, 1e-30) / cost)
            orders[item.key] = order
        if orders:
            reorder_channels(layer, layer, orders)
    biases = _biases(model, per_unit, share, spread)
    for name, _, item in gated_masks(model):
        bias = item.controller.expand.bias
        values = keras.ops.convert_to_numpy(bias).copy()
        values[item.units] = biases[name]
        bias.assign(values)
    return biases


def _biases(
    model: keras.Model, values: dict[str, np.ndarray], share: float, spread: float
) -> dict[str, np.ndarray]:
    """Logits that are positive for the units worth most, as far as `share` reaches."""
    profile = count_macs(model)
    layers = {
        f"{layer.name}/{item.key}": np.ones((1, 1))
        for layer in dynamic_layers(model)
        for item in layer.decisions()
        if item.whole
    }
    flat = np.sort(np.concatenate(list(values.values())))

    def spends_more(bound: float) -> bool:
        opened = {name: (value > bound)[None] for name, value in values.items()}
        return int(profile.of({**opened, **layers})[0]) > share * profile.total

    low, high = 0, len(flat)  # how many units, the least worthy first, are shut
    while low < high:
        middle = (low + high) // 2
        if spends_more(flat[middle]):
            low = middle + 1
        else:
            high = middle
    bound = flat[min(low, len(flat) - 1)]
    # Units that no image needs at all would stretch the scale.
    scale = max(float(np.std(np.maximum(flat, np.quantile(flat, 0.05)))), 1e-6)
    return {
        name: np.clip(
            spread * (value - bound) / scale, -LOGIT_BOUND, LOGIT_BOUND
        ).astype("float32")
        for name, value in values.items()
    }
