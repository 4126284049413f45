"""Raw class scores of a classifier that ends in a softmax."""

import contextlib
from collections.abc import Iterator

import keras


@contextlib.contextmanager
def plain_logits(model: keras.Model) -> Iterator[None]:
    """Take a softmax off the model's last layer while something is traced or run."""
    head = model.layers[-1]
    softmax = keras.activations.softmax
    if getattr(head, "activation", None) is not softmax:
        yield
        return
    head.activation = keras.activations.linear
    try:
        yield
    finally:
        head.activation = softmax
