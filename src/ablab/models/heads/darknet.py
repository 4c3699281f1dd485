"""Darknet's head: one 1×1 convolution per level, boxes by a numbered list of anchors that levels share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ablab.errors import UserError, nearest
from ablab.models.heads.darknet_loss import assign, centred_boxes, darknet_loss

BOX_LOSSES = ("ciou", "mse")


class DarknetHead(nn.Module):
    """n maps → raw: per level (B, A, H, W, 5 + classes), the last axis tx, ty, tw, th, objectness, classes.

    `anchors` lists (width, height) in px of the network input; `masks` has for every level, finest first, the places
    of its anchors in that list, the same number on each. An anchor may be on several levels or on none: the best one
    of the whole list answers for a truth on every level that has it. See `darknet_loss` for what `iou_thresh`,
    `ignore_thresh` and `box_loss` (ciou or mse) do; `scale_x_y` lets centres reach their cell's borders (YOLOv4).
    `iou_normalizer`, `obj_normalizer` and `cls_normalizer` multiply the losses of boxes, objectness and classes, which
    are sums over an image's predictions.

    `darknet_order` holds the prediction convolutions as darknet's files have them, the coarsest level first.

    Raises UserError when the levels of `masks` differ from the neck's, and for values out of their range.
    """

    anchors: Tensor  # (N, 2) px
    convs: nn.ModuleList

    def __init__(
        self,
        in_channels: list[int],
        in_strides: list[int],
        *,
        classes: int,
        anchors: list[list[float]],
        masks: list[list[int]],
        scale_x_y: float,
        iou_thresh: float,
        ignore_thresh: float,
        box_loss: str,
        iou_normalizer: float,
        obj_normalizer: float,
        cls_normalizer: float,
    ) -> None:
        super().__init__()
        if len(masks) != len(in_strides):
            raise UserError(f"it has masks for {len(masks)} levels; the maps that come have the strides {in_strides}")
        try:
            sizes = torch.tensor(anchors, dtype=torch.float32)
        except (TypeError, ValueError):
            sizes = torch.empty(0)
        if sizes.dim() != 2 or sizes.shape[1] != 2 or not all(side > 0 for pair in anchors for side in pair):
            raise UserError(f"anchors must be [width, height] pairs above 0 px, found {anchors}")
        for mask in masks:
            known = isinstance(mask, list) and all(type(place) is int and 0 <= place < len(sizes) for place in mask)
            if not known or len(set(mask)) != len(mask) or not mask or len(mask) != len(masks[0]):
                raise UserError(
                    f"masks must have as many different places of anchors, 0 to {len(sizes) - 1}, on every level, "
                    f"found {masks}"
                )
        if not scale_x_y >= 1:
            raise UserError(f"scale_x_y must be 1 or more, found {scale_x_y}")
        for name, share in (("iou_thresh", iou_thresh), ("ignore_thresh", ignore_thresh)):
            if not 0 < share <= 1:
                raise UserError(f"{name} must be an IoU above 0, at most 1, found {share}")
        if box_loss not in BOX_LOSSES:
            raise UserError(f"box_loss '{box_loss}' is unknown. {nearest(box_loss, BOX_LOSSES)}")
        if not isinstance(classes, int) or classes < 1:
            raise UserError(f"classes (model.classes) must be a whole number from 1 on, found {classes}")
        self.classes = classes
        self.masks = [list(mask) for mask in masks]
        self.per_cell = len(masks[0])
        self.scale_x_y, self.iou_thresh, self.ignore_thresh = scale_x_y, iou_thresh, ignore_thresh
        self.box_loss = box_loss
        self.gains = {"box": iou_normalizer, "obj": obj_normalizer, "cls": cls_normalizer}
        self.out_channels = [self.per_cell * (5 + classes)] * len(in_channels)
        self.out_strides = list(in_strides)
        # Configuration, not weights: kept out of the state dict, so that other anchors load the same weights.
        self.register_buffer("anchors", sizes, persistent=False)
        self.convs = nn.ModuleList(
            nn.Conv2d(width, out, 1) for width, out in zip(in_channels, self.out_channels, strict=True)
        )

    @property
    def darknet_order(self) -> list[nn.Module]:
        return list(self.convs)[::-1]

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        raw = []
        for conv, x in zip(self.convs, maps, strict=True):
            b, _, h, w = x.shape
            raw.append(conv(x).view(b, self.per_cell, 5 + self.classes, h, w).permute(0, 1, 3, 4, 2))
        return raw

    def loss(self, raw: list[Tensor], targets: Tensor, progress: float) -> dict[str, Tensor]:
        """Losses of an image (sums over its predictions, mean over images) with their gains: {"box", "obj", "cls"},
        fp32 scalars that may all be summed.

        targets (n, 6): index of image, class, x1, y1, x2, y2 in px of the network input; n may be 0.
        progress in [0, 1] is not used: this loss is the same all along.
        """
        losses = darknet_loss(
            raw,
            targets,
            self.anchors,
            self.masks,
            self.out_strides,
            scale_x_y=self.scale_x_y,
            ignore_thresh=self.ignore_thresh,
            iou_thresh=self.iou_thresh,
            box_loss=self.box_loss,
        )
        return {name: gain * losses[name] for name, gain in self.gains.items()}

    def decode(self, raw: list[Tensor]) -> tuple[Tensor, Tensor]:
        """raw → boxes (B, N, 4) xyxy in px of the network input, scores (B, N, classes) in [0, 1], in fp32.

        N runs over levels, then anchors, rows, columns. A score is objectness × class probability, which need not add
        up to 1 over the classes.
        """
        boxes, scores = [], []
        for out, mask, stride in zip(raw, self.masks, self.out_strides, strict=True):
            out = out.float()
            centre, size = centred_boxes(out, self.anchors[mask], stride, self.scale_x_y).flatten(1, 3).split(2, -1)
            boxes.append(torch.cat((centre - size / 2, centre + size / 2), -1))
            scores.append((out[..., 4:5].sigmoid() * out[..., 5:].sigmoid()).flatten(1, 3))
        return torch.cat(boxes, 1), torch.cat(scores, 1)

    @torch.no_grad()
    def set_prior(self, targets: list[Tensor], images: int, imgsz: int) -> None:
        """Sets the initial biases from real statistics.

        Objectness starts at half the share of cells that answer for a truth, for each level and anchor (a level or
        anchor that none matches counts as one cell); classes at their frequencies, within [0.01, 0.99]. `targets` are
        those of `loss`, one tensor for each batch or image; `images` is how many images they come from, `imgsz` their
        size in px. (Darknet starts at zero; with sums over cells that is a loss of 1,000 to get rid of first.)
        """
        device = self.anchors.device
        targets = [t.to(device) for t in targets]
        known = torch.cat([t[:, 1].long() for t in targets]) if targets else torch.zeros(0).long()
        frequency = torch.bincount(known, minlength=self.classes).to(device) / max(len(known), 1)
        for conv, mask, stride in zip(self.convs, self.masks, self.out_strides, strict=True):
            cells = imgsz // stride
            answering = torch.zeros(self.per_cell, device=device)
            for t in targets:
                rows = assign(t, self.anchors, mask, stride, cells, cells, self.iou_thresh).rows.unique()
                answering += torch.bincount(rows % self.per_cell, minlength=self.per_cell)
            bias = conv.get_parameter("bias").view(self.per_cell, -1)
            bias[:, 4] = (answering.clamp(min=1) / (2 * images * cells**2)).logit()
            bias[:, 5:] = frequency.clamp(0.01, 0.99).logit()
