"""Does an exported file say what the Keras model says?"""

import os

import keras
import numpy as np

from keras_dyngate._warn import warn
from keras_dyngate.export.agreement import Parity
from keras_dyngate.export.plan import plan
from keras_dyngate.runtime import LiteRTModel

AT_LEAST = 0.98  # of labels, and of exits, or `warn_of` speaks


def check_parity(
    model: keras.Model,
    path: str | os.PathLike[str],
    images: np.ndarray,
    *,
    seconds: float | None = None,
) -> Parity:
    """Run images through a file's `explain` and through Keras, and compare.

    Of an anytime net all steps and sub-networks are compared. A net that was trained in
    another precision is computed in float32 in Keras too, as it is in the file.

    Args:
        model: The Keras model that was exported.
        path: The exported file.
        images: `[N, height, width, channels]`, 0 to 255, or other inputs of the model.
        seconds: After which no more images are begun. None: all are compared.
    """
    return plan(model).parity(LiteRTModel(path), images, seconds)


def warn_of(parity: Parity, measured_on: str) -> None:
    """Warn where labels or exits of a file are clearly not those of its model.

    Args:
        parity: On some images.
        measured_on: Which images, in words.
    """
    found = [
        f"{share:.1%} of the {name}"
        for name, share, clear in (
            ("labels", parity.argmax_agreement, parity.clear_argmax_agreement),
            ("exits", parity.exit_agreement, parity.clear_exit_agreement),
        )
        if share is not None and clear is not None and clear < AT_LEAST
    ]
    if found:
        warn(
            f"The file agrees with Keras on {' and '.join(found)} only, of "
            f"{parity.samples} {measured_on}: see `ExportReport.parity`. Give "
            "`parity_data` for a judgement on images of yours, or another "
            "`quantization`",
        )
