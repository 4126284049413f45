"""Runs an example as a user does, and a net in the place of one that takes minutes."""

import os
import subprocess
import sys
from pathlib import Path

import keras

from tests.stubs import randomize

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, str(EXAMPLES / script), *arguments],
        env={**os.environ, "COLUMNS": "120"},
        capture_output=True,
        text=True,
    )


def small_net(path):
    """In the place of the net that the scripts train for minutes."""
    layers = keras.layers
    image = keras.Input((32, 32, 3))
    x = layers.Rescaling(1 / 127.5, -1.0)(image)
    x = layers.Conv2D(8, 3, strides=4, padding="same", activation="relu")(x)
    y = layers.Conv2D(32, 1, activation="relu", name="wide")(x)
    y = layers.Conv2D(8, 3, padding="same", name="narrow")(y)
    x = layers.GlobalAveragePooling2D()(layers.Add(name="sum")([x, y]))
    x = layers.Dense(10, "softmax", name="top")(x)
    randomize(keras.Model(image, x, name="small_net")).save(path)
