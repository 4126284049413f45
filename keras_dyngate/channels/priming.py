"""Gates that begin where a trained net can spare channels.

    model = kd.gated_resnet32(weights="resnet32.npz", gates=kd.Gates(group_size=8))
    kd.prime_gates(model, x_train[:8000], y_train[:8000], share=0.6)

New gates know nothing of a trained trunk: driven to a budget of MACs, they shut channels
that matter, and training has to repair what they broke. Primed, they are shut first
where little depends on it, and channels of like importance share a decision.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_dyngate import _hooks
from keras_dyngate._checks import fraction
from keras_dyngate._deprecation import renamed
from keras_dyngate._images import take_images
from keras_dyngate._walk import dynamic_layers
from keras_dyngate.callbacks.settling import largest_shift, share_spent
from keras_dyngate.channels.importance import decision_importance, gated_masks
from keras_dyngate.channels.rearranging import reorder_channels
from keras_dyngate.controllers import BinaryGate, force_open_rate
from keras_dyngate.cost.budget import Budget, resolve_share
from keras_dyngate.cost.cost_table import CostTable
from keras_dyngate.cost.counter import count_macs
from keras_dyngate.cost.table_file import check_table
from keras_dyngate.decisions import DecisionModel

LOGIT_BOUND = 4.0  # 98 % open or shut: what is further off hardly learns
MOST = 256  # images that the spending is measured on
FEW = 4  # images that tell whether a net still sees a difference
ALIKE = 1e-5  # of what differs with everything open


@renamed(images="x", labels="y", target="share")
def prime_gates(
    model: keras.Model,
    x: Any,
    y: Any,
    share: "float | str | Budget",
    *,
    spread: float = 3.0,
    loss: Any = "sparse_categorical_crossentropy",
    batch_size: int = 16,
    group_size: int | Mapping[str, int] | None = None,
    table: CostTable | None = None,
) -> dict[str, np.ndarray]:
    """Order a net's gated channels by importance, and bias the gates accordingly.

    Changes `model`: the channels of every gated activation are put in falling order of
    `channel_importance`, so that neighbours, which share a decision, matter about
    equally; with everything open the net computes what it did before. Then the biases of
    the gates' logits are set from the logarithm of each unit's importance per MAC, a
    gated branch being one unit: one standard deviation over all units is `spread`, and
    what is added to all is such that the decisions on these images spend `share`, from
    the first step of training on. A chain without which the net would say the same of
    every image keeps its most important unit open, if the share allows; one inside a
    gated branch begins with a unit that is as open as the branch. Nothing else of the
    gates is changed: do this before they are trained. Design of this library.

    Args:
        model: A built net with gates, whose trunk is trained. Channel gates must be
            `BinaryGate`s; layer gates of another kind are left as they are.
        x, y, loss, batch_size: As in `channel_importance`.
        share: Of the plain net's cost to spend, controllers included; or a `Budget`.
        spread: How decided the gates begin: logits per standard deviation. Logits are
            cut at 4. Default 3.
        group_size: As in `CostTable.of`: count what runs in groups of so many channels.
        table: What the net costs, see `measure_latency`. None: MACs.

    Returns:
        The biases, by the name of the decision: float32 `[units]`.

    Raises:
        ValueError: If the model has other channel gates or no gate that can be primed,
            or for a bad argument.

    Example:
        ```python
        block = kd.GatedBasicBlock(4, channel_gate="binary", name="block")
        top = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
        model = keras.Sequential([keras.Input((8, 8, 4)), block, *top])
        x = np.random.default_rng(0).normal(size=(8, 8, 8, 4))
        kd.prime_gates(model, x, np.arange(8) % 2, share=0.6)  # least important shut first
        ```
    """
    counted = count_macs(model)
    costs = counted if table is None else check_table(table, counted)
    if not isinstance(share, (str, Budget)):
        fraction("share", share)
    wanted = resolve_share(share, costs)
    if not 0.0 < spread < np.inf:
        raise ValueError(f"`spread` must be positive. Received: spread={spread!r}")
    gates = _primed(model)
    x = take_images("x", x, tuple(model.input_shape[1:]))
    importance = decision_importance(model, x, y, loss=loss, batch_size=batch_size)
    values: dict[str, np.ndarray] = {}
    for layer in dynamic_layers(model):
        orders = {}
        for item in layer.decisions():
            name = f"{layer.name}/{item.key}"
            if name not in gates:
                continue
            order = np.argsort(-importance[name], kind="stable")
            of_unit = importance[name][order].reshape(item.groups, -1).sum(axis=1)
            cost = np.maximum(costs.per_unit(name, item.groups), 1e-9 * costs.total)
            values[name] = np.log(np.maximum(of_unit, 1e-30) / cost)
            if not item.whole:
                orders[item.key] = order
        if orders:
            reorder_channels(layer, layer, orders)
    vital = vital_decisions(model, x[:FEW], gates)
    logits = _logits(values, spread)
    for inner, outer in _nested(costs, gates):  # a branch of nothing would be waste
        best = np.argmax(logits[inner])
        logits[inner][best] = max(logits[inner][best], logits[outer].max())
    return _settled(model, gates, logits, vital, x, wanted, costs, group_size)


def _primed(model: keras.Model) -> dict[str, Any]:
    """By full name, the decisions to prime."""
    for name, _, item in gated_masks(model):
        if not isinstance(item.controller, BinaryGate):
            raise ValueError(
                "`model` must have channel gates that are `BinaryGate`. "
                f"Received: {type(item.controller).__name__} at {name!r}"
            )
    found = {
        f"{layer.name}/{item.key}": item
        for layer in dynamic_layers(model)
        for item in layer.decisions()
        if isinstance(item.controller, BinaryGate)
    }
    if not found:
        raise ValueError(
            "`model` must hold gates that are `BinaryGate`. "
            f"Received: {getattr(model, 'name', model)!r} without any"
        )
    return found


def vital_decisions(model: keras.Model, x: Any, gates: Mapping[str, Any]) -> list[str]:
    """Decisions without which a net says the same of every image: nothing goes around.

    Args:
        model: Everything in it is opened for this.
        x: Some images that differ.
        gates: Its decisions by full name.
    """
    found = []
    images = keras.ops.convert_to_tensor(x)

    def differs(masks: dict[str, Any]) -> float:
        with force_open_rate(model, 1.0), _hooks.masking(masks):
            said = keras.tree.flatten(model(images, training=False))
        return max(
            float(np.ptp(keras.ops.convert_to_numpy(y), axis=0).max()) for y in said
        )

    usual = differs({})
    for name, item in gates.items():
        if not item.whole and differs({name: keras.ops.zeros((1, item.groups))}) < (
            ALIKE * usual
        ):
            found.append(name)
    return found


def _nested(costs: CostTable, gates: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Decisions about channels, and those about a branch that they are in."""
    found: dict[tuple[str, str], None] = {}
    for row in costs.rows:
        names = [gating.name_in(row.layer) for gating in row.gatings]
        names = [name for name in names if name in gates]
        for inner in names:
            for outer in names:
                if gates[outer].whole and not gates[inner].whole and not row.controller:
                    found[inner, outer] = None
    return iter(found)


def _logits(values: dict[str, np.ndarray], spread: float) -> dict[str, np.ndarray]:
    """Logits in the order of the values, around 0, of the spread asked for."""
    flat = np.concatenate(list(values.values()))
    # Units that no image needs at all would stretch the scale.
    floor = np.quantile(flat, 0.05)
    scale = max(float(np.std(np.maximum(flat, floor))), 1e-6)
    middle = float(np.median(flat))
    return {name: spread * (value - middle) / scale for name, value in values.items()}


def _settled(
    model: keras.Model,
    gates: dict[str, Any],
    logits: dict[str, np.ndarray],
    vital: Sequence[str],
    x: Any,
    share: float,
    costs: CostTable,
    group_size: int | Mapping[str, int] | None,
) -> dict[str, np.ndarray]:
    """Shift all logits alike, so that the decisions spend the share, and set them."""
    decider = DecisionModel(model)
    flat = np.concatenate(list(logits.values()))
    biases: dict[str, np.ndarray] = {}
    spent: list[float] = []
    held: Sequence[str] = vital

    def spends(shift: float) -> float:
        for name, item in gates.items():
            found = np.clip(logits[name] + shift, -LOGIT_BOUND, LOGIT_BOUND)
            if name in held:
                found[np.argmax(logits[name])] = LOGIT_BOUND
            biases[name] = found.astype("float32")
            bias = item.controller.expand.bias
            values = keras.ops.convert_to_numpy(bias).copy()
            values[item.units] = biases[name]
            bias.assign(values)
        spent.append(share_spent(decider, x[:MOST], costs, group_size, batch_size=32))
        return spent[-1]

    all_shut, all_open = -LOGIT_BOUND - flat.max(), LOGIT_BOUND - flat.min()
    for held in (vital, ()):  # what costs too much may be shut after all
        largest_shift(spends, share, all_shut, all_open)
        if not held or spent[-1] <= share:
            break
    return dict(biases)
