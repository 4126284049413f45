"""A line for each trial of a search, and how long the rest will take."""

from collections.abc import Mapping
from typing import Any

from keras_dyngate.tuning.safe_oracle import OBJECTIVE, Status, was_refused


class Progress:
    """Prints what each trial found.

    Args:
        verbose: Whether it does.
    """

    def __init__(self, verbose: bool) -> None:
        self.verbose = verbose
        self._seconds: list[float] = []

    def tell(self, name: str, found: str, oracle: Any, seconds: float) -> None:
        """Print the line of a trial.

        Args:
            name: Of the trial.
            found: What it found; see `described`.
            oracle: That knows the others; in a worker it knows none.
            seconds: That it took.
        """
        if not found.startswith("refused"):
            self._seconds.append(seconds)
        if not self.verbose:
            return
        known = [t.score for t in oracle.trials.values() if t.score is not None]
        best = f"; best {max(known):.4f}" if known else ""
        print(
            f"trial {name}: {found}; {seconds:.0f} s{best}{self._left(oracle)}",
            flush=True,
        )

    def _left(self, oracle: Any) -> str:
        """How many trials there are to come, where that is known."""
        if oracle.max_trials is None or not oracle.trials:
            return ""
        done = [t for t in oracle.trials.values() if not was_refused(t)]
        left = max(0, oracle.max_trials - len(done))
        mean = sum(self._seconds) / max(1, len(self._seconds))
        return f"; {left} to go, {left * mean / 60:.1f} min left"


def described(trial: Any, metrics: Mapping[str, float]) -> str:
    """What a trial came to that was run just now."""
    message = (trial.message or "").strip()
    if trial.status == Status.FAILED:
        return f"refused: {message}"
    if trial.status != Status.COMPLETED:
        return f"crashed: {message.splitlines()[-1]}"
    if "val_accuracy" not in metrics or "val_cost" not in metrics:
        return f"objective {metrics[OBJECTIVE]:.4f}"
    accuracy, share = metrics["val_accuracy"], metrics["val_cost"]
    return f"accuracy {accuracy:.4f} at {share:.3f} of the cost"
