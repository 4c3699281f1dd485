"""The training loop of one phase: the same bits whether it ran through or was killed and resumed.

An epoch depends on nothing but the state after the last one: the loader is a function of (seed, epoch),
torch's generator is seeded anew for every epoch, and weights, EMA and optimisers are in the checkpoint.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ablab.compute import Compute, as_float, memory_explained, prepare
from ablab.data.loader import Batch, cuts
from ablab.training import checkpoint, optim, schedule
from ablab.training.ema import EMA

TELL_EVERY = 2.0  # seconds of an epoch between two events

Emit = Callable[[dict[str, Any]], None]
# Called after every epoch with the EMA detector: {"map": .., "map50": ..}, or {} when it is not time.
Validate = Callable[[nn.Module, int], dict[str, Any]]


class Batches(Protocol):
    """What the loop asks of a loader (ablab.data.loader.Loader is one)."""

    def __len__(self) -> int: ...

    def epoch(self, n: int, augment: bool = True) -> Iterator[Any]: ...


def train(
    detector: Any,
    loader: Batches,
    validate: Validate,
    *,
    phase: dict[str, Any],
    optim_config: dict[str, Any],
    preprocess: dict[str, Any],
    engine: dict[str, Any],
    seed: int,
    work: Path,
    emit: Emit,
    previous: Path | None = None,
) -> dict[str, Any]:
    """Train `detector` for a phase; on return it holds the EMA weights.

    phase: epochs, lr (a factor on the optimiser's rates) and start_epoch (epochs of the phases before, so that no
    order and no augmentation comes twice). A phase with a `part` (from 0) is one of an open end (schedule.py): part 0
    starts it, a later one goes on from the checkpoint in the folder `previous`, and does nothing if there is none,
    because the part before diverged. A checkpoint in `work` is continued; a damaged one is reported and
    dropped. A loss or gradient that is not finite ends the phase: a result ("diverged"), with the EMA weights
    before it.

    Emits after every epoch its row of the curve with message, epochs, images_per_second (training only) and at (unix
    time), and every TELL_EVERY seconds within an epoch: epoch (the running one), epochs, step and steps (of this
    epoch), loss (mean so far) and images_per_second.

    Returns epochs and steps done, warmup_steps, ema_decay, lr (peak, of the first group), optimizer, diverged
    and curve, a list of {"epoch" from 1, "loss", its parts, "lr", and validation's numbers}; losses are means
    per image. Raises OutOfMemoryError, and OSError when the checkpoint cannot be written.
    """
    compute = prepare(engine)
    compute.place(detector)
    for module in detector.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = optim_config["bn_momentum"]
    optimizers = optim.build(detector, optim_config, phase["lr"])
    plan = schedule.plan(optim_config, len(loader), math.inf if "part" in phase else phase["epochs"])
    run = _Run(detector, EMA(detector), optimizers, plan, compute, preprocess, optim_config)
    curve, steps = _resume(work, run, emit)
    diverged = False
    if phase.get("part") and not curve:
        assert previous, "a later part has one before it"
        state = checkpoint.load(previous)
        diverged = state is None
        steps = run.take_over(state) if state else 0
    steps_before = steps - len(curve) * len(loader)

    for epoch in range(len(curve), 0 if diverged else phase["epochs"]):
        last_good = {name: tensor.clone() for name, tensor in run.ema.detector.state_dict().items()}
        torch.manual_seed(seed * 1_000_003 + phase["start_epoch"] + epoch)  # for dropout
        detector.train()
        sums: dict[str, Any] = {}
        images = 0
        began = told = time.monotonic()
        parts = optim_config.get("micro_batch") or "null"
        asked = f"optim.batch={optim_config['batch']} at imgsz={phase['imgsz']} and optim.micro_batch={parts}"
        with memory_explained(asked):
            for done, batch in enumerate(loader.epoch(phase["start_epoch"] + epoch), 1):
                losses = run.step(batch, steps)
                if losses is None:
                    diverged = True
                    break
                steps += 1
                images += len(batch.images)
                for name, value in losses.items():
                    sums[name] = sums.get(name, 0.0) + value
                if (now := time.monotonic()) - told >= TELL_EVERY:
                    told = now
                    where = {"epoch": epoch + 1, "epochs": phase["epochs"], "step": done, "steps": len(loader)}
                    speed = {"images_per_second": images / (now - began)}
                    emit(where | speed | {"loss": sum(float(total) for total in sums.values()) / images})
        speed = {"images_per_second": images / max(time.monotonic() - began, 1e-9)}
        row = {"epoch": epoch + 1, "lr": optimizers[0].param_groups[0]["lr"]}
        if not run.ema.is_finite():
            diverged = True
            run.ema.detector.load_state_dict(last_good)
        if diverged:
            curve.append(row | {"loss": None})
            emit({"message": f"epoch {epoch + 1}: the loss is not finite, training stops", "epoch": epoch + 1})
            break
        means = {name: float(total) / images for name, total in sums.items()}
        row |= {"loss": sum(means.values()), **means, **validate(run.ema.detector, epoch + 1)}
        curve.append(row)
        checkpoint.save(run.state() | {"curve": curve, "steps": steps}, work)
        emit({"message": _words(row, phase["epochs"]), "epochs": phase["epochs"], **row, **speed})

    detector.load_state_dict(run.ema.detector.state_dict())
    return {
        "epochs": len(curve),
        "steps": steps - steps_before,
        "warmup_steps": plan.warmup,
        "ema_decay": plan.ema,
        "lr": optimizers[0].param_groups[0]["initial_lr"],
        "optimizer": optim_config["name"],
        "diverged": diverged,
        "curve": curve,
    }


@dataclass(frozen=True)
class _Run:
    """What a step changes, and what it needs to know."""

    detector: Any
    ema: EMA
    optimizers: list[torch.optim.Optimizer]
    plan: schedule.Plan
    compute: Compute
    preprocess: dict[str, Any]
    optim_config: dict[str, Any]

    def step(self, batch: Batch, number: int) -> dict[str, Tensor] | None:
        """Take optimiser step `number` of the phase; the losses, summed over images, float64.

        None, and no step taken, if the loss or a gradient is not finite.
        """
        optim.set_rate(self.optimizers, self.plan.lr(number))
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Any] = {}
        whole: Any = 0.0
        for images, targets in micro_batches(batch.images, batch.targets, self.optim_config.get("micro_batch")):
            x = self.compute.network_input(images, self.preprocess)
            with self.compute.autocast():
                raw = self.detector(x)
            progress = number / self.plan.steps
            losses = self.detector.loss(as_float(raw), targets.to(self.compute.device), progress)
            loss = sum(losses.values()) * len(images)
            loss.backward()
            whole = whole + loss.detach()
            for name, value in losses.items():  # on the device: to read them there would wait for it
                sums[name] = sums.get(name, 0.0) + value.detach().double() * len(images)
        norm = nn.utils.clip_grad_norm_(self.detector.parameters(), self.optim_config["clip"])
        if not math.isfinite(float(norm) + float(whole)):
            return None
        for optimizer in self.optimizers:
            optimizer.step()
        self.ema.update(self.plan.ema_decay(number))
        return sums

    def state(self) -> dict[str, Any]:
        """What `take_over` takes over, but for the steps done."""
        return {
            "model": self.detector.state_dict(),
            "ema": self.ema.detector.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
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


def _resume(work: Path, run: _Run, emit: Emit) -> tuple[list[dict[str, Any]], int]:
    """Take over the checkpoint in `work`, if there is a whole one: the curve so far, and the steps."""
    try:
        state = checkpoint.load(work)
    except ValueError as error:
        emit({"message": f"{error}: the phase starts again", "epoch": 0})
        return [], 0
    if not state:
        return [], 0
    curve: list[dict[str, Any]] = state["curve"]
    steps = run.take_over(state)
    emit({"message": f"resumed after epoch {len(curve)}", "epoch": len(curve)})
    return curve, steps


def _words(row: dict[str, Any], epochs: int) -> str:
    words = f"epoch {row['epoch']}/{epochs}: loss {row['loss']:.3f}"
    return words + (f", mAP50 {row['map50']:.3f}" if row.get("map50") is not None else "")
