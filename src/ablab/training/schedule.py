"""The plan of a phase: learning rate, warm-up and EMA, fitted to the steps there are or as published.

Published recipes fail on little data because they count in thousands of steps: a warm-up of 1,000 steps is
the whole training of 205 images. With `optim.fit` nothing that ramps may take more than a fixed share of the phase;
without it the recipe stays as it is written (conf/optim/yolov5.yaml).

A phase with an open end has infinitely many steps: by the same formulas its rate stays at the peak after the recipe's
own warm-up, and its EMA is the recipe's. So nothing in it depends on how many epochs it will have, and more of them can
be added to a finished run. A phase that continues one is its decay: no warm-up, no ramp, the rate falls in a line
(Hu et al. 2024, https://arxiv.org/abs/2404.06395; linear: Hägele et al. 2024, https://arxiv.org/abs/2405.18392).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

WARMUP_SHARE = 0.1  # of the phase's steps, at most
EMA_SHARE = 0.1  # the EMA's memory 1 / (1 - decay), at most
RAMP_SHARE = 0.05  # the EMA's ramp, and BatchNorm's memory 1 / momentum, at most
LARGEST_BN_MOMENTUM = 0.25  # a memory of four steps: fewer images are too few


@dataclass(frozen=True)
class Plan:
    """A phase of `steps` steps, infinite for an open end; steps count from 0.

    warmup: steps of linear warm-up. decay: "cosine" or "linear". final_lr: the last learning rate as a share of the
    peak. ema: decay in [0, 1) once ramped up. ema_ramp: time constant of the ramp, in steps; 0: no ramp.
    bn_momentum: the share that a step has in BatchNorm's running statistics.
    """

    steps: float
    warmup: int
    final_lr: float
    ema: float
    ema_ramp: float
    decay: str = "cosine"
    bn_momentum: float = 0.1

    def warm(self, step: int) -> float:
        """The share of the warm-up that is done: from 1 / warmup to 1."""
        return (step + 1) / self.warmup if step < self.warmup else 1.0

    def lr(self, step: int) -> float:
        """The learning rate as a share of its peak: `warm` times the decay from 1 to final_lr.

        A cosine falls from the end of the warm-up on; a line, as YOLOv5 has it, from the first step.
        """
        if self.decay == "linear":
            left = 1 - step / max(self.steps - 1, 1)
        else:
            done = max(step - self.warmup, 0) / max(self.steps - 1 - self.warmup, 1)
            left = (1 + math.cos(math.pi * done)) / 2
        return self.warm(step) * (self.final_lr + (1 - self.final_lr) * left)

    def ema_decay(self, step: int) -> float:
        """ema × (1 − exp(−t / ramp)) after t = step + 1 steps: early weights are forgotten fast."""
        return self.ema * (1 - math.exp(-(step + 1) / self.ema_ramp)) if self.ema_ramp else self.ema


def plan(optim: dict[str, Any], steps_per_epoch: int, epochs: float, continues: bool = False) -> Plan:
    """`optim`'s warm-up, EMA and BatchNorm for a phase: as asked or, with `fit`, a fixed share of its steps where that
    is less.

    epochs: infinite for an open end. continues: it is the decay of the phase before, in a line and without ramps.
    """
    steps = max(steps_per_epoch * epochs, 1)
    longest = steps if optim["fit"] else math.inf
    warmup = max(round(optim["warmup_epochs"] * steps_per_epoch), optim.get("warmup_steps", 0))
    momentum = optim["bn_momentum"]
    if optim["fit"] and not continues:
        momentum = max(momentum, min(1 / (RAMP_SHARE * steps), LARGEST_BN_MOMENTUM))
    memory = min(1 / (1 - optim["ema"]), max(EMA_SHARE * longest, 1.0))
    return Plan(
        steps=steps,
        warmup=0 if continues else int(min(warmup, WARMUP_SHARE * longest)),
        final_lr=optim["final_lr"],
        ema=1 - 1 / memory,
        ema_ramp=0.0 if continues else min(optim["ema_ramp_steps"], max(RAMP_SHARE * longest, 1.0)),
        decay="linear" if continues else optim["decay"],
        bn_momentum=momentum,
    )
