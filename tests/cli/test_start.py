"""Training from weights and with fitted anchors, as a user asks for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision.models import resnet18, shufflenet_v2_x1_0
from working_folder import SCENES, STUDY, TINY, Folder

TRAIN = ["train", *TINY, *SCENES, "engine=inline"]


def records(folder: Folder, kind: str = "train") -> list[dict[str, Any]]:
    """Published stages of a kind, oldest first, with their folder as `at`."""
    files = sorted(
        (folder.path / ".ablab/store/stages").glob("*/*/stage.json"), key=lambda file: file.stat().st_mtime_ns
    )
    found = [json.loads(file.read_text()) | {"at": file.parent} for file in files]
    return [record for record in found if record["kind"] == kind]


@pytest.fixture
def weights(trained: Path) -> Path:
    """Weights of ten classes with a Focus stem."""
    for file in (trained / ".ablab/store/stages").glob("*/*/weights.safetensors"):
        if json.loads((file.parent / "stage.json").read_text())["config"]["stem"]["_target_"].endswith("Focus"):
            return file
    raise AssertionError("the trained study has a variant with a Focus stem")


def test_own_weights_for_another_class_count_and_frozen_modules(folder: Folder, weights: Path) -> None:
    frozen = "start.freeze=[stem,backbone.stages.0]"
    (folder.path / "old.safetensors").write_bytes(weights.read_bytes())
    asked = [*TRAIN, "stem=focus", "data.digits=[1,4,7]", "schedule.epochs=2", frozen, "start.rates={backbone:0.1}"]
    result = folder.run(*asked, "start.weights=old.safetensors")
    assert result.code == 0, result.err
    assert "starts from old.safetensors: " in result.err + result.out
    (record,) = records(folder)
    numbers = record["numbers"]
    assert numbers["fresh"] == [f"head.convs.{level}.{what}" for level in range(3) for what in ("bias", "weight")]
    assert numbers["tensors_loaded"] > 100
    assert 0.9 < numbers["loaded_share"] < 1
    assert 0 < numbers["best_possible_recall"] <= 1
    before, after = load_file(weights), load_file(record["at"] / "weights.safetensors")
    for name, tensor in before.items():
        if name.endswith("num_batches_tracked"):  # read by nobody, and so not taken over
            continue
        if name.startswith(("stem.", "backbone.stages.0.")):
            assert torch.equal(after[name], tensor), name
        elif name.startswith("backbone.") and name.endswith("conv.weight"):
            assert not torch.equal(after[name], tensor), name
    # Content counts, place does not: the same bytes elsewhere train nothing.
    (folder.path / "old.safetensors").rename(folder.path / "moved.safetensors")
    assert folder.run(*asked, "start.weights=moved.safetensors").code == 0
    assert len(records(folder)) == 1


def test_torchvisions_file_is_a_level_and_only_the_first_phase_starts_from_it(folder: Folder) -> None:
    torch.save(shufflenet_v2_x1_0(weights=None).state_dict(), folder.path / "shufflenetv2_x1.pth")
    study = STUDY.replace("model: yolov5n", "model: yolov5_lite_2021\n  backbone.channels: [116, 232, 464]")
    study = study.replace("model.width: 0.125", "model.width: 0.5").replace("data.train: 8", "data.train: 4")
    study = study.replace(
        "  schedule.imgsz: 64\n  schedule.epochs: 1\n", "  schedule: progressive\n  schedule.phases: PHASES\n"
    )
    phase = "{imgsz: 64, epochs: 1, lr: 1.0}"
    study = study.replace("PHASES", f"[{phase}, {phase}]")
    levels = "  start: {scratch: {start.weights: null}, imagenet: {start.weights: shufflenetv2_x1.pth}}"
    study = study.replace("  stem: {focus: {stem: focus}, conv: {stem: conv3x3}}", levels)
    folder.write("sweeps/starts.yaml", study)
    result = folder.run("sweep", "starts")
    assert result.code == 0, result.err
    found = [record["numbers"].get("start_weights") for record in records(folder)]
    assert sorted(map(str, found)) == ["None", "None", "None", "shufflenetv2_x1.pth"]
    (folder.path / "shufflenetv2_x1.pth").unlink()
    folder.refused("plan", "starts", says=["start.weights=shufflenetv2_x1.pth", "sweeps/starts.yaml", "No such file"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["start.weights=absent.pt"], ["start.weights=absent.pt", "No such file", "start from scratch"]),
        (["start.weights=damaged.pt"], ["damaged.pt", "no file of weights"]),
        (["start.weights=resnet18.pth"], ["resnet18.pth", "only 0 of its 102 tensors fit", "conv1.weight"]),
        (["start.weights=none.pt"], ["none.pt", "expected a state dict", "found a dictionary of epoch"]),
        (["start.weights=half.safetensors"], ["half.safetensors", "only 0 of its 1 tensors fit"]),
        (["start.weights=3"], ["start.weights=3", "the path of a file"]),
        (["start.freeze=[bakcbone]"], ["start.freeze", "no module 'bakcbone'", "Did you mean 'backbone'?"]),
        (["start.freeze=[stem,backbone,neck,head]"], ["start.freeze", "nothing is left to learn"]),
        (["start.freeze=[1]"], ["start.freeze=1", "names of modules"]),
        (["start.rates={backbne:0.1}"], ["start.rates", "no module 'backbne'", "Did you mean 'backbone'?"]),
        (["start.rates={backbone:0}"], ["start.rates.backbone=0", "a number above 0"]),
        (["start.rates={backbone:{stage:0.1}}"], ["start.rates", "no module 'backbone.stage'", "'backbone.stages'"]),
        (["start.rates.neck=fast"], ["start.rates.neck=fast", "a number above 0"]),
        (["start.rate=0.1"], ["start.rate", "Did you mean 'start.rates'?"]),
        (["model.anchors=fited"], ["model.anchors=fited", "Did you mean 'fitted'?"]),
    ],
)
def test_what_training_cannot_start_from(folder: Folder, words: list[str], says: list[str]) -> None:
    folder.write("damaged.pt", b"PK\x03\x04 and so on")
    torch.save({"epoch": 3, "best": 0.5}, folder.path / "none.pt")
    save_file({"stem.conv.conv.weight": torch.zeros(2, 2)}, folder.path / "half.safetensors")
    if "resnet18.pth" in words[0]:
        torch.save(resnet18(weights=None).state_dict(), folder.path / "resnet18.pth")
    folder.refused(*TRAIN, *words, says=says)


def test_weights_with_fitted_anchors_are_evaluated_with_theirs(folder: Folder) -> None:
    data = [word for word in SCENES if "scale" not in word] + ["data.scale=[0.2,0.5]"]
    asked = [*TINY, *data, "engine=inline"]
    assert folder.run("train", *asked, "model.anchors=fitted").code == 0
    (record,) = records(folder)
    anchors = record["config"]["head"]["anchors"]
    assert anchors[0][0] not in ([10, 13], [10.0, 13.0])
    file = f"weights={record['at'] / 'weights.safetensors'}"
    evaluated = records(folder, "evaluate")[0]
    elsewhere = [word for word in asked if not word.startswith("schedule.imgsz")]  # whose anchors would be others
    result = folder.run("eval", *elsewhere, file)
    assert result.code == 0, result.err
    assert records(folder, "evaluate")[-1]["numbers"]["map"] == evaluated["numbers"]["map"]
    folder.refused("eval", *asked, file, "model.anchors=given", says=["head.anchors=", "model.anchors=auto"])
    told = folder.run("data", *data, "schedule.imgsz=64", "model.anchors=fitted").out
    assert "best possible recall of the head's anchors at 64 px: 1.000, fitted to this data" in told
    assert (
        "best possible recall of the head's anchors at 64 px: 1.000\n"
        in folder.run("data", *data, "schedule.imgsz=64").out
    )
