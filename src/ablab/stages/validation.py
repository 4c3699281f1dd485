"""How a training looks at the val split while it goes on: average precision, and a picture of a few images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ablab.data import dataset, draw, form
from ablab.data.letterbox import fit
from ablab.evaluation import ap
from ablab.evaluation.predict import Found, numbered, predict, results_array
from ablab.training.loop import Validate

# Of the curve's AP. Fixed, so that another evaluation of the same weights does not train them again.
VALIDATION = {"conf": 0.001, "iou": 0.6, "max_nms": 1500, "max_det": 100, "batch": 16}
SHOWN, SIDE, SHOWN_ABOVE = 4, 320, 0.25  # images in a picture, px of each, and the lowest score that is drawn
PICTURES = "val_epoch_*.jpg"  # epochs count from the first phase on


def validation(config: dict[str, Any], imgsz: int, folder: Path) -> Validate:
    """AP on val every `eval.every` epochs and after the last one; never, if that is 0 or there is no val.

    Each time a picture of the same few val images with the boxes found there goes to `folder`, named as in PICTURES.
    """
    every, phase = config["eval"]["every"], config["phase"]
    if not every or "val" not in dataset.splits(config["data"]):
        return lambda detector, epoch: {}
    data = dataset.load(config["data"], "val")
    judged = numbered(data)
    truth = form.coco_truth(judged)
    picture = pictures(data)

    def validate(detector: nn.Module, epoch: int) -> dict[str, Any]:
        if epoch % every and epoch != phase["epochs"]:
            return {}
        found = predict(
            detector,
            data,
            imgsz=imgsz,
            preprocess=config["preprocess"],
            eval_config=VALIDATION,
            engine=config["engine"],
        )
        file = folder / PICTURES.replace("*", f"{phase['start_epoch'] + epoch:03d}")
        picture(found, file)
        numbers = ap.evaluate(truth, results_array(found, judged))
        return {"map": numbers["map"], "map50": numbers["map50"], "picture": str(file)}

    return validate


def pictures(data: form.Dataset) -> Callable[[Sequence[Found], Path], None]:
    """A function that writes a JPEG of SHOWN images, spread evenly over the dataset, with what was found there."""
    import cv2

    total = len(data.samples)
    chosen = np.unique(np.linspace(0, total - 1, min(SHOWN, total)).round().astype(int)).tolist()
    fitted = [(index, *fit(form.read_image(data.samples[index]), SIDE, 255)) for index in chosen]

    def picture(found: Sequence[Found], file: Path) -> None:
        tiles = []
        for index, image, placement in fitted:
            boxes, scores, classes = found[index]
            shown = scores >= SHOWN_ABOVE
            on_tile = placement.to_network(boxes[shown]).astype(np.float64)
            tiles.append(draw.predictions(image, on_tile, scores[shown], classes[shown], data.names))
        sheet = cv2.cvtColor(draw.side_by_side(tiles), cv2.COLOR_RGB2BGR)
        whole, content = cv2.imencode(".jpg", sheet, [cv2.IMWRITE_JPEG_QUALITY, 85])
        assert whole, "OpenCV encodes any 8-bit image as JPEG"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.tobytes())

    return picture
