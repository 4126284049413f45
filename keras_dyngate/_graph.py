"""The calls that a functional model is made of, nested models opened.

    graph = flat_graph(model)
    for call in graph.calls:
        print(call.path, [x.shape for x in call.inputs])

Keras keeps its graphs in private attributes; this is the one place that reads those.
Reading leaves no trace in the model: no layer is called, no node is added.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
from keras import ops

Operation = Callable[..., Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer or an operator, at sizes that are known where the model's are.

    Attributes:
        operation: A layer, or an operator as `x + y` makes one.
        path: Its name, behind those of the nested models around it:
            "mobilenetv2/block_6_expand_relu".
        args, kwargs: What it is called with, tensors as `keras.KerasTensor`s.
        inputs: The tensors among those.
        outputs: What it gives.
        made: The tensors of the model's own graph, in the order of `outputs`.
    """

    operation: Any
    path: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: tuple[keras.KerasTensor, ...]
    outputs: tuple[keras.KerasTensor, ...]
    made: tuple[keras.KerasTensor, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class FlatGraph:
    """All calls of a model in the order of execution.

    Attributes:
        inputs, outputs: Of the model.
        calls: Of all layers and operators; nested functional models are opened.
        nested: By path, the last tensors of each nested model that was opened, a list
            for every call of it.
        models: By path, those nested models.
        known_as: What each tensor of the model's own graph, or of a nested model's, is
            here, by its id: one for every time it is computed.
    """

    inputs: tuple[keras.KerasTensor, ...]
    calls: tuple[Call, ...]
    outputs: tuple[keras.KerasTensor, ...]
    nested: Mapping[str, list[tuple[keras.KerasTensor, ...]]]
    models: Mapping[str, Any]
    known_as: Mapping[int, list[keras.KerasTensor]]

    @property
    def whole(self) -> "Stretch":
        """All calls, from the inputs to the first output."""
        return Stretch(self.inputs, self.calls, self.outputs[0])


def graph_of(model: Any) -> Any | None:
    """The functional graph of a model, or None where there is none.

    Args:
        model: Functional, `keras.Sequential` (it holds its graph) or subclassed.

    Returns:
        What has `inputs` and `outputs`, or None: a subclassed model, one with a `call`
        of its own, or a Sequential that is not built.
    """
    if not type(model).call.__module__.startswith("keras."):
        return None
    graph = getattr(model, "_functional", None) or model
    return graph if hasattr(graph, "_nodes_by_depth") else None


def _nodes(graph: Any) -> Iterable[Any]:
    by_depth = graph._nodes_by_depth
    for depth in sorted(by_depth, reverse=True):
        yield from (node for node in by_depth[depth] if not node.is_input)


def _is_tensor(x: Any) -> bool:
    return isinstance(x, keras.KerasTensor)


def _like(x: keras.KerasTensor, shape: Any = None) -> keras.KerasTensor:
    return keras.KerasTensor(shape=shape or x.shape, dtype=x.dtype, name=x.name)


class _Cast(keras.Operation):
    """What a nested model does to inputs of another kind: numbers of its own."""

    def __init__(self, dtype: str) -> None:
        super().__init__(name="cast")
        self.dtype = dtype

    def call(self, x: Any) -> Any:
        return keras.ops.cast(x, self.dtype)

    def compute_output_spec(self, x: Any) -> Any:
        return keras.KerasTensor(shape=x.shape, dtype=self.dtype)


class _Flattening:
    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.nested: dict[str, list[tuple[keras.KerasTensor, ...]]] = {}
        self.models: dict[str, Any] = {}
        self.known_as: dict[int, list[keras.KerasTensor]] = {}

    def open(
        self, graph: Any, feeds: Sequence[Any], prefix: str, training: Any
    ) -> tuple[Any, ...]:
        """Append a graph's calls; its outputs for these inputs."""
        table = {id(x): feed for x, feed in zip(graph.inputs, feeds, strict=True)}

        def known(x: Any) -> Any:
            return table.get(id(x), x) if _is_tensor(x) else x

        for node in _nodes(graph):
            arguments = (node.arguments.args, node.arguments.kwargs)
            args, kwargs = keras.tree.map_structure(known, arguments)
            path = prefix + node.operation.name
            inner = graph_of(node.operation) if _is_model(node.operation) else None
            if inner is None:
                outputs = self.add(node, path, args, kwargs, training)
            else:
                outputs = self.open(
                    inner,
                    self.fitting(inner, keras.tree.flatten(args[0]), path),
                    f"{path}/",
                    _held(node.operation, kwargs, training).get("training"),
                )
                self.nested.setdefault(path, []).append(outputs)
                self.models[path] = node.operation
            table |= {id(x): y for x, y in zip(node.outputs, outputs, strict=True)}
        for key, tensor in table.items():
            self.known_as.setdefault(key, []).append(tensor)
        return tuple(table[id(x)] for x in graph.outputs)

    def fitting(self, graph: Any, feeds: list[Any], path: str) -> list[Any]:
        """Inputs of a nested model as numbers of its kind."""
        found = []
        for x, feed in zip(graph.inputs, feeds, strict=True):
            is_float = keras.backend.is_float_dtype(feed.dtype)
            if keras.backend.is_float_dtype(x.dtype) and not is_float:
                cast = _Cast(x.dtype)
                given, feed = feed, cast.compute_output_spec(feed)
                made = (given,), (feed,), (x,)
                self.calls.append(Call(cast, f"{path}/cast", (given,), {}, *made))
            found.append(feed)
        return found

    def add(
        self, node: Any, path: str, args: Any, kwargs: Any, training: Any
    ) -> tuple[Any, ...]:
        """Append one call; its outputs."""
        operation = node.operation
        kwargs = _held(operation, kwargs, training)
        inputs = tuple(x for x in keras.tree.flatten((args, kwargs)) if _is_tensor(x))
        sizes = [(tuple(x.shape[1:]), x.dtype) for x in inputs]
        if sizes == [(tuple(x.shape[1:]), x.dtype) for x in node.input_tensors]:
            outputs = tuple(_like(x) for x in node.outputs)
        else:
            spec = operation.compute_output_spec(*args, **kwargs)
            outputs = tuple(_like(x) for x in keras.tree.flatten(spec))
        made = tuple(node.outputs)
        self.calls.append(Call(operation, path, args, kwargs, inputs, outputs, made))
        return outputs


def _held(operation: Any, kwargs: dict[str, Any], training: Any) -> dict[str, Any]:
    """Arguments of a call: held in inference by itself or by a model around it, or not.

    `base(x, training=False)` holds all of a base, whatever the model around it does. Keras
    notes a layer's default among the arguments: that of Dropout, False, holds nothing.
    """
    known = inspect.signature(operation.call).parameters.get("training")
    if known is None:
        return kwargs
    held = kwargs.get("training") is False and known.default is not False
    rest = {name: value for name, value in kwargs.items() if name != "training"}
    return {**rest, "training": False} if held or training is False else rest


def _is_model(operation: Any) -> bool:
    return isinstance(operation, keras.Model)


def flat_graph(
    model: Any, input_shapes: Sequence[tuple[int | None, ...]] | None = None
) -> FlatGraph | None:
    """The calls of a functional or Sequential model, its nested models opened.

    A nested model of open size is known at the size that it is called with. One that is
    called with `training=False` stays in inference, also while the model around it is
    trained.

    Args:
        model: A Keras model, or a `Part` of one.
        input_shapes: Sizes to take instead of the model's own, batch first, one for
            each input.

    Returns:
        None for a model without a graph; see `graph_of`.
    """
    if isinstance(model, Part):
        stretch = model.stretch
        outputs: tuple[Any, ...] = (stretch.output,)
        return FlatGraph(stretch.inputs, stretch.calls, outputs, {}, {}, {})
    graph = graph_of(model)
    if graph is None:
        return None
    shapes: Sequence[Any] = input_shapes or [None] * len(graph.inputs)
    inputs = [_like(x, shape) for x, shape in zip(graph.inputs, shapes, strict=True)]
    flat = _Flattening()
    outputs = flat.open(graph, inputs, "", None)
    made = flat.nested, flat.models, flat.known_as
    return FlatGraph(tuple(inputs), tuple(flat.calls), outputs, *made)


def run_calls(
    calls: Iterable[Call],
    table: dict[int, Any],
    operation: Callable[[Call], Operation] | None = None,
) -> None:
    """Compute calls one after the other.

    Args:
        calls: In the order of execution.
        table: What is known, by the id of its `KerasTensor`; results are added.
        operation: What to run in place of a call's own operation.
    """

    def known(x: Any) -> Any:
        return table[id(x)] if _is_tensor(x) else x

    for call in calls:
        run = call.operation if operation is None else operation(call)
        args, kwargs = keras.tree.map_structure(known, (call.args, call.kwargs))
        found = keras.tree.flatten(run(*args, **kwargs))
        table |= {id(x): y for x, y in zip(call.outputs, found, strict=True)}


def on_tensor(graph: FlatGraph, x: keras.KerasTensor) -> FlatGraph:
    """The calls of a graph of one input as calls on a tensor of another graph."""
    (entry,) = graph.inputs

    def known(y: Any) -> Any:
        return x if y is entry else y

    def call_on(call: Call) -> Call:
        args, kwargs = keras.tree.map_structure(known, (call.args, call.kwargs))
        inputs = tuple(map(known, call.inputs))
        return dataclasses.replace(call, args=args, kwargs=kwargs, inputs=inputs)

    return dataclasses.replace(
        graph,
        inputs=(x,),
        calls=tuple(map(call_on, graph.calls)),
        outputs=tuple(map(known, graph.outputs)),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Stretch:
    """Calls from some tensors of a flat graph to one other."""

    inputs: tuple[keras.KerasTensor, ...]
    calls: tuple[Call, ...]
    output: keras.KerasTensor


def joined(
    stretches: Sequence[Stretch],
    operation: Callable[[Call], Operation] | None = None,
    name: str | None = None,
) -> keras.Model:
    """A functional model of stretches one after another; the layers are shared.

    Args:
        stretches: Each takes what the one before gives.
        operation: What to run in place of a call's own operation.
        name: Of the model.
    """
    start = stretches[0].inputs[0]
    image = x = keras.Input(batch_shape=start.shape, dtype=start.dtype)
    for stretch in stretches:
        table = {id(stretch.inputs[0]): x}
        run_calls(stretch.calls, table, operation)
        x = table[id(stretch.output)]
    return keras.Model(image, x, name=name)


def _not_bytes(x: Any, dtype: str) -> Any:
    """Whole numbers as the floats that an input takes, as in any functional model."""
    given = keras.backend.standardize_dtype(x.dtype)
    floats = keras.backend.is_float_dtype(dtype)
    return (
        x if not floats or keras.backend.is_float_dtype(given) else ops.cast(x, dtype)
    )


class Part(keras.Model):
    """A stretch of a flat graph as a model of its own, which shares the layers.

    Args:
        stretch: What to compute.
        operation: What to run in place of a call's own operation.
    """

    def __init__(
        self,
        stretch: Stretch,
        operation: Callable[[Call], Operation] | None = None,
        **kwargs: Any,
    ) -> None:
        # Floats are not cast on the way in: the layers do so, each by its own policy.
        super().__init__(autocast=False, **kwargs)
        self.stretch, self.operation = stretch, operation
        operations = [call.operation for call in stretch.calls]
        self.held = list(
            {id(x): x for x in operations if isinstance(x, keras.Layer)}.values()
        )
        self.built = True

    @property
    def input_shape(self) -> Any:
        return tuple(self.stretch.inputs[0].shape)

    @property
    def output_shape(self) -> Any:
        return tuple(self.stretch.output.shape)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self.output_shape

    def call(self, x: Any, training: bool | None = None) -> Any:
        feeds, inputs = keras.tree.flatten(x), self.stretch.inputs
        if self.stretch.calls:  # else they are handed on as they are
            pairs = zip(feeds, inputs, strict=True)
            feeds = [_not_bytes(given, symbol.dtype) for given, symbol in pairs]
        table = {id(t): y for t, y in zip(inputs, feeds, strict=True)}
        run_calls(self.stretch.calls, table, self.operation)
        return table[id(self.stretch.output)]
