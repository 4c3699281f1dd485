"""Optimisers: Muon with AdamW for few steps, or plain SGD or AdamW.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) is written here because torch.optim.Muon
(torch 2.14) refuses parameters that are not matrices, and a convolution kernel has four dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ablab.errors import UserError, nearest

# Newton-Schulz coefficients of Jordan et al.: steepest at zero; singular values land in about [0.7, 1.2].
A, B, C = 3.4445, -4.7750, 2.0315


def orthogonalise(matrix: Tensor, steps: int) -> Tensor:
    """Nearly U Vᵀ of the (rows, cols) matrix U S Vᵀ, by `steps` Newton-Schulz steps X ← (A + B XXᵀ + C (XXᵀ)²) X.

    Every factor is a polynomial in the first Gram matrix G = XXᵀ, so they commute: the steps run on
    min(rows, cols) squared numbers and X is multiplied once. Same result, a third fewer operations.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / wide.norm().clamp_min(1e-7)
    gram = wide @ wide.T
    product = factor = _factor(gram)
    for _ in range(steps - 1):
        gram = factor @ gram @ factor
        factor = _factor(gram)
        product = factor @ product
    result = product @ wide
    return result if matrix.shape[0] <= matrix.shape[1] else result.T


def _factor(gram: Tensor) -> Tensor:
    """A + B G + C G²."""
    factor = torch.addmm(gram, gram, gram, beta=B, alpha=C)
    factor.diagonal().add_(A)
    return factor


class Muon(torch.optim.Optimizer):
    """Orthogonalised Nesterov momentum for convolution kernels, each seen as an out × (in · k · k) matrix.

    A depthwise kernel is out × (k · k). An update is scaled by sqrt(max(1, rows / cols)), so that each row
    (an output channel) moves about equally far in kernels of any shape. Weight decay is decoupled.
    """

    def __init__(
        self, kernels: list[nn.Parameter], lr: float, momentum: float, weight_decay: float, steps: int
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "steps": steps}
        super().__init__(kernels, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step from the gradients that are there; a kernel without gradient stays. No closures."""
        for group in self.param_groups:
            momentum, lr = group["momentum"], group["lr"]
            for kernel in group["params"]:
                if kernel.grad is None:
                    continue
                state = self.state[kernel]
                if not state:
                    state["momentum"] = torch.zeros_like(kernel)
                average = state["momentum"].lerp_(kernel.grad, 1 - momentum)
                update = kernel.grad.lerp(average, momentum).flatten(1)
                scale = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
                kernel.mul_(1 - lr * group["weight_decay"])
                kernel.add_(orthogonalise(update, group["steps"]).view(kernel.shape), alpha=-lr * scale)


def build(detector: nn.Module, optim: dict[str, Any], lr: float = 1.0) -> list[torch.optim.Optimizer]:
    """The optimisers that `optim.name` asks for, rates times `lr`, kept as `initial_lr` in every group.

    few_steps: Muon for every convolution kernel but the head's prediction layers (the head's convolutions
    with a bias), AdamW for the rest. Weight decay goes to kernels alone.
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
                Muon(hidden, lr * optim["muon_lr"], optim["momentum"], decay, optim["newton_schulz_steps"]),
                _adamw(last, others, lr * optim["adamw_lr"], optim["betas"], decay),
            ]
        case "adamw":
            optimizers = [_adamw(kernels, others, lr * optim["lr"], optim["betas"], decay)]
        case "sgd":
            groups = [{"params": kernels, "weight_decay": decay}, {"params": others}]
            momentum = optim["momentum"]
            optimizers = [torch.optim.SGD(groups, lr * optim["lr"], momentum, nesterov=momentum > 0, fused=True)]
        case name:
            raise UserError(f"optim.name={name}: no such optimiser. {nearest(name, ('few_steps', 'sgd', 'adamw'))}")
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers


def _adamw(
    decayed: list[nn.Parameter], others: list[nn.Parameter], lr: float, betas: list[float], decay: float
) -> torch.optim.AdamW:
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": decay}, {"params": others}]
    return torch.optim.AdamW(groups, lr, (betas[0], betas[1]), weight_decay=0.0, fused=True)


def set_rate(optimizers: list[torch.optim.Optimizer], rate: float) -> None:
    """Every group's learning rate, to a share `rate` of its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * rate
