"""Schedules that make no sense, rates that diverge, and trainings that stop early, through the command line."""

from __future__ import annotations

import pytest
from working_folder import SCENES, TINY, Folder

PHASE = "imgsz: 64, epochs: 2, lr: 1.0"


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("schedule.scales=[1.1,1.5]", ["schedule.scales=[1.1, 1.5]", "low ≤ 1 ≤ high"]),
        ("schedule.scales=2", ["schedule.scales=2", "[low, high] or null"]),
        ("schedule.scales=[0.5]", ["schedule.scales=[0.5]", "expected 2 numbers"]),
        ("schedule.scales=[0,9]", ["schedule.scales[0]=0", "above 0 to 4"]),
        ("schedule.patience=0", ["schedule.patience=0", "from 1 on, or null"]),
        ("schedule.patience=2", ["patience=2 counts validations", "eval.every of at least 1"]),
        (f"schedule.phases=[{{{PHASE}, scale: [0.5, 1.5]}}]", ["unknown key 'scale'", "Did you mean 'scales'?"]),
        (f"schedule.phases=[{{{PHASE}, continues: true}}]", ["phases[0].continues=true", "no stage_epochs"]),
        (f"schedule.phases=[{{{PHASE}, stage_epochs: 1, patience: 2}}]", ["patience does not go with stage_epochs"]),
        (f"schedule.phases=[{{{PHASE}, stage_epochs: 1}}, {{{PHASE}, continues: 1}}]", ["expected true or false"]),
    ],
)
def test_a_schedule_that_makes_no_sense(folder: Folder, word: str, says: list[str]) -> None:
    folder.refused("train", *TINY, *SCENES, word, says=says)


def test_an_arm_of_a_study_does_not_stop_alone(folder: Folder) -> None:
    folder.refused("sweep", "tiny", "schedule.patience=3", says=["patience=3", "an arm of the study 'tiny' stop alone"])


def test_a_rate_that_diverges_is_one_line_and_its_weights_are_evaluated(folder: Folder) -> None:
    result = folder.run("train", *TINY, *SCENES, "engine=inline", "optim=adamw", "optim.lr=1e6", "eval.every=1")
    assert result.code == 0
    told = [line for line in result.err.splitlines() if line.startswith("phase 1/1")]
    assert told == [
        "phase 1/1, 1 epochs at 64 px, seed 0: diverged in epoch 1, the weights are those before; "
        "lower rates than optim.lr=1e+06 may do"
    ]
    assert "best weights" not in result.err
    assert "mAP50" in result.out
    assert "nan" not in result.out


def test_a_sweep_marks_the_row_that_diverged(folder: Folder) -> None:
    assert folder.run("sweep", "tiny", "optim=adamw", "optim.lr=1e6").code == 0
    table = (folder.path / "reports/tiny/table.md").read_text()
    assert table.count("diverged in phase 1/1") == 2


def test_phases_of_one_s_own_in_a_file_and_both_weights_at_the_end(folder: Folder) -> None:
    folder.write(
        "conf/schedule/mine.yaml",
        "phases:\n"
        "  - {imgsz: 64, epochs: 1, lr: 1.0, stage_epochs: 1}\n"
        "  - {imgsz: 96, epochs: 9, lr: 0.5, continues: true, scales: [0.7, 1.4], patience: 1}\n",
    )
    words = [word for word in (*TINY, *SCENES) if not word.startswith("schedule.")]
    still = ["optim=sgd", "optim.lr=1e-9", "optim.bn_momentum=0"]  # so that no look at val is better than the first
    result = folder.run("train", *words, "schedule=mine", "engine=inline", "eval.every=1", *still)
    assert result.code == 0, result.err
    assert "phase 2/2, 9 epochs at 96 px, seed 0: stopped early after 2 of 9 epochs" in result.err
    shown = [
        line.rpartition(": ")[2] for line in result.err.splitlines() if "weights" in line and ".safetensors" in line
    ]
    assert [path.rpartition("/")[2] for path in shown] == ["weights.safetensors", "best.safetensors"]
    assert all((folder.path / path).is_file() for path in shown)
