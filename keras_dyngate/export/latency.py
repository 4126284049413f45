"""Milliseconds as the currency: a table of what each decision costs on this machine.

table = kd.measure_latency(model, quantization="int8", representative_data=images)
table.of(kd.decide(model, images))           # ms of each image
table.save("desktop_int8.json")
"""

import contextlib
import dataclasses
import datetime
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_dyngate._checks import built_model, one_of, positive_int, whole_number
from keras_dyngate.cost import CostTable, Measured, count_macs
from keras_dyngate.cost.fitting import fit_costs, unknowns
from keras_dyngate.export.arguments import calibration_images
from keras_dyngate.export.exporter import export_tflite
from keras_dyngate.export.options import AnytimeOptions, GateOptions
from keras_dyngate.models.anytime.model import AnytimeModel
from keras_dyngate.models.exits.early_exit import EarlyExitModel
from keras_dyngate.runtime import LiteRTModel
from keras_dyngate.runtime.machine import describe_machine
from keras_dyngate.runtime.trials import (
    CACHES,
    draw_trials,
    sha256_of,
    time_trials,
)

CALLS = 20  # of each signature of an anytime net; the fastest counts
IMAGES = 16  # that are run
PROBED = 8  # trials, to tell how many rounds fit
SECONDS, ROUNDS = 60.0, (2, 5)


def measure_latency(
    model: keras.Model,
    *,
    quantization: str | None = None,
    representative_data: Any = None,
    num_threads: int = 1,
    what: str = "all",
    trials: int = 300,
    rounds: int | None = None,
    cache: str = "warm",
    group_size: int | None = None,
    path: str | os.PathLike[str] | None = None,
    seed: int = 0,
) -> CostTable:
    """Measure what a model's decisions cost in ms, on this machine, in LiteRT.

    The model is exported with decisions that the caller makes, timed under some hundred
    random ones and at random exits, and the table fitted to these times
    (`keras_dyngate.cost.fit_costs`); the net without gates and exits is timed in the
    same rounds. A second or two per hundred calls of a small net; half a minute to three
    for one that takes 80 ms. Keep the machine free of other work.

    Args:
        model: A net with gates, exits or both, or an anytime net, that `export_tflite`
            takes.
        quantization: As in `export_tflite`.
        representative_data: As in `export_tflite`; also what is run. None: noise.
        num_threads: CPU threads of LiteRT. Default 1.
        what: "all" (default), or "exits": the stages alone are timed, all gates open;
            within a stage costs go by MACs.
        trials: Sets of decisions. Default 300.
        rounds: Timed calls of each; the fastest counts. None: as many as fit into a
            minute, from 2 to 5.
        cache: "warm" (default), or "cold": see `time_trials`.
        group_size: As in `GateOptions`: channels that run together.
        path: Where to keep the file that was timed. None: nowhere.
        seed: Of the decisions.

    Returns:
        A `CostTable` in ms, with the rows and decisions of `count_macs(model)`; its
        `measured` says how well it predicts trials that it was not fitted to.

    Raises:
        ImportError: Without SciPy: `pip install "keras_dyngate[measure]"`.
        RuntimeError: On another backend than TensorFlow.
        ValueError: For a model without decisions, or a bad argument.

    Example:
        ```python
        block = kd.GatedBasicBlock(32, channel_gate=kd.BinaryGate(2), name="block")
        top = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
        model = keras.Sequential([keras.Input((8, 8, 32)), block, *top])
        table = kd.measure_latency(model, trials=40, rounds=2)
        print(table.total, table.least)  # ms of the plain net, and with all shut
        ```
    """
    built_model("model", model)
    one_of("what", what, ("all", "exits"))
    one_of("cache", cache, CACHES)
    positive_int("num_threads", num_threads)
    positive_int("trials", trials)
    whole_number("seed", seed)
    if rounds is not None:
        positive_int("rounds", rounds)
    table = count_macs(model)
    measured = Measured(
        device=str(describe_machine()["cpu"]),
        threads=num_threads,
        quantization=quantization or "float32",
        cache=cache,
    )
    common: dict[str, Any] = {
        "quantization": quantization,
        "representative_data": representative_data,
        "parity_data": False,
    }
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "net.tflite" if path is None else Path(path)
        if isinstance(model, AnytimeModel):
            return _of_subnetworks(model, table, measured, target, common)
        _check_decides(model, table, what, trials)
        options = GateOptions(group_size, forcible=True)
        plain = Path(folder) / "plain.tflite"
        with _some_thresholds(model):
            report = export_tflite(model, target, options=options, **common)
            export_tflite(model, plain, options=GateOptions(ungated=True), **common)
        file = LiteRTModel(target, num_threads=num_threads)
        drawn = draw_trials(file, trials, what=what, seed=seed)
        others = {"plain": LiteRTModel(plain, num_threads=num_threads)}
        images = _pictures(representative_data, file, drawn.signature)
        if rounds is None:
            few, _ = time_trials(file, drawn[:PROBED], images, rounds=1, cache=cache)
            whole = len(drawn) * float(few.mean()) * (2 if cache == "warm" else 1)
            rounds = int(np.clip(SECONDS * 1e3 / whole, *ROUNDS))
        ms, beside = time_trials(
            file,
            drawn,
            images,
            rounds=rounds if what == "all" else 5 * rounds,
            cache=cache,
            others=others,
            seed=seed,
        )
        measured = dataclasses.replace(measured, file_sha256=sha256_of(target))
    return fit_costs(
        table,
        drawn.decided(),
        ms,
        unit="ms",
        measured=measured,
        group_sizes=report.group_sizes,
        plain=beside["plain"],
        by_stage=what == "exits",
        seed=seed,
    )


def _check_decides(
    model: keras.Model, table: CostTable, what: str, trials: int
) -> None:
    """Refuse what there is nothing to measure of, or too few trials for it."""
    exits = len(table.per_exit) > 1
    if what == "exits" and not exits:
        raise ValueError(
            "`what='exits'` is for a net with exits. "
            f"Received: what={what!r} for {model.name!r}, which has none"
        )
    if not exits and not any(row.gatings for row in table.rows):
        raise ValueError(
            "`model` must hold gates or exits for their cost to be measured. "
            f"Received: {model.name!r} without any"
        )
    least = len(table.per_exit) if what == "exits" else unknowns(table)
    if trials < least:
        raise ValueError(
            f"`trials` must be {least} or more, for as many unknown costs. "
            f"Received: trials={trials}"
        )


@contextlib.contextmanager
def _some_thresholds(model: keras.Model) -> Iterator[None]:
    """A file needs thresholds; which does not matter where exits are forced."""
    before = getattr(model, "thresholds", None)
    if not isinstance(model, EarlyExitModel) or before is None:
        yield
        return
    try:
        model.thresholds = np.zeros_like(before)
        yield
    finally:
        model.thresholds = before


def _pictures(data: Any, file: LiteRTModel, signature: str) -> np.ndarray | None:
    """What is run: some of the given images."""
    if data is None:
        return None
    shape = tuple(file.signatures[signature].inputs["image"].shape[1:])
    return calibration_images(data, shape, IMAGES)


def _of_subnetworks(
    model: AnytimeModel,
    table: CostTable,
    measured: Measured,
    path: Path,
    common: dict[str, Any],
) -> CostTable:
    """The table of an anytime net: each sub-network at once, and each step."""
    count = len(table.per_subnetwork)
    options = AnytimeOptions(subnetworks=list(range(1, count + 1)))
    export_tflite(model, path, options=options, **common)
    file = LiteRTModel(path, num_threads=measured.threads)

    def ms(signature: str) -> float:
        inputs = {
            name: np.zeros(spec.shape, spec.dtype)
            for name, spec in file.signatures[signature].inputs.items()
        }
        return min(file.benchmark(signature, inputs, repeats=CALLS).times_ms)

    alone = tuple(ms(name) for name in file.table.numbered("subnetwork").values())
    steps = tuple(ms(name) for name in file.table.numbered("step").values())
    whole = sum(row.cost for row in table.rows)
    return dataclasses.replace(
        table,
        rows=tuple(
            dataclasses.replace(row, cost=row.cost / whole * alone[-1])
            for row in table.rows
        ),
        per_subnetwork=alone,
        per_step=steps or alone,
        unit="ms",
        measured=dataclasses.replace(
            measured,
            date=datetime.date.today().isoformat(),
            file_sha256=sha256_of(path),
            trials=CALLS,
        ),
    )
