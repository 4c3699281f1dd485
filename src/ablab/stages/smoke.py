"""The smoke stage: one decode and one step, so that a broken variant fails in the first minute."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ablab.compute import Compute, as_float, check_size, memory_explained, prepare
from ablab.config import flatten
from ablab.data.form import Dataset, Sample
from ablab.data.loader import Loader
from ablab.errors import UserError
from ablab.models import prune
from ablab.models.detector import Detector, build
from ablab.training import optim, start


def run(
    config: dict[str, Any],
    inputs: dict[str, Path],
    out: Path,
    work: Path,
    emit: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Build the detector, decode once and take one training step, at twice the largest stride, on images of noise.

    What training starts from is tried as well: the file, and the names of modules that are frozen or slowed down; and
    the cut of the network with the parts `uncut`, if there are such.
    Numbers: params (learnable), bytes_per_px (see `_saved_per_px`), max_stride, out_strides, graph (see `_graph`).
    Raises UserError if parts do not fit, a size is no multiple of the largest stride, or a part breaks its contract;
    OutOfMemoryError.
    """
    compute = prepare(config["engine"])
    torch.manual_seed(0)
    with memory_explained("this network"):
        detector = build(config)
        compute.place(detector)
    for size in config["sizes"]:
        check_size(size, detector.max_stride)

    imgsz = 2 * detector.max_stride
    data = _noise(imgsz, detector.classes)
    loader = Loader(data, imgsz=imgsz, batch=2, preprocess=config["preprocess"], augment=None, seed=0)
    images, targets, _ = next(loader.epoch(0))
    x = compute.network_input(images, config["preprocess"])
    with memory_explained(f"batch=2 at imgsz={imgsz}"):
        fresh = copy.deepcopy(detector)
        bytes_per_px = _saved_per_px(copy.deepcopy(detector), compute, x, targets.to(compute.device))
        if "weights" in inputs:
            start.take_over(detector, inputs["weights"], config, config["start"].get("sha256"))
        detector.freeze(config["start"]["freeze"])
        detector.train()
        with compute.autocast(), _maps_checked(detector, imgsz):
            raw = detector(x)
        losses = detector.loss(as_float(raw), targets.to(compute.device), 0.0)
        _check_losses(losses)
        sum(losses.values(), start=torch.zeros((), device=compute.device)).backward()
        detector.eval()
        with torch.no_grad(), compute.autocast():
            raw = detector(x)
        _check_decoded(detector, detector.decode(as_float(raw)))  # before the step, whose rate is not the head's fault
        for optimizer in optim.build(
            detector, config["optim"], rates=flatten(config["start"]["rates"]), precision=compute.precision
        ):
            optimizer.step()
        graph = _graph(fresh, compute, x, targets.to(compute.device), imgsz)
        if uncut := config.get("uncut"):
            prune.cut(build(config | uncut), build(config))  # that it can be cut; gradients decide where
    return {
        "params": sum(p.numel() for p in detector.parameters()),
        "bytes_per_px": bytes_per_px,
        "max_stride": detector.max_stride,
        "out_strides": list(detector.head.out_strides),  # type: ignore[arg-type]
        "graph": graph,
    }


def _saved_per_px(detector: Detector, compute: Compute, x: Tensor, targets: Tensor) -> float:
    """Bytes that autograd keeps of a training step for a pixel of the input, from how they grow with its size.

    What does not grow (kernels cast to bf16) drops out.
    """
    detector.train()
    larger, boxes_there = x.repeat_interleave(2, 2).repeat_interleave(2, 3), targets.clone()
    boxes_there[:, 2:] *= 2

    def saved(images: Tensor, boxes: Tensor) -> int:
        kept: dict[int, Tensor] = {}  # by their storage; held, so that none is given out twice

        def keep(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            with compute.autocast():
                raw = detector(images)
            detector.loss(as_float(raw), boxes, 0.0)
        return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())

    return (saved(larger, boxes_there) - saved(x, targets)) / (len(x) * (larger.shape[-1] ** 2 - x.shape[-1] ** 2))


def _graph(fresh: Detector, compute: Compute, x: Tensor, targets: Tensor, imgsz: int) -> str:
    """A digest of all that a network is and does on one batch: two arms that share it train the same network.

    Types, settings and parameter shapes of its modules; the bits of what it predicts and decodes in eval mode; and of
    its losses early, in the middle and late, their gradients, and the start from the data's prior, since a part's key
    may matter to training alone. Seeded, in float32. Equal bits are only to be expected of one machine and its number
    of threads: elsewhere two equal networks pass for different.
    """
    torch.manual_seed(0)
    found = hashlib.sha256()
    for name, module in fresh.named_modules():
        kind = type(module)
        found.update(f"{name} {kind.__module__}.{kind.__qualname__} {module.extra_repr()}\n".encode())
    for name, parameter in fresh.named_parameters():
        found.update(f"{name} {tuple(parameter.shape)}\n".encode())
    set_prior = getattr(fresh.head, "set_prior", None)
    if set_prior is not None:
        set_prior([targets], len(x), imgsz)
    fresh.eval()
    with torch.no_grad():
        raw = fresh(x)
        _add_bits(found, [raw, *fresh.decode(as_float(raw))])
    fresh.train()
    for progress in (0.0, 0.5, 1.0):
        fresh.zero_grad()
        losses = fresh.loss(as_float(fresh(x)), targets, progress)
        _add_bits(found, losses)
        sum(losses.values(), start=torch.zeros((), device=compute.device)).backward()
        _add_bits(found, [p.grad for p in fresh.parameters() if p.grad is not None])
    return found.hexdigest()


def _add_bits(found: hashlib._Hash, values: Any) -> None:
    if isinstance(values, Tensor):
        found.update(f"{values.dtype} {tuple(values.shape)}".encode())
        found.update(values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(values, dict):
        for name, value in values.items():
            found.update(str(name).encode())
            _add_bits(found, value)
    else:
        for value in values:
            _add_bits(found, value)


def _noise(imgsz: int, classes: int) -> Dataset:
    """Two images of noise, wider than high, the first with a box of the first class, the other of the last one."""
    height, width = imgsz * 3 // 4, imgsz
    rng = np.random.default_rng(0)
    samples = []
    for place, label in enumerate((0, classes - 1)):
        corner = 8 * place
        box = np.array([[corner, corner, corner + width / 2, corner + height / 2]], np.float32)
        one = np.array([label]), np.zeros(1, np.bool_), np.array([width * height / 4])
        pixels = rng.integers(256, size=(height, width, 3), dtype=np.uint8)
        samples.append(Sample(place + 1, "noise", width, height, box, *one, pixels=pixels))
    return Dataset(tuple(map(str, range(classes))), tuple(range(classes)), tuple(samples), ())


@contextmanager
def _maps_checked(detector: Detector, imgsz: int) -> Iterator[None]:
    """While it lasts, every part's maps are held to the channels and strides that it says: boxes would be off else."""

    def check(part: nn.Module, _: Any, out: Any, group: str) -> None:
        found = [tuple(one.shape[1:]) for one in ([out] if isinstance(out, Tensor) else out)]
        channels: Any = part.out_channels
        strides: Any = part.out_strides
        said = [(c, imgsz // s, imgsz // s) for c, s in zip(channels, strides, strict=True)]
        if found != said:
            raise UserError(
                f"{group} {type(part).__name__}: says out_channels {channels} and out_strides {strides}, so maps of "
                f"{said} at {imgsz} px, but gives {found}"
            )

    handles = [
        getattr(detector, group).register_forward_hook(partial(check, group=group))
        for group in ("stem", "backbone", "neck")
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _check_losses(losses: Any) -> None:
    if not isinstance(losses, dict) or not all(isinstance(loss, Tensor) for loss in losses.values()):
        raise UserError(f"head: loss returns {_kind(losses)}, expected a dict of tensors, each a loss by its name")
    for name, loss in losses.items():
        if loss.ndim:
            raise UserError(f"head: its loss '{name}' has the shape {tuple(loss.shape)}, expected one number")
        if not bool(loss.isfinite()):
            raise UserError(f"head: its loss '{name}' is {loss.item()}, expected a finite number")


def _kind(value: Any) -> str:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else ()
    of = ", ".join(dict.fromkeys(type(one).__name__ for one in inner))
    return f"a {type(value).__name__}{f' of {of}' if of else ''}"


def _check_decoded(detector: Detector, decoded: Any) -> None:
    expected = f"(2, N, 4) and (2, N, {detector.classes})"
    if not isinstance(decoded, (tuple, list)) or [type(one) for one in decoded] != [Tensor, Tensor]:
        raise UserError(f"head: decode returns {_kind(decoded)}, expected boxes and scores of shapes {expected}")
    boxes, scores = decoded
    shapes = f"{tuple(boxes.shape)} and {tuple(scores.shape)}"
    if boxes.shape != (*scores.shape[:2], 4) or scores.shape[::2] != (2, detector.classes):
        raise UserError(f"head: decode returns boxes and scores of shapes {shapes}, expected {expected}")
    if not bool(((scores >= 0) & (scores <= 1)).all()):  # NaN is not within either
        raise UserError(f"head: decode returns scores up to {float(scores.max()):.3g}, expected them within [0, 1]")
