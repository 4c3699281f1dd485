"""What a backbone says of the weights that others published for it."""

from __future__ import annotations

from dataclasses import dataclass

from ablab.errors import UserError

# What torchvision's networks are given.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Published:
    """How a published file fits: what the method `published` of a backbone returns.

    names: the detector's name -> the file's, of every tensor that is taken over. rest: how the names begin of what the
    file may hold besides, such as its classifier. hint: what to do where a shape does not fit. mean, std: of the pixels
    that it was trained on, (pixel / 255 - mean) / std, RGB.
    """

    names: dict[str, str]
    rest: tuple[str, ...]
    hint: str
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


def refuse_unsettled(pretrained: str | None) -> None:
    """Raises UserError for a file given to a constructor: a network is built without weights, and training takes them
    over (`ablab.training.start`), to which planning hands `backbone.pretrained` as `start.weights`."""
    if pretrained is not None:
        raise UserError(
            f"backbone.pretrained={pretrained}: a network is built without weights; training starts from them, so "
            "give the file as start.weights"
        )
