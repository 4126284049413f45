"""What can be gated, and what cannot."""

import keras
import pytest

import keras_dyngate as kd
from tests.models.gating.nets import SHAPE, mobile, nested, segmenter

layers = keras.layers


def found(model):
    """Places that can be gated, by kind, and reasons by name."""
    places = kd.gateable(model)
    kinds = {
        kind: {p.name: p for p in places if p.kind == kind and p.reason is None}
        for kind in ("channel", "layer")
    }
    return (
        kinds["channel"],
        kinds["layer"],
        {p.name: p.reason for p in places if p.reason},
    )


def test_a_mobile_net_by_hand():
    model = mobile()
    chains, branches, reasons = found(model)
    assert list(chains) == ["wide", "apart"]
    assert chains["wide"].layers[:3] == ("wide", "wide_norm", "each")
    assert chains["wide"].layers[-2:] == ("narrow", "narrow_norm")
    assert chains["wide"].channels == 24
    pixels = 8 * 8
    wide = pixels * 8 * 24 * 2 + pixels * 9 * 24 + 24 * 6 * 2
    total = kd.count_macs(model).total
    assert chains["wide"].share == pytest.approx(wide / total)
    assert list(branches) == ["sum"]
    assert branches["sum"].share == pytest.approx(wide / total)
    assert "no kernel before or after" in reasons["stem"]
    assert str(chains["wide"]).startswith("wide: channel, 24 channels, ")
    assert "; no: " in str(next(p for p in kd.gateable(model) if p.reason))


def test_nested_models_are_opened():
    chains, branches, _ = found(nested())
    assert list(chains) == ["base1/conv1", "base2/conv1"] and not branches


def test_a_segmentation_net():
    chains, branches, reasons = found(segmenter())
    assert set(chains) >= {"up"} and set(branches) == {"mlp", "sum"}
    assert ("reduce" in chains) != ("middle" in chains), "they share a kernel"
    assert {p for p in ("reduce", "expand") if p in reasons} or "middle" in chains


def test_shares_of_nested_gates_are_of_the_whole_net():
    model = segmenter()
    before = {p.name: p.share for p in kd.gateable(model) if p.reason is None}
    inner = [p for p in kd.gateable(kd.add_layer_gates(model)) if p.reason is None]
    macs = kd.count_macs(model).total
    gated = kd.count_macs(kd.add_layer_gates(model))
    scale = macs / (gated.total + gated.controllers)
    assert {p.name for p in inner} == set(before) - {"mlp", "sum"}
    for place in inner:
        assert place.share == pytest.approx(before[place.name] * scale, rel=1e-6)


def reason_of(make):
    image = x = keras.Input(SHAPE)
    model = keras.Model(image, make(x))
    chains, _, reasons = found(model)
    assert not chains
    return reasons


def test_reasons():
    conv = layers.Conv2D(3, 1, name="twice")
    assert reason_of(lambda x: conv(layers.ReLU()(conv(x)))) == {
        "twice": "the layer is called several times"
    }
    grouped = layers.Conv2D(6, 1, groups=3, name="grouped")
    assert "grouped" in reason_of(grouped)["grouped"]
    turned = layers.Conv2DTranspose(3, 1, name="turned")
    assert "Conv2DTranspose is no kernel" in reason_of(turned)["turned"]

    def mixed(x):
        x = layers.Conv2D(4, 1, name="a")(x)
        return layers.Conv2D(4, 1, name="b")(layers.LayerNormalization()(x))

    assert set(reason_of(mixed)) == {"a", "b"}

    def read_twice(x):
        y = layers.Conv2D(4, 1, name="a")(x)
        z = layers.Conv2D(4, 1, name="b")(layers.ReLU()(y))
        return layers.Add()([y, z])

    assert set(reason_of(read_twice)) == {"a", "b"}


def test_a_chain_does_not_leave_the_model():
    """What the model puts out must be whole."""
    image = keras.Input(SHAPE)
    x = layers.Conv2D(4, 1, name="a")(image)
    y = layers.Conv2D(4, 1, name="b")(layers.ReLU()(x))
    assert found(keras.Model(image, y))[0]
    assert not found(keras.Model(image, [y, x]))[0]


def test_bad_models():
    with pytest.raises(ValueError, match="`model` must be a built keras.Model"):
        kd.gateable(layers.Dense(3))

    class Own(keras.Model):
        def call(self, x):
            return x

    own = Own(name="own")
    own.build((None, 3))
    with pytest.raises(ValueError, match="`model` must be functional.*'own'.*a Own"):
        kd.gateable(own)
    image = keras.Input((None, None, 3))
    with pytest.raises(ValueError, match="known image size"):
        kd.gateable(keras.Model(image, layers.Conv2D(3, 1)(image)))
