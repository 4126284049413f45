"""A second classifier amid the trunk, for training alone.

    training = add_auxiliary_head(model)
    training.compile(
        "sgd",
        loss={"logits": loss, "aux": loss},
        loss_weights={"logits": 1.0, "aux": 0.4},
    )
    training.fit(images, {"logits": maps, "aux": maps})
    model.save("net.keras")

It shortens the way of the gradient to the early stages. Nothing of it is in `model`.
"""

import keras

from keras_dyngate.models.pspnet import apply_classifier, upsample


def add_auxiliary_head(model: keras.Model) -> keras.Model:
    """Add an auxiliary head after stage 3 of a segmentation net.

    A 3x3 convolution to a quarter of the channels, BN, ReLU, dropout, a 1x1 convolution
    to the classes and upsampling. All other layers are those of `model`: training the
    one trains the other, which stays what is saved, counted and exported.

    Args:
        model: What `pspnet50`, `gated_pspnet50` and the like return.

    Returns:
        A `keras.Model` with the outputs `{"logits": ..., "aux": ...}`, both float32
        `[batch, height, width, classes]`, before any activation.

    Raises:
        ValueError: If the model has no stage 3 or no layer `logits`.

    Example:
        ```python
        model = kd.pspnet50(input_shape=(96, 96, 3), classes=3, width=0.03125, bins=(1, 2))
        training = kd.add_auxiliary_head(model)
        loss = kd.SegmentationCrossentropy()
        training.compile("sgd", loss={"logits": loss, "aux": loss}, loss_weights=[1.0, 0.4])
        ```
    """
    names = [layer.name for layer in model.layers]
    stage3 = [name for name in names if name.startswith("stage3_block")]
    if not stage3 or "logits" not in names:
        raise ValueError(
            "`model` must be a segmentation net with the layers 'stage3_block1' and "
            f"'logits', as `pspnet50`. Received: {model.name!r}"
        )
    x = model.get_layer(stage3[-1]).output
    logits = model.get_layer("logits").output
    _, height, width, classes = logits.shape
    aux = apply_classifier(x, max(1, x.shape[-1] // 4), classes, "aux")
    aux = upsample(aux, (height, width), "aux", "float32")
    name = f"{model.name}_with_aux"
    return keras.Model(model.input, {"logits": logits, "aux": aux}, name=name)
