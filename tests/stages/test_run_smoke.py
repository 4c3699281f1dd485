"""The smoke stage: says yes to what works and names what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from ablab.compute import prepare
from ablab.errors import UserError
from ablab.models.heads.anchor import AnchorHead
from ablab.stages import smoke

PARTS = ("stem", "backbone", "neck", "head")


def run(tmp_path: Path, *overrides: str, sizes: tuple[int, ...] = (64,), **parts: Any) -> dict[str, Any]:
    config = tiny.config(*overrides) | parts
    declared = {key: config[key] for key in (*PARTS, "preprocess", "optim", "start", "engine")}
    return smoke.run(declared | {"sizes": list(sizes)}, {}, tmp_path, tmp_path, lambda _: None)


@pytest.mark.parametrize("optimiser", ["few_steps", "sgd", "adamw"])
def test_facts(tmp_path: Path, optimiser: str) -> None:
    numbers = run(tmp_path, f"optim={optimiser}", sizes=(64, 96))
    assert numbers["max_stride"] == 32
    assert numbers["out_strides"] == [8, 16, 32]
    assert numbers["params"] > 100_000


def test_bytes_that_autograd_keeps_of_a_pixel_by_hand() -> None:
    """A convolution keeps its 3 inputs, ReLU its 8 results, which the square in the loss shares: 11 floats."""

    class Toy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).relu()

        def loss(self, raw: Tensor, targets: Tensor, progress: float) -> dict[str, Tensor]:
            return {"all": raw.square().mean()}

    x = torch.rand(2, 3, 16, 16)
    compute = prepare({"device": "cpu", "precision": "fp32", "threads": 1})
    assert smoke._saved_per_px(Toy(), compute, x, torch.zeros(2, 6)) == 4 * 11


def test_one_class_is_enough(tmp_path: Path) -> None:
    assert run(tmp_path, "model.classes=1")["max_stride"] == 32


@pytest.mark.parametrize(("size", "near"), [(100, 96), (16, 32), (0, 32), (650, 640)])
def test_size_off_the_grid(tmp_path: Path, size: int, near: int) -> None:
    with pytest.raises(UserError, match=rf"imgsz={size}: not a multiple of 32, .*; {near} is"):
        run(tmp_path, sizes=(64, size))


class BadLoss(AnchorHead):
    def loss(self, raw: list[Tensor], targets: Tensor, progress: float) -> dict[str, Tensor]:
        return super().loss(raw, targets, progress) | {"extra": torch.tensor([1.0, 2.0])}


class PlainLoss(AnchorHead):
    def loss(self, raw: list[Tensor], targets: Tensor, progress: float) -> Any:
        return tuple(super().loss(raw, targets, progress).values())


class BoxesAlone(AnchorHead):
    def decode(self, raw: list[Tensor]) -> Any:
        return super().decode(raw)[0]


class BadDecode(AnchorHead):
    def decode(self, raw: list[Tensor]) -> tuple[Tensor, Tensor]:
        boxes, scores = super().decode(raw)
        return boxes, scores[..., :1]


class BadScores(AnchorHead):
    def decode(self, raw: list[Tensor]) -> tuple[Tensor, Tensor]:
        boxes, scores = super().decode(raw)
        return boxes, scores + 3


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (BadLoss, r"its loss 'extra' has the shape \(2,\), expected one number"),
        (PlainLoss, r"loss returns a tuple of Tensor, expected a dict of tensors"),
        (BoxesAlone, r"decode returns a Tensor, expected boxes and scores of shapes \(2, N, 4\)"),
        (BadDecode, r"shapes \(2, 252, 4\) and \(2, 252, 1\), expected \(2, N, 4\) and \(2, N, 10\)"),
        (BadScores, "scores up to 3"),
    ],
)
def test_broken_head_is_told_how(tmp_path: Path, head: type, message: str) -> None:
    broken = tiny.config()["head"] | {"_target_": f"{__name__}.{head.__name__}"}
    with pytest.raises(UserError, match=message):
        run(tmp_path, head=broken)


class Unread(AnchorHead):
    """Has a key that does nothing, one that stops the gradient of a loss, and one that acts late in training."""

    def __init__(self, *args: Any, idle: int = 0, stop: bool = False, late: bool = False, **keys: Any) -> None:
        super().__init__(*args, **keys)
        self.stop, self.late = stop, late

    def loss(self, raw: list[Tensor], targets: Tensor, progress: float) -> dict[str, Tensor]:
        losses = super().loss(raw, targets, progress)
        if self.late and progress > 0.9:
            losses["box"] = 2 * losses["box"]
        return losses | {"obj": losses["obj"].detach()} if self.stop else losses


def head(part: type, **keys: Any) -> dict[str, Any]:
    return tiny.config()["head"] | {"_target_": f"{__name__}.{part.__name__}"} | keys


def test_the_graph_tells_what_training_would_see(tmp_path: Path) -> None:
    plain = run(tmp_path)["graph"]
    assert run(tmp_path)["graph"] == plain
    assert run(tmp_path, "optim=sgd", sizes=(96,))["graph"] == plain  # another training of the same network
    assert run(tmp_path, "neck.c3.count=2")["graph"] != plain
    assert run(tmp_path, "neck.activation=relu")["graph"] != plain  # as many parameters
    assert run(tmp_path, "head.box=0.06")["graph"] != plain  # a gain: the outputs are the same


def test_the_graph_of_a_key_that_does_nothing(tmp_path: Path) -> None:
    one = run(tmp_path, head=head(Unread, idle=1))["graph"]
    assert run(tmp_path, head=head(Unread, idle=2))["graph"] == one
    assert run(tmp_path, head=head(Unread, idle=1, stop=True))["graph"] != one  # equal losses, other gradients
    assert run(tmp_path, head=head(Unread, late=True))["graph"] != one
