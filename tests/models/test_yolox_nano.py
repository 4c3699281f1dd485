"""What the recipe brings beside its parts: how images come to the network, and which detections count."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from ablab.compute import Compute
from ablab.data.letterbox import fit
from ablab.data.loader import as_tensor


@pytest.mark.parametrize(("height", "width"), [(75, 100), (100, 75), (30, 40)])
def test_images_come_as_yolox_prepares_them(parts, height, width):
    """Spelled out: bilinear to the input's longer side, into the upper left of grey 114, BGR, 0 to 255."""
    preprocess = parts("model=yolox_nano")["preprocess"]
    bgr = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    ratio = min(64 / height, 64 / width)
    expected = np.full((64, 64, 3), 114, np.uint8)
    resized = cv2.resize(bgr, (int(width * ratio), int(height * ratio)), interpolation=cv2.INTER_LINEAR)
    expected[: resized.shape[0], : resized.shape[1]] = resized

    keys = {key: preprocess[key] for key in ("pad", "resize", "interpolation")}
    rgb, placement = fit(np.ascontiguousarray(bgr[..., ::-1]), 64, **keys)
    x = Compute(torch.device("cpu"), "fp32").network_input(as_tensor(rgb[None], preprocess), preprocess)[0]
    np.testing.assert_array_equal(x.permute(1, 2, 0).numpy(), expected.astype(np.float32))
    assert placement.to_image(np.array([[0, 0, *resized.shape[1::-1]]])).tolist() == [[0, 0, width, height]]


def test_thresholds_are_its_own_and_the_command_lines_win(parts):
    config = parts("model=yolox_nano")
    assert (config["eval"]["conf"], config["eval"]["iou"]) == (0.01, 0.65)
    assert parts("model=yolox_nano", "eval=coco")["eval"] == parts("model=yolov5n")["eval"]
