"""Head pruning by cutting: the least important channels behind a trained backbone are removed, the others stay.

A channel's importance is what the loss would change without it, to the first order (Molchanov et al. 2019, "Importance
Estimation for Neural Network Pruning"): the sum of |weight × gradient| over the kernels that make and that read it.
Channels of several layers that can only go together are judged together (Fang et al. 2023, "DepGraph: Towards Any
Structural Pruning"). Both by torch-pruning.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ablab.errors import UserError
from ablab.models.detector import Detector

SIDE = 2  # px of the coarsest map on which dependencies are traced


class _Behind(nn.Module):
    """What follows the backbone: its maps → raw predictions."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.neck, self.head = detector.neck, detector.head

    def forward(self, *maps: Tensor) -> Any:
        return self.head(self.neck(list(maps)))


@torch.enable_grad()  # by which dependencies are traced
def cut(wide: Detector, narrow: Detector) -> dict[str, Any]:
    """Give `narrow` the weights of `wide` without the least important channels behind the backbone.

    Both are of the same parts, but for widths (head_prune.ratio): a layer keeps as many channels as it has in `narrow`.
    The parameters of `wide` have gradients of the loss; one without is taken for one that changes nothing. `wide` is
    cut itself, and left in eval mode.

    Returns channels and channels_kept, summed over the convolutions that choose some, and importance_kept, the mean
    over them of the share that stays, in [0, 1]. Raises UserError where torch-pruning is not installed or cannot tell
    which layers depend on each other, for gradients that are not finite, and if layers depend on each other in another
    way than the widths of `narrow`, which then stays as it is.
    """
    try:
        import torch_pruning as pruning
    except ImportError as error:
        raise UserError(
            f"head_prune.method=cut: the library torch-pruning cannot be imported ({error}): pip install 'ablab[prune]'"
        ) from error
    both = f"neck {type(wide.neck).__name__} and head {type(wide.head).__name__}"
    behind = _Behind(wide.eval())
    for parameter in behind.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    channels, kept, shares = 0, 0, []
    try:
        graph = pruning.DependencyGraph().build_dependency(behind, example_inputs=_maps(wide))
        importance = pruning.importance.GroupTaylorImportance(normalizer=None)
        for name, conv in list(behind.named_modules()):
            if not isinstance(conv, nn.Conv2d) or conv.out_channels <= (left := _width(narrow, name)):
                continue
            whole = list(range(conv.out_channels))
            scores = importance(graph.get_pruning_group(conv, pruning.prune_conv_out_channels, whole))
            if not bool(scores.isfinite().all()):
                raise UserError(f"head_prune.method=cut: the gradients of {name} are not finite: a diverged training?")
            order = scores.argsort(stable=True)
            channels, kept = channels + len(whole), kept + left
            shares.append(float(scores[order[-left:]].sum() / scores.sum().clamp_min(1e-30)))
            gone = order[:-left].sort().values.tolist()
            graph.get_pruning_group(conv, pruning.prune_conv_out_channels, gone).prune()
    except UserError:
        raise
    except Exception as error:  # as tracing any network may fail
        raise UserError(
            f"head_prune.method=cut: torch-pruning cannot cut {both} ({type(error).__name__}: {error})"
        ) from error
    weights = wide.state_dict()
    for name, tensor in narrow.state_dict().items():
        found = tuple(weights[name].shape) if name in weights else None
        if found != tensor.shape:
            raise UserError(
                f"head_prune.method=cut: layers of {both} depend on each other in another way than head_prune.ratio "
                f"narrows them: {name} would be {found}, not {tuple(tensor.shape)}; expected head_prune.method=width"
            )
    narrow.load_state_dict(weights)
    return {
        "channels": channels,
        "channels_kept": kept,
        "importance_kept": sum(shares) / len(shares) if shares else 1.0,
    }


def _maps(detector: Detector) -> tuple[Tensor, ...]:
    """Maps as the backbone would give them for one small image."""
    channels: Any = detector.backbone.out_channels
    strides: Any = detector.backbone.out_strides
    one = next(detector.parameters())
    sides = [SIDE * strides[-1] // stride for stride in strides]
    return tuple(one.new_ones(1, width, side, side) for width, side in zip(channels, sides, strict=True))


def _width(narrow: Detector, name: str) -> int:
    """Channels that the convolution of that name has in the narrow network."""
    conv = dict(narrow.named_modules()).get(name)
    if not isinstance(conv, nn.Conv2d):
        raise UserError(f"head_prune.method=cut: the network of head_prune.ratio has no convolution {name}")
    return conv.out_channels
