"""How a net becomes a file: `plan(model, options)`, by the kind of net.

    found = plan(model, kd.GateOptions(group_size=8))       # checked, nothing is traced yet
    traced = found.trace(input_type="float32", int8=False)  # functions, signatures, costs
    found.parity(LiteRTModel("net.tflite"), images)         # the file beside Keras

A module of this room registers each kind: classifiers and segmentation nets, nets with
early exits, anytime nets. Nothing outside of it asks for kinds.
"""

import abc
import functools
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar

import keras
import numpy as np

from keras_dyngate._graph import FlatGraph
from keras_dyngate.cost import CostTable
from keras_dyngate.export.agreement import Ask, Parity, witnessed_parity
from keras_dyngate.export.arguments import check_backend
from keras_dyngate.export.plan.traced import Traced
from keras_dyngate.flatfile.flatbuffer import schema
from keras_dyngate.runtime import LiteRTModel

Options = TypeVar("Options")


class Plan(abc.ABC, Generic[Options]):
    """How one net becomes a file. Made by `plan`.

    Attributes:
        model: The net.
        graphs: The calls that are exported: its own first, then those of parts apart.
        options: Of the type `takes`.
    """

    takes: ClassVar[Any]

    def __init__(
        self, model: keras.Model, graphs: Sequence[FlatGraph], options: Any
    ) -> None:
        if options is not None and type(options) is not self.takes:
            raise ValueError(
                f"`options` must be `kd.{self.takes.__name__}(...)` for this net. "
                f"Received: options={options!r} for {model.name!r}, a "
                f"{type(model).__name__}"
            )
        self.model, self.graphs = model, tuple(graphs)
        self.options: Options = self.takes() if options is None else options

    @property
    def graph(self) -> FlatGraph:
        """The net's own calls."""
        return self.graphs[0]

    @abc.abstractmethod
    def trace(
        self, *, input_type: str, int8: bool, images: np.ndarray | None = None
    ) -> Traced:
        """Trace all signatures at batch 1.

        Args:
            input_type: "float32" or "uint8".
            int8: Whether the file is to be fully quantized. Signatures with blocks then
                have the int32 input `force`, `[blocks]`, where 1 opens a block wholly.
            images: Of a file with 8-bit kernels: to keep the means of features on.
        """

    def witness(self) -> Ask:
        """To be called with a batch of images, for what Keras says of them."""
        raise NotImplementedError

    def parity(
        self, litert: LiteRTModel, images: np.ndarray, seconds: float | None = None
    ) -> Parity:
        """A file that has all its signatures beside Keras, on images.

        Args:
            litert: The file.
            images: `[N, ...]`, as the net takes them.
            seconds: After which no more images are begun. None: all are compared.
        """
        return witnessed_parity(self.witness(), litert, images, seconds)

    def measure(
        self,
        litert: LiteRTModel,
        file: schema.ModelT,
        profile: CostTable,
        image: np.ndarray,
    ) -> dict[str, Any]:
        """Fields of `ExportReport` that only this kind of net has.

        Args:
            litert: The file, as it was written.
            file: Its content.
            profile: MACs of the net.
            image: Of the file's shape and type.
        """
        return {}


@functools.singledispatch
def plan(model: Any, options: Any = None) -> Plan:
    """How a net becomes a file; checked at once, before any work.

    Args:
        model: A `keras.Model` that `export_tflite` takes.
        options: See `export_tflite`.

    Raises:
        RuntimeError: On another backend than TensorFlow.
        ValueError: If the model cannot be exported, or the options are for other nets.
    """
    check_backend()
    raise ValueError(
        f"`model` must be a built keras.Model. Received: {type(model).__name__}"
    )
