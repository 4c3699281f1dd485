"""Where a stage computes and in what precision: device, threads, autocast, images as a network takes them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import threadpoolctl
import torch
from torch import Tensor, nn

from ablab.errors import OutOfMemoryError, UserError, nearest

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
# How libraries that have no exception of their own for it say that memory ran out.
OUT_OF_MEMORY = ("allocate memory", "not enough memory", "out of memory", "insufficient memory", "alloc_failed")


@dataclass(frozen=True)
class Compute:
    """A device and a precision ("bf16": autocast, or "fp32")."""

    device: torch.device
    precision: str

    def autocast(self) -> torch.autocast:
        """bf16 for what is safe in bf16; nothing at all in fp32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def place(self, module: nn.Module) -> None:
        """Move a module to the device, its kernels channels-last: up to 1.4 times faster on a CPU."""
        module.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def network_input(self, images: Tensor, preprocess: dict[str, Any]) -> Tensor:
        """uint8 images (B, 3, S, S) to (x - mean) / std, float32, on the device."""
        x = images.to(self.device, non_blocking=True).to(torch.float32, memory_format=torch.channels_last)
        mean, std = (
            torch.tensor(preprocess[key], dtype=torch.float32, device=self.device).view(1, -1, 1, 1)
            for key in ("mean", "std")
        )
        return x.sub_(mean).div_(std)


def prepare(engine: dict[str, Any]) -> Compute:
    """Limit all of this process (torch, OpenCV, BLAS, OpenMP, hotcoco) to `engine.threads`, and make it deterministic
    where the device can be.

    Raises UserError for a device that is not there or a precision that is none.
    """
    import cv2

    device, precision, threads = engine["device"], engine["precision"], engine["threads"]
    if precision not in ("bf16", "fp32"):
        raise UserError(f"engine.precision={precision}: no such precision. {nearest(precision, ('bf16', 'fp32'))}")
    if device not in ("cpu", "cuda"):
        raise UserError(f"engine.device={device}: no such device. {nearest(device, ('cpu', 'cuda'))}")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("engine.device=cuda: torch sees no GPU here; engine.device=cpu works")
    # Libraries that are loaded later read these. hotcoco's Rust threads (rayon) are started at its first evaluation.
    os.environ |= dict.fromkeys(THREADS, str(threads))
    threadpoolctl.threadpool_limits(threads)  # of those loaded already
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    # On a GPU a few backward kernels have no deterministic form: there it warns instead of failing.
    torch.use_deterministic_algorithms(True, warn_only=device != "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return Compute(torch.device(device), precision)


def as_float(raw: Any) -> Any:
    """Raw predictions (a tensor, or lists and dicts of them) in float32: losses and decoding are not for
    bf16."""
    if isinstance(raw, Tensor):
        return raw.float()
    if isinstance(raw, dict):
        return {key: as_float(value) for key, value in raw.items()}
    return type(raw)(as_float(value) for value in raw)


def check_size(imgsz: int, max_stride: int) -> None:
    """Raises UserError unless `imgsz` px is a positive multiple of the network's largest stride."""
    if imgsz < max_stride or imgsz % max_stride:
        near = max(round(imgsz / max_stride), 1) * max_stride
        raise UserError(f"imgsz={imgsz}: not a multiple of {max_stride}, the largest stride of this network; {near} is")


@contextmanager
def memory_explained(what: str) -> Iterator[None]:
    """Out of memory, whoever ran out of it, becomes an OutOfMemoryError that names what was asked for."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if _out_of_memory(error):
            raise OutOfMemoryError(f"out of memory with {what}; smaller numbers need less") from error
        raise


def _out_of_memory(error: Exception) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):  # numpy's is a MemoryError
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    # torch's on a CPU, cuBLAS's and cuDNN's are RuntimeErrors, OpenCV's is a cv2.error.
    library = isinstance(error, RuntimeError) or type(error).__module__.startswith(("cv2", "torch"))
    return library and any(words in str(error).lower() for words in OUT_OF_MEMORY)
