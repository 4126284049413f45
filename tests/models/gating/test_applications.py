"""The nets of keras.applications: how much of them can be gated, open they are the same."""

import keras
import numpy as np
import pytest

import keras_dyngate as kd
from tests.stubs import images, randomize

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="once is enough: large nets"
    ),
]
# Shares of the MACs under channel gates and under layer gates.
SHARES = {
    "MobileNet": (0.85, 0.0),
    "MobileNetV2": (0.96, 0.51),
    "MobileNetV3Large": (0.85, 0.55),
    "EfficientNetB0": (0.85, 0.55),
    "EfficientNetV2B0": (0.85, 0.71),
    "ResNet50": (0.69, 0.67),
    "ResNet50V2": (0.69, 0.56),
    "VGG16": (0.90, 0.0),
    "DenseNet121": (0.84, 0.0),
    "Xception": (0.78, 0.55),
    "InceptionV3": (0.71, 0.0),
    "ConvNeXtTiny": (0.93, 0.95),
}
SMALL = {"Xception": 71, "InceptionV3": 75}


def test_pairs():
    """With two masks a bottleneck's three convolutions are all under gates."""
    net = keras.applications.ResNet50(weights=None)
    profile = kd.count_macs(kd.add_channel_gates(net, pairs=True))
    assert profile.gateable / profile.total > 0.87


@pytest.mark.parametrize("name", SHARES)
def test_share_and_open(name):
    """Shares at the nets' own sizes; what they compute at a small one."""
    make = getattr(keras.applications, name)
    side = 299 if name in SMALL else 224
    places = kd.gateable(make(weights=None, input_shape=(side, side, 3)))
    channel, layer = SHARES[name]
    for kind, least in (("channel", channel), ("layer", layer)):
        found = [p.share for p in places if p.kind == kind and p.reason is None]
        assert sum(found) >= least
        assert bool(found) == (least > 0)
    side = SMALL.get(name, 64)
    options = {"include_top": False, "pooling": "avg"}
    net = make(weights=None, input_shape=(side, side, 3), **options)
    randomize(net)
    x = images(2, side, side, 3) / 128 - 1
    expected = net.predict(x, verbose=0)
    gated = kd.add_channel_gates(net, groups=2)
    if layer:
        gated = kd.add_layer_gates(gated)
    with kd.force_open_rate(gated, 1.0):
        found = gated.predict(x, verbose=0)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
