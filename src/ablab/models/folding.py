"""BatchNorms behind convolutions, found by running a network: for modules whose order of computation only they know."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Reads(TorchDispatchMode):
    """While it lasts, counts by identity how often each tensor is read; held, so that none has another's identity."""

    def __init__(self) -> None:
        super().__init__()
        self.of: Counter[int] = Counter()
        self._held: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        read = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        self.of.update(map(id, read))
        self._held += read
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def followed(network: nn.Module, image: Tensor) -> list[tuple[str, str]]:
    """(convolution, BatchNorm) by name, where the second reads what the first computed, nothing else does, and each
    runs once. `network` is in eval mode."""
    made: dict[int, str] = {}  # by the identity of the output
    normed: dict[int, str] = {}
    runs: Counter[str] = Counter()
    hooks = []
    for name, module in network.named_modules():
        if is_plain(module):

            def computed(_: Any, __: Any, out: Tensor, name: str = name) -> None:
                made[id(out)] = name
                runs[name] += 1

            hooks.append(module.register_forward_hook(computed))
        elif _normalises(module):

            def norms(_: Any, args: tuple[Tensor, ...], name: str = name) -> None:
                normed[id(args[0])] = name
                runs[name] += 1

            hooks.append(module.register_forward_pre_hook(norms))
    try:
        with _Reads() as reads:
            network(image)
    finally:
        for hook in hooks:
            hook.remove()
    pairs = ((made[one], bn, reads.of[one]) for one, bn in normed.items() if one in made)
    return [(conv, bn) for conv, bn, read in pairs if read == 1 == runs[conv] == runs[bn]]


@torch.no_grad()
def first(network: nn.Module, image: Tensor) -> list[tuple[str, str | None]]:
    """(convolution, BatchNorm behind it or None) by name, of all convolutions that read the image; none at all if
    anything else reads it too. `network` is in eval mode."""
    names: list[str] = []
    hooks = []
    for name, module in network.named_modules():
        if is_plain(module):

            def starts(_: Any, args: tuple[Tensor, ...], name: str = name) -> None:
                if args[0] is image:
                    names.append(name)

            hooks.append(module.register_forward_pre_hook(starts))
    try:
        with _Reads() as reads:
            network(image)
    finally:
        for hook in hooks:
            hook.remove()
    norms = dict(followed(network, image))
    return [(name, norms.get(name)) for name in names] if reads.of[id(image)] == len(names) else []


def fold(network: nn.Module, image: Tensor) -> None:
    """Fold these BatchNorms of a network in eval mode into their convolutions, in place."""
    for first, second in followed(network, image):
        conv, bn = network.get_submodule(first), network.get_submodule(second)
        network.set_submodule(first, folded(conv, bn))
        network.set_submodule(second, nn.Sequential(*bn.children()) if len(list(bn.children())) else nn.Identity())


def folded(conv: Any, bn: Any) -> nn.Conv2d:
    """A convolution that does what these two do; `conv` stays as it is, for others that share it."""
    made = copy.copy(conv)
    made._parameters = dict(conv._parameters)
    statistics = (bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias)
    made.weight, made.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics)
    return made


def is_plain(module: nn.Module | None) -> bool:
    """Whether it convolves and does nothing else to its weights: a subclass may standardise them, say. timm's
    convolution with TensorFlow's padding pads the input and is plain."""
    if not isinstance(module, nn.Conv2d):
        return False
    return type(module).forward is nn.Conv2d.forward or type(module).__name__ == "Conv2dSame"


def _normalises(module: nn.Module) -> bool:
    """Whether it is a BatchNorm by fixed statistics: torch's, or timm's that runs its children, a dropout and an
    activation, behind the norm."""
    if not isinstance(module, nn.BatchNorm2d) or module.running_mean is None:
        return False
    return type(module) is nn.BatchNorm2d or type(module).__name__ == "BatchNormAct2d"
