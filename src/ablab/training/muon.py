"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) for convolution kernels.

Notable: kernels of equal shape are orthogonalised in one batch, in bf16 where the training computes in bf16; four
Newton-Schulz steps with a polynomial each instead of five with the same; a Gram matrix serves two steps.
torch.optim.Muon (torch 2.14) refuses parameters that are not matrices, and takes one at a time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor, nn

# (a, b, c) of each Newton-Schulz step X <- (a + b XXᵀ + c (XXᵀ)²) X. Jordan et al. repeat one polynomial five times;
# with the best one for the range that each step finds (Amsel et al. 2025, "The Polar Express", arXiv:2505.16932) four
# go further: singular values in [0.004, 1] land in [0.82, 1.18], theirs in [0.68, 1.18]. By the Remez algorithm for
# [max(low, high / 20), high], from [0.004, 1.02] on, each step's range 2 % wider than the last one's image: that leaves
# room for rounding, and takes no large singular value so near to zero that bf16 could turn its sign.
STEPS = (
    (7.8290, -20.4506, 14.2068),
    (3.8043, -2.5641, 0.4596),
    (3.3819, -2.4477, 0.4768),
    (2.4178, -1.7330, 0.4071),
)
BF16_FROM = 96  # rows and columns: smaller matrices are multiplied no faster in bf16, even with AMX


def orthogonalise(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Nearly U Vᵀ for each U S Vᵀ of a float32 stack (n, rows, cols), computed and returned in `dtype`.

    Singular values from 0.004 of a matrix's Frobenius norm on become 0.82 to 1.18 (in bfloat16 0.75 to 1.3), smaller
    ones less; zeros stay zeros. A norm below 1e-7 counts as 1e-7.

    The factor P of a step is a polynomial in the Gram matrix G = XXᵀ and commutes with it, so the next step's Gram
    matrix is PGP, and two steps cost two products as large as X instead of four. Then G is made anew: it holds squares
    of singular values, of which in bf16 the small ones soon turn negative and grow.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = (x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp_min(1e-7)).to(dtype)
    for first, second in zip(STEPS[::2], STEPS[1::2], strict=True):
        gram = torch.bmm(x, x.mT)  # not x @ x.mT, which copies the transpose of a stack of one
        factor = _factor(gram, first)
        x = torch.bmm(_factor(factor @ gram @ factor, second) @ factor, x)
    return x.mT if tall else x


def _factor(gram: Tensor, step: tuple[float, float, float]) -> Tensor:
    """a + b G + c G²."""
    a, b, c = step
    factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    factor.diagonal(dim1=1, dim2=2).add_(a)
    return factor


class Muon(torch.optim.Optimizer):
    """Orthogonalised Nesterov momentum for convolution kernels, each seen as an out × (in · k · k) matrix.

    A depthwise kernel is out × (k · k). An update is scaled by sqrt(max(1, rows / cols)), so that each row
    (an output channel) moves about equally far in kernels of any shape. Weight decay is decoupled. precision: that of
    the training; "bf16" orthogonalises matrices of at least BF16_FROM rows and columns in it, all else in float32.
    """

    def __init__(
        self, kernels: list[nn.Parameter], lr: float, momentum: float, weight_decay: float, precision: str = "fp32"
    ) -> None:
        super().__init__(kernels, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.precision = precision

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step from the gradients that are there; a kernel without gradient stays. No closures."""
        for group in self.param_groups:
            momentum, lr = group["momentum"], group["lr"]
            alike = defaultdict(list)
            for kernel in group["params"]:
                if kernel.grad is not None:
                    alike[len(kernel), kernel[0].numel()].append(kernel)
            for (rows, cols), kernels in alike.items():
                updates = kernels[0].new_empty(len(kernels), rows, cols)
                for kernel, update in zip(kernels, updates, strict=True):
                    state = self.state[kernel]
                    if not state:
                        state["momentum"] = torch.zeros_like(kernel)
                    average = state["momentum"].lerp_(kernel.grad, 1 - momentum)
                    torch.lerp(kernel.grad, average, momentum, out=_as_kernel(update, kernel))
                bf16 = self.precision == "bf16" and min(rows, cols) >= BF16_FROM
                updates = orthogonalise(updates, torch.bfloat16 if bf16 else torch.float32)
                scale = max(1.0, rows / cols) ** 0.5
                for kernel, update in zip(kernels, updates, strict=True):
                    if group["weight_decay"]:
                        kernel.mul_(1 - lr * group["weight_decay"])
                    kernel.add_(_as_kernel(update, kernel), alpha=-lr * scale)


def _as_kernel(matrix: Tensor, kernel: Tensor) -> Tensor:
    """A matrix (out, k · k · in) seen as `kernel` (out, in, k, k): channels-last, as kernels lie in memory."""
    channels_out, channels_in, height, width = kernel.shape
    return matrix.view(channels_out, height, width, channels_in).permute(0, 3, 1, 2)
