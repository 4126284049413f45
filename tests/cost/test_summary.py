import re

import keras
import numpy as np
import pytest

import keras_dyngate as kd
from tests.stubs import images, randomize

pytestmark = pytest.mark.usefixtures("numpy_initializers")


@pytest.fixture
def model():
    return randomize(
        kd.gated_resnet20(
            input_shape=(8, 8, 3), width=0.25, gates=kd.Gates(layer="binary", groups=2)
        )
    )


def cells(lines, name):
    row = next(line for line in lines if re.match(rf"\W+{name}\b", line))
    return [cell.strip() for cell in re.split("[│┃|]", row)[1:-1]]


def test_macs_beside_measured_time(model):
    lines = []
    profile = kd.summary(model, print_fn=lines.append)
    assert profile == kd.count_macs(model)
    numbers = [f"{n:,}" for n in (profile.total, profile.gateable, profile.controllers)]
    assert cells(lines, "total") == ["total", "", *numbers]
    block = cells(lines, "stage2_block1")
    kernels = 16 * 9 * (4 * 8 + 8 * 8)
    controllers = 16 * (4 + 2) + 16 * (4 + 1)
    assert block == [
        "stage2_block1",
        "2 x 4 channels, layer",
        f"{kernels:,}",
        f"{kernels:,}",
        f"{controllers:,}",
    ]
    measured = [line for line in lines if "Measured" in line]
    assert len(measured) == 1
    milliseconds = float(re.search(r"([\d.]+) ms per image", measured[0]).group(1))
    assert 0 < milliseconds < 60_000


def test_what_samples_executed(model):
    decisions = kd.decide(model, images(6, 8, 8, 3))
    lines = []
    profile = kd.summary(model, decisions, measure=False, print_fn=lines.append)
    assert not any("Measured" in line for line in lines)
    mean = profile.of(decisions).mean()
    assert cells(lines, "total")[-1] == f"{mean:,.0f}"
    rows = [
        float(cells(lines, name)[-1].replace(",", ""))
        for name in dict.fromkeys(row.layer for row in profile.layers)
    ]
    assert sum(rows) == pytest.approx(mean, abs=len(rows))
    assert mean < profile.total + profile.controllers


def test_it_prints_by_default(capsys):
    kd.summary(kd.resnet20(input_shape=(8, 8, 3), width=0.25), measure=False)
    assert "predictions" in capsys.readouterr().out


def test_sub_networks_are_printed_with_their_time():
    model = kd.sliced_resnet(
        blocks=1, width=8, subnetworks=2, input_shape=(8, 8, 3), classes=3
    )
    lines = []
    profile = kd.summary(model, print_fn=lines.append)
    for k in (1, 2):
        (line,) = (line for line in lines if line.startswith(f"sub-network {k}:"))
        assert f"{profile.per_subnetwork[k - 1]:,} MACs" in line
        assert f"{profile.per_step[k - 1]:,} MACs from the one before" in line
        assert float(re.search(r"([\d.]+) ms", line).group(1)) > 0
    assert f"{profile.per_subnetwork[-1]:,}" in cells(lines, "total")


def test_several_inputs_and_a_model_without_a_graph_are_measured():
    left, right = keras.Input((4,)), keras.Input((3, 2))
    x = keras.layers.Dense(2)(left) + keras.layers.Dense(2)(right)[:, 0]

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(2)

        def call(self, x):
            return self.dense(x)

    plain = Net()
    plain(np.zeros((3, 4), "float32"))
    for model, macs in ((keras.Model([left, right], x), 8 + 12), (plain, 8)):
        lines = []
        assert kd.summary(model, print_fn=lines.append).total == macs
        assert any("ms per image" in line for line in lines)


def test_it_says_what_could_be_gated():
    layers = keras.layers
    image = x = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 1, name="stem")(x)
    y = layers.Conv2D(16, 3, padding="same")(x)
    x = layers.Add()([x, layers.Conv2D(8, 3, padding="same")(layers.ReLU()(y))])
    model = keras.Model(image, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    lines = []
    kd.summary(model, measure=False, print_fn=lines.append)
    both, total = 64 * 9 * 2 * 8 * 16, kd.count_macs(model).total
    wanted = f"{both / total:.0%} by channel gates, {both / total:.0%} by layer gates"
    assert wanted in lines[-1] and "kd.gateable" in lines[-1]
    lines.clear()
    gated = kd.add_layer_gates(kd.add_channel_gates(model))
    kd.summary(gated, measure=False, print_fn=lines.append)
    assert not any("could be gated" in line for line in lines)
