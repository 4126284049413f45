"""Parts of a graph that one tensor enters and one tensor leaves."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Sequence

import keras
import numpy as np

from keras_dyngate._graph import Call, FlatGraph
from keras_dyngate.layers.links import treats_alone

POOLS = (keras.layers.GlobalAveragePooling2D,)


@dataclasses.dataclass(frozen=True, eq=False)
class Link:
    """One link of a chain: some calls of the graph.

    Attributes:
        calls: In order.
        kind: "layer", a single one; "stretch", operators and layers that treat every
            channel on its own; "weigh", a squeeze-and-excite.
        inside: Of a squeeze-and-excite, the calls from the means to the factors.
    """

    calls: tuple[Call, ...]
    kind: str = "layer"
    inside: tuple[Call, ...] = ()

    @property
    def output(self) -> keras.KerasTensor:
        return self.calls[-1].outputs[0]


class Readers:
    """Who reads and makes each tensor of a flat graph.

    Attributes:
        place: Of each call in the order of execution, by id.
        maker: The call that a tensor comes from, by the tensor's id.
        times: How often a layer is called, by its id.
        outputs: Ids of the tensors that the graph puts out.
    """

    def __init__(self, graph: FlatGraph) -> None:
        self.place = {id(call): n for n, call in enumerate(graph.calls)}
        self.maker = {id(x): call for call in graph.calls for x in call.outputs}
        self.times: dict[int, int] = defaultdict(int)
        self._of: dict[int, list[Call]] = defaultdict(list)
        for call in graph.calls:
            self.times[id(call.operation)] += 1
            for x in {id(x): x for x in call.inputs}.values():
                self._of[id(x)].append(call)
        self.outputs = {id(x) for x in graph.outputs}

    def of(self, x: keras.KerasTensor) -> list[Call]:
        """The calls that read a tensor, each once."""
        return self._of[id(x)]

    def only(self, x: keras.KerasTensor) -> Call | None:
        """The one call that reads a tensor, if nobody else does."""
        found = self.of(x)
        return found[0] if len(found) == 1 and id(x) not in self.outputs else None

    def shared(self, call: Call) -> bool:
        """Whether a call's layer is called elsewhere too."""
        is_layer = isinstance(call.operation, keras.layers.Layer)
        return is_layer and self.times[id(call.operation)] > 1

    def until_one(self, x: keras.KerasTensor) -> list[Call] | None:
        """The fewest calls after which all that comes of `x` is in one tensor again.

        Only calls that treat every channel on its own. None if there is no such place.
        """
        region: list[Call] = []
        inside = {id(x)}
        waiting = {id(call): call for call in self.of(x)}
        while waiting:
            if any(id(t) in self.outputs for c in region for t in c.outputs):
                return None
            call = waiting.pop(min(waiting, key=self.place.__getitem__))
            alone = treats_alone(call.operation) and not self.shared(call)
            if not alone or any(id(t) not in inside for t in call.inputs):
                return None
            if len(call.outputs) != 1 or not _plain_numbers(call):
                return None
            region.append(call)
            inside.add(id(call.outputs[0]))
            waiting |= {id(c): c for c in self.of(call.outputs[0])}
            # What is still to be read, by calls that are not in it yet.
            left = waiting.values()
            open_ = {id(t) for c in left for t in c.inputs if id(t) in inside}
            if open_ <= {id(call.outputs[0])}:
                return region
        return None

    def excited(self, x: keras.KerasTensor) -> Link | None:
        """The squeeze-and-excite that starts at a tensor, if one does."""
        pools = [c for c in self.of(x) if isinstance(c.operation, POOLS)]
        products = [c for c in self.of(x) if type(c.operation).__name__ == "Multiply"]
        if len(pools) != 1 or len(products) != 1 or len(self.of(x)) != 2:
            return None
        (pool,), (product,) = pools, products
        others = [t for t in product.inputs if t is not x]
        if len(others) != 1 or id(x) in self.outputs:
            return None
        inside, tensor = [], pool.outputs[0]
        while tensor is not others[0]:
            call = self.only(tensor)
            if call is None or len(call.inputs) != 1 or self.shared(call):
                return None
            inside.append(call)
            tensor = call.outputs[0]
        return (
            Link((pool, *inside, product), "weigh", tuple(inside)) if inside else None
        )

    def links_from(self, x: keras.KerasTensor) -> Iterator[Link]:
        """What treats channels alone, one after another, from a tensor on."""
        while id(x) not in self.outputs:
            call = self.only(x)
            if call is not None and self._is_alone(call):
                link = Link((call,))
            elif call is None and (found := self.excited(x)) is not None:
                link = found
            elif region := self.until_one(x):
                link = Link(tuple(region), "stretch")
            else:
                return
            yield link
            x = link.output

    def _is_alone(self, call: Call) -> bool:
        """Whether a call is of a layer, of one tensor, that treats channels alone."""
        operation = call.operation
        is_layer = isinstance(operation, keras.layers.Layer)
        alone = is_layer and len(call.inputs) == 1 and treats_alone(operation)
        return alone and not self.shared(call)


def _plain_numbers(call: Call) -> bool:
    """Whether what a call takes beside tensors are single numbers and settings."""
    if isinstance(call.operation, keras.layers.Layer):
        return True
    others = keras.tree.flatten((call.args, call.kwargs))
    return all(
        isinstance(x, keras.KerasTensor) or np.size(x) <= 1
        for x in others
        if x is not None and not isinstance(x, (str, bool))
    )


def between(
    readers: Readers, start: keras.KerasTensor, end: keras.KerasTensor
) -> Sequence[Call] | None:
    """The calls from one tensor to another, if nothing else comes in or goes out.

    `start` may be read elsewhere too; what lies between, and `end`, only by one call.
    """
    found: dict[int, Call] = {}
    stack = [end]
    while stack:
        x = stack.pop()
        if x is start:
            continue
        call = readers.maker.get(id(x))
        if call is None:
            return None  # another input
        if id(call) not in found:
            found[id(call)] = call
            stack += call.inputs
    calls = sorted(found.values(), key=lambda call: readers.place[id(call)])
    inside = {id(call) for call in calls}
    for call in calls:
        for x in call.outputs:
            if id(x) in readers.outputs:
                return None
            if x is not end and any(id(c) not in inside for c in readers.of(x)):
                return None
    return calls
