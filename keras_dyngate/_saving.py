"""What layers that hold layers, and models, keep to when they are saved."""

import copy
import os
from typing import Any, cast

import keras


class KeepsFrozen:
    """Mixin for layers that hold layers: which of those are frozen is saved.

    Keras saves the flag of the layer alone. Those inside are told by their places, in
    the order in which they are made: names may be other ones after loading. A class
    calls `freeze_again` at the end of its `build`, for what is made there.
    """

    _frozen: Any = None

    def _parts(self) -> list[Any]:
        layer = cast(Any, self)
        parts = layer._flatten_layers(include_self=False, recursive=False)
        return [part for part in parts if isinstance(part, keras.Layer)]

    def get_config(self) -> dict[str, Any]:
        config = cast(Any, super()).get_config()
        parts = enumerate(self._parts())
        frozen = [index for index, part in parts if not part.trainable]
        return {**config, "frozen": frozen} if frozen else config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        config = dict(config)
        frozen = config.pop("frozen", None)
        layer = cast(Any, super()).from_config(config)
        layer._frozen = None if frozen is None else tuple(frozen)
        layer.freeze_again()
        return layer

    def freeze_again(self) -> None:
        """Pass on what is frozen, by the constructor or a config, to the layers held."""
        layer = cast(Any, self)
        for index, part in enumerate(self._parts()):
            if layer._frozen is not None:
                trainable = index not in layer._frozen
            else:
                trainable = part.trainable and layer.trainable
            if part.trainable != trainable:  # else what is frozen inside it would thaw
                part.trainable = trainable


def revived(value: Any) -> Any:
    """A layer or model, made from its config where that is what a class was given.

    The config stays as it is: Keras takes a model's apart.
    """
    if not isinstance(value, dict):
        return value
    return keras.saving.deserialize_keras_object(copy.deepcopy(value))


def refuse_legacy_file(filepath: str | os.PathLike[str]) -> None:
    """A `ValueError` for `model.save("x.h5")`, which could not be loaded again."""
    if str(filepath).endswith((".h5", ".hdf5")):
        raise ValueError(
            "`filepath` must end in .keras: the legacy HDF5 format cannot hold this "
            "model (weights alone can be saved, `save_weights('x.weights.h5')`). "
            f"Received: filepath={str(filepath)!r}"
        )
