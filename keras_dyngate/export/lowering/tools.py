"""What `DynamicLayer.lower` is given: branches, scores, and what the file is to tell."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf

from keras_dyngate import _hooks
from keras_dyngate.export.lowering.chain import lower_chain
from keras_dyngate.export.lowering.constants import as_constants
from keras_dyngate.export.lowering.residual import lower_residual
from keras_dyngate.layers.dynamic_layer import DynamicLayer


@dataclasses.dataclass(frozen=True)
class Branch:
    """One conditional branch of a file.

    Attributes:
        name: Decision and group: "stage1_block1/channel[0]".
        channels: Channels the branch gates; for a layer, all of the block's.
        macs: MACs that only this branch runs, when it and all inside it are open.
        parameters: Weights and biases stored inside it, inner branches included.
    """

    name: str
    channels: int
    macs: int
    parameters: int


class Held:
    """Decisions that the caller makes, all in one int32 tensor `[units]`.

    Args:
        layers: All that decide, in the order of execution.
        values: The tensor: 1 open, 0 shut, -1 as the controller says. None: to be set.
    """

    def __init__(self, layers: Iterable[Any], values: Any = None) -> None:
        self.values = values
        self.places: dict[str, slice] = {}
        self.groups: dict[str, int] = {}  # that run together; told while lowering
        stop = 0
        for layer in layers:
            for item in layer.decisions():
                start, stop = stop, stop + item.groups
                self.places[f"{layer.name}/{item.key}"] = slice(start, stop)
        self.units = stop

    def scores(self, layer: Any, controller: Any, score: Any) -> Any:
        """The scores of a controller, `[1, units]`, as they are to be."""
        names = [
            f"{layer.name}/{item.key}"
            for item in layer.decisions()
            if item.controller is controller
        ]
        parts = [self.values[self.places[name]] for name in names]
        held = tf.expand_dims(parts[0] if len(parts) == 1 else tf.concat(parts, 0), 0)
        return tf.where(held < 0, score, tf.cast(held, score.dtype))


@dataclasses.dataclass
class Lowering:
    """Lowers dynamic layers while a model is traced, and gathers what the file tells.

    Attributes:
        group_size: Channels per branch, or None for a default per layer.
        held: Who decides instead of the controllers, if anybody does.
        ungated: Whether everything runs, without controllers and branches.
        forced: int32 `[layers]` tensor, 1 opens all of a layer; None outside int8.
        decisions: Scores by name, `[1, units]`: float, or bool of a hard gate.
        opened: By name, bool `[groups]`: which groups of the decision ran.
        branches: What each branch holds.
        group_sizes: Channels per branch, by layer, or by decision where these differ.
    """

    group_size: int | None = None
    forced: Any = None
    held: "Held | None" = None
    ungated: bool = False
    decisions: dict[str, Any] = dataclasses.field(default_factory=dict)
    opened: dict[str, Any] = dataclasses.field(default_factory=dict)
    branches: list[Branch] = dataclasses.field(default_factory=list)
    group_sizes: dict[str, int] = dataclasses.field(default_factory=dict)
    _seen: list[str] = dataclasses.field(default_factory=list)

    def child(self) -> "Lowering":
        """For a branch: decisions and flags of its own, all else shared."""
        return dataclasses.replace(self, decisions={}, opened={})

    def __call__(self, layer: Any, x: Any) -> Any:
        if not isinstance(layer, DynamicLayer):
            raise NotImplementedError(
                f"There is no conditional form of {type(layer).__name__} yet. "
                f"Received: layer {layer.name!r}"
            )
        if layer.name in self._seen and list(layer.decisions()):
            raise ValueError(
                "A block that decides must be called once, and have a name of its own, to "
                f"be exported. Received: a second call of {layer.name!r}"
            )
        force = None
        if self.forced is not None:
            force = tf.greater(self.forced[len(self._seen)], 0)
        self._seen.append(layer.name)
        return layer.lower(x, Tools(self, layer, force))


class Tools:
    """For the lowering of one layer.

    Attributes:
        owner: Gathers what is told.
        layer: What is lowered.
        force: bool `[]`, opens all of it; None outside int8.
    """

    def __init__(self, owner: Lowering, layer: DynamicLayer, force: Any) -> None:
        self.owner, self.layer, self.force = owner, layer, force

    def score(self, controller: Any, x: Any) -> Any:
        """`[1, units]`: float scores, or bools of a hard gate, which int8 leaves alone."""
        if self.owner.ungated:
            score = tf.ones([1, controller.units])
            return tf.cast(score, tf.bool) if controller.binary else score
        x = self.layer.gate_input(x)
        with as_constants(controller):
            score = controller(x, training=False).score
        if self.owner.held is not None:
            score = self.owner.held.scores(self.layer, controller, score)
        return tf.cast(score, tf.bool) if controller.binary else score

    def is_open(self, scores: Any, groups: int) -> Any:
        """bool `[groups]`: a group runs when any of its units is open, or if forced."""
        is_open = scores if scores.dtype == tf.bool else scores > 0
        if scores.shape[-1] > groups:
            is_open = tf.reduce_any(tf.reshape(is_open, [groups, -1]), axis=1)
        is_open = tf.reshape(is_open, [groups])
        return is_open if self.force is None else tf.logical_or(is_open, self.force)

    def forced_open(self, score: Any) -> Any:
        """What to multiply by: 1 where calibration forces a unit open."""
        if self.force is None:
            return score
        return tf.maximum(score, tf.cast(self.force, tf.float32))

    @staticmethod
    def when(flag: Any, run: Callable[[], Any], otherwise: Any) -> Any:
        """`run()`, in a branch, if the flag is up, else `otherwise` handed through.

        Weights that `run` uses must be constants made in it.
        """
        return tf.cond(flag, run, lambda: tf.nest.map_structure(tf.identity, otherwise))

    def tell(self, key: str, scores: Any, opened: Any) -> None:
        """Note a decision: its scores `[1, units]`, and the groups that ran for it."""
        if self.owner.ungated:
            return
        name = f"{self.layer.name}/{key}"
        self.owner.decisions[name], self.owner.opened[name] = scores, opened
        if self.owner.held is not None:
            self.owner.held.groups[name] = int(opened.shape[0])

    def note(
        self,
        name: str,
        channels: int,
        macs: int,
        parameters: int,
        before: int | None = None,
    ) -> None:
        """Note what a branch holds; its name within the layer.

        Args:
            before: How many branches there were before those inside of this one, which
                it is to be told before. None: there are none inside.
        """
        if self.owner.ungated:
            return
        branches = self.owner.branches
        place = len(branches) if before is None else before
        name = f"{self.layer.name}/{name}"
        branches.insert(place, Branch(name, channels, macs, parameters))

    def skippable(
        self,
        key: str,
        score: Any,
        run: Callable[["Tools"], Any],
        skip: Callable[[], Any],
    ) -> Any:
        """`run(tools)` in a branch if `score`, `[1, 1]`, is open, else `skip()`.

        Whatever is decided inside reads 0 where it is skipped.
        """
        if self.owner.ungated:
            return run(self)
        child = self.owner.child()
        runs = tf.reshape(self.is_open(score, 1), [])
        kinds: list[Any] = []

        def taken() -> Any:
            with _hooks.lowering(child):
                y = run(Tools(child, self.layer, self.force))
            told = (child.decisions, child.opened)
            kinds.append(tf.nest.map_structure(lambda x: (x.shape, x.dtype), told))
            return y, *told

        def skipped() -> Any:
            told = tuple(
                {name: tf.zeros(*kind) for name, kind in found.items()}
                for found in kinds[0]
            )
            return skip(), *told

        y, decisions, opened = tf.cond(runs, taken, skipped)
        self.owner.decisions |= decisions
        self.owner.opened |= opened
        self.tell(key, score, tf.reshape(runs, [1]))
        return y

    def chain(self, layer: Any, x: Any) -> Any:
        """The conditional form of a `GatedChain`."""
        return lower_chain(layer, x, self)

    def residual(self, layer: Any, x: Any) -> Any:
        """The conditional form of a `GatedResidual`."""
        return lower_residual(layer, x, self)
