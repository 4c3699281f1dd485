"""Several processes that train one variant: each takes its share of every batch, and their gradients are summed.

torch.distributed says which of how many this process is (its rank); where nobody joined, it is the only one. Notable:

- Gradients are summed in one flat tensor of always the same layout, so that a resumed training has the same bits.
  torch's DistributedDataParallel sums them while the backward pass still runs, but in buckets that it regroups.
- BatchNorm sees a rank's share alone, as in micro-batches. Rank 0's running statistics are the training's.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

# A rank waits for the others as long as rank 0 validates. gloo notices at once that a rank died, NCCL by this alone.
TIMEOUT = timedelta(minutes=30)


def take_device(rank: int, device: str) -> None:
    """On GPUs, take the one of that number, before the others wait for this process."""
    if device == "cuda":
        torch.cuda.set_device(rank)


def join(rank: int, size: int, device: str, meeting: Path) -> None:
    """Become rank `rank` of `size` processes of this machine, which meet by the file `meeting`. Returns when all have
    joined; `dist.destroy_process_group` leaves."""
    loopback = "lo0" if os.uname().sysname == "Darwin" else "lo"
    os.environ |= {"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback}  # nobody else is to be heard
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, f"file://{meeting}", rank=rank, world_size=size, timeout=TIMEOUT)


def size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def share(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, bool]:
    """This rank's part of a batch (B, 3, S, S) and of its targets (n, 6), in order, as even as can be.

    Where there are fewer images than ranks, a rank that gets none computes the first one, which is not to count: False.
    """
    if size() == 1:
        return images, targets, True
    start, stop = (len(images) * (dist.get_rank() + end) // size() for end in (0, 1))
    counts = start < stop
    if not counts:
        start, stop = 0, 1
    rows = targets[(targets[:, 0] >= start) & (targets[:, 0] < stop)]  # a copy
    rows[:, 0] -= start
    return images[start:stop], rows, counts


def require_equal(number: int, device: torch.device) -> None:
    """Raises RuntimeError unless all ranks have the same number, here the epochs that they resumed after."""
    if size() == 1:
        return
    extremes = torch.tensor([number, -number], device=device)
    dist.all_reduce(extremes, dist.ReduceOp.MAX)
    if extremes[0] != -extremes[1]:
        raise RuntimeError(f"the ranks resumed after different epochs, this one after {number}")


def any_of(flag: bool, device: torch.device) -> bool:
    """Whether it is so on any rank: BatchNorm's statistics, and so what is finite, are each rank's own."""
    if size() == 1:
        return flag
    found = torch.tensor(float(flag), device=device)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return bool(found)


def add_up(tensors: Sequence[Tensor]) -> None:
    """Every tensor, all of one type, becomes the sum of the ranks' own."""
    if size() == 1:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view(tensor.shape))
