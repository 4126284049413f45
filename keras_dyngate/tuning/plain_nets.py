"""The nets that a search gates: one trained net, or those that a function makes.

nets = PlainNets(lambda hp: kd.mobilenet_v2(alpha=hp.Choice("alpha", [0.35, 0.5])), 10)
"""

import json
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_dyngate._checks import built_model
from keras_dyngate._warn import warn
from keras_dyngate.models.exits.cut_points import check_trunk
from keras_dyngate.training.recipe import ends_in_raw_scores
from keras_dyngate.tuning._keras_tuner import keras_tuner as kt

SCOPE = "net"  # of the hyper-parameters that a function declares
FOLDER = "nets"
RATE = 1e-3  # of Adam, for nets that are taught here


class PlainNets:
    """Nets without gates, by the hyper-parameters that they depend on.

    Args:
        net: A trained classifier, or a function of keras-tuner's `HyperParameters` that
            makes one.
        epochs: That the nets of a function are taught for; 0: they come trained.
        batch_size: Of that.

    Raises:
        ValueError: For anything else.
    """

    def __init__(
        self, net: "keras.Model | Callable[[Any], keras.Model]", epochs: int, size: int
    ) -> None:
        self.function = None
        self.epochs, self.batch_size = epochs, size
        self.folder: Path | None = None
        self._known: dict[str, keras.Model] = {}
        if isinstance(net, keras.Model):
            self.reference = net
        elif callable(net):
            self.function = net
            self.reference = self.made(kt.HyperParameters())
        else:
            raise ValueError(
                "`net` must be a built keras.Model, or a function of hyper-parameters "
                f"that makes one. Received: a {type(net).__name__}"
            )
        check_trunk(built_model("net", self.reference))

    def made(self, hp: Any) -> keras.Model:
        """The net of some hyper-parameters, as it comes; declares them."""
        if self.function is None:
            return self.reference
        with hp.name_scope(SCOPE):
            return built_model("net", self.function(hp))

    def values(self, hp: Any) -> dict[str, Any]:
        """The hyper-parameters that nets depend on."""
        return {k: v for k, v in hp.values.items() if k.startswith(f"{SCOPE}/")}

    def taught(self, hp: Any, x: np.ndarray, y: np.ndarray, seed: int) -> keras.Model:
        """The trained net of some hyper-parameters; each is taught once.

        Args:
            hp: The hyper-parameters.
            x, y: What it is taught on.
            seed: Of what is random in it.
        """
        net = self.made(hp)
        if self.function is None or not self.epochs:
            return net
        key = json.dumps(self.values(hp), sort_keys=True)
        if key in self._known:
            return self._known[key]
        path = None
        if self.folder is not None:
            path = self.folder / FOLDER / f"{zlib.crc32(key.encode()):08x}.weights.h5"
        if path is None or not _loaded(net, path):
            keras.utils.set_random_seed(seed)
            _teach(net, x, y, self.epochs, self.batch_size)
            if path is not None:
                _keep(net, path)
        self._known[key] = net
        return net

    def named(self) -> dict[str, Any]:
        """What they are, for JSON: names and a check sum of the weights."""
        if self.function is not None:
            name = getattr(self.function, "__qualname__", type(self.function).__name__)
            return {"net": name, "net_epochs": self.epochs}
        return {"net": self.reference.name, "weights": fingerprint(self.reference)}


def fingerprint(net: keras.Model) -> int:
    """A check sum of a net's weights."""
    found = 0
    for weight in net.get_weights():
        found = zlib.crc32(np.ascontiguousarray(weight).tobytes(), found)
    return found


def _teach(net: keras.Model, x: Any, y: Any, epochs: int, size: int) -> None:
    steps = epochs * -(-len(x) // size)
    rate = keras.optimizers.schedules.CosineDecay(RATE, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(
        from_logits=ends_in_raw_scores(net)
    )
    net.compile(keras.optimizers.Adam(rate), loss)
    net.fit(x, y, batch_size=size, epochs=epochs, verbose=0)


def _loaded(net: keras.Model, path: Path) -> bool:
    """Whether a net has its weights from a file of an earlier trial."""
    if not path.exists():
        return False
    try:
        net.load_weights(path)
    except Exception as error:  # of h5py and of Keras, whatever is wrong with it
        warn(f"The net of {path} is taught anew: {type(error).__name__}: {error}")
        return False
    return True


def _keep(net: keras.Model, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        net.save_weights(beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def describe_data(x: np.ndarray, y: np.ndarray) -> Mapping[str, Any]:
    """How many pictures there are, and a check sum of some."""
    some = np.ascontiguousarray(np.asarray(x)[:: max(1, len(x) // 64)])
    return {
        "pictures": len(x),
        "sum": zlib.crc32(
            np.ascontiguousarray(y).tobytes(), zlib.crc32(some.tobytes())
        ),
    }
