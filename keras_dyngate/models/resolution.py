"""A trained net at another image size: the same weights on smaller pictures."""

import keras

from keras_dyngate._graph import flat_graph


def at_size(model: keras.Model, height: int, width: int) -> keras.Model:
    """A net that sees its pictures smaller.

    Args:
        model: A functional or Sequential classifier of pictures.
        height, width: Of what its first layer is to see.

    Returns:
        A model of the same input, which is resized first; its weights are copies.

    Raises:
        ValueError: If the net is made for one size: a Flatten before its classifier, say.
    """
    graph = flat_graph(model)
    if graph is None or len(graph.inputs) != 1 or len(graph.inputs[0].shape) != 4:
        raise ValueError(
            "`model` must be functional, of one picture. "
            f"Received: {getattr(model, 'name', model)!r}"
        )
    shape = tuple(graph.inputs[0].shape)
    small = keras.Input((height, width, shape[-1]), dtype=graph.inputs[0].dtype)
    try:
        body = keras.models.clone_model(model, input_tensors=small)
        body.set_weights(model.get_weights())
    except (ValueError, TypeError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0][:120]
        raise ValueError(
            f"The net is made for pictures of {shape[1:3]} only: {reason}"
        ) from error
    image = keras.Input(shape[1:], dtype=graph.inputs[0].dtype)
    x = keras.layers.Resizing(height, width, interpolation="bilinear")(image)
    return keras.Model(image, body(x), name=f"{model.name}_{height}")
