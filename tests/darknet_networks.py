"""Darknet's networks as lists of layers, and an interpreter that runs them: what the product's parts are held to.

Layers are tuples, numbered from 0, negative numbers are relative, as in darknet's descriptions:
("conv", channels, kernel, stride, "leaky" | "linear", depthwise), ("output", channels), ("max", kernel, stride),
("route", [layers], second half of them), ("shortcut", layer), ("up",), ("skip",) for what does nothing at inference.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Layers = list[tuple[Any, ...]]


def conv(channels: int, kernel: int = 1, stride: int = 1, activation: str = "leaky", depthwise: bool = False) -> Any:
    return ("conv", channels, kernel, stride, activation, depthwise)


def yolov3_tiny(outputs: int, m: float = 1) -> Layers:
    c = [int(width * m) for width in (32, 64, 128, 256, 512, 1024)]
    layers: Layers = [conv(int(16 * m), 3), ("max", 2, 2)]
    for width in c[:4]:
        layers += [conv(width, 3), ("max", 2, 2)]
    layers += [conv(c[4], 3), ("max", 2, 1), conv(c[5], 3), conv(c[3]), conv(c[4], 3), ("output", outputs), ("skip",)]
    layers += [("route", [-4], False), conv(c[2]), ("up",), ("route", [-1, 8], False)]
    return [*layers, conv(c[3], 3), ("output", outputs)]


def yolov4_tiny(outputs: int, m: float = 1) -> Layers:
    c = [int(width * m) for width in (64, 128, 256, 512)]
    layers: Layers = [conv(int(32 * m), 3, 2), conv(c[0], 3, 2)]
    for width in c[:3]:
        layers += [conv(width, 3), ("route", [-1], True), conv(width // 2, 3), conv(width // 2, 3)]
        layers += [("route", [-1, -2], False), conv(width), ("route", [-6, -1], False), ("max", 2, 2)]
    layers += [conv(c[3], 3), conv(c[2]), conv(c[3], 3), ("output", outputs), ("skip",)]
    layers += [("route", [-4], False), conv(c[1]), ("up",), ("route", [-1, 23], False)]
    return [*layers, conv(c[2], 3), ("output", outputs)]


def yolo_fastest(outputs: int, m: int = 1) -> Layers:
    layers: Layers = [conv(8 * m, 3, 2)]

    def block(inner: int, out: int, stride: int = 1, shortcut: bool = False) -> None:
        layers.extend([conv(inner * m), conv(inner * m, 3, stride, depthwise=True), conv(out * m, activation="linear")])
        if shortcut:
            layers.extend([("skip",), ("shortcut", -5)])

    for inner, out, stride, rest, repeats in (
        (8, 4, 1, 8, 1),
        (24, 8, 2, 32, 2),
        (32, 8, 2, 48, 2),
        (48, 16, 1, 96, 4),
        (96, 24, 2, 136, 4),
        (136, 48, 2, 224, 5),
    ):
        block(inner, out, stride)
        for _ in range(repeats):
            block(rest, out, shortcut=True)
    assert len(layers) == 109
    for kernel, back in ((3, -1), (5, -2), (9, -3)):  # pools of layer 108
        layers += [("max", kernel, 1)] if back == -1 else [("route", [108], False), ("max", kernel, 1)]
    layers += [("route", [-1, -3, -5, 108], False), conv(96)]
    assert len(layers) == 116  # the last is layer 115
    for width in (96, 96 + 24 * m):
        for _ in range(2):
            layers += [conv(width, 5, depthwise=True), conv(width, activation="linear")]
        layers += [("output", outputs), ("skip",)]
        layers += [("route", [115], False), ("up",), ("route", [-1, 80], False)] if width == 96 else []
    return layers[:-1]


NETWORKS = {"yolo_fastest_1_1": yolo_fastest, "yolov3_tiny": yolov3_tiny, "yolov4_tiny": yolov4_tiny}


def run(layers: Layers, x: Tensor, take: Callable[[str, tuple[int, ...]], Tensor]) -> list[Tensor]:
    """The output layers' maps for images (B, 3, H, W); `take` is asked for numbers in the order of darknet's files."""
    done: list[Tensor] = []
    outputs = []
    for number, (kind, *told) in enumerate(layers):
        if kind == "output":
            bias = take("shift", (told[0],))
            x = F.conv2d(x, take("weight", (told[0], x.shape[1], 1, 1)), bias)
            outputs.append(x)
        elif kind == "conv":
            channels, kernel, stride, activation, depthwise = told
            shift, scale, mean, variance = (
                take(what, (channels,)).view(-1, 1, 1) for what in ("shift", "scale", "mean", "variance")
            )
            groups = channels if depthwise else 1
            weight = take("weight", (channels, x.shape[1] // groups, kernel, kernel))
            x = F.conv2d(x, weight, stride=stride, padding=kernel // 2, groups=groups)
            x = (x - mean) / (variance + 1e-5).sqrt() * scale + shift
            x = torch.where(x > 0, x, 0.1 * x) if activation == "leaky" else x
        elif kind == "max":
            kernel, stride = told
            before = (kernel - 1) // 2
            x = F.pad(x, (before, kernel - 1 - before) * 2, value=-torch.inf)
            x = F.max_pool2d(x, kernel, stride)
        elif kind == "route":
            sources, half = told
            x = torch.cat([done[source if source >= 0 else number + source] for source in sources], 1)
            x = x[:, x.shape[1] // 2 :] if half else x
        elif kind == "shortcut":
            x = x + done[number + told[0]]
        elif kind == "up":
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        done.append(x)
    return outputs


def file_of_noise(layers: Layers, x: Tensor, seed: int = 0) -> tuple[bytes, list[Tensor]]:
    """A .weights file of random numbers, some variances close to darknet's eps, and what the network makes of x."""
    rng = np.random.default_rng(seed)
    written = [struct.pack("<3iQ", 0, 2, 5, 8_000_000)]

    def take(what: str, shape: tuple[int, ...]) -> Tensor:
        if what == "weight":
            numbers = rng.normal(0, np.prod(shape[1:]) ** -0.5, shape)
        elif what in ("scale", "variance"):
            numbers = rng.uniform(0.5, 1.5, shape)
        else:
            numbers = rng.normal(0, 0.3, shape)
        if what in ("scale", "variance"):
            numbers[0] = {"variance": 2e-3, "scale": 2e-3**0.5}[what]
        numbers = numbers.astype("<f4")
        written.append(numbers.tobytes())
        return torch.from_numpy(numbers).to(x.dtype)

    outputs = run(layers, x, take)
    return b"".join(written), outputs
