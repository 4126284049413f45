import json

import keras
import numpy as np
import pytest

import keras_dyngate as kd
from tests.stubs import images, randomize

SHAPE = (8, 8, 3)

pytestmark = pytest.mark.heavy


def loaded(model, tmp_path):
    model.save(tmp_path / "model.keras")
    for kind in (keras.layers.BatchNormalization, keras.layers.ReLU):
        kind()  # automatic names go on from there
    return keras.saving.load_model(tmp_path / "model.keras")


def flags(model):
    """Of every layer at any depth, by place, and of every variable."""
    held = [
        layer.trainable
        for layer in model._flatten_layers()
        if not isinstance(layer, keras.layers.InputLayer) and layer.weights
    ]
    return held, [variable.trainable for variable in model.variables]


def trunk():
    return kd.gated_resnet20(
        gates=kd.Gates(layer="binary"), classes=2, input_shape=SHAPE, width=0.25
    )


def exits():
    return kd.add_decision_gates(trunk(), ["stage1_block3"])


def freeze_block(model):
    model.get_layer("stage2_block1").trainable = False


def freeze_inside(model):
    block = model.get_layer("stage2_block1")
    for part in (block.norms[0], block.shortcut_conv or block.convs[1]):
        part.trainable = False
    block.channel_gate.norm.trainable = False


class TestFrozen:
    @pytest.mark.parametrize("freeze", [freeze_block, freeze_inside])
    def test_blocks_and_what_they_hold(self, freeze, tmp_path):
        model = trunk()
        everything = len(model.trainable_weights)
        freeze(model)
        assert 0 < len(model.trainable_weights) < everything
        assert flags(loaded(model, tmp_path)) == flags(model)
        assert flags(keras.models.clone_model(model)) == flags(model)

    def test_a_block_made_frozen(self):
        block = kd.GatedBasicBlock(4, 2, channel_gate="binary", trainable=False)
        block.build((None, *SHAPE))
        assert not block.trainable_weights
        assert not any(v.trainable for v in block.variables)

    def test_nothing_frozen_nothing_said(self):
        block = kd.GatedBasicBlock(4, channel_gate="salience")
        block.build((None, *SHAPE))
        assert "frozen" not in json.dumps(block.get_config())

    def test_a_trunk_under_exits(self, tmp_path):
        model = exits()
        model.trunk.trainable = False
        model.compile("sgd")
        again = loaded(model, tmp_path)
        assert flags(again) == flags(model) and not again.trunk.trainable
        assert len(again.trainable_weights) == 2  # the gate's
        before = [np.array(w) for w in again.trunk.get_weights()]
        again.fit(images(4, *SHAPE), np.arange(4) % 2, verbose=0)
        for old, new in zip(before, again.trunk.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)

    def test_gates_and_exits(self, tmp_path):
        model = exits()
        model.gates[0].trainable = False
        again = loaded(model, tmp_path)
        assert flags(again) == flags(model) and not again.gates[0].trainable
        model.trainable = False
        again = loaded(model, tmp_path)
        assert flags(again) == flags(model)
        assert not again.trainable and not again.trainable_weights

    def test_anytime_nets(self, tmp_path):
        model = kd.sliced_resnet(
            blocks=1, width=8, subnetworks=2, input_shape=SHAPE, classes=2
        )
        model.layers[3].trainable = model.layers[-3].trainable = False
        assert flags(loaded(model, tmp_path)) == flags(model)


class TestLegacy:
    @pytest.mark.parametrize("name", ["model.h5", "model.hdf5"])
    def test_refused_at_saving(self, name, tmp_path):
        anytime = kd.sliced_resnet(
            blocks=1, width=8, subnetworks=2, input_shape=SHAPE, classes=2
        )
        for model in (exits(), anytime):
            message = "`filepath` must end in .keras.*Received: filepath=.*" + name
            with pytest.raises(ValueError, match=message):
                model.save(tmp_path / name)
        assert not list(tmp_path.iterdir())

    def test_weights_alone(self, tmp_path):
        model, other = randomize(exits()), randomize(exits(), 3)
        model.save_weights(tmp_path / "model.weights.h5")
        other.load_weights(tmp_path / "model.weights.h5")
        for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_functional_nets_load(self, tmp_path):
        model, x = randomize(trunk()), images(2, *SHAPE)
        model.save(tmp_path / "model.h5")
        again = keras.saving.load_model(tmp_path / "model.h5", compile=False)
        np.testing.assert_array_equal(
            again.predict(x, verbose=0), model.predict(x, verbose=0)
        )
