"""The candidates of `make_dynamic`, made one after the other, and the choice."""

import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_dyngate.callbacks.settling import settle
from keras_dyngate.cost import CostTable, count_macs
from keras_dyngate.cost.executed import executed_together
from keras_dyngate.export.candidates import Maker, arrays_of
from keras_dyngate.export.dynamic_result import Tried
from keras_dyngate.export.dynamic_wish import TIE, DynamicWish
from keras_dyngate.export.exit_candidates import (
    Choose,
    calibrated_file,
    choose_by,
    half_way,
    places_of,
)
from keras_dyngate.export.latency import measure_latency
from keras_dyngate.models.exits.cut_at_exit import cut_at_exit
from keras_dyngate.models.exits.cut_points import cut_points
from keras_dyngate.models.exits.decision_gates import add_decision_gates
from keras_dyngate.models.exits.teaching import copy_of
from keras_dyngate.models.exits.training import HEAD
from keras_dyngate.models.gating.gate_model import add_channel_gates, add_layer_gates
from keras_dyngate.models.gating.places import gateable
from keras_dyngate.models.resolution import at_size
from keras_dyngate.regularizers import GateSparsity
from keras_dyngate.training.gate_training import train_gates
from keras_dyngate.training.recipe import fine_tune

LEAST = 0.02  # of the MACs that a chain or branch must have to be gated
ROOM = 0.05  # between a share and the least that gates can reach
MARGIN = 0.97  # of a limit, that thresholds keep to: time differs from run to run
CHOICES = 3  # of thresholds, where the first take more time than they should
TRIALS, ROUNDS = 150, 3  # of the table that says what gates cost
SETTLED_ON = 256  # training pictures, what gates spend is measured on
SMALLEST = 64  # pixels of a smaller static net


@dataclasses.dataclass(frozen=True)
class Teaching:
    """How candidates are taught; see `make_dynamic`."""

    epochs: int
    exit_epochs: int
    joint_epochs: int
    checkpoint: Path | None
    verbose: Any
    seed: int

    def file(self, name: str) -> Path | None:
        """Where what is taught under a name is kept."""
        return None if self.checkpoint is None else self.checkpoint / name


class Candidates:
    """One run: what is made, in order, and what is left out."""

    def __init__(
        self,
        model: keras.Model,
        data: tuple[Any, Any],
        maker: Maker,
        wish: DynamicWish,
        teaching: Teaching,
    ) -> None:
        self.model, self.data, self.maker, self.wish = model, data, maker, wish
        self.teaching = teaching
        self.best = model  # what teaches, and what is gated and made smaller
        self.tried: list[Tried] = []
        self.left_out: list[str] = []
        self.table: CostTable | None = None
        self.share = 1.0
        self._arrays: tuple[np.ndarray, np.ndarray] | None = None

    def say(self, line: str) -> None:
        if self.teaching.verbose:
            print(f"make_dynamic: {line}", flush=True)

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """The training data as arrays, of a dataset once."""
        if self._arrays is None:
            self._arrays = arrays_of("train", self.model, self.data)
        return self._arrays

    def plain(self) -> None:
        """The net as it is, in this precision and in int8, timed for the limit."""
        self.static("the plain net", self.model, self.maker.quantization)
        if self.maker.quantization != "int8":
            self.static("the plain net in 8 bits", self.model, "int8")
        self.time()
        self.share = self.wish.share(self.tried[0])
        self.say(f"the plain net takes {self.tried[0].ms:.2f} ms a picture")

    def static(self, name: str, model: keras.Model, quantization: str | None) -> None:
        net = self.maker.static(name, model, quantization)
        self.tried.append(
            Tried(
                name,
                False,
                model,
                net.quantization,
                net.content,
                net.accuracy,
                net.ms,
                net.macs,
            )
        )

    def exits(self, exits: Any, first: Any) -> list[Any]:
        """Exits on the net as it is; returns their places."""
        self.say("looks for places of exits")
        x, y = self.data
        try:
            places, placement = places_of(
                self.model,
                x,
                y,
                (self.maker.x, self.maker.y),
                exits,
                self.maker.quantization,
            )
        except ValueError as error:
            if exits != "auto":
                raise
            self.left_out.append(f"exits: {error}")
            return []
        if not places and first is None and placement is not None:
            places = [half_way(placement)]
        if not places and first is None:
            self.left_out.append(
                "exits: none were asked for, and there is no first net"
            )
            return []
        trunk = self.copy()
        joint = 0 if trunk is self.model else self.teaching.joint_epochs
        net, learned = self.taught_exits("exits", trunk, places, first, joint)
        if net.stages[0].at_input:
            alone = cut_at_exit(net, exit=0)
            self.static("the first net alone", alone, self.maker.quantization)
        if learned:
            self.best = net.trunk
            name = "the plain net taught with its exits"
            self.static(name, self.best, self.maker.quantization)
        return places

    def copy(self) -> keras.Model:
        """What exits may teach: a copy of the net, or itself if it is to stay."""
        if not self.teaching.joint_epochs:
            return self.model
        try:
            return copy_of(self.model)
        except (ValueError, TypeError, NotImplementedError) as error:
            reason = str(error).strip().splitlines()[0][:120]
            self.left_out.append(f"teaching the net with its exits: no copy: {reason}")
            return self.model

    def taught_exits(
        self,
        name: str,
        trunk: keras.Model,
        places: Sequence[Any],
        first: Any,
        joint_epochs: int = 0,
    ) -> tuple[Any, bool]:
        """A net with exits as a candidate; also whether its head learned with them."""
        self.say(f"teaches {name}")
        net = add_decision_gates(
            trunk, places, head="separable", first=first, combine=True
        )
        x, y = self.data
        fits = net.fit_gates(
            x,
            y,
            epochs=self.teaching.exit_epochs,
            joint_epochs=joint_epochs,
            validation_data=(self.maker.x, self.maker.y),
            checkpoint=self.teaching.file(name.replace(" ", "_")),
            verbose=self.teaching.verbose,
            seed=self.teaching.seed,
        )
        spare = MARGIN
        for _ in range(CHOICES):
            made = calibrated_file(self.maker, net, self.choice(spare))
            chosen = made.outcome
            found = Tried(
                name,
                True,
                made.net,
                self.maker.quantization or "float32",
                made.content,
                float(chosen.accuracy or 0.0),
                float(np.dot(chosen.shares, made.path_ms)),
                float(chosen.macs),
            )
            over = self.over(found.content) if made.kept else 0.0
            if over <= 1:
                break
            spare *= MARGIN / over  # the ways to exits take longer in turn with others
        self.tried.append(found)
        return net, HEAD in fits

    def choice(self, spare: float) -> Choose:
        """How thresholds are chosen: to keep to so much of a limit."""
        if not self.wish.by_cost:
            return choose_by(accuracy_drop=self.wish.drop)
        cost = "ms" if self.wish.in_ms else "macs"
        return choose_by(**{cost: spare * self.wish.limit(self.tried[0])})

    def over(self, content: bytes) -> float:
        """Time over the limit, in turn with the plain net; 0 without a limit in ms."""
        if not self.wish.by_cost or not self.wish.in_ms:
            return 0.0
        plain = self.tried[0]
        ms = self.maker.time_files({"plain": plain.content, "net": content})
        limit = self.wish.limit(dataclasses.replace(plain, ms=ms["plain"]))
        return ms["net"] / limit

    def gated(self, gates: str | None, places: Sequence[Any], first: Any) -> None:
        """Gates on the net, and exits behind them."""
        if gates is None:
            self.left_out.append("gates: none were asked for")
            return
        if self.share >= 1:
            self.left_out.append("gates: the plain net is within the budget")
            return
        found = self.gates_for(gates)
        if found is None:
            return
        name, model = found
        self.say(f"teaches {name} to spend {self.share:.2f} of the cost")
        x, y = self.arrays()
        train_gates(
            model,
            x,
            y,
            self.share,
            epochs=self.teaching.epochs,
            teacher=self.best,
            table=self.table if self.wish.in_ms else None,
            checkpoint=self.teaching.file("gates.npz"),
            verbose=self.teaching.verbose,
            seed=self.teaching.seed,
        )
        self.dynamic(name, model, x)
        if places or first is not None:
            behind = self.same_places(model, places)
            self.taught_exits(f"exits and {name}", model, behind, first)

    def gates_for(self, gates: str) -> tuple[str, keras.Model] | None:
        """A net with gates that can reach the share, and what they are."""
        kinds = [
            place.kind
            for place in gateable(self.best)
            if place.reason is None and place.share >= LEAST
        ]
        wanted: list[tuple[str, ...]] = {
            "layers": [("layer",)],
            "channels": [("channel",)],
            "both": [("channel", "layer")],
            "auto": [("layer",), ("channel", "layer"), ("channel",)],
        }[gates]  # type: ignore[assignment]
        fitting = [kind for kind in wanted if all(part in kinds for part in kind)]
        if not fitting:
            self.left_out.append(
                f"gates: no {' or '.join(wanted[-1])} with {LEAST:.0%} of the MACs"
            )
            return None
        why = ""
        for parts in fitting:
            name = f"{' and '.join(reversed(parts))} gates"
            price: dict[str, Any] = {
                "where": LEAST,
                "regularizers": [GateSparsity(0.0, weighting="macs")],
            }
            model = self.best
            if "channel" in parts:
                model = add_channel_gates(model, groups=2, **price)
            if "layer" in parts:
                model = add_layer_gates(model, **price)
            self.say(f"measures what {name} cost")
            self.table = measure_latency(
                model,
                quantization=self.maker.quantization,
                representative_data=self.maker.pictures,
                trials=TRIALS,
                rounds=ROUNDS,
                seed=self.teaching.seed,
            )
            table = self.table if self.wish.in_ms else count_macs(model)
            least = table.least / table.total
            if least <= self.share - ROOM:
                return name, model
            why = f"{name}: with all shut the net takes {least:.2f} of the cost still"
        self.left_out.append(why)
        return None

    def same_places(self, model: keras.Model, places: Sequence[Any]) -> list[Any]:
        """Cut points of the gated net that lie where others do in the plain one."""
        if not places:
            return []
        shares = {point.layer: point.share for point in cut_points(self.model)}
        points = cut_points(model)
        found: list[Any] = []
        for place in places:
            name = getattr(place, "layer", place)
            share = shares.get(name, 0.5)
            near = min(points, key=lambda point: abs(point.share - share)).layer
            if near not in found:
                found.append(near)
        return found

    def dynamic(self, name: str, model: keras.Model, x: np.ndarray) -> None:
        """A net that decides without exits, as a candidate.

        Its table is of calls one after another; in turn with another net a file takes
        longer, and the gates are moved until it keeps to the limit so. Where they were
        moved to is kept: a run that goes on would time, and move, otherwise.
        """
        share, kept = self.share, self.teaching.file("gates_moved.weights.h5")
        known = kept is not None and kept.exists()
        if known:
            model.load_weights(kept)
        for _ in range(CHOICES):
            litert = self.maker.file(model, self.maker.quantization)
            found = litert.evaluate(self.maker.x, self.maker.y)
            net = Tried(
                name,
                True,
                model,
                self.maker.quantization or "float32",
                litert.path.read_bytes(),
                float(found["accuracy"]),
                float(found["median_ms"]),
                float(found["mean_executed_macs"]),
            )
            over = self.over(net.content)
            if over <= 1 or known or self.table is None:
                break
            self.say(f"{name} take {over:.2f} of the limit: moves the gates")
            share *= MARGIN / over
            sizes = executed_together(model, self.table)
            settle(model, x[:SETTLED_ON], share, self.table, sizes)
        if kept is not None and not known:
            beside = kept.with_name(f".{os.getpid()}.{kept.name}")
            model.save_weights(beside)
            os.replace(beside, kept)
        self.tried.append(net)

    def smaller(self) -> None:
        """The plain net at a lower resolution, taught as long as the gated one.

        The largest of which the MACs suit the budget, and of a budget of time its file.
        """
        shape: Any = self.model.input_shape
        if len(shape) != 4 or None in shape[1:3] or self.share >= 1:
            return
        side = min(shape[1:3])
        size = int(side * math.sqrt(self.share)) // 16 * 16
        while True:
            if size < min(SMALLEST, side) or size >= side:
                self.left_out.append(
                    f"the plain net at a lower resolution: {size} pixels would be left"
                )
                return
            try:
                model = at_size(
                    self.best, size * shape[1] // side, size * shape[2] // side
                )
            except ValueError as error:
                self.left_out.append(f"the plain net at {size} pixels: {error}")
                return
            timed = self.wish.by_cost and self.wish.in_ms
            if not timed or self.over(self.file_of(model)) <= MARGIN:
                break
            size -= 16
        self.say(f"teaches the plain net at {size} pixels")
        x, y = self.arrays()
        fine_tune(
            model,
            x,
            y,
            epochs=self.teaching.epochs,
            teacher=self.best,
            checkpoint=self.teaching.file(f"smaller_{size}.npz"),
            verbose=self.teaching.verbose,
            seed=self.teaching.seed,
        )
        name = f"the plain net at {size} pixels"
        self.static(name, model, self.maker.quantization)

    def file_of(self, model: keras.Model) -> bytes:
        """A net's file, whatever it has learned."""
        return self.maker.file(model, self.maker.quantization).path.read_bytes()

    def time(self) -> None:
        """All files in turn, on the same pictures; what keeps to the wish."""
        ms = self.maker.time_files({net.name: net.content for net in self.tried})
        self.tried = [dataclasses.replace(n, ms=ms[n.name]) for n in self.tried]
        plain = self.tried[0]
        self.tried = [
            dataclasses.replace(net, kept=self.wish.keeps(net, plain))
            for net in self.tried
        ]

    def settled(self) -> Tried:
        """The answer: the best of what keeps to the wish, or the closest to it."""
        self.say("times all files in turn")
        self.time()
        plain = self.tried[0]
        kept = [net for net in self.tried if net.kept]
        if not kept:
            if self.wish.by_cost:
                return min(self.tried, key=lambda net: net.ms)
            return plain
        if self.wish.by_cost:
            return max(kept, key=lambda net: (net.accuracy, -net.ms))
        limit = TIE * min(net.ms for net in kept)
        near = [net for net in kept if net.ms <= limit]
        return max(near, key=lambda net: (net.accuracy, -net.ms))
