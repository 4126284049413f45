"""A functional net made anew with the roundings of an int8 file in it.

Kernels round their weights; what a file's operators put out is rounded to a range, once
for all that the file fuses: a kernel, its batch normalization, its ReLU.
"""

from collections.abc import Collection
from typing import Any

import keras

from keras_dyngate._graph import Call, FlatGraph, flat_graph, run_calls
from keras_dyngate._logits import squashing_call
from keras_dyngate.layers.dynamic_layer import DynamicLayer
from keras_dyngate.models.gating.rebuilding import Copies
from keras_dyngate.models.gating.regions import Readers
from keras_dyngate.quantization.fake_quantize import FakeQuantize, tie
from keras_dyngate.quantization.kinds import (
    SAME,
    TAKE_RELU,
    ends_in_relu,
    fixed_range,
    is_kernel,
    is_relu,
    kind_name,
    why_not,
)
from keras_dyngate.quantization.quantized_layer import FloatLayer, quantized_form

_layers = keras.layers


def rounded_inside(
    model: keras.Model, copies: Copies, keep_float: Collection[str], name: str
) -> keras.Model:
    """A net inside another, rounded, which is given what is rounded already.

    Args:
        model: Functional, of one input and one output.
        copies, keep_float: See `Rewriting`.
        name: Of the new net.
    """
    graph = flat_graph(model)
    assert graph is not None
    x = keras.Input(batch_shape=graph.inputs[0].shape, dtype=graph.inputs[0].dtype)
    rewriting = Rewriting(graph, copies, keep_float)
    rewriting.grid.add(id(graph.inputs[0]))
    rewriting.squashing = None  # nothing ends here
    return keras.Model(x, rewriting.run([x])[0], name=name)


class Rewriting:
    """One graph being made anew.

    Args:
        graph: Of the net.
        copies: Makes the copies.
        keep_float: Names of layers that stay in float, by themselves or by their path.
        stops: Paths of calls whose outputs are rounded themselves: others read them too.
    """

    def __init__(
        self,
        graph: FlatGraph,
        copies: Copies,
        keep_float: Collection[str],
        stops: Collection[str] = (),
    ) -> None:
        self.graph, self.copies = graph, copies
        self.readers = Readers(graph)
        self.keep_float, self.stops = set(keep_float), set(stops)
        self.ends: dict[str, str] = {}  # by path, the layer that its output comes from
        self.named: set[str] = set()
        self.squashing = squashing_call(graph)
        self.table: dict[int, Any] = {}
        self.raw: set[int] = set()  # from the input alone, before any kernel
        self.grid: set[int] = set()  # rounded already
        self._kernels: dict[int, Any] = {}
        self._names: dict[int, str] = {}  # of the roundings, by the tensor
        self._steps: dict[int, FakeQuantize] = {}  # the last one that it went through

    def run(self, inputs: list[Any]) -> list[Any]:
        """The outputs of the new net for its inputs."""
        self.table |= {id(x): y for x, y in zip(self.graph.inputs, inputs, strict=True)}
        self.raw |= {id(x) for x in self.graph.inputs}
        refused = [
            f"{call.operation.name!r}, {why}"
            for call in self.graph.calls
            if not isinstance(call.operation, DynamicLayer)
            and not self.in_float(call)
            and (why := why_not(call.operation))
        ]
        if refused:
            raise ValueError(
                "`model` must hold layers that can be quantized, or others must be named "
                f"in `keep_float`. Received: {'; '.join(dict.fromkeys(refused))}"
            )
        for call in self.graph.calls:
            self.add(call)
            if call.path in self.stops:
                self.ends[call.path] = self.named_end(call)
        unknown = self.keep_float - self.named
        if unknown:
            raise ValueError(
                "`keep_float` must hold names of the model's layers. "
                f"Received: {sorted(unknown)}"
            )
        return [self.table[id(x)] for x in self.graph.outputs]

    def in_float(self, call: Call) -> bool:
        """Whether a call is to stay in float."""
        names = {call.operation.name, call.path} & self.keep_float
        self.named |= names
        return bool(names)

    def add(self, call: Call) -> None:
        """Append what becomes of a call."""
        operation = call.operation
        if self.in_float(call):
            run_calls([call], self.table, self.kept)
            return
        if isinstance(operation, DynamicLayer):
            self.rounded(call)
            run_calls([call], self.table, self.copies.of)
            self.grid |= {id(x) for x in call.outputs}
            self.tied(call)
        elif is_kernel(operation):
            self.rounded(call)
            self.kernel(call)
        elif all(id(x) in self.raw for x in call.inputs):
            run_calls([call], self.table, self.copies.of)
            self.raw |= {id(x) for x in call.outputs}
        else:
            self.other(call)

    def kernel(self, call: Call) -> None:
        """A convolution or dense layer, what it does at its end apart if it must be."""
        layer, (output,) = call.operation, call.outputs
        fused = ends_in_relu(layer)
        run_calls([call], self.table, self.quantized)
        if not fused:
            self.round(output, call.path)
            name = self.copies.name(f"{layer.name}_activation")
            after = _layers.Activation(layer.activation, name=name)
            self.table[id(output)] = after(self.table[id(output)])
            self.grid.discard(id(output))
            if call is not self.squashing:
                self.round(output, name, fixed_range(after))
        elif layer.activation is not keras.activations.linear or not self.waits(call):
            self.round(output, call.path)

    def quantized(self, call: Call) -> Any:
        """The quantized form of a kernel, made once."""
        layer = call.operation
        if id(layer) not in self._kernels:
            if ends_in_relu(layer):
                copy = self.copies.of(call)
            else:
                copy = self.copies.linear(layer)
            name = self.copies.name(f"quantized_{copy.name}")
            self._kernels[id(layer)] = quantized_form(copy, name)
        return self._kernels[id(layer)]

    def kept(self, call: Call) -> Any:
        """What stays in float: a layer's form, or an operator."""
        key = id(call.operation)
        self.copies.in_float.add(key)
        copy = self.copies.of(call)
        if not is_kernel(call.operation):
            return copy
        if key not in self._kernels:
            name = self.copies.name(f"float_{copy.name}")
            self._kernels[key] = FloatLayer(copy, name=name)
        return self._kernels[key]

    def other(self, call: Call) -> None:
        """What has no kernel: it keeps a range, fuses, or has a range of its own."""
        operation = call.operation
        name = kind_name(operation)
        if name in SAME:
            run_calls([call], self.table, self.copies.of)
            if all(id(x) in self.grid for x in call.inputs):
                self.grid |= {id(x) for x in call.outputs}
            before = self._steps.get(id(call.inputs[0]))
            if before is not None and len(call.inputs) == 1:
                self._steps |= {id(x): before for x in call.outputs}
            return
        ends = isinstance(operation, _layers.BatchNormalization) or is_relu(operation)
        if not ends or not self.hangs(call):
            self.rounded(call)
        run_calls([call], self.table, self.copies.of)
        if call is self.squashing or self.waits(call):
            return
        for output in call.outputs:
            self.round(output, call.path, fixed_range(operation))

    def hangs(self, call: Call) -> bool:
        """Whether what a call reads waits for it to be rounded."""
        maker = self.readers.maker.get(id(call.inputs[0]))
        return maker is not None and self.waits(maker)

    def waits(self, call: Call) -> bool:
        """Whether what a call puts out is rounded behind what follows: a file fuses it."""
        operation = call.operation
        if len(call.outputs) != 1 or self.in_float(call) or call.path in self.stops:
            return False
        reader = self.readers.only(call.outputs[0])
        if reader is None or self.in_float(reader):
            return False
        kernel = is_kernel(operation)
        if kernel and operation.activation is not keras.activations.linear:
            return False
        normed = isinstance(operation, _layers.BatchNormalization)
        if kernel and isinstance(reader.operation, _layers.BatchNormalization):
            return True
        takes = kernel or normed or kind_name(operation) in TAKE_RELU
        return takes and is_relu(reader.operation)

    def tied(self, call: Call) -> None:
        """Where a residual may hand on what it is given, both have one range in a file."""
        dress = getattr(self.copies.of(call), "dress", None)
        total = getattr(dress, "total", None)
        if total is None:
            return
        before = self._steps.get(id(call.inputs[0]))
        if before is not None and before.fixed is None:
            tie(before, total)
        self._steps[id(call.outputs[0])] = total

    def named_end(self, call: Call) -> str:
        """The name of the layer whose output stands for a call's."""
        known = self._names.get(id(call.outputs[0]))
        return str(self.copies.of(call).name) if known is None else known

    def rounded(self, call: Call) -> None:
        """Let what a call reads be rounded."""
        for x in call.inputs:
            if id(x) not in self.grid and keras.backend.is_float_dtype(x.dtype):
                maker = self.readers.maker.get(id(x))
                self.round(x, maker.path if maker else x.name)

    def round(
        self, x: keras.KerasTensor, path: str, fixed: tuple[float, float] | None = None
    ) -> None:
        """Round a tensor, for all that read it."""
        name = self.copies.name(f"{path.replace('/', '_')}_range")
        steps = FakeQuantize(fixed, of_input=id(x) in self.raw, name=name)
        self.table[id(x)] = steps(self.table[id(x)])
        self._steps[id(x)] = steps
        self.grid.add(id(x))
        self._names[id(x)] = name
