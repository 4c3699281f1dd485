"""What the machine decides, settled into the configuration before any fingerprint is taken.

Read from the operating system, without torch: `plan` must know it in a second.
"""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from ablab.errors import UserError, nearest

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "bf16", "fp16", "fp32", "tf32")
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # of processors; the last is ARM's
MOST_THREADS = 1024  # torch ends the process where the system refuses one more


def settle(engine: dict[str, Any]) -> dict[str, Any]:
    """The `engine` group with `auto` and null replaced by what this machine has.

    Threads of a stage: one on a CPU, where stages side by side do more than one on every core; on GPUs, each stage's
    share of the cores. Raises UserError for a device or precision that is none, or a precision that this machine has
    not; on a cluster (`engine.address`), whose nodes are others, a precision asked for by name is taken at its word.
    """
    for key, known in (("device", DEVICES), ("precision", PRECISIONS)):
        if engine[key] not in known:
            raise UserError(f"engine.{key}={engine[key]}: no such {key}. {nearest(engine[key], known)}")
    if not 0 < engine.get("gpu", 1.0) <= 1:
        raise UserError(f"engine.gpu={engine['gpu']}: expected a share of a GPU, above 0 and up to 1")
    device = engine["device"]
    if device == "auto":
        device = "cuda" if _gpu_visible() else "cpu"
    ranks = engine.get("ranks", 1)
    if device == "cuda" and ranks > 1 and engine.get("gpu", 1.0) < 1:
        raise UserError(f"engine.ranks={ranks} with engine.gpu={engine['gpu']}: each rank takes a whole GPU, 1.0")
    if device == "cuda" and ranks > max(gpus(), 1) and not engine.get("address"):
        raise UserError(f"engine.ranks={ranks}: this machine has {gpus()} GPUs, and each rank takes one")
    precision = engine["precision"]
    found = _precisions(device)
    if precision == "auto":
        precision = "bf16" if "bf16" in found else "fp32"
    elif found and precision not in found and not engine.get("address"):
        what = f"this processor ({_processor_name()})" if device == "cpu" else "a GPU of this machine"
        raise UserError(f"engine.precision={precision}: {what} does not train in it; it has {', '.join(found)}")
    threads = engine["threads"]
    if threads is None:
        threads = 1
        if device != "cpu":
            threads = max(1, cores() // (at_once(engine | {"device": device}) * engine.get("ranks", 1)))
    if type(threads) is not int or not 1 <= threads <= MOST_THREADS:
        raise UserError(f"engine.threads={threads}: expected a whole number from 1 to {MOST_THREADS}, or null")
    return engine | {"device": device, "precision": precision, "threads": threads}


@cache
def cores() -> int:
    """Cores that this process may use, which in a container are fewer than the machine has."""
    most = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(most, int(quota) // int(period)))
    except (OSError, ValueError):  # no such group, or "max"
        return most


def at_once(engine: dict[str, Any]) -> int:
    """How many stages of a settled `engine` group this machine can run side by side."""
    if engine["device"] == "cuda":
        return max(1, int(gpus() / engine.get("gpu", 1.0) / engine.get("ranks", 1)))
    return max(1, cores() // (engine["threads"] * engine.get("ranks", 1)))


def gpus() -> int:
    """GPUs of NVIDIA's that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def free_memory() -> float:
    """Bytes that this process may still take: what the machine has available, or its container's limit."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        pages = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        free = 1024.0 * pages["MemAvailable"]
    except (OSError, ValueError, KeyError, IndexError):  # not Linux: half of all there is, which errs low
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2 if hasattr(os, "sysconf") else 2.0**31
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
    except (OSError, ValueError):  # no such group, or "max"
        return free
    with suppress(OSError, ValueError, StopIteration):  # `current` counts cached files, which the system gives up
        lines = (group / "memory.stat").read_text().splitlines()
        limit += next(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
    return min(free, limit)


class PeakMemory:
    """The most resident memory that this process had since this was made, or a child of it that ended since."""

    def __init__(self) -> None:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # count from here on
        self._children = _most_resident_mb(resource.RUSAGE_CHILDREN)

    @property
    def mb(self) -> float:
        """In MB (10^6 bytes). A child counts if none before it had more: the system tells the most of all."""
        own = _most_resident_mb(resource.RUSAGE_SELF)
        with suppress(OSError, StopIteration, ValueError):
            lines = Path("/proc/self/status").read_text().splitlines()
            own = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6
        children = _most_resident_mb(resource.RUSAGE_CHILDREN)
        return round(max(own, children if children > self._children else 0.0), 1)


def _most_resident_mb(who: int) -> float:
    return resource.getrusage(who).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e6 / 1024)


def host() -> dict[str, str]:
    """What a record says about the machine that made it."""
    return {
        "machine": platform.node(),
        "processor": _processor_name(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


@cache
def _gpu_visible() -> bool:
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    return Path("/dev/nvidiactl").exists()


@cache
def _cpuinfo() -> str:
    file = Path("/proc/cpuinfo")
    return file.read_text().partition("\n\n")[0] if file.is_file() else ""


def _precisions(device: str) -> list[str]:
    """What the processor, or every GPU, computes in natively; empty for GPUs that cannot be asked.

    No processor has fp16, whatever its flags say: torch 2.14's backward convolutions take hundreds of times as long.
    """
    if device == "cpu":
        return ["bf16", "fp32"] if BF16_FLAGS & set(_cpuinfo().split()) else ["fp32"]
    capability = _compute_capability()
    if capability is None:
        return []
    return ["bf16", "fp16", "tf32", "fp32"] if capability >= 8.0 else ["fp16", "fp32"]


@cache
def _compute_capability() -> float | None:
    """The lowest among the GPUs here; Ampere, the first with bf16 and TF32, has 8.0. None where nobody tells."""
    words = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        told = subprocess.run(words, capture_output=True, text=True, check=True, timeout=30).stdout
        return min(float(line) for line in told.split())
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


@cache
def _processor_name() -> str:
    for line in _cpuinfo().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def git_state() -> dict[str, Any]:
    """Commit and dirtiness of the repository around the working folder; empty where there is none."""
    try:
        run = lambda *words: subprocess.run(  # noqa: E731
            ["git", *words], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        return {"commit": run("rev-parse", "HEAD"), "dirty": bool(run("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return {}
