"""
Title: The page of exits on real photos
Description: From the rows of judge_exits.py: tables, and the plot accuracy over time.

    python examples/exits_page.py --rows outputs/judge_exits/rows.json --name exits

Writes `exits.md`, `exits.png`, `exits_frontier.png` and, with all rows and files,
`exits.json` to `--out`; `exits_notes.md` there comes first on the page. Every figure is a
mean over seeds; a time is the shares' sum of the times to each exit, over the plain net's
time in the same kind of file.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags
from exit_rows import Row, frontier, means, reached
from matplotlib.figure import Figure

from keras_dyngate._files import write_whole

FLAGS = flags.FLAGS
flags.DEFINE_string("rows", "outputs/judge_exits/rows.json", "What was judged.")
flags.DEFINE_string("out", "examples/results", "Folder for the page.")
flags.DEFINE_string("name", "exits", "Of the page.")
flags.DEFINE_string("title", "Exits on real photos", "Of the page.")

TIMES = {"float32": "float32", "dynamic": "8-bit weights", "int8": "int8"}
COSTS = {
    **{key: f"time, {name}" for key, name in TIMES.items()},
    "a76": "instructions, int8, A76",
    "a53": "A53",
}
EIGHT_BITS = ("dynamic", "int8")
BASES = {
    "plain": "the plain net",
    "taught": "the net taught jointly",
    "best": "the best static net",
}
LOSS = 0.03  # Static nets that lose more are in the table alone.
COLOURS = tuple(
    f"tab:{name}" for name in "red orange blue green purple brown pink".split()
)


def line(row: Row) -> str:
    """A row of a table."""
    times = [f"{row['time'][k]:.2f}" if k in row["time"] else "" for k in COSTS]
    official = ""
    if "official accuracy" in row:
        official = f"{row['official accuracy']:.1%} at {row['official macs']:.2f}"
    cells = [
        row["net"],
        f"{row['accuracy']:.1%}",
        f"{100 * row['over plain']:+.1f}",
        f"{row['macs']:.3f}",
        *times,
        official,
        str(row["seeds"]),
    ]
    return f"| {' | '.join(cells)} |"


HEADER = (
    "| net | accuracy | over plain, points | MACs | "
    + " | ".join(COSTS.values())
    + " | official split: test, MACs | seeds |"
)


def table(rows: list[Row]) -> list[str]:
    """Lines of a Markdown table."""
    return [HEADER, "|---" * (HEADER.count("|") - 1) + "|", *map(line, rows)]


def plot(rows: list[Row], names: list[str], path: Path) -> None:
    """Accuracy over time, of files in float32 and in int8; nets of some use."""
    figure = Figure(figsize=(10, 5), layout="constrained")
    sides = [
        name for name in ("float32", "int8") if any(name in r["time"] for r in rows)
    ]
    every = figure.subplots(1, len(sides), sharey=True, squeeze=False)[0]
    plain = next(r["accuracy"] for r in rows if r["net"] == "plain")
    for axes, side in zip(every, sides, strict=True):
        for row in rows:
            good = row["kind"] == "static" and row["accuracy"] > plain - LOSS
            if good and side in row["time"]:
                point = row["time"][side], 100 * row["accuracy"]
                axes.plot(*point, "s", color="0.45", markersize=5)
                axes.annotate(
                    row["net"].removesuffix(" alone"),
                    point,
                    xytext=(4, -9),
                    textcoords="offset points",
                    fontsize=7,
                    color="0.35",
                )
        for name, colour in zip(names, COLOURS, strict=False):
            mine = [r for r in rows if r["net"] == name and side in r["time"]]
            points = sorted((r["time"][side], 100 * r["accuracy"]) for r in mine)
            label = name if mine[0]["seeds"] > 1 else f"{name} (one seed)"
            axes.plot(*zip(*points, strict=True), "o-", color=colour, label=label, ms=4)
        axes.set_xlabel(f"time of the {side} file, plain net = 1")
        axes.set_xlim(0, 1.2)
        axes.grid(alpha=0.3)
    every[0].set_ylabel("accuracy, %")
    handles, labels = every[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
    figure.savefig(path, dpi=120)


def milliseconds(files: dict[str, Any], row: Row) -> float | None:
    """Of a net's 8-bit file, the faster of the two kinds; None: it was not timed."""
    plain = {kind: plain_ms(files, kind) for kind in EIGHT_BITS}
    known = [k for k in EIGHT_BITS if k in row["time"] and plain[k] is not None]
    return min((row["time"][k] * plain[k] for k in known), default=None)


def plain_ms(files: dict[str, Any], kind: str) -> float | None:
    """Of the plain net's file of a kind, as it was beside all others."""
    every = [
        f[kind]["plain_ms"] for f in files.values() if "plain_ms" in f.get(kind, {})
    ]
    return float(np.median(every)) if every else None


def picture(rows: list[Row], files: dict[str, Any], path: Path) -> None:
    """Accuracy over milliseconds in 8 bits: the best static and the best dynamic nets."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    least = min(r["accuracy"] for r in rows if r["net"] == "plain") - 2 * LOSS
    for dynamic, colour in ((False, "0.4"), (True, "tab:blue")):
        mine = [r for r in rows if (r["kind"] != "static") == dynamic]
        timed = [(ms, r) for r in mine if (ms := milliseconds(files, r)) is not None]
        timed = [(ms, r) for ms, r in timed if r["accuracy"] > least]
        best = frontier([(ms, r["accuracy"]) for ms, r in timed])
        x = [timed[i][0] for i in best]
        y = [100 * timed[i][1]["accuracy"] for i in best]
        error = [100 * timed[i][1]["deviation"] for i in best]
        label = "decides per photo" if dynamic else "the same for all photos"
        axes.errorbar(x, y, error, fmt="o-", color=colour, ms=4, capsize=2, label=label)
        rest = [] if dynamic else [i for i in range(len(timed)) if i not in best]
        for ms, row in (timed[i] for i in rest):
            axes.plot(ms, 100 * row["accuracy"], "o", color="0.75", ms=4)
        for i in [*rest, *([] if dynamic else best)]:
            axes.annotate(
                timed[i][1]["net"].removesuffix(" alone"),
                (timed[i][0], 100 * timed[i][1]["accuracy"]),
                xytext=(4, -9),
                textcoords="offset points",
                fontsize=7,
                color="0.35",
            )
    axes.set_xlabel("ms a photo, 8-bit file, one thread")
    axes.set_ylabel("accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)


def shown(rows: list[Row], targets: list[tuple[str, float]]) -> list[str]:
    """Of rows with times, nets whose curves are drawn: the cheapest, and heads alone."""
    names: dict[str, None] = {}
    for kind in ("cascade", "first", "joint"):
        for base, least in targets:
            mine = [r for r in reached(rows, base, least) if r["kind"] == kind]
            names |= dict.fromkeys(r["net"] for r in mine[:1])
    heads = dict.fromkeys(r["net"] for r in rows if r["kind"] == "heads")
    names |= {n: None for n in heads if "4 exits" in n and "untaught" not in n}
    return list(names)


def rounded(row: Row) -> Row:
    """Five digits after the point."""
    return json.loads(json.dumps(row), parse_float=lambda text: round(float(text), 5))


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    held = json.loads(Path(FLAGS.rows).read_text())
    rows = means(held["rows"], held["files"])
    timed = [row for row in rows if row["time"]]
    out, name = Path(FLAGS.out), FLAGS.name
    notes = out / f"{name}_notes.md"
    lines = [f"# {FLAGS.title}", ""]
    if notes.exists():
        lines += [notes.read_text().strip(), ""]
    if any(milliseconds(held["files"], row) is not None for row in rows):
        picture(rows, held["files"], out / f"{name}_frontier.png")
        lines += [f"![accuracy over ms in 8 bits]({name}_frontier.png)", ""]
    lines += [f"![accuracy over time]({name}.png)", "", "## Static nets", ""]
    every = {kind: plain_ms(held["files"], kind) for kind in TIMES}
    each = (f"{ms:.1f} ms ({TIMES[k]})" for k, ms in every.items() if ms is not None)
    lines += [f"The plain net takes {', '.join(each)}; {held['cpu']}, one thread.", ""]
    static = [row for row in rows if row["kind"] == "static"]
    lines += table(sorted(static, key=lambda row: row["macs"]))
    for base, least in held["targets"]:
        more = f" {100 * least:+.1f} points" if least else ""
        good = reached(timed, base, least)
        if good:
            lines += ["", f"## As good as {BASES[base]}{more}", "", *table(good)]
    ends = [("taught", -0.003), ("plain", 0.04)]
    plot(rows, shown(timed, ends), out / f"{name}.png")
    write_whole(out / f"{name}.md", ("\n".join(lines) + "\n").encode())
    kept = {**held, "rows": [rounded(row) for row in rows]}
    text = json.dumps(kept).replace('{"net"', '\n{"net"')
    write_whole(out / f"{name}.json", (text + "\n").encode())
    print(f"{len(rows)} rows: {out / name}.md")


if __name__ == "__main__":
    app.run(main)
