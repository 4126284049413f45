"""Steps and sub-networks of an anytime net's file beside those of the net."""

from typing import Any

import keras
import numpy as np

from keras_dyngate.export.agreement import Parity, agreement, batches
from keras_dyngate.runtime import LiteRTModel


def network_parity(
    network: Any,
    litert: LiteRTModel,
    images: np.ndarray,
    seconds: float | None = None,
) -> Parity:
    """Steps and sub-networks of a file beside those of a network, `AnytimeModel.network`.

    The arguments are those of `Plan.parity`.
    """
    named = {
        name: k
        for kind in ("step", "subnetwork")
        for k, name in litert.table.numbered(kind).items()
    }
    theirs: dict[str, list[np.ndarray]] = {name: [] for name in named}
    ours: dict[str, list[np.ndarray]] = {name: [] for name in named}
    samples = 0
    for batch in batches(images, seconds):
        samples += len(batch)
        x = keras.ops.convert_to_tensor(batch.astype("float32"))
        answers = {
            k: keras.ops.convert_to_numpy(network.at(k, x)) for k in set(named.values())
        }
        for index, image in enumerate(batch):
            kept: dict[str, Any] = {"image": image}
            for name, k in named.items():
                wanted = litert.signatures[name].inputs
                outputs = litert.run(name, **{key: kept[key] for key in wanted})
                theirs[name].append(outputs.pop("logits")[0])
                ours[name].append(answers[k][index])
                kept |= outputs
    every = np.ones(samples, bool)
    found = [agreement(np.stack(theirs[n]), np.stack(ours[n]), every) for n in named]
    columns = {name: [row[name] for row in found] for name in found[0]}
    difference = max(columns.pop("max_difference"))
    means = {name: float(np.mean(values)) for name, values in columns.items()}
    return Parity(samples, difference, **means)
