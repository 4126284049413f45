"""MACs of the operators of Keras, each counted here by hand."""

import itertools

import keras
import numpy as np
import pytest
from keras import ops

import keras_dyngate as kd
from keras_dyngate.cost.operators import einsum_macs

A, B = keras.Input((5, 6)), keras.Input((7, 6))
IMAGE = keras.Input((5, 6, 4))
FREE = {
    "x * x": A * A,
    "mean": ops.mean(A, axis=1),
    "norm": ops.norm(A, axis=1),
    "outer": ops.einsum("bic,bjc->bijc", A, B),
    "no axes": ops.tensordot(A, ops.ones(3), axes=0),
    "scalar": ops.dot(A, 2.0),
    "one operand": ops.einsum("bij->bji", A),
    "resize": ops.image.resize(IMAGE, (9, 9)),
}
COUNTED = {
    "matmul": (ops.matmul(A, ops.transpose(B, (0, 2, 1))), 5 * 7 * 6),
    "@": (A @ np.ones((6, 3), "float32"), 5 * 6 * 3),
    "dot": (ops.dot(A, ops.ones((6, 3))), 5 * 6 * 3),
    "inner": (ops.inner(A, ops.ones((3, 6))), 5 * 6 * 3),
    "tensordot": (ops.tensordot(A, ops.ones((6, 3)), axes=1), 5 * 6 * 3),
    "einsum": (ops.einsum("bij,bkj->bik", A, B), 5 * 7 * 6),
    "einsum, no arrow": (ops.einsum("bij,jk", A, ops.ones((6, 3))), 5 * 6 * 3),
    "einsum of windows": (ops.einsum("...ij,...kj->...ik", A, B), 5 * 7 * 6),
    # Best from the right: 6 x 6 of the 7 rows of B, then for each row of A.
    "einsum of three": (
        ops.einsum("bij,bkj,bkl->bil", A, B, B),
        7 * 6 * 6 + 5 * 6 * 6,
    ),
    "conv": (
        ops.conv(IMAGE, ops.ones((3, 3, 4, 8)), padding="same"),
        30 * 9 * 4 * 8,
    ),
    "depthwise": (
        ops.depthwise_conv(IMAGE, ops.ones((3, 3, 4, 2))),
        12 * 9 * 4 * 2,
    ),
    "separable": (
        ops.separable_conv(IMAGE, ops.ones((3, 3, 4, 2)), ops.ones((1, 1, 8, 3))),
        12 * (9 * 4 * 2 + 8 * 3),
    ),
    "transposed": (
        ops.conv_transpose(IMAGE, ops.ones((2, 2, 3, 4)), strides=2),
        30 * 4 * 4 * 3,
    ),
    "attention": (
        ops.dot_product_attention(*(ops.reshape(x, (-1, 5, 2, 3)) for x in (A, A, A))),
        2 * 5 * 5 * (3 + 3),
    ),
}


def model(output):
    return keras.Model([A, B, IMAGE], output)


@pytest.mark.parametrize("name", COUNTED)
def test_counted(name):
    output, macs = COUNTED[name]
    profile = kd.count_macs(model(output))
    assert (profile.total, profile.unknown) == (macs, ())


@pytest.mark.parametrize("name", FREE)
def test_free(name):
    profile = kd.count_macs(model(FREE[name]))
    assert (profile.total, profile.unknown) == (0, ())


@pytest.mark.parametrize(
    "output",
    [ops.fft((A, A))[0], ops.qr(A)[0], ops.map(lambda x: x @ ops.ones((6, 3)), A)],
    ids=["fft", "qr", "map"],
)
def test_not_counted_is_said(output):
    with pytest.warns(UserWarning, match="not counted"):
        profile = kd.count_macs(model(output))
    assert len(profile.unknown) == 1


def test_the_batch_may_be_mixed_with_other_axes():
    """Windows: 4 of 2 x 2 positions, as the batch of a dense layer."""
    image = keras.Input((4, 4, 3))
    x = ops.reshape(image, (-1, 2, 2, 2, 2, 3))
    x = ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, 4, 3))
    x = keras.layers.Dense(5)(x)
    x = ops.reshape(x @ ops.transpose(x, (0, 2, 1)), (-1, 4, 16))
    net = keras.Model(image, keras.layers.Dense(2)(x))
    assert [row.macs for row in kd.count_macs(net).layers] == [
        16 * 3 * 5,
        4 * 4 * 4 * 5,
        4 * 16 * 2,
    ]


def test_a_batch_that_is_fixed_counts_for_one_image():
    image = keras.Input(batch_shape=(8, 5, 6))
    x = keras.layers.Dense(3)(image @ ops.ones((6, 4)))
    assert kd.count_macs(keras.Model(image, x)).total == 5 * 6 * 4 + 5 * 4 * 3
    x = ops.tensordot(image, ops.ones((6, 5, 3)), axes=[[1, 2], [1, 0]])
    assert kd.count_macs(keras.Model(image, x)).total == 5 * 6 * 3


@pytest.mark.parametrize(
    ("subscripts", "shapes"),
    [
        ("ij,jk->ik", [(2, 3), (3, 4)]),
        ("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)]),
        ("ij,ij->", [(2, 3), (2, 3)]),
        ("ijk,kjl->il", [(2, 3, 4), (4, 3, 5)]),
    ],
)
def test_einsum_by_brute_force(subscripts, shapes):
    """Every product of two numbers that is summed up."""
    terms, _, output = subscripts.partition("->")
    left, right = terms.split(",")
    sizes = dict(zip(left + right, shapes[0] + shapes[1], strict=True))
    labels = sorted(sizes)
    products = list(itertools.product(*(range(sizes[x]) for x in labels)))
    assert einsum_macs(subscripts, shapes) == len(products)
    assert set(output) <= set(labels)
