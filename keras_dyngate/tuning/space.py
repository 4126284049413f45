"""What a search may vary about a net: gates, exits, and how they are taught.

space = SearchSpace.of(net, ("channels", "layers", "training", "exits"))
setup = space.read(hp)                       # declares what it reads
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from keras_dyngate._walk import controllers
from keras_dyngate.models.exits.cut_points import CutPoint, cut_points
from keras_dyngate.models.exits.cut_times import spread
from keras_dyngate.models.exits.heads import KINDS
from keras_dyngate.models.gating.places import GateablePlace, gateable

PARTS = ("channels", "layers", "training", "exits")
KEPT = (1.0, 0.75, 0.5)  # of what all places cost, what those do that are gated
NEAR = 0.9  # places of nearly the same cost are gated together, or not at all
GRAINS = ("2 groups", "4 groups", "8 channels", "16 channels")
PLACES, LATEST = 8, 0.9  # for exits, and the share of the MACs after which none goes
MIDDLE = 0.4  # of the MACs
ENDS = (0.2, 0.4, 0.7)  # of the training, where gates are not primed
BY_GATES = (0.3, 0.6, 0.9)  # of what is to be saved, where exits save the rest


@dataclasses.dataclass(frozen=True)
class Setup:
    """One choice of all that is varied; the defaults are the library's own.

    Attributes:
        channels: The costliest chains are gated that make up this part of what all chains
            cost, 0 to 1; 0: none.
        grain: "2 groups" of a chain's channels, or groups of "16 channels".
        layers: The same of branches.
        learning_rate: Of `train_gates`.
        prime: Whether the budget is kept from the start, by primed gates, or comes down
            on the gates while they learn.
        budget_end: Share of the training until which it does; None: `train_gates`' own.
        temperature, noise: Of `BinaryGate`.
        exits: Shares of the MACs after which there are exits.
        head: Of exits.
        by_gates: What part of the saving is the gates', where there are exits too.
    """

    channels: float = 0.0
    grain: str = GRAINS[0]
    layers: float = 0.0
    learning_rate: float = 1e-3
    prime: bool = True
    budget_end: float | None = None
    temperature: float = 2 / 3
    noise: float = 1.0
    exits: tuple[float, ...] = ()
    head: str = "separable"
    by_gates: float = 0.6

    @property
    def gated(self) -> bool:
        """Whether anything gets gates."""
        return self.channels > 0 or self.layers > 0

    @property
    def structure(self) -> tuple[Any, ...]:
        """What of it the cost of a net depends on."""
        head = self.head if self.exits else None
        grain = self.grain if self.channels else None
        return self.channels, grain, self.layers, self.exits, head


def costliest(places: Sequence[GateablePlace], part: float) -> list[str]:
    """Names of the costliest places that make up a part of what all cost.

    Args:
        places: That can be gated, of one kind.
        part: 0 to 1; 0: none.
    """
    falling = sorted(places, key=lambda place: -place.share)
    whole, spent, last = sum(place.share for place in places), 0.0, 0.0
    names = []
    for place in falling:
        if spent >= part * whole - 1e-9 and place.share <= NEAR * last:
            break
        spent, last = spent + place.share, place.share
        names.append(place.name)
    return names if part > 0 else []


def levels(places: Sequence[GateablePlace]) -> tuple[float, ...]:
    """The parts among `KEPT` that differ in what is gated; 0 and rising."""
    found = {tuple(costliest(places, part)): part for part in sorted(KEPT)}
    return (0.0, *sorted(part for names, part in found.items() if names))


def grains(widths: Sequence[int]) -> tuple[str, ...]:
    """Which of `GRAINS` suit chains of so many channels each."""
    fitting = []
    for grain in GRAINS:
        number = int(grain.split()[0])
        fits = all(width % number == 0 for width in widths)
        if "channels" in grain:
            fits = fits and any(width > number for width in widths)
        if widths and fits:
            fitting.append(grain)
    return tuple(fitting)


@dataclasses.dataclass(frozen=True)
class SearchSpace:
    """The choices that one net has.

    Attributes:
        parts: What is varied, some of `PARTS`.
        channels, layers: The parts of its chains and branches that may be gated.
        grains: For its chains.
        places: Shares of the MACs after which an exit may go.
        has_gates: Whether the net had gates of its own.
    """

    parts: tuple[str, ...]
    channels: tuple[float, ...] = (0.0,)
    layers: tuple[float, ...] = (0.0,)
    grains: tuple[str, ...] = GRAINS[:1]
    places: tuple[float, ...] = ()
    has_gates: bool = False

    @classmethod
    def of(cls, net: keras.Model, parts: Sequence[str]) -> "SearchSpace":
        """The choices for a net; what it cannot have is left out.

        Raises:
            ValueError: If nothing of it can be gated and it can carry no exit, of what
                is to be varied.
        """
        chains, branches = open_places(net, "channel"), open_places(net, "layer")
        suitable = grains([place.channels for place in chains])
        channels = levels(chains) if "channels" in parts and suitable else (0.0,)
        layers = levels(branches) if "layers" in parts else (0.0,)
        cuts: tuple[float, ...] = ()
        if "exits" in parts:
            points = spread(exit_points(net), PLACES)
            cuts = tuple(sorted({round(point.share, 4) for point in points}))
        has_gates = any(True for _ in controllers(net))
        if len(channels) == len(layers) == 1 and not cuts and not has_gates:
            raise ValueError(
                f"`net` must have a place for {' or '.join(parts)}. "
                f"Received: {net.name!r} without any; `kd.gateable(net)` says why"
            )
        return cls(
            tuple(parts), channels, layers, suitable or GRAINS[:1], cuts, has_gates
        )

    @property
    def default(self) -> Setup:
        """What the library does untuned: all chains in two groups, or else all else."""
        if len(self.channels) > 1:
            return Setup(channels=self.channels[-1], grain=self.grains[0])
        if len(self.layers) > 1:
            return Setup(layers=self.layers[-1])
        if self.has_gates or not self.places:
            return Setup()
        return Setup(exits=(self.middle,))

    @property
    def middle(self) -> float:
        """The place of an exit that can save half of the cost and more."""
        return min(self.places, key=lambda place: abs(place - MIDDLE))

    @property
    def cheapest(self) -> tuple[Setup, ...]:
        """What can cost least: all gated, the first exit first; both, or one alone."""
        gates: dict[str, Any] = {
            "channels": self.channels[-1],
            "grain": self.grains[-1],
            "layers": self.layers[-1],
        }
        exits: dict[str, Any] = {"exits": self.places[:1], "head": "linear"}
        both = (Setup(**gates, **exits), Setup(**gates), Setup(**exits))
        return tuple(dict.fromkeys(both))

    def read(self, hp: Any) -> Setup:
        """The setup that hyper-parameters stand for; declares them where they are new.

        Args:
            hp: keras-tuner's `HyperParameters`.
        """
        start, found = self.default, dict[str, Any]()
        if len(self.channels) > 1:
            found["channels"] = hp.Choice(
                "channels", list(self.channels), default=start.channels
            )
            with hp.conditional_scope("channels", list(self.channels[1:])):
                found["grain"] = hp.Choice(
                    "grain", list(self.grains), default=self.grains[0]
                )
        if len(self.layers) > 1:
            found["layers"] = hp.Choice(
                "layers", list(self.layers), default=start.layers
            )
        if "training" in self.parts and (found or self.has_gates):
            found["learning_rate"] = hp.Float(
                "learning_rate", 1e-4, 1e-2, sampling="log", default=1e-3
            )
            found["prime"] = hp.Boolean("prime", default=True)
            with hp.conditional_scope("prime", [False]):
                found["budget_end"] = hp.Choice(
                    "budget_end", list(ENDS), default=ENDS[1]
                )
            found["temperature"] = hp.Float(
                "temperature", 0.3, 1.5, sampling="log", default=2 / 3
            )
            found["noise"] = hp.Choice("noise", [0.0, 0.25, 0.5, 1.0], default=1.0)
        if self.places:
            found |= self._exits(hp, bool(found) or self.has_gates)
        return Setup(**{name: v for name, v in found.items() if v is not None})

    def _exits(self, hp: Any, beside_gates: bool) -> dict[str, Any]:
        most = min(2, len(self.places))
        counts = list(range(0 if beside_gates else 1, most + 1))
        default = len(self.default.exits) if len(counts) > 1 else counts[0]
        count = hp.Choice("exits", counts, default=default)
        some = [n for n in counts if n]
        at = []
        for number in range(1, most + 1):
            with hp.conditional_scope("exits", [n for n in counts if n >= number]):
                name = f"exit_{number}"
                share = hp.Choice(name, list(self.places), default=self.middle)
                at += [share] if number <= count else []
        found: dict[str, Any] = {"exits": tuple(sorted(set(at)))}
        with hp.conditional_scope("exits", some):
            found["head"] = hp.Choice("head", list(KINDS), default="separable")
            if beside_gates:
                found["by_gates"] = hp.Choice("by_gates", list(BY_GATES), default=0.6)
        return found


def open_places(net: keras.Model, kind: str) -> list[GateablePlace]:
    """Places of a kind, "channel" or "layer", that can be gated."""
    places = gateable(net)
    return [p for p in places if p.reason is None and p.kind == kind]


def exit_points(net: keras.Model) -> list[CutPoint]:
    """Cut points that an exit can go after: feature maps, where there are any."""
    points = [p for p in cut_points(net) if p.share <= LATEST and None not in p.shape]
    return [p for p in points if len(p.shape) == 3] or points
