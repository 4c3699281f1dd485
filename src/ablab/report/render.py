"""Writes a study's report: table.md as a paper would print it, table.csv in full precision, and figures.

A pure function of MLflow's params, metrics and tags. Nothing in it tells the time or the place, so the same record
gives the same bytes on any machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ablab import tracking
from ablab.report import figures, table
from ablab.report.frame import frame
from ablab.report.metrics import NO_EVIDENCE, Metric, metrics
from ablab.report.rows import Row, is_scored, rows
from ablab.report.statistics import Estimate, seeds_needed


def render(uri: str, study: str, folder: Path) -> Path:
    """Write table.md, table.csv and figures/ into `folder`; returns the path of table.md.

    Raises UserError where the study is not recorded.
    """
    facts, children = tracking.read(uri, study)
    data = frame(facts, children)
    found, compared = rows(facts, data), metrics(facts, data) if is_scored(data) else ()
    folder = Path(folder)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    columns = table.columns(facts, found, compared)
    cells = [[cell(row) for _, cell in columns] for row in found]
    parts = [_opening(facts), table.markdown([header for header, _ in columns], cells)]
    parts += [_notes(facts, found, data["versions"], compared)]
    parts += [_pictures(uri, facts, children, found, compared, folder)]
    file = folder / "table.md"
    file.write_text("\n".join(part for part in parts if part), encoding="utf-8", newline="\n")
    csv = table.to_csv(facts, found, compared)
    (folder / "table.csv").write_text(csv, encoding="utf-8", newline="\n")
    return file


def _opening(facts: Mapping[str, Any]) -> str:
    lines = [f"# {facts['name']}", ""]
    if facts["question"]:
        lines += [" ".join(facts["question"].split()), ""]
    told = [f"Design: {facts['design']}"]
    if facts["factors"]:
        levels = [f"{factor} ({', '.join(map(str, chosen))})" for factor, chosen in facts["factors"].items()]
        told.append(f"of {', '.join(levels)}")
    base = next((v for v in facts["variants"] if v["name"] == facts["baseline"]), None)
    if base and base["levels"]:
        told.append("against " + ", ".join(f"{factor} = {level}" for factor, level in base["levels"].items()))
    return "\n".join([*lines, f"{' '.join(told)}. {_seeds(facts['seeds'])}.", ""])


def _seeds(seeds: list[int]) -> str:
    return f"Seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _notes(
    facts: Mapping[str, Any], found: list[Row], versions: Iterable[Mapping[str, str]], compared: Sequence[Metric]
) -> str:
    notes = _statistics(facts, found, compared) if compared else []
    if "measure" in facts:
        notes.append(_program(facts, versions))
    else:
        notes.append(
            "FLOPs = 2 × MACs as thop counts them, for one image, BatchNorm not folded; params: learnable; "
            "size: all stored numbers (BatchNorm's statistics too) as fp16, MB = 10⁶ bytes."
        )
        notes.append(_sizes(facts, bool(compared)))
        if compared:
            notes += [_evaluation(found, versions), *_training(found)]
    notes += dict.fromkeys(f"{row.id}: {remark}." for row in found for remark in row.remarks)
    return "".join(f"- {note}\n" for note in notes if note)


def _statistics(facts: Mapping[str, Any], found: list[Row], metrics: Sequence[Metric]) -> list[str]:
    compared = [row for row in found if row.to_baseline]
    if len(facts["seeds"]) == 1:
        return ["One seed: no interval can be given, so no difference here is evidence."] if compared else []
    interval = f"95 % t-intervals over {len(facts['seeds'])} seeds"
    in_points = metrics[-1].unit == 100
    if not compared:
        scored = any(row.score(metrics[-1].key) for row in found)
        return [f"±: {interval}{', in percentage points' if in_points else ''}."] if scored else []
    notes = [
        f"± and [ ]: {interval}. Δ: difference to the baseline{' in percentage points' if in_points else ''}, paired "
        "by seed; intervals are not corrected for how many of them there are."
    ]
    unclear = [text for row in compared if (text := _unclear(row, facts, metrics))]
    if unclear:
        notes.append(
            f"{NO_EVIDENCE} The interval includes 0: no evidence of a difference. In brackets how many seeds "
            f"would show one of the size and spread seen here. {'; '.join(unclear)}."
        )
    return notes


def _unclear(row: Row, facts: Mapping[str, Any], metrics: Sequence[Metric]) -> str:
    """Which of a row's differences to the baseline are no evidence."""
    told = [
        f"{metric.title}{_more(difference)}"
        for metric in metrics
        if (difference := row.to_baseline.get(metric.key)) and difference.includes_zero
    ]
    return f"{_name(row, facts)}: {', '.join(told)}" if told else ""


def _more(difference: Estimate) -> str:
    needed = seeds_needed(difference)
    return f" ({needed})" if needed else ""


def _name(row: Row, facts: Mapping[str, Any]) -> str:
    return row.id if len(facts["resolutions"]) <= 1 else f"{row.id} at {row.imgsz} px"


def _program(facts: Mapping[str, Any], versions: Iterable[Mapping[str, str]]) -> str:
    """Where the numbers of a study over a command come from."""
    command = facts["command"]
    used = sorted({f"{library} {version}" for found in versions for library, version in found.items()})
    by = f", with {', '.join(used)}" if used else ""
    return f"↑ higher, ↓ lower is better; as written to {command['numbers']} by `{command['run']}`{by}."


def _sizes(facts: Mapping[str, Any], evaluates: bool) -> str:
    """What differences in input size do to the table, if there are any."""
    if len({frozenset(variant["resolutions"]) for variant in facts["variants"]}) == 1:
        return ""
    note = "Input sizes differ between variants; FLOPs are those at a row's own."
    if evaluates:
        note += (
            " Two variants of one size each are compared as they are, so that Δ holds what the size does as well; "
            "others are compared at the same size only."
        )
    return note


def _evaluation(found: list[Row], versions: Iterable[Mapping[str, str]]) -> str:
    """On what, by what and under which settings AP was measured; each way, if rows differ in it."""
    told: dict[str, list[str]] = {}
    evaluators = sorted({v["hotcoco"] for v in versions if "hotcoco" in v})
    for row in found:
        if row.evaluation:
            told.setdefault(_evaluated(row.evaluation), []).append(f"{row.id} at {row.imgsz} px")
    by = f" (hotcoco {', '.join(evaluators)})" if evaluators else ""
    start = f"mAP50 and mAP in percent: COCO's AP at IoU 0.50 and its mean over 0.50:0.95{by}"
    if len(told) == 1:
        return f"{start}, {next(iter(told))}."
    return f"{start}. " + "; ".join(f"{', '.join(who)}: {how}" for how, who in told.items()) + "." if told else ""


def _evaluated(evaluation: Mapping[str, Any]) -> str:
    words = {
        "conf": "score ≥ {}",
        "iou": "NMS at IoU {}",
        "max_nms": "at most {} candidates",
        "max_det": "at most {} detections an image",
    }
    settings = evaluation["settings"]
    told = [text.format(settings[key]) for key, text in words.items() if settings.get(key) is not None]
    told += ["boxes not clipped to the image"] if settings.get("clip") is False else []
    told += ["in fp32"] if settings.get("precision") == "fp32" else []
    images = f" ({evaluation['images']} images)" if evaluation["images"] else ""
    return ", ".join([f"on {evaluation['data']} {evaluation['split']}{images}", *told])


def _training(found: list[Row]) -> list[str]:
    """What training really did; said once if all rows did the same, else by variant."""
    told: dict[str, dict[str, None]] = {}
    for row in found:
        if row.training:
            told.setdefault(_trained(row.training), {})[row.id] = None
    if len(told) == 1:
        return [f"Training: {next(iter(told))}."]
    return [f"Training of {', '.join(ids)}: {how}." for how, ids in told.items()]


def _trained(phases: list[dict[str, Any]]) -> str:
    epochs = ", then ".join(
        f"{n} epoch{'s' if n > 1 else ''} at {size} px" for n, size in ((p["epochs"], p["imgsz"]) for p in phases)
    )
    told = [f"{epochs}, {sum(phase['steps'] for phase in phases)} steps in all"]
    for key, words in (
        ("images", "{} images"),
        ("batch", "batch {}"),
        ("micro_batch", "in micro-batches of {} (BatchNorm sees those)"),
        ("ranks", "on {} processes (BatchNorm sees a share each)"),
        ("optimizer", "{}"),
        ("lr", "peak rate {}"),
    ):
        values = list(dict.fromkeys(phase[key] for phase in phases if phase.get(key) is not None))
        told += [words.format(" / ".join(_plain(value) for value in values))] if values else []
    precision = list(dict.fromkeys(phase["precision"] for phase in phases if phase.get("precision")))
    return ", ".join(told + precision)


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value) if isinstance(value, str) else json.dumps(value)


def _pictures(
    uri: str,
    facts: Mapping[str, Any],
    children: list[dict[str, Any]],
    found: list[Row],
    compared: Sequence[Metric],
    folder: Path,
) -> str:
    """Draw the figures there is something for; the Markdown that shows them."""
    names = {row.variant: f"{row.id} {row.variant}" for row in found}
    runs = [child for child in children if child["variant"] in names]

    def series(metric: str) -> dict[str, list[figures.Points]]:
        histories = tracking.curves(uri, runs, metric)
        by_variant: dict[str, list[figures.Points]] = {name: [] for name in names.values()}
        for run in runs:
            if run["run_id"] in histories:
                by_variant[names[run["variant"]]].append(histories[run["run_id"]])
        return by_variant

    if "measure" in facts:
        name, y = "tradeoff.png", _axis(compared[0])
        x = _axis(compared[1]) if len(compared) > 1 else figures.Axis("", lambda row: None)
        panels = [figures.Panel(metric.title, series(metric.key)) for metric in compared]
        panels = [
            panel for panel in panels if any(len(points) > 1 for runs in panel.series.values() for points in runs)
        ]
        told = f"{', '.join(panel.title for panel in panels)} by epoch"
    else:
        name, y = "map50_vs_flops.png", figures.Axis("mAP50 (%)", lambda row: row.score("map50"), 100)
        x = figures.Axis("FLOPs (G)", _flops, 1e-9)
        panels = [figures.Panel("training loss", series("train/loss"), any_scale=True)]
        panels.append(figures.Panel("mAP50 on val (%)", series("val/map50"), 100, "."))
        told = "Training loss and mAP50 on val by epoch"
    shown = []
    if figures.tradeoff(found, x, y, facts["baseline"], folder / "figures" / name):
        labels = [axis.label.rpartition(" (")[0] or axis.label for axis in (y, x)]
        shown.append(f"![{' against '.join(labels)}, with 95 % intervals](figures/{name})\n")
    if figures.curves(panels, folder / "figures" / "curves.png"):
        shown.append(f"![{told}](figures/curves.png)\n")
    return "\n".join(shown)


def _axis(metric: Metric) -> figures.Axis:
    return figures.Axis(metric.title, lambda row: row.score(metric.key), metric.unit)


def _flops(row: Row) -> Estimate | None:
    return Estimate(row.costs["flops"], None, None, 1) if "flops" in row.costs else None
