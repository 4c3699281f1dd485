"""How well boxes agree: IoU, and the two that losses take instead of it."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of boxes (..., 4) xyxy with boxes of a shape that broadcasts: (...)."""
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = a.unbind(-1), b.unbind(-1)
    width = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0)
    height = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0)
    shared = width * height
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - shared
    return shared / (union + 1e-16)


def iou_and_generalised(a: Tensor, b: Tensor, eps: float = 1e-7) -> tuple[Tensor, Tensor]:
    """IoU in [0, 1] and GIoU in [-1, 1], both (m,), of boxes (m, 4) x1 y1 x2 y2.

    GIoU is IoU less the share of the enclosing box that neither covers (Rezatofighi et al. 2019, arXiv:1902.09630).
    """
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    shared = (high - low).clamp(min=0).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - shared
    enclosing = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1)
    iou = shared / (union + eps)
    return iou, iou - (enclosing - union) / (enclosing + eps)


def complete_iou(a: Tensor, b: Tensor, eps: float = 1e-7) -> Tensor:
    """CIoU of boxes a and b, both (m, 4) as centre x, y, width, height: (m,), at most 1.

    IoU less the squared distance of centres over that of the enclosing box's corners, less a term for the
    difference of aspect ratios whose weight carries no gradient (Zheng et al. 2020, "Distance-IoU Loss").
    """
    (ax, ay, aw, ah), (bx, by, bw, bh) = a.unbind(1), b.unbind(1)
    left, right = torch.maximum(ax - aw / 2, bx - bw / 2), torch.minimum(ax + aw / 2, bx + bw / 2)
    top, bottom = torch.maximum(ay - ah / 2, by - bh / 2), torch.minimum(ay + ah / 2, by + bh / 2)
    shared = (right - left).clamp(min=0) * (bottom - top).clamp(min=0)
    iou = shared / (aw * ah + bw * bh - shared + eps)

    enclosing_w = torch.maximum(ax + aw / 2, bx + bw / 2) - torch.minimum(ax - aw / 2, bx - bw / 2)
    enclosing_h = torch.maximum(ay + ah / 2, by + bh / 2) - torch.minimum(ay - ah / 2, by - bh / 2)
    distance = ((ax - bx) ** 2 + (ay - by) ** 2) / (enclosing_w**2 + enclosing_h**2 + eps)

    aspect = 4 / math.pi**2 * (torch.atan(bw / (bh + eps)) - torch.atan(aw / (ah + eps))) ** 2
    with torch.no_grad():
        weight = aspect / (aspect - iou + 1 + eps)
    return iou - distance - weight * aspect
