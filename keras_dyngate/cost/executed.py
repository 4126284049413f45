"""What is executed: a table's rows, and how many groups of each decision ran.

The one account of it, for NumPy (`CostTable.of`) and for the file (`executed_macs`).
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from keras_dyngate._walk import dynamic_layers
from keras_dyngate.cost.cost_row import CostRow, default_group_size


def costs_of_groups(
    rows: Iterable[CostRow], groups: Mapping[str, int], nested: bool = False
) -> dict[tuple[str, ...], Any]:
    """The cost of one open group, or of one pair of open groups, and so on.

    Args:
        rows: Of a table.
        groups: Of each decision, by its full name, how many groups are executed apart.
        nested: Whether the groups inside a skipped layer count as shut anyway, so that
            the layer's decision need not be asked for what is under them.

    Returns:
        By the names of the decisions that all have to be open; `()` is what always runs.
        What a sample costs is the sum over these of its open groups' product.
    """
    found: dict[tuple[str, ...], Any] = defaultdict(int)
    for row in rows:
        names = list(row.decisions)
        ways = math.prod(groups[name] for name in names)
        whole = isinstance(row.cost, (int, np.integer))  # MACs, of which none is parted
        cost = row.cost // ways if whole else row.cost / ways
        if nested:
            inner = [g.name_in(row.layer) for g in row.gatings if g.channels > 1]
            names = inner or names[-1:]
        found[tuple(names)] += cost
    return dict(found)


def executed_together(model: Any, table: Any = None) -> dict[str, int]:
    """Channels that an exported file runs together, by decision.

    Args:
        model: The net.
        table: Of a file of it, whose group sizes count. None, or a table without any:
            those that a file has by default.
    """
    if table is not None and table.group_sizes:
        return dict(table.group_sizes)
    return {
        f"{layer.name}/{item.key}": default_group_size(item.channels, item.groups)
        for layer in dynamic_layers(model)
        for item in layer.decisions()
        if not item.whole
    }
