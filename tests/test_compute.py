"""Devices, precisions, and images as the network takes them."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny
import torch

from ablab import machine
from ablab.compute import as_float, check_size, memory_explained, prepare
from ablab.errors import OutOfMemoryError, UserError


def test_threads_are_what_was_granted() -> None:
    prepare(tiny.ENGINE | {"threads": 2})
    assert torch.get_num_threads() == cv2.getNumThreads() == 2
    prepare(tiny.ENGINE)
    assert torch.get_num_threads() == cv2.getNumThreads() == 1
    assert torch.are_deterministic_algorithms_enabled()


EVERYTHING_LOADED = """
import json, os, sys
import numpy, scipy.linalg, sklearn.datasets, torch, cv2, threadpoolctl
from ablab.compute import prepare
from ablab.evaluation import ap

def pools():
    known = threadpoolctl.threadpool_info()
    return {f"{pool['internal_api']} {pool['filepath']}": pool["num_threads"] for pool in known}

before = pools()
prepare({"device": "cpu", "precision": "fp32", "threads": 1})
numpy.ones((300, 300)) @ numpy.ones((300, 300))
threads = set(os.listdir("/proc/self/task"))
box = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9]}
truth = {"images": [{"id": 1, "width": 9, "height": 9}], "categories": [{"id": 1, "name": "a"}],
         "annotations": [box | {"id": 1, "area": 81, "iscrowd": 0}]}
ap.evaluate(truth, [box | {"score": 0.5}])
print(json.dumps({"before": before, "after": pools(), "torch": torch.get_num_threads(), "cv2": cv2.getNumThreads(),
                  "hotcoco": len(set(os.listdir("/proc/self/task")) - threads)}))
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads as Linux shows them")
def test_every_library_of_a_worker_has_the_threads_it_was_granted() -> None:
    several = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), "2")
    child = subprocess.run(
        [sys.executable, "-c", EVERYTHING_LOADED], env=os.environ | several, capture_output=True, text=True, check=True
    )
    found = json.loads(child.stdout)
    assert {"openblas", "openmp"} <= {pool.split()[0] for pool in found["before"]}
    assert set(found["before"].values()) == {2}
    assert set(found["after"].values()) == {found["torch"]} == {found["cv2"]} == {found["hotcoco"]} == {1}


def test_precision_of_a_convolution() -> None:
    layer, x = torch.nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 2, 2)
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with prepare(tiny.ENGINE | {"precision": precision}).autocast():
            assert layer(x).dtype == dtype


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("precision", "fp8", "engine.precision=fp8.*fp16"), ("device", "gpu", "engine.device=gpu.*cpu, cuda")],
)
def test_unknown_choices(key: str, value: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        prepare(tiny.ENGINE | {key: value})


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="torch sees no GPU here"):
        prepare(tiny.ENGINE | {"device": "cuda"})


def test_network_input_by_hand() -> None:
    images = torch.arange(24, dtype=torch.uint8).view(1, 2, 4, 3).permute(0, 3, 1, 2)
    x = prepare(tiny.ENGINE).network_input(images, {"mean": [0.0, 1.0, 2.0], "std": [1.0, 2.0, 4.0]})
    assert x.dtype == torch.float32
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert x[0, :, 1, 3].tolist() == [21.0, 10.5, 5.25]  # 21, 22, 23
    assert images[0, 0, 1, 3] == 21


def test_channels_that_share_mean_and_std_take_the_short_way_to_the_same_bits() -> None:
    images = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4)
    equal = prepare(tiny.ENGINE).network_input(images, {"mean": [3.0] * 3, "std": [58.4] * 3})
    assert torch.equal(equal, (images.float() - torch.full((1, 3, 1, 1), 3.0)) / torch.full((1, 3, 1, 1), 58.4))


CUDA = {"device": "cuda", "precision": "auto", "threads": 1, "gpu": 1.0}


@pytest.mark.parametrize(
    ("capability", "auto", "has"),
    [(7.5, "fp32", "fp16, fp32"), (8.6, "bf16", "bf16, fp16, tf32, fp32"), (None, "fp32", "")],
)
def test_precisions_of_gpus(capability: float | None, auto: str, has: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_compute_capability", lambda: capability)
    assert machine.settle(CUDA)["precision"] == auto
    for name in ("bf16", "fp16", "tf32", "fp32"):
        if not has or name in has:  # what nobody can tell here is the stage's own to find out
            assert machine.settle(CUDA | {"precision": name})["precision"] == name
        else:
            with pytest.raises(UserError, match=f"engine.precision={name}: .* it has {has}"):
                machine.settle(CUDA | {"precision": name})


def test_the_lowest_capability_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nprintf '8.6\\n7.5\\n'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine._compute_capability.__wrapped__() == 7.5
    program.write_text("#!/bin/sh\necho No devices were found\nexit 6\n")
    assert machine._compute_capability.__wrapped__() is None
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert machine._compute_capability.__wrapped__() is None


def test_raw_predictions_keep_their_structure() -> None:
    half = torch.ones(2, dtype=torch.bfloat16)
    raw = as_float([half, (half, {"a": half})])
    assert raw[0].dtype == raw[1][0].dtype == raw[1][1]["a"].dtype == torch.float32
    assert isinstance(raw[1], tuple)


def test_sizes() -> None:
    check_size(64, 32)
    for size in (0, -32, 40, 16):
        with pytest.raises(UserError, match=f"imgsz={size}: not a multiple of 32"):
            check_size(size, 32)


def test_other_errors_stay_what_they_are() -> None:
    for error in (RuntimeError("shapes differ"), OSError(errno.ENOSPC, "full"), KeyError("out of memory")):
        with pytest.raises(type(error)) as raised, memory_explained("x"):
            raise error
        assert raised.value is error
    with pytest.raises(UserError, match="no such thing") as told, memory_explained("x"):
        raise UserError("no such thing: out of memory")
    assert type(told.value) is UserError


def no_memory() -> None:
    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


@pytest.mark.parametrize(
    "ask",
    [
        lambda: torch.empty(2**62, dtype=torch.uint8),
        lambda: np.empty(2**60, np.uint8),
        lambda: cv2.resize(np.zeros((9, 9, 3), np.uint8), (2**20, 2**22)),
        lambda: bytearray(2**62),
        no_memory,
    ],
    ids=["torch", "numpy", "OpenCV", "Python", "the system"],
)
def test_out_of_memory_is_told_whoever_ran_out_of_it(ask: Callable[[], object]) -> None:
    with pytest.raises(OutOfMemoryError, match="out of memory with batch=8; smaller"), memory_explained("batch=8"):
        ask()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: not enough memory: you tried to ..."),
    ],
)
def test_messages_of_machines_that_are_not_here(error: Exception) -> None:
    with pytest.raises(OutOfMemoryError), memory_explained("x"):
        raise error
