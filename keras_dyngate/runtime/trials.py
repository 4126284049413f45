"""Sets of decisions to run a file under, and how long each takes.

    trials = draw_trials(LiteRTModel("forcible.tflite"), 300)
    trials.save("trials.json")                  # for a phone, see tflite/native
    ms = time_trials(LiteRTModel("forcible.tflite"), trials)

The file is one that `export_tflite(options=GateOptions(forcible=True))` wrote.
"""

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_dyngate._checks import one_of, positive_int
from keras_dyngate._files import writable_target, write_whole
from keras_dyngate.runtime.exit_places import limits_to
from keras_dyngate.runtime.litert_model import LiteRTModel

FORMAT = "keras_dyngate trials 1"
CACHES = ("warm", "cold")
_FLUSHED = 64 * 2**20  # bytes that are written between calls for cold caches


@dataclasses.dataclass(frozen=True, eq=False)
class Trials:
    """Sets of decisions, one per row.

    Attributes:
        decisions: (name, units, groups that run together) in the order of the input.
        held: int32 `[trials, units]`: 1 open, 0 shut, -1 as the net decides.
        exits: int `[trials]`, the exit that each leaves at; None: a net without exits.
        gates: How many exits there are before the head.
        signature: Of the file, to call.
        file_sha256: Of the file.
    """

    decisions: tuple[tuple[str, int, int], ...]
    held: np.ndarray
    exits: np.ndarray | None = None
    gates: int = 0
    signature: str = ""
    file_sha256: str = ""

    def __len__(self) -> int:
        return len(self.held)

    def __getitem__(self, rows: Any) -> "Trials":
        exits = None if self.exits is None else self.exits[rows]
        return dataclasses.replace(self, held=self.held[rows], exits=exits)

    @property
    def thresholds(self) -> np.ndarray | None:
        """float32 `[trials, gates]` that send each trial to its exit."""
        if self.exits is None:
            return None
        rows = [limits_to(int(index), self.gates) for index in self.exits]
        return np.stack(rows) if rows else np.zeros((0, self.gates), "float32")

    def decided(self) -> dict[str, np.ndarray]:
        """As `keras_dyngate.decide` returns them, to be given to `CostTable.of`."""
        found: dict[str, np.ndarray] = {}
        start = 0
        for name, units, _ in self.decisions:
            found[name] = self.held[:, start : start + units].astype("float32")
            start += units
        if self.exits is not None:
            found["exit"] = self.exits[:, None]
        return found

    def feed(self, index: int) -> dict[str, np.ndarray]:
        """What a trial puts into the signature beside the image."""
        found: dict[str, np.ndarray] = {}
        if self.decisions:
            found["decisions"] = self.held[index].astype(np.int32)
        if self.exits is not None:
            found["thresholds"] = limits_to(int(self.exits[index]), self.gates)
        return found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON file that the runners of other machines read.

        Raises:
            ValueError: If the path cannot be written.
        """
        limits = self.thresholds
        noted = {
            "format": FORMAT,
            "signature": self.signature,
            "file_sha256": self.file_sha256,
            "decisions": [
                {"name": name, "units": units, "groups": groups}
                for name, units, groups in self.decisions
            ],
            "gates": self.gates,
            "held": self.held.tolist(),
            "exits": None if self.exits is None else self.exits.tolist(),
            "thresholds": None if limits is None else limits.tolist(),
        }
        write_whole(writable_target("path", path), json.dumps(noted).encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Trials":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is another one, or damaged.
        """
        try:
            noted = json.loads(Path(path).read_bytes())
            if noted["format"] != FORMAT:
                raise ValueError(noted["format"])
            decisions = tuple(
                (str(x["name"]), int(x["units"]), int(x["groups"]))
                for x in noted["decisions"]
            )
            held = np.array(noted["held"], np.int32)
            exits = None if noted["exits"] is None else np.array(noted["exits"], int)
            units = sum(units for _, units, _ in decisions)
            held = held.reshape(len(noted["held"]), units)
            if exits is not None and exits.shape != (len(held),):
                raise ValueError("exits")
            found = cls(
                decisions,
                held,
                exits,
                int(noted["gates"]),
                str(noted["signature"]),
                str(noted["file_sha256"]),
            )
        except FileNotFoundError:
            raise
        except (KeyError, TypeError, ValueError, UnicodeDecodeError) as error:
            raise ValueError(
                "`path` must be a file that `Trials.save` wrote. "
                f"Received: {os.fspath(path)!r} ({type(error).__name__}: {error})"
            ) from None
        return found


def sha256_of(path: str | os.PathLike[str]) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def draw_trials(
    model: LiteRTModel, count: int = 300, *, what: str = "all", seed: int = 0
) -> Trials:
    """Draw decisions at random: from everything open to everything shut.

    Each trial has an open rate of its own, uniform from 0 to 1, by which groups and
    layers are opened, and one exit of those there are, all equally often. The first
    trials have everything open and everything shut.

    Args:
        model: A file with the signature that takes decisions, see
            `GateOptions(forcible=True)`; of a net with early exits and nothing else
            `classify_at` will do.
        count: How many. Default 300; of "exits" one each.
        what: "all" (default), or "exits": all gates are open, and the trials are the
            exits in turn.
        seed: Of the draws.

    Raises:
        ValueError: If the file has no such signature, or for a bad argument.
    """
    positive_int("count", count)
    one_of("what", what, ("all", "exits"))
    noted = model.metadata.get("decisions") or []
    decisions = tuple((x["name"], int(x["units"]), int(x["groups"])) for x in noted)
    signature = model.table.first("answer_under")
    if signature is None:
        signature, decisions = model.table.first("answer_at"), ()
    if signature is None:
        raise ValueError(
            "`model` must be a file whose decisions can be made by the caller; export "
            "it with `options=kd.GateOptions(forcible=True)`. "
            f"Received: {model.path} with {sorted(model.signatures)}"
        )
    limits = model.signatures[signature].inputs.get("thresholds")
    gates = 0 if limits is None else int(limits.shape[0])
    rng = np.random.default_rng(seed)
    if what == "exits" or not decisions:
        if not gates:
            raise ValueError(f"`model` must have exits. Received: {model.path}")
        count = gates + 1 if what == "exits" else max(count, gates + 1)
    rates = np.concatenate([[1.0, 0.0], rng.uniform(0, 1, count)])[:count]
    parts = [np.zeros((count, 0), np.int32)]
    for _, units, groups in decisions:
        is_open = rng.uniform(0, 1, (count, groups)) < rates[:, None]
        parts.append(np.repeat(is_open, units // groups, axis=1).astype(np.int32))
    held = np.concatenate(parts, axis=1)
    exits = np.arange(count) % (gates + 1) if gates else None
    if what == "exits":
        held = np.full_like(held, 1)
    elif exits is not None:  # the first two go all the way
        exits = np.concatenate([[gates, gates], exits])[:count]
    return Trials(decisions, held, exits, gates, signature, sha256_of(model.path))


def time_trials(
    model: LiteRTModel,
    trials: Trials,
    images: np.ndarray | None = None,
    *,
    rounds: int = 5,
    cache: str = "warm",
    others: Mapping[str, LiteRTModel] | None = None,
    seed: int = 0,
    watch: Callable[[float], Any] | None = None,
) -> tuple[np.ndarray, dict[str, float]]:
    """Time a file under trials, in another order in every round; the fastest counts.

    What disturbs a machine makes a call slower, never faster.

    Args:
        model: The file that the trials are for.
        trials: What to run it under.
        images: `[N, ...]` to be gone through in turn; None: one random image.
        rounds: How many times each trial is timed. Default 5.
        cache: "warm" (default): each timed call follows one under the same decisions.
            "cold": it follows writes to 64 MB, as a call now and then finds the caches.
        others: Files to be timed in the same rounds, by `classify` or what their first
            answer is called: the plain net, to compare with.
        seed: Of the order.
        watch: Called with the share that is done, 0 to 1.

    Returns:
        ms `[trials]`, and the ms of the others: the least of 8 calls each round.

    Raises:
        ValueError: If the trials are for another file, or for a bad argument.
    """
    positive_int("rounds", rounds)
    one_of("cache", cache, CACHES)
    if trials.file_sha256 and trials.file_sha256 != sha256_of(model.path):
        raise ValueError(
            "`trials` must be drawn for this file. "
            f"Received: {model.path}, of another hash"
        )
    spec = model.signatures[trials.signature].inputs["image"]
    if images is None:
        random = np.random.default_rng(seed).integers(0, 256, spec.shape)
        images = random.astype(spec.dtype)
    images = np.asarray(images, spec.dtype).reshape(-1, *spec.shape[1:])
    rng = np.random.default_rng(seed)
    heap = np.zeros(_FLUSHED // 8 if cache == "cold" else 0)
    best = np.full(len(trials), np.inf)
    beside = {
        name: (file, file.table.first("answer") or next(iter(file.signatures)))
        for name, file in (others or {}).items()
    }
    found = dict.fromkeys(beside, np.inf)

    def timed(file: LiteRTModel, signature: str, feed: dict[str, Any]) -> float:
        heap[:] = time.perf_counter()
        warmup = int(cache == "warm")
        return file.benchmark(signature, feed, repeats=1, warmup=warmup).median_ms

    for turn in range(rounds):
        for done, index in enumerate(rng.permutation(len(trials))):
            feed = {"image": images[(turn + index) % len(images)][None]}
            ms = timed(model, trials.signature, {**feed, **trials.feed(index)})
            best[index] = min(best[index], ms)
            if done % max(1, len(trials) // 8) == 0:
                for name, (file, answer) in beside.items():
                    found[name] = min(found[name], timed(file, answer, feed))
            if watch is not None:
                watch((turn + (done + 1) / len(trials)) / rounds)
    return best, found
