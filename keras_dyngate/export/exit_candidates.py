"""Exits as candidates: places, thresholds on a file, the static nets beside them."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_dyngate.export.candidates import Maker, labels_of
from keras_dyngate.export.exits_result import StaticNet
from keras_dyngate.models.exits.cut_at_exit import cut_at_exit
from keras_dyngate.models.exits.cutting import resolve_cuts
from keras_dyngate.models.exits.early_exit import EarlyExitModel
from keras_dyngate.models.exits.placement import place_exits
from keras_dyngate.runtime.exit_calibration import set_thresholds
from keras_dyngate.thresholds.paired_loss import loss_p_value
from keras_dyngate.thresholds.promise import path_rows
from keras_dyngate.thresholds.table import ExitOutcome, ExitTable, outcome
from keras_dyngate.thresholds.wish import Wish

PLACES = 2  # exits in the net that "auto" looks for
HARDLY = 0.01  # an exit that fewer pictures than that leave at is left out
NEAR = 0.02  # a static net this far below the wish in Keras is not made a file of


def places_of(
    model: keras.Model,
    x: Any,
    y: Any,
    validation: tuple[np.ndarray, np.ndarray],
    exits: Any,
    quantization: str | None,
) -> tuple[list[Any], Any]:
    """Where exits are to be, and how that was found."""
    if isinstance(exits, (list, tuple)):
        try:
            return resolve_cuts(model, exits) if exits else [], None
        except ValueError as error:
            raise ValueError(str(error).replace("after", "exits")) from error
    whole = isinstance(exits, int) and not isinstance(exits, bool) and exits >= 0
    if exits != "auto" and not whole:
        raise ValueError(
            "`exits` must be 'auto', how many at most, or a list of places. "
            f"Received: exits={exits!r}"
        )
    if exits == 0:
        return [], None
    placement = place_exits(
        model,
        x,
        y,
        exits=PLACES if exits == "auto" else exits,
        quantization=quantization,
        validation_data=validation,
    )
    return list(placement.exits), placement


@dataclasses.dataclass(frozen=True)
class CalibratedFile:
    """A net with exits, its file, what it says and takes, and what it is worth."""

    net: EarlyExitModel
    content: bytes
    table: ExitTable
    path_ms: tuple[float, ...]
    outcome: ExitOutcome
    kept: bool


def half_way(placement: Any) -> Any:
    """The probed place nearest to half of the time, to be tried where none pays."""
    return min(placement.probes, key=lambda probe: abs(probe.time_share - 0.5)).point


Choose = Callable[
    [ExitTable, tuple[float, ...], bool], tuple[ExitOutcome, bool]
]  # thresholds, and whether they keep to what is wished; True: what is promised counts


def choose_by(**wish: Any) -> Choose:
    """Thresholds by a `Wish`.

    If none keep to it, nobody leaves; if it is of a cost, all leave at the first exit.
    """
    confidence = wish.pop("confidence", None)

    def choose(
        table: ExitTable, path_ms: tuple[float, ...], promised: bool
    ) -> tuple[ExitOutcome, bool]:
        gates = table.confidence.shape[1]
        sure = {"confidence": confidence} if promised and confidence else {}
        try:
            return Wish(gates, **wish, **sure, path_ms=path_ms).choose(table), True
        except ValueError:
            limit = -np.inf if {"ms", "macs"} & set(wish) else np.inf
            return outcome(table, np.full(gates, limit), path_ms), False

    return choose


def calibrated_file(
    maker: Maker, net: EarlyExitModel, choose: Choose, confidence: float | None = None
) -> CalibratedFile:
    """The net without exits that hardly any picture leaves at, its file and thresholds.

    If no thresholds keep to the wish, nobody leaves, and the outcome has no promise.
    """
    while True:
        rows = path_rows(len(maker.x)) if confidence else np.arange(len(maker.x))
        net.fit_mixing(maker.x[rows], maker.y[rows])
        net.thresholds = [1.0] * len(net.gates)
        path, table, path_ms = maker.exits(net)
        gates = len(net.gates)
        tried, kept = choose(table.take(rows), path_ms, False)
        used = [k for k, share in enumerate(tried.shares[:-1]) if share >= HARDLY]
        if len(used) in (0, gates) or not kept:
            chosen, kept = choose(table, path_ms, True)
            net.thresholds = chosen.thresholds
            set_thresholds(path, chosen.thresholds)
            return CalibratedFile(net, path.read_bytes(), table, path_ms, chosen, kept)
        net = EarlyExitModel(
            net.trunk,
            [net.after[index] for index in used],
            [net.gates[index] for index in used],
            combine=net.combine,
            name=net.name,
        )


def static_rivals(
    maker: Maker,
    model: keras.Model,
    net: EarlyExitModel,
    drop: float,
    confidence: float | None,
) -> list[StaticNet]:
    """Static nets that come near the wish: each exit alone, the net itself in int8."""
    right = maker.plain_labels == maker.y
    wanted = float(right.mean()) - drop

    def keeps(mine: np.ndarray) -> bool:
        """Whether right answers lose no more than was wished, or promised."""
        if confidence is None:
            return float(mine.mean()) >= wanted - 1e-9
        worse, better = int((right & ~mine).sum()), int((mine & ~right).sum())
        return loss_p_value(worse, better, len(right), drop) <= 1 - confidence

    tried: list[tuple[str, keras.Model, str | None]] = []
    for number, place in enumerate(net.after):
        static = cut_at_exit(net, exit=number)
        if float((labels_of(static, maker.x) == maker.y).mean()) < wanted - NEAR:
            continue
        first = net.stages[number].at_input
        name = "the first net alone" if first else f"cut after {place}"
        tried.append((name, static, maker.quantization))
    if net.trunk is not model:
        tried.append(("the plain net, taught", net.trunk, maker.quantization))
    if maker.quantization != "int8":
        tried.append(("the plain net in 8 bits", model, "int8"))
    return [maker.static(*each, keeps) for each in tried]
