"""Files of darknet's, held to an interpreter of its networks; and those that are none."""

from __future__ import annotations

import struct
from pathlib import Path

import darknet_networks
import pytest
import torch
from torch import nn

from ablab.errors import UserError
from ablab.models import darknet_weights
from ablab.models.detector import Detector, build

FILE = Path("some.weights")
CLASSES, ANCHORS = 2, 3
OUTPUTS = ANCHORS * (5 + CLASSES)
SIZES = [("yolo_fastest_1_1", 1), ("yolo_fastest_1_1_xl", 2), ("yolov3_tiny", 0.5), ("yolov4_tiny", 0.25)]


@pytest.fixture
def make(parts):
    """make(recipe, width, ...): a detector in eval mode."""
    return lambda recipe, m, *more: build(
        parts(f"model={recipe}", f"model.width={float(m)}", f"model.classes={CLASSES}", *more)
    ).eval()


def noise(recipe: str, m: float, outputs: int = OUTPUTS, size: int = 64) -> tuple[bytes, torch.Tensor, list]:
    x = torch.rand(2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    layers = darknet_networks.NETWORKS[recipe.removesuffix("_xl")](outputs, m)
    data, found = darknet_networks.file_of_noise(layers, x)
    return data, x, found


@pytest.mark.parametrize(("recipe", "m"), SIZES)
@torch.no_grad()
def test_a_file_does_here_what_it_does_in_darknet(make, recipe, m):
    detector: Detector = make(recipe, m)
    data, x, (coarse, fine) = noise(recipe, m)
    tensors, classes = darknet_weights.read(data, detector, FILE)
    assert classes == CLASSES
    missing = detector.load_state_dict(tensors, strict=False).missing_keys
    assert all(name.endswith("num_batches_tracked") for name in missing)
    raw = detector.double()(x)
    for ours, theirs in zip(raw, (fine, coarse), strict=True):
        b, a, h, w, outputs = ours.shape
        expected = theirs.view(b, a, outputs, h, w).permute(0, 1, 3, 4, 2)
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
        assert expected.std() > 0.1  # no trivial map


def test_the_order_is_that_of_the_published_tiny_yolov3(parts):
    """Learnable parameters of its convolutions with 80 classes, in the order of its description."""
    with torch.device("meta"):
        detector = build(parts("model=yolov3_tiny"))
    layers = list(darknet_weights._layers(detector, FILE))
    counts = [c.weight.numel() + (2 if bn else 1) * c.out_channels for c, bn in layers]
    first = [464, 4672, 18560, 73984, 295424, 1180672, 4720640, 262656, 1180672, 130815]
    assert counts == [*first, 33024, 885248, 65535]


@pytest.mark.parametrize("header", [16, 20])
def test_headers_of_both_versions(make, header):
    data, _, _ = noise("yolov4_tiny", 0.25)
    old = struct.pack("<3iI", 0, 1, 0, 7) if header == 16 else struct.pack("<3iQ", 0, 2, 0, 7)
    detector = make("yolov4_tiny", 0.25)
    tensors, _ = darknet_weights.read(old + data[20:], detector, FILE)
    expected, _ = darknet_weights.read(data, detector, FILE)
    assert all(torch.equal(tensors[name], tensor) for name, tensor in expected.items())


def test_another_number_of_classes_is_found_out(make):
    detector = make("yolov4_tiny", 0.25)
    data, _, _ = noise("yolov4_tiny", 0.25, outputs=ANCHORS * (5 + 7))
    tensors, classes = darknet_weights.read(data, detector, FILE)
    assert classes == 7
    state = detector.state_dict()
    other = {name for name, tensor in tensors.items() if tensor.shape != state[name].shape}
    assert other == {f"head.convs.{level}.{what}" for level in (0, 1) for what in ("bias", "weight")}


def test_files_that_are_not_this_networks(make):
    detector: Detector = make("yolov4_tiny", 0.25)
    good, _, _ = noise("yolov4_tiny", 0.25)
    floats = (len(good) - 20) // 4

    def refused(data: bytes, told: str, other: nn.Module = detector) -> None:
        with pytest.raises(UserError, match=rf"some\.weights: .*{told}"):
            darknet_weights.read(data, other, FILE)

    refused(b"", "0 bytes are hardly its header")
    refused(good[:19], "19 bytes are hardly its header")
    refused(good[:20], rf"{4 * floats:,} bytes are missing")
    refused(good[:-4], "4 bytes are missing")
    refused(good[:-1], "1 bytes are missing")
    refused(good + b"1234", "4 bytes are left over")
    refused(good + b"1", "1 bytes are left over")
    refused(struct.pack("<3iQ", 1000, 2, 5, 0) + good[20:], r"header says version 1000\.2\.5, expected 0\.1 or 0\.2")
    refused(b"PK\x03\x04" + good, r"no darknet \.weights file")
    refused(good, "bytes are left over", make("yolov4_tiny", 0.125))
    refused(good, "no network with the part PAN", make("yolov5n", 0.125))
    refused(good, "no network with the part AnchorHead", make("yolov4_tiny", 0.25, "head=anchor", *TWO_LEVELS))
    spoilt = bytearray(good)
    spoilt[-4:] = struct.pack("<f", float("nan"))
    refused(bytes(spoilt), r"head\.convs\.0\.weight holds numbers that are not finite")
    spoilt = bytearray(good)
    spoilt[20 + 3 * 4 * 8 : 24 + 3 * 4 * 8] = struct.pack("<f", -0.5)  # of 8 channels: shifts, scales, means, variances
    refused(bytes(spoilt), r"convolution 1 of 21 \(stem\.conv\.conv\) has a variance of -0\.5")


TWO_LEVELS = ["head.anchors=[[[10,13]],[[30,61]]]", "head.balance=[4.0,1.0]"]
