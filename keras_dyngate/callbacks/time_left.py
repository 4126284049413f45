"""One line per epoch: how far a training is, and how long the rest will take."""

import time
from typing import Any

import keras


class TimeLeft(keras.callbacks.Callback):
    """Prints the values that have been logged, and the minutes that are left.

    Args:
        title: What each line begins with.
        epochs: Of the whole training. None: those that `fit` is told of, which are
            fewer where a run is gone on with.
        labelled: False: accuracies are shown of validation alone.

    Example:
        ```python
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        line = kd.TimeLeft("a small net")
        model.fit(np.ones((8, 4)), np.ones(8), verbose=0, callbacks=[line])
        ```
    """

    def __init__(
        self, title: str, epochs: int | None = None, labelled: bool = True
    ) -> None:
        super().__init__()
        self.title, self.epochs, self.labelled = title, epochs, labelled
        self._times = list[float]()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._times.append(time.perf_counter() - self._start)
        epochs = self.params["epochs"] if self.epochs is None else self.epochs
        left = sum(self._times) / len(self._times) * (epochs - epoch - 1)
        shown = [
            _worded(name, value)
            for name, value in (logs or {}).items()
            if self._is_shown(name) and isinstance(value, (int, float))
        ]
        print(
            f"{self.title}, epoch {epoch + 1} of {epochs}: {', '.join(shown)}; "
            f"{self._times[-1]:.0f} s, {left / 60:.1f} min left",
            flush=True,
        )

    def _is_shown(self, name: str) -> bool:
        if name.endswith("_coefficient"):
            return False
        return self.labelled or name.startswith("val_") or "_accuracy" not in name


def _worded(name: str, value: float) -> str:
    """A logged value, MACs in millions, what is measured with its unit."""
    if name not in ("accuracy", "val_accuracy"):
        name = name.replace("_accuracy", "")
    if name.endswith("_macs"):
        return f"{name.removesuffix('_macs')} {value / 1e6:.1f} MMACs"
    if name == "ms_per_image":
        return f"{value:.2f} ms an image here, masked"
    return f"{name} {value:.3f}"
