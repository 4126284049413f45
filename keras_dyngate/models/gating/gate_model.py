"""Gates on a trained net of anybody's: a new net, with the weights copied.

    gated = kd.add_channel_gates(model, groups=2)
    gated = kd.add_layer_gates(gated)

With all gates open it computes what the old one does.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from keras_dyngate._checks import boolean
from keras_dyngate._graph import Call
from keras_dyngate.layers import GatedResidual, GatedSequence
from keras_dyngate.models.gates import Gates
from keras_dyngate.models.gating.places import (
    Branch,
    Chain,
    GateablePlace,
    Scene,
    branch_place,
    branches_of,
    chain_place,
    chains_of,
    gateable,
    pairs_of,
    runs_of,
    scene_of,
)
from keras_dyngate.models.gating.rebuilding import (
    Copies,
    as_layers,
    rebuilt,
    small_model,
)

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
        groups: Decisions per chain. Default 2. Groups of fewer than 16 channels run
            together in a file unless `GateOptions(group_size=)` says otherwise;
            `train_gates` counts as the file does.
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

    Example:
        ```python
        net = keras.applications.MobileNet((32, 32, 3), 0.25, weights=None)
        gated = kd.add_channel_gates(net, where=0.1, groups=4)  # chains of 10 % of the MACs
        print(kd.count_macs(gated).gateable)
        ```
    """
    scene = scene_of(model)
    boolean("pairs", pairs)
    if groups is None and group_size is None:
        groups = 2
    gates = Gates(gate, None, groups, group_size, regularizers)
    named = _are_names(where)
    places = []
    for each in scene.everywhere():
        if named:
            candidates = pairs_of(each)
        elif pairs:
            candidates = runs_of(pairs_of(each), most=3)
        else:
            candidates = chains_of(each)
        places += [(chain_place(each, c, scene.total), each, c) for c in candidates]
    chosen = _chosen(model, where, places, "chain")
    if named:  # those that share a kernel become one
        for each, chains in chosen.items():
            order = each.readers.place
            chains.sort(key=lambda chain: order[id(chain.kernels[0])])
            chosen[each] = runs_of(chains)
    copies = Copies()
    replaced = {
        each: [
            (chain.calls, chain.kernels[0].inputs[0], _maker(chain, gates, copies))
            for chain in chains
        ]
        for each, chains in chosen.items()
    }
    return _made(model, scene, copies, replaced, name)


def _made(
    model: keras.Model,
    scene: Scene,
    copies: Copies,
    replaced: Mapping[Scene, list[Any]],
    name: str | None,
) -> keras.Model:
    """The model anew, with other layers in some places, also inside gated branches."""

    def remade(model: keras.Model, scene: Scene, name: str | None) -> keras.Model:
        found = list(replaced.get(scene, ()))
        for call, inner in scene.inner.values():
            if any(each in replaced for each in inner.everywhere()):
                found.append(((call,), call.inputs[0], inside(call, inner)))
        return rebuilt(model, scene.graph, copies, found, name)

    def inside(call: Call, inner: Scene) -> Callable[[Any], Any]:
        old = call.operation

        def make(x: Any) -> Any:
            gate = type(old.layer_gate).from_config(old.layer_gate.get_config())
            copies.note(gate, old.layer_gate)
            body = remade(old.body, inner, copies.name(old.body.name))
            name = copies.name(old.name)
            return GatedResidual(body, gate, name=name, dtype=old.dtype_policy)(x)

        return make

    made = remade(model, scene, name)
    copies.fill()
    return made


def _maker(chain: Chain, gates: Gates, copies: Copies) -> Callable[[Any], Any]:
    """What makes a `GatedSequence` of a chain, and calls it."""
    first = chain.kernels[0]

    def make(x: Any) -> Any:
        layers: list[Any] = []
        for kernel, links in zip(chain.kernels, chain.links, strict=True):
            layers += [copies.of(kernel), *as_layers(copies, kernel.outputs[0], links)]
        return GatedSequence(
            layers,
            gates.for_channels(chain.widths, first.path),
            tuple(range(len(chain.widths))),
            at_rest=any(call.kwargs.get("training") is False for call in chain.calls),
            name=copies.name(f"gated_{first.path.replace('/', '_')}"),
            dtype=first.operation.dtype_policy,
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

    Example:
        ```python
        image = x = keras.Input((8, 8, 4))
        for _ in range(2):
            x = x + keras.layers.Conv2D(4, 3, padding="same", activation="relu")(x)
        gated = kd.add_layer_gates(keras.Model(image, x))
        print(kd.decide(gated, np.ones((1, 8, 8, 4))))
        ```
    """
    scene = scene_of(model)
    gates = Gates(None, gate, layer_regularizers=regularizers)
    places = [
        (branch_place(scene, branch, scene.total), scene, branch)
        for branch in outermost(branches_of(scene))
    ]
    chosen = _chosen(model, where, places, "branch")
    copies = Copies()
    replaced = {
        each: [
            (
                (*branch.calls, branch.total),
                branch.start,
                _skipper(branch, gates, copies),
            )
            for branch in branches
        ]
        for each, branches in chosen.items()
    }
    return _made(model, scene, copies, replaced, name)


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
        # It computes in the precision of what it adds to, whatever Keras' policy is now.
        return GatedResidual(body, gates.for_layer(), name=name, dtype=x.dtype)(x)

    return make


def _are_names(where: Where) -> bool:
    return isinstance(where, str) or (
        isinstance(where, (list, tuple)) and all(isinstance(x, str) for x in where)
    )


def _chosen(
    model: keras.Model,
    where: Where,
    places: Sequence[tuple[GateablePlace, Scene, Any]],
    what: str,
) -> dict[Scene, list[Any]]:
    """What `where` means."""
    if not places:
        raise ValueError(
            f"`model` must have a {what} that can be gated. "
            f"Received: {model.name!r} without any"
            f"{_reasons(model) if what == 'chain' else ''}"
        )
    share = where if isinstance(where, (int, float)) else None
    if where is None:
        hits = list(places)
    elif callable(where):
        hits = [item for item in places if where(item[0])]
    elif share is not None and not isinstance(where, bool) and 0 <= share <= 1:
        hits = [item for item in places if item[0].share >= share]
    elif _are_names(where):
        names: Any = [where] if isinstance(where, str) else where
        hits = [_named(name, places, what, model) for name in names]
    else:
        raise ValueError(
            "`where` must be names, a share of the MACs from 0 to 1, or a function. "
            f"Received: where={where!r}"
        )
    if not hits:
        raise ValueError(
            f"`where` must choose a {what} or more of the {len(places)} in "
            f"{model.name!r}. Received: where={where!r}, which chooses none"
        )
    found: dict[Scene, list[Any]] = {}
    for _, scene, item in hits:
        chosen = found.setdefault(scene, [])
        if item not in chosen:
            chosen.append(item)
    return found


def _named(
    name: str,
    places: Sequence[tuple[GateablePlace, Scene, Any]],
    what: str,
    model: keras.Model,
) -> tuple[GateablePlace, Scene, Any]:
    """The place of a name: its own, or else the first that has a layer of that name."""
    for item in places:
        if _is_named(item[0].name, name):
            return item
    for item in places:
        if any(_is_named(path, name) for path in item[0].layers):
            return item
    for place in gateable(model):
        if place.reason is not None and _is_named(place.name, name):
            raise ValueError(
                f"`where` must name {_many(what)} that can be gated. "
                f"Received: {name!r}, which cannot: {place.reason}"
            )
    known = [place.name for place, _, _ in places]
    close = difflib.get_close_matches(name, known, n=3) or known[:3]
    raise ValueError(
        f"`where` must name {_many(what)} of {model.name!r}, such as {close} (see "
        f"`gateable`). Received: {name!r}"
    )


def _many(what: str) -> str:
    return "branches" if what == "branch" else f"{what}s"


def _reasons(model: keras.Model) -> str:
    """Why some places are none, those with most of the cost first."""
    refused = [place for place in gateable(model) if place.reason is not None]
    refused.sort(key=lambda place: -place.share)
    words = dict.fromkeys(f"{place.name!r}: {place.reason}" for place in refused)
    return "".join(f"; {reason}" for reason in list(words)[:3])


def _is_named(path: str, wanted: str) -> bool:
    return path == wanted or path.endswith(f"/{wanted}")
