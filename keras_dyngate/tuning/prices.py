"""What the nets of a search cost, each net told from the others: counted, or measured.

prices = Prices("measure", quantization="int8", images=x, folder=folder)
table = prices.of(model, "all chains, two groups")
"""

import dataclasses
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import keras
import numpy as np

from keras_dyngate._warn import warn
from keras_dyngate.cost import CostTable, count_macs
from keras_dyngate.cost.table_file import check_table

MEASURE = "measure"
TABLES = "tables"  # the folder of those that were measured
IMAGES = 64  # that a net is timed on


class Prices:
    """Cost tables of nets, each made once per search.

    Args:
        source: None: MACs. "measure": `measure_latency`, in ms. Or a function of a model
            that returns its `CostTable`.
        quantization: Of what is measured.
        images: That it is timed on.

    Raises:
        RuntimeError: If it is to measure on another backend than TensorFlow.
        ValueError: For another source.
    """

    def __init__(
        self,
        source: "str | Callable[[keras.Model], CostTable] | None",
        quantization: str | None,
        images: np.ndarray,
    ) -> None:
        if source is not None and source != MEASURE and not callable(source):
            raise ValueError(
                "`table` must be None, 'measure' or a function that makes the table of a "
                "model: a table is of one net, and a search has many. "
                f"Received: table={source!r}"
            )
        if source == MEASURE and keras.backend.backend() != "tensorflow":
            raise RuntimeError(
                "`table='measure'` needs Keras on TensorFlow, as exporting does. "
                f"Received: the {keras.backend.backend()} backend"
            )
        self.source, self.quantization = source, quantization
        self.images = images[:IMAGES]
        self.folder: Path | None = None
        self._known: dict[str, CostTable] = {}

    def of(self, model: keras.Model, key: str) -> CostTable:
        """The table of a model.

        Args:
            model: Of decisions or exits.
            key: Says how it is made; of two models of one key the cost is the same.
        """
        if key in self._known:
            return self._known[key]
        if self.source is None:
            self._known[key] = count_macs(model)
            return self._known[key]
        name = f"{zlib.crc32(key.encode()):08x}.json"
        path = None if self.folder is None else self.folder / TABLES / name
        table = None if path is None else _read(path, model)
        if table is None:
            if callable(self.source):
                table = check_table(self.source(model), count_macs(model))
            else:
                table = self._measured(model)
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                table.save(path)
        self._known[key] = table
        return table

    def _measured(self, model: keras.Model) -> CostTable:
        from keras_dyngate.export.latency import measure_latency  # of TensorFlow

        return measure_latency(
            model, quantization=self.quantization, representative_data=self.images
        )


def _read(path: Path, model: keras.Model) -> CostTable | None:
    """A table from its file; None: there is none that can be used."""
    try:
        return check_table(CostTable.load(path), count_macs(model))
    except FileNotFoundError:
        return None
    except ValueError as error:
        warn(f"The table {path} is made anew: {error}")
        return None


def without_exits(table: CostTable, exits: Iterable[str]) -> CostTable:
    """The table of a net's trunk, told from that of the net with exits.

    Args:
        table: Of the net.
        exits: Names of its gates.
    """
    names = set(exits)
    rows = (row for row in table.rows if row.layer not in names)
    kept = tuple(dataclasses.replace(row, stage=0) for row in rows)
    return dataclasses.replace(table, rows=kept)
