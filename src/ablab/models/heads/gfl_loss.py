"""Generalised focal loss (Li et al. 2020, arXiv:2006.04388).

One score per class stands for both what and how well: its target is the IoU of the predicted box. Each side of a box
is a distribution over distances, learnt as such.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, log_softmax


def quality_focal(logits: Tensor, quality: Tensor, beta: float) -> Tensor:
    """|quality - σ|^beta × binary cross-entropy, of each; quality in [0, 1] (0: no object) of the logits' shape."""
    errors = binary_cross_entropy_with_logits(logits, quality, reduction="none")
    return (quality - logits.sigmoid()).abs().pow(beta) * errors


def distribution_focal(logits: Tensor, distance: Tensor) -> Tensor:
    """(…, bins) and (…) → (…): cross-entropy with the two whole numbers beside `distance`, by how near they are.

    distance in [0, bins - 1), in strides.
    """
    below = distance.floor()
    share = distance - below  # of the number above
    logs = log_softmax(logits, -1)
    index = below.long().unsqueeze(-1)
    return -(logs.gather(-1, index).squeeze(-1) * (1 - share) + logs.gather(-1, index + 1).squeeze(-1) * share)


def expectation(logits: Tensor) -> Tensor:
    """(…, bins) → (…): the mean of the distribution over 0, 1, …, bins - 1."""
    bins = torch.arange(logits.shape[-1], device=logits.device, dtype=logits.dtype)
    return (logits.softmax(-1) * bins).sum(-1)  # not a product of matrices, which autocast would compute in bf16
