"""The training loop of one phase: the same bits whether it ran through or was killed and resumed.

An epoch depends on nothing but the state after the last one: the loader is a function of (seed, epoch), and so is a
batch's size where that varies, torch's generator is seeded anew for every epoch, weights, EMA and optimisers are in the
checkpoint, and whether to stop early is read from the curve.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from ablab.compute import memory_explained, prepare
from ablab.training import checkpoint, multi_scale, optim, ranks, schedule
from ablab.training.ema import EMA
from ablab.training.step import Step

TELL_EVERY = 2.0  # seconds of an epoch between two events
LARGEST_LOSS = 1e6  # mean over an epoch's images; where rates are far too high it may be finite all the same

Emit = Callable[[dict[str, Any]], None]
# Called after every epoch with the EMA detector: {"map": .., "map50": ..}, or {} when it is not time. It may have drawn
# what it found: "picture" is the file then, which is told and is no part of the curve.
Validate = Callable[[nn.Module, int], dict[str, Any]]
Curve = list[dict[str, Any]]


class Batches(Protocol):
    """What the loop asks of a loader (ablab.data.loader.Loader is one)."""

    def __len__(self) -> int: ...

    def epoch(self, n: int, augment: bool = True, progress: float = 0.0) -> Iterator[Any]: ...


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
    rates: dict[str, float] | None = None,
) -> dict[str, Any]:
    """Train `detector` for a phase; on return it holds the EMA weights.

    phase: imgsz, epochs, lr (a factor on the optimiser's rates) and start_epoch (epochs of the phases before, so that
    no order and no augmentation comes twice); and, where it has them,

    - part (from 0): it is one of an open end (schedule.py). Part 0 starts it, a later one goes on from the checkpoint
      in the folder `previous`, and does nothing if there is none, because the part before diverged;
    - continues: it goes on from that checkpoint likewise, to let the rate decay;
    - scales: low and high; each batch has a side of its own within imgsz × these (multi_scale.py);
    - patience: it ends after so many validations in a row without a better mAP.

    A checkpoint in `work` is continued; a damaged one is reported and dropped. A loss or gradient that is not finite
    ends the phase: a result ("diverged"), with the EMA weights from before that epoch; so does an epoch whose mean
    loss is above LARGEST_LOSS, or whose EMA weights are not finite. rates: factors on the learning rate by module.

    Emits after every epoch its row of the curve with message, epochs, images_per_second (training only) and at (unix
    time), and every TELL_EVERY seconds within an epoch: epoch (the running one), epochs, step and steps (of this
    epoch), loss (mean so far) and images_per_second.

    Returns epochs and steps done, warmup_steps, ema_decay, lr (peak, of the first group), optimizer, diverged,
    stopped_early, best_epoch and best_map (of the validated mAPs; None without one; its EMA weights are
    checkpoint.load_best's) and curve, a list of {"epoch" from 1, "loss", its parts, "lr", and validation's numbers};
    losses are means per image. Raises OutOfMemoryError, and OSError when the checkpoint cannot be written.
    """
    compute = prepare(engine)
    compute.place(detector)
    optimizers = optim.build(detector, optim_config, phase["lr"], rates, precision=compute.precision)
    open_end, continues, patience = "part" in phase, phase.get("continues", False), phase.get("patience")
    plan = schedule.plan(optim_config, len(loader), math.inf if open_end else phase["epochs"], continues)
    for module in detector.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = plan.bn_momentum
    run = Step(detector, EMA(detector), optimizers, plan, compute, preprocess, optim_config)
    curve, steps = _resume(work, run, emit)
    ranks.require_equal(len(curve), compute.device)
    diverged = False
    if not curve and (phase.get("part") or continues):
        assert previous, "what goes on has something before it"
        state = checkpoint.load(previous)
        diverged = state is None
        done_before = run.take_over(state) if state else 0
        steps = done_before if open_end else 0
    steps_before = steps - len(curve) * len(loader)
    sides = multi_scale.sides(phase["imgsz"], phase["scales"], detector.max_stride) if phase.get("scales") else []
    parts = optim_config.get("micro_batch") or "null"
    asked = (
        f"optim.batch={optim_config['batch']} at imgsz={max([phase['imgsz'], *sides])} and optim.micro_batch={parts}"
    )

    while len(curve) < phase["epochs"] and not diverged and not _out_of_patience(curve, patience):
        done = len(curve)
        number = phase["start_epoch"] + done
        last_good = {name: tensor.clone() for name, tensor in run.ema.detector.state_dict().items()}
        torch.manual_seed(seed * 1_000_003 + number)  # for dropout
        detector.train()
        with memory_explained(asked):
            batches = compute.ahead(loader.epoch(number, progress=0.0 if open_end else done / phase["epochs"]))
            if sides:
                batches = multi_scale.resized(batches, sides, compute.device, seed, number)
            where = {"epoch": done + 1, "epochs": phase["epochs"], "steps": len(loader)}
            passed = _pass(run, batches, steps, where, emit)
        steps += passed.steps
        row = {"epoch": done + 1, "lr": optimizers[0].param_groups[0]["lr"]}
        spoilt = passed.loss > LARGEST_LOSS or not run.ema.is_finite()
        diverged = ranks.any_of(spoilt or not passed.finite, compute.device)
        if diverged:  # steps that were finite may have been running away already
            run.ema.detector.load_state_dict(last_good)
            curve.append(row | {"loss": None})
            found = f"is {passed.loss:.1e}" if passed.loss > LARGEST_LOSS else "is not finite"
            emit({"message": f"epoch {done + 1}: the loss {found}, training stops", "epoch": done + 1})
            break
        judged = validate(run.ema.detector, done + 1)
        row |= {"loss": passed.loss, **passed.means} | {k: v for k, v in judged.items() if k != "picture"}
        curve.append(row)
        best = _best(curve)
        if best is row:
            checkpoint.save_best(run.ema.detector.state_dict(), done + 1, work)
        checkpoint.save(run.state() | {"curve": curve, "steps": steps}, work)
        checkpoint.forget_others(best["epoch"] if best else None, work)
        beside = {"images_per_second": passed.images_per_second}
        beside |= {"picture": judged["picture"]} if "picture" in judged else {}
        emit({"message": _words(row, phase["epochs"]), "epochs": phase["epochs"], **row, **beside})

    best = _best(curve)
    stopped_early = not diverged and len(curve) < phase["epochs"]
    if stopped_early and best:
        looked = f"{patience} validation{'s' if patience != 1 else ''}"
        found = f"no better mAP than epoch {best['epoch']}'s {best['map']:.3f} in {looked}"
        emit({"message": f"epoch {len(curve)}: {found}, training stops early", "epoch": len(curve)})
    detector.load_state_dict(run.ema.detector.state_dict())
    return {
        "epochs": len(curve),
        "steps": steps - steps_before,
        "warmup_steps": plan.warmup,
        "ema_decay": plan.ema,
        "lr": optimizers[0].param_groups[0]["initial_lr"],
        "optimizer": optim_config["name"],
        "diverged": diverged,
        "stopped_early": stopped_early,
        "best_epoch": best["epoch"] if best else None,
        "best_map": best["map"] if best else None,
        "curve": curve,
    }


@dataclass
class _Pass:
    """What one pass over the images came to. sums: losses over its images; on the device, until somebody asks."""

    began: float = field(default_factory=time.monotonic)
    steps: int = 0
    images: int = 0
    sums: dict[str, Any] = field(default_factory=dict)
    finite: bool = True

    @property
    def means(self) -> dict[str, float]:
        return {name: float(total) / max(self.images, 1) for name, total in self.sums.items()}

    @property
    def loss(self) -> float:
        return sum(self.means.values())

    @property
    def images_per_second(self) -> float:
        return self.images / max(time.monotonic() - self.began, 1e-9)


def _pass(run: Step, batches: Iterable[Any], steps: int, where: dict[str, int], emit: Emit) -> _Pass:
    """Take a step for every batch, the first one being step `steps`; it ends before one that is not finite."""
    passed = _Pass()
    told = passed.began
    for batch in batches:
        losses = run.take(batch, steps + passed.steps)
        if losses is None:
            passed.finite = False
            break
        passed.steps += 1
        passed.images += len(batch.images)
        for name, value in losses.items():
            passed.sums[name] = passed.sums.get(name, 0.0) + value
        if (now := time.monotonic()) - told >= TELL_EVERY:
            told = now
            emit(where | {"step": passed.steps, "loss": passed.loss, "images_per_second": passed.images_per_second})
    return passed


def _resume(work: Path, run: Step, emit: Emit) -> tuple[Curve, int]:
    """Take over the checkpoint in `work`, if there is a whole one: the curve so far, and the steps."""
    try:
        state = checkpoint.load(work)
        if state and (best := _best(state["curve"])):
            checkpoint.load_best(best["epoch"], work)
    except ValueError as error:
        emit({"message": f"{error}: the phase starts again", "epoch": 0})
        return [], 0
    if not state:
        return [], 0
    curve: Curve = state["curve"]
    steps = run.take_over(state)
    emit({"message": f"resumed after epoch {len(curve)}", "epoch": len(curve)})
    return curve, steps


def _best(curve: Curve) -> dict[str, Any] | None:
    """The row with the highest validated mAP, the first of equals; None without one."""
    return max((row for row in curve if row.get("map") is not None), key=lambda row: row["map"], default=None)


def _out_of_patience(curve: Curve, patience: int | None) -> bool:
    """Whether the last `patience` validations were none better than the best before them. A mAP of 0, as from scratch
    the first ones are, is not yet a best."""
    best = _best(curve)
    if not patience or not best or not best["map"]:
        return False
    return sum(row.get("map") is not None for row in curve[best["epoch"] :]) >= patience


def _words(row: dict[str, Any], epochs: int) -> str:
    words = f"epoch {row['epoch']}/{epochs}: loss {row['loss']:.3f}"
    return words + (f", mAP50 {row['map50']:.3f}" if row.get("map50") is not None else "")
