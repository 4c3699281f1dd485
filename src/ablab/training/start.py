"""What training starts from: another training's weights or another library's, of which what fits is taken over.

Files are never trusted: safetensors, or torch.load(weights_only=True).
"""

from __future__ import annotations

import copy
import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ablab.config import flatten
from ablab.errors import UserError
from ablab.models import darknet_weights
from ablab.models.detector import Detector
from ablab.models.folding import first
from ablab.models.published import Published
from ablab.training.weights import DESCRIBED, description, shape_of

COUNTS = "num_batches_tracked"  # a BatchNorm's, and not read where it has a momentum


def take_over(detector: Detector, path: Path, config: dict[str, Any], sha256: str | None = None) -> dict[str, Any]:
    """Take over what fits of the weights in `path`, by name and shape; the rest stays as it is.

    path: a .safetensors file, darknet's .weights, or else a state dict that torch saved, alone or under "state_dict" or
    "model". The names are the detector's (ablab's checkpoints), or those of the library that `published` of the
    backbone tells of; such a file is taken over whole, its classifier aside, and what sees the image is given the
    preprocessing that it expects. Darknet's is taken over whole too, its prediction layers aside if they are for
    another number of classes. config: the detector's parts and `preprocess`. sha256: what the file is expected to hold.

    Returns start_weights (the file's name), start_sha256, tensors_loaded and tensors_fresh, loaded_share (of the
    learnable parameters, in [0, 1]), fresh, the names of the tensors that were not in it, and differs, the keys of
    `config` that are others in what a file of ablab's says of its network; counts of batches, which nothing reads
    here, are no tensors. Raises UserError for a file that is missing, damaged or no state dict, has
    changed, holds numbers that are not finite, or of whose tensors less than half fit.
    """
    found, digest = _read(path, detector)
    if sha256 not in (None, digest):
        raise UserError(f"{path}: the file changed while the sweep ran: the same command plans anew")
    expected = {name: tensor for name, tensor in detector.state_dict().items() if not name.endswith(COUNTS)}
    tell = getattr(detector.backbone, "published", None)
    theirs: Published | None = tell() if tell and not found.keys() & expected.keys() else None
    if theirs and found.keys() & set(theirs.names.values()):
        fitting = _translated(found, theirs, expected, path)
        fitting = _with_our_eps(_with_our_input(fitting, config["preprocess"], theirs, detector, path), detector)
    else:
        fitting = _fitting(found, expected, path)
    for name, tensor in fitting.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise UserError(f"{path}: tensor {name} holds numbers that are not finite")
    detector.load_state_dict(fitting, strict=False)
    learnable = dict(detector.named_parameters())
    loaded = sum(parameter.numel() for name, parameter in learnable.items() if name in fitting)
    return {
        "start_weights": path.name,
        "start_sha256": digest,
        "tensors_loaded": len(fitting),
        "tensors_fresh": len(expected) - len(fitting),
        "loaded_share": loaded / sum(parameter.numel() for parameter in learnable.values()),
        "fresh": sorted(expected.keys() - fitting.keys()),
        "differs": _differs(path, config),
    }


def told(numbers: dict[str, Any]) -> str:
    """A line about what `take_over` returned."""
    fresh = numbers["fresh"]
    total = numbers["tensors_loaded"] + numbers["tensors_fresh"]
    told = f", fresh: {', '.join(fresh[:4])}{f' and {len(fresh) - 4} more' if len(fresh) > 4 else ''}" if fresh else ""
    return (
        f"starts from {numbers['start_weights']}: {numbers['tensors_loaded']} of {total} tensors, "
        f"{numbers['loaded_share']:.1%} of the parameters{told}"
        + (f"; it was trained with another {', '.join(numbers['differs'])}" if numbers["differs"] else "")
    )


def _read(path: Path, detector: Detector) -> tuple[dict[str, Tensor], str]:
    """The tensors of a file by name, without counts of batches, and the SHA-256 of its bytes."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: the file of weights cannot be read: {error.strerror}") from None
    content: Any
    if path.suffix == darknet_weights.SUFFIX:
        content, _ = darknet_weights.read(data, detector, path)
    elif path.suffix == ".safetensors":
        try:
            content = safetensors.torch.load(data)
        except SafetensorError as error:
            raise UserError(f"{path}: not a safetensors file ({error})") from error
    else:
        content = _unpickled(data, path)
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()) or not content:
        held = (
            f"a dictionary of {', '.join(map(str, list(content)[:5]))}"
            if isinstance(content, dict)
            else "something else"
        )
        raise UserError(
            f"{path}: expected a state dict (tensors by name), alone or as state_dict or model, found {held}"
        )
    wrapped = all(str(name).startswith("module.") for name in content)  # saved from torch's DataParallel
    names = {name: str(name).removeprefix("module.") if wrapped else str(name) for name in content}
    tensors = {names[name]: tensor for name, tensor in content.items() if not names[name].endswith(COUNTS)}
    return tensors, hashlib.sha256(data).hexdigest()


def _unpickled(data: bytes, path: Path) -> Any:
    """What torch saved, if it is nothing but tensors and plain values."""
    try:
        if zipfile.is_zipfile(io.BytesIO(data)):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                if broken := archive.testzip():  # torch.load does not look at the checksums of tensors
                    raise UserError(f"{path}: damaged: the checksum of {broken} is wrong")
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # RuntimeError, EOFError, UnpicklingError, KeyError, BadZipFile, ...
        raise UserError(
            f"{path}: no file of weights: it is damaged, or holds more than tensors and plain values, which only "
            f"running code of its own could read (torch says {type(error).__name__}). Expected a state dict, such as "
            "torch.save(model.state_dict(), file)"
        ) from None


def _fitting(found: dict[str, Tensor], expected: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors of a file that fit by name and shape, at least half of them."""
    fitting = {name: t for name, t in found.items() if name in expected and t.shape == expected[name].shape}
    if 2 * len(fitting) < len(found) or not fitting:
        name = next((name for name in found if name not in fitting), "none")
        place = f"expected {shape_of(expected[name])}" if name in expected else "which has no place in this network"
        first = f"{name} of shape {shape_of(found[name])}, {place}" if found else "none"
        raise UserError(
            f"{path}: only {len(fitting)} of its {len(found)} tensors fit this network of {len(expected)}: a file "
            f"of another architecture? The first that does not: {first}"
        )
    return fitting


def _with_our_eps(fitting: dict[str, Tensor], detector: Detector) -> dict[str, Tensor]:
    """BatchNorms that were trained with the eps they were made with, scaled to do the same with the detector's."""
    scaled = dict(fitting)
    for name, module in detector.named_modules():
        if isinstance(module, nn.BatchNorm2d) and f"{name}.running_var" in fitting:
            variance = fitting[f"{name}.running_var"]
            ratio = (variance + module.eps) / (variance + detector.made_eps[name])
            scaled[f"{name}.weight"] = fitting[f"{name}.weight"] * ratio.sqrt()
    return scaled


def _with_our_input(
    fitting: dict[str, Tensor], preprocess: dict[str, Any], theirs: Published, detector: Detector, path: Path
) -> dict[str, Tensor]:
    """The convolutions that see the image, made for a mean and std of the file's own, for pixels prepared as
    `preprocess` says: the same outputs but at the image's edge, where zero stands for another colour.

    x' = (pixel / 255 - mean) / std is a · x + b of our x = (pixel - ours) / our std; a goes into the kernel, and what
    the kernel makes of b off BatchNorm's mean, or into the bias.
    """
    mean, std, ours, our_std = (
        torch.tensor(values, dtype=torch.float64)
        for values in (theirs.mean, theirs.std, preprocess["mean"], preprocess["std"])
    )
    turned = preprocess["channels"] == "bgr"
    if turned:
        mean, std = mean.flip(0), std.flip(0)
    a, b = our_std / (255 * std), (ours / 255 - mean) / std
    if not turned and bool(((a - 1).abs() < 1e-6).all() and (b.abs() < 1e-6).all()):
        return fitting
    side = 2 * detector.max_stride
    layers = first(copy.deepcopy(detector).eval(), next(detector.parameters()).new_zeros(1, 3, side, side))
    if not layers or any(not bn and f"{conv}.bias" not in fitting for conv, bn in layers):
        raise UserError(
            f"{path}: these weights expect (pixel / 255 - {list(theirs.mean)}) / {list(theirs.std)}, and the image is "
            "not seen by convolutions alone that could be given other pixels: expected preprocess.channels=rgb, "
            f"preprocess.mean={[round(255 * one, 4) for one in theirs.mean]} and "
            f"preprocess.std={[round(255 * one, 4) for one in theirs.std]}"
        )
    changed = dict(fitting)
    for conv, bn in layers:
        kernel = fitting[f"{conv}.weight"]
        kernel = (kernel.flip(1) if turned else kernel).double()
        shift = (kernel * b.view(1, -1, 1, 1)).sum((1, 2, 3))
        changed[f"{conv}.weight"] = (kernel * a.view(1, -1, 1, 1)).to(fitting[f"{conv}.weight"].dtype)
        name, sign = (f"{bn}.running_mean", -1) if bn else (f"{conv}.bias", 1)
        changed[name] = (fitting[name].double() + sign * shift).to(fitting[name].dtype)
    return changed


def _differs(path: Path, config: dict[str, Any]) -> list[str]:
    """Keys of parts and preprocessing that a file of ablab's says otherwise; none for another file."""
    says = description(path) if path.suffix == ".safetensors" else None
    ours = flatten({key: config[key] for key in DESCRIBED})
    theirs = flatten({key: value for key, value in (says or {}).items() if key in DESCRIBED})
    return sorted(key for key in theirs.keys() | ours.keys() if says and theirs.get(key) != ours.get(key))


def _translated(
    found: dict[str, Tensor], theirs: Published, expected: dict[str, Tensor], path: Path
) -> dict[str, Tensor]:
    """The tensors of a published file under our names; every one but what it may hold besides has to fit."""
    for ours, name in theirs.names.items():
        if ours not in expected:
            raise UserError(f"{path}: its tensor {name} belongs to {ours}, which this network has not")
        if name not in found:
            raise UserError(f"{path}: tensor {name} is missing, from which {ours} would start ({theirs.hint})")
        if found[name].shape != expected[ours].shape:
            raise UserError(
                f"{path}: tensor {name} has shape {shape_of(found[name])}, {ours} expects {shape_of(expected[ours])} "
                f"({theirs.hint})"
            )
    for name in found:
        if name not in theirs.names.values() and not name.startswith(theirs.rest):
            raise UserError(f"{path}: tensor {name} of shape {shape_of(found[name])} has no place in this backbone")
    return {ours: found[name] for ours, name in theirs.names.items()}
