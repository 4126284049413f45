"""What a taught net of a search is worth: accuracy, cost, and both in one number."""

import tempfile
from pathlib import Path

import keras
import numpy as np

from keras_dyngate._labels import label_of
from keras_dyngate._walk import controllers
from keras_dyngate.cost import CostTable, count_macs
from keras_dyngate.cost.cost_table import MACS
from keras_dyngate.cost.executed import executed_together
from keras_dyngate.decisions import predict_with_decisions
from keras_dyngate.models.exits.early_exit import EarlyExitModel

TOLERANCE = 0.02  # over the budget, that is kept still: so near is training to it
FILE = "model.tflite"


class Judge:
    """Judges nets on the same pictures.

    Args:
        data: Images `[N, ...]` and class indices `[N]`.
        export: Whether a file is made, for its size.
        quantization: Of that.
    """

    def __init__(
        self,
        data: tuple[np.ndarray, np.ndarray],
        export: bool,
        quantization: str | None,
    ) -> None:
        self.x, self.y = data
        self.export, self.quantization = export, quantization

    def __call__(
        self,
        model: keras.Model,
        table: CostTable,
        *,
        whole: float,
        wanted: float,
        folder: Path | None,
    ) -> dict[str, float]:
        """The metrics of a net; see `DynamicHyperModel.fit`.

        Args:
            model: A classifier, gated, with exits, or plain.
            table: Of what counts.
            whole: The plain net's cost in it.
            wanted: What may be spent in it.
            folder: Where its file is put. None: it is not kept.
        """
        labels, decisions = self._answers(model)
        sizes = executed_together(model, table)
        counted = count_macs(model)
        cost = float(np.mean(table.of(decisions, sizes)))
        macs = float(np.mean(counted.of(decisions, sizes)))
        accuracy = float(np.mean(labels == self.y))
        over = max(0.0, cost / wanted - 1)
        kept = over <= TOLERANCE
        found = {
            "objective": accuracy if kept else accuracy - over,
            "val_accuracy": accuracy,
            "val_cost": cost / whole,
            "kept": float(kept),
            "macs": macs,
        }
        if table.unit != MACS:
            found[table.unit] = cost
        if self.export:
            found["bytes"] = float(self._size(model, folder))
        return found

    def _answers(self, model: keras.Model) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Labels and decisions, of a plain net none."""
        if isinstance(model, EarlyExitModel):
            labels = model.predict(self.x, verbose=0)["label"]
            return labels, predict_with_decisions(model, self.x)[1]
        if not any(True for _ in controllers(model)):
            return label_of(model.predict(self.x, verbose=0)), {}
        scores, decisions = predict_with_decisions(model, self.x)
        return label_of(scores), decisions

    def _size(self, model: keras.Model, folder: Path | None) -> int:
        from keras_dyngate.export import export_tflite  # of TensorFlow

        with tempfile.TemporaryDirectory() as spare:
            target = Path(spare if folder is None else folder) / FILE
            export_tflite(
                model,
                target,
                quantization=self.quantization,
                representative_data=self.x[:128],
                parity_data=False,
            )
            return target.stat().st_size
