"""The written report: golden text, the same bytes again and elsewhere."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import study_record as made
from matplotlib.axes import Axes

from ablab import tracking
from ablab.errors import UserError
from ablab.report import table
from ablab.report.metrics import AP
from ablab.report.render import _evaluated, render

STUDY = made.ladder()["name"]
GOLDEN = Path(__file__).parent / "golden"


def test_the_table_is_the_one_that_was_reviewed(report: Path) -> None:
    assert (report / "table.md").read_text() == (GOLDEN / "ladder.md").read_text()


def test_the_same_bytes_from_a_record_that_was_moved(recorded: str, report: Path, tmp_path: Path) -> None:
    file = Path(recorded.removeprefix("sqlite:///"))
    shutil.copy(file, tmp_path / "moved.db")  # without the files of its runs
    render(f"sqlite:///{tmp_path}/moved.db", STUDY, tmp_path / "again")
    for name in ("table.md", "table.csv", "figures/map50_vs_flops.png", "figures/curves.png"):
        assert (tmp_path / "again" / name).read_bytes() == (report / name).read_bytes()


def test_every_point_has_its_name_at_every_input_size(
    recorded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named, annotate = [], Axes.annotate

    def noted(axes: Axes, text: str, *places: Any, **keys: Any) -> Any:
        named.append(text)
        return annotate(axes, text, *places, **keys)

    monkeypatch.setattr(Axes, "annotate", noted)
    render(recorded, STUDY, tmp_path)
    lines = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    points = [line["id"] for line in lines if line["map50"] and line["flops"]]
    assert named == points
    assert len(set(points)) < len(points)  # a variant at two sizes


def test_the_csv_has_every_number_and_where_it_came_from(report: Path) -> None:
    lines = list(csv.DictReader((report / "table.csv").read_text().splitlines()))
    line = lines[2]
    assert (line["id"], line["c3_count"], line["imgsz"], line["n"], line["status"]) == (
        "01",
        "1",
        "320",
        "3",
        "complete",
    )
    assert float(line["map50"]) == pytest.approx(0.5, abs=1e-15)
    assert float(line["delta_map50_low"]) < -0.02 < float(line["delta_map50_high"])
    assert line["map50_by_seed"] == "0:0.48 1:0.499 2:0.521"
    assert line["params"] == "6865469"
    evaluated = made.ladder()["variants"][1]["replicates"][2]["stages"][4]
    assert line["evaluate_fingerprints"].split()[2] == f"2:{evaluated['fingerprint']}"
    assert not [name for name in line if "second" in name or "time" in name]


def test_nothing_tells_the_time_or_the_place(report: Path, recorded: str) -> None:
    text = (report / "table.md").read_text()
    assert not re.search(r"\d{4}-\d\d-\d\d|seconds|/tmp|1[67]\d{8}", text)
    assert recorded not in text


def test_figures_are_pictures(report: Path) -> None:
    for name in ("map50_vs_flops.png", "curves.png"):
        assert (report / "figures" / name).read_bytes().startswith(b"\x89PNG")


def test_the_report_lies_beside_its_study(recorded: str, report: Path) -> None:
    tracking.log_report(recorded, STUDY, report)
    parent, _ = tracking.read(recorded, STUDY)
    kept = Path(recorded.removeprefix("sqlite:///")).parent / "mlartifacts" / parent["run_id"] / "artifacts"
    assert (kept / "table.md").read_bytes() == (report / "table.md").read_bytes()
    assert (kept / "figures" / "curves.png").exists()


def test_failures_and_single_seeds_are_told(recorded: str, tmp_path: Path) -> None:
    study = made.ladder() | {"name": "single", "design": "one_at_a_time", "seeds": [0]}
    for variant in study["variants"]:
        variant["replicates"] = variant["replicates"][:1]
    broken = made.broken(study["variants"][2]["replicates"][0], "failed", "ValueError: a | b", 1)
    study["variants"][2]["replicates"] = [broken]
    tracking.record(study, recorded)
    text = render(recorded, "single", tmp_path).read_text()
    assert "One seed: no interval can be given, so no difference here is evidence." in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert "Status" in rows[0]
    assert "previous" not in rows[0]
    assert re.search(r"\|  01 \|    \*\*1\*\* \| full .* −2.0 \|", rows[4])
    assert rows[6].endswith(r"failed: ValueError: a \| b |")


def test_costs_alone_have_no_columns_of_accuracy(recorded: str, tmp_path: Path) -> None:
    study = made.ladder() | {"name": "costs"}
    for variant in study["variants"]:
        variant["replicates"] = [made.broken(variant["replicates"][0], "complete", None, 2)]
    tracking.record(study | {"seeds": [0]}, recorded)
    text = render(recorded, "costs", tmp_path).read_text()
    assert "FLOPs (G)" in text
    assert "AP" not in text
    assert "seed" not in text.splitlines()[6]
    assert "![" not in text


def test_a_study_that_is_not_there(recorded: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Did you mean"):
        render(recorded, "from_yolov5s_to_light", tmp_path)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.00412, "0.00412"),
        (0.0995, "0.0995"),
        (0.09996, "0.100"),
        (0.2509, "0.251"),
        (1.4323, "1.43"),
        (9.994, "9.99"),
        (9.996, "10.0"),
        (17.156, "17.2"),
        (99.94, "99.9"),
        (99.95, "100"),
        (156.2, "156"),
        (999.4, "999"),
        (999.7, "1000"),
        (1234, "1234"),
        (98765, "98765"),
    ],
)
def test_three_digits_as_papers_print_them(value: float, text: str) -> None:
    assert table.significant(value) == text


def test_signs() -> None:
    assert [AP[0].signed(v) for v in (0.0123, -0.0123, 0.0001, -0.0001)] == ["+1.2", "−1.2", "0.0", "0.0"]


def test_cells_cannot_break_the_table() -> None:
    text = table.markdown(["a", "b"], [["x|y", "1"], ["z", "10"]])
    assert text == "| a    |   b |\n| :--- | --: |\n| x\\|y |   1 |\n| z    |  10 |\n"


def test_the_record_survives_json() -> None:
    assert json.loads(json.dumps(made.ladder())) == made.ladder()


def test_the_footnote_tells_micro_batches_of_the_rows_that_had_them(tmp_path: Path) -> None:
    study = made.ladder()
    for seeded in study["variants"][2]["replicates"]:
        for stage in seeded["stages"]:
            if stage["kind"] == "train":
                stage["numbers"] |= {"micro_batch": 4}
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracking.record(study, uri)
    text = render(uri, STUDY, tmp_path / "report").read_text()
    assert "Training of 02: " in text
    (line,) = (line for line in text.splitlines() if "micro-batches" in line)
    assert line.startswith("- Training of 02: ")
    assert "batch 8, in micro-batches of 4 (BatchNorm sees those), " in line


def test_how_an_evaluation_differs_from_cocos_usual_one_is_told() -> None:
    settings = {"conf": 0.001, "iou": 0.45, "clip": False, "precision": "fp32"}
    usual = {"conf": 0.001, "iou": 0.45, "clip": True, "precision": "engine"}
    evaluation = {"data": "cells", "split": "val", "images": 3}
    told = "on cells val (3 images), score ≥ 0.001, NMS at IoU 0.45"
    assert _evaluated(evaluation | {"settings": usual}) == told
    assert _evaluated(evaluation | {"settings": settings}) == f"{told}, boxes not clipped to the image, in fp32"
