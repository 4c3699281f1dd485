"""What a recipe brings beside its parts: how images come to the network, and which detections count."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ablab.compute import Compute
from ablab.data.letterbox import fit
from ablab.data.loader import as_tensor


@pytest.mark.parametrize(
    ("recipe", "colour", "black"),  # RGB that becomes 0, and what black becomes, in the network's order
    [
        ("nanodet_m", (124, 116, 104), (-1.8045, -2.0357, -2.1179)),  # ImageNet's mean; it × -1 / its deviation
        ("nanodet_efficientlite2", (127, 127, 127), (-127 / 128,) * 3),
    ],
)
def test_nanodet_sees_bgr_on_black(parts, recipe, colour, black):
    preprocess = parts(f"model={recipe}")["preprocess"]
    image = np.full((48, 64, 3), colour, np.uint8)
    keys = {key: preprocess[key] for key in ("pad", "resize", "interpolation")}
    canvas, placement = fit(image, 32, **keys)
    assert (placement.left, placement.top) == (0, 4)  # 32 × 24 in the middle
    x = Compute(torch.device("cpu"), "fp32").network_input(as_tensor(canvas[None], preprocess), preprocess)[0]
    assert x[:, 4:28].abs().max() < 0.01
    for channel, value in zip(x, black, strict=True):
        assert channel[:4].mean().item() == channel[28:].mean().item() == pytest.approx(value, abs=1e-3)


def test_the_command_line_has_its_own_way(parts):
    own = parts("model=nanodet_m")
    equal = parts("model=nanodet_m", "eval=coco", "preprocess=letterbox")
    other = parts("model=yolov5n")
    assert (equal["eval"], equal["preprocess"]) == (other["eval"], other["preprocess"])
    assert own["eval"]["conf"] > other["eval"]["conf"]
    assert own["head"] == equal["head"]
