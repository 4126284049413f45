"""What `judge_exits.py` found, as means over seeds, and what reaches an accuracy."""

from typing import Any

import numpy as np

Row = dict[str, Any]
ALONE = 0.98  # Where so many leave at one exit, that exit is the net.


def means(rows: list[Row], files: dict[str, Any]) -> list[Row]:
    """Rows over seeds, by net and wish, with times where there are files.

    Dynamic nets but those of heads alone must have been judged with every seed.
    """
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault((row["net"], *row["wish"]), []).append(row)
    most = max(map(len, groups.values()))
    found = []
    for group in groups.values():
        shares = np.mean([row["shares"] for row in group], axis=0)
        official = [row["official"] for row in group if row["official"]]
        row = {
            **{key: group[0][key] for key in ("net", "kind", "wish")},
            **{
                key: float(np.mean([row[key] for row in group]))
                for key in (
                    "accuracy",
                    "over plain",
                    "over taught",
                    "over best",
                    "macs",
                )
            },
            "seeds": len(group),
            "shares": shares.tolist(),
            "time": {
                name: float(np.dot(shares, file["paths"]))
                for name, file in files.get(group[0]["net"], {}).items()
            },
        }
        if len(official) == len(group):
            for key in ("accuracy", "macs"):
                row[f"official {key}"] = float(np.mean([o[key] for o in official]))
        if row["kind"] in ("static", "heads") or row["seeds"] == most:
            found.append(row)
    return found


def reached(rows: list[Row], base: str, least: float) -> list[Row]:
    """The cheapest point of at least so much of every dynamic net, cheap ones first."""
    best: dict[str, Row] = {}
    for row in rows:
        leaves = len(row["shares"]) > 1 and max(row["shares"]) >= ALONE
        alone = row["kind"] == "static" or leaves
        if not alone and row[f"over {base}"] >= least:
            old = best.get(row["net"])
            if old is None or row["macs"] < old["macs"]:
                best[row["net"]] = row
    return sorted(best.values(), key=lambda row: row["macs"])
