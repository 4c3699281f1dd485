"""The phases of a schedule as train stages, and when they may stop early."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ablab.errors import UserError


def stages_of(phases: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What each train stage is called, and its phase: `start_epoch` counts the epochs before it.

    A phase with an open end is a stage for every `stage_epochs`, its `part`: a longer one shares those of a shorter.
    What a phase may have besides is told only where it changes something.
    """
    start = 0
    for number, phase in enumerate(phases, 1):
        name = f"phase {number}/{len(phases)}"
        length = phase.get("stage_epochs")
        told = {key: phase[key] for key in ("imgsz", "epochs", "lr")}
        told |= {key: phase[key] for key in ("continues", "scales", "patience") if phase.get(key)}
        if not length:
            yield f"{name}, {phase['epochs']} epochs at {phase['imgsz']} px", told | {"start_epoch": start}
        for part, first in enumerate(range(0, phase["epochs"], length) if length else ()):
            epochs = min(length, phase["epochs"] - first)
            label = f"{name}, epochs {first + 1} to {first + epochs} at {phase['imgsz']} px"
            yield label, told | {"epochs": epochs, "start_epoch": start + first, "part": part}
        start += phase["epochs"]


def refuse_lonely_patience(study: str, config: dict[str, Any]) -> None:
    """Raises UserError for a variant, one of several of the study, whose training may stop early."""
    for phase in config.get("schedule", {}).get("phases", []):
        if phase.get("patience"):
            raise UserError(
                f"schedule: patience={phase['patience']} would let an arm of the study '{study}' stop alone, and "
                "its epochs differ from the others': leave it null here, and stop early with `ablab train`"
            )


def refuse_blind_patience(phase: dict[str, Any], validated: bool) -> None:
    """Raises UserError for a phase that counts validations where there are none."""
    if phase.get("patience") and not validated:
        raise UserError(
            f"schedule: patience={phase['patience']} counts validations, and there are none: it needs "
            "eval.every of at least 1 and data with a split 'val'"
        )
