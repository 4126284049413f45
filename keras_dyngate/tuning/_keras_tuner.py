"""keras-tuner, or a sentence about what to install; and values that it can take."""

from collections.abc import Mapping, Sequence
from typing import Any

try:
    import keras_tuner
    from keras_tuner.src.distribute.utils import is_chief_oracle
except ImportError as error:
    raise ImportError(
        "`keras_dyngate.tuning` needs keras-tuner. Install it with "
        '`pip install "keras_dyngate[tuning]"`.'
    ) from error

FailedTrialError = keras_tuner.errors.FailedTrialError

__all__ = [
    "FailedTrialError",
    "check_values",
    "filled",
    "is_chief_oracle",
    "keras_tuner",
]


def filled(space: Sequence[Any], values: Mapping[str, Any]) -> Any:
    """`HyperParameters` of some values; what is left out has its default.

    Args:
        space: Hyper-parameters, what others depend on first.
        values: By name; those of inactive ones do not count.
    """
    found = keras_tuner.HyperParameters()
    for hp in space:
        found.merge([hp])
        if found.is_active(hp):
            found.values[hp.name] = values.get(hp.name, hp.default)
    return found


def check_values(
    argument: str, space: Sequence[Any], values: Mapping[str, Any]
) -> None:
    """Refuse values of unknown names, and choices that there are not."""
    known = {hp.name: hp for hp in space}
    for name, value in values.items():
        if name.startswith("tuner/"):  # of Hyperband's trials
            continue
        if name not in known:
            raise ValueError(
                f"`{argument}` must be of {sorted(known)}. Received: {name!r}"
            )
        hp = known[name]  # numbers have `values` too, of their own making
        if type(hp).__name__ == "Choice" and value not in hp.values:
            raise ValueError(
                f"`{argument}` must have {name!r} from {list(hp.values)}. "
                f"Received: {value!r}"
            )
