"""A head that is cut: which channels stay, against a calculation by hand, and that they still compute the same."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ablab.config import groups
from ablab.errors import UserError
from ablab.models.blocks import ConvBNAct
from ablab.models.detector import Detector, build
from ablab.models.prune import cut

pytest.importorskip("torch_pruning", reason="the extra `prune` is not installed")
SMALL = ["model.classes=3"]
Parts = Callable[..., dict[str, Any]]


def pair(parts: Parts, ratio: float, *overrides: str) -> tuple[Detector, Detector]:
    """A network with its whole head, of statistics that are not those of a fresh one, and one with a narrow head."""
    torch.manual_seed(0)
    wide, narrow = (build(parts(*SMALL, *overrides, f"head_prune.ratio={one}")) for one in (0.0, ratio))
    for module in wide.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            for tensor in (module.running_mean, module.bias):
                nn.init.normal_(tensor, std=0.3)
    return wide.eval(), narrow.eval()


def add_gradients(wide: Detector) -> None:
    targets = torch.tensor([[0, 1, 4.0, 6, 30, 40], [1, 0, 20.0, 10, 60, 63]])
    with torch.enable_grad():
        sum(wide.loss(wide(torch.rand(2, 3, 64, 64)), targets, 1.0).values()).backward()


@pytest.mark.parametrize("overrides", [["model=v5lite_s"], ["model=yolov5n", "neck=pan_c3_uniform", "neck.c3.count=2"]])
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
@torch.no_grad()
def test_channels_without_a_say_go_and_nothing_changes(parts: Parts, overrides: list[str], ratio: float) -> None:
    wide, narrow = pair(parts, ratio, *overrides)
    dead = 0
    for name, block in wide.named_modules():
        if isinstance(block, ConvBNAct) and name.startswith("neck."):
            out = block.conv.out_channels
            gone = torch.randperm(out)[: out - narrow.get_submodule(name).conv.out_channels]
            block.bn.weight[gone] = block.bn.bias[gone] = 0  # SiLU(0) is 0
            dead += len(gone)
    images = torch.rand(2, 3, 64, 96)
    expected = wide(images)
    add_gradients(wide)
    numbers = cut(wide, narrow)
    for found, one in zip(narrow(images), expected, strict=True):
        torch.testing.assert_close(found, one, rtol=1e-4, atol=1e-5)
    assert numbers["channels"] - numbers["channels_kept"] == dead
    assert numbers["channels_kept"] == pytest.approx(numbers["channels"] * (1 - ratio))


@pytest.mark.parametrize("recipe", groups()["model"])
@torch.no_grad()
def test_every_recipe_computes_what_it_did_without_the_channels_that_went(parts: Parts, recipe: str) -> None:
    """Those of each norm are known by their means, which no two share; to zero them is to leave them out."""
    wide, narrow = pair(parts, 0.5, f"model={recipe}")
    whole = copy.deepcopy(wide)
    add_gradients(wide)
    numbers = cut(wide, narrow)
    assert numbers["channels_kept"] < numbers["channels"]
    for name, norm in whole.named_modules():
        if isinstance(norm, nn.BatchNorm2d):
            gone = ~torch.isin(norm.running_mean, narrow.get_submodule(name).running_mean)
            norm.weight[gone] = norm.bias[gone] = 0
    images = torch.rand(2, 3, 64, 96)
    for found, one in zip(tensors(narrow(images)), tensors(whole(images)), strict=True):
        torch.testing.assert_close(found, one, rtol=1e-4, atol=1e-4)


def tensors(raw: Any) -> list[Tensor]:
    """All tensors of a head's raw predictions."""
    return [raw] if isinstance(raw, Tensor) else [tensor for inner in raw for tensor in tensors(inner)]


def test_shortcuts_keep_the_same_channels_on_both_sides(parts: Parts) -> None:
    wide, narrow = pair(parts, 0.5, "model=yolov5n", "neck.c3.shortcut=true")
    block = wide.get_submodule("neck.top_down.0")
    main, added = (layer.bn.running_mean.tolist() for layer in (block.main, block.bottlenecks[0].conv))
    add_gradients(wide)
    cut(wide, narrow)
    block = narrow.get_submodule("neck.top_down.0")
    place = [main.index(one) for one in block.main.bn.running_mean.tolist()]
    assert len(place) == len(main) // 2
    assert block.bottlenecks[0].conv.bn.running_mean.tolist() == [added[one] for one in place]


class OneConv(nn.Module):
    """A neck (list to list) or a head of one convolution, or of the sum of two with `add`."""

    def __init__(self, inward: int, out: int, *, add: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inward, out, 1, bias=False)
        self.add = nn.Conv2d(inward, add, 1) if add else None
        self.out_channels, self.out_strides, self.classes = [out], [8], 1

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        x = self.conv(maps[0])
        return [x + self.add(maps[0]) if self.add else x]


def toy(middle: int, **keys: Any) -> Detector:
    backbone = nn.Identity()
    backbone.out_channels, backbone.out_strides = [2], [8]
    return Detector(nn.Identity(), backbone, OneConv(2, middle, **keys), OneConv(middle, 3))


@torch.no_grad()
def test_the_most_important_stay_by_hand() -> None:
    """A channel counts as much as |weight × gradient| of what makes it and of what reads it."""
    wide, narrow = toy(4), toy(2)
    makes = torch.tensor([[3.0, 0.0], [-1.0, 1.0], [9.0, 9.0], [0.1, 0.1]])
    reads = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [1.0, 1.0, 1.0], [2.0, 3.0, 0.0]])
    wide.neck.conv.weight.copy_(makes.view(4, 2, 1, 1))
    wide.head.conv.weight.copy_(reads.T.reshape(3, 4, 1, 1))
    wide.neck.conv.weight.grad = torch.tensor([1.0, -1.0, 0.1, 1.0]).view(4, 1, 1, 1).expand(4, 2, 1, 1).clone()
    wide.head.conv.weight.grad = torch.tensor([1.0, 2.0, -0.1, 1.0]).view(1, 4, 1, 1).expand(3, 4, 1, 1).clone()
    scores = torch.tensor([3.0 + 1.0, 2.0 + 2.0, 1.8 + 0.3, 0.2 + 5.0])  # the first of two equal ones goes
    numbers = cut(wide, narrow)
    assert torch.equal(narrow.neck.conv.weight[:, :, 0, 0], makes[[1, 3]])
    assert torch.equal(narrow.head.conv.weight[:, :, 0, 0].T, reads[[1, 3]])
    assert (numbers["channels"], numbers["channels_kept"]) == (4, 2)
    assert numbers["importance_kept"] == pytest.approx(float(scores[[1, 3]].sum() / scores.sum()))


def test_gradients_that_are_not_finite() -> None:
    wide = toy(4)
    wide.head.conv.weight.grad = torch.full_like(wide.head.conv.weight, torch.nan)
    with pytest.raises(UserError, match=r"gradients of neck\.conv are not finite: a diverged training"):
        cut(wide, toy(2))


def test_the_backbone_stays_as_it_is(parts: Parts) -> None:
    wide, narrow = pair(parts, 0.5, "model=v5lite_s")
    before = {name: tensor.clone() for name, tensor in wide.state_dict().items() if name.startswith(("stem.", "backb"))}
    cut(wide, narrow)
    after = narrow.state_dict()
    assert before
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_widths_that_do_not_go_with_the_dependencies() -> None:
    """Both convolutions of a sum lose the same channels."""
    narrow = toy(2, add=2)
    narrow.neck.add = nn.Conv2d(2, 3, 1)
    before = {name: tensor.clone() for name, tensor in narrow.state_dict().items()}
    with pytest.raises(
        UserError, match=r"neck OneConv and head OneConv depend .* neck\.add\.weight would be \(2, 2, 1, 1\)"
    ):
        cut(toy(4, add=4), narrow)
    assert all(torch.equal(tensor, before[name]) for name, tensor in narrow.state_dict().items())


def test_another_structure(parts: Parts) -> None:
    wide, narrow = pair(parts, 0.5, "model=yolov5n", "neck.c3.count=2")[0], pair(parts, 0.5, "model=yolov5n")[1]
    with pytest.raises(UserError, match=r"head_prune\.ratio has no convolution neck\.top_down\.0\.bottlenecks\.1"):
        cut(wide, narrow)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch_pruning", None)
    with pytest.raises(UserError, match=r"pip install 'ablab\[prune\]'"):
        cut(toy(4), toy(2))
