"""Weights between stages and from the user: safetensors files, taken over whole or refused by name.

A file says which network it is of (parts and preprocessing, as JSON in its metadata): an activation, an anchor or a
channel order has no tensor that could fail to fit.
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

DESCRIBED = ("stem", "backbone", "neck", "head", "preprocess")  # of the configuration


def save(detector: nn.Module, config: dict[str, Any], path: Path) -> None:
    """Write every parameter and buffer, and what `config` says of the network.

    Raises OSError when the disk is full or read-only.
    """
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in detector.state_dict().items()}
    described = json.dumps({key: config[key] for key in DESCRIBED}, sort_keys=True)
    path.write_bytes(safetensors.torch.save(tensors, metadata={"ablab": described}))


def load(detector: nn.Module, config: dict[str, Any], path: Path) -> None:
    """Load every tensor of `path` (the file, or a folder with weights.safetensors) into the detector.

    Raises UserError if the file is missing or no safetensors file, or naming the first tensor that does not
    fit, or the first key of `config` that differs from what the file says of its network. A file that says
    nothing (not ours) is judged by its tensors alone.
    """
    path = path / "weights.safetensors" if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"{path}: no such weights file")
    try:
        found = safetensors.torch.load(path.read_bytes())
    except SafetensorError as error:
        raise UserError(f"{path}: not a safetensors file ({error})") from error
    expected = detector.state_dict()
    for name, tensor in expected.items():
        if name not in found:
            raise UserError(
                f"{path}: tensor {name} of shape {_shape(tensor)}, which this network expects, is not among the "
                f"file's {len(found)}"
            )
        if found[name].shape != tensor.shape:
            raise UserError(
                f"{path}: tensor {name} has shape {_shape(found[name])}, this network expects {_shape(tensor)} "
                "(another class count, width or part?)"
            )
    if surplus := sorted(set(found) - set(expected)):
        raise UserError(
            f"{path}: tensor {surplus[0]} of shape {_shape(found[surplus[0]])} has no place in this network, nor "
            f"have {len(surplus) - 1} others of the file's {len(found)}; expected are {len(expected)}"
        )
    _check_description(path, config)
    detector.load_state_dict(found)


def _check_description(path: Path, config: dict[str, Any]) -> None:
    with safetensors.safe_open(path, framework="pt") as file:
        described = (file.metadata() or {}).get("ablab")
    if not described:
        return
    ours = flatten({key: config[key] for key in DESCRIBED})
    try:
        theirs = flatten(json.loads(described))
    except (ValueError, AttributeError):
        raise UserError(f"{path}: what it says of its network is damaged") from None
    for key in sorted(theirs.keys() | ours.keys()):
        if theirs.get(key) != ours.get(key):
            raise UserError(
                f"{path}: these weights are of a network with {key}={theirs.get(key)}, not {key}={ours.get(key)}"
            )


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "scalar"
