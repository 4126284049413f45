"""The best answer in a given time, from an exported anytime net.

runner = AnytimeRunner("sliced.tflite")
answer = runner.run(image, deadline_ms=20)
answer.label, answer.k, answer.elapsed_ms

answer = runner.start(image)          # or step by step, as long as one likes
while answer.k < runner.subnetworks:
    answer = runner.refine(answer)
"""

import dataclasses
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from keras_dyngate._checks import positive_int
from keras_dyngate.runtime.litert_model import LiteRTModel

HISTORY = 32  # calls of a signature that its expected time is taken from
QUANTILE = 0.9
PATIENCE = 8  # steps left out, after which the longest of its times is forgotten


@dataclasses.dataclass(frozen=True, eq=False)
class AnytimeAnswer:
    """What a net says after one of its sub-networks.

    Attributes:
        k: The sub-network, from 1.
        label: Its answer, a class index.
        logits: Its raw scores `[classes]`.
        elapsed_ms: From the image to this answer, all earlier steps included.
        in_time: Whether that kept the deadline; True without one.
        late: The answer of a step that was expected to be in time but was not, or None.
    """

    k: int
    label: int
    logits: np.ndarray
    elapsed_ms: float
    in_time: bool = True
    late: "AnytimeAnswer | None" = None
    kept: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict, repr=False)
    owner: Any = dataclasses.field(default=None, repr=False)


class AnytimeRunner:
    """Runs the steps of a sliced net, or one sub-network of an I-ResNeXt, in time.

    How long a step takes is known from its last calls: the time that nine of ten kept.
    The first times are measured when the runner is made. A step that is left out again and
    again is tried anew some time: its longest times are forgotten one by one.

    Threads may share a runner. They wait for each other, a `run` for a whole `run`; that
    counts towards `elapsed_ms` and a deadline, not as a time of a step.

    Args:
        path: A file that `export_tflite` made of an anytime net.
        num_threads: Positive int, the CPU threads of the kernels.
        warmup: Runs through all steps before the first use; 1 or more. Default 3.
        clock: Returns seconds; for tests.

    Attributes:
        model: The `LiteRTModel`.
        subnetworks: K.
        incremental: Whether an answer continues from the one before (a file with
            steps); otherwise each sub-network of the file starts anew.

    Raises:
        ValueError: If the file is not of an anytime net, or for a bad argument.

    Example:
        ```python
        model = kd.sliced_resnet(blocks=1, width=16, subnetworks=2)
        kd.export_tflite(model, "anytime.tflite", parity_data=False)
        runner = kd.AnytimeRunner("anytime.tflite")
        answer = runner.run(np.zeros((32, 32, 3), "float32"), deadline_ms=20)
        print(answer.k, answer.label, answer.elapsed_ms)
        ```
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        num_threads: int = 1,
        *,
        warmup: int = 3,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.model = LiteRTModel(path, num_threads)
        names = self.model.signatures
        steps = self.model.table.numbered("step")
        self.incremental = 1 in steps
        alone = self.model.table.numbered("subnetwork")
        self._names = steps if self.incremental else alone
        if not self._names:
            raise ValueError(
                "`path` must be a file of an anytime net, with signatures `start` or "
                f"`classify_k1`. Received: signatures {sorted(names)}"
            )
        self.subnetworks = max(self._names)
        self._clock = clock
        self._times: dict[int, deque[float]] = {
            k: deque(maxlen=HISTORY) for k in self._names
        }
        self._left_out: Counter[int] = Counter()
        spec = names[self._names[min(self._names)]].inputs["image"]
        blank = np.zeros(spec.shape, spec.dtype)
        for index in range(positive_int("warmup", warmup) + 1):
            if index == 1:  # the first round was cold
                for times in self._times.values():
                    times.clear()
            answer = self.start(blank)
            while answer.k < self.subnetworks:
                answer = self.refine(answer)

    def expected_ms(self, k: int) -> float:
        """Time that nine of ten of the last calls for sub-network k kept, ms.

        Of its step alone in an incremental file.
        """
        with self.model.lock:
            return float(np.quantile(self._times[self._known(k)], QUANTILE))

    def median_ms(self) -> dict[int, float]:
        """Median time of the last calls by sub-network, ms; of the steps alone."""
        with self.model.lock:
            return {k: float(np.median(times)) for k, times in self._times.items()}

    def _known(self, k: int) -> int:
        if k not in self._names:
            raise ValueError(
                f"`k` must be one of {sorted(self._names)}. Received: k={k!r}"
            )
        return k

    def _call(
        self, k: int, kept: Mapping[str, np.ndarray], before: float
    ) -> AnytimeAnswer:
        """Run the signature of k; `before` is the time already spent, ms."""
        name = self._names[k]
        inputs = {key: kept[key] for key in self.model.signatures[name].inputs}
        asked = self._clock()
        with self.model.lock:
            begin = self._clock()
            outputs = self.model.run(name, **inputs)
            end = self._clock()
            self._times[k].append(1e3 * (end - begin))
        taken = 1e3 * (end - asked)
        logits = outputs.pop("logits")[0]
        label = int(outputs.pop("label")[0])
        outputs.pop("executed_macs", None)
        carried = {**kept, **outputs} if self.incremental else kept
        return AnytimeAnswer(k, label, logits, before + taken, kept=carried, owner=self)

    def start(self, image: Any) -> AnytimeAnswer:
        """The answer of the smallest sub-network of the file.

        Args:
            image: `[height, width, channels]` with or without the batch axis.
        """
        return self._call(min(self._names), {"image": np.asarray(image)}, 0.0)

    def refine(self, answer: AnytimeAnswer) -> AnytimeAnswer:
        """The answer of the next sub-network in the file.

        Raises:
            ValueError: If the answer is the last one, or not this runner's: what it
                carries is of use to its own net only.
        """
        if not isinstance(answer, AnytimeAnswer) or answer.owner is not self:
            raise ValueError(
                "`answer` must be one that this runner gave: carried features of "
                f"another model do not fit. Received: {type(answer).__name__} of "
                f"{getattr(getattr(answer, 'owner', None), 'model', None)!r}"
            )
        later = [k for k in self._names if k > answer.k]
        if not later:
            raise ValueError(
                f"`answer` must be of a sub-network below {self.subnetworks}. "
                f"Received: k={answer.k}"
            )
        return self._call(later[0], answer.kept, answer.elapsed_ms)

    def run(self, image: Any, deadline_ms: float | None = None) -> AnytimeAnswer:
        """The best answer reached in time.

        A step is taken if it is expected to end before the deadline. From a file whose
        sub-networks start anew, only the largest one that is expected to fit is run.

        Args:
            image: `[height, width, channels]` with or without the batch axis, RGB, 0 to
                255.
            deadline_ms: Time for the whole call, ms, 0 or more; None: no limit. The
                first answer is given whatever the deadline.

        Returns:
            An `AnytimeAnswer`; its `late` is the answer of a step that ended too late.
        """
        if deadline_ms is not None and (
            isinstance(deadline_ms, str) or not deadline_ms >= 0
        ):
            raise ValueError(
                f"`deadline_ms` must be 0 or more. Received: deadline_ms={deadline_ms!r}"
            )
        limit = float("inf") if deadline_ms is None else float(deadline_ms)
        begin = self._clock()
        with self.model.lock:
            if self.incremental:
                return self._steps(image, begin, limit)
            spent = 1e3 * (self._clock() - begin)
            fitting = [k for k in self._names if self._fits(k, spent, limit)]
            k = max(fitting, default=min(self._names))
            return self._judged(
                self._call(k, {"image": np.asarray(image)}, 0.0), begin, limit
            )

    def _steps(self, image: Any, begin: float, limit: float) -> AnytimeAnswer:
        """Step after step, as long as the next one is expected to be in time."""
        answer = self._judged(self.start(image), begin, limit)
        while answer.k < self.subnetworks and answer.in_time:
            spent = 1e3 * (self._clock() - begin)
            if not self._fits(answer.k + 1, spent, limit):
                break
            after = self._judged(self.refine(answer), begin, limit)
            if not after.in_time:
                return dataclasses.replace(answer, late=after)
            answer = after
        return answer

    def _fits(self, k: int, spent: float, limit: float) -> bool:
        """Whether sub-network k is expected within the limit."""
        if spent + self.expected_ms(k) <= limit:
            return True
        self._left_out[k] += 1
        times = self._times[k]
        if self._left_out[k] % PATIENCE == 0 and len(times) > 1:
            times.remove(max(times))
        return False

    def _judged(
        self, answer: AnytimeAnswer, begin: float, limit: float
    ) -> AnytimeAnswer:
        elapsed = 1e3 * (self._clock() - begin)
        return dataclasses.replace(answer, elapsed_ms=elapsed, in_time=elapsed <= limit)


def step_inputs(model: LiteRTModel, images: Iterable[Any]) -> dict[str, Any]:
    """By step, what each image leads to; nothing for files without steps."""
    found: dict[str, Any] = {}
    for image in images:
        kept = {"image": image}
        for name in model.table.numbered("step").values():
            inputs = {key: kept[key] for key in model.signatures[name].inputs}
            found.setdefault(name, []).append(inputs)
            kept |= model.run(name, **inputs)
    return found
