"""The report on the published rows: the files, the record it is made from, the page."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import study_record as made
from counted import NETWORKS

from ablab import tracking
from ablab.errors import UserError
from ablab.report.experiments import measured, render_experiments, write
from ablab.report.published.pages import discrepancy
from ablab.report.published.rows import load_row, load_rows
from ablab.study.study import published

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "report" / "golden" / "experiments.md"
ROWS = load_rows()


def study(ids: list[str], classes: int = 80) -> dict[str, Any]:
    """The study `experiments` with the profile of some rows."""
    variants = []
    for index, row in enumerate(row for row in ROWS if row["id"] in ids):
        size, net = row["imgsz"], NETWORKS[row["recipe"]]
        elements = {
            form: {str(side): {k: round(n) for k, n in net.at(form, side).items()} for side in (32, size)}
            for form in ("trained", "folded")
        }
        numbers = {"imgsz": size, "params": net.learnable, "params_fused": net.folded, "params_stored": net.stored}
        stage = made.stage("profile", f"{size} px", {"imgsz": size}, numbers | {"elements": elements}, 1.7e9)
        replicate = {"seed": 0, "status": "complete", "reason": None, "stages": [stage]}
        variants.append(
            {
                "index": index,
                "name": f"experiment={row['id']}",
                "levels": {"experiment": row["id"]},
                "model": row["recipe"],
                "resolutions": [size],
                "config": {"model": {"classes": classes}},
                "replicates": [replicate],
            }
        )
    return made.ladder() | {"name": "experiments", "design": "grid", "seeds": [0], "variants": variants}


def test_both_tables_as_published() -> None:
    keys = ("flops_g", "params_m", "size_m", "map50", "map")
    assert [[row["recipe"], row["imgsz"], *(row["published"][key] for key in keys)] for row in ROWS] == [
        ["yolo_fastest_1_1", 320, 0.25, 0.35, 1.4, 24.4, None],
        ["nanodet_m", 320, 0.72, 0.95, 1.8, None, 20.6],
        ["yolo_fastest_1_1_xl", 320, 0.72, 0.92, 3.5, 34.3, None],
        ["yolov5_lite_2021", 320, 1.43, 1.62, 3.3, 36.2, 20.8],
        ["yolov3_tiny", 416, 6.96, 6.06, 23.0, 33.1, 16.6],
        ["yolov4_tiny", 416, 5.62, 8.86, 33.7, 40.2, 21.7],
        ["nanodet_m", 416, 1.2, 0.95, 1.8, None, 23.5],
        ["yolov5_lite_2021", 416, 2.42, 1.62, 3.3, 41.3, 24.4],
        ["yolov5_lite_2021", 640, 2.42, 1.62, 3.3, 45.7, 27.1],
        ["yolov5s_v5", 640, 17.0, 7.3, 14.2, 55.4, 36.7],
        ["v5lite_e", 320, 0.73, 0.78, 1.7, 35.1, None],
        ["yolox_nano", 416, 1.08, 0.91, 7.3, None, 25.8],
        ["v5lite_s", 416, 1.66, 1.64, 3.4, 42.0, 25.2],
        ["v5lite_c", 512, 5.92, 4.57, 9.2, 50.9, 32.5],
        ["nanodet_efficientlite2", 512, 7.12, 4.71, 18.3, None, 32.6],
        ["yolov5s", 640, 16.5, 7.23, 14.0, 56.0, 37.2],
        ["v5lite_g", 640, 15.6, 5.39, 10.9, 57.6, 39.1],
        ["yolov5n", 640, 4.5, 1.9, None, 45.7, 28.0],
    ]
    assert [row["id"] for row in ROWS] == [f"{n:03d}" for n in range(1, 19)]
    assert {row["id"] for row in ROWS if row["published"]["size_dtype"]} == {"012"}  # printed as 7.3(fp32)


def test_rows_whose_recipe_is_there_are_measured_each_at_its_size() -> None:
    some = [*ROWS[:1], {**ROWS[3], "recipe": "no_such_recipe"}, ROWS[9]]
    levels = published(some, []).factors["experiment"]
    assert {row: [o.value for o in overrides] for row, overrides in levels.items() if row != "001"} == {
        "010": ["yolov5s_v5", [640]]
    }


def test_the_page_is_the_one_that_was_reviewed(tmp_path: Path) -> None:
    assert write(ROWS, NETWORKS, {}, tmp_path).read_text() == GOLDEN.read_text()


def test_the_record_gives_the_page(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    ids = [row["id"] for row in ROWS]
    tracking.record(study(ids[:9]), uri)
    tracking.record(study(ids[9:]), uri)  # a few rows at a time: what was measured before stays
    assert render_experiments(uri, ROWS, tmp_path).read_text() == GOLDEN.read_text()
    records = {r["id"]: r for r in csv.DictReader((tmp_path / "table.csv").read_text().splitlines())}
    lite = records["004"]
    assert (lite["published_flops_g"], lite["measured_flops_g"], lite["counted_as_flops_g"]) == (
        "1.43",
        "1.2678864",
        "K5",
    )
    assert float(lite["comes_to_flops_g"]) == pytest.approx(2 * (633_943_200 + 535_500 + 2 * 5_018_400) / 0.9e9)
    assert float(lite["relative_flops_g"]) == pytest.approx(1.2678864 / 1.43 - 1)
    assert lite["measured_params_m"] == "1.625469"
    assert (records["010"]["counted_as_size_m"], records["010"]["comes_to_size_m"]) == ("", "")
    assert records["018"]["published_size_m"] == ""
    assert len(records["010"]["profile_fingerprint"]) == 64


def test_rows_that_are_not_measured_are_named(tmp_path: Path) -> None:
    some = {name: net for name, net in NETWORKS.items() if "yolov5" in name or name == "v5lite_s"}
    text = write(ROWS, some, {}, tmp_path).read_text()
    assert "- Not measured: 001, 002, 003, 005, 006, 007, 011, 012, 014, 015, 017.\n" in text
    line = next(line for line in text.splitlines() if line.startswith("| 005"))
    assert [cell.strip() for cell in line.split("|")[4:10]] == ["6.96", "–", "6.06", "–", "23.0", "–"]
    assert "are divided by 0.9: 1.43, 2.42 and 2.42 G for 1.289, 2.178 and 2.178 G." in text
    assert "swapped" not in text


def test_other_than_80_classes_are_not_the_published_network(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracking.record(study(["004"], classes=3), uri)
    assert measured(ROWS, tracking.read(uri, "experiments")[1]) == ({}, {})


def test_a_record_without_these_counts_is_not_measured(recorded: str) -> None:
    _, children = tracking.read(recorded, made.ladder()["name"])
    children = [
        {**child, "params": {**child["params"], "experiment": "004", "model.classes": "80"}} for child in children
    ]
    assert all(child["elements"] is None for child in children)
    assert measured(ROWS, children) == ({}, {})


@pytest.mark.parametrize(
    ("published", "found", "expected"),
    [
        (7.3, 7.276605, None),
        (1.62, 1.6249, None),
        (1.62, 1.625469, 0.00337593),
        (17.0, 17.049, None),
        (17.0, 17.156, 0.00917647),
        (1.43, 1.3086, -0.0848951),
        (None, 1.0, None),
        (1.0, None, None),
    ],
)
def test_more_than_rounding(published: float | None, found: float | None, expected: float | None) -> None:
    assert discrepancy(published, found) == (None if expected is None else pytest.approx(expected, rel=1e-5))


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("imgsz: 320", "imgsize: 320", "unknown key 'imgsize'. Did you mean 'imgsz'"),
        ("imgsz: 320\n", "", "key 'imgsz' is missing"),
        ("  flops_g: 1.43", "  flops: 1.43", "published: unknown key 'flops'. Did you mean 'flops_g'"),
        ('id: "004"', "id: 004", "id: expected text (quote it"),
        ("imgsz: 320", "imgsz: big", "imgsz: expected a whole number, found 'big'"),
        ("  size_m: 3.3", "  size_m: 3.3\n  size_dtype: fp61", "Did you mean 'fp16'"),
        ("imgsz: 320", "imgsz: 320\nnotes: [FLOPs are too large by a ninth]", "unknown key 'notes'"),
        ("name:", "name", "not valid YAML"),
        ("imgsz: 320", "imgsz: 320\nimgsz: 416", "duplicate key imgsz"),
    ],
)
def test_a_wrong_file_is_told_by_key(before: str, after: str, said: str, tmp_path: Path) -> None:
    good = next((ROOT / "experiments").glob("004*.yaml")).read_text()
    assert before in good
    file = tmp_path / "mine.yaml"
    file.write_text(good.replace(before, after, 1))
    with pytest.raises(UserError) as told:
        load_row(file)
    assert said in str(told.value)
    assert "mine.yaml" in str(told.value)
