"""What every head's loss must do with predictions that nothing but the loss moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="session")
def follow_the_loss() -> Callable[..., None]:
    """follow_the_loss(head, raw, targets, steps): raw predictions moved by their gradient alone decode to the boxes and
    classes that were asked for."""

    def follow(head: Any, raw: list[Tensor], targets: Tensor, steps: int) -> None:
        moved = [r.detach().clone().requires_grad_() for r in raw]
        optimiser = torch.optim.Adam(moved, lr=0.1)
        for _ in range(steps):
            optimiser.zero_grad()
            sum(head.loss(moved, targets, 0.0).values(), start=torch.zeros(())).backward()
            optimiser.step()
        boxes, scores = head.decode([r.detach() for r in moved])
        for image, label, *box in targets.tolist():
            found = scores[int(image), :, int(label)] > 0.8
            near = (boxes[int(image)] - torch.tensor(box)).abs().amax(1) < 1.0
            assert (found & near).any()
            assert (scores[int(image)][near & found].argmax(1) == int(label)).all()

    return follow
