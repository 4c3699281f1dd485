"""The exponential moving average of a detector's weights, which is what gets evaluated and published."""

from __future__ import annotations

import copy
import math
from itertools import chain

import torch
from torch import Tensor, nn


class EMA:
    """A copy of `detector` in eval mode that follows it, buffers (BatchNorm's statistics) included."""

    def __init__(self, detector: nn.Module) -> None:
        self.detector = copy.deepcopy(detector).eval().requires_grad_(False)
        pairs = list(zip(_tensors(self.detector), _tensors(detector), strict=True))
        self._averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self._copied = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """average ← decay × average + (1 − decay) × detector; integer buffers are copied."""
        averages, currents = _lists(self._averaged)
        torch._foreach_lerp_(averages, currents, 1 - decay)  # all in one call: a third less on a CPU, far less on a GPU
        if self._copied:
            torch._foreach_copy_(*_lists(self._copied))

    def is_finite(self) -> bool:
        """Whether no weight or statistic is NaN or infinite."""
        norms = torch._foreach_norm([average for average, _ in self._averaged], math.inf)
        return bool(torch.stack(norms).isfinite().all())  # one read, which on a GPU waits


def _tensors(detector: nn.Module) -> list[Tensor]:
    return list(chain(detector.parameters(), detector.buffers()))


def _lists(pairs: list[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    averages, currents = zip(*pairs, strict=True)
    return list(averages), list(currents)
