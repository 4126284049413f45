"""The interface that every controller has, so that blocks need not know which they hold.

output = controller(x, training=True)
output.score      # [batch, units], >= 0; exactly 0 means: skip this unit
output.logit      # [batch, units], what the score was made from
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_dyngate import regularizers as regularizers_module
from keras_dyngate._backend import copy_variable, keep_replicas_apart
from keras_dyngate._checks import positive_int
from keras_dyngate._saving import KeepsFrozen


class ControllerOutput(NamedTuple):
    """What a controller says of a batch: two tensors of shape `[batch, units]`.

    Example:
        ```python
        score, logit = kd.BinaryGate(4)(np.ones((2, 8, 8, 16)))
        print(score.shape, logit.shape)  # (2, 4) (2, 4)
        ```
    """

    score: Any
    logit: Any


class Controller(KeepsFrozen, keras.layers.Layer):
    """Base of all controllers: scores, regularizers, forcing.

    A subclass gives `compute_logits`, `compute_scores` and `count_macs`. Computations
    run in float32 whatever the dtype policy: a decision must not depend on rounding.

    Args:
        units: Number of decisions per input.
        regularizers: None, one `GateRegularizer`, or a list of them (instances, names,
            configs). They reach the loss through `add_loss`, in training only.
        seed: Seed of the noise drawn in training. Its state is saved with the layer, so
            that a resumed run draws on.

    Call arguments:
        x: Feature map `[batch, height, width, channels]`, or `[batch, ..., channels]` of
            another rank; what lies between is averaged.
        training: Whether noise is drawn and penalties are added.

    Output: `ControllerOutput(score, logit)`, both `[batch, units]`, float32.

    Example:
        ```python
        class FirstHalf(kd.Controller):
            def compute_logits(self, pooled, training):
                row = np.where(np.arange(self.units) < self.units // 2, 1.0, -1.0)
                return keras.ops.zeros_like(pooled[:, :1]) + row.astype("float32")

            def compute_scores(self, logits, training):
                return keras.ops.cast(logits > 0, logits.dtype)

            def count_macs(self, channels):
                return 0

        block = kd.GatedBasicBlock(8, channel_gate=FirstHalf(8))
        y = block(np.ones((1, 4, 4, 8)))
        ```
    """

    binary = False  # whether a score is 0 or 1, nothing between

    def __init__(
        self,
        units: int,
        regularizers: Any = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        keep_replicas_apart(self)
        self.units = positive_int("units", units)
        if not isinstance(regularizers, (list, tuple)):
            regularizers = [] if regularizers is None else [regularizers]
        self.regularizers = [regularizers_module.get(item) for item in regularizers]
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.coefficients: list[Any] = []
        self.learned: list[dict[str, Any]] = []
        self.supports_masking = False
        self._unit_macs: np.ndarray | None = None
        # Full names of its decisions, and how many units are of each; set by the block.
        self.decision_names: tuple[tuple[str, int], ...] = ()
        self._forced: np.ndarray | None = None

    def build(self, input_shape: Any) -> None:
        self.coefficients = [
            self.add_weight(
                name=f"{item.name}_coefficient",
                shape=(),
                initializer=keras.initializers.Constant(item.coefficient_at(0.0)),
                trainable=False,
                dtype="float32",
            )
            for item in self.regularizers
        ]
        self.learned = [item.variables(self.add_weight) for item in self.regularizers]
        self.freeze_again()

    def compute_logits(self, pooled: Any, training: bool) -> Any:
        """Logits `[batch, units]` from the channel means `[batch, channels]`."""
        raise NotImplementedError

    def compute_scores(self, logits: Any, training: bool) -> Any:
        """Scores `[batch, units]`, >= 0, where 0 means skip."""
        raise NotImplementedError

    def count_macs(self, channels: int) -> int:
        """MACs of one evaluation on a feature map of `channels` channels."""
        raise NotImplementedError

    def take_units(
        self, source: Any, units: Sequence[int], held_open: Sequence[int] = ()
    ) -> None:
        """Become a copy of another controller that has these of its units, so ordered.

        Args:
            source: A controller of the same class and arguments, but for the units.
            units: For each unit of this controller its index in `source`.
            held_open: Units of this controller that are to be open on any input.

        Raises:
            NotImplementedError: If the class does not say how.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `take_units` for its channels to be "
            f"reordered. Received: {self.name!r} without it"
        )

    def _take_state(self, source: Any) -> None:
        """Copy what is not of single units: coefficients, the state of the noise."""
        for ours, theirs in zip(self.penalties, source.penalties, strict=True):
            copy_variable(ours, theirs)
        copy_variable(self.seed_generator.state, source.seed_generator.state)

    @property
    def penalties(self) -> list[Any]:
        """The variables of the regularizers, which decide nothing."""
        learned = [v for held in self.learned for v in held.values()]
        return [*self.coefficients, *learned]

    @property
    def unit_macs(self) -> np.ndarray | None:
        """MACs that each unit controls, `[units]`; set by the block that holds this."""
        return self._unit_macs

    @unit_macs.setter
    def unit_macs(self, macs: Sequence[int]) -> None:
        self._unit_macs = np.asarray(macs, "int64")

    @property
    def forced(self) -> np.ndarray | None:
        """Which units `force_open_rate` opens, bool `[units]`, or None."""
        return self._forced

    @forced.setter
    def forced(self, is_open: np.ndarray | None) -> None:
        self._forced = None if is_open is None else np.asarray(is_open, bool)

    def call(self, x: Any, training: bool | None = None) -> ControllerOutput:
        training = bool(training)
        pooled = ops.cast(x, "float32")
        if len(x.shape) > 2:
            pooled = ops.mean(pooled, axis=tuple(range(1, len(x.shape) - 1)))
        logit = self.compute_logits(pooled, training)
        if self._forced is None:
            score = self.compute_scores(logit, training)
        else:  # still computed from the input, so that no compiler drops the work
            low = np.where(self._forced, 1.0, -2.0).astype("float32")
            held = ops.minimum(ops.maximum(logit, low), low + 1.0)
            score = self.compute_scores(held, False)
        output = ControllerOutput(score, logit)
        if training:
            for coefficient, item, learned in zip(
                self.coefficients, self.regularizers, self.learned, strict=True
            ):
                costs = item.unit_costs(self)
                self.add_loss(coefficient * item(output, costs, **learned))
        return output

    def compute_output_shape(self, input_shape: Any) -> ControllerOutput:
        shape = (input_shape[0], self.units)
        return ControllerOutput(shape, shape)

    def compute_output_spec(self, x: Any, training: Any = None) -> ControllerOutput:
        shape = (x.shape[0], self.units)
        return ControllerOutput(
            keras.KerasTensor(shape, "float32"), keras.KerasTensor(shape, "float32")
        )

    def save_own_variables(self, store: Any) -> None:
        """Save coefficients by name, and the state of the noise."""
        for item, coefficient in zip(self.regularizers, self.coefficients, strict=True):
            store[item.name] = ops.convert_to_numpy(coefficient)
        for held in self.learned:
            for variable in held.values():
                store[variable.name] = ops.convert_to_numpy(variable)
        store["seed_state"] = ops.convert_to_numpy(self.seed_generator.state)

    def load_own_variables(self, store: Any) -> None:
        """Load what both sides have: nets with and without regularizers share files."""
        keys = set(store.keys())
        for item, coefficient in zip(self.regularizers, self.coefficients, strict=True):
            if item.name in keys:
                coefficient.assign(store[item.name])
        for held in self.learned:
            for variable in held.values():
                if variable.name in keys:
                    variable.assign(store[variable.name])
        if "seed_state" in keys:
            self.seed_generator.state.assign(store["seed_state"])

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "units": self.units,
            "regularizers": [
                keras.saving.serialize_keras_object(item) for item in self.regularizers
            ],
            "seed": self.seed,
        }
