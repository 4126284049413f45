"""What of a net can be gated: chains of layers, and branches beside an identity.

for place in kd.gateable(model):
    print(place)
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import keras

from keras_dyngate._checks import built_model
from keras_dyngate._graph import Call, FlatGraph, flat_graph
from keras_dyngate.cost.counter import each_macs
from keras_dyngate.layers import DynamicLayer, GatedResidual
from keras_dyngate.layers.links import mixes, width_of
from keras_dyngate.models.anytime.model import AnytimeModel
from keras_dyngate.models.gating.regions import Link, Readers, between


@dataclasses.dataclass(frozen=True)
class GateablePlace:
    """One place that gates can go to, or could not.

    Attributes:
        kind: "channel", a chain whose inner channels can be gated, or "layer", a branch
            that can be skipped.
        name: Path of its first kernel, or of the sum that ends a branch.
        layers: Paths of all layers in it.
        channels: Of a chain, how many there are between its kernels; of a branch, those
            it puts out.
        share: Of the net's MACs, 0 to 1.
        reason: Why it cannot be gated; None: it can.

    Example:
        ```python
        net = keras.applications.MobileNet((32, 32, 3), 0.25, weights=None)
        place, *_ = kd.gateable(net)
        print(place.kind, place.name, place.channels, place.share)
        ```
    """

    kind: str
    name: str
    layers: tuple[str, ...]
    channels: int
    share: float
    reason: str | None = None

    def __str__(self) -> str:
        what = f"{self.name}: {self.kind}, {self.channels} channels, {self.share:.1%}"
        return what if self.reason is None else f"{what}; no: {self.reason}"


@dataclasses.dataclass(frozen=True, eq=False)
class Chain:
    """Kernels that mix, and what lies between and right after them.

    Attributes:
        kernels: Two calls or more.
        links: Between each pair of them, and after the last.
    """

    kernels: tuple[Call, ...]
    links: tuple[tuple[Link, ...], ...]

    @property
    def calls(self) -> tuple[Call, ...]:
        found: list[Call] = []
        for kernel, links in zip(self.kernels, self.links, strict=True):
            found += [kernel, *(call for link in links for call in link.calls)]
        return tuple(found)

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(width_of(kernel.operation) for kernel in self.kernels[:-1])


@dataclasses.dataclass(frozen=True, eq=False)
class Branch:
    """A sum of a tensor and of what a branch makes of it.

    Attributes:
        start: The tensor.
        calls: The branch.
        end: What it gives.
        total: The sum.
    """

    start: keras.KerasTensor
    calls: tuple[Call, ...]
    end: keras.KerasTensor
    total: Call


def is_kernel(call: Call, readers: Readers) -> bool:
    """Whether a call is of a kernel that mixes, called once."""
    return len(call.inputs) == 1 and mixes(call.operation) and not readers.shared(call)


def pairs_of(scene: "Scene") -> list[Chain]:
    """Every two kernels with nothing between them but what treats channels alone.

    Those of a squeeze-and-excite between two others are left out.
    """
    found = list(_all_pairs(scene.graph, scene.readers))
    inside = {
        id(call)
        for chain in found
        for links in chain.links
        for link in links
        for call in link.inside
    }
    return [chain for chain in found if id(chain.kernels[0]) not in inside]


def _all_pairs(graph: FlatGraph, readers: Readers) -> Iterator[Chain]:
    for call in graph.calls:
        if not is_kernel(call, readers):
            continue
        links = tuple(readers.links_from(call.outputs[0]))
        x = links[-1].output if links else call.outputs[0]
        end = readers.only(x)
        if end is None or not is_kernel(end, readers):
            continue
        tail = _normalized(readers, end)
        yield Chain((call, end), (links, tail))


def _normalized(readers: Readers, call: Call) -> tuple[Link, ...]:
    """A normalization right behind a kernel, which is folded into it."""
    after = readers.only(call.outputs[0])
    kind = keras.layers.BatchNormalization
    linear = getattr(call.operation, "activation", None) is keras.activations.linear
    if after is None or not isinstance(after.operation, kind) or not linear:
        return ()
    return () if readers.shared(after) else (Link((after,)),)


def chains_of(scene: "Scene") -> list[Chain]:
    """Chains of two kernels without a kernel in common, the costliest first."""

    def cost(chain: Chain) -> float:
        return scene.share(chain.calls, 1)

    used: set[int] = set()
    found = []
    for chain in sorted(pairs_of(scene), key=cost, reverse=True):
        ends = {id(call) for call in chain.kernels}
        if not ends & used:
            used |= ends
            found.append(chain)
    order = scene.readers.place
    return sorted(found, key=lambda chain: order[id(chain.kernels[0])])


def runs_of(pairs: Iterable[Chain], most: int | None = None) -> list[Chain]:
    """Pairs that share a kernel as one chain, of so many kernels at most."""
    found: list[Chain] = []
    for pair in pairs:
        last = found[-1] if found else None
        if last is not None and pair.kernels[0] is last.kernels[-1]:
            if most is not None and len(last.kernels) >= most:
                continue  # its first kernel is taken
            kernels = (*last.kernels, pair.kernels[1])
            found[-1] = Chain(kernels, (*last.links[:-1], *pair.links))
        else:
            found.append(pair)
    return found


def branches_of(scene: "Scene") -> Iterator[Branch]:
    """Every sum of a tensor and of a branch that starts at it and goes nowhere else."""
    readers = scene.readers
    for call in scene.graph.calls:
        if type(call.operation).__name__ != "Add" or len(call.inputs) != 2:
            continue
        for start, end in (call.inputs, call.inputs[::-1]):
            if tuple(start.shape) != tuple(end.shape) or readers.only(end) is not call:
                continue
            inside = between(readers, start, end)
            if inside and not any(readers.shared(each) for each in inside):
                yield Branch(start, tuple(inside), end, call)
                break


def macs_of(graph: FlatGraph) -> dict[int, int]:
    """MACs of each call, by its id."""
    counts = each_macs(graph.calls)
    return {id(c): n for c, n in zip(graph.calls, counts, strict=True)}


def checked_graph(model: Any) -> FlatGraph:
    """The calls of a model that gates can go on, or one sentence why not."""
    built_model("model", model)
    graph = flat_graph(model)
    if graph is None:
        raise ValueError(
            "`model` must be functional or a keras.Sequential: a subclassed model has no "
            "graph of layers to find places in. Call its layers on a keras.Input, and "
            f"make a keras.Model of that. Received: {model.name!r}, a "
            f"{type(model).__name__}"
        )
    return graph


@dataclasses.dataclass(frozen=True, eq=False)
class Scene:
    """A graph to look for places in.

    Attributes:
        graph: Its calls.
        readers: Of its tensors.
        macs: Of each call, by id.
        inner: By the id of a call of a `GatedResidual`, what is inside of it.
    """

    graph: FlatGraph
    readers: Readers
    macs: dict[int, int]
    inner: dict[int, tuple[Call, "Scene"]]

    @property
    def total(self) -> int:
        """MACs of all calls, at least 1."""
        return max(1, sum(self.macs.values()))

    def share(self, calls: Iterable[Call], total: int) -> float:
        return sum(self.macs[id(call)] for call in calls) / total

    def everywhere(self) -> "Iterator[Scene]":
        """This one, and what is inside of it."""
        yield self
        for _, scene in self.inner.values():
            yield from scene.everywhere()


def scene_of(model: Any) -> Scene:
    """The graph of a model, and those inside of its gated branches."""
    graph = checked_graph(model)
    if isinstance(model, AnytimeModel):
        raise ValueError(
            "`model` must not be an anytime net, whose sub-networks would be lost. "
            f"Received: {model.name!r}"
        )
    inner = {
        id(call): (call, scene_of(call.operation.body))
        for call in graph.calls
        if isinstance(call.operation, GatedResidual)
    }
    return Scene(graph, Readers(graph), macs_of(graph), inner)


def gateable(model: keras.Model) -> list[GateablePlace]:
    """List what of a net can be gated, and its share of the cost.

    A *chain* is a kernel that mixes channels, layers that treat every channel on its own,
    and the next kernel that mixes; a *branch* is what is added to a tensor that it starts
    from. Chains share no kernel: the costliest are taken first. Nested models and gated
    branches are opened. Design of this library.

    Args:
        model: A functional or Sequential model, built for a known image size.

    Returns:
        A `GateablePlace` for each, chains first; also for kernels in no chain, with the
        `reason`.

    Raises:
        ValueError: For a model without a graph, or an unknown image size.

    Example:
        ```python
        net = keras.applications.MobileNet((32, 32, 3), 0.25, weights=None)
        for place in kd.gateable(net):
            print(place)
        ```
    """
    scene = scene_of(model)
    total = scene.total
    return [place for each in scene.everywhere() for place in _places(each, total)]


def _places(scene: Scene, total: int) -> Iterator[GateablePlace]:
    taken: set[int] = set()
    for chain in chains_of(scene):
        taken |= {id(call) for call in chain.calls}
        yield chain_place(scene, chain, total)
    for branch in branches_of(scene):
        yield branch_place(scene, branch, total)
    for call in scene.graph.calls:
        if scene.macs[id(call)] and id(call) not in taken:
            reason = why_not(call, scene.readers)
            if reason is not None:
                width = _width(call.operation, call.outputs[0])
                share = scene.share([call], total)
                layers = (call.path,)
                yield GateablePlace("channel", call.path, layers, width, share, reason)


def chain_place(scene: Scene, chain: Chain, total: int) -> GateablePlace:
    name, share = chain.kernels[0].path, scene.share(chain.calls, total)
    layers = _paths(chain.calls)
    return GateablePlace("channel", name, layers, chain.widths[0], share)


def branch_place(scene: Scene, branch: Branch, total: int) -> GateablePlace:
    name, share = branch.total.path, scene.share(branch.calls, total)
    channels = int(branch.end.shape[-1])
    return GateablePlace("layer", name, _paths(branch.calls), channels, share)


def _paths(calls: Iterable[Call]) -> tuple[str, ...]:
    layers = (c for c in calls if isinstance(c.operation, keras.layers.Layer))
    return tuple(call.path for call in layers)


def _width(operation: Any, output: Any) -> int:
    """Channels that a layer puts out."""
    known = getattr(operation, "filters", getattr(operation, "units", None))
    return int(output.shape[-1] if known is None else known)


def why_not(call: Call, readers: Readers) -> str | None:
    """Why a call with MACs is in no chain; None for what is gated already."""
    operation = call.operation
    if isinstance(operation, DynamicLayer):
        return None
    if readers.shared(call):
        return "the layer is called several times"
    if getattr(operation, "groups", 1) != 1:
        return "a grouped convolution"
    if getattr(operation, "data_format", "channels_last") != "channels_last":
        return "channels first"
    if not mixes(operation):
        return f"{type(operation).__name__} is no kernel that can be cut"
    return "no kernel before or after it that is not in another chain"
