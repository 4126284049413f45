"""The nets that the arms of `exits_on_photos.py` make: static ones, and with exits.

A net is a sequence of exits, each an arm and a number, the last of which answers whatever
got so far: of one alone it is a static net. What all exits said of the photos is known, so
that a net can be judged without running it; `built` makes it.
"""

import dataclasses
import functools
import itertools
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_dyngate as kd
from keras_dyngate.models.exits.cascading import at_input
from keras_dyngate.thresholds.mixing import fit_mixing, mix
from keras_dyngate.thresholds.table import ExitTable

Nets = dict[str, tuple[tuple[str, int], ...]]  # by title: each exit's (arm, number)
MANNERS = ("long", "strong", "further")  # of teaching, by which nets are called besides
HEADS = ("linear", "conv", "separable", "conv_untaught", "separable_untaught")


class Arm:
    """What one arm of one seed says of val and test, and what its exits cost.

    Attributes:
        places, names: Of its exits; the place of the head is None.
        head_macs: Of each exit's own layers; of the head 0.
        trunk_macs: Of the trunk up to each exit, heads apart: `[exits]`, of a gated net
            `[N, exits]`.
        scores: Raw, `[N, exits, classes]`, those of val first.
        truth: Labels, `[N]`.
        validation: How many of them are val's.
    """

    def __init__(self, folder: Path) -> None:
        about = json.loads((folder / "about.json").read_text())
        held = np.load(folder / "scores.npz")
        self.places, self.names = about["places"], about["names"]
        self.first_size = about["first_size"]
        self.head_macs = [*about["head_macs"], 0]
        self.trunk_macs = np.cumsum(about["stage_macs"])
        if "val_macs" in held:
            self.trunk_macs = np.concatenate([held["val_macs"], held["test_macs"]])
        parts = [held["val_scores"], held["test_scores"]]
        self.scores, self.validation = np.concatenate(parts), len(parts[0])
        self.truth = np.concatenate([held["val_truth"], held["test_truth"]])

    @property
    def head(self) -> int:
        """The number of its last exit."""
        return len(self.names) - 1

    def costs(self, exit: int) -> np.ndarray:
        """MACs of each photo to an exit, its head apart, `[N]`."""
        return np.broadcast_to(self.trunk_macs[..., exit], len(self.truth))


@dataclasses.dataclass(frozen=True)
class Net:
    """Some exits, each (arm, number), in order; the last is where all leave.

    Attributes:
        name: In a few words.
        kind: "static"; "heads", those of one arm; "joint", chosen from the jointly
            taught; "first", the same after a first net; "gated"; "cascade", whole nets.
        exits: (name of an arm, number of its exit).
    """

    name: str
    kind: str
    exits: tuple[tuple[str, int], ...]

    def scores(self, arms: dict[str, Arm]) -> np.ndarray:
        """Raw scores `[N, n, classes]`."""
        return np.stack([arms[a].scores[:, k] for a, k in self.exits], axis=1)

    def macs(self, arms: dict[str, Arm]) -> np.ndarray:
        """MACs of each photo to each exit, `[N, n]`."""
        found, heads = [], np.zeros(len(arms[self.exits[0][0]].truth), "int64")
        for arm, number in self.exits:
            heads = heads + arms[arm].head_macs[number]
            spent = arms[arm].costs(number)
            found.append(heads + spent)
            if is_whole(arms[arm]):  # what comes next begins with the photo again
                heads = heads + spent
        return np.stack(found, axis=1)

    def table(
        self, arms: dict[str, Arm], rows: np.ndarray, weights: np.ndarray
    ) -> ExitTable:
        """Of some photos, by the largest probability of scores that are mixed."""
        raw, truth = self.scores(arms)[rows], arms[self.exits[0][0]].truth[rows]
        mixed = mix(raw, weights).astype("float32")
        top = mixed.max(-1, keepdims=True)
        confidence = 1 / np.exp(mixed - top).sum(-1)
        return ExitTable(
            confidence[:, :-1].astype("float32"),
            mixed.argmax(-1),
            self.macs(arms)[rows],
            truth,
            plain=raw[:, -1].argmax(-1),
        )

    def mixing(self, arms: dict[str, Arm], rows: np.ndarray) -> np.ndarray:
        """How much each exit counts, from some photos."""
        truth = arms[self.exits[0][0]].truth[rows]
        return fit_mixing(self.scores(arms)[rows], truth, combine=True)

    def built(self, folder: Path) -> keras.Model:
        """The Keras model, from a seed's folder of arms; exits combine."""
        last, end = self.exits[-1]
        whole = load(folder / last / "net.keras")
        if not isinstance(whole, kd.EarlyExitModel):
            trunk = whole
        elif end == len(whole.gates):
            trunk = whole.trunk
        elif last.startswith("beside"):  # not what makes a place for it
            image = keras.Input(whole.input_shape[1:])
            trunk = keras.Model(image, whole.gates[end](image))
        else:
            trunk = kd.cut_at_exit(whole, exit=end)
        if len(self.exits) == 1:
            return trunk
        whole, places, heads = [], [], []
        for arm, number in self.exits[:-1]:
            model = load(folder / arm / "net.keras")
            if not isinstance(model, kd.EarlyExitModel):
                whole.append(kd.ExitHead(trunk.output_shape[-1], model, name=arm))
            elif arm.startswith("beside") or model.after[number] == "input":
                whole.append(model.gates[number])
            else:
                places.append(model.after[number])
                heads.append(model.gates[number])
        if whole:
            trunk, first = at_input(trunk, len(whole))
            places, heads = [*first, *places], [*whole, *heads]
        return kd.EarlyExitModel(trunk, places, heads, combine=True)


@functools.cache
def read(folder: Path) -> dict[str, Arm]:
    """All arms of a seed."""
    folders = sorted(f for f in folder.iterdir() if (f / "scores.npz").exists())
    return {f.name: Arm(f) for f in folders}


@functools.lru_cache(maxsize=4)
def load(path: Path) -> Any:
    """A saved model."""
    return keras.models.load_model(path, compile=False)


def is_whole(arm: Arm) -> bool:
    """Whether an arm is one net without exits, gated or not."""
    return len(arm.names) == 1


def plain_net(arms: dict[str, Arm]) -> Net:
    """The net as it was given: the head of any arm that left it alone."""
    name = next(name for name in HEADS if name in arms)
    return Net("plain", "static", ((name, arms[name].head),))


def taught_net(arms: dict[str, Arm], arm: str = "joint") -> Net:
    """The same, taught jointly with exits."""
    more = arm.replace("joint", "").replace("_", " ")
    return Net(f"plain, taught jointly{more}", "static", ((arm, arms[arm].head),))


def jointly(arms: dict[str, Arm]) -> list[str]:
    """The arms of that kind: `joint`, `joint_strong`."""
    return [name for name in arms if name.partition("_")[0] == "joint"]


def static_nets(arms: dict[str, Arm]) -> list[Net]:
    """What dynamic nets are held against."""
    joint = arms["joint"]
    found = [plain_net(arms), *(taught_net(arms, name) for name in jointly(arms))]
    for number, place in enumerate(joint.places[1:-1], 1):
        found.append(Net(f"cut after {place}", "static", (("joint", number),)))
    found.append(Net(f"first {joint.first_size} alone", "static", (("joint", 0),)))
    found += [Net(n, "static", e) for n, e in alone(arms, "removed").items()]
    for title, exit in beside(arms).items():
        more = " alone" if title.startswith("first") else ", taught"
        found.append(Net(title + more, "static", (exit,)))
    return found


def beside(arms: dict[str, Arm]) -> dict[str, tuple[str, int]]:
    """Whole nets that were taught alone: which exit of that arm each is.

    They are called as their exits are, and by how they were taught: those of an arm
    `beside_strong`, "first 160 strong".
    """
    found = {}
    for arm in arms:
        kind, *endings = arm.split("_")
        if kind == "beside":
            more = "".join(f" {end}" for end in endings if end in MANNERS)
            for number, name in enumerate(arms[arm].names[:-1]):
                found[name.replace("_", " ") + more] = (arm, number)
    return found


def alone(arms: dict[str, Arm], *kinds: str) -> Nets:
    """All exits of arms of `gates_on_photos.py`, of some kinds."""
    return {
        name.replace("_", " "): tuple((name, k) for k in range(arms[name].head + 1))
        for name in arms
        if name.partition("_")[0] in kinds
    }


def leading(arms: dict[str, Arm], nets: Nets, margin: float) -> Nets:
    """Those that no net of fewer MACs beats by more than so many points on val."""

    def worth(exits: tuple[tuple[str, int], ...]) -> tuple[float, float]:
        net, (arm, number) = Net("", "", exits), exits[-1]
        rows = slice(arms[arm].validation)
        right = arms[arm].scores[rows, number].argmax(-1) == arms[arm].truth[rows]
        return float(net.macs(arms)[rows, -1].mean()), 100 * float(right.mean())

    known = {title: worth(exits) for title, exits in nets.items()}
    return {
        title: nets[title]
        for title, (macs, points) in known.items()
        if not any(m < macs and p > points + margin for m, p in known.values())
    }


def dynamic_nets(arms: dict[str, Arm], margin: float = 1.0, most: int = 2) -> list[Net]:
    """Heads of each arm, all and two of them; choices of exits; cascades.

    A cascade is of a first net and another, or of a first net, one with gates and a
    third.

    Args:
        arms: By name.
        margin: First nets, and what is behind them, that trail a cheaper one by more
            points on val are left out.
        most: Exits that are chosen of the jointly taught, at most; or all are.
    """
    found = []
    for name in HEADS:
        if name in arms:
            every = range(arms[name].head)
            for chosen in (every, every[::2]):
                exits = tuple((name, k) for k in (*chosen, arms[name].head))
                title = f"{name.replace('_', ', ')}, {len(chosen)} exits"
                found.append(Net(title, "heads", exits))
    firsts: Nets = {k: (v,) for k, v in beside(arms).items() if k.startswith("first")}
    firsts = {f"first {arms['joint'].first_size}": (("joint", 0),), **firsts}
    firsts = leading(arms, firsts, margin)
    ends: Nets = {"plain net": plain_net(arms).exits}
    for arm in jointly(arms):
        last, title = (arm, arms[arm].head), arm.replace("_", " ")
        every = range(1, last[1])
        numbers = range(most + 1)
        choices = [c for n in numbers for c in itertools.combinations(every, n)]
        for chosen in dict.fromkeys([*choices, tuple(every)]):
            exits = tuple((arm, k) for k in (*chosen, last[1]))
            places = ", ".join(str(arms[arm].places[k]) for k in chosen)
            name = f"{title}: {places}"
            if not chosen:
                ends[f"taught net{title.removeprefix('joint')}"] = exits
                continue
            found.append(Net(name, "joint", exits))
            for first, exit in firsts.items():
                found.append(Net(f"{first}, {name}", "first", (*exit, *exits)))
    gated = alone(arms, "layers", "halves", "both")
    found += [Net(title, "gated", exits) for title, exits in gated.items()]
    others = {k: v for k, v in beside(arms).items() if not k.startswith("first")}
    ends |= {**gated, **{f"{k}, taught": (v,) for k, v in others.items()}}
    ends = leading(arms, ends, margin)
    static_ends = {k: v[0] for k, v in ends.items() if k not in gated}
    for (first, exit), (title, end) in itertools.product(firsts.items(), ends.items()):
        found.append(Net(f"{first}, {title}", "cascade", (*exit, *end)))
        whole = title in gated and is_whole(arms[end[0][0]])
        for last, exit_ in static_ends.items() if whole else ():
            every = (*exit, *end, exit_)
            found.append(Net(f"{first}, {title}, {last}", "cascade", every))
    return found
