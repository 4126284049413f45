"""One training in a folder: it goes on where it was cut off, and says what it did.

    run = kd.TrainingRun("outputs/gated", {"share": 0.6, "seed": 0}, seed=0)
    run.fit(model, data, epochs=30, batch_size=128, callbacks=callbacks)
    model.save(run.folder / "model.keras")
    run.finish(data, test_accuracy=0.91)

The folder holds `config.json`, `log.csv`, TensorBoard's `logs/` where that is installed,
`checkpoint.npz`, `training.png` and `result.json`. The same lines again go on with the
run; other settings need another folder.
"""

import contextlib
import csv
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_dyngate._checks import positive_int, whole_number
from keras_dyngate._files import write_whole
from keras_dyngate.callbacks import StatefulCallback, TimeLeft, TrainingCheckpoint
from keras_dyngate.runtime.machine import describe_machine

CHECKPOINT = "checkpoint.npz"
# What is drawn over the epochs, a picture for each group that the log has.
_DRAWN = (
    ("accuracy", "val_accuracy"),
    ("logits_mean_iou", "val_logits_mean_iou"),
    ("loss", "val_loss"),
    ("open_rate", "conditional"),
    ("mac_share",),
)


class TrainingRun:
    """A training that survives, in a folder of its own.

    Args:
        folder: Made if it is not there.
        settings: What makes the run what it is, JSON-able. A folder of other settings is
            refused.
        title: For messages. Default: the folder's name.
        seed: Of everything random, set at once, and of the order of the images.
        precision: Keras' dtype policy, set at once. Default "float32".
        checkpoint_every: Steps from one save to the next. Default 200.

    Attributes:
        folder: A `pathlib.Path`.

    Raises:
        ValueError: For a bad argument.

    Example:
        ```python
        data = kd.datasets.digits()
        layers = [keras.Input((32, 32, 3)), keras.layers.Flatten(), keras.layers.Dense(10)]
        model = keras.Sequential(layers)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(kd.sgd(model, 1e-5, 20), loss, metrics=["accuracy"])
        run = kd.TrainingRun("run", {"rate": 1e-5}, seed=0)
        run.fit(model, data, epochs=1, batch_size=64)  # again: goes on
        run.finish(data, note="one epoch")
        ```
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        settings: Mapping[str, Any],
        *,
        title: str | None = None,
        seed: int = 0,
        precision: str = "float32",
        checkpoint_every: int = 200,
    ) -> None:
        self.folder = Path(folder)
        try:
            self.settings = json.loads(json.dumps(dict(settings)))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"`settings` must be a dict for JSON ({error}). "
                f"Received: settings={settings!r}"
            ) from error
        self.title = self.folder.name if title is None else title
        self.seed = whole_number("seed", seed)
        self.checkpoint_every = positive_int("checkpoint_every", checkpoint_every)
        self.epochs = 0
        self.folder.mkdir(parents=True, exist_ok=True)
        keras.utils.set_random_seed(seed)
        keras.config.set_dtype_policy(precision)

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return (self.folder / CHECKPOINT).exists()

    def fit(
        self,
        model: keras.Model,
        data: Any,
        *,
        epochs: int,
        batch_size: int,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        targets: Callable[[Any, Any], Any] | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> float:
        """Train a compiled model on `data.train`, watched on `data.validation`.

        Args:
            model: Built and compiled.
            data: A `keras_dyngate.datasets.Data`.
            epochs: Of the whole run.
            batch_size: Images per step, of all machines together.
            callbacks: More callbacks; states of those that have one are saved too.
            targets: From (images, labels) to (images, what the model is fitted to).
                None: the labels.
            shard: (index, count) of this machine among those that train together.

        Returns:
            Seconds that this session took.

        Raises:
            ValueError: If the folder is of other settings.
            FloatingPointError: If the loss stops being a number.
        """
        self.epochs = positive_int("epochs", epochs)
        stateful = [c for c in callbacks if isinstance(c, StatefulCallback)]
        checkpoint = TrainingCheckpoint(
            self.folder / CHECKPOINT, self.checkpoint_every, stateful, self.settings
        )
        checkpoint.restore(model)  # refuses other settings, before anything is written
        write_whole(
            self.folder / "config.json", json.dumps(self.settings, indent=1).encode()
        )
        steps = data.train.steps(batch_size)
        steps -= steps % model.steps_per_execution

        def shown(batches: Any) -> Any:
            return batches if targets is None else batches.map(targets)

        def stream(step: int) -> Any:
            return shown(
                data.train.stream(batch_size, seed=self.seed, start=step, shard=shard)
            )

        start = time.perf_counter()
        try:
            checkpoint.fit(
                model,
                stream,
                steps_per_epoch=steps,
                epochs=epochs,
                validation_data=shown(data.validation.batches(batch_size)),
                callbacks=[*callbacks, *self._watchers()],
                verbose="auto" if sys.stdout.isatty() else 2,
            )
        except Exception:
            for unreadable in data.train.unreadable:
                print(f"unreadable: {unreadable}", file=sys.stderr)
            raise
        if data.train.unreadable:
            print(f"{len(data.train.unreadable)} unreadable images were skipped.")
        self.plot()
        return time.perf_counter() - start

    def _watchers(self) -> list[keras.callbacks.Callback]:
        log = keras.callbacks.CSVLogger(str(self.folder / "log.csv"), append=True)
        found = [TimeLeft(self.title, self.epochs), log]
        with contextlib.suppress(ImportError):
            import tensorboard  # noqa: F401

            folder = str(self.folder / "logs")
            found.append(keras.callbacks.TensorBoard(folder, write_graph=False))
        return found

    def plot(self) -> None:
        """Draw the log's accuracy, loss, open rate and MACs over the epochs."""
        from matplotlib.figure import Figure

        with open(self.folder / "log.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        groups = [[n for n in group if rows and n in rows[0]] for group in _DRAWN]
        groups = [group for group in groups if group]
        if not groups:
            return
        figure = Figure(figsize=(4 * len(groups), 3), layout="constrained")
        for axes, group in zip(
            figure.subplots(1, len(groups), squeeze=False)[0], groups, strict=True
        ):
            for name in group:
                axes.plot([float(row[name] or "nan") for row in rows], label=name)
            axes.set_xlabel("epoch")
            axes.legend()
        figure.savefig(self.folder / "training.png", dpi=120)

    def finish(self, data: Any, **found: Any) -> None:
        """Write `result.json`: the settings, the machine, what was found; print that.

        Args:
            data: As in `fit`.
            **found: JSON-able figures.
        """
        result = {
            "title": self.title,
            "data": data.name,
            "train_images": len(data.train),
            "test_images": len(data.test),
            "epochs": self.epochs,
            "seed": self.seed,
            "backend": keras.backend.backend(),
            "hardware": describe_machine(),
            "settings": self.settings,
            **found,
        }
        path = self.folder / "result.json"
        write_whole(path, json.dumps(result, indent=1).encode())
        for name, value in found.items():
            if isinstance(value, (int, float)):
                print(f"{name}: {value:.6g}")
        for name, file in found.get("files", {}).items():
            print(f"{name}.tflite: {file['median_ms']:.2f} ms, {file['bytes']:,} bytes")
        print(f"Everything is in {self.folder}")
