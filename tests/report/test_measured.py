"""The report of a study over a command: its own numbers, each with its direction, in place of AP and costs."""

from __future__ import annotations

import csv
import math
import statistics
from pathlib import Path
from typing import Any

import pytest
import study_record as made
from mlflow import MlflowClient

from ablab import tracking
from ablab.report.metrics import AP, Metric
from ablab.report.render import render
from ablab.report.statistics import estimate

ACCURACY = {3: [0.86, 0.87, 0.88], 8: [0.955, 0.957, 0.962], 9: [0.86, 0.875, 0.878]}
SECONDS = {3: [1.5, 1.75, 1.25], 8: [12.5, 13.0, 12.0], 9: [1.5, 1.75, 1.25]}
T95 = 4.302652729911275  # Student's t at 97.5 %, 2 degrees of freedom, from a table


def run(depth: int, seed: int, at: float, curve: bool = False) -> dict[str, Any]:
    accuracy, seconds = ACCURACY[depth][seed], SECONDS[depth][seed]
    points = [{"epoch": e, "accuracy": accuracy * e / 3} for e in (1, 2, 3)] if curve else []
    numbers = {"values": {"accuracy": accuracy, "seconds": seconds, "odd (name)": 7.0}, "curve": points}
    numbers |= {"diverged": False}
    config = {"command": {"run": ["python", str(depth)]}, "data": {"format": "files", "name": "digits.csv"}}
    stage = made.stage("command", f"run, seed {seed}", config | {"engine": {"threads": 1}}, numbers, at)
    stage |= {"versions": {"scikit-learn": "1.9.1"}, "data": made.fingerprint("digits")}
    return {"seed": seed, "status": "complete", "reason": None, "stages": [stage]}


def forest(name: str = "forest", curve: bool = False) -> dict[str, Any]:
    """Depth 3 against 8, which is better for sure, and 9, of which nothing is known."""
    variants = [
        {
            "index": index,
            "name": "baseline" if index == 0 else f"depth={depth}",
            "levels": {"depth": str(depth)},
            "model": "",
            "resolutions": [],
            "config": {
                "arguments": {"depth": depth, "model": "m"},
                "command": {"run": "python {depth}"},
                "engine": {"name": "inline", "device": "cpu", "precision": "fp32", "threads": 1},
                "store": "s",
                "tracking": {"uri": "u"},
                "reports": "r",
            },
            "replicates": [run(depth, seed, 1.7e9 + 100 * index + 10 * seed, curve) for seed in range(3)],
        }
        for index, depth in enumerate(ACCURACY)
    ]
    return {
        "name": name,
        "question": "How deep?",
        "design": "grid",
        "factors": {"depth": ["3", "8", "9"]},
        "baseline": "baseline",
        "seeds": [0, 1, 2],
        "resolutions": [],
        "measure": {"accuracy": "higher", "seconds": "lower"},
        "command": {"run": "python {depth} {seed}", "numbers": "metrics.json"},
        "git": {},
        "variants": variants,
    }


def cells(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in (lines[0], *lines[2:])]


def test_the_table(recorded: str, tmp_path: Path) -> None:
    tracking.record(forest(), recorded)
    text = render(recorded, "forest", tmp_path).read_text()
    header, base, deep, other = cells(text)
    assert header == ["ID", "depth", "accuracy ↑", "seconds ↓", "Δ accuracy", "Δ seconds", "n seeds"]
    half = T95 * statistics.stdev(ACCURACY[3]) / math.sqrt(3)
    assert base == ["00", "3", f"0.8700 ± {half:.4f}", "1.50 ± 0.62", "–", "–", "3"]
    differences = [a - b for a, b in zip(ACCURACY[8], ACCURACY[3], strict=True)]
    mean, half = statistics.fmean(differences), T95 * statistics.stdev(differences) / math.sqrt(3)
    assert deep[:2] == ["01", "8"]
    assert deep[4] == f"+{mean:.4f} [+{mean - half:.4f}, +{mean + half:.4f}]"
    assert deep[5] == "+11.00 [+10.38, +11.62]"  # 11, 11.25 and 10.75
    assert other[4].endswith(" †")
    assert other[5] == "0.00 [0.00, 0.00] †"
    assert "02: accuracy (" in text  # so many seeds would tell
    assert "lower is better; as written to metrics.json by `python {depth} {seed}`, with scikit-learn 1.9.1." in text
    for word in ("FLOPs", "AP", "percentage", "px", "Training"):
        assert word not in text
    assert "![accuracy against seconds, with 95 % intervals](figures/tradeoff.png)" in text
    assert "curves.png" not in text
    assert (tmp_path / "figures" / "tradeoff.png").read_bytes().startswith(b"\x89PNG")


def test_the_csv(recorded: str, tmp_path: Path) -> None:
    tracking.record(forest(), recorded)
    render(recorded, "forest", tmp_path)
    lines = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    assert float(lines[1]["accuracy"]) == pytest.approx(statistics.fmean(ACCURACY[8]), abs=1e-15)
    assert lines[1]["accuracy_by_seed"] == "0:0.955 1:0.957 2:0.962"
    assert lines[1]["command_fingerprints"].startswith(f"0:{run(8, 0, 1.7e9 + 100)['stages'][0]['fingerprint']} 1:")
    assert not {"imgsz", "model", "flops", "map50"} & lines[0].keys()


def test_curves_keep_their_names_and_end_at_the_result(recorded: str, tmp_path: Path) -> None:
    tracking.record(forest("curved", curve=True), recorded)
    _, children = tracking.read(recorded, "curved")
    (points, *_) = tracking.curves(recorded, children, "accuracy").values()
    assert points == [(1, pytest.approx(0.86 / 3)), (2, pytest.approx(0.86 * 2 / 3)), (3, pytest.approx(0.86))]
    assert children[0]["metrics"] == {"accuracy": 0.86, "seconds": 1.5, "odd _name_": 7.0}
    assert children[0]["params"]["depth"] == "3"
    assert children[0]["params"]["arguments.model"] == "m"
    assert "model" not in children[0]["params"]
    inputs = MlflowClient(recorded).get_run(children[0]["run_id"]).inputs.dataset_inputs
    assert [used.dataset.name for used in inputs] == ["digits.csv"]
    text = render(recorded, "curved", tmp_path).read_text()
    assert "![accuracy by epoch](figures/curves.png)" in text


def test_a_number_that_is_none_leaves_no_mean(recorded: str, tmp_path: Path) -> None:
    study = forest("diverged", curve=True)
    replicate = study["variants"][1]["replicates"][1]
    replicate["reason"] = "diverged in run, seed 1"
    numbers = replicate["stages"][0]["numbers"]
    numbers["values"]["accuracy"] = numbers["curve"][-1]["accuracy"] = None
    tracking.record(study, recorded)
    text = render(recorded, "diverged", tmp_path).read_text()
    header, _, deep, other = cells(text)
    assert deep[header.index("accuracy ↑")] == deep[header.index("Δ accuracy")] == "–"
    assert deep[-1] == "incomplete: no accuracy (seed 1)"
    assert other[-1] == "complete"
    assert "- 01: seed 1 diverged in run, seed 1." in text


def test_a_number_that_was_not_written_when_it_was_not_yet_asked_for(recorded: str, tmp_path: Path) -> None:
    study = forest("asked_later") | {"measure": {"nodes": "lower"}}
    tracking.record(study, recorded)
    text = render(recorded, "asked_later", tmp_path).read_text()
    assert text.count("incomplete: no nodes") == 3


def test_a_failed_run_keeps_its_row(recorded: str, tmp_path: Path) -> None:
    study = forest("failed")
    replicates = study["variants"][2]["replicates"]
    replicates[0] = made.broken(replicates[0], "failed", "`python 9` ended with exit code 1; its last words: oh", 0)
    tracking.record(study, recorded)
    rows = cells(render(recorded, "failed", tmp_path).read_text())
    assert rows[3][-2:] == ["2 of 3", "failed: `python 9` ended with exit code 1; its last words: oh (seed 0)"]


def test_a_ladder_and_one_seed_and_no_factors(recorded: str, tmp_path: Path) -> None:
    ladder = forest("rungs") | {"design": "ladder"}
    tracking.record(ladder, recorded)
    header, *rows = cells(render(recorded, "rungs", tmp_path).read_text())
    assert header[1] == "Variant"
    assert rows[2][header.index("Δ accuracy vs. previous")].startswith("−0.087")
    single = forest("one") | {"seeds": [0], "factors": {}}
    single["variants"] = [single["variants"][0] | {"levels": {}}]
    single["variants"][0]["replicates"] = single["variants"][0]["replicates"][:1]
    tracking.record(single, recorded)
    assert cells(render(recorded, "one", tmp_path).read_text()) == [
        ["ID", "Variant", "accuracy ↑", "seconds ↓", "n seeds"],
        ["00", "baseline", "0.8600", "1.500", "1"],
    ]


def test_a_metric_as_printed() -> None:
    metric = Metric("loss", "loss", decimals=2, better="lower")
    assert metric.header == "loss ↓"
    assert metric.mean(estimate([-1.0, -1.0])) == "−1.00 ± 0.00"
    assert [metric.signed(v) for v in (0.123, -0.123, 0.001, -0.001)] == ["+0.12", "−0.12", "0.00", "0.00"]
    assert metric.mean(None) == metric.difference(None) == "–"
    assert AP[0].mean(estimate([0.5, 0.5])) == "50.0 ± 0.0"
