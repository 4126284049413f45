"""Gates on a trained net of anybody's: a new net, with the weights copied.

    gated = kd.add_channel_gates(model, groups=2)
    gated = kd.add_layer_gates(gated)

With all gates open it computes what the old one does.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_dyngate._checks import boolean
from keras_dyngate.layers import GatedResidual, GatedSequence
from keras_dyngate.models.gates import Gates
from keras_dyngate.models.gating.places import (
    Branch,
    Chain,
    GateablePlace,
    branches_of,
    chains_of,
    checked_graph,
    macs_of,
    pairs_of,
    place_of,
    runs_of,
)
from keras_dyngate.models.gating.rebuilding import (
    Copies,
    as_layers,
    rebuilt,
    small_model,
)
from keras_dyngate.models.gating.regions import Readers

Where = str | float | Sequence[str] | Callable[[GateablePlace], bool] | None


def add_channel_gates(
    model: keras.Model,
    where: Where = None,
    *,
    groups: int | None = None,
    group_size: int | None = None,
    gate: Any = "binary",
    regularizers: Any = None,
    pairs: bool = False,
    name: str | None = None,
) -> keras.Model:
    """Gate the inner channels of a net's chains, per input.

    A chain (see `gateable`) becomes one `GatedSequence`, whose gate masks what lies
    between two kernels; an exported file computes the open groups alone. The net is made
    anew with its weights copied, nested models opened; the old one stays as it is. While
    all gates are open (`force_open_rate(gated, 1.0)`) it computes what the old one does;
    teach the gates, best after `prime_gates`, with `MacBudget`. Design of this library,
    after Bejnordi, Blankevoort, Welling, ICLR 2020, arXiv 1907.06627.

    Args:
        model: Functional or Sequential, built for a known image size: a classifier, a
            segmentation net.
        where: Which chains: names of their first kernels (or paths, or of any layer in
            them), the least share of the net's MACs (0 to 1), or a function of a
            `GateablePlace`. None: all of `gateable`. Names of two chains that share a
            kernel make one of both, with two masks.
        groups: Decisions per chain. Default 2.
        group_size: Or: one decision per so many neighbouring channels.
        gate: "binary" (default), "salience", or a callable that makes a `Controller`
            from `units`.
        regularizers: `GateRegularizer`s of each gate.
        pairs: Whether three kernels in a row get two masks, as a bottleneck does.
            Default False.
        name: Of the new model. None: the old one's.

    Returns:
        The new model, not compiled.

    Raises:
        ValueError: For a model without a graph or without a chain, `where` that names
            nothing, or groups that do not divide the channels: the place is named.
    """
    graph = checked_graph(model)
    boolean("pairs", pairs)
    if groups is None and group_size is None:
        groups = 2
    gates = Gates(gate, None, groups, group_size, regularizers)
    readers, macs = Readers(graph), macs_of(graph)
    named = isinstance(where, str) or (
        isinstance(where, (list, tuple)) and all(isinstance(x, str) for x in where)
    )
    if named:
        candidates = pairs_of(graph, readers)
    elif pairs:
        candidates = runs_of(pairs_of(graph, readers), most=3)
    else:
        candidates = chains_of(graph, readers, macs)
    places = [(_channel_place(chain, macs), chain) for chain in candidates]
    chosen = _chosen(model, where, places, "channel")
    if named:
        chosen.sort(key=lambda chain: readers.place[id(chain.kernels[0])])
        chosen = runs_of(chosen)
    copies = Copies()
    replaced = [
        (chain.calls, chain.kernels[0].inputs[0], _maker(chain, gates, copies))
        for chain in chosen
    ]
    return rebuilt(model, graph, copies, replaced, name)


def _channel_place(chain: Chain, macs: dict[int, int]) -> GateablePlace:
    share = sum(macs[id(call)] for call in chain.calls) / max(1, sum(macs.values()))
    return place_of(
        "channel", chain.calls, chain.kernels[0].path, chain.widths[0], share
    )


def _maker(chain: Chain, gates: Gates, copies: Copies) -> Callable[[Any], Any]:
    """What makes a `GatedSequence` of a chain, and calls it."""
    first = chain.kernels[0]

    def make(x: Any) -> Any:
        layers: list[Any] = []
        for kernel, links in zip(chain.kernels, chain.links, strict=True):
            layers += [copies.of(kernel), *as_layers(copies, kernel.outputs[0], links)]
        made = [
            gates.for_channels(width, len(chain.widths), kernel.path)
            for width, kernel in zip(chain.widths, chain.kernels, strict=False)
        ]
        units = {gate.units for gate in made}
        if len(units) > 1:
            raise ValueError(
                "`groups` must be given, not `group_size`, for chains of several widths. "
                f"Received: {first.path!r} with {list(chain.widths)} channels"
            )
        return GatedSequence(
            layers,
            made[0],
            tuple(range(len(chain.widths))),
            at_rest=any(call.kwargs.get("training") is False for call in chain.calls),
            name=copies.name(f"gated_{first.path.replace('/', '_')}"),
        )(x)

    return make


def add_layer_gates(
    model: keras.Model,
    where: Where = None,
    *,
    gate: Any = "binary",
    regularizers: Any = None,
    name: str | None = None,
) -> keras.Model:
    """Let whole branches of a net be skipped, per input.

    A branch beside an identity, `x + f(x)`, becomes a `GatedResidual`; an exported file
    computes `f` only where its gate is open. Chains that are gated already stay so
    inside. Else as `add_channel_gates`.

    Args:
        model: Functional or Sequential, built for a known image size.
        where: Which branches: names (or paths) of the sums that end them or of layers in
            them, the least share of the net's MACs (0 to 1), or a function of a
            `GateablePlace`. None: all.
        gate: "binary" (default), "salience", or a callable that makes a `Controller`
            from `units`.
        regularizers: `GateRegularizer`s of each gate.
        name: Of the new model. None: the old one's.

    Returns:
        The new model, not compiled.

    Raises:
        ValueError: For a model without a graph or without a branch, or `where` that names
            nothing.

    References:
        Xia, Yin, Dai, Jha: Fully dynamic inference with deep neural networks, IEEE TETC
        2022, arXiv 2007.15151; Veit, Belongie, ECCV 2018, arXiv 1711.11503.
    """
    graph = checked_graph(model)
    gates = Gates(None, gate, layer_regularizers=regularizers)
    readers, macs = Readers(graph), macs_of(graph)
    total = max(1, sum(macs.values()))
    places = []
    for branch in outermost(branches_of(graph, readers)):
        share = sum(macs[id(call)] for call in branch.calls) / total
        channels = int(branch.end.shape[-1])
        place = place_of("layer", branch.calls, branch.total.path, channels, share)
        places.append((place, branch))
    chosen = _chosen(model, where, places, "layer")
    copies = Copies()
    replaced = [
        ((*branch.calls, branch.total), branch.start, _skipper(branch, gates, copies))
        for branch in chosen
    ]
    return rebuilt(model, graph, copies, replaced, name)


def outermost(branches: Any) -> list[Branch]:
    """Branches that are not inside of others."""
    found: list[Branch] = []
    held: set[int] = set()
    for branch in sorted(branches, key=lambda branch: -len(branch.calls)):
        if id(branch.total) not in held:
            found.append(branch)
            held |= {id(call) for call in branch.calls}
    return found


def _skipper(branch: Branch, gates: Gates, copies: Copies) -> Callable[[Any], Any]:
    """What makes a `GatedResidual` of a branch, and calls it."""
    path = branch.total.path.replace("/", "_")

    def make(x: Any) -> Any:
        body = small_model(
            copies, branch.calls, branch.start, branch.end, f"{path}_branch"
        )
        name = copies.name(f"gated_{path}")
        return GatedResidual(body, gates.for_layer(), name=name)(x)

    return make


def _chosen(
    model: keras.Model,
    where: Where,
    places: Sequence[tuple[GateablePlace, Any]],
    kind: str,
) -> list[Any]:
    """What `where` means."""
    what = "chain" if kind == "channel" else "branch"
    if not places:
        raise ValueError(
            f"`model` must have a {what} that can be gated (`gateable` says why not). "
            f"Received: {model.name!r} without any"
        )
    if where is None:
        return [found for _, found in places]
    if callable(where):
        chosen = [found for place, found in places if where(place)]
    elif isinstance(where, (int, float)) and not isinstance(where, bool):
        chosen = [found for place, found in places if place.share >= where]
    else:
        names: list[Any] = [where] if isinstance(where, str) else list(where)  # type: ignore[arg-type]
        chosen = []
        for wanted in names:
            hits = [
                found for place, found in places if _is_named(place.name, wanted)
            ] or [
                found
                for place, found in places
                if any(_is_named(path, wanted) for path in place.layers)
            ]
            if not hits:
                known = [place.name for place, _ in places]
                raise ValueError(
                    f"`where` must name {what}s of {model.name!r}, such as {known[:4]} "
                    f"(see `gateable`). Received: {wanted!r}"
                )
            chosen += [hit for hit in hits[:1] if hit not in chosen]
    if not chosen:
        raise ValueError(
            f"`where` must choose a {what} or more of the {len(places)} in "
            f"{model.name!r}. Received: where={where!r}, which chooses none"
        )
    return chosen


def _is_named(path: str, wanted: str) -> bool:
    return path == wanted or path.endswith(f"/{wanted}")
