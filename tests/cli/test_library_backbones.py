"""Backbones of timm and torchvision as a user asks for them."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torchvision import models
from working_folder import SCENES, TINY, Folder

from ablab.config import Override, compose
from ablab.models.detector import build
from ablab.study.plan import compile
from ablab.study.study import load

TRAIN = ["train", *TINY, *SCENES, "engine=inline", "stem=builtin"]


def stages(folder: Folder, kind: str) -> list[dict[str, Any]]:
    files = (folder.path / ".ablab/store/stages").glob("*/*/stage.json")
    return [record for file in files if (record := json.loads(file.read_text()))["kind"] == kind]


def test_training_starts_from_a_file_of_the_library(folder: Folder) -> None:
    file = folder.path / "theirs.pth"
    torch.save(models.shufflenet_v2_x0_5(weights=None).state_dict(), file)
    asked = [*TRAIN, "backbone=torchvision", "backbone.name=shufflenet_v2_x0_5", "start.freeze=[backbone]"]
    result = folder.run(*asked, "backbone.pretrained=theirs.pth")
    assert result.code == 0, result.err
    assert "starts from theirs.pth: " in result.out + result.err
    (record,) = stages(folder, "train")
    assert record["config"]["backbone"]["pretrained"] is None  # so that the weights are of the same network anywhere
    assert record["numbers"]["start_weights"] == "theirs.pth"
    assert record["versions"]["torchvision"]
    # Content counts, place does not, nor does the key that named it.
    file.rename(folder.path / "moved.pth")
    assert folder.run(*asked, "start.weights=moved.pth").code == 0
    assert len(stages(folder, "train")) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["backbone.name=mobilnetv3_large_100"], ["backbone.name=mobilnetv3_large_100", "'mobilenetv3_large_100'?"]),
        (["stem=conv3x3"], ["backbone TimmBackbone does not fit stem ConvStem", "stem=builtin"]),
        (["backbone=csp_darknet"], ["backbone CSPDarknet does not fit stem Builtin", "stride 2 or 4"]),
        (["backbone.pretrained=absent.pth"], ["backbone.pretrained=absent.pth", "No such file"]),
        (["backbone.pretrained=a.pth", "start.weights=b.pth"], ["a.pth", "b.pth", "starts from one file"]),
        (["backbone.pretrained=wide.pth"], ["wide.pth", "layer1.0.conv1.weight has shape", "timm's resnet18?"]),
    ],
)
def test_what_timm_cannot_bring(folder: Folder, words: list[str], says: list[str]) -> None:
    pytest.importorskip("timm", reason="the extra `timm` is not installed")
    if "wide.pth" in words[0]:
        torch.save(models.resnet50(weights=None).state_dict(), folder.path / "wide.pth")
    folder.refused(*TRAIN, "backbone=timm", *words, says=says)


@pytest.mark.parametrize("place", range(6))
def test_every_backbone_of_the_shipped_study_takes_a_step_and_decodes(place: int) -> None:
    pytest.importorskip("timm", reason="the extra `timm` is not installed")
    variants = load("backbones", [Override("data", "scenes"), Override("model.classes", 3)]).expand()
    assert len(variants) == 6
    detector = build(compose(variants[place].overrides).resolved)
    raw = detector(torch.rand(2, 3, 64, 64))
    sum(detector.loss(raw, torch.tensor([[0, 1, 4.0, 6, 30, 40]]), 0.0).values()).backward()
    assert [name for name, p in detector.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert [one.shape for one in detector.decode(raw)] == [(2, 252, 4), (2, 252, 3)]


def test_timm_s_version_counts() -> None:
    timm = pytest.importorskip("timm", reason="the extra `timm` is not installed")
    names = {
        "names": ["a"],
        "splits": {split: {"images": 2, "boxes": 4, "digest": split} for split in ("train", "val")},
    }
    plan = compile(load("backbones", [Override("data", "scenes")]), lambda _: names)
    for stage in plan.stages.values():
        ours = "shufflenet" in str(stage.config.get("backbone"))
        expected = None if ours or stage.kind == "data" else timm.__version__
        assert stage.versions.get("timm") == expected
