"""How a dynamic layer tells what it decided, and how an exporter takes its place.

Every dynamic layer calls `record` in its `call`, once, and asks `lowered` first whether
an exporter wants to build the conditional form instead. A batch normalization asks
`normalized`, a nested convolution `pieces`, for the form that a file is to have. All are
context variables, so that nothing happens, and nothing is paid, outside `recording()`,
`masking(...)`, `lowering(...)`, `normalizing(...)` and `in_pieces(...)`.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Decisions = dict[str, Any]
Lower = Callable[[Any, Any], Any]
Normalize = Callable[[Any, Any, int], Any]

_recorder: contextvars.ContextVar[Decisions | None] = contextvars.ContextVar(
    "keras_dyngate_recorder", default=None
)
_masks: contextvars.ContextVar[Mapping[str, Any] | None] = contextvars.ContextVar(
    "keras_dyngate_masks", default=None
)
_lowerer: contextvars.ContextVar[Lower | None] = contextvars.ContextVar(
    "keras_dyngate_lowerer", default=None
)
_normalizer: contextvars.ContextVar[Normalize | None] = contextvars.ContextVar(
    "keras_dyngate_normalizer", default=None
)
_pieces: contextvars.ContextVar[tuple[int, ...]] = contextvars.ContextVar(
    "keras_dyngate_pieces", default=()
)


@contextlib.contextmanager
def recording() -> Iterator[Decisions]:
    """Collect the decisions of all dynamic layers called inside, keyed by name."""
    found: Decisions = {}
    token = _recorder.set(found)
    try:
        yield found
    finally:
        _recorder.reset(token)


def record(layer: Any, decisions: Mapping[str, Any]) -> None:
    """Note `decisions` as `<layer name>/<key>`; a second call of the layer as `:2`."""
    found = _recorder.get()
    if found is None:
        return
    name, call = layer.name, 1
    while any(f"{name}/{key}" in found for key in decisions):
        call += 1
        name = f"{layer.name}:{call}"
    for key, value in decisions.items():
        found[f"{name}/{key}"] = value


@contextlib.contextmanager
def recorded_under(runs: Any) -> Iterator[None]:
    """Multiply what is recorded inside by `runs`, `[batch, 1]`: 0 where it is skipped."""
    found = _recorder.get()
    if found is None:
        yield
        return
    before = set(found)
    yield
    for name in set(found) - before:
        found[name] = found[name] * runs


def relay(decisions: Mapping[str, Any]) -> None:
    """Pass on what was recorded apart, under the names it has."""
    found = _recorder.get()
    if found is not None:
        found.update(decisions)


@contextlib.contextmanager
def masking(masks: Mapping[str, Any]) -> Iterator[None]:
    """Multiply the scores of decisions inside, by full name, to see what depends on it."""
    token = _masks.set(masks)
    try:
        yield
    finally:
        _masks.reset(token)


def masked(name: str, score: Any) -> Any:
    """A decision's scores times its mask, if it has one."""
    masks = _masks.get()
    return score if masks is None or name not in masks else score * masks[name]


@contextlib.contextmanager
def lowering(lower: Lower) -> Iterator[None]:
    """Let `lower(layer, x)` replace the `call` of every dynamic layer inside."""
    token = _lowerer.set(lower)
    try:
        yield
    finally:
        _lowerer.reset(token)


def exporting() -> bool:
    """Whether the conditional form is being built."""
    return _lowerer.get() is not None


def lowered(layer: Any, x: Any) -> Any:
    """The exporter's output for `layer`, or None when nobody is exporting."""
    lower = _lowerer.get()
    return None if lower is None else lower(layer, x)


@contextlib.contextmanager
def normalizing(normalize: Normalize) -> Iterator[None]:
    """Let `normalize(layer, x, first)` replace batch normalizations inside.

    It returns None where the layer is to do what it does.
    """
    token = _normalizer.set(normalize)
    try:
        yield
    finally:
        _normalizer.reset(token)


def normalized(layer: Any, x: Any, first: int = 0) -> Any:
    """The exporter's output for `layer`, whose channels begin at `first`, or None."""
    normalize = _normalizer.get()
    return None if normalize is None else normalize(layer, x, first)


@contextlib.contextmanager
def in_pieces(cuts: tuple[int, ...]) -> Iterator[None]:
    """Let nested convolutions be made of several inside, cut at these sub-networks."""
    token = _pieces.set(cuts)
    try:
        yield
    finally:
        _pieces.reset(token)


def pieces() -> tuple[int, ...]:
    """Sub-networks at which nested convolutions are to be cut; empty: nowhere."""
    return _pieces.get()
