import keras
import pytest

import keras_dyngate as kd
from keras_dyngate.models.exits.heads import KINDS, ROWS, WIDTHS, head_body

pytestmark = pytest.mark.usefixtures("numpy_initializers")

ENOUGH = 10**12


def up(a, b):
    return -(-a // b)


def by_hand(kind, shape, classes, width):
    """MACs, and the size of the last map."""
    height, wide, channels = shape
    if kind == "conv":
        macs = height * wide * channels * 2 * width + 2 * width * classes
        return macs, (height, wide)
    rows = min(height, wide)
    strides = []
    for _ in range(2):
        strides.append(2 if rows > 6 else 1)
        rows = up(rows, strides[-1])
    macs = 0
    if rows > 6:
        pool = next(p for p in (2, 4, 8, 16, 32) if up(rows, p) <= 6)
        height, wide = up(height, pool), up(wide, pool)
    for filters, stride in zip((width, 2 * width), strides, strict=True):
        height, wide = up(height, stride), up(wide, stride)
        macs += height * wide * (9 * channels + channels * filters)
        channels = filters
    return macs + channels * classes, (height, wide)


def last_map(body):
    maps = [x.output.shape for x in body.layers if len(x.output.shape) == 4]
    return tuple(maps[-1][1:3])


@pytest.mark.parametrize("kind", ["conv", "separable"])
@pytest.mark.parametrize(
    "shape", [(10, 10, 8), (5, 5, 7), (7, 9, 4), (1, 1, 6), (33, 31, 5), (112, 112, 3)]
)
def test_macs_and_rows(kind, shape):
    body = head_body(kind, shape, 5, ENOUGH)
    assert body.output_shape == (None, 5)
    macs, size = by_hand(kind, shape, 5, WIDTHS[0])
    assert kd.count_macs(body).total == macs
    assert last_map(body) == size
    if kind == "separable":
        assert min(size) <= ROWS


@pytest.mark.parametrize("kind", ["conv", "separable"])
def test_as_wide_as_the_budget_allows(kind):
    shape, classes = (9, 9, 12), 7
    costs = [by_hand(kind, shape, classes, width)[0] for width in WIDTHS]
    assert costs == sorted(costs, reverse=True)
    for budget in (costs[0], costs[3], costs[3] - 1, costs[-1], costs[-1] // 2, 0):
        expected = max((c for c in costs if c <= budget), default=costs[-1])
        found = kd.count_macs(head_body(kind, shape, classes, budget)).total
        assert found == expected


def test_what_is_in_them():
    names = {
        kind: [type(x).__name__ for x in head_body(kind, (20, 20, 4), 3, 0).layers[1:]]
        for kind in KINDS[1:]
    }
    last = ["GlobalAveragePooling2D", "Dropout", "Dense"]
    conv = ["BatchNormalization", "ReLU"]
    assert names == {
        "conv": ["Conv2D", *conv, *last],
        "separable": 2 * ["SeparableConv2D", *conv] + last,
    }
    big = head_body("separable", (28, 28, 4), 3, 0).layers
    assert isinstance(big[1], keras.layers.AveragePooling2D)
    assert KINDS == ("linear", "conv", "separable")


@pytest.mark.parametrize("kind", ["conv", "separable"])
@pytest.mark.parametrize("shape", [(8,), (None, 8, 3), (8, None, 3), (9, 4)])
def test_no_maps(kind, shape):
    message = f"`head='{kind}'` needs feature maps of known height and width. Received:"
    with pytest.raises(ValueError, match=message):
        head_body(kind, shape, 3, ENOUGH)
