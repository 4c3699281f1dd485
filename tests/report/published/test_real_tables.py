"""The two published tables: every mistake in them is found, each for its own reason, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from counted import NETWORKS
from tables import ROWS

from ablab.report.experiments import as_row
from ablab.report.published.column import Read
from ablab.report.published.findings import Finding, find

PRINTED = [as_row(row) for row in ROWS]
FOUND = [
    Finding("swapped", "", ("005", "006"), ("flops", "params", "size")),
    Finding("size", "flops", ("009",), 416),
    Finding("factor", "flops", ("004", "008", "009"), 1 / 0.9),
    Finding("factor", "size", ("012",), 2.0),
    Finding("scaled", "flops", ("014",), None),
    Finding("dtype", "size", ("001", "003", "005", "006", "012", "015"), "fp32"),
    Finding("unit", "size", ("001", "014"), "MB"),
    Finding("form", "flops", ("004", "008", "009"), "trained"),
    Finding("never_run", "params", ("015",), True),
    Finding("cut", "params", ("014",), None),
    Finding("cut", "flops", ("017",), None),
    Finding("cut", "size", ("005", "006"), None),
    Finding("unexplained", "size", ("010",), None),
]


@pytest.fixture(scope="module")
def explained() -> tuple[dict[tuple[str, str], Read], list[Finding]]:
    return find(PRINTED, NETWORKS)


def plainly(findings: list[Finding]) -> set[tuple[str, str, tuple[str, ...], str]]:
    return {
        (one.kind, one.column, one.rows, f"{one.value:.6f}" if isinstance(one.value, float) else str(one.value))
        for one in findings
    }


def test_what_the_tables_get_wrong(explained: tuple[dict[tuple[str, str], Read], list[Finding]]) -> None:
    assert plainly(explained[1]) == plainly(FOUND)


def test_no_row_file_says_it() -> None:
    keys = {key for row in ROWS for key in (*row, *row["published"])}
    assert keys == {
        *("id", "name", "network", "family", "recipe", "imgsz", "published", "source", "never_run_params"),
        *("flops_g", "params_m", "size_m", "size_dtype", "map50", "map"),
    }


# row: how its FLOPs, params and size were counted, and what that gives
COUNTED = {
    "001": ("K1", 0.2509, "stored", 0.346062, "fp32", "MB", 1.3842),
    "002": ("K6", 0.72, "learnable", 0.950036, "fp16", "MiB", None),
    "003": ("K1", 0.7234, "stored", 0.923486, "fp32", "MiB", 3.5228),
    "004": ("K2", 1.4323, "folded", 1.616325, "fp16", "MiB", None),
    "005": ("K6", 5.62, "stored", 8.858734, "fp32", "MiB", None),
    "006": ("K6", 6.96, "stored", 6.062814, "fp32", "MiB", None),
    "007": ("K6", 1.20, "learnable", 0.950036, "fp16", "MiB", None),
    "008": ("K2", 2.4205, "folded", 1.616325, "fp16", "MiB", None),
    "009": ("K2", 2.4205, "folded", 1.616325, "fp16", "MiB", None),
    "010": ("K2", 17.0111, "folded", 7.266973, None, None, None),
    "011": ("K2", 0.7258, "folded", 0.779669, "fp16", "MiB", None),
    "012": ("K2", 1.0792, "learnable", 0.912159, "fp32", "MiB", None),
    "013": ("K2", 1.6619, "folded", 1.640629, "fp16", "MiB", None),
    "014": ("K2", 5.9234, "folded", 4.579293, "fp16", "MB", 9.2342),
    "015": ("K6", 7.12, "learnable", 4.706488, "fp32", "MiB", None),
    "016": ("K2", 16.4852, "folded", 7.225885, "fp16", "MiB", None),
    "017": ("K2", 15.6698, "folded", 5.390365, "fp16", "MiB", None),
    "018": ("K2", 4.4961, "folded", 1.867405, None, None, None),
}


@pytest.mark.parametrize("id", COUNTED)
def test_every_cell_comes_about(id: str, explained: tuple[dict[tuple[str, str], Read], list[Finding]]) -> None:
    count, flops, counted, params, dtype, unit, size = COUNTED[id]
    cells = explained[0]
    assert (cells[id, "flops"].taken["count"], round(cells[id, "flops"].value, 4)) == (count, flops)
    assert cells[id, "params"].taken["counted"] == counted
    assert cells[id, "params"].value == pytest.approx(params, abs=1e-9)
    if dtype:
        assert (cells[id, "size"].taken["dtype"], cells[id, "size"].taken["unit"]) == (dtype, unit)
    if size:
        assert round(cells[id, "size"].value, 4) == size
    files = {i: cells[i, "size"].taken["file"] for i in ("004", "008", "009", "011", "013", "016", "017", "001", "014")}
    assert files == dict.fromkeys(("004", "008", "009", "011", "013", "016", "017"), 0.2) | {"001": 0, "014": 0}


@pytest.mark.parametrize("gone", NETWORKS)
def test_nothing_else_is_found_while_a_network_is_not_measured_yet(gone: str) -> None:
    lost = {row.id for row in PRINTED if row.network == gone}
    found = find(PRINTED, {name: net for name, net in NETWORKS.items() if name != gone})[1]
    known = {(one.kind, one.column) for one in FOUND}
    for one in found:
        if one.kind == "unexplained" and one.rows[0] in ("005", "006"):  # the swap's other half is what is missing
            assert gone in ("yolov3_tiny", "yolov4_tiny")
        else:
            assert (one.kind, one.column) in known
    for one in FOUND:
        if one.kind in ("size", "factor", "scaled") and not lost & set(one.rows):
            assert plainly([one]) <= plainly(found)


def test_cells_without_a_figure_and_rows_without_a_network() -> None:
    assert find(PRINTED, {}) == ({}, [])
    bare = [replace(row, cells={}) for row in PRINTED]
    assert find(bare, NETWORKS) == ({}, [])


def test_the_first_table_alone_gives_the_same_gravest_findings() -> None:
    first = [row for row in PRINTED if row.id <= "010"]
    grave = [one for one in find(first, NETWORKS)[1] if one.kind in ("swapped", "size", "factor", "scaled")]
    assert plainly(grave) == plainly(FOUND[:3])
