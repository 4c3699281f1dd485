from __future__ import annotations

import torch
from torch import Tensor, nn

from ablab.models.folding import first, fold, followed


class Block(nn.Module):
    """One BatchNorm that may be folded, and three that may not."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(4)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.read_twice, self.bn_of_it = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.run_twice, self.bn_of_that = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.bn_alone = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn_alone(self.bn(self.conv(x)).relu())
        y = self.read_twice(x)
        x = self.bn_of_it(y) + y
        return self.bn_of_that(self.run_twice(self.run_twice(x)))


class Also(nn.Module):
    """Reads the image beside the convolution."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x) + x.mean()


@torch.no_grad()
def test_only_what_nothing_else_reads_is_folded() -> None:
    torch.manual_seed(0)
    block = Block().double()
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            module.momentum = 1.0
    image = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    block(image)
    expected = block.eval()(image)
    assert followed(block, image) == [("conv", "bn")]
    assert first(block, image) == [("conv", "bn")]
    assert first(Also(block), image) == []
    fold(block, image)
    assert [name for name, module in block.named_modules() if isinstance(module, nn.BatchNorm2d)] == [
        "bn_of_it",
        "bn_of_that",
        "bn_alone",
    ]
    torch.testing.assert_close(block(image), expected, rtol=1e-12, atol=1e-12)


def test_shapes_suffice() -> None:
    with torch.device("meta"):
        block = Block().eval()
        fold(block, torch.zeros(1, 3, 8, 8))
    assert isinstance(block.bn, nn.Identity)
    assert block.conv.bias is not None
