"""What Keras says of images by a net with early exits, in float32 as its file does."""

import keras
import numpy as np

from keras_dyngate._hooks import recording
from keras_dyngate.export.agreement import Witness
from keras_dyngate.export.plan.exit_parts import ExitParts
from keras_dyngate.models.exits.early_exit import EarlyExitModel


class ExitsWitness:
    """A net with early exits: all stages run, and what leaves is masked."""

    def __init__(self, model: EarlyExitModel) -> None:
        self.model, self.parts = model, ExitParts(model)

    def __call__(self, images: np.ndarray) -> Witness:
        x, limits = keras.ops.convert_to_tensor(images), self.model.thresholds
        stays = np.ones(len(images), bool)
        raw, logits, confidences, decisions = [], [], [], {}
        exits = np.zeros(len(images), np.int32)
        for index, stage in enumerate(self.model.stages):
            with recording() as found:
                x = self.parts.features(index, x)
                own = self.parts.scores(index, x)
            for name, scores in found.items():
                decisions[name] = keras.ops.convert_to_numpy(scores) * stays[:, None]
            raw.append(keras.ops.convert_to_numpy(own))
            scores = self.model.answer(index, np.stack(raw, 1)).astype("float32")
            logits.append(scores)
            if stage.gate is None:
                break
            sure = stage.gate.confidence_of(keras.ops.convert_to_tensor(scores))
            confidence = keras.ops.convert_to_numpy(sure)
            confidences.append(confidence)
            stays &= ~(confidence >= limits[index])
            exits += stays
        rows = np.arange(len(images))
        return Witness(
            np.stack(logits, 1)[rows, exits],
            decisions,
            np.stack(confidences, 1),
            exits,
            limits,
        )
