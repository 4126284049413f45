import keras
import pytest
from keras import layers

import keras_dyngate as kd
from keras_dyngate.cost import registry
from keras_dyngate.cost.registry import register_macs
from tests.cost.test_opening import native


class Own(layers.Layer):
    def call(self, x):
        return native(x)

    def compute_output_shape(self, input_shape):
        return input_shape


def net(layer):
    x = keras.Input((5, 4))
    return keras.Model(x, layer(x))


@pytest.fixture
def entries(monkeypatch):
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))


def test_a_layer_of_ones_own(entries):
    @register_macs(Own)
    def macs(call):
        assert isinstance(call.operation, Own)
        assert call.inputs[0].shape == call.outputs[0].shape == (1, 5, 4)
        return 9 * 5

    profile = kd.count_macs(net(Own(name="own")))
    assert [(row.name, row.macs) for row in profile.layers] == [("own", 45)]


def test_a_method_of_the_layer():
    class Told(Own):
        def kernel_macs(self, input_shape):
            return 7 * input_shape[1]

    assert kd.count_macs(net(Told())).total == 35


def test_without_either_it_is_said():
    with pytest.warns(UserWarning, match=r"register_macs\): \['own'\]"):
        assert kd.count_macs(net(Own(name="own"))).total == 0


@pytest.mark.parametrize("bad", [Own(), int, "Dense"])
def test_what_is_no_class_of_layers(bad):
    with pytest.raises(ValueError, match="`classes` must be.*Received: "):
        register_macs(bad)
