"""The report's pictures: what accuracy costs, and how training went."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from ablab.report.rows import Row
from ablab.report.statistics import Estimate

Points = Sequence[tuple[int, float]]  # (epoch, value)
MARKERS = "osD^vP"  # one an input size
COLOURS = [f"C{n}" for n in range(10)]
BESIDE = ((12, 7), (12, -7), (-12, 7), (-12, -7), (0, 11), (0, -11), (17, 0), (-17, 0))  # places of a name, pt
MANY_TIMES = 50  # as large as the smallest: no linear axis shows both
MOST_NAMED = 100  # rows or variants with their names in a picture: more cover each other, and take a minute to draw


@dataclass(frozen=True)
class Axis:
    """An axis with a point for every row that has a value; unit: what 1 is drawn as (100: percent)."""

    label: str
    value: Callable[[Row], Estimate | None]
    unit: float = 1


@dataclass(frozen=True)
class Panel:
    """Numbers by epoch: variant -> its seeds' points. A marker is for what not every epoch has. any_scale: what
    differs in scale from variant to variant, and then gets a logarithmic axis, as the losses of different heads."""

    title: str
    series: Mapping[str, Sequence[Points]]
    unit: float = 1
    marker: str = ""
    any_scale: bool = False


def tradeoff(table: Sequence[Row], x: Axis, y: Axis, baseline: str, file: Path) -> bool:
    """One quantity against another, a point a row with its 95 % intervals; the baseline is hollow.

    Draws nothing and returns False where fewer than two rows have both.
    """
    points = [(row, across, up) for row in table if (up := y.value(row)) and (across := x.value(row))]
    if len(points) < 2:
        file.unlink(missing_ok=True)  # of an earlier report
        return False
    figure = Figure(figsize=(6, 3.6), dpi=130, layout="constrained")
    axes = figure.subplots()
    sizes = sorted({row.imgsz or 0 for row, _, _ in points})
    for row, across, up in points:
        place = sizes.index(row.imgsz or 0)
        colour = COLOURS[place % len(COLOURS)]
        at = x.unit * across.mean, y.unit * up.mean
        axes.errorbar(
            *at,
            xerr=None if across.half is None else x.unit * across.half,
            yerr=None if up.half is None else y.unit * up.half,
            marker=MARKERS[place % len(MARKERS)],
            markerfacecolor="white" if row.variant == baseline else colour,
            color=colour,
            elinewidth=0.8,
            capsize=2,
            linestyle="none",
            zorder=3 if row.variant == baseline else 2,
        )
    for place, size in enumerate(sizes):
        marker, colour = MARKERS[place % len(MARKERS)], COLOURS[place % len(COLOURS)]
        if size:
            axes.plot([], [], marker, color=colour, label=f"{size} px")
    axes.plot([], [], "o", color="0.3", markerfacecolor="white", label="baseline")
    axes.set(xlabel=x.label, ylabel=y.label)
    axes.margins(0.1)  # room for the names of the outermost points
    low, high = axes.get_ylim()
    if y.unit == 100 and (low < 0 or high > 100):  # an interval of few seeds reaches further than AP can
        axes.set_ylim(max(low, -2), min(high, 102))
    axes.grid(alpha=0.25)
    figure.legend(loc="outside right upper", fontsize="small", frameon=False)  # inside it hides intervals
    if len(points) <= MOST_NAMED:
        figure.draw_without_rendering()  # the layout settles where a point is
        _name(axes, [(row.id, x.unit * across.mean, y.unit * up.mean) for row, across, up in points])
    figure.savefig(file)
    return True


def _name(axes: Axes, points: Sequence[tuple[str, float, float]]) -> None:
    """Each point's name beside it, where it covers no other point or name if there is such a place. points: name, x, y;
    those of one variant at several input sizes share a name."""
    half = 4 * axes.figure.dpi / 72  # of a marker, px
    centres = axes.transData.transform([(x, y) for _, x, y in points])
    taken = [Bbox.from_extents(x - half, y - half, x + half, y + half) for x, y in centres]
    for name, x, y in points:
        label = axes.annotate(name, (x, y), BESIDE[0], textcoords="offset points", fontsize="small")
        label.set(ha="center", va="center")
        boxes = []
        for offset in BESIDE:
            label.set_position(offset)
            boxes.append(label.get_window_extent())
        best = min(range(len(BESIDE)), key=lambda place: boxes[place].count_overlaps(taken))
        label.set_position(BESIDE[best])
        taken.append(boxes[best])


def curves(panels: Sequence[Panel], file: Path) -> bool:
    """Numbers by epoch, a panel each: a colour a variant, a thin line a seed, a thick one their mean.

    Draws nothing and returns False where there are none.
    """
    if not panels or not any(panels[0].series.values()):
        file.unlink(missing_ok=True)
        return False
    figure = Figure(figsize=(4 * max(len(panels), 2), 3.4), dpi=110, layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for shown, panel in zip(axes, panels, strict=True):
        for place, variant in enumerate(panels[0].series):
            colour, dashes = COLOURS[place % 10], ("-", "--", ":", "-.")[place // 10 % 4]
            _draw(shown, panel.series.get(variant, ()), panel.unit, variant, colour, dashes, panel.marker)
        shown.set(xlabel="epoch", title=panel.title)
        shown.xaxis.set_major_locator(MaxNLocator(integer=True))
        shown.grid(alpha=0.25)
        values = [value for seeds in panel.series.values() for points in seeds for _, value in points]
        if panel.any_scale and values and 0 < MANY_TIMES * min(values) < max(values):
            shown.set_yscale("log")
    handles, labels = axes[0].get_legend_handles_labels()
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
