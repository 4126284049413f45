"""What `judge_exits.py` found, as means over seeds, and what reaches an accuracy."""

from typing import Any

import numpy as np

Row = dict[str, Any]
FIRST = "_first"  # of a kind of files: a first net in int8 as well
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
            "deviation": deviation(group),
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


def deviation(group: list[Row]) -> float:
    """Standard deviation of the gain over the plain net, over halves and seeds."""
    halves = float(np.mean([row["deviation"] ** 2 for row in group]))
    return float(np.sqrt(halves + np.var([row["over plain"] for row in group])))


def frontier(points: list[tuple[float, float]]) -> list[int]:
    """Which of (cost, gain) no other beats in both, cheap ones first."""
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    found: list[int] = []
    for index in order:
        if not found or points[index][1] > points[found[-1]][1]:
            found.append(index)
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


def file_name(net: str, quantization: str) -> str:
    """What the file of a net is called."""
    title = "".join(c if c.isalnum() else "_" for c in net)
    return f"{title}.{quantization}.tflite"


def over_photos(times: np.ndarray) -> float:
    """Mean over photos of the median of three rounds, from times in turns."""
    return float(np.median(times.reshape(3, -1), axis=0).mean())
