"""What counting tools add up besides convolutions: elements through biases, BatchNorm, activations and pools.

Tools differ in which of these they count and how dearly; `ablab.report.published.conventions` has their rules. Raw
counts are kept apart here, so that every rule can be applied to one measurement.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

KINDS = (
    "conv_macs",  # multiply–accumulates of convolutions
    "bias",  # output elements of convolutions that have a bias
    "bn",  # elements through BatchNorm
    "relu",  # through ReLU and ReLU6
    "leaky",  # through LeakyReLU
    "pool_in",  # into max pools
    "pool_ops",  # comparisons of max pools: kernel area × output elements
    "nearest",  # out of nn.Upsample by nearest neighbour
    "bilinear",  # out of nn.Upsample in another mode
    "averaged",  # additions and divisions of means over whole maps: (cells + 1) × channels
    "added",  # sums of two maps: shortcuts
)
COUNTED = (nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.MaxPool2d, nn.Upsample)
ELEMENTWISE = (nn.BatchNorm2d, nn.SiLU, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Hardswish)  # keep shapes as they are
SUMS = ("add", "add_", "__add__", "__radd__", "__iadd__")
MEANS = ("mean", "adaptive_avg_pool2d")


def by_form(trained: nn.Module, folded: nn.Module, imgsz: int, stride: int) -> dict[str, dict[str, dict[str, int]]]:
    """{"trained": {"320": {kind: elements}, "32": ...}, "folded": ...}, at `imgsz` px and at the largest stride.

    folded: the same network with BatchNorm in its convolutions. The stride is left out where the network cannot take so
    small an image. Sizes are text, since a stage's numbers are JSON; kinds of which there are none are left out.
    """
    return {
        form: {str(size): {k: n for k, n in counts.items() if n} for size, counts in _both(net, imgsz, stride).items()}
        for form, net in (("trained", trained), ("folded", folded))
    }


def _both(net: nn.Module, imgsz: int, stride: int) -> dict[int, dict[str, int]]:
    try:
        return elements(net, {stride, imgsz})
    except Exception:  # whatever a part raises where an image is too small for it; else it is raised again
        return elements(net, [imgsz])


def elements(net: nn.Module, sizes: Iterable[int]) -> dict[int, dict[str, int]]:
    """{size: {kind: elements}} of one image of size × size px, with every one of KINDS. `net` stays as it is.

    Counted on the meta device (shapes without arithmetic) where every part can, else on a real image.
    """
    wanted = list(sizes)
    try:
        return _elements(net, wanted, "meta")
    except Exception:  # whatever a part raises that computes with values; else it is raised again
        return _elements(net, wanted, "cpu")


def _elements(net: nn.Module, sizes: list[int], device: str) -> dict[int, dict[str, int]]:
    counted = counting_copy(net, device)
    found: Counter[str] = Counter()

    def add(module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        found.update(_of_module(module, inputs[0], out))

    for module in counted.modules():
        if isinstance(module, COUNTED):
            module.register_forward_hook(add)
    result = {}
    for size in sizes:
        found.clear()
        with torch.no_grad(), _Functions(found):
            counted(torch.zeros(1, 3, size, size, device=device))
        result[size] = {kind: found[kind] for kind in KINDS}
    return result


def counting_copy(net: nn.Module, device: str) -> nn.Module:
    """A copy in eval mode to hook counters to; on the meta device without numbers, so that outputs are shapes alone."""
    if device != "meta":
        return copy.deepcopy(net).to(device).eval()
    made: dict[int, Any] = {id(t): t.to("meta") for t in net.buffers()}
    made |= {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in net.parameters()}
    copied = copy.deepcopy(net, made).eval()  # takes what was made in place of what it is of
    for module in copied.modules():
        if type(module) in ELEMENTWISE:
            # torch works out the shapes of a BatchNorm in Python, which is half of the time
            module.forward = _same
    return copied


def _same(x: Tensor) -> Tensor:
    return x


def _of_module(module: nn.Module, x: Tensor, out: Tensor) -> dict[str, int]:
    match module:
        case nn.Conv2d():
            return {
                "conv_macs": out.numel() * module.weight[0].numel(),
                "bias": 0 if module.bias is None else out.numel(),
            }
        case nn.BatchNorm2d():
            return {"bn": out.numel()}
        case nn.ReLU() | nn.ReLU6():
            return {"relu": out.numel()}
        case nn.LeakyReLU():
            return {"leaky": out.numel()}
        case nn.MaxPool2d():
            sides = module.kernel_size if isinstance(module.kernel_size, tuple) else (module.kernel_size,) * 2
            return {"pool_in": x.numel(), "pool_ops": sides[0] * sides[1] * out.numel()}
        case nn.Upsample():
            return {"nearest" if module.mode == "nearest" else "bilinear": out.numel()}
    return {}


class _Functions(TorchFunctionMode):
    """Counts what is seldom written as a module: sums of two maps, and means over them (squeeze and excite)."""

    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in SUMS and [getattr(a, "shape", None) for a in args[:2]] == [out.shape] * 2 and out.dim() == 4:
            self.found["added"] += out.numel()
        elif name in MEANS and args and args[0].dim() == 4 and out.numel() == args[0].shape[:2].numel():
            self.found["averaged"] += args[0].numel() + out.numel()
        return out
