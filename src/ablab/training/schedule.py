"""The plan of a phase: learning rate, warm-up and EMA, fitted to the steps there are.

Published recipes fail on little data because they count in thousands of steps: a warm-up of 1,000 steps is
the whole training of 205 images. Here nothing that ramps may take more than a fixed share of the phase.

A phase with an open end has infinitely many steps: by the same formulas its rate stays at the peak after the recipe's
own warm-up, and its EMA is the recipe's. So nothing in it depends on how many epochs it will have, and more of them can
be added to a finished run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

WARMUP_SHARE = 0.1  # of the phase's steps, at most
EMA_SHARE = 0.1  # the EMA's memory 1 / (1 - decay), at most
RAMP_SHARE = 0.05  # the EMA's ramp, at most


@dataclass(frozen=True)
class Plan:
    """A phase of `steps` steps, infinite for an open end; steps count from 0.

    warmup: steps of linear warm-up. final_lr: the last learning rate as a share of the peak.
    ema: decay in [0, 1) once ramped up. ema_ramp: time constant of the ramp, in steps.
    """

    steps: float
    warmup: int
    final_lr: float
    ema: float
    ema_ramp: float

    def lr(self, step: int) -> float:
        """The learning rate as a share of its peak: linear from 1 / warmup, then a cosine down to
        final_lr."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = (step - self.warmup) / max(self.steps - 1 - self.warmup, 1)
        return self.final_lr + (1 - self.final_lr) * (1 + math.cos(math.pi * done)) / 2

    def ema_decay(self, step: int) -> float:
        """ema × (1 − exp(−t / ramp)) after t = step + 1 steps: early weights are forgotten fast."""
        return self.ema * (1 - math.exp(-(step + 1) / self.ema_ramp))


def plan(optim: dict[str, Any], steps_per_epoch: int, epochs: float) -> Plan:
    """Fit `optim`'s warm-up and EMA to a phase: as asked, or a fixed share of its steps where that is
    less. epochs: infinite for an open end."""
    steps = max(steps_per_epoch * epochs, 1)
    memory = min(1 / (1 - optim["ema"]), max(EMA_SHARE * steps, 1.0))
    return Plan(
        steps=steps,
        warmup=int(min(round(optim["warmup_epochs"] * steps_per_epoch), WARMUP_SHARE * steps)),
        final_lr=optim["final_lr"],
        ema=1 - 1 / memory,
        ema_ramp=min(optim["ema_ramp_steps"], max(RAMP_SHARE * steps, 1.0)),
    )
