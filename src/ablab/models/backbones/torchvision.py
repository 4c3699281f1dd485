"""Torchvision's classifiers as backbones, by its feature extraction: a graph cut off behind the last map."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from ablab.errors import UserError, nearest
from ablab.models.published import Published, refuse_unsettled
from ablab.models.stems.builtin import require_image

PROBE = 320  # px, side of the image on which shapes are found out


class TorchvisionBackbone(nn.Module):
    """The image (B, 3, H, W) → one map (B, C, H/s, W/s) for each of `strides` or `nodes`, finest first.

    name: of torchvision's classifiers, with fresh weights: nothing is downloaded. Of the modules that give a map of a
    stride, the last one of those nested least deep is taken; a classifier's 1×1 convolution behind the last block is
    among them. nodes: names of modules (or of nodes of torchvision's graph) to take instead, in any order.

    Raises UserError for a name or a node that there is not, for strides that no module has, and for outputs that are no
    maps (B, C, H/s, W/s).
    """

    def __init__(
        self,
        in_channels: list[int],
        in_strides: list[int],
        *,
        name: str,
        strides: list[int],
        nodes: list[str] | None = None,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        require_image(in_channels, in_strides)
        refuse_unsettled(pretrained)
        if name not in (names := models.list_models(module=models)):
            raise UserError(f"backbone.name={name}: torchvision has no such classifier. {nearest(name, names)}")
        whole = models.get_model(name, weights=None)
        self.name, self._whole = name, list(whole.state_dict())
        nodes = _last_of_each(whole, name, strides) if nodes is None else nodes
        if not nodes:
            raise UserError("backbone.nodes=[]: expected the names of nodes to take, or null for those of the strides")
        self.model, self._forward = _cut(whole, name, nodes)
        self.out_channels, self.out_strides = self._shapes(nodes)

    def forward(self, image: Tensor) -> list[Tensor]:
        return list(self._forward[self.training](self.model, image).values())

    def _shapes(self, nodes: list[str]) -> tuple[list[int], list[int]]:
        """Channels and strides of the maps, from a run on the meta device."""
        maps = _run(copy.deepcopy(self).to("meta").eval(), self.name)
        shapes = [tuple(one.shape[1:]) if isinstance(one, Tensor) else () for one in maps]
        strides = [
            PROBE // one[1] if len(one) == 3 and one[1] == one[2] and not PROBE % one[1] else 0 for one in shapes
        ]
        if 0 in strides or strides != sorted(set(strides)):
            raise UserError(
                f"backbone.nodes={nodes}: maps (channels, H/s, W/s) of different strides s were expected, but "
                f"{self.name} gives {shapes} at {PROBE} px"
            )
        return [one[0] for one in shapes], strides

    def published(self) -> Published:
        """Torchvision's own files for this name; they may hold what follows the last map, too."""
        ours = [key for key in self.model.state_dict() if not key.endswith("num_batches_tracked")]
        rest = tuple(key for key in self._whole if key not in ours)
        names = {f"backbone.model.{key}": key for key in ours}
        return Published(names, rest, f"is the file one of torchvision's {self.name}?")


@torch.no_grad()
def _last_of_each(model: nn.Module, name: str, strides: list[int]) -> list[str]:
    """The names of the modules that give the last map of each stride, of those that are least deep."""
    maps: list[tuple[int, str]] = []  # (stride, module) in the order of their ends

    def note(module: nn.Module, _: Any, out: Any, *, called: str) -> None:
        if isinstance(out, Tensor) and out.ndim == 4 and out.shape[2] == out.shape[3] and not PROBE % out.shape[2]:
            maps.append((PROBE // out.shape[2], called))

    shapes = copy.deepcopy(model).to("meta").eval()
    for called, module in shapes.named_modules():
        if called:
            module.register_forward_hook(partial(note, called=called))
    _run(shapes, name)
    if not strides or strides != sorted(set(strides)) or not set(strides) <= {stride for stride, _ in maps}:
        raise UserError(
            f"backbone.strides={strides}: expected different ones of {sorted({stride for stride, _ in maps})}, finest "
            f"first, of which torchvision's {name} has maps at {PROBE} px"
        )
    found = []
    for stride in strides:
        those = [called for one, called in maps if one == stride]
        depth = min(called.count(".") for called in those)
        found.append([called for called in those if called.count(".") == depth][-1])
    return found


def _cut(whole: nn.Module, name: str, nodes: list[str]) -> tuple[nn.Module, dict[bool, Callable[..., Any]]]:
    """The modules that these nodes take, and what computes them from an image in training and out of it.

    The two are kept apart since a copy of torchvision's own extractor no longer tells training from evaluation.
    """
    try:
        extractor: Any = create_feature_extractor(whole, {node: str(level) for level, node in enumerate(nodes)})
    except ValueError:
        known = {*get_graph_node_names(whole)[1], *(called for called, _ in whole.named_modules() if called)}
        missing = next((node for node in nodes if node not in known), nodes)
        raise UserError(f"backbone.nodes={nodes}: {name} has no '{missing}'. {nearest(missing, known)}") from None
    except Exception as error:  # a network that torch.fx cannot trace
        raise UserError(f"backbone.name={name}: torchvision cannot extract {nodes} ({error})") from error
    computes = {mode: type(extractor.train(mode)).forward for mode in (True, False)}
    modules: Any = nn.Module()
    modules._modules, modules._parameters, modules._buffers = (
        extractor._modules,
        extractor._parameters,
        extractor._buffers,
    )
    return modules.train(), computes


@torch.no_grad()
def _run(model: nn.Module, name: str) -> Any:
    """What a network on the meta device gives for an image."""
    try:
        return model(torch.zeros(1, 3, PROBE, PROBE, device="meta"))
    except Exception as error:  # as any of a hundred networks words it
        raise UserError(
            f"backbone.name={name}: it takes no image of {PROBE} px ({type(error).__name__}: {error})"
        ) from error
