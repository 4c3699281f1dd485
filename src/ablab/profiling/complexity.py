"""Counts: parameters, multiply-accumulates by thop and exactly, file sizes; as trained and as deployed.

Two counts of MACs stand side by side because they differ. conv_macs is exact for convolutions and ignores the
rest. thop 0.1 counts convolutions (without their biases) and linear layers, 4 per element of an affine
BatchNorm, 1 per output element of a nearest upsampling (11 bilinear), average pooling and softmax; ReLU,
LeakyReLU, max pooling count 0, and what it has no rule for (SiLU, Hardswish, functional calls) counts
nothing. It goes by the exact class; here another library's subclass (timm's BatchNorm with an activation) counts as
what it is derived from.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from ablab.models.detector import Detector, fuse
from ablab.profiling.elements import by_form, counting_copy


def profile(detector: Detector, imgsz: int) -> dict[str, Any]:
    """The cost of one `imgsz` px image: the profile stage's numbers. `detector` stays as it is.

    flops = 2 × thop_macs. params are learnable ones; params_stored adds BatchNorm's running means and
    variances, what a weights file holds; sizes are theirs, in MB (10⁶ bytes). *_fused: of the deployed form, as
    `models.detector.fuse` makes it. elements: what else tools count, at `imgsz` and at the largest stride, by
    profiling.elements.
    """
    fused = fuse(detector)
    trained, deployed = _costs(detector, imgsz), _costs(fused, imgsz)
    elements = by_form(detector, fused, imgsz, detector.max_stride)
    return {"imgsz": imgsz} | trained | {f"{key}_fused": n for key, n in deployed.items()} | {"elements": elements}


def _costs(detector: nn.Module, imgsz: int) -> dict[str, Any]:
    """Of one form. MACs on the meta device (shapes without arithmetic) where every part can, else on a real image."""
    try:
        thop_macs, conv_macs = _count(detector, imgsz, "meta")
    except Exception:  # whatever a part raises that computes with values; else it is raised again
        thop_macs, conv_macs = _count(detector, imgsz, "cpu")
    params = sum(p.numel() for p in detector.parameters())
    stored = params + _statistics(detector)
    macs = {"thop_macs": thop_macs, "flops": 2 * thop_macs, "conv_macs": conv_macs}
    sizes = {"size_fp32_mb": stored * 4 / 1e6, "size_fp16_mb": stored * 2 / 1e6}
    return macs | {"params": params, "params_stored": stored} | sizes


def _count(detector: nn.Module, imgsz: int, device: str) -> tuple[int, int]:
    import setuptools  # noqa: F401  (thop imports distutils, which setuptools provides from Python 3.12 on)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from thop.profile import profile as thop_profile
        from thop.profile import register_hooks as rules

    counted = counting_copy(detector, device)  # thop leaves buffers in the modules it has seen
    conv_macs = 0

    def add(module: nn.Conv2d, _: tuple[Tensor, ...], out: Tensor) -> None:
        nonlocal conv_macs
        conv_macs += out.numel() * module.weight[0].numel()

    for module in counted.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(add)
    image = torch.zeros(1, 3, imgsz, imgsz, device=device)
    kinds = {type(module) for module in counted.modules()} - rules.keys()
    derived = {kind: [rules[base] for base in kind.__mro__ if base in rules] for kind in kinds}
    nearest = {kind: found[0] for kind, found in derived.items() if found}
    thop_macs, _ = thop_profile(counted, (image,), nearest, verbose=False)
    return int(thop_macs), conv_macs


def _statistics(detector: nn.Module) -> int:
    """How many running means and variances the normalisation layers store."""
    buffers = (
        m.get_buffer(name) for m in detector.modules() for name in ("running_mean", "running_var") if hasattr(m, name)
    )
    return sum(buffer.numel() for buffer in buffers if buffer is not None)
