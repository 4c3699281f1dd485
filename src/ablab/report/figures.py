"""The report's pictures: what accuracy costs, and how training went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ablab.report.rows import Row

Points = Sequence[tuple[int, float]]  # (epoch, value)
MARKERS = "osD^vP"  # one an input size
COLOURS = [f"C{n}" for n in range(10)]
MOST_NAMED = 100  # rows or variants with their names in a picture: more cover each other, and take a minute to draw


def tradeoff(table: Sequence[Row], baseline: str, file: Path) -> bool:
    """mAP50 in percent against GFLOPs, a point a row with its 95 % interval; the baseline is hollow.

    Draws nothing and returns False where fewer than two rows have both.
    """
    points = [(row, found) for row in table if (found := row.ap("map50")) and "flops" in row.costs]
    if len(points) < 2:
        file.unlink(missing_ok=True)  # of an earlier report
        return False
    figure = Figure(figsize=(6, 3.6), dpi=130, layout="constrained")
    axes = figure.subplots()
    sizes = sorted({row.imgsz for row, _ in points})
    for row, found in points:
        colour = COLOURS[sizes.index(row.imgsz) % len(COLOURS)]
        x, y = row.costs["flops"] / 1e9, 100 * found.mean
        axes.errorbar(
            x,
            y,
            yerr=None if found.half is None else 100 * found.half,
            marker=MARKERS[sizes.index(row.imgsz) % len(MARKERS)],
            markerfacecolor="white" if row.variant == baseline else colour,
            color=colour,
            elinewidth=0.8,
            capsize=2,
            linestyle="none",
            zorder=3 if row.variant == baseline else 2,
        )
        if len(points) <= MOST_NAMED:
            axes.annotate(row.id, (x, y), (5, 4), textcoords="offset points", fontsize="small")
    for place, size in enumerate(sizes):
        marker, colour = MARKERS[place % len(MARKERS)], COLOURS[place % len(COLOURS)]
        axes.plot([], [], marker, color=colour, label=f"{size} px")
    axes.plot([], [], "o", color="0.3", markerfacecolor="white", label="baseline")
    axes.set(xlabel="FLOPs (G)", ylabel="mAP50 (%)")
    axes.margins(x=0.1)  # room for the last point's number
    low, high = axes.get_ylim()
    if low < 0 or high > 100:  # an interval of few seeds reaches further than AP can
        axes.set_ylim(max(low, -2), min(high, 102))
    axes.grid(alpha=0.25)
    figure.legend(loc="outside right upper", fontsize="small", frameon=False)  # inside it hides intervals
    figure.savefig(file)
    return True


def curves(losses: Mapping[str, Sequence[Points]], scores: Mapping[str, Sequence[Points]], file: Path) -> bool:
    """Training loss and mAP50 on val by epoch: a colour a variant, a thin line a seed, a thick one their mean.

    losses, scores: variant -> its seeds' points. Draws nothing and returns False where there are none.
    """
    if not any(losses.values()):
        file.unlink(missing_ok=True)
        return False
    figure = Figure(figsize=(8, 3.4), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    for place, variant in enumerate(losses):
        colour, dashes = COLOURS[place % 10], ("-", "--", ":", "-.")[place // 10 % 4]
        _draw(left, losses[variant], 1, variant, colour, dashes)
        _draw(right, scores.get(variant, ()), 100, variant, colour, dashes, ".")  # not every epoch has one
    for axes, title in ((left, "training loss"), (right, "mAP50 on val (%)")):
        axes.set(xlabel="epoch", title=title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
    handles, labels = left.get_legend_handles_labels()
    if len(labels) <= MOST_NAMED:
        figure.legend(handles, labels, loc="outside right upper", fontsize="small", frameon=False)
    figure.savefig(file)
    return True


def _draw(
    axes: Axes, seeds: Sequence[Points], unit: float, name: str, colour: str, dashes: str, marker: str = ""
) -> None:
    """The seeds' lines, and the mean at epochs that every seed has."""
    by_epoch: dict[int, list[float]] = {}
    for points in seeds:
        if len(seeds) > 1:
            axes.plot(*zip(*[(e, unit * v) for e, v in points], strict=True), colour, lw=0.6, alpha=0.4)
        for epoch, value in points:
            by_epoch.setdefault(epoch, []).append(unit * value)
    mean = [(epoch, sum(v) / len(v)) for epoch, v in sorted(by_epoch.items()) if len(v) == len(seeds)]
    if mean:
        axes.plot(*zip(*mean, strict=True), ls=dashes, marker=marker, color=colour, lw=1.6, label=name)
