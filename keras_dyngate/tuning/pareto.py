"""What a search found: nets none of which is beaten by another in everything.

front = kd.ParetoFront.of_search("searches/digits")
print(front)
front.export(front.best, "net.tflite")
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from keras_dyngate._checks import built_model
from keras_dyngate._files import writable_target, write_whole
from keras_dyngate.cost.cost_row import shown_cost
from keras_dyngate.tuning.results import MODEL, TrialResult, results_in

FORMAT = "keras_dyngate Pareto front 1"
COSTS = ("ms", "macs", "bytes")  # in the order of what they tell of a device


@dataclasses.dataclass(frozen=True)
class ParetoPoint:
    """A net that a search trained.

    Attributes:
        name: Of the trial.
        accuracy: On the validation data, 0 to 1.
        macs: Mean multiply-adds of an image.
        ms: Mean milliseconds of an image; None: not measured.
        bytes: Of its file; None: none was made.
        share: Of the plain net's cost, in the unit of the budget.
        kept: Whether it keeps to the search's budget.
        values: The hyper-parameters.
        model: Its `.keras` file; None: it was not kept.

    Example:
        ```python
        point = kd.ParetoPoint("0003", accuracy=0.97, macs=1.2e6, ms=0.4)
        print(point)
        ```
    """

    name: str
    accuracy: float
    macs: float
    ms: float | None = None
    bytes: int | None = None
    share: float | None = None
    kept: bool = True
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    model: str | None = None

    def __str__(self) -> str:
        parts = [f"{self.name}: accuracy {self.accuracy:.3f}"]
        if self.share is not None:
            over = "" if self.kept else ", over the budget"
            parts.append(f"{self.share:.3f} of the cost{over}")
        parts.append(f"{shown_cost(round(self.macs))} MACs")
        if self.ms is not None:
            parts.append(f"{self.ms:.3g} ms")
        if self.bytes is not None:
            parts.append(f"{self.bytes / 1024:.0f} KiB")
        return ", ".join(parts)


def _point_of(result: TrialResult) -> ParetoPoint:
    found = result.metrics
    model = result.folder / MODEL
    size = found.get("bytes")
    return ParetoPoint(
        result.name,
        float(found["val_accuracy"]),
        float(found["macs"]),
        found.get("ms"),
        None if size is None else int(size),
        found.get("val_cost"),
        bool(found.get("kept", 1.0)),
        dict(result.values),
        str(model) if model.is_file() else None,
    )


class ParetoFront:
    """Nets by accuracy, ms, MACs and bytes; those that no other beats are the front.

    A point beats another if it is nowhere worse, and somewhere better. Of ms, MACs and
    bytes those count that are known of all points.

    Args:
        points: To begin with.

    Attributes:
        tried: All points, as they were added.

    Example:
        ```python
        front = kd.ParetoFront([kd.ParetoPoint("a", 0.97, 1.2e6)])
        front.add(kd.ParetoPoint("b", 0.95, 0.7e6))  # True: it is cheaper
        front.add(kd.ParetoPoint("c", 0.94, 0.9e6))  # False: "b" beats it
        front.save("front.json")
        print(kd.ParetoFront.load("front.json"))
        ```
    """

    def __init__(self, points: Iterable[ParetoPoint] = ()) -> None:
        self.tried: list[ParetoPoint] = []
        for point in points:
            self.add(point)

    @classmethod
    def of_search(cls, folder: "str | os.PathLike[str]") -> "ParetoFront":
        """What the trials of a search found, also of one that is not at its end.

        Args:
            folder: Of the search: its directory and project.

        Raises:
            ValueError: If there is no such folder.
        """
        finished = (r for r in results_in(folder) if "val_accuracy" in r.metrics)
        return cls(_point_of(result) for result in finished)

    def add(self, point: ParetoPoint) -> bool:
        """Add a point; one of the same name is replaced.

        Returns:
            Whether it is on the front.
        """
        if not isinstance(point, ParetoPoint):
            raise ValueError(
                f"`point` must be a ParetoPoint. Received: a {type(point).__name__}"
            )
        self.tried = [p for p in self.tried if p.name != point.name] + [point]
        return point in self.points

    @property
    def known(self) -> tuple[str, ...]:
        """Which costs are known of all points."""
        return tuple(
            name
            for name in COSTS
            if all(getattr(p, name) is not None for p in self.tried)
        )

    @property
    def points(self) -> list[ParetoPoint]:
        """The front, the cheapest first."""
        names = self.known
        numbers = [
            (-p.accuracy, *(getattr(p, name) for name in names)) for p in self.tried
        ]
        front = [
            point
            for point, mine in zip(self.tried, numbers, strict=True)
            if not any(_beats(other, mine) for other in numbers)
        ]
        first = names[0] if names else "macs"
        return sorted(front, key=lambda p: (getattr(p, first), -p.accuracy))

    @property
    def best(self) -> ParetoPoint:
        """The most accurate point that keeps to the budget; of several the cheapest.

        Raises:
            ValueError: If none does.
        """
        kept = [point for point in self.points if point.kept]
        if not kept:
            raise ValueError(
                "There must be a point that keeps to the budget. "
                f"Received: {len(self.tried)} points, none of which does"
            )
        return max(kept, key=lambda point: point.accuracy)

    def __iter__(self) -> Iterator[ParetoPoint]:
        return iter(self.points)

    def __len__(self) -> int:
        return len(self.points)

    def __str__(self) -> str:
        lines = [f"{len(self)} of {len(self.tried)} nets are on the front"]
        return "\n".join([*lines, *(f"  {point}" for point in self.points)])

    def save(self, path: "str | os.PathLike[str]") -> None:
        """Write all points as JSON; models' paths are kept relative to the file.

        Raises:
            ValueError: If the path cannot be written.
        """
        target = writable_target("path", path)
        points = [dataclasses.asdict(point) for point in self.tried]
        for point in points:
            if point["model"] is not None:
                point["model"] = os.path.relpath(point["model"], target.parent)
        noted = {"format": FORMAT, "points": points}
        write_whole(target, json.dumps(noted, indent=1).encode())

    @staticmethod
    def load(path: "str | os.PathLike[str]") -> "ParetoFront":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is another one, or damaged.
        """
        source = Path(path)
        try:
            noted = json.loads(source.read_bytes())
            if noted["format"] != FORMAT:
                raise ValueError(f"format {noted['format']!r}")
            points = [ParetoPoint(**point) for point in noted["points"]]
            front = ParetoFront(
                p
                if p.model is None
                else dataclasses.replace(p, model=str(source.parent / p.model))
                for p in points
            )
            front.points  # noqa: B018  numbers can be compared
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                "`path` must be a file that `ParetoFront.save` wrote. "
                f"Received: {os.fspath(path)!r} ({type(error).__name__}: {error})"
            ) from None
        return front

    def plot(self, path: "str | os.PathLike[str]") -> None:
        """Draw accuracy against each known cost into a file, .png, .svg or .pdf.

        Raises:
            ImportError: Without matplotlib.
            ValueError: If the path cannot be written, or there is no point.
        """
        from keras_dyngate.tuning.pareto_plot import pareto_plot  # it needs matplotlib

        target = writable_target("path", path)
        pareto_plot(self).savefig(target)

    def model(self, point: "ParetoPoint | str") -> Any:
        """The trained net of a point.

        Args:
            point: Or its name.

        Raises:
            FileNotFoundError: If its file is gone, or was never kept.
            ValueError: If no point is called so, or the file is damaged.
        """
        import keras

        found = self._named(point)
        if found.model is None or not Path(found.model).is_file():
            raise FileNotFoundError(
                f"The net of {found.name!r} must be where the search has kept it. "
                f"Received: no file {found.model!r}"
            )
        try:
            model = keras.models.load_model(found.model, compile=False)
        except Exception as error:  # Keras' own vary
            raise ValueError(
                f"The net of the point {found.name!r} is damaged. "
                f"Received: {found.model!r} ({type(error).__name__})"
            ) from error
        return built_model("model", model)

    def export(
        self, point: "ParetoPoint | str", path: "str | os.PathLike[str]", **options: Any
    ) -> Any:
        """Write the file of a point with `export_tflite`.

        Args:
            point: Or its name.
            path: Of the .tflite file.
            **options: Of `export_tflite`.

        Returns:
            Its `ExportReport`.

        Raises:
            FileNotFoundError: If the point's net is gone.
            ValueError: If no point is called so, or for what `export_tflite` refuses.
        """
        from keras_dyngate.export import export_tflite

        target = writable_target("path", path)
        return export_tflite(self.model(point), target, **options)

    def _named(self, point: Any) -> ParetoPoint:
        if isinstance(point, ParetoPoint):
            return point
        for known in self.tried:
            if known.name == point:
                return known
        names = [p.name for p in self.tried]
        raise ValueError(
            f"`point` must be a ParetoPoint or the name of one, such as {names[:3]}. "
            f"Received: point={point!r}"
        )


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether one is nowhere worse and somewhere better; less is better."""
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))
