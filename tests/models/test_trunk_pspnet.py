"""A light PSPNet on any trunk: it computes what the trunk did, at more places."""

import keras
import numpy as np
import pytest

import keras_dyngate as kd
from keras_dyngate.models.trunk_pspnet import opened
from tests.stubs import images, outputs, randomize

layers = keras.layers
pytestmark = pytest.mark.heavy


def trunk(size=(32, 32), padded=False):
    """Halvings by all kinds of kernels, to 32 pixels of the picture."""
    image = x = keras.Input((*size, 3))
    for number, (kernel, strides) in enumerate(
        [(3, 2), (3, 2), (5, 2), (3, 1), (3, 2), (5, 1), (4, 2), (3, 1)], 1
    ):
        same = "same"
        if strides == 2 and padded:
            before = (kernel - 2) // 2
            x = layers.ZeroPadding2D(((before, kernel // 2),) * 2)(x)
            same = "valid"
        y = layers.DepthwiseConv2D(kernel, strides, padding=same, name=f"dw{number}")(x)
        y = layers.SeparableConv2D(4, kernel, padding="same", name=f"sep{number}")(y)
        y = layers.Conv2D(4, 1, name=f"conv{number}")(y)
        x = layers.Add(name=f"add{number}")([x, y]) if x.shape == y.shape else y
        x = layers.ReLU(name=f"relu{number}")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return randomize(keras.Model(image, layers.Dense(3)(x)))


def map_of(model, layer, x):
    return outputs(keras.Model(model.input, model.get_layer(layer).output), x)


@pytest.mark.parametrize("size", [(64, 96), (61, 74)])
@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("after", ["relu6", "relu8"])
def test_it_computes_what_the_trunk_did(size, output_stride, after):
    net = trunk(size)
    model = kd.pspnet(
        net,
        classes=5,
        input_shape=(*size, 3),
        after=after,
        output_stride=output_stride,
        bins=(1,),
        filters=8,
    )
    x = images(2, *size, 3)
    assert outputs(model, x).shape == (2, *size, 5)
    theirs, ours = map_of(net, after, x), map_of(model, after, x)
    had = 16 if after == "relu6" else 32  # pixels to one of its places
    step = max(1, had // output_stride)
    assert ours.shape[1:3] == tuple(-(-n // min(had, output_stride)) for n in size)
    np.testing.assert_allclose(ours[:, ::step, ::step], theirs, rtol=1e-4, atol=1e-5)


def test_zeros_put_around_are_moved():
    net = trunk((64, 64), padded=True)
    model = kd.pspnet(
        net, classes=2, input_shape=(64, 64, 3), output_stride=16, bins=(1,), filters=8
    )
    x = images(1, 64, 64, 3)
    ours, theirs = map_of(model, "relu8", x), map_of(net, "relu8", x)
    np.testing.assert_allclose(ours[:, ::2, ::2], theirs, rtol=1e-4, atol=1e-5)


def test_blocks_of_this_library_are_opened():
    net = randomize(
        kd.efficientnet_lite0(weights=None, input_shape=(64, 64, 3), classes=3)
    )
    x = images(2, 64, 64, 3)
    made = opened(net)
    np.testing.assert_allclose(outputs(made, x), outputs(net, x), rtol=1e-4, atol=1e-6)
    assert kd.count_macs(made).total == kd.count_macs(net).total
    model = kd.pspnet(
        net, classes=2, input_shape=(64, 96, 3), after="stage6_block4_add", bins=(1, 2)
    )
    assert model.get_layer("stage6_block4_add").output.shape == (None, 4, 6, 192)
    # The narrowest of 8 pixels to one is where 40 channels leave stage 3.
    fine = model.get_layer("fine_classifier")
    assert fine.input.shape == (None, 8, 12, 40)


def test_it_is_gated_and_saved_as_any_net(tmp_path):
    gated = kd.add_layer_gates(
        kd.pspnet(trunk(), classes=3, input_shape=(32, 48, 3), bins=(1,), filters=8)
    )
    gated.save(tmp_path / "net.keras")
    again = keras.models.load_model(tmp_path / "net.keras")
    x = images(1, 32, 48, 3)
    np.testing.assert_allclose(outputs(again, x), outputs(gated, x), rtol=1e-5)
    assert set(kd.decide(again, x)) == {
        f"gated_add{number}/layer" for number in (2, 4, 6, 8) if number != 2
    }


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"input_shape": (None, 32, 3)}, "`input_shape` must be .height, width, ch"),
        ({"output_stride": 4}, "`output_stride` must be"),
        ({"after": "conv9"}, "`after` must name one layer of the trunk that puts out"),
        ({"classes": 0}, "`classes` must be"),
        ({"trunk": "resnet"}, "`trunk` must be a functional or Sequential classifier"),
        ({"bins": (1, 9)}, "must be large enough"),
    ],
)
def test_bad_input(changed, message):
    given = {"classes": 2, "input_shape": (32, 32, 3), "bins": (1,), **changed}
    with pytest.raises(ValueError, match=message):
        kd.pspnet(given.pop("trunk", trunk()), **given)


def test_a_trunk_of_one_size_or_of_pools():
    image = x = keras.Input((32, 32, 3))
    for _ in range(4):
        x = layers.MaxPooling2D()(layers.Conv2D(4, 3, padding="same")(x))
    x = layers.MaxPooling2D(name="last")(x)
    pools = keras.Model(image, layers.Dense(2)(layers.GlobalMaxPooling2D()(x)))
    with pytest.raises(ValueError, match="cannot be dilated: 'last', a MaxPooling2D"):
        kd.pspnet(pools, classes=2, input_shape=(64, 64, 3), bins=(1,))
    flat = keras.Model(image, layers.Dense(2)(layers.Reshape((4,))(x)))
    with pytest.raises(ValueError, match="`trunk` must take pictures of .64, 64, 3."):
        kd.pspnet(flat, classes=2, input_shape=(64, 64, 3), bins=(1,))
