"""A space of dynamic nets around one trained net, for keras-tuner to search in.

    hypermodel = kd.DynamicHyperModel(net, train, validation, "macs:0.6x")
    front = kd.search_gates(hypermodel, max_trials=20)
    model, found = hypermodel.make(front.best.values, epochs=20)

`build` makes the net of a trial, `fit` teaches it to keep to the budget.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_dyngate._checks import boolean, positive_int, whole_number
from keras_dyngate._images import finite_images, take_images
from keras_dyngate._walk import controllers
from keras_dyngate.cost import CostTable, count_macs
from keras_dyngate.cost.budget import Budget
from keras_dyngate.cost.cost_table import MACS
from keras_dyngate.models.exits.data import class_indices
from keras_dyngate.tuning._keras_tuner import FailedTrialError, check_values, filled
from keras_dyngate.tuning._keras_tuner import keras_tuner as kt
from keras_dyngate.tuning.judging import Judge
from keras_dyngate.tuning.making import with_exits, with_gates
from keras_dyngate.tuning.place_features import PlaceFeatures
from keras_dyngate.tuning.plain_nets import PlainNets, describe_data
from keras_dyngate.tuning.prices import Prices
from keras_dyngate.tuning.space import PARTS, SearchSpace, Setup
from keras_dyngate.tuning.teaching import Teaching


class DynamicHyperModel(kt.HyperModel):
    """Gates and exits on a trained net, chosen and taught under a budget.

    What is varied, by the name of the hyper-parameter: `channels` and `layers`, how much of
    what chains cost, and branches, those make up that are gated, the costliest; 0 is none;
    `grain`, groups of channels; `learning_rate`; `prime`, whether the budget is kept from
    the start or comes down while the gates learn, and `budget_end`, the share of the
    training until which it does; `temperature` and `noise` of the gates; `exits`, how many;
    `exit_1`, `exit_2`, the shares of the MACs they go after; their `head`; `by_gates`, the
    gates' part of the saving, where exits save the rest. What a function that makes nets
    declares has "net/" before its name. Defaults are the library's own.

    A trial that cannot keep to the budget, with all of its gates shut and the first exit
    taken, is refused before it is trained. The others are taught by `train_gates`, the
    plain net being the teacher, and their exits' thresholds chosen by `calibrate`, on
    `validation`, on which accuracy is judged too: the best of many is a little better
    there than on pictures that nobody has looked at. Design of this library.

    Args:
        net: A trained Keras classifier that gates can go on (see `gateable`), or a
            function of keras-tuner's `HyperParameters` that makes one, so that its depth
            and width are searched too. Such a function is called for every trial.
        train, validation: (images, labels), arrays; labels are class indices or one-hot.
        budget: A `Budget` of a cost, or its text: "macs:0.6x", "latency:8.0ms". A share
            is of the net's cost, where a function makes nets of the cost of its default.
        table: Of what the budget counts: None, MACs; "measure", each net is timed here
            with `measure_latency` before it is taught; or a function that returns a
            model's `CostTable`.
        search: What is varied, of "channels", "layers", "training", "exits"; default all.
            Without the first two and the last the gates that the net has are trained.
        epochs: Of the gates' training. Default 5.
        exit_epochs: Of exits' heads. Default 8.
        net_epochs: That the nets of a function are taught for, each once. Default 0: they
            come trained.
        batch_size: Of all training. Default 32.
        quantization: Of the files that are timed or exported.
        export: Whether a file is made in each trial, for its `bytes`. Default False.
        refuse: Whether trials that cannot keep to the budget are refused; else they are
            taught to spend the least they can. Default True.
        cache_features: Whether exits on the plain net learn from features that are
            computed once for all trials; else from pictures, varied anew in each epoch
            where they are photos. Default True.
        seed: Of all training.

    Raises:
        ValueError: For a net without a place for what is searched, a budget that cannot
            be kept whatever is chosen, or a bad argument.

    Example:
        ```python
        layers = keras.layers
        convs = [layers.Conv2D(8, 3), layers.ReLU(), layers.Conv2D(8, 3)]
        top = [layers.GlobalAveragePooling2D(), layers.Dense(2, "softmax")]
        net = keras.Sequential([keras.Input((8, 8, 3)), *convs, *top])
        x = np.random.default_rng(0).uniform(0, 255, (16, 8, 8, 3))
        data = x, np.arange(16) % 2
        hypermodel = kd.DynamicHyperModel(net, data, data, "macs:0.8x", epochs=1)
        print(kd.search_gates(hypermodel, max_trials=2))
        ```
    """

    keeps_state = True  # `fit` takes the `folder` of a trial

    def __init__(
        self,
        net: "keras.Model | Callable[[Any], keras.Model]",
        train: Any,
        validation: Any,
        budget: "str | Budget",
        *,
        table: "str | Callable[[keras.Model], CostTable] | None" = None,
        search: Sequence[str] = PARTS,
        epochs: int = 5,
        exit_epochs: int = 8,
        net_epochs: int = 0,
        batch_size: int = 32,
        quantization: str | None = None,
        export: bool = False,
        refuse: bool = True,
        cache_features: bool = True,
        seed: int = 0,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.budget = Budget(budget)
        if self.budget.unit is None:
            raise ValueError(
                "`budget` must be of a cost, like 'macs:0.6x': accuracy is what is "
                f"searched for. Received: budget={self.budget.text!r}"
            )
        if (self.budget.unit == MACS) != (table is None):
            raise ValueError(
                f"`table` must be of the budget's unit, {self.budget.unit}: None is of "
                "MACs, 'measure' of ms. "
                f"Received: budget={self.budget.text!r}, table={table!r}"
            )
        self.search = _parts(search)
        self.epochs = positive_int("epochs", epochs)
        size = positive_int("batch_size", batch_size)
        self.refuse = boolean("refuse", refuse)
        self.cache_features = boolean("cache_features", cache_features)
        self.nets = PlainNets(net, whole_number("net_epochs", net_epochs), size)
        plain = self.nets.reference
        self.train = _data("train", train, plain)
        self.validation = _data("validation", validation, plain)
        self.prices = Prices(table, quantization, self.train[0])
        self.judge = Judge(self.validation, boolean("export", export), quantization)
        self.teaching = Teaching(
            self.train,
            self.validation,
            epochs=self.epochs,
            exit_epochs=positive_int("exit_epochs", exit_epochs),
            batch_size=size,
            seed=whole_number("seed", seed),
        )
        self.space = SearchSpace.of(plain, self.search)
        self._features = PlaceFeatures(plain, self.train[0])
        self._whole = self._reference_cost()
        self._limit = self.budget
        if self._whole is not None:
            self._limit = Budget(f"macs:{self.budget.value * self._whole:.0f}")

    # What `search_gates` asks

    def prepare(self, folder: Path) -> None:
        """Keep tables, nets and features in the folder of a search.

        Raises:
            ValueError: If no choice keeps to the budget.
        """
        self.prices.folder = self.nets.folder = folder
        self._features = PlaceFeatures(self.nets.reference, self.train[0], folder)
        if not self.refuse or self.nets.function is not None:
            return
        errors = []
        for setup in self.space.cheapest:
            try:
                model = with_exits(with_gates(self.nets.reference, setup), setup)
                return self._check(self._table(model, setup, {}))
            except ValueError as error:
                errors.append(error)
        raise next((e for e in errors if "`budget`" in str(e)), errors[0])

    def settings(self) -> dict[str, Any]:
        """What a search depends on, for JSON: it goes on with the same alone."""
        source = self.prices.source
        return {
            "budget": self.budget.text,
            "table": "function" if callable(source) else source,
            "search": list(self.search),
            "epochs": self.epochs,
            "exit_epochs": self.teaching.exit_epochs,
            "batch_size": self.teaching.batch_size,
            "quantization": self.prices.quantization,
            "refuse": self.refuse,
            "cache_features": self.cache_features,
            "training_seed": self.teaching.seed,
            "train": describe_data(*self.train),
            "validation": describe_data(*self.validation),
            **self.nets.named(),
        }

    def declare(self, hp: Any) -> None:
        """Declare the hyper-parameters, without making a gated net."""
        self.nets.made(hp)
        self.space.read(hp)

    # What keras-tuner asks

    def build(self, hp: Any) -> keras.Model:
        """The net of a trial, with gates and exits that are not taught yet.

        Raises:
            keras_tuner.errors.FailedTrialError: If it cannot keep to the budget.
        """
        net = self.nets.made(hp)
        setup = self.space.read(hp)
        try:
            model = with_exits(with_gates(net, setup), setup)
            if self.refuse:
                self._check(self._table(model, setup, self.nets.values(hp)))
        except ValueError as error:
            raise FailedTrialError(str(error)) from None
        taught = self.nets.taught(hp, *self.train, self.teaching.seed)
        if taught is net:
            return model
        return with_exits(with_gates(taught, setup), setup)

    def fit(
        self,
        hp: Any,
        model: keras.Model,
        *args: Any,
        epochs: int | None = None,
        folder: Path | None = None,
        **kwargs: Any,
    ) -> dict[str, float]:
        """Teach the net of a trial, and judge it.

        Args:
            hp: The hyper-parameters.
            model: What `build` made of them.
            *args, **kwargs: Are not used.
            epochs: Of the gates, where they are not those of the hypermodel.
            folder: Of the trial: checkpoints go there, from which it is gone on with.

        Returns:
            `objective`, the accuracy, less what the cost is over the budget by (a share
            of it; up to .02 count as kept); `val_accuracy`; `val_cost`, the share of the
            plain net's cost; `kept`, 1 if the budget is; `macs`; `ms` and `bytes`, where
            they are known; `steps` of training.
        """
        net = self.nets.taught(hp, *self.train, self.teaching.seed)
        setup = self.space.read(hp)
        table = self._table(model, setup, self.nets.values(hp))
        whole = table.total if self._whole is None else self._whole
        wanted = self.budget.value * (whole if self.budget.relative else 1)
        plain = not any(True for _ in controllers(model))
        cached = plain and self.cache_features and self.nets.function is None
        steps = self.teaching.teach(
            model,
            net,
            setup,
            table,
            max(wanted, table.least),
            epochs=epochs,
            folder=folder,
            features=self._features if cached else None,
        )
        found = self.judge(model, table, whole=whole, wanted=wanted, folder=folder)
        return {**found, "steps": float(steps)}

    # What a user asks when the search is over

    def make(
        self,
        values: Mapping[str, Any],
        *,
        epochs: int | None = None,
        folder: "str | os.PathLike[str] | None" = None,
    ) -> tuple[keras.Model, dict[str, float]]:
        """The net of some values, taught: that of the best trial for longer, say.

        Args:
            values: `ParetoPoint.values`; what is left out has its default.
            epochs: Of the gates; heads have the same part of theirs. None: the trials'.
            folder: An existing one, for checkpoints, from which it is gone on with when
                called again.

        Returns:
            The net, and what `fit` returns of it.

        Raises:
            ValueError: For values that there are not.
            keras_tuner.errors.FailedTrialError: If it cannot keep to the budget.
        """
        declared = kt.HyperParameters()
        self.declare(declared)
        check_values("values", declared.space, values)
        hp = filled(declared.space, values)
        keras.utils.set_random_seed(self.teaching.seed)
        model = self.build(hp)
        where = None if folder is None else Path(folder)
        return model, self.fit(hp, model, epochs=epochs, folder=where)

    # How

    def _check(self, table: CostTable) -> None:
        """Refuse what costs too much even with everything shut."""
        try:
            self._limit.cost(table)
        except ValueError as error:
            if self._limit == self.budget:
                raise
            raise ValueError(
                f"{error}, which is {self.budget.text} of the net that `net` makes by "
                "default"
            ) from None

    def _table(self, model: keras.Model, setup: Setup, values: Any) -> CostTable:
        """What a net costs that was made by a setup, of a net of some values."""
        key = json.dumps([values, setup.structure], sort_keys=True)
        return self.prices.of(model, key)

    def _reference_cost(self) -> float | None:
        """What shares are of, where a function makes nets; None: of each net's own."""
        if self.nets.function is None or not self.budget.relative:
            return None
        if self.budget.unit != MACS:
            raise ValueError(
                "`budget` must be an amount, like 'latency:8.0ms', where a function "
                f"makes nets. Received: budget={self.budget.text!r}"
            )
        return float(count_macs(self.nets.reference).total)


def _parts(search: Any) -> tuple[str, ...]:
    parts = (search,) if isinstance(search, str) else tuple(search)
    if not parts or any(part not in PARTS for part in parts):
        raise ValueError(
            f"`search` must be some of {PARTS}. Received: search={search!r}"
        )
    return tuple(part for part in PARTS if part in parts)


def _data(name: str, data: Any, net: keras.Model) -> tuple[np.ndarray, np.ndarray]:
    """Images and class indices for a net."""
    pair = isinstance(data, (tuple, list)) and len(data) == 2
    if not pair or not all(hasattr(part, "shape") for part in data):
        raise ValueError(
            f"`{name}` must be two arrays, images and labels. "
            f"Received: a {type(data).__name__}"
        )
    x = finite_images(name, take_images(name, data[0], tuple(net.input_shape[1:])))
    y = class_indices(np.asarray(data[1]), net.output_shape[-1])
    if len(x) != len(y) or not len(x):
        raise ValueError(
            f"`{name}` must have a label for each image, one at least. "
            f"Received: {len(x)} images, {len(y)} labels"
        )
    return x, y
