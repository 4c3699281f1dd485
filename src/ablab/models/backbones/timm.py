"""Backbones of the library timm (PyTorch Image Models), by its own extraction of intermediate maps."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ablab.errors import UserError, nearest
from ablab.models.published import Published, refuse_unsettled
from ablab.models.stems.builtin import require_image

PROBE = 320  # px, side of the image on which shapes are checked


class TimmBackbone(nn.Module):
    """The image (B, 3, H, W) → the last map of each of `strides`, finest first; what follows the last one is left out.

    name: of timm.list_models(), made as timm makes it, with fresh weights: nothing is downloaded. Which maps there are
    is timm's own account (`feature_info`), checked on an image of 320 px without arithmetic.

    Raises UserError where timm is not installed, for a name that it has not, for a stride that the network has no map
    of, and for a network that takes only images of one size.
    """

    def __init__(
        self,
        in_channels: list[int],
        in_strides: list[int],
        *,
        name: str,
        strides: list[int],
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        require_image(in_channels, in_strides)
        refuse_unsettled(pretrained)
        try:
            import timm  # not above: it takes seconds
        except ImportError as error:
            raise UserError(f"the library timm cannot be imported ({error}): pip install 'ablab[timm]'") from error
        if name not in (names := timm.list_models()):
            raise UserError(f"backbone.name={name}: timm has no such model. {nearest(name, names)}")
        with torch.device("meta"):
            shapes = timm.create_model(name)
        self.name, self._whole = name, list(shapes.state_dict())
        indices = _cut(shapes.eval(), name, strides)
        self.out_channels = _channels(shapes, indices, name, strides)
        self.out_strides = list(strides)
        self.model: Any = timm.create_model(name)
        self._indices = _cut(self.model, name, strides)

    def forward(self, image: Tensor) -> list[Tensor]:
        return list(self.model.forward_intermediates(image, indices=self._indices, intermediates_only=True))

    def deployed(self) -> TimmBackbone:
        """The same with its branches merged, where timm merges them (RepVGG, MobileOne, FastViT)."""
        from timm.utils.model import reparameterize_model

        merged = copy.copy(self)
        like = next(self.parameters())  # some of timm's merge to fp32 whatever they were
        merged._modules = {"model": reparameterize_model(self.model).to(like.dtype)}  # a copy
        return merged

    def published(self) -> Published:
        """Timm's own files for this name; they may hold what follows the last map, too. Their pixels are taken to be
        those of the name's first file."""
        pixels = self.model.pretrained_cfg
        ours = [key for key in self.model.state_dict() if not key.endswith("num_batches_tracked")]
        return Published(
            {f"backbone.model.{key}": key for key in ours},
            tuple(key for key in self._whole if key not in ours),
            f"is the file one of timm's {self.name}?",
            tuple(pixels["mean"]),
            tuple(pixels["std"]),
        )


def _cut(model: Any, name: str, strides: list[int]) -> list[int]:
    """Leave out what follows the last map, and tell which of the maps that are left to take."""
    info = getattr(model, "feature_info", None)
    if info is None or not hasattr(model, "forward_intermediates"):
        raise UserError(f"backbone.name={name}: timm extracts no intermediate maps from it")
    offered = [entry["reduction"] for entry in (info if isinstance(info, list | tuple) else info.get_dicts())]
    if not strides or strides != sorted(set(strides)) or not set(strides) <= set(offered):
        raise UserError(
            f"backbone.strides={strides}: expected different ones of {sorted(set(offered))}, finest first, of which "
            f"timm's {name} has maps"
        )
    indices = [max(place for place, one in enumerate(offered) if one == stride) for stride in strides]
    return model.prune_intermediate_layers(indices) if hasattr(model, "prune_intermediate_layers") else indices


@torch.no_grad()
def _channels(model: Any, indices: list[int], name: str, strides: list[int]) -> list[int]:
    """Channels of the maps, from a run on the meta device."""
    refused = f"backbone.name={name}: an image of {PROBE} px was expected to give maps of the strides {strides}, but"
    try:
        image = torch.zeros(1, 3, PROBE, PROBE, device="meta")
        maps = model.forward_intermediates(image, indices=indices, intermediates_only=True)
    except Exception as error:  # as any of hundreds of networks words it
        raise UserError(f"{refused} the network takes none: {type(error).__name__}: {error}") from error
    if (found := [tuple(one.shape[2:]) for one in maps]) != [(PROBE // stride, PROBE // stride) for stride in strides]:
        raise UserError(f"{refused} it gives maps of {found}")
    return [one.shape[1] for one in maps]
