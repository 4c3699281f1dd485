"""The training loop of one phase: the same bits whether it ran through or was killed and resumed.

An epoch depends on nothing but the state after the last one: the loader is a function of (seed, epoch),
torch's generator is seeded anew for every epoch, and weights, EMA and optimisers are in the checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ablab.compute import as_float, memory_explained, prepare
from ablab.training import checkpoint, optim, schedule
from ablab.training.ema import EMA

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
) -> dict[str, Any]:
    """Train `detector` for a phase; on return it holds the EMA weights.

    phase: epochs, lr (a factor on the optimiser's rates) and start_epoch (epochs of the phases before, so that no
    order and no augmentation comes twice). A checkpoint in `work` is continued; a damaged one is reported and
    dropped. A loss or gradient that is not finite ends the phase: a result ("diverged"), with the EMA weights
    before it.

    Returns epochs and steps done, warmup_steps, ema_decay, lr (peak, of the first group), optimizer, diverged
    and curve, a list of {"epoch" from 1, "loss", its parts, "lr", and validation's numbers}; losses are means
    per image. Raises UserError when memory runs out, OSError when the checkpoint cannot be written.
    """
    compute = prepare(engine)
    compute.place(detector)
    for module in detector.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = optim_config["bn_momentum"]
    optimizers = optim.build(detector, optim_config, phase["lr"])
    plan = schedule.plan(optim_config, len(loader), phase["epochs"])
    ema = EMA(detector)
    curve = _resume(work, detector, ema, optimizers, emit)

    diverged = False
    steps = len(curve) * len(loader)
    for epoch in range(len(curve), phase["epochs"]):
        last_good = {name: tensor.clone() for name, tensor in ema.detector.state_dict().items()}
        torch.manual_seed(seed * 1_000_003 + phase["start_epoch"] + epoch)  # for dropout
        detector.train()
        sums: dict[str, float] = {}
        images = 0
        with memory_explained(f"optim.batch={optim_config['batch']} at imgsz={phase['imgsz']}"):
            for batch in loader.epoch(phase["start_epoch"] + epoch):
                optim.set_rate(optimizers, plan.lr(steps))
                x = compute.network_input(batch.images, preprocess)
                with compute.autocast():
                    raw = detector(x)
                losses = detector.loss(as_float(raw), batch.targets.to(compute.device), steps / plan.steps)
                count = len(batch.images)
                if not _step(detector, sum(losses.values()) * count, optimizers, optim_config["clip"]):
                    diverged = True
                    break
                ema.update(plan.ema_decay(steps))
                steps += 1
                for name, value in losses.items():
                    sums[name] = sums.get(name, 0.0) + float(value.detach()) * count
                images += count
        row = {"epoch": epoch + 1, "lr": optimizers[0].param_groups[0]["lr"]}
        if not ema.is_finite():
            diverged = True
            ema.detector.load_state_dict(last_good)
        if diverged:
            curve.append(row | {"loss": None})
            emit({"message": f"epoch {epoch + 1}: the loss is not finite, training stops", "epoch": epoch + 1})
            break
        means = {name: total / images for name, total in sums.items()}
        row |= {"loss": sum(means.values()), **means, **validate(ema.detector, epoch + 1)}
        curve.append(row)
        _keep(work, detector, ema, optimizers, curve)
        emit({"message": _words(row, phase["epochs"]), "epochs": phase["epochs"], **row})

    detector.load_state_dict(ema.detector.state_dict())
    return {
        "epochs": len(curve),
        "steps": steps,
        "warmup_steps": plan.warmup,
        "ema_decay": plan.ema,
        "lr": optimizers[0].param_groups[0]["initial_lr"],
        "optimizer": optim_config["name"],
        "diverged": diverged,
        "curve": curve,
    }


def _resume(
    work: Path, detector: nn.Module, ema: EMA, optimizers: list[torch.optim.Optimizer], emit: Emit
) -> list[dict[str, Any]]:
    """Take over the checkpoint in `work`, if there is a whole one; the curve so far."""
    try:
        state = checkpoint.load(work)
    except ValueError as error:
        emit({"message": f"{error}: the phase starts again", "epoch": 0})
        return []
    if not state:
        return []
    detector.load_state_dict(state["model"])
    ema.detector.load_state_dict(state["ema"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    curve: list[dict[str, Any]] = state["curve"]
    emit({"message": f"resumed after epoch {len(curve)}", "epoch": len(curve)})
    return curve


def _keep(
    work: Path, detector: nn.Module, ema: EMA, optimizers: list[torch.optim.Optimizer], curve: list[dict[str, Any]]
) -> None:
    """Write the checkpoint that `_resume` takes over."""
    state = {
        "model": detector.state_dict(),
        "ema": ema.detector.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "curve": curve,
    }
    checkpoint.save(state, work)


def _step(detector: nn.Module, loss: Tensor, optimizers: list[torch.optim.Optimizer], clip: float) -> bool:
    """One optimiser step; False, and none taken, if the loss or a gradient is not finite."""
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(detector.parameters(), clip)
    if not math.isfinite(float(norm) + float(loss.detach())):
        return False
    for optimizer in optimizers:
        optimizer.step()
    return True


def _words(row: dict[str, Any], epochs: int) -> str:
    words = f"epoch {row['epoch']}/{epochs}: loss {row['loss']:.3f}"
    return words + (f", mAP50 {row['map50']:.3f}" if row.get("map50") is not None else "")
