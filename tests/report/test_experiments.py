"""Published rows: the files, and what is measured beside them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import study_record as made

from ablab import tracking
from ablab.errors import UserError
from ablab.report.experiments import discrepancy, load_row, load_rows, render_experiments

MACS = {("004", 320): 654_300_000, ("010", 640): 8_578_000_000}  # by thop, unfused
PARAMS = {"004": 1_625_469, "010": 7_276_605}


def measured(ids: list[str], classes: int = 80) -> dict[str, Any]:
    """The study `experiments` with the profile of some rows."""
    variants = []
    for index, row in enumerate(row for row in load_rows() if row["id"] in ids):
        size, macs, params = row["imgsz"], MACS[row["id"], row["imgsz"]], PARAMS[row["id"]]
        numbers = {"imgsz": size, "flops": 2 * macs, "params": params, "size_fp16_mb": 2 * params / 1e6}
        stage = made.stage("profile", f"{size} px", {"imgsz": size}, numbers, 1.7e9)
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


def test_ten_rows_as_published() -> None:
    rows = load_rows()
    assert [row["id"] for row in rows] == [f"{n:03d}" for n in range(1, 11)]
    assert {row["id"]: row["recipe"] for row in rows if row["recipe"]} == {
        "004": "yolov5_lite_2021",
        "008": "yolov5_lite_2021",
        "009": "yolov5_lite_2021",
        "010": "yolov5s_v5",
    }
    published = [
        [row["imgsz"], *(row["published"][k] for k in ("flops_g", "params_m", "size_mb", "map50", "map"))]
        for row in rows
    ]
    assert published == [
        [320, 0.25, 0.35, 1.4, 24.4, None],
        [320, 0.72, 0.95, 1.8, None, 20.6],
        [320, 0.72, 0.92, 3.5, 34.3, None],
        [320, 1.43, 1.62, 3.3, 36.2, 20.8],
        [416, 6.96, 6.06, 23.0, 33.1, 16.6],
        [416, 5.62, 8.86, 33.7, 40.2, 21.7],
        [416, 1.2, 0.95, 1.8, None, 23.5],
        [416, 2.42, 1.62, 3.3, 41.3, 24.4],
        [640, 2.42, 1.62, 3.3, 45.7, 27.1],
        [640, 17.0, 7.3, 14.2, 55.4, 36.7],
    ]


def test_measured_beside_published(recorded: str, tmp_path: Path) -> None:
    tracking.record(measured(["004"]), recorded)
    tracking.record(measured(["010"]), recorded)  # one row at a time: what was measured before stays
    file = render_experiments(recorded, load_rows(), tmp_path)
    lines = {
        line.split("|")[1].strip(): [c.strip() for c in line.split("|")[4:-1]]
        for line in file.read_text().splitlines()
        if line.startswith("| 0")
    }
    assert lines["001"] == ["0.25", "–", "0.35", "–", "1.4 fp32", "–", "24.4", "–"]
    assert lines["004"] == ["1.43", "1.31 (−8.5 %)", "1.62", "1.63 (+0.3 %)", "3.3 fp16", "3.25", "36.2", "20.8"]
    assert lines["010"] == ["17.0", "17.2 (+0.9 %)", "7.3", "7.28", "14.2 fp16", "14.6 (+2.5 %)", "55.4", "36.7"]
    assert "- 009: FLOPs were copied from row 008" in file.read_text()
    records = {r["id"]: r for r in csv.DictReader((tmp_path / "table.csv").read_text().splitlines())}
    assert float(records["004"]["relative_flops_g"]) == pytest.approx(1.3086 / 1.43 - 1)
    assert records["004"]["measured_params_m"] == "1.625469"
    assert records["004"]["relative_size_mb"] == ""
    assert len(records["010"]["profile_fingerprint"]) == 64


def test_other_than_80_classes_are_not_the_published_network(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracking.record(measured(["004"], classes=3), uri)
    text = render_experiments(uri, load_rows(), tmp_path).read_text()
    assert "1.31" not in text


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
        ("size_dtype: fp16", "size_dtype: fp61", "Did you mean 'fp16'"),
        ("name:", "name", "not valid YAML"),
        ("imgsz: 320", "imgsz: 320\nimgsz: 416", "duplicate key imgsz"),
    ],
)
def test_a_wrong_file_is_told_by_key(before: str, after: str, said: str, tmp_path: Path) -> None:
    good = next((Path(__file__).parents[2] / "experiments").glob("004*.yaml")).read_text()
    assert before in good
    file = tmp_path / "mine.yaml"
    file.write_text(good.replace(before, after, 1))
    with pytest.raises(UserError) as told:
        load_row(file)
    assert said in str(told.value)
    assert "mine.yaml" in str(told.value)
