"""A detector is stem, backbone, neck and head in a row, built from their configurations.

The contract of a part: a Module made by `Class(in_channels, in_strides, **keys of its YAML)`, both lists with
one entry for each map that comes, finest first, and `out_channels` and `out_strides` after construction. A
stem gets [3] and [1] and maps (B, 3, H, W) → (B, C, H/s, W/s); a backbone maps that to a list of maps; a neck
a list to a list; a head a list to raw predictions. A head also has `classes`, `loss(raw, targets, progress)`
and `decode(raw)`, as described below. There is no registry: `_target_` names the class, here or anywhere.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import re
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ablab.errors import UserError, nearest
from ablab.models.blocks import ConvBNAct
from ablab.models.folding import fold, folded, is_plain

GROUPS = ("stem", "backbone", "neck", "head")


class Detector(nn.Module):
    """Images (B, 3, S, S), float, normalised, S a multiple of `max_stride` → the head's raw predictions."""

    def __init__(self, stem: nn.Module, backbone: nn.Module, neck: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.stem, self.backbone, self.neck, self.head = stem, backbone, neck, head
        # Of any part: a neck may bring back to a fine map what a backbone halved more often.
        parts: tuple[Any, ...] = (backbone, neck, head)
        self.max_stride: int = max(stride for part in parts for stride in part.out_strides)
        self.classes: int = head.classes  # type: ignore[assignment]
        self.frozen: tuple[str, ...] = ()
        self.made_eps: dict[str, float] = {}  # of every BatchNorm by name, as its part made it

    def freeze(self, names: Sequence[str]) -> None:
        """Take the parameters of modules, named as in `named_modules`, out of training, and their BatchNorms with them:
        these modules stay in eval mode. Raises UserError for a name there is not, or if nothing is left to learn."""
        known = {name for name, _ in self.named_modules() if name}
        for name in names:
            if name not in known:
                raise UserError(f"start.freeze: this network has no module '{name}'. {near(name, known)}")
            self.get_submodule(name).requires_grad_(False)
        if not any(parameter.requires_grad for parameter in self.parameters()):
            raise UserError(f"start.freeze={list(names)}: nothing is left to learn")
        self.frozen = tuple(names)

    def train(self, mode: bool = True) -> Detector:
        super().train(mode)
        for name in self.frozen:
            self.get_submodule(name).eval()
        return self

    def forward(self, images: Tensor) -> Any:
        return self.head(self.neck(self.backbone(self.stem(images))))

    def loss(self, raw: Any, targets: Tensor, progress: float) -> dict[str, Tensor]:
        """Scalar losses by name, means over images, positives or cells as the head has them, with gains applied. Their
        sum is multiplied by the images of the step.

        targets (n, 6) float32: index of the image in the batch, class, x1, y1, x2, y2 in px of the network
        input. progress in [0, 1]: how much of the phase is over (some losses change late); of the
        phase, since those of different schedules share it.
        """
        return self.head.loss(raw, targets, progress)  # type: ignore[operator]

    def decode(self, raw: Any) -> tuple[Tensor, Tensor]:
        """Boxes (B, N, 4) xyxy in px of the network input, scores (B, N, classes) in [0, 1]; before NMS."""
        return self.head.decode(raw)  # type: ignore[operator]


def near(name: str, known: Collection[str]) -> str:
    """The sentence of `nearest` for the name of a module, of which a network has hundreds: those at the place where
    the name goes astray."""
    parts = name.split(".")
    depth = next((n for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in known), 0)
    place = ".".join([*parts[:depth], ""]) if depth else ""
    beside = [one for one in known if one.startswith(place) and "." not in one.removeprefix(place)]
    return nearest(name, beside)


def build(parts: Mapping[str, Any]) -> Detector:
    """The detector of resolved parts, each {"_target_": "module.Class", **keys}; other keys are ignored.

    Weights are freshly initialised, each part's from torch's seed and its group alone; every BatchNorm gets eps
    1e-3, as all YOLOv5 derivatives have it.
    Raises UserError for a part that is missing, cannot be imported, does not take its keys, or does not fit
    the part before it; the message names both.
    """
    # A seed for each part, so that a part starts equal whatever stands before it: what pairs variants by seed.
    seeds = torch.randint(2**62, (len(GROUPS),), device="cpu").tolist()
    made: dict[str, nn.Module] = {}
    before, channels, strides = "the image", [3], [1]
    for group, seed in zip(GROUPS, seeds, strict=True):
        torch.manual_seed(seed)
        config = parts.get(group)
        if not isinstance(config, Mapping):
            raise UserError(f"{group}: a part with a _target_ was expected, found {config!r}")
        part_class, keys = _part_class(group, config)
        name = f"{group} {part_class.__name__}"
        try:
            part = part_class(list(channels), list(strides), **keys)
        except UserError as error:
            first_word = re.match(r"\w*", str(error))
            if first_word and first_word[0] in keys:  # that key's own fault
                raise UserError(f"{group}.{error}") from error
            if str(error).startswith(f"{group}."):
                raise
            raise UserError(f"{name} does not fit {before}: {error}") from error
        channels, strides = getattr(part, "out_channels", []), getattr(part, "out_strides", [])
        if not channels or len(channels) != len(strides):
            raise UserError(
                f"{name}: out_channels and out_strides were expected to have one entry for each map, "
                f"found {channels} and {strides}"
            )
        made[group], before = part, name
    if missing := [name for name in ("classes", "loss", "decode") if not hasattr(made["head"], name)]:
        raise UserError(f"{before}: a head has classes, loss and decode, this one lacks {', '.join(missing)}")
    detector = Detector(**made)
    for name, module in detector.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            detector.made_eps[name], module.eps = module.eps, 1e-3
    return detector


def _part_class(group: str, config: Mapping[str, Any]) -> tuple[type[nn.Module], dict[str, Any]]:
    """The class that `_target_` names and the keys it will be given."""
    keys = dict(config)
    if "_target_" not in keys:
        raise UserError(f"{group}: no _target_ was found in its YAML, module.Class was expected")
    target = str(keys.pop("_target_"))
    module_name, _, class_name = target.rpartition(".")
    expected = f"{group}._target_: '{target}' was found, module.Class was expected"
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever a module of the user's raises when it is imported
        raise UserError(f"{expected}; importing '{module_name}' failed: {type(error).__name__}: {error}") from error
    part_class = getattr(module, class_name, None)
    if not (inspect.isclass(part_class) and issubclass(part_class, nn.Module)):
        classes = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module_name]
        raise UserError(f"{expected}; '{class_name}' is no Module there. {nearest(class_name, classes)}")

    takes = [
        p for p in inspect.signature(part_class).parameters.values() if p.name not in ("in_channels", "in_strides")
    ]
    if not any(p.kind is p.VAR_KEYWORD for p in takes):
        for key in keys:
            if key not in [p.name for p in takes]:
                raise UserError(f"{group}.{key}: {class_name} has no such key. {nearest(key, (p.name for p in takes))}")
    for p in takes:
        if p.default is p.empty and p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name not in keys:
            raise UserError(f"{group}.{p.name}: {class_name} needs this key, found {', '.join(keys) or 'none'}")
    return part_class, keys


def fuse(detector: Detector) -> Detector:
    """A copy in eval mode as it is deployed: the same outputs up to rounding.

    A module that has another form when deployed says so by a method `deployed() -> Module`, called in eval mode, whose
    result takes its place (RepVGG's branches become one convolution). Then BatchNorms are folded into the convolutions
    they follow: neighbours in a plain Sequential or a ConvBNAct, which is every BatchNorm behind a convolution of this
    package's own, even where several share a convolution. Those of other libraries' networks are found by running the
    copy once (ablab.models.folding). Each fold takes 2c parameters away and adds c; an Identity keeps the place.
    """
    fused = copy.deepcopy(detector).eval()
    _deploy(fused)
    for module in list(fused.modules()):
        if type(module).forward not in (nn.Sequential.forward, ConvBNAct.forward):
            continue
        for (first, conv), (second, bn) in pairwise(list(module._modules.items())):  # repeated ones too
            if is_plain(conv) and type(bn) is nn.BatchNorm2d and bn.running_mean is not None:
                setattr(module, first, folded(conv, bn))
                setattr(module, second, nn.Identity())
    fused.eval()
    if any(isinstance(module, nn.BatchNorm2d) for module in fused.modules()):
        side = 2 * detector.max_stride
        fold(fused, next(fused.parameters()).new_zeros(1, 3, side, side))
    return fused


def _deploy(module: nn.Module) -> None:
    """Replace, within `module`, every module that has a deployed form by that."""
    for name, child in module.named_children():
        deployed = getattr(child, "deployed", None)
        if callable(deployed):
            setattr(module, name, deployed())
        else:
            _deploy(child)
