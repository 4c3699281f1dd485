"""Path aggregation with depthwise separable convolutions, bottom-up by addition (YOLOv5-Lite e)."""

from __future__ import annotations

from ablab.models.blocks import DepthwiseSeparable
from ablab.models.necks.pan import PathAggregation


class SeparablePAN(PathAggregation):
    """PathAggregation whose blocks and downsamplings are single depthwise separable 3×3 convolutions.

    `activation` is that of the 1×1 convolutions before them, `separable_activation` theirs. Raises UserError as
    PathAggregation does.
    """

    def __init__(
        self,
        in_channels: list[int],
        in_strides: list[int],
        *,
        channels: list[int],
        activation: str,
        separable_activation: str,
    ) -> None:
        super().__init__(
            in_channels,
            in_strides,
            channels=channels,
            block=lambda i, o: DepthwiseSeparable(i, o, activation=separable_activation),
            down=lambda width: DepthwiseSeparable(width, width, stride=2, activation=separable_activation),
            add=True,
            activation=activation,
        )
