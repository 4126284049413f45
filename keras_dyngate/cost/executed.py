"""What is executed: a table's rows, and how many groups of each decision ran.

The one account of it, for NumPy (`MacProfile.of`) and for the file (`executed_macs`).
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping

from keras_dyngate.cost.mac_row import MacRow


def costs_of_groups(
    rows: Iterable[MacRow], groups: Mapping[str, int], nested: bool = False
) -> dict[tuple[str, ...], int]:
    """MACs of one open group, or of one pair of open groups, and so on.

    Args:
        rows: Of a table.
        groups: Of each decision, by its full name, how many groups are executed apart.
        nested: Whether the groups inside a skipped layer count as shut anyway, so that
            the layer's decision need not be asked for what is under them.

    Returns:
        By the names of the decisions that all have to be open; `()` is what always runs.
        What a sample costs is the sum over these of its open groups' product.
    """
    found: dict[tuple[str, ...], int] = defaultdict(int)
    for row in rows:
        names = [gating.name_in(row.layer) for gating in row.gatings]
        macs = row.macs // math.prod(groups[name] for name in names)
        if nested:
            inner = [g.name_in(row.layer) for g in row.gatings if g.channels > 1]
            names = inner or names[-1:]
        found[tuple(names)] += macs
    return dict(found)
