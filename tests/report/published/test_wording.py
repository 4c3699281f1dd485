"""What findings say that the two real tables do not call for."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from counted import NETWORKS
from tables import Consistent, cell

from ablab.report.published.column import Row
from ablab.report.published.conventions import flops
from ablab.report.published.findings import find
from ablab.report.published.wording import Wording, listed, times


def said(rows: list[Row]) -> list[str]:
    cells, findings = find(rows, NETWORKS)
    return [Wording(rows, NETWORKS, cells).sentence(one) for one in findings]


@pytest.fixture
def table() -> Consistent:
    return Consistent(2)


def test_numbers_as_formulas_have_them() -> None:
    assert [times(f) for f in (1.1, 1 / 0.9, 2.0, 0.5, 0.9)] == ["× 1.1", "÷ 0.9", "× 2", "× 0.5", "× 0.9"]
    assert [listed(words) for words in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]


def test_prefixes_of_powers_of_two() -> None:
    assert [times(1.024**power) for power in (-2, -1, 1, 3)] == ["÷ 1.024²", "÷ 1.024", "× 1.024", "× 1.024³"]


def test_another_rule_within_a_family(table: Consistent) -> None:
    family = [row for row in table.rows if row.family == "YOLOv5"]
    values = {row.id: flops("K1", NETWORKS[row.network].at("trained", 640)) for row in family}
    values["016"] = flops("K3", NETWORKS["yolov5s"].at("trained", 640))
    assert said(table.printed("flops", values)) == [
        "The FLOPs of YOLOv5 are counted by K3 in row 016 (16.63 G), by K1 in its others: they cannot be compared."
    ]


def test_other_parameters_within_a_family(table: Consistent) -> None:
    family = [row for row in table.rows if row.family == "YOLOv5-Lite"]
    values = {row.id: NETWORKS[row.network].folded / 1e6 for row in family}
    values["017"] = NETWORKS["v5lite_g"].stored / 1e6
    assert said(table.printed("params", values)) == [
        "The params of YOLOv5-Lite are counted all stored in row 017 (5.594 M), with BatchNorm folded in its others: "
        "they cannot be compared."
    ]


def test_doubled_and_multiplied(table: Consistent) -> None:
    family = [row for row in table.rows if row.family == "YOLOv5"]
    for by, how in ((2.0, "doubled"), (0.5, "halved"), (1.1, "multiplied by 1.1")):
        rows = table.printed("flops", {row.id: by * table.flops(row, 640) for row in family})
        (sentence,) = said(rows)
        assert sentence.startswith(f"The FLOPs of yolov5s (010), yolov5s 6.0 (016) and yolov5n 6.0 (018) are {how}: ")


def test_units_and_dtypes(table: Consistent) -> None:
    unit = {"MB": "MiB", "MiB": "MB"}[table.unit]
    row = next(row for row in table.rows if row.id == "010")
    rows = table.printed("size", {"010": table.size(row, table.dtype, unit)})
    assert said(rows) == [f"Sizes mix units: {unit} in row 010, {table.unit} in the others."]


def test_figures_that_nothing_reproduces(table: Consistent) -> None:
    rows = [
        replace(row, cells={**row.cells, "params": cell("params", 3.87)}) if row.id == "016" else row
        for row in table.rows
    ]
    (sentence,) = said(rows)
    assert sentence.startswith("Nothing reproduces the params of yolov5s 6.0 (016), 3.87 M; counted as its likes are (")
    right = next(row for row in table.rows if row.id == "016").cells["params"].printed
    assert f"it would be {right}" in sentence or f"it would be {right - Decimal('0.01')}" in sentence
