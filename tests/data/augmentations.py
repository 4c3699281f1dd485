"""Configurations of conf/augment: all off, and several on."""

from __future__ import annotations

from typing import Any

AMOUNTS: dict[str, dict[str, float]] = {
    "mosaic": {},
    "copy_paste": {},
    "affine": {"scale": 0.3, "translate": 0.1, "degrees": 0.0, "shear": 0.0},
    "hsv": {"h": 0.02, "s": 0.5, "v": 0.4},
    "flip_lr": {},
    "flip_ud": {},
    "mixup": {},
}


def config(**on: float | dict[str, float]) -> dict[str, Any]:
    """Every augmentation off but those named: with a probability, or with keys of its own and p 1 unless given."""
    chosen: dict[str, Any] = {}
    for name, amounts in AMOUNTS.items():
        asked = on.get(name, 0.0)
        keys = {"p": 1.0} | asked if isinstance(asked, dict) else {"p": asked}
        chosen[name] = {"until": 1.0} | amounts | keys
    return chosen


OFF = config()
ON = config(affine=1.0, hsv=1.0, flip_lr=0.5, flip_ud=0.5)
ALL = config(mosaic=0.5, copy_paste=0.5, affine=0.9, hsv=0.9, flip_lr=0.5, flip_ud=0.5, mixup=0.5)
