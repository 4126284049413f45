"""Gradients on whichever backend Keras runs."""

import keras
import numpy as np

BACKEND = keras.backend.backend()


def gradients(function, *arrays, variables=()):
    """The value of a scalar function and its gradients, as NumPy arrays.

    Args:
        function: Takes a tensor for each array and returns a scalar tensor. What it
            assigns to Keras variables is dropped on JAX.
        arrays: float32 arrays to differentiate by.
        variables: Trainable Keras variables to differentiate by as well.

    Returns:
        The value, and one gradient for each array and variable; zeros where the value
        does not depend on it.
    """
    arrays = [np.asarray(array, "float32") for array in arrays]
    if BACKEND == "tensorflow":
        import tensorflow as tf

        tensors = [tf.constant(array) for array in arrays]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = function(*tensors)
        found = tape.gradient(value, [*tensors, *variables])
    elif BACKEND == "jax":
        import jax

        def pure(tensors, values):
            pairs = list(zip(variables, values, strict=True))
            with keras.StatelessScope(state_mapping=pairs, collect_losses=True):
                return function(*tensors)

        value, (by_arrays, by_values) = jax.value_and_grad(pure, argnums=(0, 1))(
            arrays, [variable.value for variable in variables]
        )
        found = [*by_arrays, *by_values]
    else:
        import torch

        tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
        sources = [*tensors, *(variable.value for variable in variables)]
        value = function(*tensors)
        found = torch.autograd.grad(value, sources, allow_unused=True)
        value = value.detach()
    shapes = [np.shape(x) for x in (*arrays, *variables)]
    return keras.ops.convert_to_numpy(value), *(
        np.zeros(shape) if g is None else keras.ops.convert_to_numpy(g)
        for g, shape in zip(found, shapes, strict=True)
    )
