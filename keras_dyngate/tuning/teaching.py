"""How the net of a trial learns to keep to a budget: its gates first, then its exits."""

import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_dyngate._walk import controllers
from keras_dyngate.cost import CostTable
from keras_dyngate.cost.cost_table import MACS
from keras_dyngate.cost.executed import executed_together
from keras_dyngate.decisions import predict_with_decisions
from keras_dyngate.models.exits.early_exit import EarlyExitModel
from keras_dyngate.thresholds.wish import Wish
from keras_dyngate.training.gate_training import train_gates
from keras_dyngate.tuning.place_features import PlaceFeatures, teach_on_features
from keras_dyngate.tuning.prices import without_exits
from keras_dyngate.tuning.space import Setup

Arrays = tuple[np.ndarray, np.ndarray]


class Teaching:
    """Teaches nets of one task.

    Args:
        train: Images and class indices.
        validation: The same, for thresholds.
        epochs: Of gates.
        exit_epochs: Of heads.
        batch_size, seed: Of both.
    """

    def __init__(
        self,
        train: Arrays,
        validation: Arrays,
        *,
        epochs: int,
        exit_epochs: int,
        batch_size: int,
        seed: int,
    ) -> None:
        self.train, self.validation = train, validation
        self.epochs, self.exit_epochs = epochs, exit_epochs
        self.batch_size, self.seed = batch_size, seed

    def teach(
        self,
        model: keras.Model,
        net: keras.Model,
        setup: Setup,
        table: CostTable,
        allowed: float,
        *,
        epochs: int | None = None,
        folder: Path | None = None,
        features: PlaceFeatures | None = None,
    ) -> int:
        """Teach a net, and set the thresholds of its exits.

        Args:
            model: Gated, with exits, or both.
            net: It was made of, the teacher.
            setup: It was made by.
            table: Of its cost.
            allowed: What it may spend in that.
            epochs: Of gates, where others than usual; heads have the same part of theirs.
            folder: Of checkpoints. None: there are none.
            features: Of the training pictures, where the trunk is the plain net.

        Returns:
            Steps of training.
        """
        steps, part = 0, 1.0 if epochs is None else epochs / self.epochs
        exits = isinstance(model, EarlyExitModel)
        trunk = model.trunk if exits else model
        share = min(allowed / table.total, 1.0)
        if any(True for _ in controllers(trunk)):
            if exits:
                table_of_trunk = without_exits(table, [g.name for g in model.gates])
                share = 1 - setup.by_gates * (1 - share)
            else:
                table_of_trunk = table
            epochs = self.epochs if epochs is None else epochs
            train_gates(
                trunk,
                *self.train,
                share,
                epochs=epochs,
                batch_size=self.batch_size,
                learning_rate=setup.learning_rate,
                teacher=net,
                prime=setup.prime,
                budget_end=setup.budget_end,
                checkpoint=None if folder is None else folder / "gates.npz",
                verbose=0,
                seed=self.seed,
                table=None if table.unit == MACS else table_of_trunk,
            )
            steps += epochs * -(-len(self.train[1]) // self.batch_size)
        if exits:
            steps += self._exits(
                model, max(1, round(part * self.exit_epochs)), features
            )
            self._calibrate(model, table, allowed)
        return steps

    def _exits(
        self, model: EarlyExitModel, epochs: int, features: PlaceFeatures | None
    ) -> int:
        if features is not None:
            return teach_on_features(
                model,
                features,
                self.train[1],
                epochs=epochs,
                batch_size=self.batch_size,
                seed=self.seed,
            )
        linear = all(hasattr(gate, "pool") for gate in model.gates)
        options: dict[str, Any] = {"verbose": 0, "seed": self.seed}
        if not linear:
            options |= {"epochs": epochs, "batch_size": self.batch_size}
        model.fit_gates(*self.train, **options)
        return 0 if linear else epochs * -(-len(self.train[1]) // self.batch_size)

    def _calibrate(self, model: EarlyExitModel, table: CostTable, cost: float) -> None:
        """Thresholds of the best accuracy at a cost, or of the least cost there is.

        What a picture costs up to each exit is that of its own decisions.
        """
        x, y = self.validation
        decisions = predict_with_decisions(model, x)[1]  # nobody leaves yet
        sizes = executed_together(model, table)
        exits = len(model.gates) + 1
        ways = [
            table.of({**decisions, "exit": np.full((len(x), 1), index)}, sizes)
            for index in range(exits)
        ]
        model.fit_mixing(x, y)
        said = dataclasses.replace(model.exit_table(x, y), macs=np.stack(ways, axis=1))
        try:
            chosen = Wish(exits - 1, macs=cost).choose(said)
        except ValueError:
            model.thresholds = [-np.inf] * (exits - 1)
        else:
            model.thresholds = chosen.thresholds
