"""The profile stage hands through the counts and refuses odd sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny

from ablab.errors import UserError
from ablab.models.detector import build
from ablab.profiling import complexity
from ablab.stages import profile

PARTS = ("stem", "backbone", "neck", "head")


def test_numbers(tmp_path: Path) -> None:
    config = tiny.config()
    declared = {key: config[key] for key in PARTS} | {"imgsz": 96}
    numbers = profile.run(declared, {}, tmp_path, tmp_path, lambda _: None)
    assert numbers == complexity.profile(build(config), 96)
    costs = {"thop_macs", "flops", "conv_macs", "params", "params_stored", "size_fp32_mb", "size_fp16_mb"}
    assert set(numbers) == {"imgsz", "elements"} | costs | {f"{cost}_fused" for cost in costs}
    with pytest.raises(UserError, match="imgsz=100"):
        profile.run(declared | {"imgsz": 100}, {}, tmp_path, tmp_path, lambda _: None)
