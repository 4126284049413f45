"""Argument checks whose messages name the argument, the expectation and the value."""

from numbers import Integral, Real
from typing import Any


def positive_int(name: str, value: Any) -> int:
    """`value` as an int, or a `ValueError` naming the argument `name`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(
            f"`{name}` must be a positive integer. Received: {name}={value!r}"
        )
    return int(value)


def whole_number(name: str, value: Any) -> int:
    """`value` as an int of 0 or more, or a `ValueError` naming the argument `name`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 0:
        raise ValueError(
            f"`{name}` must be an integer from 0. Received: {name}={value!r}"
        )
    return int(value)


def positive_number(name: str, value: Any) -> float:
    """`value` as a float above 0, or a `ValueError` naming the argument `name`."""
    if isinstance(value, bool) or not isinstance(value, Real) or not float(value) > 0:
        raise ValueError(
            f"`{name}` must be a number above 0. Received: {name}={value!r}"
        )
    return float(value)


def boolean(name: str, value: Any) -> bool:
    """`value` if it is True or False, else a `ValueError`."""
    if not isinstance(value, bool):
        raise ValueError(f"`{name}` must be True or False. Received: {name}={value!r}")
    return value


def member(name: str, value: Any, count: int) -> int:
    """`value` if it is an int from 1 to `count`, else a `ValueError`."""
    if positive_int(name, value) > count:
        raise ValueError(
            f"`{name}` must be from 1 to {count}. Received: {name}={value!r}"
        )
    return int(value)


def fraction(name: str, value: Any, low: int = 0) -> float:
    """`value` as a float in [low, 1], or a `ValueError` naming the argument `name`."""
    if (
        isinstance(value, bool)
        or not isinstance(value, Real)
        or not low <= float(value) <= 1
    ):
        raise ValueError(
            f"`{name}` must be a number from {low} to 1. Received: {name}={value!r}"
        )
    return float(value)


def one_of(name: str, value: Any, choices: tuple[Any, ...]) -> Any:
    """`value` if it is among `choices`, else a `ValueError` listing them."""
    if value not in choices:
        options = ", ".join(repr(choice) for choice in choices)
        raise ValueError(
            f"`{name}` must be one of {options}. Received: {name}={value!r}"
        )
    return value


def channels_last(data_format: str | None) -> str:
    """Refuse `channels_first`: images, blocks and exported files are NHWC."""
    import keras

    data_format = data_format or keras.config.image_data_format()
    if data_format != "channels_last":
        raise ValueError(
            "`data_format` must be 'channels_last': exported files are NHWC, and so "
            "are the layers and models they come from (see "
            "keras.config.set_image_data_format). "
            f"Received: data_format={data_format!r}"
        )
    return data_format


def whole_parts(name: str, value: int, divisor_name: str, divisor: int) -> int:
    """`value / divisor` where that is whole, or a `ValueError` naming both."""
    if value % divisor:
        raise ValueError(
            f"`{divisor_name}` must divide the {name}. "
            f"Received: {divisor_name}={divisor} for {value} {name}"
        )
    return value // divisor


def built_model(name: str, value: Any) -> Any:
    """`value` if it is a Keras model that has its weights, else a `ValueError`."""
    import keras

    if not isinstance(value, keras.Model) or not value.built:
        raise ValueError(
            f"`{name}` must be a built keras.Model. Received: {type(value).__name__}"
        )
    return value
