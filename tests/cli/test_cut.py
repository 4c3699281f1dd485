"""A study of head pruning by width and by cutting, as a user asks for it."""

from __future__ import annotations

import csv
import json
import shutil

import pytest
from working_folder import SCENES, STUDY, TINY, Folder

pytest.importorskip("torch_pruning", reason="the extra `prune` is not installed")
HEADS = """head:
    whole: {}
    width: {head_prune.ratio: 0.5}
    cut: {head_prune.ratio: 0.5, head_prune.method: cut}"""
PHASE = "{imgsz: 64, epochs: 1, lr: 1.0}"


def test_a_study_cuts_one_trained_parent_and_goes_on_after_a_loss(folder: Folder) -> None:
    study = STUDY.replace("stem: {focus: {stem: focus}, conv: {stem: conv3x3}}", HEADS)
    study = study.replace("model.width: 0.125", "model.width: 0.25")
    study = study.replace("  schedule.imgsz: 64\n  schedule.epochs: 1\n", f"  schedule.phases: [{PHASE}, {PHASE}]\n")
    folder.write("sweeps/heads.yaml", study)
    result = folder.run("sweep", "heads")
    assert result.code == 0, result.err
    records = {file: json.loads(file.read_text()) for file in folder.published()}
    kinds = [record["kind"] for record in records.values()]
    assert (kinds.count("train"), kinds.count("cut"), kinds.count("evaluate")) == (2 + 2 + 1, 1, 3)
    rows = list(csv.DictReader((folder.path / "reports/heads/table.csv").open()))
    costs = [[row[cost] for cost in ("params", "flops")] for row in rows]
    assert costs[0] != costs[1] == costs[2]
    assert all(row["status"] == "complete" and row["map50"] for row in rows)
    (place,) = (file.parent for file, record in records.items() if record["kind"] == "cut")
    before = (place / "weights.safetensors").read_bytes()
    shutil.rmtree(place)
    assert folder.run("sweep", "heads").code == 0
    assert (place / "weights.safetensors").read_bytes() == before
    after = {file: json.loads(file.read_text()) for file in folder.published()}
    assert after.keys() == records.keys()
    assert {file for file in after if after[file]["started"] != records[file]["started"]} == {place / "stage.json"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["head_prune.ratio=1"], ["head_prune.ratio", "[0, 1)", "found 1"]),
        (["head_prune.ratio=-0.1"], ["head_prune.ratio", "[0, 1)", "found -0.1"]),
        (["head_prune.method=cat"], ["head_prune.method=cat", "Did you mean 'cut'?"]),
        (["head_prune.ratio=0.5"], ["before the last phase of the schedule", "has 1 phase", "schedule.phases=["]),
        (["head_prune.ratio=half"], ["head_prune.ratio: expected a number", "'half'"]),
    ],
)
def test_what_cannot_be_pruned(folder: Folder, words: list[str], says: list[str]) -> None:
    folder.refused("train", *TINY, *SCENES, "head_prune.method=cut", *words, says=says)
