"""Where a stage computes and in what precision: device, threads, autocast, images as a network takes them."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import threadpoolctl
import torch
from torch import Tensor, nn

from ablab.errors import OutOfMemoryError, UserError, nearest
from ablab.machine import PRECISIONS

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
# How libraries that have no exception of their own for it say that memory ran out.
OUT_OF_MEMORY = ("allocate memory", "not enough memory", "out of memory", "insufficient memory", "alloc_failed")


@dataclass(frozen=True)
class Compute:
    """A device and a precision: bf16 or fp16 (autocast; weights stay fp32), fp32, or tf32 (CUDA alone)."""

    device: torch.device
    precision: str
    compile: bool = False

    def autocast(self) -> torch.autocast:
        """bf16 or fp16 for what is safe in it; nothing at all in fp32 and tf32."""
        dtype = HALF.get(self.precision, torch.bfloat16)
        return torch.autocast(self.device.type, dtype, enabled=self.precision in HALF)

    def scaler(self) -> torch.amp.GradScaler:
        """Keeps gradients within what fp16 can hold (Micikevicius et al. 2018); scales by 1 in other precisions."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

    def place(self, module: nn.Module) -> None:
        """Move a module to the device, its kernels channels-last: up to 1.4 times faster on a CPU."""
        module.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def compiled(self, detector: nn.Module) -> Any:
        """The detector, its forward pass compiled by torch where `engine.compile` asks for it."""
        return torch.compile(detector) if self.compile else detector

    def ahead(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The batches (named tuples with `images` and `targets`), on a GPU each copied there while the one before it is
        computed: from pinned memory, in a stream of its own."""
        if self.device.type != "cuda":
            yield from batches
            return
        stream = torch.cuda.Stream()
        waiting: tuple[Any, torch.cuda.Event] | None = None
        for batch in batches:
            with torch.cuda.stream(stream):
                copied = {
                    name: getattr(batch, name).pin_memory().to(self.device, non_blocking=True)
                    for name in ("images", "targets")
                }
                coming = batch._replace(**copied), stream.record_event()
            if waiting:
                yield _arrived(*waiting)
            waiting = coming
        if waiting:
            yield _arrived(*waiting)

    def network_input(self, images: Tensor, preprocess: dict[str, Any]) -> Tensor:
        """uint8 images (B, 3, S, S) to (x - mean) / std, float32, on the device."""
        x = images.to(self.device, non_blocking=True).to(torch.float32, memory_format=torch.channels_last)
        mean, std = (self._channels(preprocess[key]) for key in ("mean", "std"))
        if isinstance(mean, Tensor) or mean:
            x = x.sub_(mean)
        return x.div_(std)

    def _channels(self, values: list[float]) -> Any:
        """One number where all channels share it, to the same bits: over three channels a CPU takes three times as
        long; else (1, 3, 1, 1)."""
        if len(set(values)) == 1:
            return values[0]
        return torch.tensor(values, dtype=torch.float32, device=self.device).view(1, -1, 1, 1)


def prepare(engine: dict[str, Any]) -> Compute:
    """Limit all of this process (torch, OpenCV, BLAS, OpenMP, hotcoco) to `engine.threads`, and make it deterministic
    where the device can be.

    fp32 is IEEE's on a GPU too, where torch by itself takes TF32 for convolutions: that is tf32 here. Raises UserError
    for a device that is not there, or a precision that is none or that the GPU has not.
    """
    import cv2

    device, precision, threads = engine["device"], engine["precision"], engine["threads"]
    known = [name for name in PRECISIONS if name != "auto"]  # that is settled
    if precision not in known:
        raise UserError(f"engine.precision={precision}: no such precision. {nearest(precision, known)}")
    if device not in ("cpu", "cuda"):
        raise UserError(f"engine.device={device}: no such device. {nearest(device, ('cpu', 'cuda'))}")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("engine.device=cuda: torch sees no GPU here; engine.device=cpu works")
    if device == "cuda":
        if precision in ("bf16", "tf32") and not torch.cuda.is_bf16_supported(including_emulation=False):
            name = torch.cuda.get_device_name()
            raise UserError(f"engine.precision={precision}: the {name} here does not compute in it; it has fp16, fp32")
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    # Libraries that are loaded later read these. hotcoco's Rust threads (rayon) are started at its first evaluation.
    os.environ |= dict.fromkeys(THREADS, str(threads))
    threadpoolctl.threadpool_limits(threads)  # of those loaded already
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    # On a GPU a few backward kernels have no deterministic form: there it warns instead of failing.
    torch.use_deterministic_algorithms(True, warn_only=device != "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    compile = engine.get("compile", False)
    if compile and shutil.which(os.environ.get("CXX", "g++")) is None:
        raise UserError("engine.compile=true: torch compiles with g++ (or $CXX), which is not there")
    return Compute(torch.device(device), precision, compile)


def workers(engine: dict[str, Any]) -> int:
    """How many threads make batches ahead of a settled engine's training: none on a CPU, whose every thread trains."""
    return 0 if engine["device"] == "cpu" else min(engine["threads"], 8)


def _arrived(batch: Any, copied: torch.cuda.Event) -> Any:
    """A batch that was copied in another stream, for use in this one."""
    stream = torch.cuda.current_stream()
    stream.wait_event(copied)
    for tensor in (batch.images, batch.targets):
        tensor.record_stream(stream)  # its memory is not another's before this stream is done with it
    return batch


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
