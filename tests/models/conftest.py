"""Parts as the YAML files resolve them, and a count of convolution MACs that shares nothing with the product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from ablab.config import compose


@pytest.fixture(scope="session")
def parts() -> Callable[..., dict[str, Any]]:
    """parts("model=yolov5s", "stem=focus", ...): the resolved configuration, with 80 classes unless told."""

    def resolve(*overrides: str) -> dict[str, Any]:
        return compose(["model.classes=80", *overrides]).resolved

    return resolve


@pytest.fixture(scope="session")
def conv_macs() -> Callable[..., int]:
    """conv_macs(module, size): output elements × kernel area × input channels of a group, over all Conv2d."""

    def count(module: nn.Module, size: int, batch: int = 1) -> int:
        total = 0

        def hook(conv: nn.Conv2d, _: Any, out: torch.Tensor) -> None:
            nonlocal total
            total += out.numel() * conv.weight[0].numel()

        hooks = [m.register_forward_hook(hook) for m in module.modules() if isinstance(m, nn.Conv2d)]
        device = next(module.parameters()).device
        module.eval()(torch.zeros(batch, 3, size, size, device=device))
        for handle in hooks:
            handle.remove()
        return total

    return count
