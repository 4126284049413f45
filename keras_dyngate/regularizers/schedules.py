"""Schedules: small callables from training progress (0 to 1) to a value."""

from typing import Any

from keras_dyngate._checks import fraction
from keras_dyngate._registration import serializable


@serializable
class LinearSchedule:
    """A value that moves on a straight line and stays put before and after.

    Args:
        start: Value up to progress `begin`.
        stop: Value from progress `end` on.
        begin: Share of training after which the value starts to move. Default 0.
        end: Share of training at which it arrives. Default 1.

    Call arguments:
        progress: Share of training done, 0 to 1.

    Returns: float.

    Raises:
        ValueError: Unless 0 <= begin <= end <= 1.

    Example:
        ```python
        fading = kd.LinearSchedule(0.75, 0.0, end=0.2)  # over the first fifth of training
        print(fading(0.0), fading(0.1), fading(0.5))  # 0.75 0.375 0.0
        ```
    """

    def __init__(
        self, start: float, stop: float, begin: float = 0.0, end: float = 1.0
    ) -> None:
        self.start, self.stop = float(start), float(stop)
        self.begin, self.end = fraction("begin", begin), fraction("end", end)
        if self.begin > self.end:
            raise ValueError(
                "`begin` must not be larger than `end`. "
                f"Received: begin={begin!r}, end={end!r}"
            )

    def __call__(self, progress: float) -> float:
        if progress >= self.end:
            return self.stop
        if progress <= self.begin:
            return self.start
        done = (progress - self.begin) / (self.end - self.begin)
        return self.start + done * (self.stop - self.start)

    def get_config(self) -> dict[str, Any]:
        return {
            "start": self.start,
            "stop": self.stop,
            "begin": self.begin,
            "end": self.end,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "LinearSchedule":
        return cls(**config)
