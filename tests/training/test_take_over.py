"""Weights that training starts from: what fits is taken over, the rest is named, and nothing is unpickled."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import resnet18, shufflenet_v2_x0_5, shufflenet_v2_x1_0

from ablab.errors import UserError
from ablab.models.detector import Detector, build
from ablab.training import start, weights

CONFIG = tiny.config()
IMAGENET = {  # torchvision's own, on pixels from 0 to 255
    "channels": "rgb",
    "mean": [255 * value for value in (0.485, 0.456, 0.406)],
    "std": [255 * value for value in (0.229, 0.224, 0.225)],
}
LITE = ["model=yolov5_lite_2021", "backbone.channels=[116,232,464]", "model.width=0.5"]


def lite(*overrides: str) -> Detector:
    return build(tiny.config(*LITE, *overrides))


@pytest.fixture(scope="module")
def classifier() -> nn.Module:
    """Torchvision's network with statistics that are not those of a fresh one, some of them near its eps."""
    torch.manual_seed(0)
    network = shufflenet_v2_x1_0(weights=None)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias.data):
                tensor.normal_(0, 0.3)
            for tensor in (module.running_var, module.weight.data):
                tensor.uniform_(0.5, 1.5)
    return network.eval()


@torch.no_grad()
def test_torchvisions_features_are_ours(classifier: Any, tmp_path: Path) -> None:
    torch.save({"model": classifier.state_dict()}, tmp_path / "shufflenetv2_x1.pth")  # as its own trainer saves it
    detector = lite("backbone.conv5=true")
    numbers = start.take_over(detector, tmp_path / "shufflenetv2_x1.pth", CONFIG | {"preprocess": IMAGENET})
    x = torch.randn(2, 3, 64, 96)
    theirs = classifier.maxpool(classifier.conv1(x))
    ours = detector.eval().stem(x)
    torch.testing.assert_close(ours, theirs)
    for number, found in enumerate(detector.backbone(ours), 2):
        theirs = getattr(classifier, f"stage{number}")(theirs)
        theirs = classifier.conv5(theirs) if number == 4 else theirs
        torch.testing.assert_close(found, theirs)
    assert numbers["tensors_loaded"] == len([n for n in classifier.state_dict() if "fc." not in n and "num_" not in n])
    assert all(name.startswith(("neck.", "head.")) for name in numbers["fresh"])
    learnable = sum(p.numel() for n, p in classifier.named_parameters() if "fc." not in n)
    assert numbers["loaded_share"] == pytest.approx(learnable / sum(p.numel() for p in detector.parameters()))


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
@torch.no_grad()
def test_torchvisions_first_convolution_sees_what_it_was_trained_on(
    classifier: Any, tmp_path: Path, channels: str
) -> None:
    torch.save(classifier.state_dict(), tmp_path / "theirs.pth")
    detector = lite().eval()
    mean, std = torch.tensor([10.0, 20.0, 30.0]), torch.tensor([200.0, 255.0, 60.0])
    preprocess = {"channels": channels, "mean": mean.tolist(), "std": std.tolist()}
    start.take_over(detector, tmp_path / "theirs.pth", CONFIG | {"preprocess": preprocess})
    pixels = torch.randint(256, (2, 3, 64, 96)).float()
    view = (1, 3, 1, 1)
    theirs = (pixels - torch.tensor(IMAGENET["mean"]).view(view)) / torch.tensor(IMAGENET["std"]).view(view)
    ours = ((pixels if channels == "rgb" else pixels.flip(1)) - mean.view(view)) / std.view(view)
    inside = (..., slice(1, -1), slice(1, -1))  # at the edge zeros are added, which stand for different colours
    found, expected = detector.stem.conv(ours)[inside], classifier.conv1(theirs)[inside]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("overrides", "network", "told"),
    [
        ([], shufflenet_v2_x0_5, r"stage2\.0\.branch2\.0\.weight has shape 24×24×1×1, backbone\.\S+ expects 58×24"),
        (["backbone.channels=[120,232,464]"], shufflenet_v2_x1_0, r"58×24×1×1, .* expects 60×24×1×1.*\[116,232,464\]"),
        (["stem=focus"], shufflenet_v2_x1_0, r"conv1\.0\.weight has shape 24×3×3×3, stem\.\S+ expects 24×12×3×3"),
        (["backbone.repeats=[3,8,3]"], shufflenet_v2_x1_0, r"stage3\.8\.\S+ is missing"),
        (["backbone.repeats=[3,6,3]"], shufflenet_v2_x1_0, r"stage3\.7\.\S+ of shape .* has no place in this backbone"),
        ([], resnet18, r"only 0 of its 102 tensors fit this network of \d+.*: conv1\.weight of shape 64×3×7×7"),
    ],
)
def test_another_library_s_file_that_does_not_fit(
    tmp_path: Path, overrides: list[str], network: Any, told: str
) -> None:
    tensors = network(weights=None).state_dict()
    torch.save(tensors, tmp_path / "theirs.pth")
    detector = lite(*overrides)
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    with pytest.raises(UserError, match=rf"theirs\.pth: .*{told}"):
        start.take_over(detector, tmp_path / "theirs.pth", CONFIG)
    assert all(torch.equal(tensor, before[name]) for name, tensor in detector.state_dict().items())


def test_another_class_count_leaves_the_prediction_layers_fresh(tmp_path: Path) -> None:
    three, file = tiny.config("model.classes=3"), tmp_path / "three.safetensors"
    trained = build(three)
    weights.save(trained, three, file)
    torch.manual_seed(1)
    detector = build(tiny.config())
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    numbers = start.take_over(detector, file, CONFIG, digest)
    layers = [f"head.convs.{level}.{what}" for level in range(3) for what in ("bias", "weight")]
    assert numbers["fresh"] == layers
    assert (numbers["tensors_fresh"], numbers["start_weights"], numbers["start_sha256"]) == (6, file.name, digest)
    for name, tensor in detector.state_dict().items():
        assert torch.equal(tensor, before[name] if name in layers else trained.state_dict()[name]), name
    fresh = sum(before[name].numel() for name in layers)
    assert numbers["loaded_share"] == pytest.approx(1 - fresh / sum(p.numel() for p in detector.parameters()))
    assert f"three.safetensors: {numbers['tensors_loaded']} of" in start.told(numbers)
    assert "head.convs.0.bias" in start.told(numbers)
    with pytest.raises(UserError, match="changed while the sweep ran"):
        start.take_over(detector, file, CONFIG, "0" * 64)


def test_what_a_file_says_otherwise_of_its_network_is_told(tmp_path: Path) -> None:
    other = tiny.config("preprocess.channels=bgr", "head.anchor_t=3.0")
    weights.save(build(other), other, tmp_path / "other.safetensors")
    numbers = start.take_over(build(CONFIG), tmp_path / "other.safetensors", CONFIG)
    assert numbers["differs"] == ["head.anchor_t", "preprocess.channels"]
    assert "trained with another head.anchor_t, preprocess.channels" in start.told(numbers)


def test_names_of_a_network_that_was_trained_in_parallel(tmp_path: Path) -> None:
    trained = build(CONFIG)
    torch.save({f"module.{name}": tensor for name, tensor in trained.state_dict().items()}, tmp_path / "many.pt")
    numbers = start.take_over(build(CONFIG), tmp_path / "many.pt", CONFIG)
    assert (numbers["loaded_share"], numbers["fresh"], numbers["differs"]) == (1.0, [], [])


def test_a_checkpoint_of_another_architecture(tmp_path: Path) -> None:
    wide = tiny.config("model.width=0.25")
    weights.save(build(wide), wide, tmp_path / "wide.safetensors")
    with pytest.raises(
        UserError, match=r"only \d+ of its \d+ tensors fit .* first that does not: \S+ of shape \S+, expe"
    ):
        start.take_over(build(CONFIG), tmp_path / "wide.safetensors", CONFIG)


class Malicious:
    """Its pickle makes a folder when it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    detector = build(tiny.config())
    good = {name: tensor.clone() for name, tensor in detector.state_dict().items()}

    def refused(name: str, told: str) -> None:
        with pytest.raises(UserError, match=rf"{name}: .*{told}"):
            start.take_over(detector, tmp_path / name, CONFIG)

    refused("absent.pt", "No such file")
    for name in ("noise.pt", "noise.pth"):
        (tmp_path / name).write_bytes(b"\x80\x02 no weights at all" * 20)
        refused(name, "no file of weights")
    (tmp_path / "noise.safetensors").write_bytes(b"no weights at all")
    refused("noise.safetensors", "not a safetensors file")
    torch.save(good, tmp_path / "cut.pt")
    whole = (tmp_path / "cut.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    refused("cut.pt", "damaged")
    middle = len(whole) // 2
    (tmp_path / "flipped.pt").write_bytes(whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :])
    refused("flipped.pt", "checksum")
    torch.save({"epoch": 3, "optimizer": {}}, tmp_path / "none.pt")
    refused("none.pt", "expected a state dict .* found a dictionary of epoch, optimizer")
    torch.save([torch.zeros(2)], tmp_path / "list.pt")
    refused("list.pt", "expected a state dict .* found something else")
    torch.save({"model": Malicious(tmp_path / "executed")}, tmp_path / "trap.pt")
    refused("trap.pt", "no file of weights")
    assert not (tmp_path / "executed").exists()
    first = next(iter(good))
    save_file(good | {first: good[first] * float("nan")}, tmp_path / "nan.safetensors")
    refused("nan.safetensors", f"{first} holds numbers that are not finite")
    assert all(torch.equal(tensor, good[name]) for name, tensor in detector.state_dict().items())


def test_frozen_modules_stay_in_eval_mode_and_out_of_training() -> None:
    detector = build(tiny.config())
    detector.freeze(["stem", "backbone.stages.0"])
    detector.train()
    assert not detector.stem.training
    assert not any(m.training for m in detector.get_submodule("backbone.stages.0").modules())
    assert detector.get_submodule("backbone.stages.1").training
    assert detector.head.training
    frozen = {name for name, parameter in detector.named_parameters() if not parameter.requires_grad}
    assert frozen == {n for n, _ in detector.named_parameters() if n.startswith(("stem.", "backbone.stages.0."))}
    with pytest.raises(UserError, match=r"no module 'backbone\.stage'\. Did you mean 'backbone\.stages'"):
        detector.freeze(["backbone.stage"])
    with pytest.raises(UserError, match=r"no module 'bakcbone'\. Did you mean 'backbone'\? There are: backbone, head"):
        detector.freeze(["bakcbone"])
    with pytest.raises(UserError, match="nothing is left to learn"):
        detector.freeze(["stem", "backbone", "neck", "head"])
