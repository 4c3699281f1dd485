"""Optimisers: Muon with AdamW for few steps, or plain SGD or AdamW; their rates and momentum at a step."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ablab.errors import UserError, nearest
from ablab.models.detector import near
from ablab.training.muon import Muon


def build(
    detector: nn.Module,
    optim: dict[str, Any],
    lr: float = 1.0,
    rates: dict[str, float] | None = None,
    *,
    precision: str = "fp32",
) -> list[torch.optim.Optimizer]:
    """The optimisers that `optim.name` asks for, rates times `lr`, kept as `initial_lr` in every group.

    rates: factors by module for its parameters, of which the longest name counts; see `_split_by_rate`.
    few_steps: Muon for every convolution kernel but the head's prediction layers (the head's convolutions
    with a bias), AdamW for the rest. precision: of the training, see Muon. Weight decay goes to kernels alone.
    """
    head: Any = detector.head
    every = [p for p in detector.parameters() if p.requires_grad]
    convolutions = {id(m.weight) for m in detector.modules() if isinstance(m, nn.Conv2d)}
    predictions = {id(m.weight) for m in head.modules() if isinstance(m, nn.Conv2d) and m.bias is not None}
    kernels = [p for p in every if id(p) in convolutions]
    others = [p for p in every if id(p) not in convolutions]
    decay = optim["weight_decay"]
    optimizers: list[torch.optim.Optimizer]
    match optim["name"]:
        case "few_steps":
            hidden = [k for k in kernels if id(k) not in predictions]
            last = [k for k in kernels if id(k) in predictions]
            optimizers = [
                _adamw(last, others, lr * optim["adamw_lr"], optim["betas"], decay),
            ]
            if hidden:  # else all of them are frozen
                muon = Muon(hidden, lr * optim["muon_lr"], optim["momentum"], decay, precision)
                optimizers.insert(0, muon)
        case "adamw":
            optimizers = [_adamw(kernels, others, lr * optim["lr"], optim["betas"], decay)]
        case "sgd":
            momentum = optim["momentum"]
            named = {id(p) for name, p in detector.named_parameters() if name.endswith("bias")}
            start = {"warmup_momentum": optim.get("warmup_momentum", momentum), "initial_momentum": momentum}
            groups: list[dict[str, Any]] = [
                {"params": kernels, "weight_decay": decay} | start,
                {"params": [p for p in others if id(p) not in named]} | start,
                {"params": [p for p in others if id(p) in named], "warmup_lr": lr * optim.get("warmup_bias_lr", 0.0)}
                | start,
            ]
            optimizers = [torch.optim.SGD(groups, lr * optim["lr"], momentum, nesterov=momentum > 0, fused=True)]
        case name:
            raise UserError(f"optim.name={name}: no such optimiser. {nearest(name, ('few_steps', 'sgd', 'adamw'))}")
    _split_by_rate(detector, optimizers, rates or {})
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers


def _split_by_rate(detector: nn.Module, optimizers: list[torch.optim.Optimizer], rates: dict[str, float]) -> None:
    """Split every group of parameters by the factors that `rates` gives to modules; a group at the full rate is first.

    Raises UserError for a module that the detector has not.
    """
    known = {name for name, _ in detector.named_modules() if name}
    for name in rates:
        if name not in known:
            raise UserError(f"start.rates: this network has no module '{name}'. {near(name, known)}")
    longest_first = sorted(rates, key=len, reverse=True)
    factors = {
        id(parameter): next((rates[module] for module in longest_first if name.startswith(f"{module}.")), 1.0)
        for name, parameter in detector.named_parameters()
    }
    for optimizer in optimizers if rates else ():
        split = []
        for group in optimizer.param_groups:
            for factor in sorted({factors[id(p)] for p in group["params"]}, key=lambda factor: (factor != 1, factor)):
                mine = [p for p in group["params"] if factors[id(p)] == factor]
                scaled = {key: group[key] * factor for key in ("lr", "warmup_lr") if key in group}
                split.append(group | scaled | {"params": mine})
        optimizer.param_groups[:] = split


def _adamw(
    decayed: list[nn.Parameter], others: list[nn.Parameter], lr: float, betas: list[float], decay: float
) -> torch.optim.AdamW:
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": decay}, {"params": others}]
    return torch.optim.AdamW(groups, lr, (betas[0], betas[1]), weight_decay=0.0, fused=True)


def set_rates(optimizers: list[torch.optim.Optimizer], rate: float, warm: float) -> None:
    """Every group's learning rate, to a share `rate` of its peak, and its momentum.

    warm: the share of the warm-up that is done, at most 1. Until then a group with a `warmup_lr` comes down from that,
    instead of up from 0, and one with a `warmup_momentum` goes from that to its `initial_momentum`.
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * rate + group.get("warmup_lr", 0.0) * (1 - warm)
            if "warmup_momentum" in group:
                start = group["warmup_momentum"]
                group["momentum"] = start + (group["initial_momentum"] - start) * warm
