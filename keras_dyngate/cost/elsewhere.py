"""A cost table from trials that another machine ran: a phone, a board, an emulator.

    trials = draw_trials(LiteRTModel("forcible.tflite"), 300)
    trials.save("trials.json")                 # to the phone, with the file
    table = kd.cost_table_from(model, "trials.json", "times.json")
    table.save("pixel.json")

See `tflite/native`, `tflite/arm` and `tflite/android` for what writes the times.
"""

import json
import os
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_dyngate._checks import built_model
from keras_dyngate.cost.budget import UNITS
from keras_dyngate.cost.cost_table import CostTable
from keras_dyngate.cost.counter import count_macs
from keras_dyngate.cost.fitting import fit_costs
from keras_dyngate.cost.measured import Measured

FORMAT = "keras_dyngate costs 1"


def cost_table_from(
    model: keras.Model,
    trials: str | os.PathLike[str],
    costs: str | os.PathLike[str],
    *,
    quantization: str = "float32",
    seed: int = 0,
) -> CostTable:
    """Fit a cost table to what another machine measured.

    Args:
        model: The net that the file was exported of.
        trials: What `Trials.save` wrote.
        costs: What the machine wrote: JSON of the format "keras_dyngate costs 1", the
            costs in the order of the trials; if they are fewer, those of the first ones.
        quantization: Of the file, to be noted in the table.
        seed: Of which trials are held out.

    Returns:
        A `CostTable` in the unit that the machine noted.

    Raises:
        FileNotFoundError: If a file is missing.
        ImportError: Without SciPy.
        ValueError: If a file is another one or damaged, or the two, or the model, do not
            belong together.

    Example:
        ```python
        block = kd.GatedBasicBlock(32, channel_gate=kd.BinaryGate(2), name="block")
        top = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
        model = keras.Sequential([keras.Input((8, 8, 32)), block, *top])
        forcible = kd.GateOptions(forcible=True)
        kd.export_tflite(model, "net.tflite", options=forcible, parity_data=False)
        file = kd.LiteRTModel("net.tflite")
        drawn = kd.runtime.draw_trials(file, 40)
        drawn.save("trials.json")  # to the other machine; what it writes:
        ms, _ = kd.runtime.time_trials(file, drawn, rounds=1)
        noted = {"format": "keras_dyngate costs 1", "unit": "ms", "costs": ms.tolist()}
        with open("times.json", "w") as target:
            target.write(str(noted).replace("'", '"'))
        print(kd.cost_table_from(model, "trials.json", "times.json"))
        ```
    """
    from keras_dyngate.runtime.trials import Trials  # LiteRT's room

    counted = count_macs(built_model("model", model))
    drawn, noted = Trials.load(trials), _read(costs)
    values = np.asarray(noted["costs"], np.float64)
    if len(values) > len(drawn):
        raise ValueError(
            "`costs` must be of these trials. "
            f"Received: {len(values)} costs for {len(drawn)} trials"
        )
    if noted.get("file_sha256", drawn.file_sha256) != drawn.file_sha256:
        raise ValueError(
            "`costs` must be of the file that the trials are for. "
            f"Received: {os.fspath(costs)!r}, of a file of another hash"
        )
    if len(values) > 1 and np.ptp(values) == 0 < values[0]:
        raise ValueError(
            "`costs` must differ from trial to trial: nothing was skipped. "
            f"Received: {len(values)} times {values[0]:g}"
        )
    drawn = drawn[: len(values)]
    channels = {
        gating.name_in(row.layer): gating.channels
        for row in counted.rows
        for gating in row.gatings
    }
    names = [name for name, *_ in drawn.decisions]
    if set(names) != set(channels) or drawn.gates != len(counted.per_exit) - 1:
        raise ValueError(
            "`trials` must be drawn for a file of this model. "
            f"Received: decisions {names[:3]} and {drawn.gates} gates for {model.name!r}"
        )
    sizes = {
        name: channels[name] // groups
        for name, _, groups in drawn.decisions
        if channels.get(name, 1) > 1
    }
    plain = noted.get("plain")
    return fit_costs(
        counted,
        drawn.decided(),
        values,
        unit=str(noted["unit"]),
        measured=Measured(
            device=str(noted.get("device", "unknown")),
            threads=int(noted.get("threads", 1)),
            quantization=quantization,
            cache=str(noted.get("cache", "warm")),
            date=str(noted.get("date", "")),
            file_sha256=drawn.file_sha256,
        ),
        group_sizes=sizes,
        plain=None if plain is None else float(plain),
        seed=seed,
    )


def _read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a machine wrote."""
    try:
        noted = json.loads(Path(path).read_bytes())
        if noted["format"] != FORMAT:
            raise ValueError(f"format {noted['format']!r}")
        if noted["unit"] not in UNITS.values():
            raise ValueError(f"unit {noted['unit']!r}, none of {[*UNITS.values()]}")
        np.asarray(noted["costs"], np.float64)
    except (KeyError, TypeError, ValueError, UnicodeDecodeError) as error:
        raise ValueError(
            f"`costs` must be a file of the format {FORMAT!r}. Received: "
            f"{os.fspath(path)!r} ({type(error).__name__}: {error})"
        ) from None
    return noted
