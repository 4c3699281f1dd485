"""How costs of detectors get counted before they are printed: pure functions of raw counts.

A FLOPs figure is 2 × MACs under one of these counts, in G = 10⁹ (C: convolution MACs; N: elements through BatchNorm;
other names as in ablab.profiling.elements):

- K1: C. What the others add is no multiplication of a convolution.
- K2: thop 0.0.31, behind the figures of YOLOv5, YOLOv5-Lite and YOLOX: C + bias + 2 N + leaky + averaged.
- K3: thop 0.1: C + 4 N + nearest (11 × in another mode) + averaged.
- K6: NanoDet: mmcv's count, C + bias + 2 N + relu + leaky + pool_in + upsampled, rounded to 0.01 G *before* doubling.
- K7: darknet, which prints FLOPs: 2 C + pool_ops + added.

K4 is K2 or K3 taken at the largest stride (32 × 32 px) and multiplied up by the area, as YOLOv5's model summary does;
K5 is K2 divided by 0.9 × 10⁹ in place of 10⁹. Neither needs a rule of its own here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

COUNTS = ("K1", "K2", "K3", "K6", "K7")
FORMS = ("trained", "folded")  # folded: BatchNorm in its convolutions, branches merged
BYTES = {"fp16": 2, "fp32": 4}
UNITS = {"MB": 10**6, "MiB": 2**20}

Elements = Mapping[str, float]  # kind -> how many, of one image


@dataclass(frozen=True)
class Network:
    """What was measured of a network.

    learnable, folded, stored: parameters as trained, after folding, and as trained with BatchNorm's statistics.
    never_run: parameters that its authors' code makes besides and never uses. elements: form -> side of the image in
    px -> Elements, for at least one size; with two of them every other size follows. stride: the largest one.
    """

    learnable: int
    folded: int
    stored: int
    elements: Mapping[str, Mapping[int, Elements]]
    stride: int
    never_run: int = 0

    def at(self, form: str, size: int) -> Elements:
        """Elements at any size that is a multiple of the largest stride.

        What convolutions see grows with the area, what follows a pool over the whole map stays: a · size² + b, exact
        where all maps halve evenly. Raises KeyError for another size than the only measured one.
        """
        measured = self.elements[form]
        if size in measured:
            return measured[size]
        if len(measured) < 2:
            raise KeyError(size)
        small, large = min(measured), max(measured)
        grown = (size**2 - small**2) / (large**2 - small**2)
        kinds = measured[small].keys() | measured[large].keys()
        ends = {kind: (measured[small].get(kind, 0), measured[large].get(kind, 0)) for kind in kinds}
        return {kind: low + (high - low) * grown for kind, (low, high) in ends.items()}


def flops(count: str, n: Elements) -> float:
    """FLOPs in G under one of COUNTS."""
    c, bias, bn = n.get("conv_macs", 0), n.get("bias", 0), n.get("bn", 0)
    leaky, averaged, nearest = n.get("leaky", 0), n.get("averaged", 0), n.get("nearest", 0)
    bilinear = n.get("bilinear", 0)
    match count:
        case "K1":
            return 2 * c / 1e9
        case "K2":
            return 2 * (c + bias + 2 * bn + leaky + averaged) / 1e9
        case "K3":
            return 2 * (c + 4 * bn + nearest + 11 * bilinear + averaged) / 1e9
        case "K6":
            macs = c + bias + 2 * bn + n.get("relu", 0) + leaky + n.get("pool_in", 0) + nearest + bilinear
            return 2 * round(macs / 1e9, 2)
        case "K7":
            return (2 * c + n.get("pool_ops", 0) + n.get("added", 0)) / 1e9
    raise KeyError(count)


def scaled_flops(count: str, net: Network, form: str, size: int) -> float:
    """K4: FLOPs in G counted at the largest stride and multiplied by the area."""
    return flops(count, net.at(form, net.stride)) * (size / net.stride) ** 2


def numbers(net: Network, counted: str, never_run: bool) -> int:
    """How many numbers a parameter count or a file holds; counted: learnable, folded or stored."""
    return {"learnable": net.learnable, "folded": net.folded, "stored": net.stored}[counted] + never_run * net.never_run
