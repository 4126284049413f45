"""SGD as the recipes use it: its rates, and what does not decay."""

import numpy as np
import pytest

import keras_dyngate as kd
from tests.models.gating.nets import mobile


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("cosine", [0.4, 0.4 * (1 + 2**0.5 / 2) / 2, 0.2, 0.0]),
        ("steps", [0.4, 0.4, 0.4, 4e-4]),
        ("constant", [0.4] * 4),
    ],
)
def test_rates(schedule, rates):
    model = mobile()
    optimizer = kd.sgd(model, 0.4, 100, schedule=schedule)
    found = []
    for step in (0, 25, 50, 100):
        optimizer.iterations.assign(step)
        found.append(float(optimizer.learning_rate))
    np.testing.assert_allclose(found, rates, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, 0.1, 10), "`model` must be a built keras.Model. Received: NoneType"),
        (
            ("net", "fast", 10),
            "`learning_rate` must be .*Received: learning_rate='fast'",
        ),
        (("net", 0.1, 0), "`total_steps` must be a positive integer"),
    ],
)
def test_bad_arguments(arguments, message):
    model, *rest = arguments
    with pytest.raises(ValueError, match=message):
        kd.sgd(mobile() if model == "net" else model, *rest)
