"""Files that version 0.1.0 saved load, and say what they said then."""

from pathlib import Path

import keras
import numpy as np
import pytest

import keras_dyngate as kd

FOLDER = Path(__file__).parent / "files_0_1_0"


@pytest.fixture(scope="module")
def said():
    with np.load(FOLDER / "said.npz") as held:
        return dict(held)


def close(found, expected):
    largest = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * largest)


def test_gated_blocks(said):
    """Both blocks, all gates, a shortcut of zeros, frozen parts."""
    model = keras.models.load_model(FOLDER / "gated.keras")
    x = said["x"].astype("float32")
    close(model.predict(x, verbose=0), said["gated"])
    decisions = {f"gated:{name}": found for name, found in kd.decide(model, x).items()}
    assert set(decisions) == {name for name in said if name.startswith("gated:")} - {
        "gated:trainable"
    }
    for name, found in decisions.items():
        close(found, said[name])
        assert 0 < (said[name] > 0).mean() < 1
    assert len(model.trainable_weights) == said["gated:trainable"]
    assert not model.get_layer("basic").convs[0].trainable
    assert not model.get_layer("bottleneck").shortcut_norm.trainable
    penalties = [
        [type(item) for item in item.controller.regularizers]
        for item in model.get_layer("basic").decisions()
    ]
    assert penalties == [[kd.BatchShaping], [kd.GateSparsity]]


def test_exits(said):
    """A first net, a linear gate, a head; thresholds and weights of exits."""
    model = keras.models.load_model(FOLDER / "exits.keras")
    found = model.predict(said["x"].astype("float32"), verbose=0)
    assert len(set(said["exits:exit"])) > 1
    for name, values in found.items():
        close(values, said[f"exits:{name}"])


def test_an_anytime_net(said):
    model = keras.models.load_model(FOLDER / "anytime.keras")
    found = model.predict(said["x"].astype("float32"), verbose=0)
    close(found, said["anytime"])
