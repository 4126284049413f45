"""A budget in words: of MACs, of milliseconds, of accuracy.

kd.Budget("latency:8.0ms")      kd.Budget("latency:0.7x")
kd.Budget("macs:0.6x")          kd.Budget("macs:120M")       kd.Budget("accuracy:-1.0")
"""

import math
import re
from typing import Any

from keras_dyngate.cost.cost_row import shown_cost
from keras_dyngate.cost.cost_table import MACS, CostTable

UNITS = {"macs": MACS, "latency": "ms", "instructions": "instructions"}
_SUFFIXES = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9}
_FORM = re.compile(r"(macs|latency|instructions):([0-9.eE+-]+)(x|ms|[kKMG]?)")
_ACCURACY = re.compile(r"accuracy:([0-9.eE+-]+)")


class Budget:
    """What may be spent, or what accuracy may be lost; written as one string.

    `"<cost>:<number>x"` is a share of what the plain net costs; `macs:`, `latency:` and
    `instructions:` name the cost. `"latency:8.0ms"`, `"macs:120M"`, `"instructions:50M"`
    are that much per image (k, M, G: thousands, millions, billions).
    `"accuracy:-1.0"` allows one point (percent) of accuracy to be lost, as cheaply as
    possible. Design of this library.

    Args:
        text: As above, or a `Budget`.
        name: Of the argument that it was given as, for the message of an error.

    Attributes:
        what: "macs", "latency", "instructions" or "accuracy".
        value: The number: a share, or in MACs, ms, instructions; points of accuracy.
        relative: Whether it is a share.
        unit: Of the `CostTable` that it needs; None for accuracy.

    Raises:
        ValueError: For another form, or a number that is not positive (of accuracy: not
            from -100 to 100).

    Example:
        ```python
        budget = kd.Budget("macs:0.6x")
        block = kd.GatedBasicBlock(4, channel_gate="binary")
        net = keras.Sequential([keras.Input((8, 8, 4)), block])
        print(budget, budget.cost(kd.count_macs(net)), "MACs")
        ```
    """

    def __init__(self, text: "str | Budget", name: str = "budget") -> None:
        words, self.name = str(text), name
        match, drop = _FORM.fullmatch(words), _ACCURACY.fullmatch(words)
        self.text, self.relative = words, False
        self.unit: str | None = None
        self.value = math.nan
        if match is not None:
            self.what, number, suffix = match.groups()
            self.unit, self.relative = UNITS[self.what], suffix == "x"
            self.value = _number(number)
            if self.what == "latency" and suffix not in ("x", "ms"):
                self.value = math.nan
            elif self.what != "latency" and suffix == "ms":
                self.value = math.nan
            elif suffix in _SUFFIXES:
                self.value *= _SUFFIXES[suffix]
            fits = 0 < self.value < math.inf
        elif drop is not None:
            self.what, self.value = "accuracy", _number(drop[1])
            fits = -100 < self.value < 100
        else:
            fits = False
        if not fits:
            raise ValueError(
                f"`{name}` must be like 'macs:0.6x', 'macs:120M', 'latency:8.0ms', "
                "'latency:0.7x', 'instructions:0.7x' or 'accuracy:-1.0': a cost above "
                "0, or points of accuracy between -100 and 100; without spaces. "
                f"Received: {name}={text!r}"
            )

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Budget({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Budget) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    @property
    def accuracy_drop(self) -> float:
        """Accuracy that may be lost, 0 to 1, of an accuracy budget.

        Raises:
            ValueError: For a budget of costs.
        """
        if self.what != "accuracy":
            raise ValueError(
                f"`budget` must be of accuracy. Received: budget={self.text!r}"
            )
        return -self.value / 100

    def cost(self, table: CostTable) -> float:
        """What may be spent per image, in the unit of a table.

        Args:
            table: In the budget's unit, of the net that is to keep to it.

        Raises:
            ValueError: If the table is in another unit, or the net costs more even with
                everything shut: the message gives the least.
        """
        if self.unit is None:
            raise ValueError(
                f"`{self.name}` must be of a cost, like 'latency:0.7x'. "
                f"Received: {self.name}={self.text!r}"
            )
        if not isinstance(table, CostTable):
            raise ValueError(f"`table` must be a CostTable. Received: table={table!r}")
        if table.unit != self.unit:
            how = {"ms": "measure_latency", MACS: "count_macs"}.get(self.unit)
            hint = "" if how is None else f", as `kd.{how}(model)` returns one"
            raise ValueError(
                f"`{self.name}={self.text!r}` needs a table in {self.unit}{hint}. "
                f"Received: a table in {table.unit}"
            )
        wanted = self.value * table.total if self.relative else self.value
        if wanted < table.least:
            raise ValueError(
                f"{_too_low(self.name, table)} Received: {self.name}={self.text!r}"
            )
        return wanted

    def share(self, table: CostTable) -> float:
        """The same over the cost of the plain net; errors as `cost`."""
        return self.cost(table) / table.total


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _too_low(name: str, table: CostTable) -> str:
    """That a net cannot spend so little, and what is the least."""
    return (
        f"`{name}` cannot be kept: with everything shut the net costs "
        f"{shown_cost(table.least)} {table.unit} still, "
        f"{table.least / table.total:.3f}x of the plain net."
    )


def resolve_share(budget: Any, table: CostTable, name: str = "share") -> float:
    """A budget as a share of the plain net's cost: of a number, itself.

    Args:
        budget: A share, 0 to 1, a `Budget` or its text.
        table: Of the net.
        name: Of the argument, for the message of an error.

    Raises:
        ValueError: If it is less than the net costs with everything shut.
    """
    if isinstance(budget, (str, Budget)):
        return Budget(budget, name).share(table)
    share = float(budget)
    if share * table.total < table.least:
        raise ValueError(f"{_too_low(name, table)} Received: {name}={budget!r}")
    return share
