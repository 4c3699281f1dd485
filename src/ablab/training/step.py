"""One optimiser step: a batch, whole or in micro-batches, to losses, gradients, weights and EMA."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ablab.compute import Compute, as_float
from ablab.data.loader import Batch, cuts
from ablab.training import optim, ranks, schedule
from ablab.training.ema import EMA


@dataclass
class Step:
    """What a step changes, and what it needs to know."""

    detector: Any
    ema: EMA
    optimizers: list[torch.optim.Optimizer]
    plan: schedule.Plan
    compute: Compute
    preprocess: dict[str, Any]
    optim_config: dict[str, Any]
    network: Any = field(init=False)  # the detector as it is called: compiled, where that was asked for
    scaler: torch.amp.GradScaler = field(init=False)

    def __post_init__(self) -> None:
        self.scaler = self.compute.scaler()
        self.network = self.compute.compiled(self.detector)

    def take(self, batch: Batch, number: int) -> dict[str, Tensor] | None:
        """Take optimiser step `number` of the phase; the losses, summed over images, float64.

        None, and no step taken, if the loss or a gradient is not finite. Where only fp16's range was too small for the
        scaled gradients, no step is taken either, but the scale is halved and training goes on.
        """
        optim.set_rates(self.optimizers, self.plan.lr(number), self.plan.warm(number))
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Any] = {}
        whole: Any = 0.0
        mine, rows, counts = ranks.share(batch.images, batch.targets)
        for images, targets in micro_batches(mine, rows, self.optim_config.get("micro_batch")):
            count = len(images) if counts else 0
            x = self.compute.network_input(images, self.preprocess)
            with self.compute.autocast():
                raw = self.network(x)
            progress = number / self.plan.steps
            losses = self.detector.loss(as_float(raw), targets.to(self.compute.device), progress)
            loss = sum(losses.values()) * count
            self.scaler.scale(loss).backward()
            whole = whole + loss.detach()
            for name, value in losses.items():  # on the device: to read them there would wait for it
                sums[name] = sums.get(name, 0.0) + value.detach().double() * count
        parameters = [p for p in self.detector.parameters() if p.grad is not None]
        ranks.add_up([p.grad for p in parameters])
        ranks.add_up([whole])
        ranks.add_up(list(sums.values()))
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        norm = nn.utils.get_total_norm([p.grad for p in parameters], foreach=True)
        loss_read, norm_read = torch.stack((whole, norm)).tolist()  # the one read of a step, which on a GPU waits
        if not math.isfinite(loss_read):
            return None
        if not math.isfinite(norm_read):
            scale = self.scaler.get_scale()
            self.scaler.update()
            return sums if 1 <= self.scaler.get_scale() < scale else None
        if norm_read > self.optim_config["clip"]:
            nn.utils.clip_grads_with_norm_(parameters, self.optim_config["clip"], norm, foreach=True)
        for optimizer in self.optimizers:
            optimizer.step()
        self.scaler.update()
        self.ema.update(self.plan.ema_decay(number))
        return sums

    def state(self) -> dict[str, Any]:
        """What `take_over` takes over, but for the steps done."""
        return {
            "model": self.detector.state_dict(),
            "ema": self.ema.detector.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "scaler": self.scaler.state_dict(),  # empty but in fp16
        }

    def take_over(self, state: dict[str, Any]) -> int:
        """Go on from a checkpoint, at this phase's own peak rates; the steps that were done."""
        self.detector.load_state_dict(state["model"])
        self.ema.detector.load_state_dict(state["ema"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            peaks = [group["initial_lr"] for group in optimizer.param_groups]
            optimizer.load_state_dict(saved)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["initial_lr"] = peak
        self.scaler.load_state_dict(state["scaler"])
        steps: int = state["steps"]
        return steps


def micro_batches(images: Tensor, targets: Tensor, size: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    """A batch (B, 3, S, S) and its targets (n, 6) in parts of `size` images, each with targets of its own; None: the
    batch as it is."""
    if size is None or len(images) <= size:
        yield images, targets
        return
    for start, stop in pairwise(cuts(len(images), size)):
        mine = (targets[:, 0] >= start) & (targets[:, 0] < stop)
        rows = targets[mine]  # a copy
        rows[:, 0] -= start
        yield images[start:stop], rows
