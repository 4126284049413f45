"""Watch what controllers decide on held-out data, epoch by epoch.

    watch = kd.DecisionStatistics(x_validation, log_dir="logs")
    history = model.fit(..., callbacks=[watch])
    history.history["open_rate"]

`decision_statistics(decisions)` gives the same figures of any decisions.
"""

import time
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_dyngate._backend import before_assign
from keras_dyngate._checks import positive_int
from keras_dyngate._walk import controllers
from keras_dyngate.cost import CostTable, count_macs
from keras_dyngate.decisions import DecisionModel

ALWAYS_ON, ALWAYS_OFF = 0.99, 0.01  # shares of images beyond which a gate is either


def decision_statistics(decisions: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """How often gates are open, and how many of them decide at all.

    Args:
        decisions: As `decide` returns them: `[N, units]` arrays by name. `exit`, which
            is an index and no gate, is left out.

    Returns:
        A dict with, over all gates alike, `open_rate` (mean share of images a gate is
        open for) and the shares of gates that are `always_on` (open for more than
        99 % of the images), `always_off` (less than 1 %) and `conditional` (neither);
        `layers`, the mean open rate by name; `gates`, the open rate `[units]` by name.

    Raises:
        ValueError: If there are no decisions, or none of any sample.
    """
    gates = {
        name: (np.asarray(values) > 0).mean(axis=0) if len(values) else np.zeros(0)
        for name, values in decisions.items()
        if name != "exit"
    }
    rates = np.concatenate([np.zeros(0), *gates.values()])
    if not rates.size:
        raise ValueError(
            "`decisions` must hold decisions on at least one sample. "
            f"Received: {len(decisions)} arrays, all empty"
        )
    on, off = rates > ALWAYS_ON, rates < ALWAYS_OFF
    return {
        "open_rate": float(rates.mean()),
        "always_on": float(on.mean()),
        "always_off": float(off.mean()),
        "conditional": float((~on & ~off).mean()),
        "layers": {name: float(values.mean()) for name, values in gates.items()},
        "gates": gates,
    }


class DecisionStatistics(keras.callbacks.Callback):
    """Runs a model on held-out data after an epoch and logs what it decided.

    Into `logs`, for `History` and for every callback that stands after this one in the
    list, go `open_rate`, `always_on`, `always_off` and `conditional` (see
    `decision_statistics`), `mean_macs` (per image, controllers included),
    `ms_per_image` and, with `per_layer`, `open_rate/<decision>`. The time is that of
    the pass over `x` in Keras, masked and in batches: nothing is skipped there. What
    skipping saves shows in an exported file, see `LiteRTModel.benchmark`.

    Args:
        x: Held-out images, an array or a dataset that can be gone through repeatedly.
        every: Epochs from one measurement to the next. The first and the last epoch are
            always measured; epochs between measurements log nothing.
        group_size: Channels an exported file executes together, for `mean_macs`; see
            `CostTable.of`. None: the paper's count.
        log_dir: Folder for TensorBoard: the figures as scalars, the gates' open rates
            as one histogram per decision. Needs tensorboard, whatever the backend.
        batch_size: As in `model.predict`.
        per_layer: Whether `logs` gets the open rate of each decision too; TensorBoard
            always does. Default True.
        watched: The model to run, where the one that is fitted holds it. None: the one
            that is fitted.

    Raises:
        ValueError: If `every` is not positive; when training starts, if the model has
            no controllers.
        ImportError: If `log_dir` is given and tensorboard is not installed.

    Example:
        ```python
        block = kd.GatedBasicBlock(4, channel_gate="binary", name="block")
        top = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
        model = keras.Sequential([keras.Input((8, 8, 4)), block, *top])
        x = np.random.default_rng(0).normal(size=(8, 8, 8, 4))
        model.compile("sgd", "mse")
        watch = kd.DecisionStatistics(x)  # adds open rates and MACs to the logs
        history = model.fit(x, np.ones((8, 2)), verbose=0, callbacks=[watch])
        ```
    """

    def __init__(
        self,
        x: Any,
        every: int = 1,
        group_size: int | Mapping[str, int] | None = None,
        log_dir: Any = None,
        batch_size: int | None = None,
        per_layer: bool = True,
        watched: keras.Model | None = None,
    ) -> None:
        super().__init__()
        self.x = x
        self.every = positive_int("every", every)
        self.group_size = group_size
        self.batch_size = batch_size
        self.per_layer = per_layer
        self.watched = watched
        self.log_dir = log_dir
        self._writer: Any = None
        self._watched: DecisionModel | None = None
        self._profile: CostTable | None = None
        if log_dir is not None:
            _tensorboard()

    def on_train_begin(self, logs: Any = None) -> None:
        model = self._target()
        if not any(True for _ in controllers(model)):
            raise ValueError(
                "`model` must hold controllers for their decisions to be watched. "
                f"Received: {model.name!r} without any"
            )
        self._watched, self._profile = None, count_macs(model)
        self._first: int | None = None
        if self.log_dir is not None:
            self._writer = _tensorboard()[0](str(self.log_dir))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self._first is None:
            self._first = epoch

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        edge = epoch in (self._first, self.params.get("epochs", 0) - 1)
        if not edge and (epoch + 1) % self.every:
            return
        found, gates = self.measure()
        if logs is not None:
            for name, number in found.items():
                if self.per_layer or "/" not in name:
                    logs[name] = number
        if self._writer is not None:
            self._write(epoch, found, gates)

    def on_train_end(self, logs: Any = None) -> None:
        self._watched = None
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _target(self) -> keras.Model:
        return self.model if self.watched is None else self.watched

    def measure(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """The figures by name as they are logged, and each gate's open rate."""
        before_assign(self.model)
        if self._watched is None:
            self._watched = DecisionModel(self._target())
            self._decide()  # compiles, untimed
        start = time.perf_counter()
        decisions = self._decide()
        seconds = time.perf_counter() - start
        found = decision_statistics(decisions)
        gates, layers = found.pop("gates"), found.pop("layers")
        profile = self._profile or count_macs(self._target())
        macs = profile.of(decisions, self.group_size)
        found["mean_macs"] = float(macs.mean())
        found["ms_per_image"] = 1e3 * seconds / len(macs)
        found.update((f"open_rate/{name}", rate) for name, rate in layers.items())
        return found, gates

    def _decide(self) -> dict[str, np.ndarray]:
        assert self._watched is not None
        result = self._watched.predict(self.x, batch_size=self.batch_size, verbose=0)
        return result["decisions"]

    def _write(
        self, epoch: int, found: dict[str, float], gates: dict[str, np.ndarray]
    ) -> None:
        _, event, scalar, histogram = _tensorboard()
        summaries = [scalar(f"decisions/{name}", n) for name, n in found.items()]
        summaries += [
            histogram(f"gates/{name}", rates.astype("float64"))
            for name, rates in gates.items()
        ]
        for summary in summaries:
            self._writer.add_event(
                event(wall_time=time.time(), step=epoch, summary=summary)
            )
        self._writer.flush()


def _tensorboard() -> tuple[Any, Any, Any, Any]:
    """Writer, event, scalar and histogram of tensorboard, which needs no backend."""
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.plugins.histogram.summary_v2 import histogram_pb
        from tensorboard.plugins.scalar.summary_v2 import scalar_pb
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError as error:
        raise ImportError(
            "`DecisionStatistics(log_dir=...)` needs the package tensorboard. "
            "Install it with `pip install keras_dyngate[tensorboard]`."
        ) from error
    return EventFileWriter, Event, scalar_pb, histogram_pb
