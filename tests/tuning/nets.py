"""A net with a chain in a branch, and a chain; trained to tell how bright a picture is."""

import keras
import numpy as np

from tests.stubs import randomize

layers = keras.layers
CLASSES, SIDE = 3, 8


def net(width=16, name="tiny"):
    """`width` is that of the inner channels."""
    image = keras.Input((SIDE, SIDE, 3))
    x = layers.Rescaling(1 / 64, -2.0)(image)
    x = layers.ReLU()(layers.Conv2D(8, 3, padding="same", name="stem")(x))
    y = layers.ReLU()(layers.Conv2D(width, 3, padding="same", name="wide")(x))
    y = layers.Conv2D(8, 3, padding="same", name="narrow")(y)
    x = layers.Add(name="sum")([x, y])
    x = layers.ReLU()(layers.Conv2D(width, 3, 2, padding="same", name="half")(x))
    x = layers.ReLU()(layers.Conv2D(8, 3, padding="same", name="last")(x))
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(CLASSES, activation="softmax", name="top")(x)
    return randomize(keras.Model(image, x, name=name))


def pictures(count=32, seed=0):
    """Images and labels."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % CLASSES
    x = rng.uniform(0, 80, (count, SIDE, SIDE, 3)) + 60 * y[:, None, None, None]
    return x.astype("float32"), y
