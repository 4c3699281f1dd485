"""The exponential moving average of a detector's weights, which is what gets evaluated and published."""

from __future__ import annotations

import copy
from itertools import chain

import torch
from torch import Tensor, nn


class EMA:
    """A copy of `detector` in eval mode that follows it, buffers (BatchNorm's statistics) included."""

    def __init__(self, detector: nn.Module) -> None:
        self.detector = copy.deepcopy(detector).eval().requires_grad_(False)
        self._pairs = list(zip(_tensors(self.detector), _tensors(detector), strict=True))

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """average ← decay × average + (1 − decay) × detector; integer buffers are copied."""
        for average, current in self._pairs:
            if average.is_floating_point():
                average.lerp_(current, 1 - decay)
            else:
                average.copy_(current)

    def is_finite(self) -> bool:
        """Whether no weight or statistic is NaN or infinite."""
        return all(bool(average.isfinite().all()) for average, _ in self._pairs)


def _tensors(detector: nn.Module) -> list[Tensor]:
    return list(chain(detector.parameters(), detector.buffers()))
