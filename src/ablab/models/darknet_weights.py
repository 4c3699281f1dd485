"""Darknet's `.weights`: numbers without names, which only their order assigns to convolutions.

A header (three int32, the version, and how many images were seen, uint64 or before version 0.2 uint32), then float32,
little-endian, for each convolution in the order of the network's description: with BatchNorm its shifts, scales,
running means, running variances and the kernel, else biases and kernel. The file says nothing of its network, so that
all that can be checked is: that every byte is accounted for, and that variances are none below 0.

The order is that of our modules. Within a part, convolutions are registered in the order in which they run, which is
that of the description; neck and head say by `darknet_order` how their levels follow each other, since darknet predicts
on the coarse level before it goes on to the finer one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ablab.errors import UserError
from ablab.models.blocks import ConvBNAct
from ablab.models.detector import Detector

SUFFIX = ".weights"
EPS = 1e-5  # of darknet's BatchNorms
STATISTICS = ("bias", "weight", "running_mean", "running_var")  # of a BatchNorm, in the file's order


def read(data: bytes, detector: Detector, path: Path) -> tuple[dict[str, Tensor], int]:
    """The tensors of a file's content by the detector's names, and how many classes the file's network has.

    With another number of classes than the detector's the prediction layers have other shapes. BatchNorms are scaled to
    do with the detector's eps what they did with darknet's. path: for messages.

    Raises UserError for a detector of parts that have no such files, a header that is none, bytes missing or left
    over, and numbers that cannot be: what is not finite, variances below 0.
    """
    offset = _header(data, path)
    layers = list(_layers(detector, path))
    floats, odd = divmod(len(data) - offset, 4)
    classes = _classes(floats, layers, detector)
    if classes is None or odd:
        expected = 4 * sum(_size(conv, bn) for conv, bn in layers)
        differ = len(data) - offset - expected
        how = f"{-differ:,} bytes are missing" if differ < 0 else f"{differ:,} bytes are left over"
        why = "cut short, or of another network?" if differ < 0 else "of another network?"
        raise UserError(
            f"{path}: {how}: the {len(layers)} convolutions of this network take {expected:,} bytes, the file has "
            f"{len(data) - offset:,} behind its header ({why})"
        )
    numbers = np.frombuffer(data, "<f4", offset=offset)
    return _tensors(torch.from_numpy(numbers.astype(np.float32)), layers, detector, classes, path), classes


def _header(data: bytes, path: Path) -> int:
    """How many bytes it takes."""
    if len(data) < 20:
        raise UserError(f"{path}: no darknet .weights file: {len(data)} bytes are hardly its header")
    major, minor, revision = struct.unpack_from("<3i", data)
    if major != 0 or minor not in (1, 2) or revision < 0:
        raise UserError(
            f"{path}: no darknet .weights file: its header says version {major}.{minor}.{revision}, expected 0.1 or 0.2"
        )
    return 20 if minor == 2 else 16


def _layers(detector: Detector, path: Path) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d | None]]:
    """Every convolution with the BatchNorm behind it, in the file's order."""
    branches, predictions = (getattr(part, "darknet_order", None) for part in (detector.neck, detector.head))
    for part, order in ((detector.neck, branches), (detector.head, predictions)):
        if order is None:
            raise UserError(
                f"{path}: darknet has no network with the part {type(part).__name__}, so no weights for it; name the "
                "file's network with model=NAME"
            )
    modules = [detector.stem, detector.backbone]
    for branch, prediction in zip(branches, predictions, strict=True):  # type: ignore[arg-type]
        modules += [*branch, prediction]
    for module in modules:
        for one in module.modules():
            if isinstance(one, ConvBNAct):
                yield one.conv, one.bn
        if isinstance(module, nn.Conv2d):
            yield module, None


def _size(conv: nn.Conv2d, bn: nn.BatchNorm2d | None) -> int:
    """Numbers that a convolution has in the file."""
    return conv.weight.numel() + (4 if bn else 1) * conv.out_channels


def _classes(floats: int, layers: list[tuple[nn.Conv2d, nn.BatchNorm2d | None]], detector: Detector) -> int | None:
    """With how many classes the network takes so many numbers; None if with no whole number."""
    outputs = 5 + detector.classes  # of one box
    fixed = sum(_size(conv, bn) for conv, bn in layers if bn)
    each = sum(_size(conv, bn) for conv, bn in layers if not bn) // outputs
    found, odd = divmod(floats - fixed, each)
    return found - 5 if not odd and found > 5 else None


def _tensors(
    numbers: Tensor,
    layers: list[tuple[nn.Conv2d, nn.BatchNorm2d | None]],
    detector: Detector,
    classes: int,
    path: Path,
) -> dict[str, Tensor]:
    names = {id(module): name for name, module in detector.named_modules()}
    tensors: dict[str, Tensor] = {}
    at = 0

    def take(name: str, *shape: int) -> None:
        nonlocal at
        count = int(np.prod(shape))
        tensors[name] = numbers[at : at + count].view(shape).clone()
        at += count
        if not bool(tensors[name].isfinite().all()):
            raise UserError(f"{path}: tensor {name} holds numbers that are not finite")

    for place, (conv, bn) in enumerate(layers, 1):
        name, out = names[id(conv)], conv.out_channels
        if bn is None:
            out = out // (5 + detector.classes) * (5 + classes)
            take(f"{name}.bias", out)
        else:
            norm = names[id(bn)]
            for statistic in STATISTICS:
                take(f"{norm}.{statistic}", out)
            variance = tensors[f"{norm}.running_var"]
            if bool((variance < 0).any()):
                raise UserError(
                    f"{path}: convolution {place} of {len(layers)} ({name}) has a variance of {variance.min():.3g}, "
                    "below 0: these are not this network's weights"
                )
            tensors[f"{norm}.weight"] *= ((variance + bn.eps) / (variance + EPS)).sqrt()
        take(f"{name}.weight", out, *conv.weight.shape[1:])
    return tensors
