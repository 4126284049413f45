"""How long a file takes image by image, beside what it decided and executed.

    model = LiteRTModel("net.tflite")
    reports = time_images({"net": (model, "classify", images)})
    reports["net"].distribution()["median_ms"]
    for group in reports["net"].by_exit():
        print(group.exit, group.share, group.median_ms, group.executed_macs)

Of several files each image is timed on all in turn, so that their times can be compared.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_dyngate._checks import positive_int
from keras_dyngate._deprecation import is_now
from keras_dyngate.runtime.chain import chain, feeds
from keras_dyngate.runtime.comparison import compare_latency
from keras_dyngate.runtime.litert_model import LiteRTModel, macs_of

# Outputs of what explains an answer that are no decisions.
ANSWERS = {"label", "labels", "logits", "score", "exit", "executed_macs"}


@dataclasses.dataclass(frozen=True)
class ImageGroup:
    """Images that left at one exit, or of which about as much ran.

    Attributes:
        images: How many.
        share: Of all images, 0 to 1.
        median_ms, p90_ms: Of all timed calls on them.
        executed_macs: Mean MACs per image (not thousands), or None.
        open_rate: Mean share of open gates, 0 to 1, or None.
        exit: The exit that they left at, or None.
    """

    images: int
    share: float
    median_ms: float
    p90_ms: float
    executed_macs: float | None
    open_rate: float | None
    exit: int | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class LatencyReport:
    """Times of one signature, and what it did with each image.

    Attributes:
        signature: Its name.
        num_threads: CPU threads of the kernels.
        times_ms: Milliseconds of every call, `[rounds, images]`.
        executed_macs: MACs (not thousands) per image, int64 `[images]`; None if the file
            does not say.
        exits: Exit indices, int `[images]`; None without early exits.
        open_rates: Share of the gates that were open, `[images]`; units of a block that
            did not run count as shut. None if the file does not explain the signature,
            or has no gates.
    """

    signature: str
    num_threads: int
    times_ms: np.ndarray
    executed_macs: np.ndarray | None = None
    exits: np.ndarray | None = None
    open_rates: np.ndarray | None = None

    @property
    def image_ms(self) -> np.ndarray:
        """Median time of each image over the rounds, `[images]`."""
        return np.median(self.times_ms, axis=0)

    def distribution(self) -> dict[str, float]:
        """`min_ms`, `median_ms`, `mean_ms`, `p90_ms` and `p99_ms` of all calls."""
        times = self.times_ms
        return {
            "min_ms": float(times.min()),
            "median_ms": float(np.median(times)),
            "mean_ms": float(times.mean()),
            "p90_ms": float(np.percentile(times, 90)),
            "p99_ms": float(np.percentile(times, 99)),
        }

    def by_exit(self) -> list[ImageGroup]:
        """A group per exit that images left at, in order; empty without exits."""
        if self.exits is None:
            return []
        return [
            self._group(self.exits == index, exit=int(index))
            for index in np.unique(self.exits)
        ]

    def by_open_rate(self, bins: int = 5) -> list[ImageGroup]:
        """Groups of images whose open rates are close; empty without gates.

        Args:
            bins: Positive int: the range of the rates is cut into so many parts of equal
                width, and those that hold images are returned. Default 5.
        """
        if self.open_rates is None:
            return []
        low, high = self.open_rates.min(), self.open_rates.max()
        edges = np.linspace(low, high, positive_int("bins", bins) + 1)[1:-1]
        places = np.digitize(self.open_rates, edges)
        return [self._group(places == place) for place in np.unique(places)]

    def macs_correlation(self) -> float | None:
        """Pearson's, of executed MACs with `image_ms`; None where one is constant."""
        macs, times = self.executed_macs, self.image_ms
        if macs is None or not np.ptp(macs) or not np.ptp(times):
            return None
        return float(np.corrcoef(macs, times)[0, 1])

    def ratio_to(self, other: "LatencyReport") -> float:
        """Time of a round over the other's time of that round, median of the rounds.

        Args:
            other: A report of the same run.
        """
        rounds = self.times_ms.sum(axis=1) / other.times_ms.sum(axis=1)
        return float(np.median(rounds))

    def _group(self, chosen: np.ndarray, exit: int | None = None) -> ImageGroup:
        times, macs, rates = (
            self.times_ms[:, chosen],
            self.executed_macs,
            self.open_rates,
        )
        return ImageGroup(
            images=int(chosen.sum()),
            share=float(chosen.mean()),
            median_ms=float(np.median(times)),
            p90_ms=float(np.percentile(times, 90)),
            executed_macs=None if macs is None else float(macs[chosen].mean()),
            open_rate=None if rates is None else float(rates[chosen].mean()),
            exit=exit,
        )


def time_images(
    candidates: Mapping[str, tuple[LiteRTModel, str, Any]],
    *,
    rounds: int = 30,
    **inputs: Any,
) -> dict[str, LatencyReport]:
    """Time signatures on images, all images in turn, and all candidates on each.

    What a later step or stage takes from earlier ones is computed once per image and not
    timed. One round more than `rounds` is run, the first, to warm up.

    Args:
        candidates: (model, signature, images) by name; as many images for each, without
            their batch axis, or what else the signature's input is. Of a signature with
            several inputs a dict of arrays by name.
        rounds: Timed calls per image and candidate. Default 30.
        **inputs: What else signatures take. `thresholds` are the file's own if not given.

    Returns:
        A report by name.

    Raises:
        ValueError: There are no images, or not equally many; no signature takes one of
            `inputs`; or an input is missing or does not suit the file.
    """
    rounds = positive_int("rounds", rounds)
    given = {}
    for name, (model, signature, images) in candidates.items():
        given[name] = feeds(model, images, inputs, signature)
    counts = {len(each) for each in given.values()}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(
            "`candidates` must have equally many images, at least one. "
            f"Received: {sorted(counts)}"
        )
    (count,) = counts
    reports, fed = {}, {}
    for name, (model, signature, _) in candidates.items():
        fed[name], reports[name] = _look(model, signature, given[name])
    taken = {key for calls in fed.values() for key in calls[0]}
    if not set(inputs) <= taken:
        raise ValueError(
            f"`inputs` must be among what the signatures take, {sorted(taken)}. "
            f"Received: {sorted(inputs)}"
        )
    times = compare_latency(
        {name: (*candidates[name][:2], fed[name]) for name in candidates},
        rounds=rounds * count,
        warmup=count,
    )
    return {
        name: dataclasses.replace(report, times_ms=times[name].reshape(rounds, count))
        for name, report in reports.items()
    }


def _look(
    model: LiteRTModel, signature: str, samples: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], LatencyReport]:
    """Inputs of the signature for each sample, and a report that lacks only times."""
    calls, macs, exits, rates = [], [], [], []
    for given in samples:
        *_, (_, fed, outputs) = chain(model, given, signature)
        calls.append(fed)
        executed = macs_of(outputs)
        if executed is not None:
            macs.append(executed)
        if "exit" in outputs:
            exits.append(int(np.ravel(outputs["exit"])[0]))
        if (explain := model.table[signature].explained_by) is not None:
            decisions = model.run(explain, **fed)
            found = [np.ravel(v) > 0 for k, v in decisions.items() if k not in ANSWERS]
            if found:
                rates.append(float(np.concatenate(found).mean()))
    report = LatencyReport(
        signature=signature,
        num_threads=model.num_threads,
        times_ms=np.empty((0, len(calls))),
        executed_macs=np.array(macs) if macs else None,
        exits=np.array(exits) if exits else None,
        open_rates=np.array(rates) if rates else None,
    )
    return calls, report


def measure_latency(*args: Any, **kwargs: Any) -> dict[str, LatencyReport]:
    """The former name of `time_images`."""
    is_now("`runtime.measure_latency`", "`runtime.time_images`")
    return time_images(*args, **kwargs)
