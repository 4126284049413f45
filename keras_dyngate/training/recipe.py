"""The recipe that trained nets go on with: AdamW, a cosine, a teacher, varied photos.

kd.fine_tune(smaller, x, y, teacher=model, epochs=5)
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_dyngate._checks import (
    built_model,
    fraction,
    one_of,
    positive_int,
    positive_number,
    whole_number,
)
from keras_dyngate._graph import flat_graph
from keras_dyngate._images import finite_images, take_images
from keras_dyngate._logits import squashing_call
from keras_dyngate.callbacks import (
    RegularizationSchedule,
    TimeLeft,
    TrainingCheckpoint,
)
from keras_dyngate.models.exits.data import Batch, class_indices
from keras_dyngate.models.exits.early_exit import EarlyExitModel
from keras_dyngate.models.exits.lesson_data import (
    Stream,
    resolve_mixtures,
)
from keras_dyngate.models.exits.variation import described, resolve_augmentation
from keras_dyngate.training.distillation import Distillation
from keras_dyngate.training.gate_variables import gate_variables, without_gate_decay


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a trained net is trained on; see `fine_tune` for what is meant."""

    epochs: int = 5
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    teacher: keras.Model | None = None
    teacher_share: float = 0.5
    mixtures: float | None = None
    validation_data: Any = None
    augmentation: Any = "auto"
    callbacks: Sequence[keras.callbacks.Callback] = ()
    checkpoint: Any = None
    verbose: Any = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        positive_int("epochs", self.epochs)
        positive_int("batch_size", self.batch_size)
        positive_number("learning_rate", self.learning_rate)
        fraction("teacher_share", self.teacher_share)
        one_of("verbose", self.verbose, ("auto", 0, 1, 2))
        if hasattr(self.validation_data, "shape"):
            raise ValueError(
                "`validation_data` must be (images, labels), or a dataset of batches of "
                "both. Received: an array of shape "
                f"{tuple(self.validation_data.shape)}"
            )
        whole_number("seed", self.seed)

    def steps(self, x: np.ndarray) -> int:
        """Of an epoch."""
        return -(-len(x) // self.batch_size)

    def train(
        self,
        model: keras.Model,
        x: np.ndarray,
        y: np.ndarray,
        *,
        stateful: Sequence[Any] = (),
        settings: dict[str, Any] | None = None,
        begin: Callable[[Any], Any] | None = None,
    ) -> keras.callbacks.History:
        """Train a net on what `teachable` returned.

        Args:
            model: Compiled anew.
            stateful: Callbacks that are kept in the checkpoint.
            settings: What a checkpoint must agree in, beside the recipe's own.
            begin: Called with the loss before the first step of a run that does not go
                on from a checkpoint.
        """
        from_logits = ends_in_raw_scores(model)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
        fitted: Any = model
        if self.teacher is not None:
            fitted = Distillation(
                model, self.teacher, self.teacher_share, from_logits=from_logits
            )
        varied = self.augmentation if y.ndim == 1 else None
        stream = Stream(
            lambda: iter(()),
            Batch(x, y, None),
            batch_size=self.batch_size,
            mixtures=resolve_mixtures(self.mixtures, self.teacher, y.ndim == 1),
            augmentation=resolve_augmentation(varied, x.shape),
            seed=self.seed,
        )
        steps = stream.steps
        kept = None
        if self.checkpoint is not None:
            agreed = {
                "epochs": self.epochs,
                "batch_size": self.batch_size,
                "learning_rate": self.learning_rate,
                "weight_decay": self.weight_decay,
                "teacher_share": None if self.teacher is None else self.teacher_share,
                "mixtures": stream.mixtures,
                "augmentation": described(varied, x.shape),
                "images": len(x),
                "seed": self.seed,
            }
            kept = TrainingCheckpoint(
                self.checkpoint, steps, list(stateful), {**(settings or {}), **agreed}
            )
        if begin is not None and not (kept and kept.path.exists()):
            begin(loss)
        optimizer = keras.optimizers.AdamW(
            keras.optimizers.schedules.CosineDecay(
                self.learning_rate, self.epochs * steps
            ),
            weight_decay=self.weight_decay,
        )
        # weighted: mixtures have no label, and no weight
        fitted.compile(
            without_gate_decay(optimizer, model), loss, weighted_metrics=["accuracy"]
        )
        watchers: list[Any] = [*stateful, *self.callbacks]
        if gate_variables(model):
            watchers.insert(0, RegularizationSchedule())
        if self.verbose:
            watchers.append(TimeLeft(model.name, self.epochs))

        def batches(start: int) -> Iterator[tuple[Any, Any]]:
            return ((images, labels) for images, labels, _ in stream(start))

        options: dict[str, Any] = {
            "epochs": self.epochs,
            "callbacks": watchers,
            "validation_data": self.validation_data,
            "verbose": 2 if self.verbose == 2 else 0,
            "shuffle": False,
        }
        if kept is None:
            return fitted.fit(batches(0), steps_per_epoch=steps, **options)
        found = kept.fit(fitted, batches, steps_per_epoch=steps, **options)
        if self.verbose and not found.epoch:
            print(f"{model.name}: trained already, as {kept.path} has it")
        return found


def fine_tune(
    model: keras.Model,
    x: Any,
    y: Any,
    *,
    epochs: int = 5,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-4,
    teacher: keras.Model | None = None,
    teacher_share: float = 0.5,
    mixtures: float | None = None,
    validation_data: Any = None,
    augmentation: Any = "auto",
    callbacks: Sequence[keras.callbacks.Callback] = (),
    checkpoint: Any = None,
    verbose: Any = "auto",
    seed: int = 0,
) -> keras.callbacks.History:
    """Train a trained classifier or segmentation net on, as `train_gates` does.

    The same recipe without gates: what a static rival of a gated net has to be taught by
    for the two to be comparable. Design of this library.

    Args:
        model: The net; compiled anew.
        x: An array of images as the model takes them.
        y: Class indices `[N]` or `[N, height, width]`, or one-hot `[N, classes]`.
        epochs: Default 5.
        batch_size: Default 32.
        learning_rate: Of AdamW at the start of a cosine. Default 1e-3.
        weight_decay: Not of gates. Default 1e-4.
        teacher: A net of the same images and classes; None: labels alone.
        teacher_share: Of the teacher in the loss. Default 0.5.
        mixtures: Share of batches that are mixtures of two images, which the teacher
            alone answers. None (default): .5 with a teacher, of labels `[N]`; else 0.
        validation_data: As in `fit`.
        augmentation: "auto" (default): photos of 64 pixels or more are cropped, mirrored
            and made brighter or darker, as "photos" does with any; "strong": more of
            it, and other contrast and colors, for small nets taught long; a Keras layer,
            or a function of a batch of float32 images; None: nothing. Images with maps
            of labels stay as they are.
        callbacks: More Keras callbacks.
        checkpoint: A path, an `.npz`: the training goes on from there if it is cut off,
            and is not begun again if it is done. A file of another run is refused.
        verbose: "auto" or 1: a line per epoch; 0: nothing; 2: Keras' lines as well.
        seed: Of the order of the images.

    Returns:
        Keras' `History`.

    Raises:
        ValueError: For data that do not suit the model, or bad arguments.

    Example:
        ```python
        layers = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2, "softmax")]
        net = keras.Sequential([keras.Input((8, 8, 3)), *layers])
        x = np.random.default_rng(0).uniform(0, 255, (16, 8, 8, 3))
        kd.fine_tune(net, x, np.arange(16) % 2, epochs=1)
        ```
    """
    if isinstance(model, EarlyExitModel):
        raise ValueError(
            "`model` must be a net without exits; those are taught, and the net with "
            "them, by `model.fit_gates(x, y, joint_epochs=...)`. "
            f"Received: {model.name!r}, an EarlyExitModel"
        )
    recipe = Recipe(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        teacher=teacher,
        teacher_share=teacher_share,
        mixtures=mixtures,
        validation_data=validation_data,
        augmentation=augmentation,
        callbacks=callbacks,
        checkpoint=checkpoint,
        verbose=verbose,
        seed=seed,
    )
    return recipe.train(model, *teachable(model, x, y))


def teachable(model: Any, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Images and class indices that a model can be taught on."""
    built_model("model", model)
    shape = getattr(model, "output_shape", None)
    if not isinstance(shape, tuple) or len(shape) not in (2, 4) or shape[-1] < 2:
        raise ValueError(
            "`model` must put out a score for each of two classes or more, "
            f"[batch, classes], or for each pixel. Received: {model.name!r} with {shape}"
        )
    if not hasattr(x, "shape"):
        raise ValueError(
            f"`x` must be an array of images. Received: a {type(x).__name__}"
        )
    images = finite_images("x", take_images("x", x, tuple(model.input_shape[1:])))
    labels = np.asarray(y)
    if len(shape) == 2:
        labels = class_indices(labels, shape[-1])
    if len(images) != len(labels):
        raise ValueError(
            "`x` and `y` must be as many. "
            f"Received: {len(images)} images, {len(labels)} labels"
        )
    return images, labels


def ends_in_raw_scores(model: keras.Model) -> bool:
    """Whether a net has no softmax at its end."""
    graph = flat_graph(model)
    return graph is None or squashing_call(graph) is None
