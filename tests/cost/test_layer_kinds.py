"""MACs of the layers of Keras, each counted here by hand."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_dyngate as kd
from keras_dyngate.cost.counter import kernel_macs

pytestmark = pytest.mark.usefixtures("numpy_initializers")


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (layers.Conv1D(4, 3), (9, 2), 7 * 3 * 2 * 4),
        (layers.Conv1D(4, 3, padding="causal"), (9, 2), 9 * 3 * 2 * 4),
        (layers.Conv2D(6, 3, groups=2), (5, 6, 4), 12 * 9 * 2 * 6),
        (layers.Conv2D(6, 3, strides=2, padding="same"), (5, 6, 4), 9 * 9 * 4 * 6),
        (layers.Conv2D(6, 3, dilation_rate=2), (7, 6, 4), 3 * 2 * 9 * 4 * 6),
        (layers.Conv3D(2, 2), (3, 3, 3, 4), 8 * 8 * 4 * 2),
        (layers.DepthwiseConv1D(3), (9, 2), 7 * 3 * 2),
        (layers.DepthwiseConv2D(3, depth_multiplier=2), (5, 6, 4), 12 * 9 * 4 * 2),
        (layers.SeparableConv1D(6, 3), (9, 4), 7 * (3 * 4 + 4 * 6)),
        (layers.SeparableConv2D(6, 3), (5, 6, 4), 12 * (9 * 4 + 4 * 6)),
        (layers.Conv1DTranspose(6, 3), (5, 4), 5 * 3 * 4 * 6),
        (layers.Conv2DTranspose(6, 2, strides=2), (5, 6, 4), 30 * 4 * 4 * 6),
        (layers.Conv3DTranspose(2, 2), (3, 3, 3, 4), 27 * 8 * 4 * 2),
        (layers.Dense(6), (4,), 4 * 6),
        (layers.Dense(6), (5, 3, 4), 15 * 4 * 6),
        (layers.EinsumDense("abc,cd->abd", (None, 6)), (5, 4), 5 * 4 * 6),
        (layers.EinsumDense("...x,xyz->...yz", (3, 2)), (5, 4), 5 * 4 * 6),
        (layers.EinsumDense("abc,c->abc", (5, 4)), (5, 4), 0),  # scaling, no sums
        (layers.BatchNormalization(), (5, 6, 4), 0),
        (layers.LayerNormalization(), (5, 6, 4), 0),
        (layers.PReLU(), (5, 6, 4), 0),
        (layers.MaxPooling2D(), (5, 6, 4), 0),
        (layers.LSTM(3), (5, 4), 5 * 4 * 3 * (4 + 3)),
        (layers.LSTM(3, return_sequences=True), (5, 4), 5 * 4 * 3 * (4 + 3)),
        (layers.GRU(3), (5, 4), 5 * 3 * 3 * (4 + 3)),
        (layers.SimpleRNN(3), (5, 4), 5 * 3 * (4 + 3)),
        (
            layers.RNN([layers.LSTMCell(3), layers.GRUCell(2)]),
            (5, 4),
            5 * (4 * 3 * (4 + 3) + 3 * 2 * (3 + 2)),
        ),
        (
            layers.Bidirectional(layers.GRU(3)),
            (5, 4),
            2 * 5 * 3 * 3 * (4 + 3),
        ),
        # Valid: 4 x 5 positions; four gates of 2 filters, from 3 and from 2 channels.
        (
            layers.ConvLSTM2D(2, 3),
            (4, 6, 7, 3),
            4 * 20 * 9 * (3 + 2) * 8,
        ),
        (layers.TimeDistributed(layers.Dense(6)), (5, 4), 5 * 4 * 6),
        (
            layers.TimeDistributed(layers.Conv2D(2, 3)),
            (4, 6, 7, 3),
            4 * 20 * 9 * 3 * 2,
        ),
        (layers.SpectralNormalization(layers.Conv2D(2, 3)), (6, 7, 3), 20 * 9 * 3 * 2),
        (keras.Sequential([layers.Conv1D(4, 3), layers.Dense(2)]), (9, 2), 7 * 32),
    ],
)
def test_one_input(layer, shape, macs):
    layer.build((None, *shape))
    assert kernel_macs(layer, (None, *shape)) == macs
    layer.trainable = False
    assert kernel_macs(layer, (None, *shape)) == macs


QUERY, VALUE = (5, 6), (7, 6)


@pytest.mark.parametrize(
    ("layer", "macs"),
    [
        (layers.Attention(), 5 * 7 * (6 + 6)),
        (layers.Attention(score_mode="concat"), 5 * 7 * 6),
        (layers.AdditiveAttention(), 5 * 7 * (6 + 6)),
        (layers.AdditiveAttention(use_scale=False), 5 * 7 * 6),
        (layers.Dot(axes=2), 5 * 7 * 6),
        (layers.Dot(axes=(-1, -1)), 5 * 7 * 6),
        (layers.Dot(axes=2, normalize=True), 5 * 7 * 6),
        (layers.Add(), 0),
    ],
)
def test_a_list_of_two(layer, macs):
    inputs = [keras.Input(QUERY), keras.Input(QUERY if macs == 0 else VALUE)]
    assert kd.count_macs(keras.Model(inputs, layer(inputs))).total == macs


@pytest.mark.parametrize(
    ("layer", "macs"),
    [
        (
            layers.MultiHeadAttention(2, 3, value_dim=4),
            5 * 6 * 6 + 7 * 6 * (6 + 8) + 2 * 5 * 7 * (3 + 4) + 5 * 8 * 6,
        ),
        (
            layers.MultiHeadAttention(2, 3, dropout=0.1, output_shape=9),
            5 * 6 * 6 + 2 * 7 * 6 * 6 + 2 * 5 * 7 * (3 + 3) + 5 * 6 * 9,
        ),
        # Four heads ask, two heads answer.
        (
            layers.GroupQueryAttention(3, 4, 2),
            5 * 6 * 12 + 2 * 7 * 6 * 6 + 4 * 5 * 7 * (3 + 3) + 5 * 12 * 6,
        ),
    ],
)
def test_attention_of_heads(layer, macs):
    query, value = keras.Input(QUERY), keras.Input(VALUE)
    profile = kd.count_macs(keras.Model([query, value], layer(query, value)))
    assert profile.total == macs
    assert [row.name for row in profile.layers] == [layer.name]


def test_what_decides_inside_of_time_steps():
    """Each step is a call of its own, and decides anew."""
    block = kd.GatedBasicBlock(3, channel_gate=kd.BinaryGate(3, hidden=2), name="b")
    film = keras.Input((2, 4, 4, 3))
    model = keras.Model(film, layers.TimeDistributed(block)(film))
    profile = kd.count_macs(model)
    gate = 2 * (3 + 3)
    assert (profile.total, profile.controllers) == (2 * 2 * 16 * 9 * 9, 2 * gate)
    scores = np.array([[1, 0, 0]])
    macs = profile.of({"b/channel": scores, "b:2/channel": 0 * scores})
    assert macs.tolist() == [2 * gate + 2 * 16 * 9 * 3]


def test_an_unknown_length():
    words = keras.Input((None, 4))
    model = keras.Model(words, layers.LSTM(3)(words))
    with pytest.raises(ValueError, match=r"\(or length\).*at layer 'lstm"):
        kd.count_macs(model)
