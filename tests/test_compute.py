"""Devices, precisions, and images as the network takes them."""

from __future__ import annotations

import cv2
import pytest
import tiny
import torch

from ablab.compute import as_float, check_size, memory_explained, prepare
from ablab.errors import UserError


def test_threads_are_what_was_granted() -> None:
    prepare(tiny.ENGINE | {"threads": 2})
    assert torch.get_num_threads() == cv2.getNumThreads() == 2
    prepare(tiny.ENGINE)
    assert torch.get_num_threads() == cv2.getNumThreads() == 1
    assert torch.are_deterministic_algorithms_enabled()


def test_precision_of_a_convolution() -> None:
    layer, x = torch.nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 2, 2)
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with prepare(tiny.ENGINE | {"precision": precision}).autocast():
            assert layer(x).dtype == dtype


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("precision", "fp16", "engine.precision=fp16"), ("device", "gpu", "engine.device=gpu.*cpu, cuda")],
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


def test_other_runtime_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes differ"), memory_explained("x"):
        raise RuntimeError("shapes differ")
    with pytest.raises(UserError, match="out of memory with x"), memory_explained("x"):
        raise MemoryError
