"""Weights between stages and from the user: safetensors files, taken over whole or refused by name.

A file says which network it is of (parts and preprocessing, as JSON in its metadata): an activation, an anchor or a
channel order has no tensor that could fail to fit. A darknet `.weights` file says nothing, and is read as strictly as
that allows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ablab.config import flatten
from ablab.errors import UserError
from ablab.models import darknet_weights
from ablab.models.detector import Detector

DESCRIBED = ("stem", "backbone", "neck", "head", "preprocess")  # of the configuration
BESIDE = ("names", "imgsz")  # of the classes; of the input trained at, px: no part of which network it is


def save(detector: nn.Module, config: dict[str, Any], path: Path) -> None:
    """Write every parameter and buffer, and what `config` says of the network; `names` and `imgsz`, if given.

    Raises OSError when the disk is full or read-only.
    """
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in detector.state_dict().items()}
    says = {key: config[key] for key in DESCRIBED} | {key: config[key] for key in BESIDE if key in config}
    described = json.dumps(says, sort_keys=True)
    path.write_bytes(safetensors.torch.save(tensors, metadata={"ablab": described}))


def load(detector: Detector, config: dict[str, Any], path: Path) -> None:
    """Load every tensor of `path` (the file, or a folder with weights.safetensors) into the detector.

    Raises UserError if the file is missing or neither a safetensors file nor a darknet .weights file of this network,
    or naming the first tensor that does not fit, or the first key of `config` that differs from what the file says of
    its network. A file that says nothing (not ours) is judged by its tensors alone.
    """
    path = path / "weights.safetensors" if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"{path}: no such weights file")
    if path.suffix == darknet_weights.SUFFIX:
        _load_darknet(detector, path)
        return
    try:
        found = safetensors.torch.load(path.read_bytes())
    except SafetensorError as error:
        raise UserError(
            f"{path}: not a safetensors file ({error}); another library's state dict can be trained from: start.weights"
        ) from error
    expected = detector.state_dict()
    for name, tensor in expected.items():
        if name not in found:
            raise UserError(
                f"{path}: tensor {name} of shape {shape_of(tensor)}, which this network expects, is not among the "
                f"file's {len(found)}"
            )
        if found[name].shape != tensor.shape:
            raise UserError(
                f"{path}: tensor {name} has shape {shape_of(found[name])}, this network expects {shape_of(tensor)} "
                "(another class count, width or part?)"
            )
    if surplus := sorted(set(found) - set(expected)):
        raise UserError(
            f"{path}: tensor {surplus[0]} of shape {shape_of(found[surplus[0]])} has no place in this network, nor "
            f"have {len(surplus) - 1} others of the file's {len(found)}; expected are {len(expected)}"
        )
    _check_description(path, config)
    detector.load_state_dict(found)


def _load_darknet(detector: Detector, path: Path) -> None:
    tensors, classes = darknet_weights.read(path.read_bytes(), detector, path)
    if classes != detector.classes:
        raise UserError(
            f"{path}: these weights are of a network with {classes} classes, this one has {detector.classes}"
        )
    detector.load_state_dict(tensors, strict=False)  # without counts of batches, which nothing reads here


def description(path: Path) -> dict[str, Any] | None:
    """What a weights file says of its network: the keys of DESCRIBED and perhaps of BESIDE; None if it is not ours, or
    darknet's.

    Raises UserError if the file is missing, no safetensors file, or what it says is damaged.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such weights file")
    if path.suffix == darknet_weights.SUFFIX:
        return None
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("ablab")
    except SafetensorError as error:
        raise UserError(
            f"{path}: not a safetensors file ({error}); another library's state dict can be trained from: start.weights"
        ) from error
    if not text:
        return None
    try:
        says = json.loads(text)
    except ValueError:
        says = None
    if not isinstance(says, dict):
        raise UserError(f"{path}: what it says of its network is damaged")
    return says


def _check_description(path: Path, config: dict[str, Any]) -> None:
    says = description(path)
    if says is None:
        return
    ours = flatten({key: config[key] for key in DESCRIBED})
    theirs = flatten({key: value for key, value in says.items() if key not in BESIDE})
    for key in sorted(theirs.keys() | ours.keys()):
        if theirs.get(key) != ours.get(key):
            hint = ". With model.anchors=auto the anchors are those of the file" if key == "head.anchors" else ""
            raise UserError(
                f"{path}: these weights are of a network with {key}={theirs.get(key)}, not {key}={ours.get(key)}{hint}"
            )


def shape_of(tensor: Tensor) -> str:
    """As messages show it: 24×3×3×3."""
    return "×".join(map(str, tensor.shape)) or "scalar"
