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
        ("schedule.phases=[]", ["schedule.phases=[]", "at least one entry"]),
        (f"schedule.phases=[{{{PHASE}, continues: true}}]", ["phases[0].continues=true", "no stage_epochs"]),
        (f"schedule.phases=[{{{PHASE}, stage_epochs: 1, patience: 2}}]", ["patience does not go with stage_epochs"]),
        (f"schedule.phases=[{{{PHASE}, stage_epochs: 1}}, {{{PHASE}, continues: 1}}]", ["expected true or false"]),
    ],
)
def test_a_schedule_that_makes_no_sense(folder: Folder, word: str, says: list[str]) -> None:
    words = [one for one in (*TINY, *SCENES) if "phases" not in word or not one.startswith("schedule.")]
    folder.refused("train", *words, word, says=says)


def test_phases_are_evaluated_at_the_last_one_s_size(folder: Folder) -> None:
    words = [word for word in (*TINY, *SCENES) if not word.startswith(("schedule.", "eval.resolutions"))]
    folder.refused("train", *words, "schedule.phases=[]", says=["expected a list of phases, each with imgsz"])
    phases = f"schedule.phases=[{{{PHASE}}}, {{imgsz: 96, epochs: 1, lr: 0.5}}]"
    assert folder.run("train", *words, phases).out.splitlines()[2].split("|")[1].strip() == "96"
    folder.refused("train", *words, phases, "schedule.epochs=3", says=["schedule.epochs changes nothing", "own epochs"])


def test_jobs_of_a_multirun_do_not_stop_alone(folder: Folder) -> None:
    result = folder.run("train", "-m", *TINY, *SCENES, "stem=focus,conv3x3", "schedule.patience=1", "eval.every=1")
    assert result.code == 2
    assert result.err.count("patience=1 would let an arm of the study 'train --multirun' stop alone") == 2
    assert folder.trainings() == 0


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
    # Many large things of one kind, some of which random boxes hit; and no look at val is better than the first.
    still = ["data.digits=[1]", "data.objects=[6,8]", "data.scale=[0.3,0.6]"]
    still += ["optim=sgd", "optim.lr=1e-9", "optim.bn_momentum=0", "optim.fit=false"]
    result = folder.run("train", *words, "schedule=mine", "engine=inline", "eval.every=1", *still)
    assert result.code == 0, result.err
    assert "phase 2/2, 9 epochs at 96 px, seed 0: stopped early after 2 of 9 epochs" in result.err
    shown = [
        line.rpartition(": ")[2] for line in result.err.splitlines() if "weights" in line and ".safetensors" in line
    ]
    assert [path.rpartition("/")[2] for path in shown] == ["weights.safetensors", "best.safetensors"]
    assert all((folder.path / path).is_file() for path in shown)
