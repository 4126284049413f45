"""From a trained net with new gates to one that spends its share: all in one call.

gated = kd.add_channel_gates(
    model, regularizers=[kd.GateSparsity(0.0, weighting="macs")]
)
kd.train_gates(gated, x, y, share=0.6, teacher=model, epochs=5)
"""

from collections.abc import Sequence
from typing import Any

import keras

from keras_dyngate._checks import boolean, fraction, positive_int
from keras_dyngate.callbacks import CostBudget
from keras_dyngate.callbacks.cost_budget import prices_of
from keras_dyngate.channels import prime_gates
from keras_dyngate.cost import CostTable, count_macs
from keras_dyngate.cost.budget import Budget, resolve_share
from keras_dyngate.cost.executed import executed_together
from keras_dyngate.cost.table_file import check_table
from keras_dyngate.training.recipe import Recipe, teachable

PRIMED_END = 0.05  # of the training, from which on primed gates keep to the budget
UNPRIMED_END = 0.4
SETTLED = 0.5  # of the training, from which on gates are moved to the budget


def train_gates(
    model: keras.Model,
    x: Any,
    y: Any,
    share: "float | str | Budget" = 0.6,
    *,
    epochs: int = 5,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-4,
    teacher: keras.Model | None = None,
    teacher_share: float = 0.5,
    mixtures: float | None = None,
    validation_data: Any = None,
    prime: bool = True,
    prime_samples: int = 1024,
    budget_end: float | None = None,
    budget_samples: int = 128,
    augmentation: Any = "auto",
    callbacks: Sequence[keras.callbacks.Callback] = (),
    checkpoint: Any = None,
    verbose: Any = "auto",
    seed: int = 0,
    table: CostTable | None = None,
) -> keras.callbacks.History:
    """Teach the gates of a trained net, and the net with them, to spend a share.

    What is known to work, put together: `prime_gates`, AdamW along a cosine without decay
    on gates, `CostBudget`, and, with a `teacher`, `Distillation` from the net before its
    gates. The model is compiled anew. Design of this library.

    Args:
        model: A classifier or segmentation net whose trunk is trained, and whose gates
            (`add_channel_gates`, `add_layer_gates`) each have a
            `GateSparsity(0.0, weighting="macs")` among their regularizers.
        x: An array of images as the model takes them.
        y: Class indices `[N]` or `[N, height, width]`, or one-hot `[N, classes]`.
        share: Of the plain net's cost to spend, controllers included, as a file
            spends it: groups of fewer than 16 channels run together. Default 0.6. Or a
            `Budget`, or its text: "latency:8.0ms".
        epochs: Default 5.
        batch_size: Default 32.
        learning_rate: Of AdamW at the start. Default 1e-3.
        weight_decay: Not of the gates. Default 1e-4.
        teacher: A net of the same images and classes; None: labels alone.
        teacher_share: Of the teacher in the loss. Default 0.5.
        mixtures: Share of batches that are mixtures of two images, which the teacher
            alone answers. None (default): .5 with a teacher, of labels `[N]`; else 0.
        validation_data: As in `fit`.
        prime: Whether the gates begin at the share, by the importance of what they
            gate. False: they begin as they are, and the budget comes down on them.
        prime_samples: Images to prime on. Default 1024.
        budget_end: Share of the training, 0 to 1, over which the budget falls from the
            whole net's cost to `share`. None (default): .05 primed, .4 else.
        budget_samples: Images that the spending is measured on. Default 128.
        augmentation: "auto" (default): photos of 64 pixels or more are cropped, mirrored
            and made brighter or darker, as "photos" does with any; "strong": more of
            it, and other contrast and colors, for small nets taught long; a Keras layer,
            or a function of a batch of float32 images; None: nothing. Images with maps
            of labels stay as they are.
        callbacks: More Keras callbacks.
        checkpoint: A path, an `.npz`: the training goes on from there if it is cut off.
        verbose: "auto" or 1: a line per epoch; 0: nothing; 2: Keras' lines as well.
        seed: Of the order of the images.
        table: What the net costs: `measure_latency(model)`, or one from elsewhere. None:
            MACs.

    Returns:
        Keras' `History`; `mac_share` (with a table `cost_share`) is the share last
        measured before the end of each epoch, `mac_price` what the budget puts on it:
        negative while the net is under its budget, and so may the loss be.

    Raises:
        ValueError: For a net without such gates, or bad arguments.

    Example:
        ```python
        layers = keras.layers
        pool, top = layers.GlobalAveragePooling2D(), layers.Dense(2, "softmax")
        convs = [layers.Conv2D(8, 3), layers.ReLU(), layers.Conv2D(8, 3)]
        net = keras.Sequential([keras.Input((8, 8, 3)), *convs, pool, top])
        price = kd.GateSparsity(0.0, weighting="macs")
        gated = kd.add_channel_gates(net, regularizers=[price])
        x = np.random.default_rng(0).uniform(0, 255, (16, 8, 8, 3))
        kd.train_gates(gated, x, np.arange(16) % 2, 0.7, teacher=net, epochs=1)
        ```
    """
    if not isinstance(share, (str, Budget)):
        fraction("share", share)
    boolean("prime", prime)
    few = slice(positive_int("prime_samples", prime_samples))
    positive_int("budget_samples", budget_samples)
    if budget_end is None:
        budget_end = PRIMED_END if prime else UNPRIMED_END
    fraction("budget_end", budget_end)
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
    x, y = teachable(model, x, y)
    prices_of(model, None)  # refuses other gates, before anything is changed
    counted = count_macs(model)
    costs = counted if table is None else check_table(table, counted)
    share = min(resolve_share(share, costs), 1.0)
    sizes = executed_together(model, costs)
    steps = recipe.steps(x)
    budget = CostBudget(
        share,
        x[:budget_samples],
        total_steps=epochs * steps,
        end=budget_end,
        every=min(5, steps),
        group_size=sizes,
        watched=model,
        table=table,
        settle_from=SETTLED,
    )

    def begin(loss: Any) -> None:
        begun = {"loss": loss, "group_size": sizes, "table": table}
        prime_gates(model, x[few], y[few], share, **begun)

    return recipe.train(
        model,
        x,
        y,
        stateful=[budget],
        settings={"share": share},
        begin=begin if prime else None,
    )
