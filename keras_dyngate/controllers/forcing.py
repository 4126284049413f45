"""Hold a model at a given open rate, to measure what an open rate costs.

with force_open_rate(model, 0.5):
    export_tflite(model, "half.tflite")
"""

import contextlib
from collections.abc import Iterator, Sequence

import keras
import numpy as np

from keras_dyngate._checks import fraction
from keras_dyngate._walk import by_controller
from keras_dyngate.controllers.controller import Controller

Rate = float | Sequence[float]


def _spread(rates: list[float], units: list[int]) -> list[int]:
    """Open units per block; what rounding gives or takes is carried to the next."""
    counts, carried = [], 0.0
    for rate, n in zip(rates, units, strict=True):
        wanted = (rate + carried) * n
        count = min(max(int(np.floor(wanted + 0.5 + 1e-9)), 0), n)
        carried = rate + carried - count / n
        counts.append(count)
    return counts


def _per_block(name: str, rate: Rate, blocks: int) -> list[float]:
    rates = (
        list(rate) if isinstance(rate, (list, tuple, np.ndarray)) else [rate] * blocks
    )
    if len(rates) != blocks:
        raise ValueError(
            f"`{name}` must be one number or one per gated block ({blocks}). "
            f"Received: {len(rates)} numbers"
        )
    return [fraction(name, item) for item in rates]


def _clear_traces(model: keras.Model) -> None:
    """Drop compiled step functions: what was traced before knows nothing of forcing."""
    held = ("stages", "raw_stages")  # of a net with early exits
    for part in (model, *(p for name in held for p in getattr(model, name, ()))):
        for name in ("train_function", "test_function", "predict_function"):
            if getattr(part, name, None) is not None:
                setattr(part, name, None)


@contextlib.contextmanager
def force_open_rate(
    model: keras.Model, rate: Rate, layer_rate: Rate = 1.0
) -> Iterator[None]:
    """Inside the block, `model` predicts and exports at a fixed open rate.

    The nearest number of units is opened in each block (the first ones), and the
    rounding error is carried on to the next block; the two masks of a bottleneck are
    treated alike. Controllers are still computed, so their cost stays in every
    measurement. Design of this library.

    Args:
        model: A model with gated blocks.
        rate: Share of channel units to open, 0 to 1, or one share per block that has a
            channel gate. In a net that has layer gates only: share of layers.
        layer_rate: Share of gated layers to execute in a net that gates channels too.

    Raises:
        ValueError: If the model has no controllers, or a rate is outside 0 to 1.

    Example:
        ```python
        block = kd.GatedBasicBlock(4, channel_gate="binary", name="block")
        top = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
        model = keras.Sequential([keras.Input((8, 8, 4)), block, *top])
        x = np.random.default_rng(0).normal(size=(8, 8, 8, 4))
        with kd.force_open_rate(model, 0.5):  # half of the channels, controllers still run
            half = kd.count_macs(model).of(kd.decide(model, x))
        ```
    """
    channel: list[tuple[Controller, int]] = []
    layer: list[tuple[Controller, int]] = []
    for gate, items in by_controller(model):
        found = layer if items[0].whole else channel
        found.append((gate, len(items)))
    if not channel and not layer:
        raise ValueError(
            "`model` must hold gated blocks for its open rate to be forced. "
            f"Received: a model without controllers ({model.name!r})"
        )
    plans = [("rate", rate, channel), ("layer_rate", layer_rate, layer)]
    if not channel:
        plans = [("rate", rate, layer)]
    forced = []
    for name, value, gates in plans:
        rates = _per_block(name, value, len(gates))
        counts = _spread(rates, [gate.units // masks for gate, masks in gates])
        for (gate, masks), count in zip(gates, counts, strict=True):
            half = np.arange(gate.units // masks) < count
            forced.append((gate, np.tile(half, masks)))
    before = [(gate, gate.forced) for gate, _ in forced]
    try:
        for gate, is_open in forced:
            gate.forced = is_open
        _clear_traces(model)
        yield
    finally:
        for gate, old in before:
            gate.forced = old
        _clear_traces(model)
