"""Weights between stages and from the user: safetensors files, taken over whole or refused by name."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ablab.errors import UserError


def save(detector: nn.Module, path: Path) -> None:
    """Write every parameter and buffer. Raises OSError when the disk is full or read-only."""
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in detector.state_dict().items()}
    path.write_bytes(safetensors.torch.save(tensors))


def load(detector: nn.Module, path: Path) -> None:
    """Load every tensor of `path` (the file, or a folder with weights.safetensors) into the detector.

    Raises UserError if the file is missing or no safetensors file, or naming the first tensor that does not
    fit.
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
    detector.load_state_dict(found)


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "scalar"
