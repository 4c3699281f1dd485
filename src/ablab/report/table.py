"""The paper's table: a column for every quantity, as Markdown and, in full precision, as CSV.

A column is a header and a function of a Row; to add one, write the function and name it in `columns`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ablab.report.metrics import Metric
from ablab.report.rows import COSTS, Row
from ablab.report.statistics import Estimate

FACTOR_COLUMNS = 3  # so many factors have a column each; more are told by the variant's name

Column = tuple[str, Callable[[Row], str]]


def columns(study: Mapping[str, Any], table: list[Row], metrics: Sequence[Metric]) -> list[Column]:
    """The columns that this study's table needs; without metrics, those of costs alone."""
    found: list[Column] = [("ID", lambda row: row.id), *_identity(study, table)]
    if "measure" not in study:
        found += [
            ("Input size", lambda row: str(row.imgsz)),
            ("FLOPs (G)", lambda row: _scaled(row, "flops", 1e9)),
            ("Params (M)", lambda row: _scaled(row, "params", 1e6)),
            ("Size (MB, fp16)", lambda row: _scaled(row, "size_fp16_mb", 1)),
        ]
    if metrics:
        found += [(metric.header, _score(metric)) for metric in metrics]
        if len({row.index for row in table}) > 1:
            found += [(f"Δ {metric.title}", _to_baseline(metric)) for metric in metrics]
            if study["design"] == "ladder":
                found.append((f"Δ {metrics[0].title} vs. previous", _to_previous(metrics[0])))
        found.append(("n seeds", _seeds))
    if any(row.status != "complete" for row in table):
        found.append(("Status", lambda row: "; ".join(row.problems) or "complete"))
    return found


def _identity(study: Mapping[str, Any], table: list[Row]) -> list[Column]:
    factors = list(study["factors"])
    if not factors:
        return [("Variant", lambda row: row.variant)] if "measure" in study else [("Model", lambda row: row.model)]
    if study["design"] == "ladder" or len(factors) > FACTOR_COLUMNS:
        return [("Variant", lambda row: row.variant)]
    if len(factors) == 1:  # every other row differs in it
        return [(factors[0], lambda row: row.levels.get(factors[0], "–"))]
    baseline = next((row.levels for row in table if row.variant == study["baseline"]), {})
    return [(factor, _level(factor, baseline)) for factor in factors]


def _level(factor: str, baseline: Mapping[str, str]) -> Callable[[Row], str]:
    """A row's level of a factor, bold where it is not the baseline's."""

    def cell(row: Row) -> str:
        level = row.levels.get(factor, "–")
        return level if level == baseline.get(factor) else f"**{level}**"

    return cell


def _score(metric: Metric) -> Callable[[Row], str]:
    return lambda row: metric.mean(row.score(metric.key))


def _to_baseline(metric: Metric) -> Callable[[Row], str]:
    return lambda row: metric.difference(row.to_baseline.get(metric.key))


def _to_previous(metric: Metric) -> Callable[[Row], str]:
    return lambda row: metric.difference(row.to_previous.get(metric.key))


def _seeds(row: Row) -> str:
    complete = sum(status == "complete" for status in row.seeds.values())
    return str(complete) if complete == len(row.seeds) else f"{complete} of {len(row.seeds)}"


def _scaled(row: Row, cost: str, unit: float) -> str:
    return significant(row.costs[cost] / unit) if cost in row.costs else "–"


def significant(value: float) -> str:
    """Three significant digits, and never fewer than all before the point: 0.251, 1.43, 17.2, 1234."""
    rounded = f"{value:.2e}"  # rounding may carry into another digit: 9.995 has two before the point
    return f"{value:.{max(2 - int(rounded.partition('e')[2]), 0)}f}"


# ------------------------------------------------------------------------------------------------ files


def markdown(header: list[str], cells: list[list[str]]) -> str:
    """A Markdown table: numbers to the right, names (the first cell's kind decides) to the left, columns padded."""
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in [header, *cells]]
    widths = [max(3, *(len(line[column]) for line in escaped)) for column in range(len(header))]
    names = [any(c.isalpha() for line in escaped[1:] for c in line[column][:1]) for column in range(len(header))]
    rule = [f":{'-' * (w - 1)}" if left else f"{'-' * (w - 1)}:" for w, left in zip(widths, names, strict=True)]
    lines = [
        " | ".join(c.ljust(w) if left else c.rjust(w) for c, w, left in zip(line, widths, names, strict=True))
        for line in [escaped[0], rule, *escaped[1:]]
    ]
    return "".join(f"| {line} |\n" for line in lines)


def to_csv(study: Mapping[str, Any], table: list[Row], metrics: Sequence[Metric]) -> str:
    """Every number in full precision, its seeds and the fingerprints of the stages that made it."""
    detector = "measure" not in study
    records = []
    for row in table:
        record: dict[str, Any] = {"id": row.id, "variant": row.variant}
        record |= {"model": row.model, **row.levels} if detector else row.levels
        if detector:
            record |= {"imgsz": row.imgsz, **{cost: _exact(row.costs.get(cost)) for cost in COSTS}}
        for metric in metrics:
            record |= _spread(metric.key, row.score(metric.key))
            record |= _spread(f"delta_{metric.key}", row.to_baseline.get(metric.key))
            if study["design"] == "ladder":
                record |= _spread(f"previous_{metric.key}", row.to_previous.get(metric.key))
            record[f"{metric.key}_by_seed"] = " ".join(f"{s}:{v!r}" for s, v in row.scores[metric.key].items())
        record["n"] = sum(status == "complete" for status in row.seeds.values())
        record |= {"status": row.status, "reason": "; ".join((*row.problems, *row.remarks))}
        for kind in ("profile", "train", "evaluate") if detector else ("command",):
            made = row.fingerprints.get(kind, {})
            record[f"{kind}_fingerprints"] = " ".join(f"{s}:{'+'.join(found)}" for s, found in made.items())
        records.append(record)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]) if records else ["id"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def _spread(name: str, found: Estimate | None) -> dict[str, Any]:
    values = (found.mean, found.low, found.high) if found else (None, None, None)
    keys = (name, f"{name}_low", f"{name}_high")
    return {key: _exact(value) for key, value in zip(keys, values, strict=True)}


def _exact(value: float | None) -> str:
    """Shortest text that reads back as the same number; counts without a point."""
    if value is None:
        return ""
    return str(int(value)) if value.is_integer() and abs(value) >= 1 else repr(value)
